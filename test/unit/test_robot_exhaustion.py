"""A recorder without descriptors says so to programs, and serves again when it has some."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.one_process import OneProcess
from support.ring_client import RingClient

from rrto_ros.edge.host import HostLimits
from rrto_ros.errors import CudaError, UnavailableError
from rrto_ros.robot.ring import RingMemory
from rrto_ros.robot.ring_socket import RingListener
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.port import OpenAnswer

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "programs" / "few_descriptors.py"
LIMIT = 64


class Failing:
    """A listening socket whose `accept` fails so often."""

    def __init__(self, real, errors):
        self.real = real
        self.errors = errors

    def accept(self):
        if self.errors:
            raise self.errors.pop()
        return self.real.accept()

    def __getattr__(self, name):
        return getattr(self.real, name)


def descriptors():
    """Those that this process has open."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def computes(path):
    """Whether a program that starts now is served."""
    with RingClient(path) as client:
        client.put(pack_call("ctx_synchronize", 1, record_flags=1, context=1))
        return client.wait(1).status == 0


def test_a_recorder_without_descriptors_tells_programs_why_and_serves_again(sockets):
    path = sockets / "r" / "robot.sock"
    recorder = subprocess.Popen(
        [sys.executable, PROGRAM, path, str(LIMIT)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert json.loads(recorder.stdout.readline()) == {"listens": True}
        clients, refusals = [], []
        for _ in range(2 * LIMIT):
            try:
                clients.append(RingClient(path, timeout_s=20))
            except (CudaError, UnavailableError) as error:
                refusals.append(str(error))
            if len(refusals) > 8:
                break
        assert clients
        assert any("ulimit -n" in text for text in refusals), refusals
        for client in clients:
            client.close()
        served = False
        end = time.monotonic() + 20
        while not served:
            assert time.monotonic() < end, "no program is served any more"
            with contextlib.suppress(CudaError, UnavailableError):
                served = computes(path)
        said, errors = recorder.communicate(timeout=20)
        assert json.loads(said.splitlines()[-1])["accepted"] > len(clients)
        assert "RecursionError" not in errors
    finally:
        recorder.kill()
        recorder.communicate()


def test_a_thousand_programs_that_leave_at_once_do_not_end_the_listener(sockets, monkeypatch):
    listener = RingListener(sockets / "r" / "s")

    failing = Failing(listener._socket, [ConnectionAbortedError("gone")] * 2000)
    monkeypatch.setattr(listener, "_socket", failing)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(listener.accept()))
    thread.start()
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(str(listener.path))
        thread.join(20)
    assert answers
    assert not failing.errors
    answers[0].close()
    listener.close()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_program_for_which_there_is_no_descriptor_is_told_so_by_the_spare_one(
    sockets, monkeypatch, failures
):
    listener = RingListener(sockets / "r" / "s")
    # The first is where a program is accepted, the second with the spare one given up, and so on.
    failing = Failing(listener._socket, [OSError(errno.EMFILE, "Too many open files")] * failures)
    monkeypatch.setattr(listener, "_socket", failing)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(listener.accept()))
    thread.start()
    if failures % 2:
        with pytest.raises(CudaError, match="ulimit -n"):
            RingClient(listener.path, timeout_s=20)
        assert listener.turned_away == 1
    with socket.socket(socket.AF_UNIX) as program:
        program.connect(str(listener.path))
        thread.join(20)
    assert answers[0].fileno() > 0
    answers[0].close()
    listener.close()


@pytest.mark.parametrize("place", range(3))
def test_a_ring_that_cannot_be_made_leaves_no_descriptor(monkeypatch, place):
    made = {"memory": 0, "event": 0}
    real = os.eventfd

    def eventfd(*arguments):
        made["event"] += 1
        if made["event"] > place:
            raise OSError(24, "Too many open files")
        return real(*arguments)

    def no_map(*_):
        raise OSError(12, "no memory")

    RingMemory().close()  # what is loaded once
    before = descriptors()
    if place < 2:
        monkeypatch.setattr("os.eventfd", eventfd)
    else:
        monkeypatch.setattr("rrto_ros.robot.ring.mmap.mmap", no_map)
    with pytest.raises(OSError, match=r"Too many|no memory"):
        RingMemory()
    assert descriptors() == before


class Late(OneProcess):
    """A session is refused when its program has gone."""

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        self.programs[0].kill()
        self.programs[0].wait()
        return OpenAnswer(False, "8 sessions are open (max_sessions)")


def test_a_program_that_is_gone_when_its_session_is_refused_is_not_told_as_one_without_room(
    sockets,
):
    world = Late(sockets / "r" / "s.sock", SessionConfig(), HostLimits())
    try:
        world.start("tracker.py", 5)
        assert "waited no longer" in world.reports.get(timeout=60).error
    finally:
        world.close()
