"""Repetition in a stream of units (rounds or segments), in constant time per unit.

Owns the classes of the units seen, bounded, and the composites: units that always follow each
other in the same order and touch common memory are one inference (an upload, a first stage, a
second upload, a second stage). Units in a fixed order that touch nothing in common are different
inferences that take turns.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rrto_ros.api.ops import Kind
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.search.checks import Profile, profile
from rrto_ros.robot.search.classes import UnitClass, items_of
from rrto_ros.robot.search.rounds import Lane
from rrto_ros.robot.search.sequence import SearchOptions

MAX_CLASSES = 512
MAX_PERIOD = 16
_HISTORY = 128
_NOVEL = 4
_NOISE = bytes((int(Kind.SETUP), int(Kind.CLOSE)))


@dataclass(slots=True)
class Unit:
    """An instance in the history: class number, lane offsets."""

    number: int
    start: int
    end: int


@dataclass(slots=True)
class Novel:
    """A round that matched nothing: kept, since the next may show what in it was noise."""

    skeleton: bytes
    exact: bytes
    start: int
    filtered: bytes


class Miner:
    """Finds repetition among the units of one lane.

    Attributes:
        classes: Every class by skeleton, the longest unseen first.
        by_number: The same by number.
        lengths: How many classes have each length, in calls.
    """

    def __init__(
        self, log: CallLog, lane: Lane, options: SearchOptions, *, is_round: bool
    ) -> None:
        self.log = log
        self.lane = lane
        self.options = options
        self.is_round = is_round
        self.classes: dict[bytes, UnitClass] = {}
        self.lengths: Counter[int] = Counter()
        self.by_number: dict[int, UnitClass] = {}
        self.novel: deque[Novel] = deque(maxlen=_NOVEL)
        self.history: list[Unit] = []
        self.composites: dict[tuple[int, ...], UnitClass] = {}
        self.units = 0
        self._min, self._max = options.min_length, options.max_length
        self._bytes = 0
        self._next = 0
        self._fork_of: Miner | None = None
        self._own: set[int] = set()

    def fork(self) -> Miner:
        """A cheap copy that can observe one more unit without changing this miner."""
        other = Miner(self.log, self.lane, self.options, is_round=self.is_round)
        other.classes = dict(self.classes)
        other.by_number = dict(self.by_number)
        other.novel = deque(self.novel, maxlen=_NOVEL)
        other.history = self.history[-2 * MAX_PERIOD :]
        other.composites = dict(self.composites)
        other.units = self.units
        other._next = self._next
        other._fork_of = self
        return other

    def observe(self, start: int, end: int) -> UnitClass | None:
        """One more unit at lane offsets [start, end).

        Returns:
            Its class (of the part that was recognised), None if it has not the wanted length.
        """
        if not self._min <= end - start <= self._max or start < self.lane.base:
            self.history.clear()
            return None
        key = self.lane.skeleton_bytes(start, end)
        found = self.classes.pop(key, None)
        if found is not None:
            self.classes[key] = found  # now the most recent
            klass, known = self._mine(found), None
        else:
            klass = self._new(key, start, end)
            known = self._novel(klass, start, end) if self.is_round else None
        self._count(klass, start, end)
        if known is not None:
            # What came before it is start-up, or another round's remains.
            klass = self._mine(known)
            start = end - klass.length
            self._count(klass, start, end)
        self._place(klass, start, end)
        return klass

    def mark_reported(self, klass: UnitClass, *, reported: bool) -> None:
        """Remember whether a class is offered: then it needs no early answers."""
        klass.reported = reported
        if self._fork_of is not None and klass.number in self._fork_of.by_number:
            self._fork_of.by_number[klass.number].reported = reported

    def could_finish(self, start: int, end: int) -> bool:
        """Whether the unfinished unit may be one that completes a repetition (cheap)."""
        n = end - start
        if not self._min <= n <= self._max:
            return False
        if n in self.lengths:
            # One that was reported already needs no early answer.
            known = self.classes.get(self.lane.skeleton_bytes(start, end))
            if known is not None:
                return not known.reported and not (known.profile and known.profile.verdict)
        last = self.lane.skeleton_bytes(end - 1, end)
        return any(v.skeleton.endswith(last) for v in self.novel)

    def _mine(self, klass: UnitClass) -> UnitClass:
        """The class, cloned first if it belongs to the miner that this one is a fork of."""
        if self._fork_of is None or klass.number in self._own:
            return klass
        own = klass.clone()
        self._own.add(own.number)
        if own.key in self.classes:
            self.classes[own.key] = own
        self.by_number[own.number] = own
        for members, c in self.composites.items():
            if c.number == own.number:
                self.composites[members] = own
        return own

    def _count(self, klass: UnitClass, start: int, end: int) -> None:
        before = len(klass.forms)
        klass.observe(
            self.lane.exact_bytes(start, end),
            self.lane.position(start),
            self.log.templates,
            self.options,
        )
        klass.inround += 1
        if len(klass.forms) != before:
            self._bytes += len(klass.key)

    def _new(self, key: bytes, start: int, end: int) -> UnitClass:
        kinds = self.lane.kind_bytes(start, end)
        clean = not any(k in kinds for k in _NOISE)
        klass = UnitClass(key, self._next, clean)
        self._next += 1
        self._own.add(klass.number)
        self.classes[key] = self.by_number[klass.number] = klass
        self.lengths[klass.length] += 1
        self._bytes += klass.memory_bytes()
        self._evict()
        return klass

    def _evict(self) -> None:
        if self._fork_of is not None:
            return
        half = self.options.memory_limit_bytes // 4
        while len(self.classes) > MAX_CLASSES or (self._bytes > half and len(self.classes) > 4):
            key = next(iter(self.classes))
            gone = self.classes.pop(key)
            self.by_number.pop(gone.number)
            self._bytes -= gone.memory_bytes()
            self.lengths[gone.length] -= 1
            if not self.lengths[gone.length]:
                del self.lengths[gone.length]
            for members in [m for m in self.composites if gone.number in m]:
                del self.composites[members]
            if gone.members:
                self.composites.pop(gone.members, None)
            self.history = [u for u in self.history if u.number != gone.number]
            self._own.discard(gone.number)

    # -- start-up noise

    def _filtered(self, start: int, end: int, key: bytes) -> bytes:
        kinds = np.frombuffer(bytes(self.lane.kind_bytes(start, end)), np.uint8)
        keep = (kinds != Kind.SETUP) & (kinds != Kind.CLOSE)
        filtered: bytes = np.frombuffer(key, np.int32)[keep].tobytes()
        return filtered

    def _novel(self, klass: UnitClass, start: int, end: int) -> UnitClass | None:
        """Look for noise: in earlier rounds before this one's calls, or before a known round.

        Returns:
            The class of the known round that ends this one, if there is one.
        """
        key = klass.key
        filtered = self._filtered(start, end, key)
        for v in self.novel:
            if v.skeleton.endswith(key):
                cut = len(v.exact) - len(key)
                klass.observe(v.exact[cut:], v.start + cut // 4, self.log.templates, self.options)
            elif filtered and v.filtered.endswith(filtered):
                klass.witnesses += 1
        position = self.lane.position(start)
        self.novel.append(Novel(key, self.lane.exact_bytes(start, end), position, filtered))
        best: UnitClass | None = None
        for c in self.classes.values():
            longer = best is None or len(c.key) > len(best.key)
            if len(c.key) < len(key) and longer and not c.members and key.endswith(c.key):
                best = c
        return best

    # -- composites

    def _place(self, klass: UnitClass, start: int, end: int) -> None:
        history = self.history
        distance = self.units - klass.last_unit if klass.last_unit >= 0 else 0
        klass.last_unit = self.units
        self.units += 1
        history.append(Unit(klass.number, start, end))
        if len(history) > 2 * _HISTORY:
            del history[:_HISTORY]
        if klass.composed:
            for members, composite in list(self.composites.items()):
                if members[-1] == klass.number:
                    self._tail(members, composite)
        if 2 <= distance <= MAX_PERIOD:
            self._period(distance)

    def _tail(self, members: tuple[int, ...], composite: UnitClass) -> None:
        tail = self.history[-len(members) :]
        if tuple(u.number for u in tail) == members and _contiguous(tail):
            self._count_composite(self._mine(composite), tail)

    def _count_composite(self, composite: UnitClass, units: list[Unit]) -> None:
        if units[0].start < self.lane.base:
            return
        self._count(composite, units[0].start, units[-1].end)
        for u in units:
            member = self._mine(self.by_number[u.number])
            member.standalone = max(0, member.standalone - 1)

    def _period(self, d: int) -> None:
        need = self.options.min_repetitions * d
        tail = self.history[-need:]
        numbers = [u.number for u in tail]
        if len(tail) < need or numbers[d:] != numbers[:-d] or len(set(numbers[-d:])) < d:
            return
        if not _contiguous(tail):
            return
        cycle = numbers[-d:]
        rotated = self._rotate(cycle)
        for group in self._groups(rotated):
            if len(group) > 1 and group not in self.composites:
                self._compose(group)

    def _rotate(self, cycle: list[int]) -> list[int]:
        """The cycle from where it begins: where nothing is handed on, else where it began."""
        d = len(cycle)
        prints = [self.profile_of(self.by_number[c]).footprint for c in cycle]
        free = [i for i in range(d) if prints[i].isdisjoint(prints[i - 1])]
        start = min(free or range(d), key=lambda i: self._first_input(self.by_number[cycle[i]]))
        return cycle[start:] + cycle[:start]

    def _first_input(self, klass: UnitClass) -> int:
        """Position where the unit's first call was first seen in the session."""
        for n in np.frombuffer(klass.latest, np.int32).tolist():
            if n in self.log.templates and self.log.templates[n].kind is Kind.INPUT:
                return self.log.templates.first_seen(n)
        return klass.first

    def _groups(self, cycle: list[int]) -> list[tuple[int, ...]]:
        """Parts of the cycle that are one inference each.

        A part ends where nothing that it touched is touched again, or where the next unit brings
        anew what this part was given: then that is another inference (a variant on the same
        memory).
        """
        profiles = [self.profile_of(self.by_number[c]) for c in cycle]
        groups: list[tuple[int, ...]] = []
        begin = 0
        for i in range(1, len(cycle) + 1):
            part, rest = profiles[begin:i], profiles[i:]
            touched = frozenset().union(*(p.footprint for p in part))
            given = frozenset().union(*(p.uploads for p in part))
            anew = rest and not given.isdisjoint(rest[0].uploads)
            if anew or touched.isdisjoint(frozenset().union(*(p.footprint for p in rest))):
                groups.append(tuple(cycle[begin:i]))
                begin = i
        return groups

    def _compose(self, members: tuple[int, ...]) -> None:
        key = b"".join(self.by_number[m].key for m in members)
        if len(key) > 4 * self.options.max_length or key in self.classes:
            return
        k = len(members)
        windows = [self.history[i : i + k] for i in range(len(self.history) - k + 1)]
        runs = [
            run
            for run in windows
            if tuple(u.number for u in run) == members
            and _contiguous(run)
            and run[0].start >= self.lane.base
        ]
        if not runs:
            return
        composite = self._new(key, runs[0][0].start, runs[0][-1].end)
        composite.members = members
        self.composites[members] = composite
        for run in runs:
            self._count_composite(composite, run)
        for m in members:
            member = self._mine(self.by_number[m])
            member.composed = True
            member.standalone = 0

    def profile_of(self, klass: UnitClass) -> Profile:
        """What the class's newest instance does; kept until its instances change."""
        if klass.profile is None:
            items = items_of(klass.latest, self.log.templates)
            if items is None:
                return Profile("its calls are no longer in the log")
            klass.profile = profile(
                items, self.log.allocations, self.log.graphs, is_round=self.is_round
            )
        return klass.profile


def _contiguous(units: list[Unit]) -> bool:
    return all(a.end == b.start for a, b in pairwise(units))
