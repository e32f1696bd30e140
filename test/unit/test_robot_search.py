"""Both searches behind one interface; what is particular to each; bounds."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic import Model, Program, repeat_records

from rrto_ros.errors import ConfigError
from rrto_ros.robot.record import CallLog, dump, load
from rrto_ros.robot.search import ALGORITHMS, DataDependencySearch, SearchOptions, make_search


def feed(program, search, log):
    found_at = None
    for i, record in enumerate(program.records()):
        log.extend(record)
        if search.update() and search.found() and found_at is None:
            found_at = i
    return found_at


def same(search, log, program, label="net"):
    wanted = tuple(log.template(p) for p in program.truth[label][-1])
    return wanted in {s.items for s in search.found()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_either_search_finds_a_loop_behind_noise(algorithm, kernels, outputs, seed):
    rng = random.Random(seed)
    p = Program()
    m = Model(p, "net", 1, kernels=kernels, outputs=outputs, lazy=True)
    m.warm_up(rng)
    m.autotune(rng)
    m.warm_up(rng)
    for _ in range(4):
        m.infer()
    log = CallLog()
    search = make_search(algorithm, log)
    found_at = feed(p, search, log)
    assert same(search, log, p)
    assert len(search.found()) == 1
    assert found_at is not None
    assert found_at <= p.truth["net"][2][-1]


def test_a_round_that_makes_a_buffer_first_is_a_witness_and_the_next_one_can_be_replayed():
    """As with tinygrad's TinyJit: the first round captures, the second makes its input buffer."""
    p = Program()
    first, out = p.alloc(), p.alloc()
    p.load_module(1)

    def infer(data, *, lazily=False):
        p.upload(data, bytes(64))
        if lazily:
            p.load_module(2)
        p.launch(1, 0, data, out)
        p.launch(1, 1, out)
        p.download(out)

    infer(first, lazily=True)
    data = p.alloc()
    log = CallLog()
    search = make_search("operator_sequence", log)
    start = len(p.calls)
    infer(data)
    found_at = feed(p, search, log)
    assert found_at == len(p.calls) - 1, "as soon as the second round's result is there"
    (found,) = search.found()
    assert found.items == tuple(log.template(at) for at in range(start, len(p.calls)))


def test_buffers_allocated_anew_each_time_are_arguments_that_vary():
    """As numba's arrays are: another address each time, in each of the few calls that name it."""
    p = Program()
    p.load_module(1)
    for _ in range(5):
        with p.inference("net"):
            buffers = [p.alloc() for _ in range(4)]
            for buffer in buffers[:3]:
                p.upload(buffer, bytes(64))
            p.launch(1, 0, *buffers)
            p.download(buffers[3])
        for buffer in buffers:
            p.call("mem_free", address=buffer, stream=0)
    log = CallLog()
    search = make_search("operator_sequence", log)
    found_at = feed(p, search, log)
    assert found_at is not None
    assert found_at <= p.truth["net"][3][-1]
    assert max(len(s) for s in search.found()) >= len(p.truth["net"][0])
    words = sum(v.size // 8 for s in search.found() for v in s.varying)
    assert words >= 11, "three uploads, four arguments, four allocations"


def test_data_dependency_gives_up_a_sequence_at_the_first_call_that_deviates():
    p = Program()
    m = Model(p, "net", 1, kernels=5)
    for _ in range(4):
        m.infer()
    log = CallLog()
    search = DataDependencySearch(log)
    feed(p, search, log)
    assert search.found()[0].repetitions == 4
    p.calls.clear()
    m.upload()
    m.launches(0, 2)
    p.download(m.buffer(1))
    for record in p.records(100):
        log.extend(record)
    assert search.update()
    assert search.found() == ()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_bounded_log_is_searched_without_end_in_bounded_memory(algorithm):
    p = Program()
    m = Model(p, "net", 1, kernels=8)
    log = CallLog(max_calls=4000)
    search = make_search(algorithm, log, SearchOptions(max_length=200))
    log.extend(b"".join(p.records()))
    start = len(p.calls)
    m.infer()
    period = p.records()[start:]
    for first in range(start + 1, 60_000, 1000):
        log.extend(repeat_records(period, 1000, first))
        search.update()
    assert len(log) <= 4000
    (s,) = search.found()
    assert len(s) == 10
    for item in s.items:
        assert item.body  # its calls are still known


def test_rounds_that_never_repeat_do_not_fill_the_memory():
    rng = random.Random(4)
    p = Program()
    m = Model(p, "net", 1, kernels=40)
    log = CallLog(max_calls=20_000)
    search = make_search("operator_sequence", log, SearchOptions(max_length=500))
    index = 1
    for _ in range(700):
        p.calls.clear()
        m.upload()
        for _ in range(rng.randint(5, 30)):
            p.launch(1, rng.randint(0, 10**6), m.x, m.buffer(0))
        m.read()
        log.extend(b"".join(p.records(index)))
        index += len(p.calls)
        search.update()
    assert search.statistics()["classes"] <= 512
    assert log.memory_bytes() < 64 << 20
    p.calls.clear()
    for _ in range(3):
        m.infer()
    log.extend(b"".join(p.records(index)))
    search.update()
    assert same(search, log, Program(truth={"net": [list(range(log.end - 42, log.end))]}))


def test_a_loaded_log_has_the_same_sequences_as_the_live_one(tmp_path):
    rng = random.Random(2)
    p = Program()
    a, b = Model(p, "a", 1, kernels=9), Model(p, "b", 2, kernels=4)
    a.warm_up(rng)
    for _ in range(20):
        rng.choice((a, b)).infer()
    log = CallLog()
    live = make_search("operator_sequence", log)
    feed(p, live, log)
    dump(log, tmp_path / "log")
    offline = make_search("operator_sequence", load(tmp_path / "log"))
    offline.update()
    assert {s.digest for s in live.found()} == {s.digest for s in offline.found()} != set()


@pytest.mark.parametrize("kernels", [10, 450])
def test_a_million_calls_are_searched_in_seconds(kernels):
    p = Program()
    m = Model(p, "net", 1, kernels=kernels)
    m.infer()
    records = p.records()
    log = CallLog()
    log.extend(repeat_records(records[p.truth["net"][0][0] :], 100 * (kernels + 2)))
    # Tiled in memory: making a million records would take longer than all else here.
    n = 1_000_000 // (kernels + 2) * (kernels + 2)
    exact = np.resize(np.frombuffer(log.exact, np.int32), n)
    log.restore(base=0, exact=exact, threads=np.ones(n, np.uint32), breaks=[], allocations=[])
    search = make_search("operator_sequence", log)
    start = time.process_time()
    search.update()
    (s,) = search.found()
    assert time.process_time() - start < 6  # 2 s on an idle machine (bench/search.py)
    assert len(s) == kernels + 2
    assert s.repetitions > 0.99 * n / (kernels + 2)


def test_wrong_parameters_are_named():
    with pytest.raises(ConfigError, match="search 'magic'"):
        make_search("magic", CallLog())
    with pytest.raises(ConfigError, match="min_repetitions 1"):
        SearchOptions(min_repetitions=1)
    with pytest.raises(ConfigError, match="lengths from 9 to 4"):
        SearchOptions(min_length=9, max_length=4)
    with pytest.raises(ConfigError, match="call log of 3 calls"):
        CallLog(max_calls=3)


def test_the_benchmark_runs():
    script = Path(__file__).resolve().parents[2] / "bench" / "search.py"
    done = subprocess.run(
        [sys.executable, script, "--smoke", "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert all(r["total_us_per_call"] > 0 for n, r in rows.items() if "batches" in n)
    assert all(r["found"] == 1 for n, r in rows.items() if n.startswith(("loop", "offline")))


def test_every_part_that_the_benchmark_cuts_out_is_still_there():
    bench = Path(__file__).resolve().parents[2] / "bench"
    words = (
        "import ast, sys; sys.path.insert(0, sys.argv[1]); import search_parts, search_without\n"
    )
    words += "from pathlib import Path\nfor part in search_parts.PARTS:\n"
    words += "    text = Path(*part.module.split('.')).with_suffix('.py').read_text()\n"
    words += "    ast.parse(search_without.edited(text, part.edits, part.name))"
    done = subprocess.run(
        [sys.executable, "-c", words, str(bench)], cwd=bench.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_program_that_never_uploads_is_followed_however_long_it_runs():
    p = Program()
    m = Model(p, "net", 1, kernels=6)
    for _ in range(300):
        with p.inference("net"):
            m.launches(0, 6)
            m.read()
    log = CallLog()
    search = make_search("operator_sequence", log, SearchOptions(max_length=50))
    feed(p, search, log)
    assert same(search, log, p)
    assert len(search.found()) == 1
    assert search.found()[0].last >= p.truth["net"][-3][0]
    # Work that never meets a sync point is given up piece by piece, and what follows is found.
    p.calls.clear()
    p.truth.clear()
    for _ in range(500):
        p.launch(1, 3, m.x, m.buffer(0))
    p.download(m.buffer(0))
    for _ in range(4):
        m.infer()
    start = log.end
    for record in p.records(start + 1):
        log.extend(record)
        search.update()
    moved = {"net": [[start + i for i in places] for places in p.truth["net"]]}
    assert same(search, log, Program(truth=moved))
