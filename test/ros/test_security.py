"""A second participant on the domain attacks a session; machines are paired by keys."""

import json
import signal
import sys

import numpy as np
import pytest
from support.rig import START_S, said

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
COUNT = 5000
OFF = {"authentication": "off"}


def payload():
    """The first bytes of what infer.py gets back from the device; uploads may be packed."""
    values = np.random.default_rng(0).standard_normal(COUNT, np.float32)
    for launch in range(8):
        values = values * np.float32(0.5 + launch / 16) + np.float32(1)
    return values.tobytes()[:32]


def attacked(rig):
    """A program in the middle of its work, and a stranger who hears all of it."""
    hostile = rig.helper("hostile.py", rig.robot)
    said(hostile, START_S, hostile=True)
    program = rig.program("infer.py", "1000", "--count", COUNT, "--pace", stdin=True)
    said(program, ready=True)
    program.say("go")
    said(program, iteration=0)
    hostile.say("listen")
    said(hostile, did="listen")
    return hostile, program


def does(hostile, command):
    """What the stranger says of one thing that it does."""
    after = len(hostile.lines)
    hostile.say(command)
    return said(hostile, did=command, after=after)


def test_a_second_participant_reads_nothing_and_disturbs_nothing(rig):
    server, recorder = rig.both("cpu")
    watch = rig.watch()
    hostile, program = attacked(rig)
    commands = (
        "garbage_next", "sealed_next", "replay", "results", "closed", "close", "open",
        "acknowledge", "garbage_next",
    )  # fmt: skip
    for iteration, command in enumerate(commands, 1):
        did = does(hostile, command)
        assert did.get("done", False) is False
        if command == "open":
            assert "authentication" in did["reason"]
        program.say("go")
        said(program, iteration=iteration)
    refused = watch.wait("offload_server", lambda m: m["messages_refused"] >= 4, 10, "refusals")
    assert refused["authentication"] == "local"
    assert watch.wait("recorder_replayer", lambda m: m["messages_refused"] >= 1, 10, "refusals")
    assert does(hostile, "find:" + payload().hex())["found"] == 0
    program.close_input()
    assert said(program, done=True)["digest"]
    assert server.alive
    assert recorder.alive


def test_with_authentication_off_the_same_stranger_reads_and_closes(rig):
    """So the attacks of these tests are attacks; and that it is off is said."""
    server, recorder = rig.both("cpu", server=OFF, recorder={**OFF, "resume": "off"})
    for node in (server, recorder):
        node.wait_for("authentication is off", 10)
    watch = rig.watch()
    hostile, program = attacked(rig)
    assert watch.wait("offload_server", lambda m: m["authentication"] == "off", 10)
    assert does(hostile, "find:" + payload().hex())["found"] >= 1
    assert does(hostile, "close")["done"] is True
    program.say("go")
    assert said(program, 15, failed=...)["failed"] in ("UNKNOWN", "DEVICE_UNAVAILABLE")


def keys(rig, who, *arguments):
    """`rrto keys` of the user of one machine; what it prints."""
    process = rig.start("rrto", [*RRTO, "keys", *arguments], rig.environment(**machine(rig, who)))
    assert process.wait() == 0, process.text()
    return process.text()


def machine(rig, who):
    """Variables of a machine of its own, as far as keys go: other files."""
    folder = rig.folder / who
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return {"XDG_CONFIG_HOME": str(folder / "config")}


def trust(rig, who, whom):
    """One machine trusts another one's key."""
    key = json.loads(keys(rig, whom, "show", "--json"))["key"]
    keys(rig, who, "trust", key, "--name", whom)


def apart(rig, tmp_path):
    """Start a server as on another machine: other keys, and another runtime folder."""
    (tmp_path / "edge-run").mkdir()
    rig.variables = {
        **machine(rig, "edge"), "XDG_RUNTIME_DIR": str(tmp_path / "edge-run")
    }  # fmt: skip
    server = rig.server("cpu")
    rig.variables = machine(rig, "robot")
    return server


def test_a_robot_of_another_machine_needs_a_key_and_one_that_is_revoked_is_shut_out(rig, tmp_path):
    server = apart(rig, tmp_path)
    recorder = rig.recorder(connect_timeout_s=5.0, outage_timeout_s=4.0)
    refused = rig.program("infer.py", "1")
    assert refused.wait(30) != 0
    recorder.wait_for("run on the edge: rrto keys trust", 10)
    keys(rig, "robot", "new")
    keys(rig, "edge", "new")
    trust(rig, "edge", "robot")
    trust(rig, "robot", "edge")
    program = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(program, ready=True)
    program.say("go")
    said(program, iteration=0)
    server.wait_for(r"key robot \([0-9a-f]{16}\)\) opened", 10)
    keys(rig, "edge", "revoke", "robot")
    server.wait_for("no longer trusted", 10)
    program.say("go")
    assert said(program, 15, failed=...)["failed"] == "DEVICE_UNAVAILABLE"
    again = rig.program("infer.py", "1")
    assert again.wait(30) != 0


def rrto(rig, *arguments):
    return rig.start("rrto", [*RRTO, *arguments], rig.environment(RRTO_ROBOT=rig.robot))


@pytest.mark.parametrize("sealed", [False, True], ids=["keys in the bag", "keys beside it"])
def test_a_bag_of_sealed_calls_is_read_by_who_has_the_keys(rig, tmp_path, sealed):
    rig.both("cpu")
    folder = tmp_path / "bag"
    bag = rrto(rig, "bag", "record", folder, *["--sealed"] * sealed)
    bag.wait_for("recording to", START_S)
    assert said(rig.program("infer.py", "2", "--count", COUNT), done=True)
    bag.signal(signal.SIGINT)
    assert bag.wait() == 0, bag.text()
    assert not any(payload() in file.read_bytes() for file in folder.iterdir())
    beside = folder.with_name("bag.keys")
    assert beside.exists() == sealed
    play = rrto(rig, "bag", "play", folder)
    assert play.wait() == 0, play.text()
    assert "equal byte for byte" in play.text()
    if sealed:
        assert beside.stat().st_mode & 0o777 == 0o600
        beside.unlink()
        play = rrto(rig, "bag", "play", folder)
        assert play.wait() == 2
        assert "sealed and their keys are not in the bag" in play.text()


@pytest.mark.parametrize("settings", [{}, OFF], ids=["on", "off"])
def test_two_servers_of_one_robots_name_leave_each_others_sessions_alone(rig, tmp_path, settings):
    """Of two users: each hears every message, and knows half of the sessions."""
    mine = rig.server("cpu", **settings)
    (tmp_path / "other-run").mkdir()
    rig.variables = {"XDG_RUNTIME_DIR": str(tmp_path / "other-run")}
    rig.server("cpu", blob_directory=str(tmp_path / "other-blobs"), **settings)
    rig.variables = {}
    recorder = rig.recorder(**settings)
    for _ in range(3):
        assert said(rig.program("infer.py", "3", "--count", COUNT), done=True)["digest"]
    assert "has closed the session" not in recorder.text()
    if not settings:
        assert sum("opened on" in line for line in mine.lines) == 3
