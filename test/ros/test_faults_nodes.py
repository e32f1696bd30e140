"""Nodes and programs that are missing or die: the others say so in time, and go on."""

import time

from support.rig import said, steps

SILENCE_S = 2.0
"""Parameter server_timeout_s of the recorder in these tests."""
RECORDER = {"server_timeout_s": SILENCE_S, "connect_timeout_s": 10.0, "resume": "off"}
"""A new server is discovered within a second or two. What resuming does is in test_resume.py."""
SLACK_S = 4.0
"""For a busy machine, on top of every stated time."""
LOST = {"DEVICE_UNAVAILABLE"}


def lost(program, timeout_s):
    """Wait for the failure of a program; returns the CUDA error's name."""
    failed = said(program, timeout_s, failed=...)
    assert program.wait(10) == 3
    return failed["failed"]


def test_without_a_server_initialisation_fails_within_the_stated_time(rig):
    rig.recorder(connect_timeout_s=SILENCE_S)
    started = time.monotonic()
    program = rig.program("misuse.py", "initialise_only")
    assert program.wait(SILENCE_S + 15) == 0
    assert steps(program) == [("init", "SYSTEM_NOT_READY")]
    # Starting Python and importing the bindings takes about a second of this.
    assert time.monotonic() - started < 2 * SILENCE_S + SLACK_S
    assert any("no offload server" in line for line in program.lines + rig.processes[0].lines)


def test_without_a_recorder_initialisation_fails_at_once_and_says_why(rig):
    program = rig.program("misuse.py", "initialise_only")
    assert program.wait(15) == 0
    assert steps(program) == [("init", "SYSTEM_NOT_READY")]
    assert "recorder" in program.text()


def test_a_server_killed_during_an_inference_is_reported_and_a_new_one_is_used(rig):
    server, recorder = rig.both("cpu", recorder=RECORDER)
    program = rig.program("infer.py", "1000000")
    said(program, iteration=5)
    server.kill()
    assert lost(program, SILENCE_S + SLACK_S) in LOST
    rig.server("cpu")
    assert said(rig.program("infer.py", "3"), done=True)
    assert recorder.alive


def test_a_server_killed_during_a_long_kernel_ends_the_wait(rig):
    server, _ = rig.both("cpu", recorder=RECORDER)
    program = rig.program("long_kernel.py", "4000000000")
    said(program, launched=True)
    server.kill()
    answer = said(program, SILENCE_S + SLACK_S, code=...)
    assert answer["result"] in LOST
    assert said(program, 5, then=...)["then"] in LOST
    assert program.wait(10) == 0


def test_a_long_kernel_is_waited_for_however_long_the_silence_limit(rig):
    rig.both("cpu", recorder={"server_timeout_s": 0.5, "connect_timeout_s": 5.0})
    program = rig.program("long_kernel.py", "1000000000")
    said(program, launched=True)
    answer = said(program, 120, result=...)
    assert answer["result"] == "SUCCESS"


def test_a_recorder_killed_during_an_inference_is_reported_and_a_new_one_is_used(rig):
    server, recorder = rig.both("cpu", server={"session_timeout_s": 2.0}, recorder=RECORDER)
    watch = rig.watch()
    program = rig.program("infer.py", "1000000")
    said(program, iteration=5)
    recorder.kill()
    assert lost(program, SLACK_S) in LOST
    watch.wait("offload_server", lambda m: not m["sessions"], 2.0 + SLACK_S, "session freed")
    rig.recorder(**RECORDER)
    assert said(rig.program("infer.py", "3"), done=True)
    assert server.alive


def test_a_killed_program_frees_its_session_within_seconds(rig):
    server, recorder = rig.both("cpu", recorder=RECORDER)
    watch = rig.watch()
    program = rig.program("infer.py", "1000000")
    said(program, iteration=2)
    open_ = watch.wait("offload_server", lambda m: m["sessions"], what="an open session")
    assert open_["sessions"][0]["pid"] == program.pid
    program.kill()
    watch.wait("offload_server", lambda m: not m["sessions"], 3.0, "session freed")
    watch.wait("recorder_replayer", lambda m: not m["sessions"], 3.0, "session forgotten")
    assert server.alive
    assert recorder.alive


def test_a_program_killed_during_a_long_kernel_frees_its_session_too(rig):
    rig.both("cpu", recorder=RECORDER)
    watch = rig.watch()
    program = rig.program("long_kernel.py", "4000000000", "100")  # minutes of work
    said(program, launched=True)
    watch.wait("offload_server", lambda m: m["sessions"], what="an open session")
    program.kill()
    watch.wait("offload_server", lambda m: not m["sessions"], 5.0, "session freed")


def test_a_frozen_server_is_reported_and_its_return_does_not_confuse_the_next_program(rig):
    import signal

    server, _ = rig.both("cpu", recorder=RECORDER)
    program = rig.program("infer.py", "1000000")
    said(program, iteration=2)
    server.signal(signal.SIGSTOP)
    try:
        assert lost(program, SILENCE_S + SLACK_S) in LOST
    finally:
        server.signal(signal.SIGCONT)
    assert said(rig.program("infer.py", "3"), done=True)


def test_nodes_end_cleanly_when_asked_with_a_program_running(rig):
    server, recorder = rig.both("cpu", recorder=RECORDER)
    program = rig.program("infer.py", "1000000")
    said(program, iteration=2)
    assert server.stop() == 0
    assert lost(program, SILENCE_S + SLACK_S) in LOST
    assert recorder.stop() == 0
