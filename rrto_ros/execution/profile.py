"""What the calls of an inference cost and touch, found while a session executes them.

A graph launch is looked at node by node. Each call is timed with the device idle before and after
it, so that on a device with a queue the times hold what a launch costs alone. Its results are
those that it has without being looked at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from rrto_ros.api.ops import GRAPH_EFFECTS, Kind, Op, Work
from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Device, MemcpyNode
from rrto_ros.errors import CudaError, ProtocolError
from rrto_ros.execution.access_ranges import AccessRanges, Node
from rrto_ros.execution.coverage import covered
from rrto_ros.execution.dispatch import Handler, fill_of, launch_of
from rrto_ros.wire.accesses import Range, merged, named
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.profiles import MAX_CALLS, ProfiledCall, pack_profile

MOST_TIMES = 1024
"""Executions of a call whose seconds are kept."""
MOST_AHEAD = 64
"""Executions of an inference that may be announced before they come."""
_Run = Callable[[], Buffer | None]
_Known = tuple[Range, ...] | None
_Touched = tuple[_Known, _Known, tuple[Range, ...]]
_NOTHING: _Touched = ((), (), ())


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
        uploaded: Bytes that it brings from the program, at most.
        constant: Whether they were the same each time, and it was executed more than once.
        seconds: Of each execution.
        same: What decided what it touches when that was found last.
        learnt: What was known of modules then.
    """

    call: int
    kind: Kind
    name: str
    reads: tuple[Range, ...] | None = None
    writes: tuple[Range, ...] | None = None
    covers: tuple[Range, ...] = ()
    uploaded: int = 0
    constant: bool = False
    seconds: list[float] = field(default_factory=list)
    same: tuple[Any, ...] = ()
    learnt: int = 0

    @property
    def typical(self) -> float:
        """Median seconds, without the first time, in which much is made ready; 0 if never run."""
        usual = sorted(self.seconds[1:] or self.seconds)
        return usual[len(usual) // 2] if usual else 0.0

    @property
    def told(self) -> ProfiledCall:
        """What the wire tells of it."""
        return ProfiledCall(
            self.call, self.kind, self.name, self.reads, self.writes, self.covers, self.uploaded,
            self.constant, len(self.seconds), self.typical,
        )  # fmt: skip


class Profiler:
    """Of one inference of a session. Not thread-safe.

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
            record: The call. What it touches is found at its first time, and again when it comes
                with other arguments or more is known of its kernel.

        Returns:
            The data of its result.

        Raises:
            CudaError: As the device says.
        """
        runs = self._runs(record)
        pieces = self._look(call, record, runs)
        if record.payload is not None:
            self._compare(call, record.payload)
        data: Buffer | None = b""
        for piece, (_, run) in zip(pieces, runs, strict=True):
            self._device.ctx_synchronize()
            started = time.perf_counter()
            data = run()
            self._device.ctx_synchronize()
            if len(piece.seconds) < MOST_TIMES:
                piece.seconds.append(time.perf_counter() - started)
        return data or b""

    def _look(
        self, call: int, record: CallRecord, runs: list[tuple[Node | None, _Run]]
    ) -> list[Piece]:
        """The pieces of a call, with what they touch."""
        asked = [node if node is not None else (record.op, record.fields()) for node, _ in runs]
        # What a node will do, the call that makes or changes it does not do.
        shapes = record.op.effect in GRAPH_EFFECTS
        names = [record.op.name if shapes else self._name(*one) for one in asked]
        pieces = self._pieces.get(call)
        if pieces is None or [piece.name for piece in pieces] != names:
            # Where another call comes than before, what was found of that one is of no use.
            self._uploads.pop(call, None)
            pieces = self._pieces[call] = [
                Piece(call, Kind.WORK if node is not None else record.op.kind, name)
                for name, (node, _) in zip(names, runs, strict=True)
            ]
        for piece, (op, fields), (node, run) in zip(pieces, asked, runs, strict=True):
            payload = record.payload if node is None else None
            learnt = self._ranges.learnt
            same = self._same(op, fields, payload)
            known = piece.reads is not None and piece.writes is not None
            if piece.same == same and (known or piece.learnt == learnt):
                continue
            found = _NOTHING if shapes else self._touched(op, fields, payload, run)
            # Of a kernel that is not known yet (it is looked at beside) nothing is kept.
            if piece.same and known:
                found = _either(piece, found)
            piece.reads, piece.writes, piece.covers = found
            piece.uploaded = max(piece.uploaded, len(payload or b""))
            piece.same, piece.learnt = same, learnt
        return pieces

    def _same(self, op: Op, fields: dict[str, Any], payload: Buffer | None) -> tuple[Any, ...]:
        """What decides what a call touches."""
        values = (bytes(v) if isinstance(v, memoryview) else v for v in fields.values())
        modules = self._ranges.layout[1]
        return (op.code, modules, len(payload or b""), *values)

    def _name(self, op: Op, fields: dict[str, Any]) -> str:
        if op.work is Work.LAUNCH:
            return self._kernel_name(fields["module"], fields["kernel"])
        return op.name

    def _compare(self, call: int, payload: Buffer) -> None:
        """Note whether an upload is the one of last time."""
        digest = blake2b(payload, digest_size=16).digest()
        before = self._uploads.setdefault(call, digest)
        for piece in self._pieces[call]:
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

    def _touched(
        self, op: Op, fields: dict[str, Any], payload: Buffer | None, run: _Run
    ) -> _Touched:
        """What a call or node may read, may write, and covers."""
        if op.work is Work.NONE:
            spans = named(op, fields, len(payload or b""))
            return spans.reads, spans.writes, spans.writes
        if op.work is Work.GRAPH:
            return None, None, ()  # its nodes are not known
        reads = self._ranges.node_reads(op, fields)
        writes = self._ranges.node_writes(op, fields)
        covers = writes or ()
        if op.work is Work.LAUNCH:
            # Of a kernel that is not known nothing is certain, and it may not run on other data.
            covers = ()
            if writes and reads is not None:
                # Without room for what is there the session goes on all the same.
                with contextlib.suppress(MemoryError):
                    covers = covered(self._device, run, writes)
        elif op.work is Work.FILL and fields["height"] > 1:
            covers = ()  # between its rows it leaves what is there
        return reads, writes, covers


def _either(piece: Piece, found: _Touched) -> _Touched:
    """What a call touches that has the arguments of before, or those that it has now."""
    reads, writes, covers = found
    return (
        None if reads is None else tuple(merged((*(piece.reads or ()), *reads))),
        None if writes is None else tuple(merged((*(piece.writes or ()), *writes))),
        covers if covers == piece.covers else (),
    )


class Profiles:
    """Which calls of a session are looked at: owns the profile that is being made.

    Args:
        profiler: Makes what looks at the calls of an inference.

    Attributes:
        coming: Indices of the calls that are looked at, of each execution that was announced.
    """

    def __init__(self, profiler: Callable[[], Profiler]) -> None:
        self._make = profiler
        self._number = 0
        self._profiler: Profiler | None = None
        self.coming: list[range] = []

    def announce(self, number: int, first: int, calls: int, executed: int) -> None:
        """An execution of the inference comes.

        Args:
            number: Of the profile. With another one than before a profile begins.
            first: Index of its first call.
            calls: How many indices from there on are its own.
            executed: Index of the call that was executed last.

        Raises:
            ProtocolError: No such calls can come, or too many were announced.
        """
        if not 0 < calls <= MAX_CALLS or not 0 < first < (1 << 64) - calls:
            raise ProtocolError(
                f"profile {number} of {calls} calls from #{first} on; 1 to {MAX_CALLS} calls "
                "with indices of 64 bits are wanted"
            )
        if self._profiler is None or number != self._number:
            self._number, self._profiler = number, self._make()
            self.coming.clear()
        if self.ahead(executed) and len(self.coming) >= MOST_AHEAD:
            raise ProtocolError(
                f"profile {number}: {MOST_AHEAD} executions are announced that have not come"
            )
        self.coming.append(range(first, first + calls))

    def ahead(self, executed: int) -> bool:
        """Whether calls are still to come that are looked at, after the one executed last."""
        if self.coming:
            self.coming = [calls for calls in self.coming if calls[-1] > executed]
        return bool(self.coming)

    def of(self, index: int) -> tuple[Profiler, int] | None:
        """What looks at a call, and the call's place in the inference; None: it is not looked at.

        Of several announcements with the same call the newest counts.
        """
        for calls in reversed(self.coming):
            if self._profiler is not None and index in calls:
                return self._profiler, index - calls[0]
        return None

    def end(self, number: int) -> list[bytes]:
        """The profile is over; returns the payloads that tell it.

        Raises:
            CudaError: There is none with this number, or it is too large.
        """
        profiler = self._profiler
        if profiler is None or number != self._number:
            raise CudaError(CUresult.INVALID_VALUE, f"profile {number} was not begun here")
        self._profiler = None
        self.coming.clear()
        try:
            return pack_profile(piece.told for piece in profiler.pieces)
        except ValueError as error:
            raise CudaError(CUresult.NOT_SUPPORTED, str(error)) from error
