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
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from rrto_ros.api.ops import Effect, Kind, Work
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.robot.partition.replies import OrderedReplies
from rrto_ros.schedule.coherence import Coherence, Transfer
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.intervals import without
from rrto_ros.wire.accesses import Range, merged
from rrto_ros.wire.codec import CallHeader, CallRecord, decode_call, iter_headers, pack_call
from rrto_ros.wire.format import (
    CHECKPOINT_OP,
    FLAG_REPLY,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    RESULT_CONTAINED,
    RESULT_PROFILE,
    RESULT_STATE,
    Buffer,
)
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import read_reference, records
from rrto_ros.wire.result_codec import ResultRecord, iter_results, pack_result

PIECE_BYTES = 16 << 20
"""Brought by one call, at most."""
_INDEX = struct.Struct("<Q")
_INDEX_AT = 8
_ALIKE = frozenset(("module_load", "kernel_load", "texture_create"))
"""What all places must answer alike, or the program's later calls would not mean the same."""
_MAPPED = frozenset(("mem_create", "mem_map"))
ROBOT, HOME = 0, 1
"""The places: the robot's own, and the edge's, where everything is that has no other place."""
_PLACES = (ROBOT, HOME)
PLACES = len(_PLACES)


class PlaceEnd(Protocol):
    """Where calls are executed; results come back through `PartitionedSession.results`."""

    def execute(self, batch: bytes) -> None:
        """Take whole records, to be executed after those before; does not wait for it."""
        ...


class Chooses(Protocol):
    """Says where plans run (`planner.Planner`)."""

    def defined(self, number: int, plan: Plan) -> None:
        """A plan has a number from now on."""
        ...

    def begins(self, number: int, code: object) -> bool:
        """An inference of a plan begins; whether it is to be timed."""
        ...

    def profile_of(self, number: int) -> int:
        """Under which number a plan's profile is asked for."""
        ...

    def timed(self, number: int) -> bool:
        """An inference was timed to its end; whether the profile is to be told."""
        ...

    def left(self, number: int) -> None:
        """A program left an inference that was being timed."""
        ...

    def arrived(self, place: int, result: ResultRecord, memory: Sequence[Range]) -> None:
        """A place tells a piece of a profile."""
        ...

    def placed(self, number: int) -> Placed | None:
        """Where an inference that begins now runs; None: at home."""
        ...

    def contained(self, number: int, code: object) -> bool:
        """Whether it is to be told now that a plan's inferences are self-contained."""
        ...

    def probes(self, crosses: bool) -> bool:
        """Whether an upload is to go to the edge although nobody reads it there."""
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

    def written(self, record: CallRecord) -> Touched:
        """What a call of work may write, and nothing of what it reads."""
        ...


@dataclass(frozen=True)
class Placed:
    """Where the calls of a plan run.

    Attributes:
        code: `Knowledge.code` for which this holds.
        places: Of each call; it counts for work only.
        touched: What each call touches if nothing in it varies.
        work: Whether each call is work.
    """

    code: object
    places: tuple[int, ...]
    touched: tuple[Touched, ...]
    work: tuple[bool, ...]

    @cached_property
    def wanted(self) -> dict[int, Touched]:
        """What the calls from one on read of what was there before, up to the next change.

        Of each call with which work begins at a place. What a stretch reads is brought at once:
        one exchange for all of it, and not one for each call.
        """
        out: dict[int, Touched] = {}
        start = before = -1
        reads: list[Range] = []
        made: list[Range] = []
        for k, (place, touched) in enumerate(zip(self.places, self.touched, strict=True)):
            if not self.work[k]:
                if touched.writes:
                    before = -1  # an upload: what comes after it reads something else
                continue
            if place != before:
                start, before, reads, made = k, place, [], []
            reads += without(
                [*(touched.reads or ()), *without(touched.writes or (), touched.covers)], made
            )
            made = merged([*made, *touched.covers])
            out[start] = Touched(reads=tuple(merged(reads)))
        return out


@dataclass(slots=True)
class _Timing:
    """An inference that is being timed.

    Attributes:
        plan: Its plan's number.
        calls: How many it has.
        index: The program's number of its first call.
        own: The home's number of it; the others have to follow by one.
        records: Those that came so far.
    """

    plan: int
    calls: int
    index: int
    own: int
    records: list[tuple[bytes, bool]]


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
        ends: The robot's place, and the edge's.
        knowledge: Of its calls.
        deliver: Takes result records for the program, in order (both threads, never at once).
        chooses: Says where plans run; None: who calls `place` does.
        patience_s: How long bytes may take from place to place; None: until a place is lost.
    """

    def __init__(
        self,
        ends: Sequence[PlaceEnd],
        knowledge: Knowledge,
        deliver: Callable[[bytes], None],
        chooses: Chooses | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._ends = ends
        self._knows = knowledge
        self._chooses = chooses
        self._patience_s = patience_s
        self._arrival = threading.Condition(threading.RLock())
        self._replies = OrderedReplies(len(ends), deliver)
        self._coherence = Coherence(_PLACES)
        self._timing: _Timing | None = None
        self._profiles: deque[tuple[int, ResultRecord]] = deque()
        self._next = [1] * len(ends)
        self._ready: list[list[bytes]] = [[] for _ in ends]
        self._plans: dict[int, Plan] = {}
        self._placed: dict[int, Placed] = {}
        self._loads: list[tuple[CallRecord, bytes]] = []
        self._maps = False
        self._over = ""
        self._work = [0] * len(ends)
        # Streams with work that the program has not waited for.
        self._unwaited: tuple[set[int], ...] = tuple(set() for _ in ends)
        self._shadowed = 0
        self._last = 0
        self._marks: deque[tuple[tuple[int, ...], int]] = deque()
        self._executed = [0] * len(ends)
        self._done = self._done_call = 0

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
                self._checkpoint(item)
            elif self._replies.broken:
                if item.header.flags & FLAG_REPLY:
                    with self._arrival:
                        self._replies.refuse(item.header.index)
            else:
                self._call(item)
            self._last = item.header.index or self._last
        self._flush()
        with self._arrival:
            self._marks.append((tuple(own - 1 for own in self._next), self._last))

    @property
    def last_reply(self) -> int:
        """The last call whose answer was delivered, 0 before the first."""
        return self._replies.last

    def statistics(self) -> dict[str, int]:
        """Calls of work by place, and what was brought from place to place."""
        work = {"work_robot": self._work[ROBOT], "work_edge": self._work[HOME]}
        return {**work, **self._coherence.statistics(), **self._replies.statistics()}

    def _items(self, batch: Buffer) -> Iterator[_Item]:
        view = memoryview(batch).cast("B")
        for header in iter_headers(view):
            if header.op == PLAN_DEFINE_OP:
                number, plan = read_define(view, header)
                self._plans[number] = plan
                self._placed.pop(number, None)
                if self._chooses is not None:
                    self._chooses.defined(number, plan)
            elif header.op == PLAN_REF_OP:
                yield from self._referred(view, header)
            else:
                yield _item(bytes(view[header.offset : header.offset + header.size]))

    def _referred(self, view: memoryview, header: CallHeader) -> Iterator[_Item]:
        ref = read_reference(view, header)
        plan = self._plans.get(ref.plan)
        if plan is None:
            raise ProtocolError(f"reference to plan {ref.plan}, not defined")
        if not ref.first and self._chooses is not None and not self._replies.broken:
            self._begins(self._chooses, ref.plan, len(plan), ref.index)
        for k, record, fixed in records(plan, ref):
            yield _item(record, ref.plan, k, fixed)

    def _begins(self, chooses: Chooses, number: int, calls: int, index: int) -> None:
        """An inference begins: see to its placement, or have it timed."""
        while self._profiles:
            chooses.arrived(*self._profiles.popleft(), self._knows.memory)
        if self._timing is not None:
            # What is timed at home from now on is of another plan.
            chooses.left(self._timing.plan)
            self._timing = None
        if chooses.begins(number, self._knows.code):
            self._placed.pop(number, None)
            # Nothing but its calls is to be numbered at home meanwhile.
            if transfers := self._coherence.stale(HOME, self._knows.memory):
                self._bring(transfers)
            self._timing = _Timing(number, calls, index, self._next[HOME], [])
            self._profile(HOME, chooses.profile_of(number), calls)
        else:
            self.place(number, chooses.placed(number))
            if chooses.contained(number, self._knows.code):
                with self._arrival:
                    told = pack_result(number, 0, _INDEX.pack(index), RESULT_CONTAINED)
                    self._replies.say(told)

    def _times(self, chooses: Chooses, timing: _Timing, item: _Item, replies: bool) -> None:
        """A call came while an inference is being timed, and was sent."""
        whole = item.plan == timing.plan and item.place == len(timing.records)
        follows = self._next[HOME] == timing.own + len(timing.records) + 1
        if not (whole and follows) or item.header.index != timing.index + item.place:
            # The numbers that are timed at home are of other calls.
            self._timing = None
            chooses.left(timing.plan)
            return
        timing.records.append((item.record, replies))
        if len(timing.records) < timing.calls:
            return
        self._timing = None
        number = chooses.profile_of(timing.plan)
        # Once more at the robot, which the program does not wait for.
        self._profile(ROBOT, number, timing.calls)
        for record, replies_ in timing.records:
            self._shadow(record, replies_)
        self._shadowed = self._next[ROBOT] - 1
        if chooses.timed(timing.plan):
            for place in _PLACES:
                self._profile(place, number, 0)

    def _shadow(self, record: bytes, replies: bool) -> None:
        """Execute a call on the robot that ran at home, only to see how long it takes.

        What it reads is not brought. That is why work runs only if nothing that is read decides
        what it touches; what it writes is of no use.
        """
        (header,) = iter_headers(record)
        call = decode_call(memoryview(record), header)
        if call.op.work is not Work.NONE:
            touched = self._knows.written(call)
            if touched.writes is None:
                # Something in its place, so that the numbers of the others are right.
                self._settle(ROBOT)
                return
            self._coherence.after((HOME,), touched, self._knows.memory)
        own = self._number(ROBOT)
        if replies:
            with self._arrival:
                self._replies.expect([(ROBOT, own)], 0, ROBOT)
        self._ready[ROBOT].append(_numbered(record, own))

    def _profile(self, place: int, number: int, calls: int) -> None:
        self._ready[place].append(
            pack_call("profile", 0, number=number, calls=calls, first=self._next[place])
        )

    def _call(self, item: _Item) -> None:
        record = decode_call(memoryview(item.record), item.header)
        op = record.op
        self._maps = self._maps or op.name in _MAPPED
        touched, placed = self._touched(item, record)
        if op.work is not Work.NONE and op.effect is Effect.NONE:
            unknown = touched.reads is None or touched.writes is None
            at = HOME
            if placed is not None and not unknown and not self._maps:
                at = placed.places[item.place]
            self._work[at] += 1
            self._unwaited[at].add(record["stream"])
            places: tuple[int, ...] = (at,)
        elif op.kind is Kind.INPUT:
            places = self._read_at(item, placed)
        elif op.brings_memory:
            places = (self._nearest(touched),)
            self._unwaited[places[0]].discard(record["stream"])
        elif op.kind in (Kind.SYNC, Kind.POLL):
            places, touched = self._asked(record), Touched()
        else:
            places, touched = _PLACES, Touched()
        memory = self._knows.memory
        for place in places:
            transfers = self._coherence.before(place, touched, memory)
            if placed is not None and item.place in placed.wanted and len(places) == 1:
                transfers += self._coherence.before(place, placed.wanted[item.place], memory)
            if transfers:
                self._bring(transfers)
        self._send(item, record, places)
        self._coherence.after(places, touched, memory)
        self._followed(record)
        if self._timing is not None and self._chooses is not None:
            replies = bool(item.header.flags & FLAG_REPLY)
            self._times(self._chooses, self._timing, item, replies)

    def _touched(self, item: _Item, record: CallRecord) -> tuple[Touched, Placed | None]:
        """What a call touches, and the placement of its plan where one holds."""
        placed = self._placed.get(item.plan)
        if placed is not None and placed.code != self._knows.code:
            # Its kernels may be others by now.
            del self._placed[item.plan]
            placed = None
        if placed is not None and item.fixed:
            return placed.touched[item.place], placed
        if placed is None and record.op.work is not Work.NONE and self._coherence.current(HOME):
            # It runs at home, which lacks nothing that it could read.
            return self._knows.written(record), placed
        return self._knows.touched(record), placed

    def _read_at(self, item: _Item, placed: Placed | None) -> tuple[int, ...]:
        """Where an upload goes: of a placed plan to the first that reads it, else to all."""
        if placed is None or self._maps or not item.fixed:
            return _PLACES
        written = placed.touched[item.place].covers
        for k in range(item.place + 1, len(placed.places)):
            if placed.work[k] and _meet(placed.touched[k].reads, written):
                at = placed.places[k]
                probes = self._chooses is not None and self._chooses.probes(at == HOME)
                return _PLACES if probes else (at,)
        return _PLACES

    def _nearest(self, touched: Touched) -> int:
        """Where the least of what is read has to be brought; at home, if that is equal."""
        order = (HOME, *(place for place in _PLACES if place != HOME))
        return min(order, key=lambda place: self._coherence.missing(place, touched))

    def _asked(self, record: CallRecord) -> tuple[int, ...]:
        """Who has to be waited for, or asked: where work is that the program did not wait for.

        If there is none, one place is enough: the robot's, which is near, unless it is busy with
        what the program knows nothing of.
        """
        name, waiting = record.op.name, [p for p in _PLACES if self._unwaited[p]]
        if self._timing is not None:
            waiting = [HOME]  # where everything of such an inference is
        if name == "ctx_synchronize":
            for streams in self._unwaited:
                streams.clear()
        elif name == "stream_synchronize":
            stream = record["stream"]
            if stream and self._timing is None:  # the legacy stream waits for others, too
                waiting = [p for p in waiting if stream in self._unwaited[p]]
            for streams in self._unwaited:
                streams.discard(stream)
        if not waiting:
            return (HOME if self._executed[ROBOT] < self._shadowed else ROBOT,)
        return tuple(waiting)

    def _send(self, item: _Item, record: CallRecord, places: tuple[int, ...]) -> None:
        index, header = item.header.index, item.header
        owns = [(place, self._number(place)) for place in places]
        with self._arrival:
            for place, own in owns:
                self._replies.sent(place, own, index)
            if header.flags & FLAG_REPLY:
                speaks = HOME if HOME in places else places[0]
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

    def _bring(self, transfers: Sequence[Transfer]) -> None:
        """Read bytes at one place and write them at another, all in one exchange."""
        source, target = transfers[0].source, transfers[0].target
        # What other streams have under way there is finished first.
        self._settle(source)
        got: dict[int, tuple[int, bytes]] = {}
        memory = self._knows.memory
        spans = [piece for one in transfers for piece in _pieces(one.span, memory)]
        for start, end in spans:
            own = self._number(source)
            with self._arrival:
                self._replies.expect([(source, own)], 0, source, told=_keeping(got, start))
            self._ready[source].append(
                pack_call("memcpy_dtoh", own, src=start, size=end - start, stream=0)
            )
        self._flush()
        with self._arrival:
            self._arrival.wait_for(lambda: len(got) == len(spans) or self._over, self._patience_s)
        if len(got) < len(spans):
            why = self._over or f"has not answered for {self._patience_s} s"
            size = sum(end - start for start, end in spans)
            raise UnavailableError(f"place {source} {why}: {size} bytes are missing")
        for status, text in got.values():
            if status:
                # Its answer broke the session, or does now: nothing else can be right.
                with self._arrival:
                    self._replies.break_(0, status, text)
                return
        self._settle(target)
        for start, _ in spans:
            own = self._number(target)
            self._ready[target].append(
                pack_call("memcpy_htod", own, dst=start, stream=0, payload=got[start][1])
            )

    def _settle(self, place: int) -> None:
        """All work at a place is finished before what comes next; nobody asked for that."""
        own = self._number(place)
        with self._arrival:
            self._replies.expect([(place, own)], 0, place)
        self._ready[place].append(pack_call("ctx_synchronize", own, context=0))

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

    def _checkpoint(self, item: _Item) -> None:
        """What memory holds is told by the home, which is brought all of it before."""
        transfers = self._coherence.stale(HOME, self._knows.memory)
        if transfers:
            self._bring(transfers)
        self._ready[HOME].append(item.record)
        self._flush()

    # ---- any thread

    def results(self, place: int, records: Buffer) -> None:
        """Take result records of a place.

        Raises:
            ProtocolError: They do not fit the format, or answer nothing.
        """
        with self._arrival:
            for result in iter_results(records):
                if result.flags & RESULT_PROFILE:
                    kept = replace(result, payload=memoryview(bytes(result.payload)))
                    self._profiles.append((place, kept))
                elif result.flags & RESULT_STATE:
                    state = pack_result(result.index, result.status, result.payload, RESULT_STATE)
                    self._replies.say(state)
                else:
                    self._replies.arrived(place, result)
            self._arrival.notify_all()

    def progress(self, place: int, own: int) -> tuple[int, int]:
        """A place has executed its calls up to a number.

        Returns:
            How many batches all places have executed, and the last call in them.
        """
        with self._arrival:
            self._executed[place] = max(self._executed[place], own)
            while self._marks and all(
                done >= wanted
                for done, wanted in zip(self._executed, self._marks[0][0], strict=True)
            ):
                self._done_call = self._marks.popleft()[1]
                self._done += 1
            return self._done, self._done_call

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


def _keeping(got: dict[int, tuple[int, bytes]], start: int) -> Callable[[int, bytes], None]:
    def told(status: int, data: bytes) -> None:
        got[start] = status, data

    return told


def _pieces(span: Range, memory: Sequence[Range]) -> Iterator[Range]:
    """A range in pieces that fit a record well, each in one allocation; no memory is left out."""
    first = max(0, bisect_right(memory, (span[0], span[0])) - 1)
    for base, limit in memory[first:]:
        if base >= span[1]:
            return
        low, high = max(base, span[0]), min(limit, span[1])
        for start in range(low, high, PIECE_BYTES):
            yield start, min(start + PIECE_BYTES, high)


def _meet(some: Sequence[Range] | None, others: Sequence[Range]) -> bool:
    if some is None:
        return True
    return any(a < d and c < b for a, b in some for c, d in others)
