"""A node whose interpreter stands still is ended with a reason; nothing else is."""

import os
import signal
import subprocess
import sys

import pytest

HEAD = """
import ctypes, sys, time
from rrto_ros.ros.watchdog import Watchdog
with Watchdog("recorder_replayer", 1.0):
    print("up", flush=True)
    sys.stdin.readline()
"""
# PyDLL keeps the interpreter's lock, as rclpy does while it takes a message.
STANDS_STILL = HEAD + "    ctypes.PyDLL(None).sleep(60)\n"
GOES_ON = HEAD + "    print('over', flush=True)\n"


def start(text):
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", text], text=True, env=env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    return process


def test_a_process_whose_interpreter_is_held_is_aborted_and_says_why():
    process = start(STANDS_STILL)
    _, errors = process.communicate("\n", timeout=30)
    assert process.returncode == -signal.SIGABRT
    assert "recorder_replayer: no thread of Python has run for 1 s" in errors
    assert "Fatal Python error: Aborted" in errors
    assert 'File "<string>"' in errors, "the stacks are missing"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_waits_or_was_stopped_goes_on(stopped):
    process = start(GOES_ON)
    if stopped:
        process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5)
    if stopped:
        process.send_signal(signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    said, errors = process.communicate("\n", timeout=30)
    assert (process.returncode, said, errors) == (0, "over\n", "")


def test_without_the_library_a_node_runs_unwatched_and_says_so(monkeypatch):
    from rrto_ros.errors import UnavailableError
    from rrto_ros.ros import watchdog

    def none():
        raise UnavailableError("no compiler")

    monkeypatch.setattr(watchdog, "ensure_built", none)
    lines = []
    with watchdog.Watchdog("offload_server", log=lines.append):
        pass
    assert lines == ["offload_server runs without a watchdog: no compiler"]
