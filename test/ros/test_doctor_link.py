"""`rrto doctor` beside real nodes: it finds the server, measures the way there, and misses it."""

import json
import sys

DOCTOR = [sys.executable, "-m", "rrto_ros.cli.main", "doctor", "--json", "--server"]


def doctor(rig, venv):
    """(exit code, what it said, checks by name) for an environment."""
    command = [*DOCTOR, "--robot", rig.robot, "--venv", venv]
    process = rig.start("doctor", [str(part) for part in command], rig.environment())
    code = process.wait(90)
    text = "\n".join(process.lines)
    told = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return code, told, {check["name"]: check for check in told["checks"]}


def test_the_doctor_sees_the_server_and_says_when_it_is_gone(rig, tmp_path):
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    server, _ = rig.both()
    code, told, checks = doctor(rig, tmp_path)
    assert (code, told["missing"], told["device"]) == (0, [], "cpu"), told
    assert "server connected" in checks["recorder"]["text"]
    assert "device cpu" in checks["server"]["text"]
    assert checks["link"]["text"].endswith(" ms")
    server.stop()
    code, told, checks = doctor(rig, tmp_path)
    assert code == 1
    assert checks["server"]["state"] == "missing"
    assert "rrto up --side edge" in checks["server"]["step"]
