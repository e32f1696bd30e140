"""Instances of one skeleton: exact forms that recur, and arguments that vary.

All instances of a class have the same skeleton, so they can differ only in addresses, handles,
launch arguments and fill values. Two answers are possible, and the instances decide:

- *exact*: instances come back byte for byte. Each form that recurs is a sequence of its own
  (two models of one architecture; buffers used in turn).
- *merged*: instances keep being new. They are one sequence, and the words in which they differ
  are its varying arguments, as long as there are few.

Until forms recur, merged is the answer that can be used soonest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rrto_ros.robot.search.checks import Profile
from rrto_ros.robot.search.sequence import SearchOptions
from rrto_ros.wire.format import HEADER_BYTES
from rrto_ros.wire.plan import Varying
from rrto_ros.wire.templates import CallTemplate, Templates

MAX_FORMS = 16


@dataclass(slots=True)
class Form:
    """One exact form of a class: how often, and the positions where first and last."""

    count: int
    first: int
    last: int


@dataclass(slots=True)
class Answer:
    """A sequence that a class offers: exact numbers of the calls, and what varies."""

    exact: bytes
    varying: dict[int, set[int]]
    count: int
    first: int
    last: int


@dataclass(slots=True)
class UnitClass:
    """All instances of one skeleton (4 bytes a call).

    Attributes:
        key: Skeleton numbers of the calls.
        number: Identity within the miner.
        clean: No call makes or releases a resource.
        count, first, last: Instances seen; positions of the first and the last.
        witnesses: Earlier rounds that are the same once start-up noise is taken out.
        latest: Exact numbers of the newest instance.
        last_unit: Place of the newest instance in the miner's history.
        members: Of a composite: the numbers of its parts, in order.
        composed: It is part of a composite; then only instances outside it count.
        standalone: Instances outside any composite.
        outside, inround: Segments: instances in rounds that were not recognised, and in the
            unfinished round.
        reported: It is part of what the search found.
        offered: Its `state` when that was last asked.
        profile: What its newest forms do; None if that was not asked yet.
    """

    key: bytes
    number: int
    clean: bool
    count: int = 0
    first: int = -1
    last: int = -1
    witnesses: int = 0
    latest: bytes = b""
    last_unit: int = -1
    members: tuple[int, ...] = ()
    composed: bool = False
    standalone: int = 0
    outside: int = 0
    inround: int = 0
    reported: bool = False
    offered: tuple[int, ...] = ()
    profile: Profile | None = None
    forms: dict[bytes, Form] = field(default_factory=dict)
    exact_mode: bool = True
    trailing: int = 0
    novel_of_4: int = 0
    base: bytes = b""
    varying: dict[int, set[int]] = field(default_factory=dict)
    merged_count: int = 0
    merged_first: int = 0

    @property
    def length(self) -> int:
        return len(self.key) // 4

    def clone(self) -> UnitClass:
        """A copy that can be observed without changing this one."""
        other = UnitClass(self.key, self.number, self.clean)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.forms = {k: Form(f.count, f.first, f.last) for k, f in self.forms.items()}
        other.varying = {k: set(v) for k, v in self.varying.items()}
        return other

    def memory_bytes(self) -> int:
        return 600 + len(self.key) * (1 + len(self.forms))

    def observe(
        self, exact: bytes, position: int, templates: Templates, options: SearchOptions
    ) -> None:
        """One more instance, made of calls with these exact numbers, at this log position."""
        self.count += 1
        self.standalone += 1
        if self.first < 0 or position < self.first:
            self.first = position
        self.last = position
        self.latest = exact
        form = self.forms.get(exact)
        if form is not None:
            form.count += 1
            form.last = position
            self.trailing += 1
            self.novel_of_4 = (self.novel_of_4 << 1) & 15
        else:
            if len(self.forms) >= MAX_FORMS:
                oldest = min(self.forms, key=lambda k: self.forms[k].last)
                del self.forms[oldest]
            self.forms[exact] = Form(1, position, position)
            self.trailing = 0
            self.novel_of_4 = (self.novel_of_4 << 1 | 1) & 15
        if exact != self.base or form is None:
            self._merge(exact, position, templates, options)
        else:
            self.merged_count += 1
        if len(self.forms) > 1:
            self._choose(options)

    def _choose(self, options: SearchOptions) -> None:
        if self.exact_mode:
            if self.novel_of_4.bit_count() >= 2:
                self.exact_mode = False
        else:
            recurring = sum(f.count > 1 for f in self.forms.values())
            self.exact_mode = self.trailing >= max(options.min_repetitions, recurring)

    def _merge(
        self, exact: bytes, position: int, templates: Templates, options: SearchOptions
    ) -> None:
        if self.base:
            words = differing_words(self.base, exact, templates, options.max_varying)
            if words is not None:
                for call, offsets in words.items():
                    known = self.varying.setdefault(call, set())
                    if not offsets <= known:
                        known |= offsets
                        self.profile = None
                if sum(map(len, self.varying.values())) <= options.max_varying:
                    self.merged_count += 1
                    return
        # Too different: what came before says nothing about what varies from now on.
        self.base = exact
        self.profile = None
        self.varying = {}
        self.merged_count = 1
        self.merged_first = position

    def state(self, options: SearchOptions) -> tuple[int, ...]:
        """Differs whenever the class may offer other sequences than before, counts apart."""
        need = options.min_repetitions
        return (
            self.exact_mode,
            sum(f.count + self.witnesses >= need for f in self.forms.values()),
            sum(map(len, self.varying.values())),
            self.merged_count >= need,
            self.composed and self.standalone >= need,
            max(self.outside, self.inround) >= need,
        )

    def answers(self, options: SearchOptions) -> list[Answer]:
        """What the class offers now, if anything was repeated often enough."""
        need = options.min_repetitions
        extra = self.witnesses if self.clean else 0
        found = []
        if self.exact_mode or not self.varying:
            if len(self.forms) > 1:
                extra = 0
            for exact, form in self.forms.items():
                if form.count + extra >= need:
                    found.append(Answer(exact, {}, form.count, form.first, form.last))
        elif self.merged_count >= need:
            found.append(
                Answer(self.latest, self.varying, self.merged_count, self.merged_first, self.last)
            )
        return found


def differing_words(
    a: bytes, b: bytes, templates: Templates, limit: int
) -> dict[int, set[int]] | None:
    """8-byte words in which two instances of one skeleton differ.

    Args:
        a: Exact numbers of one instance, 4 bytes a call.
        b: Those of the other.
        templates: What the numbers stand for.
        limit: Most words that are of interest.

    Returns:
        Call index -> offsets in the record; None if there are more than `limit`, or if a template
        was dropped.
    """
    x, y = np.frombuffer(a, np.int32), np.frombuffer(b, np.int32)
    calls = np.flatnonzero(x != y)
    if len(calls) > limit:
        return None
    found: dict[int, set[int]] = {}
    total = 0
    for call in calls.tolist():
        m, n = int(x[call]), int(y[call])
        if m not in templates or n not in templates:
            return None
        p, q = templates[m].body, templates[n].body
        offsets = {o + HEADER_BYTES for o in range(0, len(p), 8) if p[o : o + 8] != q[o : o + 8]}
        total += len(offsets)
        if total > limit:
            return None
        found[call] = offsets
    return found


def varying_ranges(words: dict[int, set[int]]) -> tuple[Varying, ...]:
    """Words as ranges, neighbours joined, ascending."""
    out: list[Varying] = []
    for call in sorted(words):
        for offset in sorted(words[call]):
            if out and out[-1].call == call and out[-1].offset + out[-1].size == offset:
                out[-1] = Varying(call, out[-1].offset, out[-1].size + 8)
            else:
                out.append(Varying(call, offset, 8))
    return tuple(out)


def items_of(exact: bytes, templates: Templates) -> tuple[CallTemplate, ...] | None:
    """The calls that exact numbers stand for; None if one was dropped."""
    numbers = np.frombuffer(exact, np.int32).tolist()
    known: dict[int, CallTemplate] = {}
    for n in set(numbers):
        if n not in templates:
            return None
        known[n] = templates[n]
    return tuple(known[n] for n in numbers)


def numbers_of(classes: Iterable[UnitClass]) -> set[int]:
    """Exact numbers that the classes refer to."""
    keep: set[int] = set()
    for c in classes:
        for exact in (*c.forms, c.base, c.latest):
            keep.update(np.frombuffer(exact, np.int32).tolist())
    return keep
