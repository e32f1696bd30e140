"""Transfers in fewer bits: owns which inference has how many, and the guard of the budget.

Of each placement of a plan it is kept what widths did to the program's outputs
(`schedule/precision.py`). Now and then an inference is a sample: the program gets exact results,
and then its calls are executed again, with each width that is to be known, and exactly at the end.
So memory is left as the program made it. If the last time does not give what the program got, the
plan cannot be judged, and stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from rrto_ros.robot.partition.carrier import Carrier, Coarsely
from rrto_ros.robot.partition.placed import BOTH, Placed
from rrto_ros.robot.partition.sampling import Sample
from rrto_ros.schedule.coarse import CoarseCoherence
from rrto_ros.schedule.coherence import Transfer
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.precision import EXACT, Crossing, Precision, relative_error
from rrto_ros.wire.accesses import Range

MOST_PLACEMENTS = 16
"""Of a plan, of which it is kept what widths did."""


class Link(Protocol):
    """The way to the edge, as transfers show it."""

    @property
    def bytes_per_s(self) -> float:
        """0 as long as it is not known."""
        ...


class Adaptive:
    """One session's. Belongs to the thread that executes; `statistics` may be another's.

    Args:
        budget: Relative error that no output may exceed (`precision.relative_error`).
        link: To the edge.

    Attributes:
        coherence: The session's, with coarse copies.
        sample: The inference that is a sample, if one is under way.
    """

    def __init__(self, budget: float, link: Link) -> None:
        self.coherence = CoarseCoherence(BOTH)
        self.sample: Sample | None = None
        self._budget = budget
        self._link = link
        self._known: dict[int, dict[tuple[int, ...], Precision]] = {}
        self._codes: dict[int, object] = {}
        self._refused: dict[int, str] = {}
        self._plan, self._bits = -1, EXACT
        self._placed: Placed | None = None
        self._coarse_inferences = self._samples = self._raised = 0
        self._worst = 0.0
        self._used: Coarsely = Coarsely()
        self._why = ""

    def defined(self, number: int) -> None:
        """A number means another plan from now on."""
        self._known.pop(number, None)
        self._refused.pop(number, None)

    def begins(self, number: int, index: int, placed: Placed | None) -> None:
        """An inference begins.

        Args:
            number: Of its plan.
            index: The program's number of its first call.
            placed: Where it runs; None: at home, or it is timed.
        """
        self.coherence.forget()
        self.sample = None
        self._plan, self._bits, self._placed = number, EXACT, placed
        if placed is None or placed.coarse is None or number in self._refused:
            return
        if placed.coarse.refused:
            self._why = placed.coarse.refused
            return
        if len({at for at, work in zip(placed.places, placed.work, strict=True) if work}) < 2:
            return  # nothing crosses
        precision = self._precision(number, placed)
        rate = self._link.bytes_per_s
        self._bits = precision.choose(rate)
        widths = precision.due(rate)
        if widths:
            self._bits = EXACT
            self.sample = Sample(number, index, widths, placed)
        self._coarse_inferences += self._bits != EXACT

    def bits(self, number: int, placed: Placed | None) -> int:
        """In how many bits what a plan's call reads may come now; 0: exactly."""
        if self._bits == EXACT or number != self._plan or placed is not self._placed:
            return EXACT
        return self._bits

    def output(self, number: int, place: int) -> Callable[[int, bytes], None] | None:
        """Takes what a call brings to the program, if it belongs to a sample."""
        sample = self.sample
        if sample is None or number != sample.plan:
            return None

        def told(status: int, data: bytes) -> None:
            sample.outputs[place] = status, data

        return told

    def missing(
        self,
        at: int,
        place: int,
        touched: Touched,
        placed: Placed,
        memory: Iterable[Range],
        bits: int,
    ) -> tuple[Transfer, ...]:
        """What to bring to a place before a plan's call runs there, some of it coarsely.

        Args:
            at: Where it runs.
            place: The call's, in the plan.
            touched: What it touches.
            placed: Where the plan runs.
            memory: What is live.
            bits: Of an element that comes coarsely.
        """
        assert placed.coarse is not None
        memory = tuple(memory)
        wanted = placed.wanted.get(place)
        out = self.coherence.coarsely(at, touched, memory, placed.coarse.reads[place], bits)
        if wanted is not None:
            out += self.coherence.coarsely(at, wanted, memory, placed.coarse_wanted[place], bits)
        return out

    def bring(
        self,
        carrier: Carrier,
        at: int,
        place: int,
        touched: Touched,
        placed: Placed,
        memory: Sequence[Range],
        bits: int,
    ) -> None:
        """Bring what is missing for a call that the program made; as `missing`."""
        transfers = self.missing(at, place, touched, placed, memory, bits)
        if not transfers:
            return
        before = replace(carrier.coarsely)
        carrier.bring(transfers)
        some = carrier.coarsely - before
        self._used = Coarsely(
            self._used.bytes + some.bytes, self._used.elements + some.elements,
            self._used.sent + some.sent, self._used.pack_s + some.pack_s,
        )  # fmt: skip

    def sampled(
        self,
        sample: Sample,
        tried: dict[int, dict[int, bytes]],
        exact: dict[int, bytes],
        crossed: Coarsely,
    ) -> None:
        """A sample was executed again.

        Args:
            sample: It.
            tried: Outputs by width and the call's place.
            exact: Those of the last time.
            crossed: What crossed in one time.
        """  # fmt: skip
        assert sample.placed.coarse is not None
        got = {place: data for place, (_, data) in sample.outputs.items()}
        if got != exact or any(status for status, _ in sample.outputs.values()):
            self._why = "executed once more it gives the program something else"
            self._refused[sample.plan] = self._why
            return
        kinds = sample.placed.coarse.outputs
        precision = self._precision(sample.plan, sample.placed)
        # A pause of the machine is no time that packing takes.
        before = precision.crossing
        same = before is not None and before.bytes == crossed.bytes
        pack_s = min(crossed.pack_s, before.pack_s) if same and before else crossed.pack_s
        precision.crossing = Crossing(
            crossed.bytes, crossed.elements, sample.placed.busy_s, pack_s
        )
        raised = precision.raised
        if crossed.bytes:
            precision.seen(
                [
                    (bits, max(relative_error(outputs[k], exact[k], kinds.get(k, ""))
                               for k in exact))
                    for bits, outputs in tried.items()
                ]
            )  # fmt: skip
        self._samples += 1
        self._raised += precision.raised - raised
        self._worst = max(self._worst, precision.worst)

    def statistics(self) -> dict[str, int | float | str]:
        """Bits now (0: exact), what crossed in fewer, samples, worst error of widths in use."""
        return {
            "bits": self._bits,
            "coarse_inferences": self._coarse_inferences,
            "coarse_bytes": self._used.bytes,
            "saved_bytes": self._used.bytes - self._used.sent,
            "samples": self._samples,
            "worst_error": self._worst,
            "raised": self._raised,
            "exact_because": self._why,
        }

    def in_words(self) -> str:
        """The same for people."""
        said = self.statistics()
        text = (
            f"{said['coarse_inferences']} inferences with transfers in fewer bits (now "
            f"{said['bits'] or 'exact'}), which saved {said['saved_bytes']} of "
            f"{said['coarse_bytes']} bytes; "
            f"{said['samples']} samples, worst error {said['worst_error']:.2g}, "
            f"{said['raised']} times raised"
        )
        return f"{text}; exact: {self._why}" if self._why else text

    def measured(self) -> dict[int, tuple[int, float]]:
        """Samples and worst error of each width, of the inference that began last."""
        if self._placed is None:
            return {}
        precision = self._known.get(self._plan, {}).get(self._placed.places)
        return precision.measured() if precision is not None else {}

    def _precision(self, number: int, placed: Placed) -> Precision:
        known = self._known.setdefault(number, {})
        if self._codes.get(number) != placed.code:
            known.clear()
            self._codes[number] = placed.code
        if placed.places not in known:
            if len(known) >= MOST_PLACEMENTS:
                del known[next(iter(known))]
            known[placed.places] = Precision(self._budget)
        return known[placed.places]
