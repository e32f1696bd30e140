"""What each operator reads and writes, by address range.

Copies and fills name their ranges. A kernel launch does not: every 8-byte aligned word of its
arguments that falls in a live allocation is a *possible* access of that whole allocation, for
reading and for writing; and any launch may read what a live texture reads, and
write what a surface does. A graph launch has the
accesses of its nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rrto_ros.api.ops import GRAPH_EFFECTS, PAYLOAD, ROWS, Op, Work
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.graph_nodes import GraphNodes
from rrto_ros.wire.templates import CallTemplate

Range = tuple[int, int]
"""First address and the address after the last."""


TypedRange = tuple[int, int, str]
"""A range, and the type of its elements: of `quantised.KINDS`, or empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Typed:
    """Elements that a call may access; ranges may overlap.

    Attributes:
        reads: What it may read.
        writes: What it may write.
    """

    reads: tuple[TypedRange, ...] = ()
    writes: tuple[TypedRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Accesses:
    """Accesses of one call.

    Attributes:
        reads: Ranges that it reads for certain.
        writes: Ranges that it writes for certain.
        possible: Ranges that it may read and may write (launch arguments).
        handles: Things other than memory that it sets (kind, handle): recorded events, graph
            arguments.
        needs: Things other than memory that it uses.
    """

    reads: tuple[Range, ...] = ()
    writes: tuple[Range, ...] = ()
    possible: tuple[Range, ...] = ()
    handles: tuple[tuple[str, int], ...] = ()
    needs: tuple[tuple[str, int], ...] = ()

    def __or__(self, other: Accesses) -> Accesses:
        return Accesses(
            self.reads + other.reads,
            self.writes + other.writes,
            self.possible + other.possible,
            self.handles + other.handles,
            self.needs + other.needs,
        )


NOTHING = Accesses()


def pointers(params: Any, allocations: Allocations) -> tuple[Range, ...]:
    """Allocations that the 8-byte words of launch arguments point into, each once."""
    count = len(params) // 8
    found: dict[int, Range] = {}
    for word in struct.unpack_from(f"<{count}Q", params):
        hit = allocations.find(word)
        if hit is not None:
            found[hit[0]] = (hit[0], hit[0] + hit[1])
    return tuple(found.values())


def merged(spans: Iterable[Range]) -> list[Range]:
    """Ranges by address; those that overlap or meet as one."""
    out: list[Range] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        elif start < end:
            out.append((start, end))
    return out


def fill_bytes(f: dict[str, Any]) -> int:
    """Bytes from the first to the last that a fill writes; 0 if it writes none."""
    row: int = f["width"] * f["element_bytes"]
    return (f["height"] - 1) * f["pitch"] + row if f["height"] else 0


def _launched(params: Any, allocations: Allocations) -> Accesses:
    possible = pointers(params, allocations) + allocations.surfaces
    return Accesses(reads=allocations.textures, possible=possible)


class GraphTable:
    """Accesses of graph nodes, so that a graph launch has those of its nodes."""

    def __init__(self) -> None:
        self._nodes: GraphNodes[Accesses] = GraphNodes()

    def apply(self, op: Op, f: dict[str, Any], allocations: Allocations) -> None:
        """Follow one operation on graphs, with its decoded fields."""
        self._nodes.apply(op.effect, f, lambda: _node_accesses(op, f, allocations))

    def launched(self, graph_exec: int) -> Accesses | None:
        """Accesses of all nodes; None if the graph's making was not logged."""
        nodes = self._nodes.of(graph_exec)
        if nodes is None:
            return None
        reads: set[Range] = set()
        writes: set[Range] = set()
        possible: set[Range] = set()
        for node in nodes:
            reads.update(node.reads)
            writes.update(node.writes)
            possible.update(node.possible)
        return Accesses(tuple(sorted(reads)), tuple(sorted(writes)), tuple(sorted(possible)))


def named(op: Op, f: dict[str, Any], payload_bytes: int) -> Accesses:
    """Accesses of the ranges that an operation's fields name."""
    return Accesses(
        _range(op.reads, f, payload_bytes) if op.reads else (),
        _range(op.writes, f, payload_bytes) if op.writes else (),
    )


def _range(named: tuple[str, str], f: dict[str, Any], payload_bytes: int) -> tuple[Range, ...]:
    start, size = f[named[0]], named[1]
    if size == ROWS:
        span = fill_bytes(f)
        return ((start, start + span),) if span else ()
    return ((start, start + (payload_bytes if size == PAYLOAD else f[size])),)


def _node_accesses(op: Op, f: dict[str, Any], allocations: Allocations) -> Accesses:
    """Accesses that a graph node will have when it runs."""
    if op.work is Work.LAUNCH:
        return _launched(f["params"], allocations)
    return named(op, f, 0)


def accesses(
    template: CallTemplate, allocations: Allocations, graphs: GraphTable | None = None
) -> Accesses:
    """Accesses of one call.

    Args:
        template: The call.
        allocations: What is live when the call runs (a new allocation need not be in it).
        graphs: Where graph launches find their nodes.

    Raises:
        ProtocolError: The body does not fit the operation's layout.
    """
    op = template.op
    if op.effect in GRAPH_EFFECTS:  # what its node will do, it does not do
        return Accesses(handles=_handles(op.sets, template.fields())) if op.sets else NOTHING
    if op.work is Work.LAUNCH:  # by far the most frequent: without decoding all fields
        return _launched(template.last_field(), allocations)
    if not (op.reads or op.writes or op.sets or op.needs):
        return NOTHING
    f = template.fields()
    got = named(op, f, template.payload_bytes)
    if op.work is Work.GRAPH and graphs is not None:
        got |= graphs.launched(f["graph_exec"]) or NOTHING
    if op.sets or op.needs:
        got |= Accesses(handles=_handles(op.sets, f), needs=_handles(op.needs, f))
    return got


def _handles(named: tuple[tuple[str, str], ...], f: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple((what, f[field]) for what, field in named)
