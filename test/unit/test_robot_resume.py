"""A program whose server dies goes on at another one, and gets the bytes of plain execution.

Real programs on the shim, a real recorder, servers with real workers. RRTO_OUTAGES=50 runs so many
random programs in each setting; the short form has a few. RRTO_OUTAGES_SEED is the first one's.
"""

import os
import random

import pytest
from support.failing_edge import FailingEdge, RefusingEdge

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot import journal
from rrto_ros.robot.memory_image import MemoryImage
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

COUNT = int(os.environ.get("RRTO_OUTAGES", "0"))
FIRST = int(os.environ.get("RRTO_OUTAGES_SEED", "1"))
MIB = 1 << 20


@pytest.fixture
def edge(sockets):
    made = []

    def make(mode="batched", run_ahead="off", lives=(), kind=FailingEdge, **config):
        config = {"resume": "exact", "outage_timeout_s": 20.0} | config
        settings = SessionConfig(mode=mode, replay=ReplayOptions(run_ahead=run_ahead), **config)
        made.append(
            kind(sockets / "r" / "s.sock", settings, HostLimits(), lives=lives,
                 blob_directory=sockets / "blobs", blob_bytes=64 * MIB)
        )  # fmt: skip
        return made[-1]

    make.close = lambda: made.pop().close()
    yield make
    while made:
        make.close()


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


def ends(program, timeout_s=120):
    out, errors = program.communicate(timeout=timeout_s)
    assert program.returncode == 0, (out[-2000:], errors[-3000:])
    return out


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead"),
    [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "reads"),
     ("replay", "auto")],
)  # fmt: skip
@pytest.mark.parametrize("script", ["strangers.py", "host_memory.py"])
@pytest.mark.parametrize("period_s", [0.0, 0.1])
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
    assert len(checkpoints) > 3


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
