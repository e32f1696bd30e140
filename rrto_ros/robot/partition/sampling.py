"""Executing an inference again with other widths of what crosses: owns what is kept of it.

Only work is executed again, and what brings memory to the program, which does not get it. That is
right where an inference neither goes on from what it left nor writes over what was uploaded
(`schedule/coarse.py`), and where its work is in one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rrto_ros.errors import UnavailableError
from rrto_ros.robot.partition.carrier import Carrier, Coarsely
from rrto_ros.robot.partition.placed import BOTH, Placed
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.accesses import Range

if TYPE_CHECKING:
    from rrto_ros.robot.partition.adaptive import Adaptive


@dataclass(frozen=True, slots=True)
class Kept:
    """A call of an inference that is executed again.

    Attributes:
        place: In the plan.
        record: As it came.
        touched: What it touches.
        at: The place that has its work.
        work: Whether it is work.
        brings: Whether it brings memory to the program.
    """

    place: int
    record: bytes
    touched: Touched
    at: int
    work: bool
    brings: bool


@dataclass(slots=True)
class Sample:
    """An inference that is executed again with other widths.

    Attributes:
        plan: Number of its plan.
        index: The program's number of its first call.
        widths: To be tried.
        placed: Where it runs.
        came: Calls that came so far.
        kept: Those that are executed again.
        outputs: What the program got, by the call's place: status and data.
    """

    plan: int
    index: int
    widths: tuple[int, ...]
    placed: Placed
    came: int = 0
    kept: list[Kept] = field(default_factory=list)
    outputs: dict[int, tuple[int, bytes]] = field(default_factory=dict)


def came(
    judge: Adaptive,
    sample: Sample,
    one: Kept,
    plan: int,
    index: int,
    carrier: Carrier,
    memory: Sequence[Range],
) -> None:
    """A call came while an inference is a sample, and was sent; after the last comes all again.

    Args:
        judge: Says what comes coarsely, and is told of it.
        sample: The inference.
        one: The call.
        plan: The number of the plan that it belongs to.
        index: The program's number of it.
        carrier: To the places.
        memory: What is live.

    Raises:
        UnavailableError: A place has not answered in time, or is gone.
    """
    if plan != sample.plan or one.place != sample.came or index != sample.index + one.place:
        # It is none any more: the program got exact results, and that is all.
        judge.sample = None
        return
    sample.came += 1
    if one.work or one.brings:
        sample.kept.append(one)
    if sample.came < len(sample.placed.places):
        return
    judge.sample = None
    tried: dict[int, dict[int, bytes]] = {}
    crossed = Coarsely()
    for bits in (*sample.widths, 0):
        before = replace(carrier.coarsely)
        found = again(sample, judge, carrier, memory, bits)
        if found is None:
            return
        tried[bits] = found
        crossed = carrier.coarsely - before if bits else crossed
    exact = tried.pop(0)
    judge.sampled(sample, tried, exact, crossed)


def again(
    sample: Sample, judge: Adaptive, carrier: Carrier, memory: Sequence[Range], bits: int
) -> dict[int, bytes] | None:
    """Execute a sample's calls once more; its outputs by the call's place, None if that failed.

    Args:
        sample: It, whole.
        judge: Says what comes coarsely.
        carrier: To the places.
        memory: What is live.
        bits: Of an element that comes coarsely; 0: all comes exactly.

    Raises:
        UnavailableError: A place has not answered in time, or is gone.
    """
    coherence = judge.coherence
    coherence.forget()
    got: dict[int, tuple[int, bytes]] = {}
    wanted = 0
    for one in sample.kept:
        if one.work and bits:
            transfers = judge.missing(one.at, one.place, one.touched, sample.placed, memory, bits)
        else:
            transfers = coherence.before(one.at, one.touched, memory)
            more = sample.placed.wanted.get(one.place)
            if one.work and more is not None:
                transfers += coherence.before(one.at, more, memory)
        if transfers:
            carrier.bring(transfers)
        if one.brings:
            carrier.settle(one.at)
            carrier.asked(one.at, one.record, got, one.place)
            wanted += 1
        else:
            carrier.silent(one.at, one.record)
        coherence.after((one.at,), one.touched, memory)
    # Nothing of it is under way any more when the program goes on.
    for at in BOTH:
        carrier.done(at, got, -1 - at)
    why = carrier.wait(got, wanted + len(BOTH))
    if why:
        raise UnavailableError(f"a place {why}: outputs of a sample are missing")
    if any(status for status, _ in got.values()):
        return None
    return {place: data for place, (_, data) in got.items() if place >= 0}
