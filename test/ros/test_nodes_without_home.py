"""Nodes where nothing can be kept: no home, one that cannot be written, a full disk."""

import signal
import subprocess
import sys

import pytest

MOUNT = 'mount -t tmpfs -o "$0" none "$HOME" && exec "$@"'
ALONE = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c", MOUNT]
WAYS = {
    "no home": (["unshare", "--user", "--map-user=4242"], "HOME"),
    "a read-only home": ([*ALONE, "ro"], "Read-only file system"),
    "a full disk": ([*ALONE, "nr_inodes=1"], "No space left on device"),
}


@pytest.fixture(params=WAYS)
def nowhere(request, rig, tmp_path, monkeypatch):
    """Lets the rig's nodes keep nothing; the word that their logs say why."""
    words, reason = WAYS[request.param]
    (tmp_path / "home").mkdir()
    if subprocess.run([*words, "true"], env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
                      capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("this user cannot have a name space of its own")

    def node(module, **parameters):
        env = rig.environment(HOME=str(tmp_path / "home"))
        for name in ("XDG_CACHE_HOME", "ROS_LOG_DIR", *["HOME"] * (reason == "HOME")):
            env.pop(name, None)
        arguments = [sys.executable, "-m", f"rrto_ros.nodes.{module}", "--ros-args"]
        arguments += ["-r", f"__ns:=/{rig.robot}", "-p", f"robot:={rig.robot}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={value}"]
        return rig.start(module, [*words, *arguments], env)

    return node, reason


def test_programs_run_and_each_node_says_in_one_line_what_it_does_not_keep(rig, nowhere):
    node, reason = nowhere
    server = node("offload_server", device="cpu")
    recorder = node("recorder_replayer", autostart="true", mode="replay")
    server.wait_for(r"ready on", 40)
    # Its user's number, which is in the path, is another in the nodes' name space.
    socket = recorder.wait_for("active in mode .* find it at (.*)", 40)[1]
    program = rig.program("infer.py", "6", "--launches", "4", RRTO_SOCKET=socket)
    assert program.wait(60) == 0, program.text()
    for process, kinds in ((server, ("blobs", "kernels")), (recorder, ("plans",))):
        for kind in kinds:
            lines = [line for line in process.lines if f"{kind} are not kept" in line]
            assert len(lines) == 1, process.text()
            assert reason in lines[0]
        assert len([line for line in process.lines if "logs go to" in line]) == 1
        process.signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.text()
