"""The plans that a session's cursor may walk.

Owns their numbers, where each call is found in them, how their walks went, and which of them rest
because they kept failing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rrto_ros.wire.plan import MAX_PLANS, Plan

MAX_DEFINED_BYTES = 60 << 20
"""Below what a server takes in one session."""
_IDLE_ENTRIES = 256
_REST = 4
_LONGEST_REST = 1024
_NEVER = 1 << 62


class Known:
    """A plan, and how its walks went.

    Attributes:
        number: Its number in the session.
        plan: The plan.
        codes, keys, length: Of its calls; see `Plan.keys`.
        ranges: Call -> (start, end) of its varying words in the key.
        shared: Number of another plan -> how many first calls are the same.
        active: Whether cursors may enter it.
        completed, failed: Walks to its end, and walks that ended before.
        misses: Failed walks since one reached the end.
        streak: Those of them that had less than half of the plan.
        ended: The last walk that reached its end, in walks of the session.
        used: When a walk entered it last, in such entries of the session.
        rest: How long it will rest when it is dropped, in lengths of the plan and times
            `drop_after`; longer each time, until a walk reaches the end.
        back_at: Until then it rests, in calls of the session.
        start_up: It is what the program does once, before it repeats itself, and is not over.
        inferences: How many a walk to its end stands for.
    """

    __slots__ = (
        "active", "back_at", "codes", "completed", "ended", "failed", "inferences", "keys",
        "length", "misses", "number", "plan", "ranges", "rest", "shared", "start_up", "streak",
        "used",
    )  # fmt: skip

    def __init__(self, number: int, plan: Plan) -> None:
        self.number = number
        self.plan = plan
        self.codes = [call.code for call in plan.calls]
        self.keys = plan.keys
        self.length = len(plan)
        # In a key the payload's length (4 bytes) comes before the body.
        self.ranges = {
            k: tuple((a + 4, b + 4) for a, b in ranges) for k, ranges in plan.ranges.items()
        }
        self.shared: dict[int, int] = {}
        self.active = True
        self.completed = 0
        self.ended = 0
        self.failed = 0
        self.misses = 0
        self.streak = 0
        self.used = 0
        self.rest = _REST
        self.back_at = 0
        self.start_up = False
        self.inferences = 1

    def equals(self, position: int, code: int, key: bytes) -> bool:
        """Whether a record is the call at a position, varying words aside."""
        if position >= self.length or self.codes[position] != code:
            return False
        wanted = self.keys[position]
        ranges = self.ranges.get(position)
        if ranges is None:
            return key == wanted
        if len(key) != len(wanted):
            return False
        blank = bytearray(key)
        for start, end in ranges:
            blank[start:end] = bytes(end - start)
        return blank == wanted


class KnownPlans:
    """The plans of one session. Not thread-safe.

    Args:
        leave: Told of a plan that no cursor may stand in any longer.
        drop_after: A plan whose walks failed so often in a row rests for a while.
        keeps: Whether somebody else still uses a number, so that it must not mean another plan.
    """

    def __init__(
        self,
        leave: Callable[[Known], None],
        drop_after: int,
        keeps: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._leave = leave
        self._drop_after = drop_after
        self._numbered: dict[int, Known] = {}
        self._by_digest: dict[bytes, Known] = {}
        self._where: dict[tuple[int, bytes], list[tuple[Known, int]]] = {}
        self._held: dict[int, int] = {}
        self._walks = 0
        self._entries = 0
        self._completed = 0
        self._dropped = 0
        self._refused = 0
        self._keeps: Callable[[int], bool] = keeps
        self.version = 0
        """Counts changes of `active`."""
        self.active: list[Known] = []
        self.resting: list[Known] = []
        self.last: Known | None = None
        """The plan that was walked to its end last."""
        self.started = False
        """Whether the program has started as it did before."""
        self.proven: list[Plan] = []
        """Plans that were walked to their end for the first time; for whoever keeps them."""

    @property
    def completed(self) -> int:
        """Walks that reached their plan's end."""
        return self._completed

    def statistics(self) -> Mapping[str, int]:
        """Plans by state, and their walks."""
        return {
            "plans": len(self.active),
            "plans_defined": len(self._numbered),
            "plans_dropped": self._dropped,
            "plans_refused": self._refused,
            "walks": self._walks,
            "walks_completed": self._completed,
        }

    def add(self, plan: Plan, start_up: int | None = None) -> Known | None:
        """Let cursors walk a plan; returns it if the server has to be told of it first.

        Args:
            plan: The plan.
            start_up: It is what the program does once, with so many inferences; no cursor enters
                it by itself.
        """
        if plan.digest in self._by_digest:
            return None
        size = len(plan.encoded)
        number = self._number(size)
        if not number:
            self._refused += 1
            return None
        known = Known(number, plan)
        self._numbered[number] = self._by_digest[plan.digest] = known
        self._held[number] = size
        if start_up is not None:
            known.active, known.start_up, known.inferences = False, True, start_up
            known.back_at = _NEVER
            self.resting.append(known)
            return known
        for other in self._numbered.values():
            if other is not known:
                known.shared[other.number] = other.shared[number] = _shared(known, other)
        self._activate(known)
        return known

    def numbered(self, number: int) -> Known | None:
        """The plan of a number."""
        return self._numbered.get(number)

    def begin(self, known: Known) -> None:
        """A walk begins."""
        self._walks += 1
        self.enter(known)

    def enter(self, known: Known) -> None:
        """A walk goes on in this plan."""
        self._entries += 1
        known.used = self._entries

    def complete(self, known: Known) -> None:
        """A walk reached the plan's end."""
        self._completed += known.inferences
        if known.start_up:
            known.start_up = False
            self.started = True
            return
        if not known.completed:
            self.proven.append(known.plan)
        known.completed += 1
        known.ended = self._walks
        known.misses = known.streak = 0
        known.rest = _REST
        self.last = known

    def fail(self, known: Known, walked: int, now: int) -> None:
        """A walk ended that left something out.

        Args:
            known: Its plan.
            walked: Calls of the plan that the walk had.
            now: Calls of the session so far.
        """
        known.failed += 1
        known.misses += 1
        if 2 * walked >= known.length:
            return  # most of it was of use
        known.streak += 1
        if known.streak >= self._drop_after and known.active:
            self._dropped += 1
            known.back_at = now + known.rest * self._drop_after * known.length
            known.rest = min(2 * known.rest, _LONGEST_REST)
            self._deactivate(known)
            self.resting.append(known)

    def wake(self, now: int) -> None:
        """Let cursors walk again what has rested long enough; `now` in calls of the session."""
        for known in [k for k in self.resting if now >= k.back_at]:
            self.resting.remove(known)
            self._activate(known)

    def first(self, code: int, key: bytes) -> Known | None:
        """The likeliest plan that begins with this call."""
        best: Known | None = None
        for other in self.active:
            if _likelier(other, best) and other.equals(0, code, key):
                best = other
        return best

    def variant(self, known: Known, position: int, code: int, key: bytes) -> Known | None:
        """The likeliest plan with the same calls up to `position`, where it has this call."""
        best: Known | None = None
        for other in self.active:
            shared = other.shared.get(known.number, 0)
            if shared >= position and _likelier(other, best) and other.equals(position, code, key):
                best = other
        return best

    def whole(self, known: Known, position: int) -> Known | None:
        """The plan that is over at a position of another, and equals that up to there."""
        for other in self.active:
            if other.length == position <= other.shared.get(known.number, 0):
                return other
        return None

    def places(self, code: int, key: bytes) -> list[tuple[Known, int]]:
        """Where plans have this call: the first place in each."""
        return self._where.get((code, key), [])

    def longest(self, known: Known, position: int) -> Known:
        """Of the plans with the same calls up to a position and more, the one walked last."""
        best = known
        for other in self.active:
            same = other.shared.get(known.number, 0) >= position < other.length
            if same and (best.length <= position or other.ended > best.ended):
                best = other
        return best

    def _number(self, size: int) -> int:
        """A number for a plan of so many bytes, 0 if there is none."""
        held = sum(self._held.values())
        if len(self._held) < MAX_PLANS and held + size <= MAX_DEFINED_BYTES:
            return next(n for n in range(1, MAX_PLANS + 1) if n not in self._held)
        for idle in sorted(self._numbered.values(), key=lambda k: k.used):
            if idle.start_up or (idle.active and self._entries - idle.used < _IDLE_ENTRIES):
                continue
            if self._keeps(idle.number):
                # It is asked to let it go; a plan that is still wanted then is offered again.
                if idle.active:
                    self._deactivate(idle)
                    idle.back_at = _NEVER
                    self.resting.append(idle)
                return 0
            # The server keeps a plan until its number is defined anew.
            if held - self._held[idle.number] + size <= MAX_DEFINED_BYTES:
                self._forget(idle)
                return idle.number
        return 0

    def _forget(self, known: Known) -> None:
        if known.active:
            self._deactivate(known)
        else:
            self.resting.remove(known)
        del self._numbered[known.number], self._by_digest[known.plan.digest]

    def _activate(self, known: Known) -> None:
        known.active, known.streak, known.used = True, 0, self._entries
        self.version += 1
        self.active.append(known)
        for k in range(known.length):
            if k not in known.ranges:
                places = self._where.setdefault((known.codes[k], known.keys[k]), [])
                if not any(other is known for other, _ in places):
                    places.append((known, k))

    def _deactivate(self, known: Known) -> None:
        known.active = False
        self.version += 1
        self.active.remove(known)
        for k in range(known.length):
            call = (known.codes[k], known.keys[k])
            places = self._where.get(call)
            if places is not None:
                places[:] = [p for p in places if p[0] is not known]
                if not places:
                    del self._where[call]
        # Its number may come to mean another plan.
        self._leave(known)


def _likelier(plan: Known, than: Known | None) -> bool:
    """Whether a walk rather goes on in this plan.

    In the one that failed less often since it last reached its end, so that a new one is tried at
    once and does not stay where another fits better; then in the one that was entered last.
    """
    return than is None or (-plan.misses, plan.used) >= (-than.misses, than.used)


def _shared(a: Known, b: Known) -> int:
    """How many first calls two plans share."""
    count = 0
    for k in range(min(a.length, b.length)):
        same = a.codes[k] == b.codes[k] and a.keys[k] == b.keys[k]
        if not same or a.ranges.get(k) != b.ranges.get(k):
            break
        count += 1
    return count
