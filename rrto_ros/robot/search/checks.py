"""The second level: can these calls be an inference, by what they read and write?"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from rrto_ros.api.ops import Effect, Kind, Work
from rrto_ros.wire.accesses import Accesses, GraphTable, Range, accesses
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.templates import CallTemplate

_COMES = (Effect.ALLOCATE, Effect.ACCESS)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run of calls does as a whole.

    Attributes:
        verdict: Why it cannot be an inference, "" if it can.
        footprint: Allocations and handles that it touches: two runs whose footprints are apart
            cannot depend on each other.
        uploads: Where the program's data goes.
    """

    verdict: str
    footprint: frozenset[tuple[str, int]] = frozenset()
    uploads: frozenset[int] = frozenset()


def profile(
    items: Items[CallTemplate], allocations: Allocations, graphs: GraphTable, *, is_round: bool
) -> Profile:
    """Look at a run of calls.

    Args:
        items: The calls.
        allocations: What is live now; what the calls allocate themselves need not be in it.
        graphs: Nodes of the session's graphs.
        is_round: It begins with data from the program. A run that does not must bring data to
            the program, or it is a piece of something else (an autotuning loop, for example).
    """
    own: Allocations | None = None
    touched: set[tuple[str, int]] = set()
    changed: set[int] = set()
    uploads: set[int] = set()
    uploaded: set[int] = set()
    used = False
    work = inputs = outputs = depending = syncs = 0
    verdict = ""
    for item in items:
        op, kind = item.op, item.kind
        if op.effect is Effect.LOAD:
            verdict = "it loads a module"
        elif op.effect in _COMES:
            if own is None:
                own = allocations.copy()
            own.follow(op.effect, item.fields())
        live = own if own is not None else allocations
        got = accesses(item, live, graphs)
        touched.update(got.handles, got.needs)
        bases = _bases(got, live)
        touched.update(("memory", b) for b in bases)
        if kind is Kind.WORK:
            work += 1
            used = used or not uploaded.isdisjoint(bases) or op.work is Work.GRAPH
        elif kind is Kind.INPUT:
            inputs += 1
            uploads.update(lo for lo, _ in got.writes)
            uploaded.update(bases)
        elif kind is Kind.SYNC:
            syncs += 1
            if op.brings_memory:
                outputs += 1
                # Module globals are not in the log, nor are graphs made before it began.
                unknown = live.find(got.reads[0][0]) is None or _opaque(items, graphs)
                depending += unknown or not changed.isdisjoint(bases)
        if kind is not Kind.SYNC and op.effect is not Effect.ALLOCATE:
            changed.update(_bases(Accesses(writes=got.writes, possible=got.possible), live))
    if not verdict:
        verdict = _verdict(work, inputs, outputs, syncs, used or depending > 0, is_round)
    return Profile(verdict, frozenset(touched), frozenset(uploads))


def _verdict(
    work: int, inputs: int, outputs: int, syncs: int, connected: bool, is_round: bool
) -> str:
    if not work:
        return "nothing is computed in it"
    if not connected:
        # A pipelined program reads what the inference before computed: the input will do.
        return "what is computed in it has to do with neither input nor output"
    if not outputs and not is_round:
        return "it brings nothing to the program"
    if not outputs and not (inputs and syncs):
        return "the program waits for nothing in it"
    return ""


def _opaque(items: Items[CallTemplate], graphs: GraphTable) -> bool:
    return any(
        i.op.work is Work.GRAPH and graphs.launched(i.fields()["graph_exec"]) is None
        for i in items
    )


def _bases(got: Accesses, live: Allocations) -> set[int]:
    bases: set[int] = set()
    ranges: tuple[Range, ...] = got.reads + got.writes + got.possible
    for lo, _ in ranges:
        hit = live.find(lo)
        bases.add(hit[0] if hit is not None else lo)
    return bases
