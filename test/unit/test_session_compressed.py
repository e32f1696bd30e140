"""Whole programs whose messages all leave coded, both ways: every byte is what it was."""

import os
import random

import pytest
from support.failing_edge import FailingEdge
from support.worlds import ends, settings, worlds

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.state import journal
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire import compressor
from rrto_ros.wire.link import MessageSender

COUNT = int(os.environ.get("RRTO_COMPRESSED", "1"))
MIB = 1 << 20


@pytest.fixture
def edges(sockets):
    def make(mode, run_ahead="off", compression="auto", lives=()):
        config = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead), resume="exact",
            upload_compression=compression, resume_bytes=8 * MIB,
        )  # fmt: skip
        return FailingEdge(
            sockets / "r" / "s.sock",
            config,
            HostLimits(),
            lives=lives,
            blob_directory=sockets / "blobs",
            blob_bytes=64 * MIB,
        )

    with worlds(make) as made:
        yield made


@pytest.fixture
def always(monkeypatch):
    """Code whatever can be, in a way that changes often; counts what did not come out shorter."""
    monkeypatch.setattr(compressor, "LEAST_BYTES", 64)
    monkeypatch.setattr(compressor, "LEAST_S", 0.0)
    monkeypatch.setattr(compressor, "TRIED_AGAIN", 7)
    monkeypatch.setattr(MessageSender, "bytes_per_s", property(lambda _: 100.0))
    rng = random.Random(COUNT)
    best = compressor.best_filter
    monkeypatch.setattr(
        compressor,
        "best_filter",
        lambda data, *near: best(data, *near) if rng.random() < 0.5 else
        compressor.Filter(rng.randrange(17), rng.choice((0, 40, 333, 70_000))),
    )  # fmt: skip


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead", "script"),
    settings(
        COUNT > 1,
        [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "auto")],
        ["host_memory.py", "strangers.py"],
    ),
)
def test_random_programs_lose_no_byte(edges, always, mode, run_ahead, script):
    for seed in range(COUNT):
        arguments = (script, "--seed", 50 + seed, "--inferences", 60)
        plain = edges(mode, run_ahead, "off")
        wanted = ends(plain.start(*arguments))
        edges.close()
        world = edges(mode, run_ahead, lives=[(60, 0.0)])
        assert ends(world.start(*arguments)) == wanted
        report = world.reports.get(timeout=10)
        assert (report.phase, report.error) == ("closed", ""), world.lines
        edges.close()


def test_inputs_and_what_is_read_back_cross_in_fewer_bytes(edges, always):
    sent, received = [], []
    for compression in ("off", "auto"):
        world = edges("batched", compression=compression)
        ends(world.start("tracker.py", 60))
        report = world.reports.get(timeout=10)
        sent.append(report.bytes_sent)
        received.append(report.bytes_received)
        edges.close()
    assert sent[1] < 0.9 * sent[0]
    assert received[1] < 0.9 * received[0]


def test_another_server_is_told_nothing_of_what_the_last_one_knew(edges, always, monkeypatch):
    monkeypatch.setattr(journal, "PERIOD_S", 0.0)
    world = edges("replay", "auto", lives=[(40, 0.0)] * 4)
    ends(world.start("tracker.py", 200))
    report = world.reports.get(timeout=10)
    assert report.resumed > 1, world.lines
