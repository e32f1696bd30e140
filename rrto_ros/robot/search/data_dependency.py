"""Data dependency search: Algorithm 3 of the RRTO paper, as far as its description goes.

Each call is appended to the history and to the relationship graph (an edge where what one call
wrote is what another may use). *Starting* operators depend on nothing: they read no device data
(uploads, fills, new allocations), or none that an earlier call wrote. *Ending* operators have no
dependants: copies to the host, synchronisations, releases. A candidate spans from a starting to
an ending operator; it is accepted when the log is covered by repeating it.

Where this departs from the paper, and why:

- The paper wants the *entire* log covered. Any program that loads a model fails that, so coverage
  is wanted of the log's newest calls: `min_repetitions` copies in a row.
- The longest candidate would be a multiple of the inference; the shortest candidate that covers
  by repetition is taken, which is the longest start-to-end span within one inference.
- Work per call is constant: candidates end at an ending operator and reach back to one of its
  few latest equals; a sequence that is being repeated is followed call by call.

It knows neither varying arguments nor variants nor threads: the calls must repeat byte for byte,
in the session's order. Calls that deviate end the sequence, and the search begins again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import replace

from rrto_ros.api.ops import Kind
from rrto_ros.robot.record.dependencies import Dependencies
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.search.classes import items_of
from rrto_ros.robot.search.sequence import SearchOptions, Sequence
from rrto_ros.wire.templates import EFFECTS, KINDS, CallTemplate

_CANDIDATES = 8
_ENDING = (Kind.SYNC, Kind.POLL, Kind.CLOSE)
_OBSERVED = (Kind.SYNC, Kind.POLL)


class DataDependencySearch:
    """The paper's search. Not thread-safe; `update` belongs to whoever extends the log."""

    def __init__(self, log: CallLog, options: SearchOptions | None = None) -> None:
        self.log = log
        self.options = options or SearchOptions()
        self.graph = Dependencies()
        self._history = array("i")
        self._starting = bytearray()
        self._base = log.base
        self._next = log.base
        self._latest: dict[int, list[int]] = {}
        self._templates: dict[int, CallTemplate] = {}
        self._active: tuple[int, int] | None = None  # (start of the first copy, length)
        self._found: Sequence | None = None
        self._accepted = 0
        self._dropped = 0
        log.keepers.append(self._keep)

    def _keep(self) -> Iterable[int]:
        return set(self._history)

    def update(self, *, last: bool = False) -> bool:  # noqa: ARG002
        """Look at the calls that were logged since the last time.

        Args:
            last: No others will come; every call counts at once here anyway.

        Returns:
            Whether `found` may have another sequence than before (counts apart).
        """
        log = self.log
        if self._next < log.base:
            self._reset(log.base)
        before = self._accepted
        for position in range(self._next, log.end):
            self._step(position, log.exact[position - log.base])
        self._next = log.end
        if len(self._history) > 2 * self._reach:
            self._trim()
        return self._accepted != before

    @property
    def _reach(self) -> int:
        return (self.options.min_repetitions + 1) * self.options.max_length

    def _reset(self, base: int) -> None:
        self._history, self._starting = array("i"), bytearray()
        self._base = self._next = base
        self._latest.clear()
        self._active = self._found = None

    def _trim(self) -> None:
        drop = len(self._history) - self._reach
        del self._history[:drop], self._starting[:drop]
        self._base += drop
        self._latest = {
            n: kept
            for n, at in self._latest.items()
            if (kept := [p for p in at if p >= self._base])
        }
        known = set(self._history)
        self._templates = {n: t for n, t in self._templates.items() if n in known}

    def _step(self, position: int, number: int) -> None:
        template = self._templates.get(number)
        if template is None:
            template = self._templates[number] = self.log.templates[number]
        if self._active is not None:
            start, length = self._active
            if self._history[-length] == number:
                # The same calls depend on each other in the same way as a repetition ago.
                self._history.append(number)
                self._starting.append(self._starting[-length])
                if EFFECTS[template.code]:
                    self.graph.step(position, number, template)
                if (position + 1 - start) % length == 0:
                    self._extend(position)
                return
            self._active = None
            self._found = None
            self._accepted += 1
            self._dropped += 1
        sources = self.graph.step(position, number, template)
        kind = KINDS[template.code]
        self._history.append(number)
        self._starting.append(not sources and kind not in _ENDING)
        if kind in _ENDING:
            self._propose(position, number)

    def _extend(self, position: int) -> None:
        if self._found is not None:
            last = position + 1 - len(self._found)
            more = self._found.repetitions + 1
            self._found = replace(self._found, last=last, repetitions=more)

    def _propose(self, position: int, number: int) -> None:
        """Candidates that end here, the shortest first."""
        equals = self._latest.setdefault(number, [])
        for earlier in reversed(equals):
            length = position - earlier
            if self.options.min_length <= length <= self.options.max_length and self._covers(
                position, length
            ):
                self._accept(position, length)
                break
        equals.append(position)
        if len(equals) > _CANDIDATES:
            del equals[0]

    def _covers(self, position: int, length: int) -> bool:
        """Whether the calls up to `position` repeat with this length, from start to end."""
        end = position + 1 - self._base
        begin = end - length
        reach = length * self.options.min_repetitions
        if reach > end or not self._starting[begin]:
            return False
        h = self._history
        if h[begin] != h[begin - length] or h[end - 2] != h[end - 2 - length]:
            return False
        return h[end - reach + length : end] == h[end - reach : end - length]

    def _accept(self, position: int, length: int) -> None:
        end = position + 1 - self._base
        items = items_of(self._history[end - length : end].tobytes(), self.log.templates)
        if items is None or not self._whole(items):
            return
        start = end - length * self.options.min_repetitions
        repetitions = self.options.min_repetitions
        while (
            start >= length
            and self._history[start - length : start] == self._history[start : start + length]
        ):
            start -= length
            repetitions += 1
        first = self._base + start
        self._accepted += 1
        self._active = (first, length)
        self._found = Sequence(
            items,
            start=first,
            last=position + 1 - length,
            repetitions=repetitions,
            is_round=any(i.kind is Kind.INPUT for i in items),
        )

    @staticmethod
    def _whole(items: tuple[CallTemplate, ...]) -> bool:
        """It computes something, and the program sees a result."""
        kinds = {i.kind for i in items}
        return (
            Kind.WORK in kinds
            and not kinds.isdisjoint(_OBSERVED)
            and any(i.kind is Kind.INPUT or i.op.brings_memory for i in items)
        )

    def found(self) -> tuple[Sequence, ...]:
        """The sequence that covers the newest calls, if there is one."""
        return (self._found,) if self._found is not None else ()

    def statistics(self) -> Mapping[str, int | float | str]:
        return {
            "algorithm": "data_dependency",
            "calls": self._next,
            "edges": self.graph.statistics()["edges"],
            "dropped": self._dropped,
            "found": len(self.found()),
        }
