"""The calls that give a session its shape: owns which of them still matter.

Of the calls so far, those that made what exists now: modules, allocations, streams, events,
graphs, textures. Executed again in their order they make the same session, but for what memory
holds. What was made and is gone again leaves nothing behind.
"""

from __future__ import annotations

import struct

from rrto_ros.api.ops import OPS
from rrto_ros.wire.codec import CallHeader, decode_call, pack_call
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_REPLY, FLAG_WAITED
from rrto_ros.wire.plan import Plan

MEMORY_ONLY = frozenset((
    "memcpy_htod", "memcpy_dtoh", "memcpy_dtod", "memset", "launch", "graph_launch",
    "ctx_synchronize", "stream_synchronize", "stream_query", "stream_wait_event",
    "event_synchronize", "event_query", "event_elapsed_ms",
))  # fmt: skip
"""Operations after which a session differs in what memory holds, or not at all."""
NOT_FOLLOWED = frozenset(("mem_create", "mem_release", "mem_map", "mem_unmap", "mem_access"))
"""Operations on memory that a program maps itself: such a session has no shape to keep."""
_NAMES = {op.code: op.name for op in OPS}
SHAPES = frozenset(op.code for op in OPS if op.name not in MEMORY_ONLY)
_ASKS = FLAG_REPLY | FLAG_WAITED
_FLAGS = struct.Struct("<H")
_FLAGS_AT = 6
_ANSWERED = frozenset(("texture_create",))
"""The program was told something that must be the same again."""
Key = tuple[str, int]


class Shape:
    """One session's. Not thread-safe."""

    def __init__(self) -> None:
        self._made: dict[Key, list[Record]] = {}
        self._followed = True

    @property
    def followed(self) -> bool:
        """Whether the calls so far can be kept in this way."""
        return self._followed

    def feed(self, view: memoryview, header: CallHeader) -> None:
        """Take one literal call of `SHAPES`, in order; `header` is of a record in `view`."""
        name = _NAMES[header.op]
        if name in NOT_FOLLOWED:
            self._followed = False
        else:
            self._take(name, view, header)

    def records(self) -> list[bytes]:
        """The calls, by ascending index; those in several lists once."""
        found = {r.index: r.data for records in self._made.values() for r in records}
        return [found[index] for index in sorted(found)]

    def references(self) -> list[int]:
        """Indices of calls that name what they load, where they could hold it."""
        return [
            record.index
            for (kind, _), records in self._made.items()
            if kind == "module"
            for record in records
            if _FLAGS.unpack_from(record.data, _FLAGS_AT)[0] & FLAG_BLOB_REF
        ]

    def statistics(self) -> dict[str, int]:
        """Things that exist, and bytes of the calls that made them."""
        records = self.records()
        return {"shape_things": len(self._made), "shape_bytes": sum(map(len, records))}

    def _take(self, name: str, view: memoryview, header: CallHeader) -> None:
        f = decode_call(view, header).fields()
        record = Record(header.index, _quiet(view, header, name))
        made = self._made
        match name:
            case "module_piece" | "module_load":
                made.setdefault(("module", f["module"]), []).append(record)
            case "kernel_load":
                made.setdefault(("module", f["module"]), []).append(record)
            case "function_set_attribute":
                sets = f"attribute {f['attribute']}", f["kernel"]
                _set(made.setdefault(("module", f["module"]), []), record, sets)
            case "module_unload":
                made.pop(("module", f["module"]), None)
            case "mem_alloc":
                # Its stream may be gone by then, and decides about time only.
                plain = pack_call("mem_alloc", header.index, address=f["address"],
                                  size=f["size"], stream=0, thread=header.thread)  # fmt: skip
                made["memory", f["address"]] = [Record(header.index, plain)]
            case "mem_free":
                made.pop(("memory", f["address"]), None)
            case "texture_create":
                made["texture", f["texture"]] = [record]
            case "texture_destroy":
                made.pop(("texture", f["texture"]), None)
            case "stream_create":
                made["stream", f["stream"]] = [record]
            case "stream_destroy":
                made.pop(("stream", f["stream"]), None)
            case "event_create":
                made["event", f["event"]] = [record]
            case "event_destroy":
                made.pop(("event", f["event"]), None)
            case "event_record":
                self._recorded(f["event"], header)
            case _:
                self._graph(name, f, record)

    def _recorded(self, event: int, header: CallHeader) -> None:
        """Of an event only the last record matters, whose work is done by then."""
        records = self._made.get(("event", event))
        if records is not None:
            plain = pack_call("event_record", header.index, event=event, stream=0,
                              thread=header.thread)  # fmt: skip
            records[1:] = [Record(header.index, plain)]

    def _graph(self, name: str, f: dict[str, int], record: Record) -> None:
        made = self._made
        if name == "graph_create":
            made["graph", f["graph"]] = [record]
        elif name == "graph_destroy":
            records = made.pop(("graph", f["graph"]), [])
            for key, others in made.items():
                # Executables made from it need it first, and that it goes again.
                if key[0] == "exec" and records and others[0].index == records[0].index:
                    others.append(record)
        elif name == "graph_instantiate":
            graph = made.get(("graph", f["graph"]), [])
            made["exec", f["graph_exec"]] = [*graph, record]
        elif name == "graph_exec_destroy":
            made.pop(("exec", f["graph_exec"]), None)
        elif name.startswith("graph_add_"):
            made.setdefault(("graph", f["graph"]), []).append(record)
        else:
            _set(made.setdefault(("exec", f["graph_exec"]), []), record, (name, f["node"]))


class Record:
    """A call that matters.

    Attributes:
        index: Of the call.
        data: Its record.
        sets: What it sets of an executable graph, where a later call may set it again.
    """

    __slots__ = ("data", "index", "sets")

    def __init__(self, index: int, data: bytes, sets: tuple[str, int] | None = None) -> None:
        self.index, self.data, self.sets = index, data, sets


def _set(records: list[Record], record: Record, sets: tuple[str, int]) -> None:
    """A call takes the place of one that set the same."""
    records[:] = [r for r in records if r.sets != sets]
    records.append(Record(record.index, record.data, sets))


def has_shape(plan: Plan) -> bool:
    """Whether calls of a plan make or end anything."""
    return any(call.code in SHAPES for call in plan.calls)


def _quiet(view: memoryview, header: CallHeader, name: str) -> bytes:
    """The record without the wish for an answer, which the program has."""
    out = bytearray(view[header.offset : header.offset + header.size])
    if name not in _ANSWERED:
        _FLAGS.pack_into(out, _FLAGS_AT, header.flags & ~_ASKS)
    return bytes(out)
