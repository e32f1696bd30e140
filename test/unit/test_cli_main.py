"""The command line without ROS: help, wrong arguments, exit codes."""

import subprocess
import sys

import pytest

BLOCK = (
    "import sys\nfor name in ('rclpy', 'rrto_msgs', 'rosbags'):\n    sys.modules[name] = None\n"
)


def rrto(*arguments, code=None, **environment):
    """Run the command where ROS cannot be imported; returns (code, out, err)."""
    start = BLOCK + "from rrto_ros.cli.main import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [[], ["up"], ["run"], ["status"], ["mode"], ["demo"], ["bag"], ["bag", "record"],
     ["bag", "play"], ["bag", "info"]],
)  # fmt: skip
def test_every_command_has_help_without_ros(command):
    code, out, err = rrto(*command, "--help")
    assert code == 0, err
    assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["fly"], 2, ["fly"]),
        (["up", "--device", "tpu"], 2, ["'tpu'", "cpu, gpu, null"]),
        (["up", "--robot", "7"], 2, ["'7'", "letter"]),
        (["up", "--domain", "many"], 2, ["many"]),
        (["up", "--colour"], 2, ["--colour"]),
        (["mode"], 2, ["name"]),
        (["run"], 2, ["command"]),
        (["run", "--mode", "fast", "--", "true"], 125, ["'fast'", "rpc, batched"]),
        (["status", "--domain", "900"], 2, ["900", "0 to 232"]),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_wanted(arguments, code, named):
    got, _, err = rrto(*arguments)
    assert got == code, err
    for part in named:
        assert part.lower() in err.lower()
    assert "Traceback" not in err


def test_without_ros_the_next_step_is_told():
    code, _, err = rrto("status")
    assert code == 2
    assert "make demo" in err
    assert "Traceback" not in err
