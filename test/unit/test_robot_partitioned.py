"""Calls at two places: a session has the results, memory and errors of plain execution."""

import os
import random

import pytest
from support.partitioned import (
    BASE,
    BUFFERS,
    FAR,
    IMAGE,
    KERNELS,
    NEAR,
    Inference,
    Parted,
    Plain,
    Program,
    at,
    floats,
    launch,
    template,
)

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.robot.partition.placed import Placed
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.codec import iter_calls, pack_call
from rrto_ros.wire.format import RESULT_STATE, RESULT_STICKY
from rrto_ros.wire.plan import Plan, pack_define
from rrto_ros.wire.reference import pack_reference

SEEDS = min(400, int(os.environ.get("RRTO_PARTITIONS", "5")))


@pytest.fixture
def program(tmp_path):
    ends = [Plain(tmp_path) for _ in range(3)]
    parted = Parted(ends[1:])
    yield Program(ends[0], parted)
    ends[0].close()
    parted.close()


def run(program, rnd, rounds=5):
    """Inferences at random places, left now and then; results and memory are those of `plain`."""
    parted = program.sessions[1]
    inferences = [Inference(rnd) for _ in range(2)]
    for number, one in enumerate(inferences, 1):
        program.send(pack_define(number, one.plan))
    for _ in range(rounds):
        for number, one in enumerate(inferences, 1):
            if rnd.random() < 0.5:
                parted.session.place(number, one.placed(parted.knows, rnd))
            elif rnd.random() < 0.2:
                parted.session.place(number, None)
            left = rnd.random() < 0.3
            count = rnd.randint(1, len(one) - 1) if left else len(one)
            program.send(one.reference(number, program.index + 1, rnd, 0, count))
            program.index += count
            if not left:
                program.same(program.index)
                continue
            # The program leaves the plan: other calls, or the rest of it one by one.
            if rnd.random() < 0.5:
                program.send(one.reference(number, program.index + 1, rnd, count))
                program.index += len(one) - count
                program.same(program.index)
            else:
                name, fields = launch("add", *(rnd.randrange(BUFFERS) for _ in range(3)))
                program.call(name, **fields)
        if rnd.random() < 0.3:
            program.memory()
        if rnd.random() < 0.2:
            program.call("memcpy_htod", dst=at(rnd.randrange(8)), stream=0, payload=floats(rnd))
        if rnd.random() < 0.3:
            program.call("ctx_synchronize", context=0)
    return program.memory()


def test_random_placements_give_the_bits_of_plain_execution(program):
    for seed in range(SEEDS):
        run(program, random.Random(seed))
    done = program.sessions[1].session.statistics()
    assert done["work_robot"] > 0
    assert done["work_edge"] > 0
    assert done["brought_bytes"] > 0
    assert done["awaited"] == 0


def test_what_is_not_brought_is_seen_by_this_test(program):
    coherence = program.sessions[1].session._coherence
    rnd, before = random.Random(1), coherence.before
    coherence.before = lambda *a: [t for t in before(*a) if rnd.random() < 0.7]

    def runs():
        for seed in range(20):
            run(program, random.Random(seed))

    with pytest.raises(AssertionError):
        runs()


def test_a_plan_of_another_module_is_not_placed_any_more(program):
    """The same handle and arguments, and another kernel: what is known of the plan is not so."""
    one = Inference(random.Random(3))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(3))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.call("module_unload", module=1)
    program.call("module_load", module=1, payload=IMAGE.replace(b"add.f32", b"sub.f32"))
    work = parted.session.statistics()["work_robot"]
    program.send(one.reference(1, program.index + 1, random.Random(4)))
    program.index += len(one)
    program.same(program.index)
    assert parted.session.statistics()["work_robot"] == work
    program.memory()


def test_a_kernel_that_stops_at_one_place_breaks_the_session(program):
    program.call("stream_create", stream=3, flags=0, priority=0)
    name, fields = launch("stops")
    program.call(name, **fields)
    synced = program.call("ctx_synchronize", context=0)
    assert synced[1] != 0
    assert program.call("stream_query", stream=3)[1] == synced[1]
    stickies = [[r for r in one.records if r[3] & RESULT_STICKY] for one in program.sessions]
    assert [(r[0], r[1]) for r in stickies[0]] == [(r[0], r[1]) for r in stickies[1]]
    assert [r[0] for r in stickies[1]] == [program.index - 2]


@pytest.mark.parametrize("place", [NEAR, FAR])
def test_a_place_that_dies_ends_what_waits_with_its_error(program, place):
    parted = program.sessions[1]
    one = Inference(random.Random(8))
    parted.execute(pack_define(1, one.plan))
    if place == NEAR:
        parted.session.place(1, one.placed(parted.knows, random.Random(8)))
    name, fields = launch("wild")
    record = pack_call(name, program.index + 1, **fields)
    if place == NEAR:
        parted.ends[NEAR].execute(record.replace(record[8:16], (1000).to_bytes(8, "little")))
    else:
        parted.execute(record)
    parted.execute(pack_call("ctx_synchronize", program.index + 2, context=0))
    _, status, text, _ = parted.answer(program.index + 2)
    assert status == CUresult.ILLEGAL_ADDRESS
    assert b"SIGSEGV" in text
    (sticky,) = [r for r in parted.records if r[3] & RESULT_STICKY]
    assert sticky[1] == status
    if place == FAR:
        assert sticky[0] == program.index + 1, "the call that did it"


def test_own_errors_of_calls_are_answered_and_the_session_goes_on(program):
    got = program.call("memcpy_dtoh", src=BASE - 4096, size=16, stream=0)
    assert got[1] == CUresult.INVALID_VALUE
    assert program.call("event_query", event=99)[1] == CUresult.INVALID_HANDLE
    program.memory()


def watched(end, place, name, went):
    """Note where calls of a name go."""

    def execute(batch):
        went.extend(place for c in iter_calls(batch) if c.op.name == name)
        Plain.execute(end, batch)

    return execute


def asked(program, name, **fields):
    """The places that a call goes to."""
    parted, went = program.sessions[1], []
    for place, end in enumerate(parted.ends):
        end.execute = watched(end, place, name, went)
    program.call(name, **fields)
    for end in parted.ends:
        del end.execute
    return went


def test_who_waits_waits_for_the_places_that_have_work(program):
    one = Inference(random.Random(3))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    program.call("stream_create", stream=3, flags=0, priority=0)
    assert asked(program, "ctx_synchronize", context=0) == [NEAR], "nobody has any"
    name, fields = launch("add", 1, 2, 3)
    program.call(name, **fields)
    assert asked(program, "stream_synchronize", stream=3) == [NEAR]
    assert asked(program, "ctx_synchronize", context=0) == [FAR]
    placed = one.placed(parted.knows, random.Random(3))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(4), 0, len(one) - 1))
    program.index += len(one) - 1
    assert NEAR in asked(program, "stream_query", stream=3)
    asked(program, "ctx_synchronize", context=0)
    assert asked(program, "ctx_synchronize", context=0) == [NEAR]


def test_what_data_decides_is_not_executed_a_second_time(program):
    """A gather on bytes that were not brought would read anywhere."""
    plain, parted = program.sessions

    class Chooses:
        told = ()

        def __getattr__(self, name):
            return lambda *_: None

        def begins(self, number, code):
            return True

        def profile_of(self, number):
            return 7

        def timed(self, number):
            return True

    parted.session._chooses = Chooses()
    calls = [launch("gather", 1, 2, 3), launch("add", 4, 2, 3)]
    plan = Plan(tuple(template(*call) for call in calls))
    parted.execute(pack_define(1, plan))
    went = []
    near = parted.ends[NEAR]
    near.execute = lambda batch: (
        went.extend(iter_calls(bytes(batch))),
        Plain.execute(near, batch),
    )
    for name, fields in calls:
        plain.execute(pack_call(name, program.index + 1, **fields))
        program.index += 1
    parted.execute(pack_reference(1, 0, 2, program.index - 1, 1, [], [], b""))
    del near.execute
    names = [c.op.name for c in went]
    assert names == ["profile", "ctx_synchronize", "launch", "profile"]
    assert [c["kernel"] for c in went if c.op.name == "launch"] == [KERNELS.index("add")]
    program.memory()


def test_a_place_that_does_not_answer_is_told(program):
    parted = program.sessions[1]
    parted.session._out.patience_s = 0.2
    name, fields = launch("add", 1, 2, 3)
    record = pack_call(name, program.index + 1, **fields)
    parted.execute(record)
    parted.ends[FAR].take = lambda _: None
    one = Inference(random.Random(5))
    parted.execute(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(5))
    reads = Touched(((at(1), at(2)),), ((at(4), at(5)),), ((at(4), at(5)),))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), (reads,) * len(one), one.work))
    with pytest.raises(UnavailableError, match=r"place 1 has not answered for 0\.2 s"):
        parted.execute(one.reference(1, program.index + 2, random.Random(5)))


def test_a_place_that_answers_what_nobody_asked_is_refused(program):
    from rrto_ros.wire.result_codec import pack_result

    with pytest.raises(ProtocolError, match="place 0 answers call 12345, which is none"):
        program.sessions[1].session.results(0, pack_result(12345, 0))


def test_a_checkpoint_is_told_by_the_edge_which_gets_all_of_memory(program):
    one = Inference(random.Random(9))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(9))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(9)))
    program.index += len(one)
    program.same(program.index)
    assert not parted.session._coherence.current(FAR)
    parted.execute(pack_call("checkpoint", 0, number=7))
    with parted.came:
        assert parted.came.wait_for(lambda: (7, 0, b"", RESULT_STATE) in parted.records, 60)
    assert any(r[3] == RESULT_STATE and r[2] for r in parted.records)
    assert parted.session._coherence.current(FAR)
    brought = parted.session.statistics()["brought_bytes"]
    program.memory()
    assert parted.session.statistics()["brought_bytes"] == brought, "it was read at the edge"


def test_a_session_that_maps_memory_itself_stays_at_home(program):
    one = Inference(random.Random(6))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    program.call("mem_create", handle=5, size=1 << 21)
    placed = one.placed(parted.knows, random.Random(6))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(6)))
    program.index += len(one)
    program.same(program.index)
    assert parted.session.statistics()["work_robot"] == 0
