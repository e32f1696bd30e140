"""The recorder is missing, refuses, dies or falls silent: the program gets an error in time."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support.shim_peer import CASES, RPC, Peer, refuse
from support.shim_under_test import python, shim_environment

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.ring_socket import RingListener, read_hello, send_welcome
from rrto_ros.runtime_files import socket_path
from rrto_ros.wire.descriptions import Welcome
from rrto_ros.wire.format import RESULT_STICKY
from rrto_ros.wire.port import domain_number

DEVICE_UNAVAILABLE, SYSTEM_NOT_READY, ILLEGAL_ADDRESS = 46, 802, 700


def init(path, timeout_ms=1000, **extra):
    """cuInit of a program against a socket path, None for the one that it finds by itself."""
    env = {**os.environ, **shim_environment(), "RRTO_SOCKET": str(path or ""),
           "RRTO_CONNECT_TIMEOUT_MS": str(timeout_ms), **extra}  # fmt: skip
    done = subprocess.run(
        [*python(), str(CASES), "init_only"], env=env, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout), done.stderr


def test_without_a_recorder_cuinit_says_so_at_once(sockets):
    answer, said = init(sockets / "nobody.sock")
    assert answer["result"] == SYSTEM_NOT_READY
    assert answer["seconds"] < 1
    assert said.count("\n") == 1
    assert "no recorder_replayer at" in said
    assert "rrto run" in said


@pytest.mark.parametrize(
    ("robot", "text", "domain"),
    [("", "", 0), ("r2", "7", 7), ("fleet/r2", "232", 232), ("robot", "0", 0)],
)
def test_program_and_recorder_look_for_the_same_socket(sockets, monkeypatch, robot, text, domain):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sockets))
    monkeypatch.delenv("RRTO_SOCKET", raising=False)
    path = socket_path(robot or "robot", domain)
    _, said = init(None, RRTO_ROBOT=robot, ROS_DOMAIN_ID=text)
    assert f"no recorder_replayer at {path} (" in said
    path.parent.mkdir(mode=0o700)
    answer, _ = init(None, RRTO_ROBOT=robot, ROS_DOMAIN_ID=text)
    assert answer["result"] == SYSTEM_NOT_READY
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        _, said = init(None, 300, RRTO_ROBOT=robot, ROS_DOMAIN_ID=text)
        assert "did not answer in time" in said


@pytest.mark.parametrize("text", ["x", "233", "-1", " 7", "7 ", "99999999999999999999"])
def test_a_domain_that_is_none_is_named(text):
    answer, said = init(None, ROS_DOMAIN_ID=text)
    assert answer["result"] == SYSTEM_NOT_READY
    assert f'ROS_DOMAIN_ID is "{text}", want a number, 0 to 232' in said
    with pytest.raises(ConfigError, match="0 to 232"):
        domain_number(text.strip() + "x")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_a_socket_of_another_user_gets_no_word_of_the_program():
    path = Path(tempfile.mkdtemp(prefix="rrto-test-", dir="/tmp")) / "s"
    path.parent.chmod(0o777)
    heard_read, heard_write = os.pipe()
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            os.write(ready_write, b"1")
            connection, _ = server.accept()
            os.write(heard_write, b"heard: " + connection.recv(64))
        os._exit(0)
    os.read(ready_read, 1)
    answer, said = init(path)
    os.waitpid(pid, 0)
    assert answer["result"] == SYSTEM_NOT_READY
    assert "belongs to another user" in said
    assert os.read(heard_read, 99) == b"heard: "
    for fd in (heard_read, heard_write, ready_read, ready_write):
        os.close(fd)
    shutil.rmtree(path.parent)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_a_recorder_of_another_user_refuses_the_program():
    folder = Path(tempfile.mkdtemp(prefix="rrto-test-", dir="/tmp"))
    folder.chmod(0o755)
    listener = RingListener(folder / "run" / "s")
    pid = os.fork()
    if pid == 0:
        with socket.socket(socket.AF_UNIX) as program:
            # The credentials are those of the moment of connecting.
            os.seteuid(65534)
            try:
                program.connect(str(listener.path))
            except PermissionError:
                os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    # And one that got in all the same, by an open folder or a passed descriptor:
    listener.path.parent.chmod(0o755)
    listener.path.chmod(0o666)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        program = socket.socket(socket.AF_UNIX)
        program.connect(str(listener.path))
        program.recv(1)
        os._exit(0)
    connection = listener.accept()
    with pytest.raises(ProtocolError, match="runs as user 65534"):
        read_hello(connection, 2.0)
    connection.close()
    os.waitpid(pid, 0)
    listener.close()
    shutil.rmtree(folder)


def test_a_recorder_that_never_answers_is_given_up_in_the_stated_time(sockets):
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(sockets / "s"))
        deaf.listen()
        answer, said = init(sockets / "s", 700)
    assert answer["result"] == SYSTEM_NOT_READY
    assert 0.6 < answer["seconds"] < 3
    assert "did not answer in time" in said


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(16)])
def test_something_else_behind_the_socket_is_not_taken_for_a_recorder(sockets, reply):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sockets / "s"))
        server.listen()

        def serve():
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(reply)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        answer, said = init(sockets / "s")
        thread.join()
    assert answer["result"] == SYSTEM_NOT_READY
    assert said.startswith("rrto: ")
    assert ("hung up before it answered" in said) == (len(reply) < 16)
    assert "in time" not in said


def test_a_recorder_that_hangs_up_before_it_reads_is_not_waited_for_and_its_word_is_heard(sockets):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sockets / "s"))
        server.listen()

        def serve(answer):
            connection, _ = server.accept()
            if answer:
                send_welcome(connection, Welcome(802, "no descriptor is left"))
            connection.close()

        for answer, word in ((False, "hung up"), (True, "no descriptor is left")):
            thread = threading.Thread(target=serve, args=(answer,))
            thread.start()
            got, said = init(sockets / "s")
            thread.join()
            assert got["result"] == SYSTEM_NOT_READY
            assert got["seconds"] < 2
            assert word in said


def test_a_refused_session_gives_the_recorders_status_and_reason():
    with Peer(welcome=Welcome(2, "the server has no memory left")) as peer:
        answer = peer.case("init_only")
        assert "the server has no memory left" in peer.stderr
    assert answer["result"] == 2


def test_hello_names_the_program_and_its_label():
    with Peer() as peer:
        peer.case("init_only", RRTO_LABEL="front camera")
        assert peer.hello.label == "front camera"
        assert "shim_cases.py init_only" in peer.hello.program


def error_after(peer, breaks):
    """The program copies in a loop; `breaks()` breaks the recorder; what the program saw."""
    program = peer.start([*python(), str(CASES), "wait_for_error"])
    try:
        assert program.stdout.readline() == "ready\n"
        breaks()
        out, said = program.communicate("go\n", timeout=60)
    finally:
        program.kill()
    assert program.returncode == 0, said
    return json.loads(out), said


def test_a_recorder_that_dies_gives_an_error_not_a_hang():
    with Peer() as peer:
        answer, said = error_after(peer, peer.hang_up)
    assert answer["result"] == DEVICE_UNAVAILABLE
    assert answer["later"] == [DEVICE_UNAVAILABLE] * 2
    assert answer["seconds"] < 3
    assert said.count("rrto: ") == 1


def test_a_recorder_that_falls_silent_is_given_up_after_the_wait_timeout():
    silent = threading.Event()

    def on_call(_call):
        return b"" if silent.is_set() else None

    with Peer(wait_timeout_ms=800, on_call=on_call) as peer:
        answer, said = error_after(peer, silent.set)
    assert answer["result"] == DEVICE_UNAVAILABLE
    assert 0.7 < answer["seconds"] < 6
    assert "no sign of life" in said


def test_a_slow_server_that_shows_signs_of_life_is_waited_for():
    slow = threading.Event()

    def on_call(call):
        if slow.is_set() and call.op.name == "memcpy_dtoh":
            for _ in range(8):  # longer than the wait timeout, with a beat now and then
                time.sleep(0.25)
                peer.rings[0].beat()
            return refuse(call, ILLEGAL_ADDRESS)
        return None

    with Peer(wait_timeout_ms=1000, on_call=on_call) as peer:
        answer, _ = error_after(peer, slow.set)
    assert answer["result"] == ILLEGAL_ADDRESS


def test_a_state_set_by_the_recorder_is_what_calls_return():
    with Peer() as peer:
        answer, _ = error_after(peer, lambda: peer.rings[0].set_state(999))
    assert answer["result"] == 999
    assert answer["later"] == [999, 999]


def test_a_failed_launch_is_sticky_and_comes_out_at_the_synchronisation():
    state = {"broken": False}

    def on_call(call):
        if call.op.name == "launch" and not state["broken"]:
            state["broken"] = True
            return refuse(call, ILLEGAL_ADDRESS, b"launch of scale: address 0", RESULT_STICKY)
        if state["broken"]:
            return refuse(call, ILLEGAL_ADDRESS) if call.reply else b""
        return None

    with Peer(on_call=on_call) as peer:
        answer = peer.case("sticky_launch")
        said = peer.stderr
    assert answer["first"] == 0
    assert answer["sync"] == ILLEGAL_ADDRESS
    assert answer["after"] == [ILLEGAL_ADDRESS] * 3
    assert said.count("rrto: ") == 1
    assert "launch of scale: address 0" in said


def test_in_rpc_mode_a_failed_launch_is_returned_by_the_launch():
    def on_call(call):
        return refuse(call, ILLEGAL_ADDRESS) if call.op.name == "launch" else None

    with Peer(mode=RPC, on_call=on_call) as peer:
        assert peer.case("sticky_launch")["first"] == ILLEGAL_ADDRESS


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: refuse(call, 0),
        lambda call: refuse(call, 0, b"12345678" * 2),
        lambda _call: b"\xff" * 8,
        lambda _call: b"\x18\0\0\0" + bytes(12) + b"\xff\xff\xff\xff" + bytes(4),
    ],
    ids=["too short", "too long", "no record", "payload past its record"],
)
def test_an_answer_that_breaks_the_format_is_an_error_not_data(answer):
    def on_call(call):
        return answer(call) if call.op.name == "event_elapsed_ms" else None

    source = (
        "from support.cuda_ctypes import *\n"
        "start(); a = out('cuEventCreate', 0); ok('cuEventRecord', a, 0)\n"
        "f = ctypes.c_float(7)\n"
        "print(call('cuEventElapsedTime', ctypes.byref(f), a, a), f.value)\n"
    )
    with Peer(wait_timeout_ms=5000, on_call=on_call) as peer:
        path = str(CASES.parents[2])
        program = peer.start([*python(), "-c", source], PYTHONPATH=path)
        out, said = program.communicate(timeout=60)
    assert out == "999 7.0\n", said


def test_the_session_ends_when_the_program_is_killed():
    with Peer() as peer:
        program = peer.start([*python(), str(CASES), "wait_for_error"])
        assert program.stdout.readline() == "ready\n"
        program.kill()
        program.wait()
        assert peer.closed_sessions.acquire(timeout=5)


def test_the_session_ends_with_its_process_though_a_forked_child_lives_on():
    source = (
        "import os, sys\nfrom support.cuda_ctypes import *\nstart()\n"
        "if os.fork() == 0:\n    sys.stdin.readline(); os._exit(0)\n"
        "print('forked', flush=True)\nos._exit(0)\n"
    )
    with Peer() as peer:
        program = peer.start([*python(), "-c", source], PYTHONPATH=str(CASES.parents[2]))
        assert program.stdout.readline() == "forked\n"
        assert peer.closed_sessions.acquire(timeout=5)
        program.communicate("go\n", timeout=10)
