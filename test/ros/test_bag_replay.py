"""Bags of driver calls: recorded beside a program, played into a fresh server, compared."""

import json
import shutil
import signal
import sys
import time

import pytest
from support.rig import PROGRAMS, START_S, said

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
EXAMPLE = PROGRAMS.parents[2] / "examples" / "vector_add_cuda_bindings.py"


def rrto(rig, *arguments):
    return rig.start("rrto", [*RRTO, *arguments], rig.environment(RRTO_ROBOT=rig.robot))


def done(process):
    """(exit code, output) at its end."""
    return process.wait(), process.text()


@pytest.fixture
def program(rig):
    """Starts the same CUDA program, interposed."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

    def start():
        return rig.start("program", [sys.executable, EXAMPLE], rig.interposed())

    return start


def recorded(rig, program, folder, times=1):
    """Record runs of the program into a bag."""
    bag = rrto(rig, "bag", "record", folder)
    bag.wait_for("recording to", START_S)
    for _ in range(times):
        assert program().wait() == 0
    bag.signal(signal.SIGINT)
    assert bag.wait() == 0, bag.text()
    return bag


def test_a_bag_of_two_runs_gives_the_same_results_byte_for_byte(rig, program, tmp_path):
    rig.both()
    # The server has the uploads now: without blob_references off they would be missing.
    assert program().wait() == 0
    bag = recorded(rig, program, tmp_path / "bag", times=2)
    assert "2 sessions" in bag.text()
    code, text = done(rrto(rig, "bag", "info", "--json", tmp_path / "bag"))
    assert code == 0, text
    sessions = json.loads(text)["sessions"]
    assert len(sessions) == 2
    for session in sessions:
        assert session["faults"] == []
        assert session["operations"]["launch"] == 4
        assert session["bytes_sent"] > 8_000_000
    report = tmp_path / "played.json"
    code, text = done(rrto(rig, "bag", "play", tmp_path / "bag", "--report", report))
    assert code == 0, text
    played = json.loads(report.read_text())
    assert played["equal"] is True
    assert [s["results"] > 0 and s["bytes_compared"] > 4_000_000 for s in played["sessions"]] == [
        True,
        True,
    ]
    # The parameter is what it was.
    status, text = done(rrto(rig, "mode", "batched"))
    assert status == 0
    after = program()
    assert after.wait() == 0


def test_a_changed_result_is_found(rig, program, tmp_path):
    off = {"authentication": "off"}
    rig.both(server=off, recorder=off)
    recorded(rig, program, tmp_path / "bag")
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    from rrto_ros.ros.bag_file import typestore

    store = typestore()
    changed = 0
    with (
        Reader(tmp_path / "bag") as reader,
        Writer(tmp_path / "bad", version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        connections = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
            for c in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            copy = bytearray(data)
            if connection.topic.endswith("call_results") and len(copy) > 100_000:
                copy[len(copy) // 2] ^= 1
                changed += 1
            writer.write(connections[connection.topic], time_ns, bytes(copy))
    assert changed
    code, text = done(rrto(rig, "bag", "play", tmp_path / "bad"))
    assert code == 1
    assert "1 of" in text
    assert "bytes differ" in text


def test_a_session_that_began_before_is_left_out_and_told(rig, tmp_path):
    rig.both(device="null")
    waits = (
        "import ctypes; ctypes.CDLL('libcuda.so.1').cuInit(0); print('begun', flush=True); input()"
    )
    early = rig.start("early", [sys.executable, "-c", waits], rig.interposed(), stdin=True)
    early.wait_for("begun", START_S)
    bag = rrto(rig, "bag", "record", tmp_path / "bag")
    bag.wait_for("recording to", START_S)
    assert "1 sessions began before" in bag.text()
    early.say("")
    assert early.wait() == 0
    bag.signal(signal.SIGINT)
    assert bag.wait() == 0
    code, text = done(rrto(rig, "bag", "info", tmp_path / "bag"))
    assert code == 2
    assert "no driver calls" in text


def test_what_is_no_bag_or_not_complete_is_refused_with_the_reason(rig, program, tmp_path):
    code, text = done(rrto(rig, "bag", "play", tmp_path / "nothing"))
    assert code == 2
    assert "nothing" in text
    rig.both()
    recorded(rig, program, tmp_path / "bag")
    code, text = done(rrto(rig, "bag", "record", tmp_path / "bag"))
    assert code == 2
    assert "exists" in text
    (mcap,) = (tmp_path / "bag").glob("*.mcap")
    shutil.copytree(tmp_path / "bag", tmp_path / "short")
    short = tmp_path / "short" / mcap.name
    short.write_bytes(mcap.read_bytes()[: mcap.stat().st_size // 2])
    code, text = done(rrto(rig, "bag", "play", tmp_path / "short"))
    assert code == 2, text
    assert "Traceback" not in text


def test_every_recording_is_whole_from_its_first_message_on(rig, program, tmp_path):
    """Each recording is a new DDS participant, which both ends have to discover first."""
    rig.both()
    for number in range(3):
        folder = tmp_path / f"bag{number}"
        recorded(rig, program, folder)
        code, text = done(rrto(rig, "bag", "info", "--json", folder))
        assert code == 0, text
        (session,) = json.loads(text)["sessions"]
        assert session["faults"] == []


def test_a_recording_that_is_not_discovered_is_made_anew(rig, program, tmp_path, monkeypatch):
    from rrto_ros.cli import bags
    from rrto_ros.ros.client import RobotClient

    monkeypatch.setattr(bags, "KNOWN_ATTEMPTS_S", (0.0, 0.0, START_S))
    # This process records: it is of the rig's user, who gets the keys.
    monkeypatch.setenv("XDG_RUNTIME_DIR", rig.environment()["XDG_RUNTIME_DIR"])
    made = []
    monkeypatch.setattr(
        bags, "CallRecorder", lambda *a, make=bags.CallRecorder: made.append(make(*a)) or made[-1]
    )
    rig.both()
    with RobotClient(rig.robot, rig.domain) as client:
        with bags.recording(client, tmp_path / "bag"):
            assert program().wait() == 0
        assert len(made) == 3
        assert [one.statistics()["sessions"] for one in made] == [0, 0, 1]
    code, text = done(rrto(rig, "bag", "info", "--json", tmp_path / "bag"))
    assert code == 0, text
    (session,) = json.loads(text)["sessions"]
    assert session["faults"] == []


def test_a_recording_waits_for_a_server_that_starts_beside_it(rig, program, tmp_path):
    rig.recorder()
    bag = rrto(rig, "bag", "record", tmp_path / "bag")
    rig.server()
    bag.wait_for("recording to", START_S)
    assert program().wait() == 0
    bag.signal(signal.SIGINT)
    assert bag.wait() == 0, bag.text()


def test_a_recording_that_no_server_hears_of_is_refused(rig, tmp_path):
    rig.recorder()
    bag = rrto(rig, "bag", "record", tmp_path / "bag")
    assert bag.wait(40) == 1
    assert "offload_server" in bag.text()
    assert "was not seen" in bag.text()


def test_a_recording_with_a_gap_says_so_and_exits_with_1(rig, program, tmp_path):
    rig.both()
    bag = rrto(rig, "bag", "record", tmp_path / "bag")
    bag.wait_for("recording to", START_S)
    hostile = rig.helper("hostile.py", rig.robot)
    said(hostile, START_S, hostile=True)
    assert program().wait() == 0
    # A message of a session that nobody opened: its beginning cannot be in the bag.
    hostile.say("unknown")
    said(hostile, did="unknown")
    rig.watch().wait("offload_server", lambda m: m["messages_refused"], 10, "a refusal")
    bag.signal(signal.SIGINT)
    assert bag.wait() == 1, bag.text()
    assert "is not complete" in bag.text()
    assert "its opening was not recorded" in bag.text()
    code, text = done(rrto(rig, "bag", "info", tmp_path / "bag"))
    assert code == 0
    assert "complete" in text


def test_a_recording_that_was_killed_is_repaired_and_plays(rig, program, tmp_path):
    rig.both()
    bag = rrto(rig, "bag", "record", tmp_path / "bag")
    bag.wait_for("recording to", START_S)
    assert program().wait() == 0
    size = settled(tmp_path / "bag")
    bag.kill()
    assert size > 8_000_000
    code, text = done(rrto(rig, "bag", "play", tmp_path / "bag"))
    assert code == 2
    assert "rrto bag repair" in text
    code, text = done(rrto(rig, "bag", "repair", tmp_path / "bag"))
    assert code == 0, text
    assert "complete" in text
    code, text = done(rrto(rig, "bag", "play", tmp_path / "bag"))
    assert code == 0, text
    assert "equal byte for byte" in text
    code, text = done(rrto(rig, "bag", "repair", tmp_path / "bag"))
    assert (code, "nothing to repair" in text) == (0, True)


def settled(folder):
    """Bytes of the bag once the whole of what came has been flushed, at most a second later."""
    from rrto_ros.ros.bag_recorder import FLUSH_S

    end = time.monotonic() + 4 * FLUSH_S
    before = -1
    while time.monotonic() < end:
        size = sum(path.stat().st_size for path in folder.glob("*.mcap"))
        if size == before:
            return size
        before = size
        time.sleep(FLUSH_S * 1.5)  # nothing announces a flush
    return before
