"""Mode replay in the recorder's sessions: a ring client, real sessions, a server that reads."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from support.echo_server import EchoServer
from support.ring_client import RingClient
from support.searches import thought
from support.synthetic import Model, Program

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ConfigError
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.inferences import SAMPLES, InferenceCost, InferenceMeter
from rrto_ros.robot.replay.learner import Learner
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig, check_mode
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.descriptions import Hello
from rrto_ros.wire.format import PLAN_REF_OP

CONFIG = SessionConfig(mode="replay", server_timeout_s=5.0, linger_s=0.02)
KERNELS = 6
CALLS = KERNELS + 2


class World:
    """A recorder, a server that executes nothing, and one program."""

    def __init__(self, path, config, **server):
        self.reports = []
        self.done = threading.Event()
        self.lines = []
        self.host = RobotHost(path, config, 4, self.report, self.lines.append)
        self.server = EchoServer(self.host.on_results, **server)
        self.host.activate(self.server)
        self.client = RingClient(self.host.path, Hello(pid=7, program="p", label="l"))
        self.session = self.host.sessions[0]
        self.program = Program()
        self.model = Model(self.program, "m", 10, KERNELS)
        self.sent = 0

    def report(self, snapshot):
        self.reports.append(snapshot)
        self.done.set()

    def infer(self, *, at_once=False):
        """One more inference, from the program's first call to its output.

        Args:
            at_once: The recorder sees either none of its calls or all.
        """
        self.model.infer()
        made = []
        for call in self.program.calls[self.sent :]:
            self.sent += 1
            waits = call.name == "memcpy_dtoh"
            made.append(
                pack_call(
                    call.name, self.sent, payload=call.payload, record_flags=3 * waits,
                    **call.fields,
                )
            )  # fmt: skip
            if at_once and not waits:
                continue
            self.client.put(b"".join(made))
            made.clear()
            if waits:
                self.client.wait(self.sent)
        if not at_once:
            thought(self.host)

    def close(self):
        self.client.close()
        assert self.done.wait(5)
        self.host.close()
        self.server.stop()
        return self.reports[0]

    def expected(self):
        return [(c.name, i, c.payload) for i, c in enumerate(self.program.calls[: self.sent], 1)]


@pytest.fixture
def world(sockets):
    made = []

    def make(config=CONFIG, **server):
        made.append(World(sockets / "r" / f"robot{len(made)}.sock", config, **server))
        return made[-1]

    yield make
    for one in made:
        if not one.done.is_set():
            one.close()


@pytest.mark.parametrize("loss", [0.0, 0.2], ids=["sound", "lossy"])
def test_the_server_reads_the_same_calls_in_fewer_bytes(world, loss):
    w = world(loss=loss, seed=3)
    for _ in range(12):
        w.infer()
    report = w.close()
    assert w.server.calls == w.expected()
    assert report.mode == "replay"
    assert report.inferences >= 9
    assert report.sequence_calls == CALLS
    assert report.plans == 1
    assert report.divergences == 0
    assert report.hit_rate > 0.6
    last = [m for m in w.server.messages if len(m.data)][-1].data
    assert [h.op for h in iter_headers(bytes(last))] == [PLAN_REF_OP]
    assert len(last) < 256 + 56 + 16
    if not loss:
        assert report.inference_bytes_sent == len(last)
        assert 0 < report.median_inference_ms < 5000


def kept(path):
    return dataclasses.replace(
        CONFIG, plan_cache_bytes=1 << 20, plan_cache_directory=path / "plans"
    )


def test_a_second_start_is_replayed_from_its_first_inference(world, sockets):
    first = world(kept(sockets))
    for _ in range(6):
        first.infer()
    assert 2 <= first.close().inferences < 6
    second = world(kept(sockets))
    start_up = len(second.program.calls)
    for _ in range(4):
        second.infer()
    statistics = second.session.statistics()
    report = second.close()
    assert second.server.calls == second.expected()
    assert (report.inferences, report.divergences, report.plans) == (4, 0, 1)
    assert report.inference_bytes_sent < 256 + 56 + 16
    assert statistics["replay_plans_recalled"] == 1
    assert statistics["replay_plans_recalled_unused"] == 0
    assert statistics["replay_referenced_calls"] == start_up + 4 * CALLS, "the start too"
    assert second.host.statistics()["plans_recalled"] == 1


class Capturing:
    """A program whose first inferences are others, as with a graph that is captured."""

    def __init__(self, world):
        self.world, self.program = world, world.program
        self.input, self.out = self.program.alloc(), self.program.alloc()
        self.count = 0

    def infer(self):
        p, first = self.program, self.count < 2
        self.count += 1
        if first:
            p.load_module(10 + self.count)
        p.upload(self.input, bytes([self.count]) * 64)
        for kernel in range(KERNELS * 2 if first else 3):
            p.launch(10 + self.count if first else 11, kernel, self.input, self.out)
        p.download(self.out)


def capture(world, rounds, *, extra=0):
    """Run such a program; `extra` makes its start differ."""
    model = Capturing(world)
    if extra:
        world.program.fill(model.out, 64, extra)
    world.model = model
    for _ in range(rounds):
        world.infer()
    return world.close()


def test_a_start_that_differs_from_what_follows_is_replayed_the_next_time(world, sockets):
    first = world(kept(sockets))
    assert capture(first, 8).inferences < 6
    second = world(kept(sockets))
    report = capture(second, 8)
    assert second.server.calls == second.expected()
    assert (report.inferences, report.divergences) == (8, 0)
    assert report.hit_rate == 1.0
    assert report.sequence_calls == 5
    assert report.sequence_repetitions == 6


def test_a_start_with_a_call_more_is_replayed_around_it(world, sockets):
    capture(world(kept(sockets)), 8)
    other = world(kept(sockets))
    report = capture(other, 8, extra=7)
    assert other.server.calls == other.expected()
    assert (report.inferences, report.divergences) == (8, 1)
    assert report.hit_rate > 0.98


def test_a_start_that_goes_another_way_is_learnt_anew(world, sockets):
    capture(world(kept(sockets)), 8)
    for wanted in (4, 8):
        other = world(kept(sockets))
        other.program.alloc(1 << 20)  # every address is another one
        report = capture(other, 8)
        assert other.server.calls == other.expected()
        assert report.inferences >= wanted
    assert (report.inferences, report.divergences, report.hit_rate) == (8, 0, 1.0)


def test_a_program_that_begins_in_another_mode_does_not_wait_for_its_start(world, sockets):
    capture(world(kept(sockets)), 8)
    w = world(dataclasses.replace(kept(sockets), mode="batched"))
    w.model = Capturing(w)
    for _ in range(2):
        w.infer()
    w.host.set_mode("replay")
    for _ in range(6):
        w.infer()
    report = w.close()
    assert w.server.calls == w.expected()
    assert report.inferences >= 5


def test_a_recorder_that_is_killed_has_kept_its_plans(world, sockets):
    """They are written while the program waits, not at the end of the session."""
    running = world(kept(sockets))
    for _ in range(6):
        running.infer()
    end = time.monotonic() + 5
    while not running.session.statistics()["replay_plans_kept"]:
        assert time.monotonic() < end
        time.sleep(0.002)
    other = world(kept(sockets))
    other.infer()
    assert other.close().inferences == 1


def test_plans_of_a_program_that_has_changed_are_of_no_harm(world, sockets):
    first = world(kept(sockets))
    for _ in range(6):
        first.infer()
    first.close()
    second = world(kept(sockets))
    second.program.alloc(1 << 20)  # every address is another one
    second.model = Model(second.program, "m", 11, KERNELS + 3)
    for _ in range(8):
        second.infer()
    report = second.close()
    assert second.server.calls == second.expected()
    assert report.inferences >= 3, "it learns as at a first start"
    third = world(kept(sockets))
    third.program.alloc(1 << 20)
    third.model = Model(third.program, "m", 11, KERNELS + 3)
    for _ in range(2):
        third.infer()
    assert third.close().inferences == 2


def test_without_a_place_on_disk_programs_are_served_and_the_log_says_so(world, sockets):
    (sockets / "plans").write_text("a file")
    w = world(kept(sockets))
    for _ in range(5):
        w.infer()
    assert w.close().inferences >= 2
    assert any("not kept on disk" in line for line in w.lines)


def test_every_switch_of_the_mode_keeps_the_calls_in_order(world):
    w = world()
    modes = ["replay", "batched", "replay", "rpc", "replay"]
    stop = threading.Event()

    def switch():
        number = 0
        while not stop.wait(0.003):
            w.host.set_mode(modes[number % len(modes)])
            number += 1

    thread = threading.Thread(target=switch)
    thread.start()
    for _ in range(60):
        w.infer()
    stop.set()
    thread.join()
    w.host.set_mode("replay")
    for _ in range(6):
        w.infer()
    report = w.close()
    assert w.server.calls == w.expected()
    assert report.inferences >= 3


def test_a_program_that_began_in_another_mode_is_replayed_after_the_switch(world):
    w = world(dataclasses.replace(CONFIG, mode="batched"))
    for _ in range(3):
        w.infer()
    assert w.session.snapshot().plans == 0
    w.host.set_mode("replay")
    for _ in range(10):
        w.infer()
    assert w.session.snapshot().phase == "replaying"
    report = w.close()
    # The log has followed its allocations, so the search is as quick as at a fresh start.
    assert report.inferences >= 7


def test_the_search_delays_no_call_of_a_program_that_waits_for_nothing(world, monkeypatch):
    """While the ring has records the search is not asked."""
    thinking = threading.Event()
    release = threading.Event()
    plain = Learner.think

    def slow(self):
        thinking.set()
        release.wait(5)
        return plain(self)

    w = world()
    monkeypatch.setattr(Learner, "think", slow)
    w.infer(at_once=True)
    # Its result was there before the search began, or came while it was busy.
    assert thinking.wait(5)
    assert len(w.server.calls) == w.sent
    release.set()
    for _ in range(8):
        w.infer()
    assert w.close().inferences >= 5


def test_a_search_that_fails_is_told_and_the_program_goes_on(world, monkeypatch):
    def broken(self):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Learner, "think", broken)
    w = world()
    for _ in range(5):
        w.infer()
    assert "no luck" in w.session.statistics()["replay_search_failure"]
    report = w.close()
    assert w.server.calls == w.expected()
    assert (report.error, report.plans) == ("", 0)


def test_thresholds_are_obeyed(world):
    w = world(dataclasses.replace(CONFIG, replay=ReplayOptions(min_length=CALLS + 1)))
    for _ in range(8):
        w.infer()
    assert w.close().plans == 0


@pytest.mark.parametrize(
    "record",
    [
        pack_call("blob_data", 10_000, payload=b"12345678"),
        pack_call("profile", 0, number=1, first=1, calls=1),
    ],
)
def test_a_damaged_record_in_mode_replay_ends_the_session_with_the_reason(world, record):
    w = world()
    w.infer()
    w.client.put(record)
    end = time.monotonic() + 5
    while w.client.state != int(CUresult.UNKNOWN):
        assert time.monotonic() < end
    report = w.close()
    assert "only the recorder may use" in report.error


def test_an_unknown_mode_is_refused_by_name():
    assert check_mode("replay") == 2
    for mode in ("local", "partition"):
        assert check_mode(mode) == 2, "to the robot's place calls travel as in replay"
    with pytest.raises(ConfigError, match="rpc, batched, replay, local, partition"):
        check_mode("fast")


def test_costs_are_medians_from_one_start_to_the_next():
    meter = InferenceMeter()
    assert meter.cost() == InferenceCost()
    sent = received = 0
    for number in range(SAMPLES + 10):
        meter.begin(1, float(number), sent, received, number)
        sent += 100 if number != 20 else 100_000
        received += 50
        meter.end(number, number + 0.5, {number})
        meter.answered(number, number + (0.25 if number < SAMPLES + 9 else 0.75))
    cost = meter.cost()
    assert cost == InferenceCost(100, 50, 1, 750.0, 250.0)
    meter.interrupt()
    meter.begin(2, 1e6, sent + 10_000_000, received, 0)
    assert meter.cost() == cost, "what another mode sent belongs to no inference"
    meter.begin(1, 1e6, sent + 10_000_600, received, 2)
    assert (300, 0, 1) in meter._costs, "two inferences began at once"
    meter.end(7, 1e6 + 0.125, ())
    assert meter.cost().last_ms == 125.0
