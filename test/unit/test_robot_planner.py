"""When plans are looked at and placed, and which stay at the edge."""

import pytest

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.partition.placed import HOME, ROBOT
from rrto_ros.robot.partition.planner import LOOKED_AT_AFTER, PROBE_S, SAMPLES, Aim, Planner
from rrto_ros.wire.accesses import Typed
from rrto_ros.wire.codec import iter_calls, pack_call
from rrto_ros.wire.format import RESULT_PROFILE
from rrto_ros.wire.plan import Plan, Varying
from rrto_ros.wire.profiles import ProfiledCall, pack_profile
from rrto_ros.wire.result_codec import iter_results, pack_result
from rrto_ros.wire.templates import CallTemplate

A, B, C = 0x1000, 0x2000, 0x3000
BIG = 1 << 20
MEMORY = ((0, 1 << 30),)
CODE = (0, 1)


class Way:
    bytes_per_s, round_trip_s = 0.0, 0.0


def call(name, payload_bytes=0, **fields):
    record = pack_call(name, 1, payload=bytes(payload_bytes), **fields)
    (one,) = iter_calls(record)
    return CallTemplate(one.op.code, payload_bytes, record[24 : len(record) - payload_bytes])


def launch(stream=0):
    sizes = {f"{of}_{axis}": 1 for of in ("grid", "block") for axis in "xyz"}
    return call(
        "launch", module=1, kernel=0, flags=0, shared_bytes=0, stream=stream, params=b"", **sizes
    )


PLAN = Plan(
    (
        call("memcpy_htod", 64, dst=A, stream=0),
        launch(),
        launch(),
        call("memcpy_dtoh", src=C, size=8, stream=0),
    )
)


def pieces(slower=1.0, reads=True):
    """An upload of a megabyte, made into 8 bytes by long work in two steps."""
    a, b, c = ((0, BIG),), ((BIG, BIG + 4096),), ((1 << 21, (1 << 21) + 8),)
    return [
        ProfiledCall(0, Kind.INPUT, "memcpy_htod", (), a, a, BIG, times=3, typical=1e-3),
        ProfiledCall(
            1, Kind.WORK, "one", a if reads else None, b, b, times=3, typical=2e-2 * slower
        ),
        ProfiledCall(2, Kind.WORK, "two", b, c, c, times=3, typical=0.1 * slower),
        ProfiledCall(3, Kind.SYNC, "memcpy_dtoh", c, (), (), times=3, typical=1e-3),
    ]


class Told:
    """A planner, its link, and what the session tells it."""

    def __init__(self, aim=None, plan=PLAN):
        self.way, self.now = Way(), 0.0
        self.planner = Planner(aim or Aim(), self.way, lambda: self.now, self.typed)
        self.planner.defined(1, plan)

    def typed(self, record):
        """Both launches make floats of floats; their kernels are known from the third time on."""
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked < 3:
            return None
        spans = ((0, 1 << 22, "f32"),)
        return Typed(spans, spans)

    def uses(self, code=CODE):
        """How often an inference is timed before both places are asked."""
        timed = 0
        for _ in range(20):
            if self.planner.begins(1, code):
                timed += 1
                if self.planner.timed(1):
                    return timed
        return timed

    def tell(self, robot=None, edge=None):
        number = self.planner.profile_of(1)
        for place, told in ((ROBOT, robot or pieces(10.0)), (HOME, edge or pieces())):
            for payload in [*pack_profile(told), b""]:
                record = pack_result(number, 0, payload, RESULT_PROFILE)
                (result,) = iter_results(record)
                self.planner.arrived(place, result, MEMORY)

    def places(self, mbit, round_trip_s=1e-3):
        self.way.bytes_per_s, self.way.round_trip_s = mbit * 1e6 / 8, round_trip_s
        self.now += 10.0
        placed = self.planner.placed(1)
        return None if placed is None else placed.places


def test_a_plan_is_looked_at_when_it_has_come_back_and_placed_by_the_link():
    t = Told()
    assert [t.planner.begins(1, CODE) for _ in range(LOOKED_AT_AFTER)] == [False] * LOOKED_AT_AFTER
    assert t.uses() == SAMPLES
    assert t.places(100) is None, "nothing was told"
    t.tell()
    # All of it at the robot takes 1.2 s; what crosses a cut is a megabyte, then 4096 bytes.
    assert t.places(1) == (ROBOT, ROBOT, HOME, ROBOT)
    assert t.places(10_000) == (ROBOT, HOME, HOME, ROBOT)
    assert t.places(0.01, 1.0) == (ROBOT,) * 4
    assert t.planner.statistics()["changes"] == 3
    assert t.planner.statistics()["understood"] == 1


def test_the_places_object_is_the_same_while_nothing_changes():
    t = Told()
    t.uses()
    t.tell()
    t.places(100)
    assert t.planner.placed(1) is t.planner.placed(1)
    wanted = t.planner.placed(1).wanted
    assert set(wanted) <= {1, 2}


@pytest.mark.parametrize(
    ("algorithm", "places"),
    [("all_local", (ROBOT,) * 4), ("all_edge", (ROBOT, HOME, HOME, ROBOT))],
)
def test_the_algorithm_is_the_user_s(algorithm, places):
    t = Told(Aim(algorithm))
    t.uses()
    t.tell()
    assert t.places(100) == places


def test_work_of_which_it_is_not_known_what_it_touches_stays_at_the_edge():
    t = Told(Aim("all_local"))
    t.uses()
    t.tell(edge=pieces(reads=False))
    assert t.places(100)[1] == HOME


def test_a_plan_that_makes_memory_is_never_executed_a_second_time():
    t = Told(plan=Plan((*PLAN.calls, call("mem_alloc", address=B, size=64, stream=0))))
    assert t.uses() == 0
    assert [t.planner.begins(1, code) for code in range(9)] == [False] * 9
    assert t.places(100) is None
    assert "mem_alloc is part of the inference" in t.planner.statistics()["last_refusal"]


def test_other_kernels_are_looked_at_anew():
    t = Told()
    t.uses()
    t.tell()
    assert t.places(100) is not None
    assert not t.planner.begins(1, (0, 2)), "as a plan that is new"
    assert t.places(100) is None
    assert t.uses((0, 2)) == SAMPLES


def test_a_plan_that_is_left_while_it_is_timed_is_timed_under_another_number():
    t = Told()
    for _ in range(LOOKED_AT_AFTER):
        t.planner.begins(1, CODE)
    assert t.planner.begins(1, CODE)
    before = t.planner.profile_of(1)
    t.planner.left(1)
    assert t.planner.profile_of(1) != before
    assert t.uses() == SAMPLES


def test_a_place_that_cannot_tell_leaves_the_plan_at_the_edge():
    t = Told()
    t.uses()
    record = pack_result(t.planner.profile_of(1), 2, b"no memory", RESULT_PROFILE)
    (result,) = iter_results(record)
    t.planner.arrived(ROBOT, result, MEMORY)
    t.planner.arrived(HOME, result, MEMORY)
    assert t.places(100) is None
    assert t.planner.statistics()["last_refusal"] == "no memory"


def test_a_profile_of_calls_that_the_plan_has_not_is_refused():
    t = Told()
    t.uses()
    far = [*pieces(), ProfiledCall(4, Kind.WORK, "more")]
    with pytest.raises(ProtocolError, match="profile of call 4 of a plan of 4"):
        t.tell(edge=far)


def test_the_link_is_measured_now_and_then_while_nothing_crosses_it():
    t = Told()
    t.now = 100.0
    assert not t.planner.probes(crosses=True)
    assert not t.planner.probes(crosses=False)
    t.now += PROBE_S + 1
    assert t.planner.probes(crosses=False)
    assert not t.planner.probes(crosses=False)


def test_an_algorithm_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="partition_algorithm 'guess'"):
        Told(Aim("guess"))


def test_one_plan_is_timed_at_a_time_and_one_that_does_not_come_back_gives_way():
    t = Told()
    t.planner.defined(2, PLAN)
    for _ in range(LOOKED_AT_AFTER + 1):
        first = t.planner.begins(1, CODE)
    assert first
    t.planner.timed(1)
    assert not any(t.planner.begins(2, CODE) for _ in range(LOOKED_AT_AFTER + 5))
    assert t.planner.begins(1, CODE), "it comes back"
    assert any(t.planner.begins(2, CODE) for _ in range(40))
    assert not t.planner.begins(1, CODE)


def adaptive(plan=PLAN):
    t = Told(Aim(transfer_precision="adaptive"), plan)
    t.uses()
    t.tell()
    return t


def test_an_exact_plan_is_not_looked_at_for_types():
    t = Told()
    t.uses()
    t.tell()
    t.places(10_000)
    assert t.planner.placed(1).coarse is None
    assert not hasattr(t, "asked")


def test_what_may_come_coarsely_is_found_when_the_kernels_are_known():
    t = adaptive()
    assert t.places(10_000) == (ROBOT, HOME, HOME, ROBOT)
    assert t.planner.placed(1).coarse is None
    placed = t.planner.placed(1)
    assert placed.coarse.refused == ""
    assert placed.coarse.reads[2] == {"f32": ((BIG, BIG + 4096),)}
    assert placed.coarse.reads[1] == {}, "what was uploaded"
    assert placed.coarse.outputs == {3: "f32"}
    assert placed.busy_s == pytest.approx(1e-3 * 0 + 2e-2 + 0.1)
    assert t.planner.placed(1) is placed
    assert t.planner.statistics()["changes"] == 1, "the placement is the same"


def test_a_plan_that_varies_or_has_several_streams_stays_exact():
    varies = adaptive(Plan(PLAN.calls, (Varying(1, PLAN.calls[1].record_bytes - 8, 8),)))
    other = CallTemplate(PLAN.calls[1].code, 0, launch(stream=7).body)
    streams = adaptive(Plan((PLAN.calls[0], other, *PLAN.calls[2:])))
    for t, why in ((varies, "a call of it varies"), (streams, "in several streams")):
        for _ in range(4):
            t.places(10_000)
        assert why in t.planner.placed(1).coarse.refused
