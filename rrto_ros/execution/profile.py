"""What the calls of an inference cost and touch, found while a session executes them.

A graph launch is looked at node by node. Each call is timed with the device idle before and after
it, so that on a device with a queue the times hold what a launch costs alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

from rrto_ros.api.ops import Kind, Work
from rrto_ros.devices.protocol import Device, MemcpyNode
from rrto_ros.execution.access_ranges import AccessRanges, Node
from rrto_ros.execution.coverage import covered
from rrto_ros.execution.dispatch import Handler, fill_of, launch_of
from rrto_ros.wire.accesses import Range, named
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.format import Buffer

_Run = Callable[[], Buffer | None]


@dataclass(slots=True)
class Piece:
    """A call, or a node of a graph that it launches.

    Attributes:
        call: Place of the call in the inference.
        kind: The operation's kind.
        name: The kernel's name, or the operation's.
        reads: Ranges that it may read; None: any memory.
        writes: Ranges that it may write; None: any memory.
        covers: Ranges that it writes for certain, whole.
        uploaded: Bytes that it brings from the program.
        constant: Whether they were the same each time, and it was executed more than once.
        seconds: Of each execution.
    """

    call: int
    kind: Kind
    name: str
    reads: tuple[Range, ...] | None
    writes: tuple[Range, ...] | None
    covers: tuple[Range, ...]
    uploaded: int = 0
    constant: bool = False
    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """Median seconds, without the first time, in which much is made ready; 0 if never run."""
        usual = sorted(self.seconds[1:] or self.seconds)
        return usual[len(usual) // 2] if usual else 0.0


class Profiler:
    """Of one plan of a session. Not thread-safe.

    Args:
        device: The session's.
        handlers: Of its operations.
        ranges: What its calls touch.
        kernel_name: Of a module's handle and the kernel's number in it.
    """

    def __init__(
        self,
        device: Device,
        handlers: dict[int, Handler],
        ranges: AccessRanges,
        kernel_name: Callable[[int, int], str],
    ) -> None:
        self._device = device
        self._handlers = handlers
        self._ranges = ranges
        self._kernel_name = kernel_name
        self._pieces: dict[int, list[Piece]] = {}
        self._uploads: dict[int, bytes] = {}

    @property
    def pieces(self) -> list[Piece]:
        """What was executed so far, in order."""
        return [piece for call in sorted(self._pieces) for piece in self._pieces[call]]

    def execute(self, call: int, record: CallRecord) -> Buffer:
        """Execute a call of the inference, as a session does, and note what it costs.

        Args:
            call: Its place in the inference.
            record: The call. At its first time what it touches is found, too.

        Returns:
            The data of its result.

        Raises:
            CudaError: As the device says.
        """
        runs = self._runs(record)
        if record.payload is not None:
            self._compare(call, record.payload)
        if call not in self._pieces:
            self._pieces[call] = [self._touched(call, record, node, run) for node, run in runs]
        data: Buffer | None = b""
        for piece, (_, run) in zip(self._pieces[call], runs, strict=True):
            self._device.ctx_synchronize()
            started = time.perf_counter()
            data = run()
            self._device.ctx_synchronize()
            piece.seconds.append(time.perf_counter() - started)
        return data or b""

    def _compare(self, call: int, payload: Buffer) -> None:
        """Note whether an upload is the one of last time."""
        digest = blake2b(payload, digest_size=16).digest()
        before = self._uploads.setdefault(call, digest)
        for piece in self._pieces.get(call, ()):
            piece.constant = before == digest and (piece.constant or len(piece.seconds) == 1)

    def _runs(self, record: CallRecord) -> list[tuple[Node | None, _Run]]:
        """What executes a call: itself, or one node after the other."""
        nodes = self._ranges.nodes(record) if record.op.work is Work.GRAPH else None
        if nodes is None:
            return [(None, partial(self._handlers[record.op.code], record))]
        return [(node, run) for node in nodes if (run := self._node(node)) is not None]

    def _node(self, node: Node) -> _Run | None:
        """What executes a node; None for one that does nothing."""
        op, f = node
        values = tuple(v for n, v in f.items() if n not in ("graph", "graph_exec", "node"))
        if op.work is Work.LAUNCH:
            return partial(self._device.launch, launch_of(values, f["params"]), 0)
        if op.work is Work.COPY:
            copy = MemcpyNode(f["dst"], f["src"], f["size"])
            return partial(self._device.memcpy_dtod, copy.dst, copy.src, copy.bytes, 0)
        if op.work is Work.FILL:
            return partial(self._device.memset, fill_of(values), 0)
        return None

    def _touched(self, call: int, record: CallRecord, node: Node | None, run: _Run) -> Piece:
        op, f = node if node is not None else (record.op, record.fields())
        uploaded = len(record.payload or b"") if node is None else 0
        if node is not None:
            reads, writes = self._ranges.node_reads(*node), self._ranges.node_writes(*node)
        elif op.work is Work.NONE:
            spans = named(op, f, uploaded)
            reads, writes = spans.reads, spans.writes
        else:
            reads, writes = self._ranges.reads(record), self._ranges.writes(record)
        covers: tuple[Range, ...] = writes or ()
        name = op.name
        if op.work is Work.LAUNCH:
            name = self._kernel_name(f["module"], f["kernel"])
            # Of a kernel that is not known nothing is certain, and it may not run on other data.
            covers = covered(self._device, run, writes) if writes and reads is not None else ()
        elif op.work is Work.FILL and f["height"] > 1:
            covers = ()  # between its rows it leaves what is there
        kind = Kind.WORK if node is not None else op.kind
        return Piece(call, kind, name, reads, writes, covers, uploaded)
