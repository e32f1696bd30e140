"""What nodes let others see, leave behind and write into logs."""

import os
import re
import time
from pathlib import Path

from support.ring_client import RingClient

from rrto_ros.ros.shared_memory import YOUNG_S
from rrto_ros.wire.descriptions import Hello

SHARED = Path("/dev/shm")


def test_nodes_write_files_for_their_user_alone_and_remove_what_killed_nodes_left(rig):
    name = f"fastdds_{os.getpid():016x}"
    litter = [SHARED / name, SHARED / f"{name}_el", SHARED / f"sem.{name}_mutex"]
    try:
        for _ in range(5):  # a node of another test on this machine may be first
            for path in litter:
                path.write_bytes(bytes(3 << 20))
                os.utime(path, (time.time() - 2 * YOUNG_S,) * 2)
            nodes = rig.both(device="null")
            assert not any(path.exists() for path in litter)
            said = "".join(node.text() for node in nodes)
            if "removed" in said:
                break
            for node in nodes:
                node.stop()
    finally:
        for path in litter:
            path.unlink(missing_ok=True)
    assert re.search(r"removed \d+ MiB of shared memory", said), said
    for node in nodes:
        status = Path(f"/proc/{node.pid}/status").read_text()
        assert "Umask:\t0077" in status


def test_a_name_with_lines_and_escape_codes_is_written_out(rig):
    """What connects is no shim, which writes it out itself."""
    server, recorder = rig.both(device="null")
    socket = recorder.wait_for("active in mode .* find it at (.*)")[1]
    name = "x\n[FATAL] all is lost\x1b[2J\x9b31m"
    client = RingClient(Path(socket), Hello(pid=os.getpid(), program=name, label=name))
    try:
        for node in (server, recorder):
            node.wait_for(r"x\\n\[FATAL\] all is lost\\x1b\[2J\\x9b31m")
            assert not any(line.startswith("[FATAL]") for line in node.lines)
            assert not any("\x1b" in line or "\x9b" in line for line in node.lines)
    finally:
        client.close()


def test_a_server_says_once_how_its_workers_are_confined_and_may_require_it(rig):
    server = rig.server(device="null", confinement="required", wait=False)
    line = server.wait_for(r"session workers are confined by (.*)|confinement is required", 60)
    if line[1] is None:  # this machine has not the means
        assert server.wait(30) == 2
        return
    assert "Landlock" in line[1]
    assert "seccomp" in line[1]
    assert len([said for said in server.lines if "are confined" in said]) == 1
