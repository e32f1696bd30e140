"""A program whose server dies goes on at another one, and gets the bytes of plain execution.

Real programs on the shim, a real recorder, servers with real workers. RRTO_OUTAGES=50 runs so many
random programs in each setting; the short form has a few. RRTO_OUTAGES_SEED is the first one's.
"""

import os
import random
import shutil
from types import SimpleNamespace

import pytest
from support.failing_edge import FailingEdge, RefusingEdge
from support.one_process import OneProcess
from support.worlds import ends, settings, until, worlds

from rrto_ros.edge.gate import Gate
from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.places.migration import MOST_FRUITLESS, Migration
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.state import journal
from rrto_ros.robot.state.memory_image import MemoryImage
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.closing import ServerOfSession
from rrto_ros.wire.opening import Opened
from rrto_ros.wire.port import OpenAnswer

COUNT = int(os.environ.get("RRTO_OUTAGES", "0"))
FIRST = int(os.environ.get("RRTO_OUTAGES_SEED", "1"))
MIB = 1 << 20


@pytest.fixture
def edge(sockets):
    def make(mode="batched", run_ahead="off", lives=(), kind=FailingEdge, **config):
        config = {"resume": "exact", "outage_timeout_s": 20.0} | config
        settings = SessionConfig(mode=mode, replay=ReplayOptions(run_ahead=run_ahead), **config)
        return kind(
            sockets / "r" / "s.sock",
            settings,
            HostLimits(),
            lives=lives,
            blob_directory=sockets / "blobs",
            blob_bytes=64 * MIB,
        )

    with worlds(make) as made:
        yield made


def lives(rng, count):
    """Servers that die after some messages; another is there at once, or later."""
    return [
        (rng.choice((1, 3, rng.randint(4, 60))), rng.choice((0.0, 0.0, 0.3))) for _ in range(count)
    ]


def counted(monkeypatch):
    """A list that grows with each checkpoint that takes the place of calls."""
    found, complete = [], MemoryImage.complete

    def count(image, content):
        complete(image, content)
        found.append(image.kept_bytes)

    monkeypatch.setattr(MemoryImage, "complete", count)
    return found


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead", "script", "period_s"),
    settings(
        COUNT > 0,
        [("rpc", "off"), ("batched", "off"), ("batched", "off"), ("replay", "off"),
         ("replay", "reads"), ("replay", "auto")],
        ["strangers.py", "host_memory.py"],
        [0.0, 0.1],
        most=5,
    ),
)  # fmt: skip
def test_deaths_at_any_moment_cost_no_byte(edge, monkeypatch, mode, run_ahead, script, period_s):
    monkeypatch.setattr(journal, "PERIOD_S", period_s)
    for seed in range(FIRST, FIRST + (COUNT or 1)):
        rng = random.Random(f"{seed} {mode} {run_ahead}")
        world = edge(mode, run_ahead, lives(rng, 6))
        ends(world.start(script, "--seed", seed, "--inferences", 60))
        report = world.reports.get(timeout=10)
        assert (report.phase, report.error) == ("closed", ""), world.lines
        # A server may die before it was asked for the session, or after its end.
        assert 0 < report.resumed <= world.deaths
        edge.close()


def test_memory_that_is_not_restored_is_noticed(edge, monkeypatch):
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    monkeypatch.setattr(MemoryImage, "records", lambda image: iter(()))
    world = edge("batched", lives=[(60, 0.0)], resume_bytes=2 * MIB)
    program = world.start("tracker.py", 200)
    _, errors = program.communicate(timeout=60)
    assert program.returncode != 0
    report = world.reports.get(timeout=10)
    assert "gives another result" in report.error or "word 0 is" in errors, (report.error, errors)


@pytest.mark.parametrize("mode", ["batched", "replay"])
@pytest.mark.parametrize("arguments", [(), ("--graph",), ("--graph", "--churn")])
def test_programs_that_carry_state_go_on_from_it(edge, monkeypatch, mode, arguments):
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    checkpoints = counted(monkeypatch)
    # A few steps fill the journal, however little the program rests.
    world = edge(mode, "auto", lives=[(40, 0.0)] * 4, resume_bytes=2 * MIB)
    ends(world.start("tracker.py", 200, *arguments))
    report = world.reports.get(timeout=10)
    assert report.resumed > 1, world.lines
    assert checkpoints  # how many fit in depends on how busy the machine is


def test_a_search_without_an_end_keeps_no_checkpoint_from_its_place(edge, monkeypatch):
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    monkeypatch.setattr(Outgoing, "thinks", property(lambda _: True))
    world = edge("replay")
    program = world.start("tracker.py", 1000000)
    session = until(lambda: world.host.sessions and world.host.sessions[0], "a session")
    until(lambda: session.statistics().get("journal_covered"), "a checkpoint", 10)
    program.kill()


def test_a_module_that_was_named_only_is_brought_to_a_server_that_never_had_it(
    edge, monkeypatch, sockets
):
    """After a checkpoint, too, when nobody asks for the calls before it any more."""
    world = edge("batched")
    ends(world.start("tracker.py", 30, "--named"))
    assert world.reports.get(timeout=10).error == ""
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    program = world.start("tracker.py", 1000000, "--named")
    session = until(lambda: world.host.sessions and world.host.sessions[0], "a session")
    until(lambda: session.statistics().get("blobs_references", 0) >= 2, "module and upload named")
    until(lambda: session.statistics()["journal_covered"], "a checkpoint")
    world.die()
    shutil.rmtree(sockets / "blobs")
    world.rise()
    until(lambda: session.snapshot().resumed, "it is resumed")
    before = session.snapshot().round_trips
    until(lambda: session.snapshot().round_trips > before + 50, "it goes on")
    assert session.statistics()["blobs_wanted"], "the server asked"
    assert program.poll() is None
    program.kill()
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", ""), world.lines


@pytest.mark.parametrize("arguments", [(), ("--cascade",)])
def test_a_program_that_leaves_its_path_goes_on(edge, monkeypatch, arguments):
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    wanted = ends(edge("replay", "auto").start("wander.py", 60, *arguments)).splitlines()[1:]
    edge.close()
    world = edge("replay", "auto", lives=[(9, 0.0)] * 4)
    assert ends(world.start("wander.py", 60, *arguments)).splitlines()[1:] == wanted
    assert world.reports.get(timeout=10).resumed > 0


def test_what_kernels_print_is_printed_once(edge):
    wanted = ends(edge("batched").start("printing_program.py"))
    edge.close()
    world = edge("batched", lives=[(4, 0.0), (5, 0.0)])
    assert ends(world.start("printing_program.py")) == wanted
    assert world.reports.get(timeout=10).resumed > 0


def test_a_result_that_differs_ends_the_session_rather_than_going_on_wrongly(edge, monkeypatch):
    world = edge("batched", lives=[(40, 0.0)])
    monkeypatch.setattr(journal, "_digest", lambda result: os.urandom(8))
    program = world.start("strangers.py", "--seed", 1, "--inferences", 60)
    program.communicate(timeout=60)
    assert program.returncode != 0
    assert "gives another result" in world.reports.get(timeout=10).error


def test_without_any_server_the_program_gets_an_error_after_the_stated_time(edge):
    world = edge("batched", lives=[(10, 3600.0)], outage_timeout_s=2.0)
    program = world.start("strangers.py", "--seed", 1, "--inferences", 1000)
    program.communicate(timeout=30)
    assert program.returncode != 0
    report = world.reports.get(timeout=10)
    assert report.phase == "lost"
    assert "resuming failed: no server is there" in report.error


def test_a_silent_server_of_what_cannot_be_resumed_is_lost_in_time(edge):
    """And not only by the program, which waits longer and can say less."""
    world = edge("batched", server_timeout_s=1.5)
    program = world.start("tracker.py", 1000000)
    session = until(lambda: world.host.sessions and world.host.sessions[0], "a session")
    until(lambda: session.snapshot().round_trips > 20, "it runs")
    session._where.migration.give_up()
    world.die()
    _, errors = program.communicate(timeout=30)
    assert program.returncode != 0
    assert "the offload server was silent for 1.5 s" in world.reports.get(timeout=10).error
    assert "no sign of life" not in errors
    assert not session.statistics()["server_stood_still_s"]


class DeafEdge(OneProcess):
    """A server that opens every session, and of some of them nothing arrives either way.

    Args:
        deaf: Numbers of those sessions, the first is 0; of that one nothing after some messages.
    """

    def __init__(self, *arguments, lives, deaf=frozenset(), **named):
        self.deaf, self.numbers, self._heard = deaf, {}, 0
        super().__init__(*arguments, confinement="off", gate=Gate(None), **named)
        self.on_the_way = self.pass_on

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        answer = super().open_session(request, timeout_s, believes, patience_s)
        if answer.accepted:
            self.numbers.setdefault(request.session, len(self.numbers))
        return answer

    def pass_on(self, way, message):
        number = self.numbers.get(message.session, -1)
        self._heard += 1
        return [] if number in self.deaf and (number or self._heard > 40) else [message]


def test_a_network_that_comes_and_goes_does_not_count_as_a_server_that_calls_end(edge):
    world = edge("batched", kind=DeafEdge)
    world.deaf = frozenset(range(7))
    ends(world.start("strangers.py", "--seed", 1, "--inferences", 60))
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", "")
    assert report.resumed == 7


@pytest.mark.parametrize(("processes", "possible"), [(1, True), (2, True), (99, False)])
def test_calls_that_end_every_server_are_not_executed_for_ever(processes, possible):
    journal_ = SimpleNamespace(whole=True, newest=0, overflowed="")
    way = Migration(SessionConfig(), None, journal_, lambda: None)
    for number in range(4 * MOST_FRUITLESS):
        server = ServerOfSession(b"s" * 16, bytes([number % processes]) * 16)
        taken = bytes([number]) * 16, Opened(OpenAnswer(True), None, server)
        way._rescue = SimpleNamespace(found=True, take=lambda taken=taken: taken)
        assert way.take(0.0, False) == taken
        way.moved(0.0)
        assert way.possible or number >= MOST_FRUITLESS - 1
    assert way.possible is possible
    assert way.objection == ("" if possible else "it went on at 3 servers without a new result")


def test_servers_that_refuse_are_quoted(edge):
    world = edge("batched", lives=[(10, 0.0)], kind=RefusingEdge, outage_timeout_s=8.0)
    program = world.start("strangers.py", "--seed", 1, "--inferences", 1000)
    program.communicate(timeout=30)
    assert program.returncode != 0
    assert "8 sessions are open" in world.reports.get(timeout=10).error


def test_a_session_of_which_too_much_would_be_kept_ends_as_without_resuming(edge):
    world = edge("batched", lives=[(200, 0.0)], resume_bytes=4096, server_timeout_s=1.0)
    program = world.start("strangers.py", "--seed", 1, "--inferences", 1000)
    print(program.communicate(timeout=30))
    assert program.returncode != 0
    report = world.reports.get(timeout=10)
    assert report.phase == "lost", report.error
    assert "cannot go on at another: what brings" in report.error
    assert "more than resume_bytes, 4096 bytes" in report.error
