"""Tensors of a plan, maps of intervals and coherence, compared with looking at every byte."""

import itertools
import os
import random

from rrto_ros.schedule.coherence import Coherence
from rrto_ros.schedule.dataflow import BEFORE, Flow, Touched, flows, live, self_contained
from rrto_ros.schedule.intervals import IntervalMap, without

SEEDS = int(os.environ.get("RRTO_PARTITIONS", "200"))
SIZE = 40
MEMORY = ((0, 20), (21, SIZE))


def spans(rnd, most):
    out = []
    for _ in range(rnd.randint(0, most)):
        low = rnd.randrange(SIZE)
        out.append((low, rnd.randint(low, SIZE)))
    return tuple(out)


def inference(rnd):
    """Calls that touch anything; some of them nobody knows."""
    calls = []
    for _ in range(rnd.randint(1, 12)):
        reads = None if rnd.random() < 0.05 else spans(rnd, 3)
        writes = None if rnd.random() < 0.05 else spans(rnd, 2)
        covers = tuple(s for s in writes or () if rnd.random() < 0.7)
        if covers and rnd.random() < 0.3:
            low, high = covers[0]
            covers = ((low, (low + high) // 2), *covers[1:])
        calls.append(Touched(reads, writes, covers))
    return calls


def places(ranges):
    return {a for low, high in (MEMORY if ranges is None else ranges) for a in range(low, high)}


def plain_flows(calls):
    """The same by looking at every byte."""
    producer, readers = [BEFORE] * SIZE, [set() for _ in range(SIZE)]
    first = [set() for _ in range(SIZE)]
    done = []
    for n, call in enumerate(calls):
        for a in places(call.reads) | (places(call.writes) - places(call.covers)):
            readers[a].add(n)
        for a in places(call.writes):
            if producer[a] == BEFORE:
                first[a] |= readers[a]
            else:
                done.append((producer[a], readers[a]))
            producer[a], readers[a] = n, set()
    done += [(producer[a], readers[a] | first[a]) for a in range(SIZE) if producer[a] != BEFORE]
    found = {}
    for n, read in done:
        key = n, tuple(sorted(read - {n}))
        if key[1]:
            found[key] = found.get(key, 0) + 1
    return tuple(Flow(n, read, size) for (n, read), size in sorted(found.items()))


def test_tensors_are_those_that_every_byte_has():
    for seed in range(SEEDS):
        calls = inference(random.Random(seed))
        found = flows(calls, MEMORY)
        assert found == plain_flows(calls), seed
        ends = [(t.bytes, min(t.producer, *t.readers), max(t.producer, *t.readers)) for t in found]
        assert live(found, len(calls)) == [
            sum(size for size, low, high in ends if low < cut <= high)
            for cut in range(len(calls) + 1)
        ], seed


def test_a_map_of_intervals_is_one_of_addresses():
    for seed in range(SEEDS):
        rnd = random.Random(seed)
        known, plain = IntervalMap(0), [0] * SIZE
        for _ in range(30):
            low = rnd.randrange(SIZE)
            high, value = rnd.randint(low, SIZE), rnd.randrange(3)
            known.set((low, high), value)
            plain[low:high] = [value] * (high - low)
            pieces = known.within((0, SIZE))
            assert [v for start, end, v in pieces for _ in range(start, end)] == plain, seed
            assert [start for start, _, _ in pieces] == [0, *(end for _, end, _ in pieces[:-1])]
            kept = list(known)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(kept)), seed
            joined = [a[1] == b[0] and a[2] == b[2] for a, b in itertools.pairwise(kept)]
            assert not any(joined), "neighbours with one value are one piece"


def test_ranges_without_others():
    for seed in range(SEEDS):
        rnd = random.Random(seed)
        some, holes = spans(rnd, 4), spans(rnd, 4)
        assert places(without(some, holes)) == places(some) - places(holes), seed


class Place:
    """Memory at a place, and calls that are functions of what they read."""

    def __init__(self, content):
        self.memory = list(content)

    def run(self, n, call, turn):
        """Every byte that is written follows from all that are read, which byte, and which call.

        Of what is not written for certain, half the bytes are left alone.
        """
        value = hash(tuple(self.memory[a] for a in sorted(places(call.reads)))) % 251
        for a in sorted(places(call.writes)):
            if a in places(call.covers) or (a + turn) % 2:
                self.memory[a] = (value + 7 * n + a + turn) % 251


def random_runs(brings):
    """Seeds whose random placements gave another memory than plain execution."""
    wrong = []
    for seed in range(SEEDS):
        rnd = random.Random(seed)
        calls = inference(rnd)
        content = [rnd.randrange(251) for _ in range(SIZE)]
        plain, at = Place(content), [Place(content) for _ in range(3)]
        coherence = Coherence(range(3))
        for turn in range(4):
            for n, call in enumerate(calls):
                place = rnd.randrange(3)
                plain.run(n, call, turn)
                for transfer in coherence.before(place, call, MEMORY):
                    low, high = transfer.span
                    assert transfer.target == place != transfer.source
                    if brings(rnd):
                        at[place].memory[low:high] = at[transfer.source].memory[low:high]
                at[place].run(n, call, turn)
                coherence.after((place,), call, MEMORY)
            if rnd.random() < 0.5:
                # The program leaves the plan: everything goes to one place.
                place = rnd.randrange(3)
                for transfer in coherence.stale(place, [(0, SIZE)]):
                    low, high = transfer.span
                    at[place].memory[low:high] = at[transfer.source].memory[low:high]
                if at[place].memory != plain.memory:
                    wrong.append(seed)
                    break
    return wrong


def test_calls_at_random_places_leave_the_memory_of_plain_execution():
    assert random_runs(lambda _: True) == []


def test_a_transfer_that_is_left_out_is_seen_by_this_test():
    assert random_runs(lambda rnd: rnd.random() < 0.9)


def test_the_last_of_self_contained_inferences_leaves_what_all_of_them_leave():
    contained = others = 0
    for seed in range(10 * SEEDS):
        rnd = random.Random(f"contained {seed}")
        calls = inference(rnd)[: rnd.randint(1, 4)]
        content = [rnd.randrange(251) for _ in range(SIZE)]
        every, last = Place(content), Place(content)
        for turn in range(4):
            for n, call in enumerate(calls):
                every.run(n, call, turn)
                if turn == 3:
                    last.run(n, call, turn)
        if self_contained(calls):
            assert every.memory == last.memory, seed
            contained += any(places(call.writes) for call in calls)
        else:
            others += every.memory != last.memory
    # Neither is rare, so the test sees both.
    assert contained > SEEDS // 10
    assert others > SEEDS


def test_what_an_inference_adds_to_is_not_left_out():
    grows = [Touched(((0, 8),), ((0, 8),), ((0, 8),))]
    partly = [Touched((), ((0, 8),), ((0, 7),))]
    assert not self_contained(grows)
    assert not self_contained(partly)
    assert self_contained([Touched((), ((0, 8),), ((0, 8),)), *grows, *partly])
    assert not self_contained([Touched(None, ())])


def test_what_is_newest_everywhere_is_not_brought():
    coherence = Coherence((0, 1))
    call = Touched(reads=((0, 8),), writes=((8, 16),), covers=((8, 16),))
    assert coherence.before(1, call, ()) == ()
    coherence.after((1,), call, ())
    (transfer,) = coherence.before(0, Touched(reads=((4, 12),)), ())
    assert (transfer.source, transfer.target, transfer.span) == (1, 0, (8, 12))
    assert coherence.before(0, Touched(reads=((4, 12),)), ()) == ()
    coherence.freed((8, 16))
    assert coherence.before(0, Touched(reads=((8, 16),)), ()) == ()
    assert coherence.statistics() == {"transfers": 1, "brought_bytes": 4}
