"""Where the walks of a session stand: owns which plan each is in, and which call it expects.

Each lane (the session, or one thread of it) walks one plan at a time. What a plan does not have is
looked for elsewhere: in variants that share what was walked so far, at the start of another plan,
further on in a plan. If it is nowhere the lane waits where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rrto_ros.robot.replay.known import Known, KnownPlans
from rrto_ros.wire.format import Buffer

__all__ = ["Fed", "Lane", "Lanes"]
MAX_LANES = 1024


@dataclass(slots=True)
class Lane:
    """Where one walk stands: the plan, and the call of it that is expected next."""

    known: Known | None = None
    begun: Known | None = None
    """The plan that this walk began in, of which `known` is a variant."""
    position: int = 0
    missing: int = 0
    """Calls of the plan that this walk left out."""
    astray: bool = False
    """The last call was none of the plan's."""

    def stand(self, known: Known | None) -> None:
        """A walk of this plan begins here; None: of none."""
        self.known = self.begun = known
        self.position = self.missing = 0
        self.astray = False

    @property
    def parted(self) -> bool:
        """Whether it is not in the middle of a plan."""
        return self.known is None or self.position in (0, self.known.length)


@dataclass(slots=True)
class Fed:
    """What one buffer of records became.

    Attributes:
        parts: What to send, in order; the open reference is not in it.
        waited: (index, flags) of the calls for which a program thread waits.
        quiet: Those for which one waits and whose result comes unasked.
        clean: Whether every call was the one that its cursor expected.
        parted: Whether no lane is in the middle of a plan now.
        items: Whether there were references, or answers about plans, of the shim.
        begun: Walks that began.
        ended: For each walk that reached its end, the index of the last call before it whose
            result a thread waits for; 0 for none.
        answers: Result records that the server pushed ahead, for calls that now came.
        wanted: Whether the program looks at host memory that some of the calls fill.
    """

    parts: list[Buffer] = field(default_factory=list)
    waited: list[tuple[int, int]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    clean: bool = True
    parted: bool = True
    items: bool = False
    begun: int = 0
    ended: list[int] = field(default_factory=list)
    answers: list[Buffer] = field(default_factory=list)
    wanted: bool = False


class Lanes:
    """The lanes of one session. Not thread-safe.

    Args:
        drop_after: A plan whose walks failed so often in a row rests for a while.
        keeps: Whether somebody else still uses a plan's number.
        left: Told of a plan that no walk may stand in any longer.

    Attributes:
        plans: The plans that may be walked.
        by_thread: Thread (0: the session) -> its lane.
        apart: Whether each thread has a lane of its own.
        calls: Calls of the session so far.
        waited: The last call whose result a thread waited for; 0 for none.
        deviations: How often a program left a plan before its end.
    """

    def __init__(
        self, drop_after: int, keeps: Callable[[int], bool], left: Callable[[Known], None]
    ) -> None:
        self.plans = KnownPlans(self._leave, drop_after, keeps)
        self.by_thread: dict[int, Lane] = {}
        self.apart = False
        self.calls = 0
        self.waited = 0
        self.deviations = 0
        self._left_plan = left

    def statistics(self) -> dict[str, int]:
        """Plans and their walks; lanes, calls and deviations."""
        return {
            **self.plans.statistics(),
            "lanes": len(self.by_thread),
            "calls": self.calls,
            "deviations": self.deviations,
        }

    @property
    def parted(self) -> bool:
        """Whether no lane is in the middle of a plan."""
        return all(lane.parted for lane in self.by_thread.values())

    def set_apart(self, apart: bool) -> None:
        """Whether each thread has a lane of its own."""
        if apart != self.apart:
            self.apart = apart
            self.by_thread.clear()

    def ended(self, lane: Lane, known: Known, fed: Fed) -> None:
        """A walk reached the end of its plan, maybe with gaps."""
        if lane.missing:
            self.plans.fail(known, known.length - lane.missing, self.calls)
        else:
            if not known.start_up:
                fed.ended.append(self.waited)
            self.plans.complete(known)

    def walked(self, lane: Lane, known: Known, fed: Fed) -> None:
        """The shim walked up to where the lane stands."""
        if lane.position == known.length:
            self.ended(lane, known, fed)
        if not known.active:
            self._leave(known)

    def follow(self, lane: Lane, known: Known, position: int, fed: Fed) -> None:
        """The shim went on elsewhere than this lane stands."""
        old = lane.known
        here = old is not None and 0 < position == lane.position
        if here and old is not None and known.shared.get(old.number, 0) >= position:
            self.plans.enter(known)
            lane.known = known  # a variant
            return
        if old is not None and not lane.parted:
            if not position:
                self._left(lane, old, fed)
            elif not self._whole(lane):
                fed.clean = False
                self._deviate(lane)
        if not position:
            self.plans.begin(known)
            fed.begun += 1
            lane.stand(known)
            return
        fed.clean = False
        ahead = known is old and position > lane.position
        lane.missing = lane.missing + position - lane.position if ahead else position
        lane.known = known

    def add(self, number: int) -> Lane:
        """A new lane, of a thread."""
        if len(self.by_thread) >= MAX_LANES:
            self.by_thread.clear()
        lane = self.by_thread[number] = Lane()
        return lane

    def _leave(self, known: Known) -> None:
        self._left_plan(known)
        for lane in self.by_thread.values():
            if lane.known is known:
                lane.stand(None)

    def seek(self, lane: Lane, code: int, key: bytes, fed: Fed) -> Known | None:
        """Move the lane to a call that equals the record, if any plan has one."""
        plans = self.plans
        if plans.resting:
            plans.wake(self.calls)
        if not plans.active:
            fed.clean = False
            return None
        known, position = lane.known, lane.position
        if lane.astray:
            fits = known if known is not None and known.equals(position, code, key) else None
            # Another inference is likelier than that this one goes on with a call that equals the
            # first of an inference; a start has many such calls.
            if fits is None or not fits.start_up:
                best = self._begun(lane, code, key, fed)
                if best is not None:
                    return best
            if fits is not None:
                return fits
        if known is not None and position:
            other = plans.variant(known, position, code, key)
            if other is not None:
                plans.enter(other)
                lane.known = other
                return other
        best = None if lane.astray else self._begun(lane, code, key, fed)
        if best is not None:
            return best
        ended = known is None or position >= known.length
        fed.clean = False
        if not ended and not self._whole(lane):
            self._deviate(lane)
        places = plans.places(code, key)
        if not places:
            return None
        other, at = next((p for p in places if p[0] is lane.known), places[0])
        ahead = other is lane.known and at > lane.position
        lane.missing = lane.missing + at - lane.position if ahead else at
        lane.known, lane.position = other, at
        return other

    def _begun(self, lane: Lane, code: int, key: bytes, fed: Fed) -> Known | None:
        """The plan that begins with this call, if there is one; the lane's own is left for it."""
        plans, known = self.plans, lane.known
        best = plans.first(code, key)
        if best is None:
            return None
        if known is not None and lane.position < known.length:
            self._left(lane, known, fed)
            # What had failed less than that, and was not put to rest by it.
            best = plans.first(code, key)
            if best is None:
                return None
        plans.begin(best)
        fed.begun += 1
        lane.stand(best)
        return best

    def _whole(self, lane: Lane) -> Known | None:
        """The plan that is over where a lane stands in a longer one."""
        known = lane.known
        if known is None or lane.missing:
            return None
        return self.plans.whole(known, lane.position)

    def _left(self, lane: Lane, known: Known, fed: Fed) -> None:
        """Another walk begins, and the lane's has not reached the end of its plan."""
        whole = self._whole(lane)
        if whole is not None:
            known.misses += 1
            self.plans.complete(whole)
            return
        fed.clean = False
        self._deviate(lane)
        self.plans.fail(known, lane.position - lane.missing, self.calls)
        if lane.begun is not None and lane.begun is not known:
            lane.begun.misses += 1

    def _deviate(self, lane: Lane) -> None:
        """The program left the plan; literal calls that follow each other count once."""
        if not lane.astray:
            lane.astray = True
            self.deviations += 1
