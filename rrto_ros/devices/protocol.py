"""The protocol that every server-side device implements, and the values it exchanges.

One device object serves one session and lives in that session's worker process. The executor
calls it with operations already decoded and bounds-checked as far as the wire allows; handles
(streams, events, modules, graphs) are the robot's names, never device pointers. A device raises
`CudaError` with the CUresult the program must see. It may execute at once or asynchronously; what
CUDA orders must stay ordered, and `stream_synchronize`/`ctx_synchronize` wait for everything
before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rrto_ros.api.info import DeviceInfo as DeviceInfo
from rrto_ros.api.info import GlobalInfo as GlobalInfo
from rrto_ros.api.info import KernelInfo as KernelInfo
from rrto_ros.api.info import ModuleInfo as ModuleInfo
from rrto_ros.api.results import CUresult
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import CudaError


@dataclass(frozen=True)
class Launch:
    """One kernel launch: kernel index in its module, geometry, packed argument bytes."""

    module: int
    kernel: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    params: bytes
    cooperative: bool = False


@dataclass(frozen=True)
class MemcpyNode:
    """A device-to-device copy inside a graph."""

    dst: int
    src: int
    bytes: int


@dataclass(frozen=True)
class MemsetNode:
    """A fill inside a graph: `height` rows of `width` elements of `element_bytes` (1, 2, 4)."""

    dst: int
    pitch: int
    value: int
    element_bytes: int
    width: int
    height: int


def check_fill(fill: MemsetNode) -> int:
    """Bytes from the first to the last that a fill writes, 0 for none (INVALID_VALUE)."""
    width = fill.element_bytes
    row = fill.width * width
    if (
        width not in (1, 2, 4)
        or fill.dst % width
        or fill.width < 0
        or fill.height < 0
        or (fill.height > 1 and (fill.pitch < row or fill.pitch % width))
    ):
        raise CudaError(CUresult.INVALID_VALUE, f"bad fill {fill}")
    if row == 0 or fill.height == 0:
        return 0
    return fill.pitch * (fill.height - 1) + row


GraphNode = Launch | MemcpyNode | MemsetNode | None
"""What a graph node does; None is an empty node."""


SegmentWork = Launch | MemcpyNode | MemsetNode
"""What a call of a segment does."""


@dataclass(frozen=True)
class SegmentCall:
    """One call of a segment.

    Attributes:
        work: What it does.
        stream: In which stream.
        note: What `page` holds behind the index while it runs (see `Segment.run`).
    """

    work: SegmentWork
    stream: int
    note: bytes = b""


class Segment(Protocol):
    """Calls that are made again and again in the same order, prepared by a device.

    Attributes:
        position: The call that failed, after `run` raised.
    """

    position: int

    def run(
        self, first: int, last: int, changed: Mapping[int, SegmentCall], index: int, page: int
    ) -> None:
        """Execute calls `first` to before `last` as if each were made by itself.

        Args:
            first: The first of them.
            last: The one after them.
            changed: Calls as they are from now on, where their arguments vary.
            index: The session's number of call `first`.
            page: Address of memory that says which call runs, if this process should end in it:
                its index (u64), then its note. 0: not wanted. A device where a call cannot end
                the process need not write it.

        Raises:
            CudaError: What a call raised; those after it were not executed.
        """


@runtime_checkable
class SegmentDevice(Protocol):
    """What a device may offer besides."""

    def prepare_segment(self, calls: Sequence[SegmentCall]) -> Segment:
        """Get ready to run these calls many times; nothing is checked or executed yet."""


@runtime_checkable
class PrintingDevice(Protocol):
    """What a device may offer besides: what kernels printed."""

    def take_output(self) -> tuple[bytes, bytes]:
        """What they printed since the last time, for the program's output and error output."""


@runtime_checkable
class NumberedDevice(Protocol):
    """What a device may offer besides: it names calls by the session's numbers."""

    def call_comes(self, index: int) -> None:
        """The session's number of the call that is made next."""


class Checkpoint(Protocol):
    """Copies of memory that a device holds."""

    @property
    def bytes(self) -> int:
        """Bytes copied."""


@runtime_checkable
class CheckpointDevice(Protocol):
    """What a device may offer besides: checkpoints of its memory that never leave it."""

    def checkpoint(self, ranges: Iterable[tuple[int, int]], stream: int) -> Checkpoint:
        """Copy ranges (first address, bytes) as they are after everything so far.

        Raises:
            CudaError: A range is not allocated, or there is no memory for the copies.
        """

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put memory back as it was, behind everything so far, and free the copies.

        Raises:
            CudaError: The device failed.
        """

    def release(self, checkpoint: Checkpoint) -> None:
        """Free the copies."""


@runtime_checkable
class Device(Protocol):
    """A CUDA device for one session."""

    @property
    def info(self) -> DeviceInfo: ...

    def close(self) -> None: ...

    def statistics(self) -> Mapping[str, int | float | str]: ...

    # modules
    def module_load(self, module: int, image: bytes) -> ModuleInfo: ...

    def kernel_load(self, module: int, kernel: int) -> KernelInfo: ...

    def module_unload(self, module: int) -> None: ...

    def function_set_attribute(
        self, module: int, kernel: int, attribute: int, value: int
    ) -> None: ...

    # memory (addresses are inside the arena or inside a module's globals)
    def mem_alloc(self, address: int, size: int, stream: int) -> None: ...

    def mem_free(self, address: int, stream: int) -> None: ...

    # memory without an address, mapped at addresses that no allocation has; `devices/mappings.py`
    def mem_create(self, handle: int, size: int) -> None: ...

    def mem_release(self, handle: int) -> None: ...

    def mem_map(self, address: int, size: int, handle: int) -> None: ...

    def mem_unmap(self, address: int, size: int) -> None: ...

    def mem_access(self, address: int, size: int, flags: int) -> None: ...

    def memcpy_htod(self, dst: int, data: bytes | memoryview, stream: int) -> None: ...

    def memcpy_dtoh(self, src: int, size: int, stream: int) -> bytes | memoryview: ...

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None: ...

    def memset(self, fill: MemsetNode, stream: int) -> None: ...

    # textures: what kernels read by a number that is no address; the device says which
    def texture_create(self, texture: int, what: Texture) -> int: ...

    def texture_destroy(self, texture: int) -> None: ...

    # execution
    def launch(self, launch: Launch, stream: int) -> None: ...

    def ctx_synchronize(self) -> None: ...

    # streams and events
    def stream_create(self, stream: int, flags: int, priority: int) -> None: ...

    def stream_destroy(self, stream: int) -> None: ...

    def stream_synchronize(self, stream: int) -> None: ...

    def stream_query(self, stream: int) -> bool: ...

    def stream_wait_event(self, stream: int, event: int, flags: int) -> None: ...

    def event_create(self, event: int, flags: int) -> None: ...

    def event_destroy(self, event: int) -> None: ...

    def event_record(self, event: int, stream: int) -> None: ...

    def event_synchronize(self, event: int) -> None: ...

    def event_query(self, event: int) -> bool: ...

    def event_elapsed_ms(self, start: int, end: int) -> float: ...

    # graphs, built node by node
    def graph_create(self, graph: int) -> None: ...

    def graph_destroy(self, graph: int) -> None: ...

    def graph_add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None: ...

    def graph_instantiate(self, graph_exec: int, graph: int) -> None: ...

    def graph_exec_destroy(self, graph_exec: int) -> None: ...

    def graph_exec_node_set(self, graph_exec: int, node: int, work: GraphNode) -> None: ...

    def graph_launch(self, graph_exec: int, stream: int) -> None: ...
