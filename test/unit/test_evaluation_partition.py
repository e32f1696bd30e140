"""Where the inference of a recorded session is best cut, and how that is told."""

import json
import random
import struct
from pathlib import Path

import pytest

from rrto_ros.cli.analyze_command import analyze
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.evaluation import pipeline
from rrto_ros.evaluation.analyze import analyze_log
from rrto_ros.evaluation.analyze_bag import log_of
from rrto_ros.evaluation.partition import (
    RATES_MBIT,
    Situation,
    as_json,
    at_edge,
    cut_points,
    partitions,
    report,
)
from rrto_ros.evaluation.partition_picture import write_png
from rrto_ros.evaluation.pipeline import Overlap, pipelined
from rrto_ros.evaluation.profiled import profile_session
from rrto_ros.ros.bag_file import RecordedSession
from rrto_ros.schedule.pipeline import Stream
from rrto_ros.schedule.power import Power
from rrto_ros.wire.codec import pack_call

BASE = 0x2000_0000_0000
N = 1 << 14
"""Floats of the input."""
ROUNDS = 4
IMAGE = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry halve(.param .u64 to, .param .u64 from, .param .u32 n)
{ .reg .pred %p<5>; .reg .b32 %r<10>; .reg .b64 %d<9>; .reg .f32 %f<9>;
  ld.param.u64 %d1, [to]; ld.param.u64 %d2, [from]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 64, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE;
  mul.wide.u32 %d3, %r3, 8; add.s64 %d4, %d2, %d3;
  ld.global.v2.f32 {%f1, %f2}, [%d4]; add.f32 %f3, %f1, %f2;
  mul.wide.u32 %d3, %r3, 4; add.s64 %d4, %d1, %d3; st.global.f32 [%d4], %f3;
DONE: ret; }
.visible .entry work(.param .u64 to, .param .u64 from, .param .u32 n)
{ .reg .pred %p<5>; .reg .b32 %r<10>; .reg .b64 %d<9>; .reg .f32 %f<9>;
  ld.param.u64 %d1, [to]; ld.param.u64 %d2, [from]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 64, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE;
  mul.wide.u32 %d3, %r3, 4; add.s64 %d4, %d2, %d3; ld.global.f32 %f1, [%d4]; mov.u32 %r4, 0;
  LOOP: fma.rn.f32 %f1, %f1, 0f3F000000, 0f3F800000; add.u32 %r4, %r4, 1;
  setp.lt.u32 %p2, %r4, 20000; @%p2 bra LOOP;
  add.s64 %d4, %d1, %d3; st.global.f32 [%d4], %f1;
DONE: ret; }
"""


def session(blob=False):
    """A small funnel: an input, halved three times, then long work on what is left."""
    calls, index = [], 0

    def call(name, payload=b"", record_flags=0, **fields):
        nonlocal index
        index += 1
        calls.append(pack_call(name, index, payload=payload, record_flags=record_flags, **fields))

    def launch(kernel, to, source, n):
        call("launch", module=1, kernel=kernel, flags=0, grid_x=-(-n // 64), grid_y=1, grid_z=1,
             block_x=64, block_y=1, block_z=1, shared_bytes=0, stream=0,
             params=struct.pack("<QQI4x", to, source, n))  # fmt: skip

    at = [BASE + k * 4 * N for k in range(5)]
    call("module_load", module=1, payload=IMAGE)
    call("mem_alloc", address=BASE, size=5 * 4 * N, stream=0)
    rnd = random.Random(1)
    for _ in range(ROUNDS):
        content = struct.pack(f"<{N}f", *(rnd.uniform(-9, 9) for _ in range(N)))
        call("memcpy_htod", dst=at[0], stream=0, payload=content)
        for step in range(3):
            launch(0, at[step + 1], at[step], N >> step + 1)
        launch(1, at[4], at[3], N >> 3)
        call("memcpy_dtoh", src=at[4], size=4 * N >> 3, stream=0)
    return RecordedSession("a" * 32, program="funnel", arena_base=BASE, arena_bytes=1 << 33,
                           batches=[b"".join(calls)])  # fmt: skip


@pytest.fixture(scope="module")
def profiled():
    one = session()
    return profile_session(one, analyze_log(log_of(one)))


def test_what_goes_between_the_calls_of_a_session_is_found(profiled):
    assert profiled.inferences == ROUNDS
    assert [p.name for p in profiled.pieces] == [
        "memcpy_htod", "halve", "halve", "halve", "work", "memcpy_dtoh"]  # fmt: skip
    assert [(t.producer, t.readers, t.bytes) for t in profiled.tensors] == [
        (k, (k + 1,), 4 * N >> min(k, 3)) for k in range(5)
    ]
    assert profiled.unknown == ()
    assert all(p.times == ROUNDS for p in profiled.pieces)
    assert not profiled.pieces[0].constant, "each input is another"


def test_the_cut_is_where_little_crosses_and_the_link_is_slow(profiled):
    found = partitions(profiled, Situation(slower=30, round_trip_s=1e-4))
    # At a rate at which the input takes as long as all work at the robot, the cut is inside.
    work = sum(found.measured.local_s)
    inside = found.table.best(4 * N / work).placement
    assert inside == (False, False, False, False, True, False)
    assert [found.table.best(r).placement.count(True) for r in (1e3, 1e10)] == [0, 4]
    assert [len(found.choices), len(found.live_bytes)] == [len(RATES_MBIT), 7]
    assert cut_points(found) == [1, 2, 3, 4]


def test_the_report_and_the_picture_say_what_was_found(profiled, tmp_path):
    found = partitions(profiled, Situation(30, 1e-4, "energy", "mcop", Power(10.0, 4.0, 5.0)))
    text = report(found)
    for said in ("funnel", "30 times slower", "(mcop, modelled)", "best energy", "J (modelled)",
                 "changes at"):  # fmt: skip
        assert said in text
    pytest.importorskip("matplotlib")
    write_png(found, tmp_path / "chain.png")
    assert (tmp_path / "chain.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="cannot be written"):
        write_png(found, tmp_path / "none" / "chain.png")


def test_several_inferences_under_way_are_told_and_are_json(profiled):
    found = partitions(profiled, Situation(slower=30, round_trip_s=1e-4))
    overlap = Overlap(Stream(4), 8)
    ways = pipelined(found, overlap)
    text = pipeline.report(found, ways, overlap)
    for said in ("4 inferences under way", "8 bits between kernels", "slowest"):
        assert said in text
    told = json.loads(json.dumps({**as_json(found), **pipeline.as_json(ways, overlap)}))
    assert [told["program"], told["in_flight"], told["bits"]] == ["funnel", 4, 8]
    assert as_json(found)["rates"][0]["best"]["energy_j"] is None, "no power is known"
    robot = sum(found.measured.local_s)
    for one in told["rates"]:
        best, others = one["best"], [one[name] for name in ("all_local", "all_edge", "fastest")]
        assert best["period_s"] <= min(other["period_s"] for other in others) * (1 + 1e-9)
        assert one["all_local"]["period_s"] == pytest.approx(robot)
        assert one["in_turn"]["period_s"] <= best["period_s"] * (1 + 1e-9)
        assert best["bubbles_s"][best["slowest"]] >= 0
        # What comes from the camera and what the program reads cross as they are.
        if best["at_edge"] == [1, 2, 3, 4]:
            up = best["stages_s"]["up"]
            assert up == pytest.approx(4 * N / (one["mbit_per_s"] * 1e6 / 8))
    # Where both are nearly as fast as each other, inferences go to one and the other in turn.
    alike = partitions(profiled, Situation(slower=1.2, round_trip_s=1e-4))
    ways = pipelined(alike, overlap)
    assert "in turn: these shares" in pipeline.report(alike, ways, overlap)
    assert ways[-1].turns.period_s < 0.9 * ways[-1].best.period_s


def test_the_command_prints_both_as_text_and_as_json(profiled, monkeypatch, capsys):
    def executed(path, **_):
        return profiled

    monkeypatch.setattr("rrto_ros.evaluation.profiled.profile_bag", executed)
    analyze(Path("bag"), partition=True, in_flight=2)
    out = capsys.readouterr().out
    assert out.index("best latency") < out.index("results per second with 2 inferences under way")
    analyze(Path("bag"), partition=True, in_flight=2, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["pipeline"]["in_flight"] == 2
    analyze(Path("bag"), partition=True, as_json=True)
    assert "pipeline" not in json.loads(capsys.readouterr().out)


def test_an_overlap_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="1 bits of an element"):
        Overlap(Stream(2), 1)


def test_placements_are_told_as_runs():
    free = [1, 2, 3, 4, 5]
    assert at_edge([False] * 7, free) == "all at the robot"
    assert at_edge([False, *[True] * 5, False], free) == "all at the edge"
    assert at_edge([False, True, True, False, False, True, False], free) == "edge: 1-2, 5"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"slower": 0}, "0 times slower"),
        ({"slower": float("nan")}, "nan times slower"),
        ({"round_trip_s": -1}, "-1 s, want 0 to 60"),
        ({"objective": "speed"}, "want one of latency, energy, weighted"),
        ({"objective": "energy"}, "needs the robot's power"),
        ({"solver": "guess"}, "want one of min_cut, mcop"),
    ],
)
def test_what_cannot_be_taken_for_granted_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Situation(**wrong)


def test_a_session_that_fails_here_says_why():
    one = session()
    bad = pack_call("mem_free", 10_000, address=BASE + 8, stream=0)
    analysis = analyze_log(log_of(one))
    one.batches.append(bad)
    with pytest.raises(ProtocolError, match=r"the recorded calls fail here: .*mem_free"):
        profile_session(one, analysis)
