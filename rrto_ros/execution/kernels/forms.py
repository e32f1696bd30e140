"""Sums of multiples of symbols: what a register holds, and how large that can be.

A form is an integer that the register holds modulo its width. A symbol stands for an integer of
which only the least and the greatest value are known; facts are forms that are at most 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Symbol = tuple[str | int, ...]
Range = tuple[int, int]
"""Least and greatest value."""
UNBOUNDED = 1 << 100
_DEPTH = 3
_FACTS = 24


@dataclass(frozen=True, slots=True)
class Form:
    """const + the sum of coefficient times symbol; no coefficient is 0."""

    const: int
    terms: tuple[tuple[Symbol, int], ...] = ()

    @property
    def constant(self) -> bool:
        return not self.terms

    def plus(self, other: Form, factor: int = 1) -> Form:
        """This and `factor` times another."""
        if not other.terms:
            return Form(self.const + factor * other.const, self.terms)
        terms = dict(self.terms)
        for symbol, coefficient in other.terms:
            terms[symbol] = terms.get(symbol, 0) + factor * coefficient
        return Form(
            self.const + factor * other.const,
            tuple(sorted((s, c) for s, c in terms.items() if c)),
        )

    def times(self, factor: int) -> Form:
        if not factor:
            return Form(0)
        return Form(self.const * factor, tuple((s, c * factor) for s, c in self.terms))

    def coefficient(self, symbol: Symbol) -> int:
        return next((c for s, c in self.terms if s == symbol), 0)


Facts = tuple[Form, ...]


class TooMuchError(Exception):
    """The answer would take too long."""


class Bounds:
    """Bounds of forms.

    Args:
        ranges: Of every symbol.
        effort: How much may be looked at in all.
    """

    def __init__(self, ranges: Mapping[Symbol, Range], effort: int) -> None:
        self._ranges = ranges
        self._left = effort

    def spend(self, effort: int = 1) -> None:
        """Something was looked at.

        Raises:
            TooMuchError: It was too much in all.
        """
        self._left -= effort
        if self._left < 0:
            raise TooMuchError

    def plain(self, form: Form) -> Range:
        """From the symbols' own ranges."""
        low = high = form.const
        for symbol, coefficient in form.terms:
            least, greatest = self._ranges[symbol]
            if coefficient < 0:
                least, greatest = greatest, least
            low += coefficient * least
            high += coefficient * greatest
        return low, high

    def of(self, form: Form, facts: Facts) -> Range:
        """With what is known where the form is looked at."""
        if not form.terms:
            return form.const, form.const
        return -self.upper(form.times(-1), facts), self.upper(form, facts)

    def upper(self, form: Form, facts: Sequence[Form], depth: int = _DEPTH) -> int:
        """A number that the form never exceeds."""
        self.spend(1 + len(facts))
        best = self.plain(form)[1]
        if not depth:
            return best
        for k, fact in enumerate(facts[-_FACTS:]):
            tried = set()
            for symbol, there in fact.terms:
                here = form.coefficient(symbol)
                # form <= form - factor * fact, for the fact is at most 0 and the factor is not.
                if here * there <= 0 or (here, there) in tried:
                    continue
                tried.add((here, there))
                scale, factor = abs(there), abs(here)
                rest = form.times(scale).plus(fact, -factor)
                others = [*facts[-_FACTS:][:k], *facts[-_FACTS:][k + 1 :]]
                best = min(best, self.upper(rest, others, depth - 1) // scale)
        return best

    def possible(self, facts: Facts) -> bool:
        """Whether all facts may be true at once, as far as that is seen."""
        return all(self.plain(fact)[0] <= 0 for fact in facts)
