"""One session's calls, each at the place that its plan's placement gives it.

A place executes calls in the order in which it gets them (`PlaceEnd`). What a call reads and is
not the newest at its place is brought there first (`schedule/coherence.py`); so whatever placement
there is, and wherever the program leaves its plan, results are those of plain execution. Who goes
where:

- what shapes a session (memory, modules, streams, events, graphs): to all places;
- an upload: to all places; one of a placed inference only where it is read;
- a copy to the program: to where most of it is newest;
- what waits or asks: to all places, and it is answered when all have answered;
- work: to its place, or without a placement to the session's home. It never runs twice, so what
  it prints is printed once.

Work of which it is not known what it touches runs at home, with all of memory; so does all work of
a session that maps memory itself, where one byte can have two addresses.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rrto_ros.api.ops import Effect, Kind, Work
from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.robot.places.ordered_replies import OrderedReplies
from rrto_ros.schedule.coherence import Coherence, Transfer
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.codec import CallHeader, CallRecord, decode_call, iter_headers, pack_call
from rrto_ros.wire.format import (
    ALL_FLAGS,
    CHECKPOINT_OP,
    FLAG_REPLY,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    RESULT_STATE,
    Buffer,
)
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import pieces, read_reference
from rrto_ros.wire.result_codec import iter_results, pack_result
from rrto_ros.wire.templates import CallTemplate

_INDEX = struct.Struct("<Q")
_INDEX_AT = 8
_ALIKE = frozenset(("module_load", "kernel_load", "texture_create"))
"""What all places must answer alike, or the program's later calls would not mean the same."""
_MAPPED = frozenset(("mem_create", "mem_map"))
ANYWHERE = Touched(None, None)
"""It is not known what a call touches."""


class PlaceEnd(Protocol):
    """Where calls are executed; results come back through `PartitionedSession.results`."""

    def execute(self, batch: bytes) -> None:
        """Take whole records, to be executed after those before; does not wait for it."""
        ...


class Knowledge(Protocol):
    """What is known of a session's calls."""

    @property
    def code(self) -> object:
        """Another value whenever modules or graphs are others."""
        ...

    @property
    def memory(self) -> Sequence[Range]:
        """Live memory."""
        ...

    def follow(self, record: CallRecord) -> None:
        """A call is executed."""
        ...

    def loaded(self, record: CallRecord, info: bytes) -> None:
        """A module was loaded, and this was the answer."""
        ...

    def touched(self, record: CallRecord) -> Touched:
        """What a call touches."""
        ...


@dataclass(frozen=True)
class Placed:
    """Where the calls of a plan run.

    Attributes:
        code: `Knowledge.code` for which this holds.
        places: Of each call; it counts for work only.
        touched: What each call touches if nothing in it varies.
    """

    code: object
    places: tuple[int, ...]
    touched: tuple[Touched, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    """A call of the program.

    Attributes:
        header: Its header; offset 0.
        record: Its record.
        plan: Number of the plan that it belongs to, -1 for none.
        place: Its place in the plan.
        fixed: Whether nothing varies in it.
    """

    header: CallHeader
    record: bytes
    plan: int = -1
    place: int = 0
    fixed: bool = False


class PartitionedSession:
    """One session at several places. `execute` belongs to one thread; `results` may be another's.

    Args:
        ends: The places, by number.
        home: The place of what has no other.
        knowledge: Of its calls.
        deliver: Takes result records for the program, in order (both threads, never at once).
        patience_s: How long bytes may take from place to place.
    """

    def __init__(
        self,
        ends: Sequence[PlaceEnd],
        home: int,
        knowledge: Knowledge,
        deliver: Callable[[bytes], None],
        patience_s: float = 60.0,
    ) -> None:
        self._ends = ends
        self._all = tuple(range(len(ends)))
        self._home = home
        self._knows = knowledge
        self._patience_s = patience_s
        self._arrival = threading.Condition(threading.RLock())
        self._replies = OrderedReplies(len(ends), deliver)
        self._coherence = Coherence(self._all)
        self._next = [1] * len(ends)
        self._ready: list[list[bytes]] = [[] for _ in ends]
        self._plans: dict[int, Plan] = {}
        self._placed: dict[int, Placed] = {}
        self._loads: list[tuple[CallRecord, bytes]] = []
        self._maps = False
        self._over = ""
        self._work = [0] * len(ends)

    # ---- the thread that executes

    def place(self, plan: int, placed: Placed | None) -> None:
        """From its next call on a plan's work runs where this says; None: at home."""
        if placed is None:
            self._placed.pop(plan, None)
        else:
            self._placed[plan] = placed

    def execute(self, batch: Buffer) -> None:
        """Have a batch executed; waits while bytes go from place to place.

        Raises:
            ProtocolError: It does not fit the format.
            UnavailableError: A place has not answered in time, or is gone.
        """
        for item in self._items(batch):
            self._learn_loads()
            if item.header.op == CHECKPOINT_OP:
                self._no_checkpoint(item)
            elif self._replies.broken:
                if item.header.flags & FLAG_REPLY:
                    with self._arrival:
                        self._replies.refuse(item.header.index)
            else:
                self._call(item)
        self._flush()

    def statistics(self) -> dict[str, int]:
        """Calls of work by place, and what was brought from place to place."""
        work = {f"work_{place}": count for place, count in enumerate(self._work)}
        return {**work, **self._coherence.statistics(), **self._replies.statistics()}

    def _items(self, batch: Buffer) -> Iterator[_Item]:
        view = memoryview(batch).cast("B")
        for header in iter_headers(view):
            if header.op == PLAN_DEFINE_OP:
                number, plan = read_define(view, header)
                self._plans[number] = plan
                self._placed.pop(number, None)
            elif header.op == PLAN_REF_OP:
                yield from self._referred(view, header)
            else:
                yield _item(bytes(view[header.offset : header.offset + header.size]))

    def _referred(self, view: memoryview, header: CallHeader) -> Iterator[_Item]:
        ref = read_reference(view, header)
        plan = self._plans.get(ref.plan)
        if plan is None:
            raise ProtocolError(f"reference to plan {ref.plan}, not defined")
        for k, flags, body, payload in pieces(plan, ref):
            call = plan.calls[k]
            size = len(payload) if payload is not None else 0
            whole = CallTemplate(call.code, size, call.body if body is None else body)
            shown = flags & ALL_FLAGS
            record = whole.record(ref.index + k - ref.first, ref.thread, shown, payload)
            yield _item(bytes(record), ref.plan, k, body is None)

    def _call(self, item: _Item) -> None:
        record = decode_call(memoryview(item.record), item.header)
        op = record.op
        self._maps = self._maps or op.name in _MAPPED
        touched, placed = self._touched(item, record)
        if op.work is not Work.NONE and op.effect is Effect.NONE:
            unknown = touched.reads is None or touched.writes is None
            at = self._home
            if placed is not None and not unknown and not self._maps:
                at = placed.places[item.place]
            self._work[at] += 1
            places: tuple[int, ...] = (at,)
        elif op.kind is Kind.INPUT:
            places = self._read_at(item, placed)
        elif op.brings_memory:
            places = (self._nearest(touched),)
        else:
            places, touched = self._all, Touched()
        memory = self._knows.memory
        for place in places:
            for transfer in self._coherence.before(place, touched, memory):
                self._bring(transfer)
        self._send(item, record, places)
        if places == self._all:
            self._coherence.everywhere(touched, memory)
        else:
            for place in places:
                self._coherence.after(place, touched, memory)
        self._followed(record)

    def _touched(self, item: _Item, record: CallRecord) -> tuple[Touched, Placed | None]:
        """What a call touches, and the placement of its plan where one holds."""
        placed = self._placed.get(item.plan)
        if placed is not None and placed.code != self._knows.code:
            # Its kernels may be others by now.
            del self._placed[item.plan]
            placed = None
        if placed is not None and item.fixed:
            return placed.touched[item.place], placed
        return self._knows.touched(record), placed

    def _read_at(self, item: _Item, placed: Placed | None) -> tuple[int, ...]:
        """Where an upload goes: of a placed plan to the first that reads it, else to all."""
        if placed is None or self._maps or not item.fixed:
            return self._all
        written = placed.touched[item.place].covers
        for k in range(item.place + 1, len(placed.places)):
            if _meet(placed.touched[k].reads, written):
                return (placed.places[k],)
        return self._all

    def _nearest(self, touched: Touched) -> int:
        """Where the least of what is read has to be brought; at home, if that is equal."""
        order = (self._home, *(place for place in self._all if place != self._home))
        return min(order, key=lambda place: self._coherence.missing(place, touched))

    def _send(self, item: _Item, record: CallRecord, places: tuple[int, ...]) -> None:
        index, header = item.header.index, item.header
        owns = [(place, self._number(place)) for place in places]
        with self._arrival:
            for place, own in owns:
                self._replies.sent(place, own, index)
            if header.flags & FLAG_REPLY:
                speaks = self._home if self._home in places else places[0]
                alike = record.op.name in _ALIKE
                told = None
                if record.op.effect is Effect.LOAD:
                    told = self._loading(record)
                self._replies.expect(owns, index, speaks, alike=alike, told=told)
        for place, own in owns:
            self._ready[place].append(_numbered(item.record, own))
        if header.flags & FLAG_REPLY:
            self._flush()

    def _loading(self, record: CallRecord) -> Callable[[int, bytes], None]:
        def told(status: int, info: bytes) -> None:
            if not status:
                self._loads.append((record, info))

        return told

    def _learn_loads(self) -> None:
        while self._loads:
            self._knows.loaded(*self._loads.pop(0))

    def _followed(self, record: CallRecord) -> None:
        op, f = record.op, record.fields() if record.op.effect is not Effect.NONE else {}
        if op.effect in (Effect.ALLOCATE, Effect.ACCESS, Effect.UNMAP):
            self._coherence.freed((f["address"], f["address"] + f["size"]))
        if op.effect is not Effect.LOAD:
            self._knows.follow(record)

    def _bring(self, transfer: Transfer) -> None:
        """Read bytes at one place and write them at another."""
        start, end = transfer.span
        got: list[tuple[int, bytes]] = []
        source, own = transfer.source, 0
        self._order(pack_call("ctx_synchronize", 1, context=0), source)
        own = self._number(source)
        with self._arrival:
            self._replies.expect(
                [(source, own)], 0, source, told=lambda status, data: got.append((status, data))
            )
        self._ready[source].append(
            pack_call("memcpy_dtoh", own, src=start, size=end - start, stream=0)
        )
        self._flush()
        with self._arrival:
            self._arrival.wait_for(lambda: got or self._over, self._patience_s)
        if not got:
            why = self._over or f"has not answered for {self._patience_s:g} s"
            raise UnavailableError(f"place {source} {why}: {end - start} bytes are missing")
        status, data = got[0]
        if status:
            # Its answer broke the session, or does now: nothing else can be right.
            with self._arrival:
                self._replies.break_(0, status, data)
            return
        self._order(pack_call("ctx_synchronize", 1, context=0), transfer.target)
        own = self._number(transfer.target)
        self._ready[transfer.target].append(
            pack_call("memcpy_htod", own, dst=start, stream=0, payload=data)
        )

    def _order(self, record: bytes, place: int) -> None:
        """What other streams have under way there is finished first; nobody asked for it."""
        own = self._number(place)
        with self._arrival:
            self._replies.expect([(place, own)], 0, place)
        self._ready[place].append(_numbered(record, own))

    def _number(self, place: int) -> int:
        own = self._next[place]
        self._next[place] += 1
        return own

    def _flush(self) -> None:
        for place, ready in enumerate(self._ready):
            if ready:
                batch = b"".join(ready)
                ready.clear()
                self._ends[place].execute(batch)

    def _no_checkpoint(self, item: _Item) -> None:
        number = decode_call(memoryview(item.record), item.header).values[0]
        text = b"a session at several places has no checkpoints"
        with self._arrival:
            self._replies.say(pack_result(number, CUresult.NOT_SUPPORTED, text, RESULT_STATE))

    # ---- any thread

    def results(self, place: int, records: Buffer) -> None:
        """Take result records of a place.

        Raises:
            ProtocolError: They do not fit the format, or answer nothing.
        """
        with self._arrival:
            for result in iter_results(records):
                self._replies.arrived(place, result)
            self._arrival.notify_all()

    def died(self, place: int, own: int, status: int, text: str) -> None:
        """A place has ended in the middle of the call that has this number there (0: of none)."""
        with self._arrival:
            self._replies.broke(place, own, status, text.encode())
            self._arrival.notify_all()

    def end(self, why: str) -> None:
        """No place will answer any more."""
        with self._arrival:
            self._over = self._over or why
            self._arrival.notify_all()


def _item(record: bytes, plan: int = -1, place: int = 0, fixed: bool = False) -> _Item:
    (header,) = iter_headers(record)
    return _Item(header, record, plan, place, fixed)


def _numbered(record: bytes, own: int) -> bytes:
    """A record under another number."""
    return record[:_INDEX_AT] + _INDEX.pack(own) + record[_INDEX_AT + _INDEX.size :]


def _meet(some: Sequence[Range] | None, others: Sequence[Range]) -> bool:
    if some is None:
        return True
    return any(a < d and c < b for a, b in some for c, d in others)
