"""The default search finds the inferences of synthetic programs, call by call, nothing else."""

import random
import struct

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.synthetic import Model, Program, interleave

from rrto_ros.robot.record import CallLog
from rrto_ros.robot.search import SearchOptions, make_search, shared_prefix
from rrto_ros.wire.format import HEADER_BYTES

SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
seeds = st.integers(0, 2**32 - 1)


def run(program, algorithm="operator_sequence", chunk=None, options=None):
    """Feed a program as a recorder would; (search, log, position after which each was found)."""
    log = CallLog()
    search = make_search(algorithm, log, options)
    found_at = {}
    records = program.records()
    rng = random.Random(chunk)
    at = 0
    while at < len(records):
        # chunk None: flushed at each call that waits, as a batch is.
        step = 1
        if chunk is None:
            while at + step < len(records) and "dtoh" not in program.calls[at + step - 1].name:
                step += 1
        else:
            step = rng.randint(1, chunk)
        log.extend(b"".join(records[at : at + step]))
        at += step
        if search.update():
            for s in search.found():
                found_at.setdefault(s.digest, at)
    return search, log, found_at


def shape(items, varying=()):
    """The calls as comparable values, what varies blanked out."""
    out = []
    for i, item in enumerate(items):
        body = bytearray(item.body)
        for v in varying:
            if v.call == i:
                at = v.offset - HEADER_BYTES
                body[at : at + v.size] = bytes(v.size)
        out.append((item.code, item.payload_bytes, bytes(body)))
    return tuple(out)


def expect(program, search, log, labels):
    """What was found is exactly the inferences with these labels."""
    found = search.found()
    got = {shape(s.items, s.varying) for s in found}
    for label in labels:
        instance = [log.template(p) for p in program.truth[label][-1]]
        matches = [s for s in found if shape(instance, s.varying) == shape(s.items, s.varying)]
        assert matches, (
            f"{label} ({len(instance)} calls) not found, but "
            f"{[(len(s), s.start, s.repetitions, s.is_round) for s in found]}"
        )
    assert len(got) == len(labels), [(len(s), s.start, s.repetitions) for s in found]


def found_after(program, found_at, sequence, label):
    """Number of inferences with this label that were complete when the sequence was found."""
    return sum(1 for i in program.truth[label] if i[-1] < found_at[sequence.digest])


@given(st.integers(1, 60), st.integers(1, 4), st.booleans(), seeds)
@SETTINGS
def test_a_plain_loop_is_found_whole_after_two_inferences(kernels, outputs, synchronise, seed):
    p = Program()
    m = Model(p, "net", 1, kernels=kernels, outputs=outputs, synchronise=synchronise)
    for _ in range(5):
        m.infer()
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    (s,) = search.found()
    # The first inference still follows the loading of the model without a break.
    assert found_after(p, found_at, s, "net") <= 2
    assert s.start == p.truth["net"][0][0]
    assert s.inputs == (0,)
    assert len(s.outputs) == outputs
    assert s.varying == ()


@given(st.integers(1, 40), seeds, st.integers(0, 3))
@SETTINGS
def test_noise_and_warm_up_do_not_belong_to_the_sequence(kernels, seed, warm):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels, lazy=True)
    for _ in range(rng.randint(0, 30)):
        rng.choice([lambda: p.alloc(), lambda: p.fill(p.alloc(), 64), lambda: p.load_module(77)])()
    warm_ups = []
    for _ in range(warm + 1):
        start = len(p.calls)
        m.warm_up(rng)
        warm_ups.append(tuple(c.name for c in p.calls[start:]))
    # Two that are equal are a sequence that was seen twice, noise or not.
    assume(len(set(warm_ups)) == len(warm_ups))
    for _ in range(3):
        m.infer()
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 2


def test_an_inference_with_lazy_loading_is_a_witness_for_the_first_clean_one():
    p = Program()
    m = Model(p, "net", 1, kernels=12, lazy=True)
    p.call("stream_create", stream=5, flags=0, priority=0)
    m.prepare()
    m.upload()
    for i in range(12):
        p.load_module(50 + i)
        m.launches(i, i + 1)
    m.read()
    m.infer()
    search, log, _ = run(p)
    expect(p, search, log, ["net"])
    assert search.found()[0].repetitions == 1


def test_a_graph_captured_in_the_second_inference_is_found_at_the_end_of_the_third():
    p = Program()
    m = Model(p, "net", 1, kernels=6)
    node = {"module": 1, "flags": 0, "shared_bytes": 0, "dependencies": [], "graph": 7}
    node |= dict.fromkeys(("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"), 1)
    m.warm_up(random.Random(1))
    for i in range(2):
        with p.inference("first" if i == 0 else "net"):
            m.upload()
            if i == 0:
                p.alloc()
                p.call("graph_create", graph=7)
                for k in range(6):
                    params = struct.pack("<QQ", m.x if k == 0 else m.buffer(k - 1), m.buffer(k))
                    p.call("graph_add_kernel_node", node=k, kernel=k, params=params, **node)
                p.call("graph_instantiate", graph_exec=8, graph=7)
            p.call("graph_launch", graph_exec=8, stream=0)
            p.call("ctx_synchronize", context=0)
            m.read()
    search, log, _ = run(p)
    expect(p, search, log, ["net"])


def test_a_pipelined_program_that_reads_the_inference_before_is_found():
    p = Program()
    m = Model(p, "net", 1, kernels=6)
    last = p.alloc()
    for _ in range(5):
        with p.inference("net"):
            m.upload()
            m.launches(0, 6)
            p.download(last)
        p.call("memcpy_dtod", dst=last, src=m.buffer(5), size=64, stream=0)
    search, _, _ = run(p)
    (s,) = search.found()
    assert [i.op.name for i in s.items].count("memcpy_dtod") == 1
    assert len(s) == 9


@given(st.integers(2, 30), seeds)
@SETTINGS
def test_autotuning_is_not_taken_for_an_inference(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(rng.randint(1, 3)):
        m.autotune(rng, candidates=rng.randint(1, 5), runs=rng.randint(2, 9))
    if rng.random() < 0.5:
        m.warm_up(rng)
        m.autotune(rng)
    for _ in range(4):
        m.infer()
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 3


@given(st.integers(1, 20), st.integers(1, 20), seeds)
@SETTINGS
def test_models_that_alternate_are_told_apart(ka, kb, seed):
    rng = random.Random(seed)
    p = Program()
    a = Model(p, "a", 1, kernels=ka)
    b = Model(p, "b", 2, kernels=kb, outputs=2)
    order = rng.choice(["strict", "random"])
    for i in range(14):
        chosen = (a, b)[i % 2] if order == "strict" else rng.choice((a, b))
        chosen.infer()
    a.infer(), b.infer(), a.infer(), b.infer()
    search, log, _ = run(p)
    expect(p, search, log, ["a", "b"])


def test_a_model_swapped_at_run_time_is_found_as_soon_as_the_first():
    p = Program()
    a = Model(p, "a", 1, kernels=9)
    for _ in range(6):
        a.infer()
    b = Model(p, "b", 2, kernels=7)
    for _ in range(4):
        b.infer()
    search, log, found_at = run(p)
    expect(p, search, log, ["a", "b"])
    newest = search.found()[0]
    assert len(newest) == 9
    assert found_after(p, found_at, newest, "b") <= 2


@given(st.integers(3, 25), seeds)
@SETTINGS
def test_one_operator_more_or_less_is_another_sequence(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    where = rng.randint(0, kernels)
    for i in range(12):
        more = i % 3 == 2 if rng.random() < 0.5 else rng.random() < 0.5
        more = more if i > 3 else i % 2 == 0
        with p.inference("more" if more else "less"):
            m.upload()
            m.launches(0, where)
            if more:
                p.launch(1, 99, m.x, m.buffer(0))
            m.launches(where, kernels)
            m.read()
    search, log, _ = run(p)
    expect(p, search, log, ["more", "less"])
    one, other = search.found()
    assert shared_prefix(one, other) == where + 1


@given(st.integers(1, 25), seeds)
@SETTINGS
def test_an_argument_that_changes_each_time_varies(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(5):
        m.infer(rng.getrandbits(40), 7)
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    (s,) = search.found()
    (v,) = s.varying
    # fields of a launch take 24 + 48 + 8 bytes; the fourth word of the first kernel varies
    launch = s.items[v.call]
    assert v.call == 1
    assert v.size == 8
    assert v.offset - HEADER_BYTES == len(launch.body) - 16
    assert s.start == p.truth["net"][0][0]
    assert found_after(p, found_at, s, "net") <= 2


@given(st.integers(1, 25), st.integers(2, 4), seeds)
@SETTINGS
def test_an_argument_taken_in_turn_makes_variants(kernels, turns, seed):
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for i in range(6 * turns):
        m.infer(1000 + i % turns, label=f"net{i % turns}")
    search, log, _ = run(p)
    assert all(not s.varying for s in search.found())
    expect(p, search, log, [f"net{i}" for i in range(turns)])


@given(st.integers(8, 30), seeds)
@SETTINGS
def test_twins_of_one_architecture_are_told_apart(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    a = Model(p, "a", 1, kernels=kernels)
    b = Model(p, "b", 1, kernels=kernels)
    for _ in range(12):
        rng.choice((a, b)).infer()
    for _ in range(3):
        a.infer(), b.infer()
    search, log, _ = run(p)
    expect(p, search, log, ["a", "b"])


@given(st.integers(2, 12), st.integers(2, 12), seeds)
@SETTINGS
def test_changing_lengths_are_each_found(ka, kb, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=30)
    lengths = sorted({ka, kb + 12, 28})
    for n in [rng.choice(lengths) for _ in range(8)] + lengths + lengths:
        with p.inference(f"net{n}"):
            m.upload()
            m.launches(0, n)
            p.download(m.buffer(n - 1))
    search, log, _ = run(p)
    expect(p, search, log, [f"net{n}" for n in lengths])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
@SETTINGS
def test_several_outputs_one_after_the_other_are_one_inference(k1, k2, k3):
    p = Program()
    m = Model(p, "net", 1, kernels=40)
    for _ in range(4):
        with p.inference("net"):
            m.upload()
            m.launches(0, k1)
            p.download(m.buffer(0))
            m.launches(k1, k1 + k2)
            p.download(m.buffer(1))
            p.download(m.buffer(2))
            m.launches(k1 + k2, k1 + k2 + k3)
            p.download(m.buffer(3))
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 2


@given(st.integers(1, 12), st.integers(1, 12))
@SETTINGS
def test_a_second_upload_after_a_read_belongs_to_the_inference_if_memory_is_shared(k1, k2):
    p = Program()
    m = Model(p, "net", 1, kernels=k1 + k2)
    second = p.alloc()
    for _ in range(5):
        with p.inference("net"):
            m.upload()
            m.launches(0, k1)
            p.download(m.buffer(k1 - 1))
            p.upload(second, bytes(128))
            p.launch(1, 77, second, m.buffer(k1 - 1), m.buffer(0))
            m.launches(k1, k1 + k2)
            p.download(m.buffer(k1 + k2 - 1), 128)
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    (s,) = search.found()
    assert len(s.inputs) == 2
    assert found_after(p, found_at, s, "net") <= 3


@given(st.integers(1, 20), st.booleans())
@SETTINGS
def test_memory_allocated_in_every_inference_belongs_to_it(kernels, events):
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    scratch = m.program._heap
    for _ in range(5):
        with p.inference("net"):
            p.call("mem_alloc", address=scratch, size=512, stream=0)
            if events:
                p.call("event_record", event=1, stream=0)
            m.upload()
            p.launch(1, 50, m.x, scratch)
            m.launches(0, kernels)
            if events:
                p.call("event_record", event=2, stream=0)
            m.read()
            if events:
                p.call("event_synchronize", event=2)
                p.call("event_elapsed_ms", start=1, end=2)
            p.call("mem_free", address=scratch, stream=0)
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 3


@given(st.integers(1, 20), seeds)
@SETTINGS
def test_how_often_a_program_polls_makes_no_difference(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(6):
        with p.inference("net"):
            m.upload()
            m.launches(0, kernels)
            p.call("event_record", event=4, stream=0)
            for _ in range(rng.randint(1, 6)):
                p.call("event_query", event=4)
            m.read()
    search = run(p)[0]
    (s,) = search.found()
    assert [i.op.name for i in s.items].count("event_query") == 1
    assert len(s) == kernels + 4
    assert s.polls == (kernels + 2,)


@given(st.integers(2, 12), st.integers(2, 12), seeds)
@SETTINGS
def test_threads_that_interleave_are_searched_each_in_its_own_order(ka, kb, seed):
    rng = random.Random(seed)
    pa, pb = Program(), Program()
    a, b = Model(pa, "a", 1, kernels=ka), Model(pb, "b", 2, kernels=kb)
    b.x += 1 << 30
    for _ in range(12):
        a.infer()
        b.infer()
    p = interleave([pa, pb], rng)
    search, log, _ = run(p, chunk=40)
    expect(p, search, log, ["a", "b"])
    assert {s.thread for s in search.found()} == {1, 2}


@given(st.integers(1, 12), seeds)
@SETTINGS
def test_an_inference_that_moves_from_thread_to_thread_is_one_sequence(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(12):
        p.thread = rng.randint(1, 4)
        m.infer()
    search, log, _ = run(p, chunk=30)
    expect(p, search, log, ["net"])
    assert search.found()[0].thread is None


@given(st.integers(1, 12), st.integers(1, 12), seeds)
@SETTINGS
def test_streams_of_one_thread_are_one_order(ka, kb, seed):
    p = Program()
    a = Model(p, "net", 1, kernels=ka, stream=11)
    b = Model(p, "other", 2, kernels=kb, stream=12)
    for _ in range(4):
        with p.inference("both"):
            a.upload()
            b.upload()
            for i in range(max(ka, kb)):
                if i < ka:
                    a.launches(i, i + 1)
                if i < kb:
                    b.launches(i, i + 1)
            a.read()
            b.read()
    search, log, _ = run(p)
    expect(p, search, log, ["both"])


@given(st.integers(3, 20), seeds)
@SETTINGS
def test_an_inference_is_found_whatever_stray_calls_come_between(kernels, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(8):
        if rng.random() < 0.4:
            p.fill(m.weights + 512 * rng.randint(0, 9), 64, rng.randint(0, 9))
        if rng.random() < 0.3:
            p.alloc()
        m.infer()
    m.infer()
    m.infer()
    search, log, _ = run(p)
    instance = [log.template(at) for at in p.truth["net"][-1]]
    assert shape(instance) in {shape(s.items) for s in search.found()}


@given(st.integers(1, 8), st.integers(1, 6), seeds)
@SETTINGS
def test_the_body_of_a_loop_whose_length_depends_on_the_data_is_found(kernels, body, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=30)
    for n in [5, 3, 7, 4, 9, 6]:
        m.upload()
        m.launches(0, kernels)
        p.download(m.buffer(0))
        for _ in range(n + rng.randint(0, 1)):
            with p.inference("body"):
                m.launches(10, 10 + body)
                p.download(m.buffer(9 + body), 32)
    search, log, _ = run(p)
    one = shape([log.template(i) for i in p.truth["body"][-1]])
    assert (one in {shape(s.items) for s in search.found()}) == (body + 1 >= 3)


def test_a_program_without_uploads_has_its_inferences_found():
    p = Program()
    m = Model(p, "net", 1, kernels=6, outputs=2)
    for _ in range(5):
        with p.inference("net"):
            m.launches(0, 6)
            m.read()
    search, log, found_at = run(p)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 3


@pytest.mark.parametrize(
    ("algorithm", "kernels"),
    [(a, k) for a in ("operator_sequence", "data_dependency") for k in (1, 2, 100, 1000)]
    + [("operator_sequence", 19_998), ("data_dependency", 5000)],
)
def test_sequences_of_3_to_20000_operators(kernels, algorithm):
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    for _ in range(3):
        m.infer()
    search, log, found_at = run(p, algorithm)
    expect(p, search, log, ["net"])
    assert found_after(p, found_at, search.found()[0], "net") <= 2


@given(seeds, st.integers(1, 200))
@SETTINGS
def test_how_the_calls_are_batched_makes_no_difference(seed, chunk):
    rng = random.Random(seed)
    p = Program()
    a = Model(p, "a", 1, kernels=rng.randint(1, 9))
    b = Model(p, "b", 2, kernels=rng.randint(10, 19))
    a.autotune(rng)
    b.warm_up(rng)
    for _ in range(10):
        rng.choice((a, b)).infer()
    a.infer(), b.infer(), a.infer(), b.infer()
    search, log, _ = run(p, chunk=chunk)
    expect(p, search, log, ["a", "b"])


def test_sequences_outside_the_wanted_lengths_are_not_offered():
    p = Program()
    m = Model(p, "net", 1, kernels=20)
    for _ in range(5):
        m.infer()
    for options in (SearchOptions(max_length=21), SearchOptions(min_length=23)):
        assert run(p, options=options)[0].found() == ()
    for options in (SearchOptions(max_length=22), SearchOptions(min_length=22)):
        assert len(run(p, options=options)[0].found()) == 1


@pytest.mark.parametrize("need", [2, 3, 5])
def test_the_wanted_number_of_repetitions_is_waited_for(need):
    p = Program()
    m = Model(p, "net", 1, kernels=4)
    for _ in range(7):
        m.infer()
    search, _, found_at = run(p, options=SearchOptions(min_repetitions=need))
    (s,) = search.found()
    assert found_after(p, found_at, s, "net") == need
