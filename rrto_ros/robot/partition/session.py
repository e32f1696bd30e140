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

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rrto_ros.api.ops import Effect, Kind, Work
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.partition.adaptive import Adaptive
from rrto_ros.robot.partition.carrier import Carrier, PlaceEnd, numbered
from rrto_ros.robot.partition.placed import BOTH, HOME, ROBOT, Chooses, Knowledge, Placed
from rrto_ros.robot.partition.replies import OrderedReplies
from rrto_ros.robot.partition.sampling import Kept, came
from rrto_ros.schedule.coherence import Coherence
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.codec import CallHeader, CallRecord, decode_call, iter_headers
from rrto_ros.wire.format import (
    CHECKPOINT_OP,
    FLAG_REPLY,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    RESULT_PROFILE,
    RESULT_STATE,
    Buffer,
)
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import read_reference, records
from rrto_ros.wire.result_codec import ResultRecord, iter_results, pack_contained, pack_result

_ALIKE = frozenset(("module_load", "kernel_load", "texture_create"))
"""What all places must answer alike, or the program's later calls would not mean the same."""
_MAPPED = frozenset(("mem_create", "mem_map"))


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
        adaptive: Says what may cross in fewer bits; None: all of it crosses exactly.
    """

    def __init__(
        self,
        ends: Sequence[PlaceEnd],
        knowledge: Knowledge,
        deliver: Callable[[bytes], None],
        chooses: Chooses | None = None,
        patience_s: float | None = None,
        adaptive: Adaptive | None = None,
    ) -> None:
        self._knows = knowledge
        self._chooses = chooses
        self._arrival = threading.Condition(threading.RLock())
        self._replies = OrderedReplies(len(ends), deliver)
        self._out = Carrier(
            ends, self._replies, self._arrival, lambda: knowledge.memory, patience_s
        )
        self._adaptive = adaptive
        self._coherence = Coherence(BOTH) if adaptive is None else adaptive.coherence
        self._timing: _Timing | None = None
        self._profiles: deque[tuple[int, ResultRecord]] = deque()
        self._plans: dict[int, Plan] = {}
        self._placed: dict[int, Placed] = {}
        self._loads: list[tuple[CallRecord, bytes]] = []
        self._maps = False
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
        self._out.flush()
        with self._arrival:
            self._marks.append((tuple(own - 1 for own in self._out.next), self._last))

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
                if self._adaptive is not None:
                    self._adaptive.defined(number)
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
        if not ref.first and not self._replies.broken:
            if self._chooses is not None:
                self._begins(self._chooses, ref.plan, len(plan), ref.index)
            if self._adaptive is not None:
                placed = None if self._timing is not None else self._placed.get(ref.plan)
                self._adaptive.begins(ref.plan, ref.index, placed)
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
                self._out.bring(transfers)
            self._timing = _Timing(number, calls, index, self._out.next[HOME], [])
            self._out.profile(HOME, chooses.profile_of(number), calls)
        else:
            self.place(number, chooses.placed(number))
            if chooses.contained(number, self._knows.code):
                with self._arrival:
                    self._replies.say(pack_contained(number, index))

    def _times(self, chooses: Chooses, timing: _Timing, item: _Item, replies: bool) -> None:
        """A call came while an inference is being timed, and was sent."""
        whole = item.plan == timing.plan and item.place == len(timing.records)
        follows = self._out.next[HOME] == timing.own + len(timing.records) + 1
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
        self._out.profile(ROBOT, number, timing.calls)
        for record, replies_ in timing.records:
            self._shadow(record, replies_)
        self._shadowed = self._out.next[ROBOT] - 1
        if chooses.timed(timing.plan):
            for place in BOTH:
                self._out.profile(place, number, 0)

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
                self._out.settle(ROBOT)
                return
            self._coherence.after((HOME,), touched, self._knows.memory)
        own = self._out.number(ROBOT)
        if replies:
            with self._arrival:
                self._replies.expect([(ROBOT, own)], 0, ROBOT)
        self._out.add(ROBOT, numbered(record, own))

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
            places, touched = BOTH, Touched()
        memory = self._knows.memory
        for place in places:
            if placed is not None and item.fixed and (adaptive := self._adaptive) is not None:
                bits = adaptive.bits(item.plan, placed) if placed.work[item.place] else 0
                if bits:
                    adaptive.bring(self._out, place, item.place, touched, placed, memory, bits)
                    continue
            transfers = self._coherence.before(place, touched, memory)
            if placed is not None and item.place in placed.wanted and len(places) == 1:
                transfers += self._coherence.before(place, placed.wanted[item.place], memory)
            if transfers:
                self._out.bring(transfers)
        self._send(item, record, places)
        self._coherence.after(places, touched, memory)
        self._followed(record)
        if self._adaptive is not None and self._adaptive.sample is not None:
            self._sampled(self._adaptive, item, record, touched, places[0])
        if self._timing is not None and self._chooses is not None:
            replies = bool(item.header.flags & FLAG_REPLY)
            self._times(self._chooses, self._timing, item, replies)

    def _sampled(
        self, adaptive: Adaptive, item: _Item, record: CallRecord, touched: Touched, at: int
    ) -> None:
        """A call came while an inference is a sample, and was sent."""
        sample = adaptive.sample
        if sample is None or self._placed.get(item.plan) is not sample.placed or self._maps:
            adaptive.sample = None
            return
        work, brings = sample.placed.work[item.place], record.op.brings_memory
        one = Kept(item.place, item.record, touched, at, work, brings)
        index, memory = item.header.index, self._knows.memory
        came(adaptive, sample, one, item.plan, index, self._out, memory)

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
            return BOTH
        written = placed.touched[item.place].covers
        for k in range(item.place + 1, len(placed.places)):
            if placed.work[k] and _meet(placed.touched[k].reads, written):
                at = placed.places[k]
                probes = self._chooses is not None and self._chooses.probes(
                    at == HOME or placed.crosses
                )
                return BOTH if probes else (at,)
        return BOTH

    def _nearest(self, touched: Touched) -> int:
        """Where the least of what is read has to be brought; at home, if that is equal."""
        order = (HOME, *(place for place in BOTH if place != HOME))
        return min(order, key=lambda place: self._coherence.missing(place, touched))

    def _asked(self, record: CallRecord) -> tuple[int, ...]:
        """Who has to be waited for, or asked: where work is that the program did not wait for.

        If there is none, one place is enough: the robot's, which is near, unless it is busy with
        what the program knows nothing of.
        """
        name, waiting = record.op.name, [p for p in BOTH if self._unwaited[p]]
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
        owns = [(place, self._out.number(place)) for place in places]
        with self._arrival:
            for place, own in owns:
                self._replies.sent(place, own, index)
            if header.flags & FLAG_REPLY:
                speaks = HOME if HOME in places else places[0]
                alike = record.op.name in _ALIKE
                told = None
                if record.op.effect is Effect.LOAD:
                    told = self._loading(record)
                elif record.op.brings_memory and self._adaptive is not None:
                    told = self._adaptive.output(item.plan, item.place)
                self._replies.expect(owns, index, speaks, alike=alike, told=told)
        for place, own in owns:
            self._out.add(place, numbered(item.record, own))
        if header.flags & FLAG_REPLY:
            self._out.flush()

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

    def _checkpoint(self, item: _Item) -> None:
        """What memory holds is told by the home, which is brought all of it before."""
        transfers = self._coherence.stale(HOME, self._knows.memory)
        if transfers:
            self._out.bring(transfers)
        self._out.add(HOME, item.record)
        self._out.flush()

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
            self._out.over = self._out.over or why
            self._arrival.notify_all()


def _item(record: bytes, plan: int = -1, place: int = 0, fixed: bool = False) -> _Item:
    (header,) = iter_headers(record)
    return _Item(header, record, plan, place, fixed)


def _meet(some: Sequence[Range] | None, others: Sequence[Range]) -> bool:
    if some is None:
        return True
    return any(a < d and c < b for a, b in some for c, d in others)
