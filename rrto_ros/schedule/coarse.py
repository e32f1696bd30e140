"""Which bytes of an inference may cross a cut in fewer bits, and where such copies are.

What a call reads may be brought to it coarsely if a call before it in the same inference wrote it
for certain as floats, and this call reads it as such floats and leaves it as it is. So what the
program uploads is never coarse, nor is anything that a kernel which is not known reads.

A coarse copy is not the newest (`coherence.py`): it serves calls of the inference that it was
brought for, and whoever else reads those bytes gets them exactly. Design of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rrto_ros.schedule.coherence import Coherence, Transfer
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.intervals import IntervalMap, without
from rrto_ros.wire.accesses import Range, Typed, TypedRange, merged
from rrto_ros.wire.quantised import KINDS

LEAST_BYTES = 128
"""Fewer bytes are brought exactly: they would hardly be less."""
Kinds = Mapping[str, tuple[Range, ...]]
"""Type of elements -> where."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of an inference.

    Attributes:
        touched: What it touches.
        covers: What it writes for certain; unlike `touched.covers` nothing that it may leave.
        typed: Elements that it accesses; None: not work, or not known.
        brings: Whether it brings memory to the program.
        work: Whether it runs on the device.
    """

    touched: Touched
    covers: tuple[Range, ...] = ()
    typed: Typed | None = None
    brings: bool = False
    work: bool = False


@dataclass(frozen=True, slots=True)
class CoarsePlan:
    """What may be coarse in an inference.

    Attributes:
        reads: Of each call: what may be brought to it coarsely.
        outputs: Calls that bring memory to the program -> type of what they bring, empty if it is
            not known or mixed.
        refused: Why nothing may, if so.
    """

    reads: tuple[Kinds, ...]
    outputs: Mapping[int, str]
    refused: str = ""


def coarse_plan(steps: Sequence[Step]) -> CoarsePlan:
    """What of an inference may cross a cut coarsely.

    Nothing may if the inference cannot be executed once more to see what that does to its
    outputs: if it goes on from what an earlier one left, or writes over what was uploaded.

    Args:
        steps: Its calls in order.
    """
    kinds: IntervalMap[str] = IntervalMap("")
    reads: list[Kinds] = []
    outputs: dict[int, str] = {}
    made: list[Range] = []
    before: list[Range] = []
    for number, step in enumerate(steps):
        touched = step.touched
        if touched.reads is None or touched.writes is None:
            return CoarsePlan((), {}, f"what call {number} touches is not known")
        before += without(
            (*touched.reads, *(without(touched.writes, step.covers) if step.work else ())), made
        )
        reads.append(_coarse_reads(step, kinds))
        if step.brings:
            found = {kind for span in touched.reads for _, _, kind in kinds.within(span)}
            outputs[number] = found.pop() if len(found) == 1 else ""
        for span in touched.writes:
            kinds.set(span, "")
        for kind in KINDS:
            for span in _as(kind, step.typed.writes if step.typed is not None else ()):
                for part in _common(step.covers, (span,)):
                    kinds.set(part, kind)
        made = merged([*made, *(step.covers if step.work else touched.writes)])
    work = [span for step in steps if step.work for span in step.touched.writes or ()]
    uploads = [span for step in steps if not step.work for span in step.touched.writes or ()]
    refused = ""
    if _common(before, work):
        refused = "it goes on from what an earlier inference left"
    elif _common(uploads, work):
        refused = "it writes over what was uploaded"
    elif not outputs:
        refused = "it brings nothing to the program"
    elif not any(reads):
        refused = "none of what its calls hand on is known to be floats"
    return CoarsePlan(tuple(reads) if not refused else (), outputs, refused)


def stretch(reads: Iterable[tuple[Touched, Kinds]], wanted: Touched) -> Kinds:
    """What of the bytes that several calls want at once may be coarse for all of them.

    Args:
        reads: What each call touches, and what of it may be coarse.
        wanted: What they want.
    """
    every: dict[str, list[Range]] = {kind: [] for kind in KINDS}
    exact: list[Range] = []
    for touched, kinds in reads:
        exact += without(touched.reads or (), [span for some in kinds.values() for span in some])
        for kind, spans in kinds.items():
            every[kind] += spans
    found = {
        kind: tuple(_common(wanted.reads or (), without(merged(spans), exact)))
        for kind, spans in every.items()
    }
    return {kind: spans for kind, spans in found.items() if spans}


def _coarse_reads(step: Step, kinds: IntervalMap[str]) -> Kinds:
    if not step.work or step.typed is None:
        return {}
    out: dict[str, tuple[Range, ...]] = {}
    for kind in KINDS:
        used = _common(step.touched.reads or (), _as(kind, step.typed.reads))
        used = without(used, step.touched.writes or ())
        spans = [
            (low, high)
            for span in used
            for low, high, written in kinds.within(span)
            if written == kind
        ]
        if spans:
            out[kind] = tuple(merged(spans))
    return out


def _as(kind: str, spans: Iterable[TypedRange]) -> list[Range]:
    """Where all accesses have a type."""
    spans = list(spans)
    others = [(low, high) for low, high, other in spans if other != kind]
    return without(merged((low, high) for low, high, one in spans if one == kind), others)


def _common(some: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """What lies in both."""
    spans = merged(some)
    return without(spans, without(spans, others))


class CoarseCoherence(Coherence):
    """Coherence of one session in which copies may be coarse. Not thread-safe.

    Args:
        places: Numbers of the places.
    """

    def __init__(self, places: Iterable[int]) -> None:
        places = tuple(places)
        super().__init__(places)
        self._coarse: dict[int, IntervalMap[bool]] = {}
        self._places = places
        self.forget()

    def forget(self) -> None:
        """What was brought coarsely serves nobody any more: another inference begins."""
        self._coarse = {place: IntervalMap(False) for place in self._places}

    def coarsely(
        self, place: int, call: Touched, memory: Iterable[Range], kinds: Kinds, bits: int
    ) -> tuple[Transfer, ...]:
        """As `before`, where some of it may be coarse; coarse copies do not count as newest.

        Args:
            place: Where the call runs.
            call: What it touches.
            memory: What is live.
            kinds: What of its reads may be coarse.
            bits: Of an element that is brought coarsely.
        """
        held = self._coarse[place]
        here: list[Transfer] = []
        left: list[Range] = []
        for kind, spans in kinds.items():
            size = KINDS[kind].itemsize
            for span in _common(spans, call.reads or ()):
                for start, end, newest in self._newest.within(span):
                    if place in newest:
                        continue
                    for low, high, there in held.within((start, end)):
                        if there:
                            left.append((low, high))
                            continue
                        low, high = low + -low % size, high - high % size
                        if high - low >= LEAST_BYTES:
                            here.append(Transfer(min(newest), place, (low, high), kind, bits))
                            left.append((low, high))
        rest = Touched(
            tuple(without(call.reads, left)) if call.reads is not None else None,
            call.writes, call.covers,
        )  # fmt: skip
        exact = self.before(place, rest, memory)
        for one in here:
            held.set(one.span, True)
        self._transfers += len(here)
        self._brought += sum(t.span[1] - t.span[0] for t in here)
        return (*here, *exact)

    def after(self, places: Iterable[int], call: Touched, memory: Iterable[Range]) -> None:
        """As `Coherence.after`; coarse copies of what was written are of no use."""
        memory = tuple(memory)
        super().after(places, call, memory)
        self._drop(merged(memory) if call.writes is None else call.writes)

    def freed(self, span: Range) -> None:
        """As `Coherence.freed`."""
        super().freed(span)
        self._drop((span,))

    def _drop(self, spans: Iterable[Range]) -> None:
        for span in spans:
            for held in self._coarse.values():
                if len(held):
                    held.set(span, False)
