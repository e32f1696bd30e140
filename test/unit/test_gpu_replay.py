"""The device `gpu`: calls of a plan as graphs, several streams, checkpoints."""

import itertools
import random

import pytest
from support.gpu import (
    ADD,
    MIB,
    PTX,
    WRITE,
    chain,
    chained,
    gpu,
    kernel,
    loaded_gpu,
    refused,
    word,
)

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.allocations import merged
from rrto_ros.devices.gpu.replayed import LEAST_BLOCK, MOST_GRAPHS
from rrto_ros.devices.gpu.segment_graphs import GraphCall, RecordEvent, WaitEvent
from rrto_ros.devices.protocol import (
    Launch,
    MemsetNode,
    SegmentCall,
    SegmentDevice,
)


@pytest.fixture
def loaded():
    with loaded_gpu() as made:
        yield made


class TestReplayedCalls:
    """What a plan's references run: any stretch of its calls, arguments changed or not."""

    def calls(self, base, values):
        return [SegmentCall(kernel(ADD, base, value), 0) for value in values]

    def test_it_is_what_the_protocol_asks_for(self, loaded):
        device, _, base = loaded
        assert isinstance(device, SegmentDevice)
        segment = device.prepare_segment(self.calls(base, [1]))
        assert segment.position == 0

    def test_a_stretch_runs_singly_first_and_as_a_graph_from_then_on(self, loaded):
        device, cuda, base = loaded
        segment = device.prepare_segment(self.calls(base, range(10)))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        seen = []
        for _ in range(4):
            segment.run(0, 10, {}, 1, 0)
            seen.append((cuda.count("cuLaunchKernel"), cuda.count("cuGraphLaunch")))
        assert seen == [(10, 0), (10, 1), (10, 2), (10, 3)]
        assert word(device, base) == chained(0, [*range(10)] * 4)

    @pytest.mark.parametrize("seed", range(6))
    def test_random_stretches_with_changing_arguments_equal_single_calls(self, loaded, seed):
        device, cuda, base = loaded
        rng = random.Random(seed)
        values = [rng.randrange(99) for _ in range(24)]
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        segment = device.prepare_segment(self.calls(base, values))
        stretches = [(0, 24), (0, 12), (12, 24), (3, 20), (5, 7)]
        expected = 0
        for _ in range(200):
            first, last = rng.choice(stretches)
            changed = {}
            for k in rng.sample(range(first, last), rng.randrange(3) if last - first > 3 else 0):
                values[k] = rng.randrange(99)
                changed[k] = SegmentCall(kernel(ADD, base, values[k]), 0)
            segment.run(first, last, changed, 1, 0)
            expected = chained(expected, values[first:last])
        assert word(device, base) == expected
        assert cuda.count("cuGraphLaunch") > 120
        assert cuda.count("cuGraphInstantiate") == 4

    def test_stretches_that_never_come_again_are_covered_by_blocks(self, loaded):
        device, cuda, base = loaded
        values = list(range(200))
        segment = device.prepare_segment(self.calls(base, values))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        expected = 0
        for round_ in range(20):
            cuts = [0, 3 + round_, 71 + 3 * round_, 200]
            for first, last in itertools.pairwise(cuts):
                segment.run(first, last, {}, 1, 0)
                expected = chained(expected, values[first:last])
        assert word(device, base) == expected
        graphs, singles = cuda.count("cuGraphLaunch"), cuda.count("cuLaunchKernel")
        assert graphs > 60
        assert singles == 20 * 200 - graphs * LEAST_BLOCK

    def test_an_error_names_the_call_that_has_it_and_those_before_were_done(self, loaded):
        device, _, base = loaded
        calls = self.calls(base, range(8))
        segment = device.prepare_segment(calls)
        for _ in range(3):
            segment.run(0, 8, {}, 1, 0)
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        bad = Launch(1, ADD, (1, 1, 1), (1, 1, 1), 0, b"short")
        refused(CUresult.INVALID_VALUE, segment.run, 0, 8, {5: SegmentCall(bad, 0)}, 1, 0)
        assert segment.position == 5
        assert word(device, base) == chained(0, range(5))

    def test_a_module_that_was_unloaded_is_an_error_of_the_first_launch(self, loaded):
        device, _, base = loaded
        segment = device.prepare_segment(self.calls(base, range(8)))
        for _ in range(3):
            segment.run(2, 8, {}, 1, 0)
        device.module_unload(1)
        refused(CUresult.INVALID_HANDLE, segment.run, 2, 8, {}, 1, 0)
        assert segment.position == 2

    def test_a_stream_that_changes_is_not_hidden_by_an_old_graph(self, loaded):
        device, cuda, base = loaded
        device.stream_create(5, 1, 0)
        segment = device.prepare_segment(self.calls(base, range(5)))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        for _ in range(3):
            segment.run(0, 5, {}, 1, 0)
        device.ctx_synchronize()
        moved = {k: SegmentCall(kernel(ADD, base, k), 5) for k in range(5)}
        segment.run(0, 5, moved, 1, 0)
        launches = [a for name, a in cuda.calls if name == "cuGraphLaunch"]
        assert int(launches[-1][1]) not in (0, 1, 2)
        assert word(device, base, stream=5) == chained(0, [*range(5)] * 4)

    def test_stretches_are_bounded_and_the_longest_unused_goes_first(self, loaded):
        device, cuda, base = loaded
        segment = device.prepare_segment(self.calls(base, range(100)))
        for last in range(10, 10 + MOST_GRAPHS + 9):
            for _ in range(2):
                segment.run(0, last, {}, 1, 0)
        assert cuda.alive()["CUgraphExec"] == MOST_GRAPHS == 64
        del segment
        assert "CUgraphExec" not in cuda.alive()


class TestSegmentsOfSeveralStreams:
    """The stand-in does work as late and in as wrong an order as the dependencies permit."""

    def test_events_order_streams_inside_a_segment(self, loaded):
        device, _, base = loaded
        for stream in (5, 6):
            device.stream_create(stream, 1, 0)
        for event in (1, 2):
            device.event_create(event, 0)
        segment = device.graphs.prepare([
            GraphCall(MemsetNode(base, 0, 0, 4, 1, 1), 5), *chain(base, [1], 5),
            GraphCall(RecordEvent(1), 5), GraphCall(WaitEvent(1), 6), *chain(base, [2], 6),
            GraphCall(RecordEvent(2), 6), GraphCall(WaitEvent(2), 5), *chain(base, [3], 5),
        ])  # fmt: skip
        for _ in range(3):
            assert segment.run()
            assert word(device, base, stream=5) == chained(0, [1, 2, 3])
        assert device.event_query(2)

    def test_the_default_stream_and_blocking_ones_wait_for_each_other(self, loaded):
        device, _, base = loaded
        device.stream_create(5, 0, 0)
        device.stream_create(6, 0, 0)
        values = [(5, 1), (0, 2), (6, 3), (0, 4), (5, 5), (1, 6), (6, 7), (0, 8), (2, 9)]
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        segment = device.graphs.prepare([c for s, v in values for c in chain(base, [v], s)])
        assert segment.run()
        assert word(device, base) == chained(0, [v for _, v in values])

    def test_what_lies_before_and_behind_in_every_stream_keeps_its_place(self, loaded):
        device, _, base = loaded
        for stream in (5, 6):
            device.stream_create(stream, 1, 0)
        first, second = base, base + 512
        segment = device.graphs.prepare([*chain(first, [1, 2], 5), *chain(second, [3, 4], 6)])
        for at, stream in ((first, 5), (second, 6)):
            device.launch(kernel(WRITE, at, 7), stream)
        assert segment.run()
        device.launch(kernel(ADD, first, 10), 5)
        device.launch(kernel(ADD, second, 11), 6)
        assert word(device, second, stream=6) == chained(7, [3, 4, 11])
        assert word(device, first, stream=5) == chained(7, [1, 2, 10])

    def test_an_event_recorded_before_the_segment_is_waited_for(self, loaded):
        device, _, base = loaded
        for stream in (5, 6):
            device.stream_create(stream, 1, 0)
        device.event_create(1, 0)
        device.launch(kernel(WRITE, base, 2), 6)
        device.event_record(1, 6)
        segment = device.graphs.prepare([GraphCall(WaitEvent(1), 5), *chain(base, [1, 2, 3], 5)])
        assert segment.run()
        assert word(device, base, stream=5) == chained(2, [1, 2, 3])

    @pytest.mark.parametrize("seed", range(12))
    def test_random_stretches_give_what_single_calls_give(self, seed):
        results = []
        for whole in (False, True):
            rng = random.Random(seed)
            with gpu() as (device, cuda):
                device.module_load(1, PTX)
                base = device.info.arena_base
                device.mem_alloc(base, 4096, 0)
                device.memset(MemsetNode(base, 0, 1, 4, 1024, 1), 0)
                device.ctx_synchronize()
                for stream in (5, 6, 7):
                    device.stream_create(stream, stream % 2, 0)
                device.event_create(1, 0)
                device.event_create(2, 0)
                device.event_record(1, 5)
                device.event_record(2, 6)
                calls, last = [], {}
                for _ in range(30):
                    stream = rng.choice((0, 2, 5, 6, 7))
                    event = rng.choice((1, 2))
                    kind = rng.randrange(4)
                    if kind == 0:
                        calls.append(GraphCall(RecordEvent(event), stream))
                    elif kind == 1:
                        calls.append(GraphCall(WaitEvent(event), stream))
                    else:
                        # Streams share no word unless an event orders them: no races.
                        at = base + 4 * last.setdefault(stream, len(last))
                        calls.append(GraphCall(kernel(ADD, at, rng.randrange(99)), stream))
                if whole:
                    assert device.graphs.prepare(calls).run()
                else:
                    for call in calls:
                        work = call.work
                        if isinstance(work, RecordEvent):
                            device.event_record(work.event, call.stream)
                        elif isinstance(work, WaitEvent):
                            device.stream_wait_event(call.stream, work.event, 0)
                        else:
                            device.launch(work, call.stream)
                device.ctx_synchronize()
                results.append(bytes(device.memcpy_dtoh(base, 64, 0)))
                assert cuda.broken == 0
        assert results[0] == results[1]


class TestCheckpoints:
    def test_what_was_overwritten_is_put_back(self, loaded):
        device, _, base = loaded
        device.memcpy_htod(base, b"before--" * 64, 0)
        taken = device.checkpoint([(base, 512), (base + 256, 512)], 0)
        assert taken.bytes == 768
        device.memset(MemsetNode(base, 0, 0, 1, 768, 1), 0)
        device.restore(taken)
        assert bytes(device.memcpy_dtoh(base, 512, 0)) == b"before--" * 64

    def test_released_copies_leave_what_was_written(self, loaded):
        device, _, base = loaded
        device.memcpy_htod(base, b"before", 0)
        taken = device.checkpoint([(base, 6)], 0)
        device.memcpy_htod(base, b"behind", 0)
        device.release(taken)
        assert bytes(device.memcpy_dtoh(base, 6, 0)) == b"behind"
        refused(CUresult.INVALID_HANDLE, device.restore, taken)

    def test_copies_keep_their_place_among_all_streams(self, loaded):
        device, _, base = loaded
        for stream in (5, 6):
            device.stream_create(stream, 1, 0)
        device.launch(kernel(WRITE, base, 1), 5)
        device.launch(kernel(WRITE, base + 4, 2), 6)
        taken = device.checkpoint([(base, 8)], 5)
        device.launch(kernel(WRITE, base, 10), 5)
        device.launch(kernel(WRITE, base + 4, 20), 6)
        device.restore(taken)
        device.launch(kernel(ADD, base + 4, 0), 6)
        assert word(device, base + 4, stream=6) == 6
        assert word(device, base, stream=5) == 1

    def test_memory_for_copies_is_used_again(self, loaded):
        device, cuda, base = loaded
        for number in range(20):
            device.memcpy_htod(base, bytes([number]) * 4096, 0)
            taken = device.checkpoint([(base, 4096)], 0)
            device.memset(MemsetNode(base, 0, 0xFF, 1, 4096, 1), 0)
            device.restore(taken)
            assert bytes(device.memcpy_dtoh(base, 4096, 0)) == bytes([number]) * 4096
        assert cuda.count("cuMemAlloc") == 1
        found = device.statistics()
        assert (
            found["checkpoints_taken"],
            found["checkpoints_restored"],
            found["checkpoints"],
        ) == (20, 20, 0)

    def test_two_at_once_do_not_share_memory(self, loaded):
        device, _, base = loaded
        device.memcpy_htod(base, b"one", 0)
        one = device.checkpoint([(base, 3)], 0)
        device.memcpy_htod(base, b"two", 0)
        two = device.checkpoint([(base, 3)], 0)
        device.memcpy_htod(base, b"six", 0)
        device.restore(two)
        assert bytes(device.memcpy_dtoh(base, 3, 0)) == b"two"
        device.restore(one)
        assert bytes(device.memcpy_dtoh(base, 3, 0)) == b"one"

    def test_too_much_to_keep_is_refused_and_spare_memory_goes_first(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device._checkpoints._most = 5 * MIB
            device.mem_alloc(base, 7 * MIB, 0)
            device.release(device.checkpoint([(base, 3 * MIB)], 0))
            taken = device.checkpoint([(base, 4 * MIB)], 0)
            assert device.statistics()["checkpoints_memory_bytes"] == 4 * MIB
            text = refused(CUresult.OUT_OF_MEMORY, device.checkpoint, [(base, 3 * MIB)], 0)
            assert "at most" in text
            device.release(taken)

    def test_ranges_outside_what_is_allocated_are_refused(self, loaded):
        device, cuda, base = loaded
        refused(CUresult.INVALID_VALUE, device.checkpoint, [(base + 2 * MIB, 4)], 0)
        assert cuda.count("cuMemAlloc") == 0

    def test_nothing_to_keep_is_nothing(self, loaded):
        device, _, _ = loaded
        device.restore(device.checkpoint([], 0))

    def test_ranges_are_merged(self):
        assert merged([(10, 5), (0, 4), (12, 10), (4, 1), (50, 0)]) == [(0, 5), (10, 12)]
