"""`analyze`: every call of a log is given to an occurrence or to the noise; pictures; bags."""

import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from support.synthetic import Model, Program, interleave

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.evaluation.analyze import NOISE, analyze, analyze_log, report
from rrto_ros.evaluation.timeline import columns, runs, write_html, write_png
from rrto_ros.robot.record import CallLog, dump
from rrto_ros.robot.search.sequence import plan_of
from rrto_ros.ros.bag_file import typestore

TYPE = "rrto_msgs/msg/CallBatch"
SESSION = bytes(range(16))


def program(seed=1):
    rng = random.Random(seed)
    p = Program()
    a, b = Model(p, "a", 1, kernels=10, outputs=2), Model(p, "b", 2, kernels=6)
    a.warm_up(rng)
    a.autotune(rng)
    for i in range(20):
        a.infer(i + 1) if rng.random() < 0.5 else b.infer()
    for _ in range(5):
        with p.inference("early stop"):
            b.upload()
            b.launches(0, 4)
            p.download(b.buffer(3))
    return p


def logged(p):
    log = CallLog(session={"program": "detector"})
    log.extend(b"".join(p.records()))
    return log


def expect_exact(p, analysis):
    """Labels are the truth: same inferences at the same places, all else noise."""
    got = {tuple(f.starts): len(f.sequence) for f in analysis.found}
    assert got == {
        tuple(i[0] for i in instances): len(instances[0]) for instances in p.truth.values()
    }
    inside = np.zeros(len(p.calls), bool)
    for instances in p.truth.values():
        for instance in instances:
            inside[instance] = True
            assert analysis.items[instance].tolist() == list(range(len(instance)))
    assert np.array_equal(analysis.labels != NOISE, inside)


def test_a_short_log_that_ends_after_its_last_result_is_searched_to_its_end():
    p = Program()
    model = Model(p, "a", 1, kernels=5)
    for _ in range(4):
        model.infer()
    p.call("mem_free", address=model.buffer(0), stream=0)
    analysis = analyze_log(logged(p))
    expect_exact(p, analysis)
    (found,) = analysis.found
    assert plan_of(found.sequence).digest.hex() in report(analysis)


@pytest.mark.parametrize("seed", range(5))
def test_every_inference_is_found_where_it_is_and_nothing_else(seed):
    p = program(seed)
    expect_exact(p, analyze_log(logged(p)))


def test_threads_that_interleave_are_labelled_each():
    pa, pb = Program(), Program()
    a, b = Model(pa, "a", 1, kernels=8), Model(pb, "b", 2, kernels=5)
    for _ in range(12):
        a.infer()
        b.infer()
    p = interleave([pa, pb], random.Random(3))
    analysis = analyze_log(logged(p))
    expect_exact(p, analysis)
    assert len(columns(analysis, 0, len(p.calls))[1]) == 2


def test_repeated_queries_belong_to_the_inference():
    rng = random.Random(1)
    p = Program()
    m = Model(p, "net", 1, kernels=5)
    for _ in range(6):
        with p.inference("net"):
            m.upload()
            m.launches(0, 5)
            for _ in range(rng.randint(1, 5)):
                p.call("stream_query", stream=0)
            m.read()
    analysis = analyze_log(logged(p))
    first = p.truth["net"][0][0]
    assert (analysis.labels[first:] == 0).all()
    assert len(analysis.found[0].starts) == 6


def test_the_report_names_lengths_places_varying_words_and_variants():
    p = program()
    text = report(analyze_log(logged(p)))
    counts = {label: len(i) for label, i in p.truth.items()}
    first = {label: i[0][0] + 1 for label, i in p.truth.items()}
    assert f"13 calls, {counts['a']} times\n    first call number {first['a']}," in text
    assert f"8 calls, {counts['b']} times\n    first call number {first['b']}," in text
    assert "1 varying words in 1 calls" in text
    assert "the first 5 calls are the same" in text
    noise = sum(len(i) * len(i[0]) for i in p.truth.values())
    assert f"noise: {len(p.calls) - noise} calls in 1 runs" in text


def test_a_dumped_log_is_analysed_with_pictures(tmp_path):
    p = program()
    dump(logged(p), tmp_path / "log")
    (analysis,) = analyze(tmp_path / "log")
    write_html(analysis, tmp_path / "log.html")
    expect_exact(p, analysis)
    page = (tmp_path / "log.html").read_text()
    assert "src=" not in page
    assert "http" not in page.replace("<!doctype html>", "")
    data = json.loads(re.search(r"const D = (.*);\n", page).group(1))
    assert data["calls"] == len(p.calls) == sum(r[2] for r in data["runs"])
    assert [len(s) for s in data["sequences"]] == [len(f.sequence) for f in analysis.found]
    drawn = [r for r in data["runs"] if r[3] >= 0]
    assert sum(r[4] for r in drawn) == sum(len(f.starts) for f in analysis.found)


def test_the_picture_shows_each_sequence_in_its_colour(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    colors = pytest.importorskip("matplotlib.colors")
    from rrto_ros.evaluation.timeline import colour

    analysis = analyze_log(logged(program()))
    write_png(analysis, tmp_path / "log.png")
    pixels = image.imread(tmp_path / "log.png")[..., :3]
    for label in (NOISE, 0, 1, 2):
        near = np.abs(pixels - colors.to_rgb(colour(label))).max(axis=2) < 0.02
        assert near.sum() > 1000, label


def test_an_empty_log_is_analysed_without_fuss(tmp_path):
    analysis = analyze_log(CallLog())
    assert analysis.found == ()
    assert analysis.coverage == 0
    assert "0 calls" in report(analysis)
    assert runs(analysis) == []
    write_html(analysis, tmp_path / "x.html")


def test_names_in_the_page_cannot_break_out_of_it(tmp_path):
    log = logged(program())
    log.session["program"] = "</script><script>alert(1)</script>"
    write_html(analyze_log(log), tmp_path / "x.html")
    assert "<script>alert" not in (tmp_path / "x.html").read_text()


def write_bag(path, messages):
    """A bag of call batches: (sequence, flags, data)."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = typestore()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/robot/rrto/call_batches", TYPE, typestore=store)
        for i, (sequence, flags, data) in enumerate(messages):
            message = store.types[TYPE](
                session=np.frombuffer(SESSION, np.uint8),
                sequence=sequence,
                results_ack=0,
                seal=0,
                flags=flags,
                data=np.frombuffer(data, np.uint8),
            )
            writer.write(connection, i, store.serialize_cdr(message, TYPE))


def messages_of(p, rng):
    """A program's calls as messages: cut anywhere, repeated, out of order, as on a real link."""
    data = b"".join(p.records())
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(60))})
    parts = [data[a:b] for a, b in pairwise(cuts)]
    ends, at = set(), 0
    for record in p.records():
        at += len(record)
        ends.add(at)
    out = [
        (i + 1, 0 if cuts[i + 1] in ends and rng.random() < 0.9 else 1, part)
        for i, part in enumerate(parts)
    ]
    out[-1] = (out[-1][0], 0, out[-1][2])
    out += [out[3], out[7]]
    out.insert(5, out.pop(9))
    return [*out[:4], (2, 2, b""), *out[4:]]


def test_a_bag_gives_the_same_sequences_as_the_log(tmp_path):
    p = program()
    write_bag(tmp_path / "bag", messages_of(p, random.Random(5)))
    (analysis,) = analyze(tmp_path / "bag")
    expect_exact(p, analysis)
    live = {f.sequence.digest for f in analyze_log(logged(p)).found}
    assert {f.sequence.digest for f in analysis.found} == live
    assert analysis.log.session["session"] == SESSION.hex()


def test_a_bag_with_a_hole_is_refused(tmp_path):
    messages = messages_of(program(), random.Random(5))
    write_bag(tmp_path / "bag", [m for m in messages if m[0] != 6])
    with pytest.raises(ProtocolError, match="calls: message 6 is missing"):
        analyze(tmp_path / "bag")


def test_what_is_neither_log_nor_bag_is_named(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="neither a call log nor a bag"):
        analyze(tmp_path / "text")
    with pytest.raises(ConfigError, match="no such log"):
        analyze(tmp_path / "absent")
