"""Copies between the worker's memory and the GPU, through pinned buffers.

Uploads: the content is put into a ring of pinned memory and copied from there, so that the caller
may reuse its buffer at once while copy and kernels overlap. A part of the ring is used again when
the event behind its copy is reached. Downloads: large ones come in pieces through two halves of
a pinned buffer, one being filled while the other is emptied.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.gpu.waiting import Waiter

UPLOAD_BYTES = 16 << 20
DOWNLOAD_BYTES = 8 << 20
_ALIGNMENT = 256
_NO_TIMING = 2
_MOST_PENDING = 128


class _Pinned:
    """A block of page-locked memory, got when it is first needed."""

    def __init__(self, driver: Driver, size: int) -> None:
        self._driver = driver
        self.size = size
        self.address = 0
        self.view = memoryview(b"")

    def open(self) -> None:
        if self.address:
            return
        self.address = int(self._driver.call("cuMemHostAlloc", self.size, 0))
        array = (ctypes.c_ubyte * self.size).from_address(self.address)
        self.view = memoryview(array).cast("B")

    def close(self) -> None:
        if self.address:
            self.view.release()
            self.view = memoryview(b"")
            self._driver.call_anyway("cuMemFreeHost", self.address)
        self.address = 0


class Uploads:
    """The ring of content on its way to the GPU.

    Args:
        driver: With a current context.
        waiter: Waits for a part of the ring to be free.
        size: Bytes of the ring; larger contents go in pieces of a quarter of it.

    Attributes:
        stalls: How often an upload waited for a part of the ring.
    """

    def __init__(self, driver: Driver, waiter: Waiter, size: int = UPLOAD_BYTES) -> None:
        self._driver = driver
        self._waiter = waiter
        self._ring = _Pinned(driver, size)
        self._piece = size // 4
        self._head = 0
        self._pending: deque[tuple[int, int, Any]] = deque()
        self._events: list[Any] = []
        self.stalls = 0

    def copy(self, dst: int, data: memoryview, stream: Any) -> None:
        """Copy `data` to device address `dst`, in the order of a stream.

        Raises:
            CudaError: The driver refused, or an earlier failure came to light.
        """
        self._ring.open()
        pointer = self._driver.module.CUdeviceptr
        for at in range(0, len(data), self._piece):
            part = data[at : at + self._piece]
            size = len(part)
            if len(self._pending) >= _MOST_PENDING:
                self._free_oldest()
            start = self._take(size)
            self._ring.view[start : start + size] = part
            self._driver.call(
                "cuMemcpyHtoDAsync", pointer(dst + at), self._ring.address + start, size, stream
            )
            event = self._events.pop() if self._events else None
            if event is None:
                event = self._driver.call("cuEventCreate", _NO_TIMING)
            self._driver.call("cuEventRecord", event, stream)
            self._pending.append((start, start + size, event))

    def close(self) -> None:
        for event in [*self._events, *(event for _, _, event in self._pending)]:
            self._driver.call_anyway("cuEventDestroy", event)
        self._events.clear()
        self._pending.clear()
        self._ring.close()

    def _take(self, size: int) -> int:
        """Where `size` bytes of the ring are free now."""
        start = -(-self._head // _ALIGNMENT) * _ALIGNMENT
        if start + size > self._ring.size:
            # The end of the ring stays empty; what lies there is older than what follows.
            while self._pending and self._pending[0][0] >= self._head:
                self._free_oldest()
            start = 0
        while (
            self._pending and self._pending[0][0] < start + size and (self._pending[0][1] > start)
        ):
            self._free_oldest()
        self._head = start + size
        return start

    def _free_oldest(self) -> None:
        _, _, event = self._pending[0]
        if not self._driver.ready("cuEventQuery", event):
            self.stalls += 1
            self._waiter.event(event)
        self._pending.popleft()
        self._events.append(event)


class Downloads:
    """Copies from the GPU, complete when they return.

    Args:
        driver: With a current context.
        waiter: Waits for the copies.
        size: Bytes of the pinned buffer; larger contents come in halves of it.
    """

    def __init__(self, driver: Driver, waiter: Waiter, size: int = DOWNLOAD_BYTES) -> None:
        self._driver = driver
        self._waiter = waiter
        self._buffer = _Pinned(driver, size)
        self._half = size // 2
        self._events: tuple[Any, Any] | None = None

    def copy(self, src: int, size: int, stream: Any) -> bytes | bytearray:
        """What lies at device address `src` when everything before in the stream is done.

        Raises:
            CudaError: The driver refused, or an earlier failure came to light.
        """
        self._buffer.open()
        half = self._half
        if size <= half:
            self._start(src, 0, size, stream)
            self._waiter.stream(stream)
            return bytes(self._buffer.view[:size])
        out = bytearray(size)
        if self._events is None:
            create = self._driver.call
            self._events = (
                create("cuEventCreate", _NO_TIMING),
                create("cuEventCreate", _NO_TIMING),
            )
        pieces = range(0, size, half)
        for number, at in enumerate(pieces):
            side = number % 2
            self._start(src + at, side * half, min(half, size - at), stream)
            self._driver.call("cuEventRecord", self._events[side], stream)
            if number:
                self._collect(out, number - 1, size)
        self._collect(out, len(pieces) - 1, size)
        return out

    def close(self) -> None:
        for event in self._events or ():
            self._driver.call_anyway("cuEventDestroy", event)
        self._events = None
        self._buffer.close()

    def _start(self, src: int, at: int, size: int, stream: Any) -> None:
        self._driver.call(
            "cuMemcpyDtoHAsync",
            self._buffer.address + at,
            self._driver.module.CUdeviceptr(src),
            size,
            stream,
        )

    def _collect(self, out: bytearray, number: int, size: int) -> None:
        assert self._events is not None
        side, at = number % 2, number * self._half
        count = min(self._half, size - at)
        self._waiter.event(self._events[side])
        out[at : at + count] = self._buffer.view[side * self._half : side * self._half + count]
