"""Operator sequence search: repeated patterns, start-up noise filtered, two levels.

The published description says no more than that; what follows is this project's design.

1. *Fingerprints.* Each call is a number (exact) and a coarser number (skeleton: function, geometry
   and sizes, without addresses, handles and launch arguments); payload contents count in neither.
2. *Cutting.* The stream is cut into rounds, each beginning with data from the program, and rounds
   into segments at sync points (`rounds.py`). That needs no knowledge of the period, so models
   that alternate at random, variants and changing lengths cost nothing extra.
3. *First level: proposal.* Units with equal skeletons fall into one class by one hash look-up
   (`miner.py`). Units that always follow each other and share memory become one. A round that
   matches nothing may hold start-up noise: it is compared, as a suffix, with known rounds, and
   with calls that make or release resources (modules, allocations, graphs) taken out, so that an
   inference with lazy initialisation in it counts as a witness for the clean one that follows.
   So does one after which its last resource (a buffer for the next input) is made.
4. *Second level: decision.* Within a class, instances are compared call by call (`classes.py`):
   forms that recur are sequences of their own; otherwise the words that differ are the varying
   arguments, if they are few. Then the data dependencies must make sense (`checks.py`): something
   is computed, and an output depends on it. An autotuning loop fails here.

What ends an inference is known only when the next one begins; so that a plan is ready before
that, the unfinished round is tried at every sync point as if it ended there.

Segments are offered only where rounds do not repeat as a whole (a loop whose length depends on
the data, a program that never uploads). Calls of several threads are searched in the session's
order and in each thread's own order; the order that explains more is the one reported.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import compress

import numpy as np

from rrto_ros.api.ops import Kind
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.search.classes import UnitClass, items_of, numbers_of, varying_ranges
from rrto_ros.robot.search.miner import Miner
from rrto_ros.robot.search.rounds import SYNCED, Lane
from rrto_ros.robot.search.sequence import SearchOptions, Sequence
from rrto_ros.wire.templates import CallTemplate

MAX_THREADS = 16
_CHUNK = 32768
_PATIENCE = 256
_OBSERVES = (int(Kind.SYNC), int(Kind.POLL))
_SETUP = bytes([int(Kind.SETUP)])
_CATCH_UP = 1 << 17
_KNOWN_ITEMS = 32
_RECENT = 32
_SETTLED = 2
"""Rounds recognised in a row after which pieces of them are no longer of interest."""


@dataclass(slots=True)
class Offer:
    """A sequence that a lane offers, and its skeleton numbers."""

    sequence: Sequence
    key: bytes


class Stream:
    """The search in one lane."""

    def __init__(self, log: CallLog, options: SearchOptions, thread: int | None) -> None:
        self.log = log
        self.options = options
        self.lane = Lane(thread, 3 * options.max_length)
        self.rounds = Miner(log, self.lane, options, is_round=True)
        self.segments = Miner(log, self.lane, options, is_round=False)
        self.units = 0
        self._streak = 0
        self._round_start = 0
        self._segment_start = 0
        self._segments_seen = 0
        self._tried: tuple[Miner, Miner] | None = None
        self._known_items: dict[bytes, tuple[CallTemplate, ...]] = {}
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)

    def feed(
        self, exact: array[int], skeletons: array[int], kinds: bytearray, positions: Items[int]
    ) -> bool:
        """Append calls; returns whether there may be other sequences than before."""
        self._tried = None
        changed = False
        for at, is_round in self.lane.extend(exact, skeletons, kinds, positions):
            self.units += 1
            if is_round:
                changed = self._end_round(at) or changed
            else:
                changed = self._news(self.segments.observe(self._segment_start, at)) or changed
                self._segments_seen += 1
            self._segment_start = at
        if self.lane.end - self._round_start > self.options.max_length:
            self._give_up_round()
        self.lane.trim()
        return changed

    def _end_round(self, at: int) -> bool:
        changed = False
        if self._segments_seen:
            changed = self._news(self.segments.observe(self._segment_start, at))
        known = None
        if self._round_start >= 0:
            known = self.rounds.observe(self._round_start, at)
            changed = self._news(known) or changed
        recognised = known is not None and known.count + known.witnesses > 1
        self._streak = self._streak + 1 if recognised else 0
        calls = at - self._round_start
        self._recent.append((calls, known.length if known is not None and recognised else 0))
        if self._segments_seen:
            for c in self.segments.classes.values():
                if not recognised:
                    c.outside += c.inround
                c.inround = 0
        self._round_start = at
        self._segments_seen = 0
        return changed

    def _news(self, klass: UnitClass | None) -> bool:
        """Whether an instance of this class may change what is found, counts apart."""
        if klass is None:
            return False
        if klass.reported and len(klass.forms) == 1 and not klass.composed:
            return False  # the usual case, without asking
        before, klass.offered = klass.offered, klass.state(self.options)
        return klass.offered != before or klass.composed

    def _give_up_round(self) -> None:
        """The unfinished round is too long to be of use; its segments may still be."""
        self._round_start = -1
        self._segments_seen = max(1, self._segments_seen)
        if self.lane.end - self._segment_start > self.options.max_length:
            self._segment_start = self.lane.end
            self.lane.abandon(self.lane.end)
        else:
            self.lane.round_start = self._segment_start

    @property
    def recent(self) -> tuple[int, int]:
        """(calls, calls in rounds that were recognised) of the last rounds."""
        return sum(c for c, _ in self._recent), sum(k for _, k in self._recent)

    def try_unfinished(self) -> bool:
        """Try the unfinished units as if they ended at the newest call, a sync point."""
        self._tried = None
        if self.lane.state != SYNCED:
            return False
        rounds, segments = self.rounds, self.segments
        end = self.lane.end
        start = self._bare_start(end)
        if start >= 0 and rounds.could_finish(start, end):
            rounds = rounds.fork()
            rounds.observe(start, end)
        if self._segments_seen and segments.could_finish(self._segment_start, end):
            segments = segments.fork()
            segments.observe(self._segment_start, end)
        if rounds is self.rounds and segments is self.segments:
            return False
        self._tried = (rounds, segments)
        return True

    def _bare_start(self, end: int) -> int:
        """Where the unfinished round begins, -1 if it was given up.

        Of a round that was not seen before, resources made before its data are left out: most
        likely the next one has them already.
        """
        start = self._round_start
        if start < 0 or self.lane.skeleton_bytes(start, end) in self.rounds.classes:
            return start
        kinds = self.lane.kind_bytes(start, end)
        return start + len(kinds) - len(kinds.lstrip(_SETUP))

    def offers(self) -> list[Sequence]:
        """What this lane knows now, the most recent first."""
        rounds, segments = self._tried or (self.rounds, self.segments)
        found = [o for c in rounds.classes.values() for o in self._offer(rounds, c)]
        pieces = [
            o
            for c in segments.classes.values()
            if max(c.outside, c.inround) >= self.options.min_repetitions
            for o in self._offer(segments, c)
            if not self._superseded(o, found)
        ]
        found += pieces
        found.sort(key=lambda o: (o.sequence.last, o.sequence.repetitions), reverse=True)
        return [o.sequence for o in found]

    def _items(self, exact: bytes) -> tuple[CallTemplate, ...] | None:
        items = self._known_items.get(exact)
        if items is None:
            items = items_of(exact, self.log.templates)
            if len(self._known_items) >= _KNOWN_ITEMS:
                self._known_items.clear()
            if items is not None:
                self._known_items[exact] = items
        return items

    def _offer(self, miner: Miner, klass: UnitClass) -> list[Offer]:
        if klass.composed and klass.standalone < self.options.min_repetitions:
            return []
        answers = klass.answers(self.options)
        if not answers or miner.profile_of(klass).verdict:
            return []
        offers = []
        for a in answers:
            items = self._items(a.exact)
            if items is None:
                continue
            sequence = Sequence(
                items,
                varying_ranges(a.varying),
                start=a.first,
                last=a.last,
                repetitions=a.count,
                thread=self.lane.thread,
                is_round=miner.is_round,
            )
            offers.append(Offer(sequence, klass.key))
        miner.mark_reported(klass, reported=bool(offers))
        return offers

    def _superseded(self, piece: Offer, rounds: list[Offer]) -> bool:
        """Whether whole inferences explain a piece by now (or show that it was noise)."""
        for r in rounds:
            if r.sequence.start > piece.sequence.last:
                return True
            if self._streak >= _SETTLED and _contains(r.key, piece.key):
                return True
        return False


def _contains(whole: bytes, part: bytes) -> bool:
    at = whole.find(part)
    while at >= 0:
        if at % 4 == 0:
            return True
        at = whole.find(part, at + 1)
    return False


class OperatorSequenceSearch:
    """The default search. Not thread-safe; `update` belongs to whoever extends the log."""

    def __init__(self, log: CallLog, options: SearchOptions | None = None) -> None:
        self.log = log
        self.options = options or SearchOptions()
        self._session = Stream(log, self.options, None)
        self._threads: dict[int, Stream] = {}
        self._only_thread: int | None = None
        self._next = log.base
        self._lost_calls = 0
        self._units = 0
        self._found: tuple[Sequence, ...] | None = None
        self._tried = False
        log.keepers.append(self._keep)

    def _keep(self) -> Iterable[int]:
        for stream in (self._session, *self._threads.values()):
            yield from numbers_of(stream.rounds.classes.values())
            yield from numbers_of(stream.segments.classes.values())
            yield from stream.lane.exact

    def update(self, *, last: bool = False) -> bool:
        """Look at the calls that were logged since the last time.

        Args:
            last: No others will come: what comes after the last sync point counts too.

        Returns:
            Whether `found` may have other sequences than before (counts apart).
        """
        log = self.log
        pending = log.end - self._next
        early = pending < _PATIENCE and not last and log.kinds[-1] not in _OBSERVES
        if not pending or early:
            return False  # nothing can be decided before the program observes something
        if self._next < log.base:
            self._lost_calls += log.base - self._next
            self._next = log.base
        changed = self._tried
        self._tried = False
        while self._next < log.end:
            a = self._next - log.base
            b = min(a + _CHUNK, len(log))
            changed = self._chunk(a, b) or changed
            self._next = log.base + b
        units = self._session.units
        self._tried = self._session.try_unfinished()
        for stream in self._threads.values():
            self._tried = stream.try_unfinished() or self._tried
            units += stream.units
        if changed or self._tried or units != self._units:
            self._found = None
        self._units = units
        return changed or self._tried

    def _chunk(self, a: int, b: int) -> bool:
        log = self.log
        exact, skeletons, kinds = log.exact[a:b], log.skeletons[a:b], log.kinds[a:b]
        positions = range(log.base + a, log.base + b)
        changed = self._session.feed(exact, skeletons, kinds, positions)
        threads = log.threads[a:b]
        first = threads[0]
        if threads.count(first) == len(threads):
            if self._only_thread is None and not self._threads:
                self._only_thread = first
            if first == self._only_thread:
                return changed
            if first in self._threads:
                own = self._threads[first].feed(exact, skeletons, kinds, positions)
                return own or changed
        return self._split(a, b) or changed

    def _split(self, a: int, b: int) -> bool:
        """Feed each thread's calls to its own lane; lanes begin when a second thread appears."""
        log = self.log
        if self._only_thread is not None:
            # So far the session's order was the thread's own.
            only, self._only_thread = self._only_thread, None
            self._feed_thread(only, max(0, a - _CATCH_UP), a)
        changed = False
        for thread in sorted(set(log.threads[a:b])):
            changed = self._feed_thread(thread, a, b) or changed
        return changed

    def _feed_thread(self, thread: int, a: int, b: int) -> bool:
        log = self.log
        stream = self._threads.get(thread)
        if stream is None:
            if len(self._threads) >= MAX_THREADS:
                return False
            stream = self._threads[thread] = Stream(log, self.options, thread)
        changed = False
        for lo in range(a, b, _CHUNK):
            hi = min(lo + _CHUNK, b)
            own = [t == thread for t in log.threads[lo:hi]]
            changed = (
                stream.feed(
                    array("i", compress(log.exact[lo:hi], own)),
                    array("i", compress(log.skeletons[lo:hi], own)),
                    bytearray(compress(log.kinds[lo:hi], own)),
                    (np.flatnonzero(own) + (log.base + lo)).tolist(),
                )
                or changed
            )
        return changed

    def found(self) -> tuple[Sequence, ...]:
        """The sequences known now, the most recent first."""
        if self._found is None:
            own = self._session.offers()
            best = own
            if self._threads:
                apart = [s for stream in self._threads.values() for s in stream.offers()]
                apart.sort(key=lambda s: (s.last, s.repetitions), reverse=True)
                if apart and (not own or self._threads_explain_more()):
                    best = apart
            self._found = tuple(best)
        return self._found

    def _threads_explain_more(self) -> bool:
        calls, known = self._session.recent
        parts = [s.recent for s in self._threads.values()]
        apart_calls, apart_known = sum(c for c, _ in parts), sum(k for _, k in parts)
        return apart_known * calls > known * apart_calls

    def statistics(self) -> Mapping[str, int | float | str]:
        session = self._session
        return {
            "algorithm": "operator_sequence",
            "calls": self._next,
            "lost_calls": self._lost_calls,
            "rounds": session.rounds.units,
            "recognised_share": round(session.recent[1] / max(1, session.recent[0]), 3),
            "classes": len(session.rounds.classes),
            "threads": max(1, len(self._threads)),
            "found": len(self.found()),
        }
