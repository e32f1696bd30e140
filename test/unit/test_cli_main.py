"""The command line without ROS: help, wrong arguments, exit codes."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
from support.synthetic import Model, Program

from rrto_ros.bringup.options import REPLAY_OPTIONS, Options
from rrto_ros.cli.replay_options import with_replay_options
from rrto_ros.robot.record import CallLog, dump

BLOCK = (
    "import sys\nfor name in ('rclpy', 'rrto_msgs', 'rosbags'):\n    sys.modules[name] = None\n"
)


def rrto(*arguments, code=None, **environment):
    """Run the command where ROS cannot be imported; returns (code, out, err)."""
    start = BLOCK + "from rrto_ros.cli.main import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [[], ["up"], ["run"], ["status"], ["mode"], ["demo"], ["bag"], ["bag", "record"],
     ["bag", "play"], ["bag", "info"], ["analyze"], ["evaluate"], ["compare"]],
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
        (["analyze", "bag", "--pipeline", "4"], 2, ["--pipeline without --partition"]),
        (["analyze", "bag", "--json"], 2, ["--json without --partition"]),
        (["analyze", "bag", "--partition", "--bits", "8"], 2, ["--bits without --pipeline"]),
        (["analyze", "bag", "--partition", "--pipeline", "-1"], 2, ["-1 inferences under way"]),
        (["evaluate", "--link", "wifi"], 2, ["'wifi'", "wifi-indoor", "80mbit-4ms"]),
        (["evaluate", "--modes", "rpc,fast"], 2, ["'fast'", "rpc, batched"]),
        (["evaluate", "--modes", "rpc,rpc"], 2, ["'rpc,rpc'", "each once"]),
        (["evaluate", "--rounds", "-1"], 2, ["-1", "1 to 1000"]),
        (["evaluate", "--latency-pattern", "took .*"], 2, ["no group", "(.*)"]),
        (["evaluate", "--result-pattern", "("], 2, ["no regular expression"]),
        (["evaluate", "--program", "a 'b"], 2, ["a 'b", "command line"]),
        (["evaluate", "--device", "tpu"], 2, ["'tpu'"]),
        (["evaluate", "--link", "loopback"], 2, ["ROS 2"]),
        (["compare", "nowhere", "nowhere"], 2, ["nowhere"]),
        (["compare", "a", "b", "--fail-over", "-3"], 2, ["-3", "0 or more"]),
        (["mode"], 2, ["name"]),
        (["mode", "bogus"], 2, ["bogus", "rpc, batched"]),
        (["run"], 2, ["command"]),
        (["run", "--mode", "fast", "--", "true"], 125, ["'fast'", "rpc, batched"]),
        (
            ["run", "--run-ahead", "auto", "--", "true"],
            125,
            ["--run-ahead", "'batched'", "--mode replay"],
        ),
        (
            ["run", "--mode", "replay", "--search", "guess", "--", "true"],
            125,
            ["'guess'", "data_dependency"],
        ),
        (["run", "--mode", "replay", "--min-length", "few", "--", "true"], 2, ["'few'"]),
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


def test_analyze_names_the_sequences_of_a_log_and_draws_them(tmp_path):
    p = Program()
    model = Model(p, "a", 1, kernels=5)
    for _ in range(4):
        model.infer()
    log = CallLog(session={"program": "detector"})
    log.extend(b"".join(p.records()))
    dump(log, tmp_path / "log")
    code, out, err = rrto("analyze", tmp_path / "log", "--html", tmp_path / "calls.html")
    assert code == 0, err
    (truth,) = p.truth.values()
    assert f"{len(truth[0])} calls, 4 times" in out
    assert "<html" in (tmp_path / "calls.html").read_text().lower()


def test_analyze_names_a_missing_log(tmp_path):
    code, _, err = rrto("analyze", tmp_path / "none")
    assert (code, "no such log or bag" in err) == (2, True)


@pytest.mark.parametrize("command", ["up", "run"])
def test_what_starts_a_recorder_has_an_option_for_each_parameter_of_the_replay(command):
    code, out, _ = rrto(command, "--help")
    assert code == 0
    for name in REPLAY_OPTIONS:
        assert f"--{name.replace('_', '-')} " in out


def test_the_options_of_the_replay_are_those_of_a_bring_up():
    defaults = {f.name: f.default for f in dataclasses.fields(Options)}
    taken = []

    def command(first: int, replay: dict[str, object], last: int = 0) -> None:
        taken.append((first, replay, last))

    made = with_replay_options(command)
    parameters = inspect.signature(made).parameters
    assert list(parameters) == ["first", *REPLAY_OPTIONS, "last"]
    values = {name: parameters[name].default for name in REPLAY_OPTIONS}
    assert values == {name: defaults[name] for name in REPLAY_OPTIONS}
    made(first=1, last=2, **values)
    assert taken == [(1, values, 2)]
    assert Options(**values).chosen_replay() == {}
    assert Options(**{**values, "max_length": 9}).chosen_replay() == {"max_length": 9}
