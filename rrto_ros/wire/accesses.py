"""What each operator reads and writes, by address range.

Copies and fills name their ranges. A kernel launch does not: every 8-byte aligned word of its
arguments that falls in a live allocation is a *possible* access of that whole allocation, for
reading and for writing. A graph launch has the accesses of its nodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.graph_nodes import GraphNodes
from rrto_ros.wire.templates import CallTemplate

Range = tuple[int, int]
"""First address and the address after the last."""


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


def fill_bytes(f: dict[str, Any]) -> int:
    """Bytes from the first to the last that a fill writes; 0 if it writes none."""
    row: int = f["width"] * f["element_bytes"]
    return (f["height"] - 1) * f["pitch"] + row if f["height"] else 0


def _fill_range(f: dict[str, Any]) -> tuple[Range, ...]:
    span = fill_bytes(f)
    return ((f["dst"], f["dst"] + span),) if span else ()


class GraphTable:
    """Accesses of graph nodes, so that a graph launch has those of its nodes."""

    def __init__(self) -> None:
        self._nodes: GraphNodes[Accesses] = GraphNodes()

    def apply(self, name: str, f: dict[str, Any], allocations: Allocations) -> None:
        """Follow one graph operation (the decoded fields of `graph_*`)."""
        self._nodes.apply(name, f, lambda: node_accesses(name, f, allocations))

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


def node_accesses(name: str, f: dict[str, Any], allocations: Allocations) -> Accesses:
    """Accesses that a graph node will have when it runs."""
    if "params" in f:
        return Accesses(possible=pointers(f["params"], allocations))
    if "memcpy" in name:
        return _copy(f)
    if "memset" in name:
        return Accesses(writes=_fill_range(f))
    return NOTHING


def _copy(f: dict[str, Any]) -> Accesses:
    size = f["size"]
    return Accesses(reads=((f["src"], f["src"] + size),), writes=((f["dst"], f["dst"] + size),))


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
    name = template.op.name
    if name == "launch":  # by far the most frequent: without decoding all fields
        return Accesses(possible=pointers(template.last_field(), allocations))
    f = template.fields()
    if name == "memcpy_htod":
        return Accesses(writes=((f["dst"], f["dst"] + template.payload_bytes),))
    if name == "memcpy_dtoh":
        return Accesses(reads=((f["src"], f["src"] + f["size"]),))
    if name == "memcpy_dtod":
        return _copy(f)
    if name == "memset":
        return Accesses(writes=_fill_range(f))
    if name == "mem_alloc":
        # Fresh memory has no content: whoever reads it depends on nothing before.
        return Accesses(writes=((f["address"], f["address"] + f["size"]),))
    if name == "event_record":
        return Accesses(handles=(("event", f["event"]),))
    if name in ("event_synchronize", "event_query", "stream_wait_event"):
        return Accesses(needs=(("event", f["event"]),))
    if name == "event_elapsed_ms":
        return Accesses(needs=(("event", f["start"]), ("event", f["end"])))
    if name == "graph_launch":
        known = graphs.launched(f["graph_exec"]) if graphs is not None else None
        return (known or NOTHING) | Accesses(needs=(("graph", f["graph_exec"]),))
    if name.startswith("graph_exec_") and "node" in f:
        return Accesses(handles=(("graph", f["graph_exec"]),))
    return NOTHING
