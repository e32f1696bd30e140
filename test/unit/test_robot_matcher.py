"""The C matcher: it says of every call what a plain matcher of a few lines says.

RRTO_MATCHES sets how many random sessions are compared (default 60; 5000 take a minute).
"""

import os
import random

import pytest

from rrto_ros.robot.matcher import Event, Matcher
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import HEADER_BYTES
from rrto_ros.wire.plan import Plan, Varying
from rrto_ros.wire.templates import CallTemplate

SESSIONS = int(os.environ.get("RRTO_MATCHES", "60"))
LETTERS = 5
BODY = 24


def template(letter, word=0):
    return CallTemplate(1 + letter % 3, 0, bytes([letter]) * 16 + word.to_bytes(8, "little"))


def records(some):
    """Records as they come out of the ring, in memory that can be written."""
    return memoryview(bytearray(b"".join(some)))


def plan_of(letters, varies=()):
    """Calls by letter; the last word varies in those at the places of `varies`."""
    calls = [template(letter, 0 if k in varies else 7) for k, letter in enumerate(letters)]
    where = [Varying(k, HEADER_BYTES + 16, 8) for k in sorted(varies)]
    return Plan(tuple(calls), tuple(where))


class Lane:
    """Where the plain matcher stands: (number of the plan, next position)."""

    def __init__(self, plan=0):
        self.plan = self.begun = plan
        self.position = self.missing = 0
        self.diverged = False


class Plain:
    """The rule of shim/core/match.c, without a thought of speed."""

    def __init__(self):
        self.plans, self.active, self.once, self.start_up = {}, set(), set(), 0
        self.misses, self.used, self.entries = {}, {}, 0
        self.apart, self.lanes, self.events, self.stray = False, {}, [], False

    def add(self, number, plan, start_up):
        self.plans[number], self.misses[number], self.used[number] = plan, 0, 0
        if start_up:
            self.once.add(number)
            self.start_up = number
            self.lanes[0] = Lane(number)
        else:
            self.set_active(number, True)

    def set_active(self, number, active):
        if active and number not in self.active:
            self.entries += 1
            self.used[number] = self.entries
        (self.active.add if active else self.active.discard)(number)
        for lane in self.lanes.values() if not active else ():
            if lane.plan == number:
                lane.__init__()
            if lane.begun == number:
                lane.begun = lane.plan

    def same(self, number, position, call):
        plan = self.plans[number]
        if position >= len(plan):
            return False
        ranges = plan.ranges.get(position, ())
        body = bytearray(call.body)
        for start, end in ranges:
            body[start:end] = bytes(end - start)
        return (call.code, body) == (plan.calls[position].code, plan.calls[position].body)

    def shared(self, a, b):
        if self.start_up in (a, b):
            return 0
        a, b = self.plans[a], self.plans[b]
        both = range(min(len(a), len(b)))
        return next(
            (k for k in both if (a.calls[k], a.ranges.get(k)) != (b.calls[k], b.ranges.get(k))),
            len(both),
        )

    def likeliest(self, numbers):
        return max(sorted(numbers), key=lambda n: (-self.misses[n], self.used[n]), default=0)

    def note(self, kind, number, value=0):
        self.events.append((int(kind), number, value))

    def enter(self, kind, number, value):
        self.entries += 1
        self.used[number] = self.entries
        self.note(kind, number, value)

    def whole(self, lane):
        if not lane.plan or lane.missing:
            return 0
        fits = (n for n in sorted(self.active) if len(self.plans[n]) == lane.position)
        return next((n for n in fits if self.shared(lane.plan, n) >= lane.position), 0)

    def diverge(self, lane):
        if not lane.diverged:
            self.note(Event.DIVERGED, lane.plan, lane.position)
        lane.diverged = True

    def left(self, lane):
        over = self.whole(lane)
        self.misses[lane.plan] += 1
        if over:
            self.complete(over, 1)
            return
        self.stray = True
        self.diverge(lane)
        self.note(Event.FAILED, lane.plan, max(0, lane.position - lane.missing))
        if lane.begun and lane.begun != lane.plan:
            self.misses[lane.begun] += 1

    def complete(self, number, before):
        self.once.discard(number)
        self.misses[number] = 0
        self.note(Event.COMPLETED, number, before)

    def begun(self, lane, call):
        def best():
            return self.likeliest(n for n in self.active if self.same(n, 0, call))

        if best() and lane.plan and lane.position < len(self.plans[lane.plan]):
            self.left(lane)
        number = best()
        if number:
            self.enter(Event.BEGUN, number, 0)
            lane.__init__(number)
        return number

    def variant(self, lane, call):
        at = lane.position
        number = self.likeliest(
            n
            for n in self.active
            if lane.plan and at and n != lane.plan and self.shared(lane.plan, n) >= at
            and self.same(n, at, call)
        )  # fmt: skip
        if number:
            self.enter(Event.ENTERED, number, at)
            lane.plan = number
        return number

    def elsewhere(self, lane, call):
        places = {}
        for n in self.active:
            plan = self.plans[n]
            fixed = (k for k in range(len(plan)) if k not in plan.ranges)
            places[n] = next((k for k in fixed if self.same(n, k, call)), None)
        found = {n for n, k in places.items() if k is not None}
        number = lane.plan if lane.plan in found else self.likeliest(found)
        inside = lane.plan and lane.position < len(self.plans[lane.plan])
        if number and number != lane.plan and inside:
            self.left(lane)
        if number:
            self.skip(lane, number, places[number])
            lane.position = places[number]
        return number

    def skip(self, lane, number, at):
        on = number == lane.plan and at > lane.position
        lane.missing = lane.missing + at - lane.position if on else at
        lane.plan = number

    def seek(self, lane, call):
        plan, diverged = lane.plan, lane.diverged
        if not self.active and plan not in self.once:
            self.stray = True
            return 0
        if diverged:
            fits = plan and self.same(plan, lane.position, call)
            if not (fits and plan in self.once) and self.begun(lane, call):
                return lane.plan
            if fits:
                return plan
        if self.variant(lane, call) or (not diverged and self.begun(lane, call)):
            return lane.plan
        self.stray = True
        if plan and lane.position < len(self.plans[plan]) and not self.whole(lane):
            self.diverge(lane)
        return self.elsewhere(lane, call)

    def match(self, thread, call):
        lane = self.lanes.setdefault(thread if self.apart else 0, Lane())
        number = lane.plan
        if not number or lane.diverged or not self.same(number, lane.position, call):
            number = self.seek(lane, call)
        at = lane.position
        if number:
            self.took(lane, 1)
        return number, at if number else 0

    def took(self, lane, calls):
        lane.position += calls
        lane.diverged = False
        plan = lane.plan
        if lane.position < len(self.plans[plan]):
            return
        if lane.missing:
            self.misses[plan] += lane.begun == plan
            self.note(Event.FAILED, plan, max(0, len(self.plans[plan]) - lane.missing))
        else:
            self.complete(plan, 0)

    def follow(self, thread, number, first, calls):
        lane = self.lanes.setdefault(thread if self.apart else 0, Lane())
        if lane.plan != number or lane.position != first or not first:
            self.go(lane, number, first)
        lane.position = first
        self.took(lane, calls)
        if number not in self.active:
            lane.__init__()

    def go(self, lane, number, at):
        old = lane.plan
        here = old and old != number and at and at == lane.position
        if here and self.shared(old, number) >= at:
            self.enter(Event.ENTERED, number, at)
            lane.plan = number
            return
        if old and 0 < lane.position < len(self.plans[old]):
            if not at:
                self.left(lane)
            elif not self.whole(lane):
                self.stray = True
                self.diverge(lane)
        if not at:
            self.enter(Event.BEGUN, number, 0)
            lane.__init__(number)
            return
        self.stray = True
        self.skip(lane, number, at)

    def parted(self):
        return all(
            not lane.plan or lane.position in (0, len(self.plans[lane.plan]))
            for lane in self.lanes.values()
        )


def random_plans(rng):
    """Plans that begin alike, contain each other, repeat themselves and vary."""
    base = [rng.randrange(LETTERS) for _ in range(rng.randint(2, 9))]
    for _ in range(rng.randint(1, 6)):
        letters = list(base)
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(letters))
            letters[at : at + rng.randint(0, 2)] = [rng.randrange(LETTERS)]
        letters = letters[: rng.randint(1, len(letters))] if rng.random() < 0.4 else letters
        varies = {k for k in range(len(letters)) if rng.random() < 0.15}
        yield plan_of(letters, varies)


def random_calls(rng, plans):
    """Rounds of the plans with calls left out, put in and changed."""
    for _ in range(rng.randint(3, 25)):
        plan = rng.choice(plans)
        for k, call in enumerate(plan.calls):
            chance = rng.random()
            if chance < 0.05:
                continue
            if chance < 0.12:
                yield template(rng.randrange(LETTERS), rng.choice((7, 9)))
            word = rng.randrange(1, 99) if k in plan.ranges and rng.random() < 0.7 else None
            yield (
                call
                if word is None
                else CallTemplate(call.code, 0, call.body[:16] + word.to_bytes(8, "little"))
            )


@pytest.mark.parametrize("seed", range(SESSIONS))
def test_it_says_what_a_plain_matcher_says(seed):
    rng = random.Random(seed)
    plans = list({plan.digest: plan for plan in random_plans(rng)}.values())
    numbers = dict(enumerate(plans, 1))
    plain, matcher = Plain(), Matcher()
    plain.apart = rng.random() < 0.3
    matcher.set_apart(plain.apart)
    once = rng.choice((0, 0, len(plans))) if not plain.apart else 0
    for number, plan in numbers.items():
        plain.add(number, plan, number == once)
        assert matcher.add(number, plan, start_up=number == once)
    calls = list(random_calls(rng, plans))
    at = 0
    while at < len(calls):
        if rng.random() < 0.2:
            number = rng.choice([n for n in numbers if n != once] or [0])
            if number:
                active = rng.random() < 0.6
                plain.set_active(number, active)
                matcher.set_active(number, active)
        if rng.random() < 0.15:
            number = rng.choice(sorted(numbers))
            first = rng.randrange(len(numbers[number]))
            count = rng.randint(1, len(numbers[number]) - first)
            plain.follow(1, number, first, count)
            happened = matcher.follow(1, number, first, count)
            assert happened == plain.events
            assert matcher.clean == (not plain.stray)
            plain.events.clear()
            plain.stray = False
        some = calls[at : at + rng.randint(1, 20)]
        threads = [rng.randint(1, 3) for _ in some]
        data = records(
            call.record(at + k + 1, thread, 0, None)
            for k, (call, thread) in enumerate(zip(some, threads, strict=True))
        )
        at += len(some)
        end, matched, events = matcher.feed(data, 0)
        assert end == len(data)
        got = [(m[8], m[9], m[10]) for m in matched]
        wanted = []
        for call, thread in zip(some, threads, strict=True):
            number, position = plain.match(thread, call)
            wanted.append((number, position, len(plain.events)))
        assert got == wanted
        assert events == plain.events
        plain.events.clear()
        assert (matcher.parted, matcher.clean) == (plain.parted(), not plain.stray)
        plain.stray = False
        if once:
            assert matcher.standing() == plain.lanes[0].plan


def test_every_kind_of_event_comes_up_in_the_random_sessions():
    """Else the comparison above would say little."""
    kinds, longest = set(), 0
    for seed in range(60):
        rng = random.Random(seed)
        plans = list({plan.digest: plan for plan in random_plans(rng)}.values())
        plain = Plain()
        for number, plan in enumerate(plans, 1):
            plain.add(number, plan, False)
        found = [plain.match(1, call)[0] for call in random_calls(rng, plans)]
        kinds |= {kind for kind, _, _ in plain.events}
        longest = max(longest, sum(map(bool, found)))
    assert kinds == set(Event)
    assert longest > 50


def test_it_stops_at_what_is_no_call_and_goes_on_after_it():
    matcher = Matcher()
    plan = plan_of([1, 2])
    matcher.add(1, plan)
    one, two = (call.record(k, 1, 0, None) for k, call in enumerate(plan.calls, 1))
    item = pack_call("plan_taken", 0, plan=1, state=1)
    damaged = bytearray(two)
    damaged[0:4] = (len(two) + 4).to_bytes(4, "little")
    for other in (item, bytes(24), damaged, two[:-8], two[:20], b"1234"):
        data = records([one, other])
        end, matched, _ = matcher.feed(data, 0)
        assert (end, [m[8:10] for m in matched]) == (len(one), [(1, 0)])
        assert matcher.feed(data, end)[0] == end
    data = records([item, two])
    end, matched, events = matcher.feed(data, len(item))
    assert (end, [m[8:10] for m in matched]) == (len(data), [(1, 1)])
    assert events == [(Event.COMPLETED, 1, 0)]


def test_more_calls_than_it_has_room_for_are_matched_in_turns():
    matcher = Matcher()
    plan = plan_of([1, 2])
    matcher.add(1, plan)
    data = records(call.record(k, 1, 0, None) for k in range(9000) for call in plan.calls)
    at = found = completed = 0
    while at < len(data):
        at, matched, events = matcher.feed(data, at)
        found += sum(m[8] == 1 for m in matched)
        completed += sum(kind == Event.COMPLETED for kind, _, _ in events)
    assert (found, completed) == (18_000, 9000)


def test_more_threads_than_it_has_lanes_for_begin_anew():
    matcher = Matcher()
    matcher.set_apart(True)
    plan = plan_of([1, 2, 3])
    matcher.add(1, plan)
    for position in range(3):
        for thread in range(1, 1500):
            matcher.feed(records([plan.calls[position].record(1, thread, 0, None)]), 0)
            assert matcher.lanes <= 1024


@pytest.mark.parametrize("damage", ["magic", "calls", "cut", "word"])
def test_a_plan_that_is_none_is_refused(damage):
    plan = plan_of([1, 2], {1})
    data = bytearray(plan.encoded)
    if damage == "magic":
        data[0] ^= 1
    elif damage == "calls":
        data[40] += 1
    elif damage == "cut":
        del data[-4:]
    else:
        data[-1] = 1
    plan.__dict__["encoded"] = bytes(data)
    matcher = Matcher()
    assert not matcher.add(1, plan)
    assert matcher.add(1, plan_of([1, 2]))
    assert not matcher.add(1, plan_of([3])), "the number has a plan"
    assert not matcher.add(65, plan_of([3])), "no such number"
