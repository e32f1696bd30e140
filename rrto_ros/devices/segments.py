"""What segments of any device share: making one of their calls by itself."""

from __future__ import annotations

from typing import Protocol

from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode, SegmentCall


class Maker(Protocol):
    """The device, as far as calls of a segment need it; see `protocol.Device`."""

    def launch(self, launch: Launch, stream: int) -> None: ...

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None: ...

    def memset(self, fill: MemsetNode, stream: int) -> None: ...


def make_call(device: Maker, call: SegmentCall) -> None:
    """Make a call as the program would.

    Raises:
        CudaError: As the device refuses it.
    """
    work = call.work
    if isinstance(work, Launch):
        device.launch(work, call.stream)
    elif isinstance(work, MemcpyNode):
        device.memcpy_dtod(work.dst, work.src, work.bytes, call.stream)
    else:
        device.memset(work, call.stream)
