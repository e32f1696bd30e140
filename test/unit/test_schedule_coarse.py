"""What may cross a cut coarsely, and that nobody else gets coarse bytes."""

import random

from rrto_ros.schedule.coarse import LEAST_BYTES, CoarseCoherence, Step, coarse_plan, stretch
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.intervals import without
from rrto_ros.wire.accesses import Typed, merged

K = 1024
MEMORY = ((0, 64 * K),)


def span(number, size=K):
    return number * K, number * K + size


def upload(to):
    return Step(Touched((), (span(to),), (span(to),)))


def download(of):
    return Step(Touched((span(of),)), brings=True)


def layer(to, *of, kind="f32", reads="f32", covers=None):
    """A call that makes one buffer of others."""
    ranges = tuple(span(one) for one in of)
    covers = (span(to),) if covers is None else covers
    return Step(
        Touched(tuple(merged(ranges)), (span(to),), (span(to),)),
        covers,
        Typed(tuple((*one, reads) for one in ranges), ((*span(to), kind),)),
        work=True,
    )


def found(*steps):
    plan = coarse_plan(steps)
    return plan.refused or [dict(reads) for reads in plan.reads]


def test_what_a_call_made_as_floats_and_another_reads_as_such_may_be_coarse():
    steps = [upload(0), layer(1, 0), layer(2, 1, 0), layer(3, 1, 2), download(3)]
    plan = coarse_plan(steps)
    assert plan.refused == ""
    # What was uploaded is never coarse, nor what the program reads.
    assert [dict(reads) for reads in plan.reads] == [
        {}, {}, {"f32": (span(1),)}, {"f32": ((K, 3 * K),)}, {},
    ]  # fmt: skip
    assert plan.outputs == {4: "f32"}


def test_types_that_do_not_agree_or_are_not_known_are_exact():
    one = [upload(0), layer(1, 0)]
    assert found(*one, layer(2, 1, reads="f16"), layer(3, 2), download(3))[2] == {}
    assert found(*one, layer(2, 1, reads=""), layer(3, 2), download(3))[2] == {}
    halves = [upload(0), layer(1, 0, kind="f16")]
    assert found(*halves, layer(2, 1, reads="f16"), download(2))[2] == {"f16": (span(1),)}
    unknown = Step(layer(2, 1).touched, (span(2),), None, work=True)
    assert found(*one, unknown, layer(3, 1, 2), download(3))[3] == {"f32": (span(1),)}


def test_memory_that_has_another_content_later_has_another_type():
    """One arena for all layers: what counts is who wrote last."""
    steps = [
        upload(0), layer(1, 0), layer(2, 1), layer(1, 2, kind=""), layer(3, 1), layer(4, 3),
        download(4),
    ]  # fmt: skip
    reads = found(*steps)
    assert (reads[2], reads[4], reads[5]) == ({"f32": (span(1),)}, {}, {"f32": (span(3),)})


def test_what_is_changed_in_place_or_only_perhaps_written_is_exact():
    in_place = Step(
        Touched((span(1),), (span(1),), (span(1),)), (span(1),),
        Typed(((*span(1), "f32"),), ((*span(1), "f32"),)), work=True,
    )  # fmt: skip
    reads = found(upload(0), layer(1, 0), in_place, layer(2, 1), download(2))
    assert (reads[2], reads[3]) == ({}, {"f32": (span(1),)})
    half = layer(1, 0, covers=(span(1, K // 2),))
    assert "earlier inference left" in found(upload(0), half, layer(2, 1), download(2))


def test_an_inference_that_cannot_be_executed_again_is_refused():
    state = layer(5, 0, 5)
    assert "earlier inference left" in found(upload(0), layer(1, 0), state, download(5))
    assert "over what was uploaded" in found(upload(0), layer(1, 0), layer(0, 1), download(0))
    assert "brings nothing" in found(upload(0), layer(1, 0), layer(2, 1))
    assert "known to be floats" in found(upload(0), layer(1, 0, kind=""), layer(2, 1), download(2))
    unknown = Step(Touched(None, None), work=True)
    assert "call 1 touches is not known" in found(upload(0), unknown, download(2))
    # What was there before and is never written are weights.
    assert found(upload(0), layer(1, 0, 9), layer(2, 1, 9), download(2))[2] == {"f32": (span(1),)}


def test_what_a_stretch_of_calls_wants_is_coarse_only_if_all_may_have_it_so():
    some = (Touched((span(1), span(2))), {"f32": (span(1), span(2))})
    other = (Touched((span(2), span(3))), {"f32": (span(3),)})
    wanted = Touched((span(1), span(2), span(3)))
    assert stretch((some, other), wanted) == {"f32": (span(1), span(3))}


def told(transfers):
    return [(t.span, t.bits) for t in transfers]


def test_a_coarse_copy_serves_its_inference_and_nobody_else():
    one = CoarseCoherence((0, 1))
    kinds = {"f32": (span(1),)}
    reads = Touched((span(1),))
    one.after((0,), Touched((), (span(1),), (span(1),)), MEMORY)
    assert told(one.coarsely(1, reads, MEMORY, kinds, 8)) == [(span(1), 8)]
    assert told(one.coarsely(1, reads, MEMORY, kinds, 8)) == [], "it is there"
    assert one.missing(1, reads) == K, "but not the newest"
    assert told(one.before(1, reads, MEMORY)) == [(span(1), 0)]
    assert told(one.before(1, reads, MEMORY)) == []
    # Another content, another inference: it is brought anew.
    one.after((0,), Touched((), (span(1),), (span(1),)), MEMORY)
    assert told(one.coarsely(1, reads, MEMORY, kinds, 8)) == [(span(1), 8)]
    one.forget()
    assert told(one.coarsely(1, reads, MEMORY, kinds, 8)) == [(span(1), 8)]
    one.after((0,), Touched((), ((K + 100, K + 108),)), MEMORY)
    again = told(one.coarsely(1, reads, MEMORY, kinds, 8))
    assert sum(end - start for (start, end), _ in again) == 8
    assert all(not bits for _, bits in again), "so few bytes are not worth it"


def test_ends_that_do_not_fit_an_element_are_exact():
    one = CoarseCoherence((0, 1))
    one.after((0,), Touched((), ((1001, 3003),)), MEMORY)
    got = one.coarsely(1, Touched(((0, 4 * K),)), MEMORY, {"f32": ((0, 4 * K),)}, 4)
    assert told(got) == [((1004, 3000), 4), ((1001, 1004), 0), ((3000, 3003), 0)]


def test_random_calls_read_exact_bytes_or_coarse_ones_of_now():
    """Against a model: the number of the last write of each byte, and what places have of it."""
    for seed in range(25):
        rnd = random.Random(seed)
        one = CoarseCoherence((0, 1))
        size = 64
        memory = ((0, size * LEAST_BYTES),)
        newest = [0] * size
        exact = [[0] * size, [0] * size]
        coarse: list[list[int | None]] = [[None] * size, [None] * size]

        def blocks(spans, size=size):
            every = ((b, (b * LEAST_BYTES, (b + 1) * LEAST_BYTES)) for b in range(size))
            return [b for b, one in every if not without([one], spans)]

        def some(rnd=rnd, size=size):
            low = rnd.randrange(size)
            high = rnd.randint(low + 1, size)
            return ((low * LEAST_BYTES, high * LEAST_BYTES),)

        for number in range(1, 60):
            kind = rnd.random()
            at = rnd.randrange(2)
            if kind < 0.1:
                one.forget()
                coarse = [[None] * size, [None] * size]
                continue
            reads, writes, may = some(), some(), some()
            may = tuple(without(may, writes))
            call = Touched(reads, writes, writes)
            if kind < 0.6:
                transfers = one.coarsely(at, call, memory, {"f32": may} if may else {}, 8)
            else:
                transfers, may = one.before(at, call, memory), ()
            for t in transfers:
                assert t.target == at
                for b in blocks([t.span]):
                    assert exact[t.source][b] == newest[b]
                    if t.bits:
                        coarse[at][b] = newest[b]
                    else:
                        exact[at][b] = newest[b]
            for b in blocks(reads):
                good = exact[at][b] == newest[b]
                assert good or (b in blocks(may) and coarse[at][b] == newest[b])
            one.after((at,), call, memory)
            for b in blocks(writes):
                newest[b] = exact[at][b] = number
