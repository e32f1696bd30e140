"""Parameters are described once, and nodes, options, parameter file and pages agree with that."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rrto_ros.api import parameters
from rrto_ros.api.parameters import NODES, OPTIONS, RECORDER, REPLAY, SERVER, Parameter
from rrto_ros.bringup import parameter_pages
from rrto_ros.bringup.options import Options
from rrto_ros.demo.image_codec import CHANNELS
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.host import HostLimits
from rrto_ros.errors import ConfigError
from rrto_ros.robot import plan_store
from rrto_ros.robot.replay import learner
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire import blob_store, link, plan, port

PACKAGE = Path(parameters.__file__).resolve().parents[1]
SOURCES = {
    "offload_server": ["nodes/server_parameters.py"],
    "recorder_replayer": ["nodes/recorder_parameters.py", "nodes/recorder_replayer.py"],
    "camera": ["demo/camera.py"],
    "perception": ["demo/perception.py"],
}


def trees(files):
    return [ast.parse((PACKAGE / file).read_text()) for file in files]


def words(files):
    """Every text in the sources."""
    nodes = (node for tree in trees(files) for node in ast.walk(tree))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def read(files):
    """Names of the parameters that the sources read."""
    for node in (node for tree in trees(files) for node in ast.walk(tree)):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in ("v", "values"):
            key = node.slice
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get_parameter":
            key = node.args[0]
        else:
            continue
        if isinstance(key, ast.Constant):
            yield key.value


@pytest.mark.parametrize("node", NODES)
def test_what_a_node_reads_is_described_and_what_is_described_is_read(node):
    found = set(read(SOURCES[node]))
    assert found, "the test looks at what is not there"
    assert found <= set(NODES[node])
    assert set(NODES[node]) <= words(SOURCES[node])


def test_parameters_are_declared_from_the_description_alone():
    pattern = re.compile(r"\bdeclare_parameters?\(")
    found = [f for f in PACKAGE.rglob("*.py") if pattern.search(f.read_text())]
    assert [f.relative_to(PACKAGE).as_posix() for f in found] == ["ros/parameters.py"]


@pytest.mark.parametrize("described", [*NODES.values(), OPTIONS])
def test_every_default_is_allowed_and_comes_back_from_its_text(described):
    for name, item in described.items():
        assert item.name == name
        item.check(item.default)
        assert item.parse(str(item.default)) == item.default
        assert item.text.endswith(".")


def test_defaults_and_bounds_are_those_of_the_code_behind_them():
    def defaults(kind):
        return {f.name: f.default for f in dataclasses.fields(kind)}

    for described, kind in ((RECORDER, SessionConfig), (RECORDER, ReplayOptions),
                            (SERVER, DeviceSettings), (SERVER, HostLimits)):  # fmt: skip
        for name, value in defaults(kind).items():
            # A session by itself keeps no plans; the node's does.
            if name == "plan_cache_bytes" or value is dataclasses.MISSING:
                continue
            if name in described:
                assert described[name].default == ("" if value is None else value), name
    assert RECORDER["drop_plans_after"].default == ReplayOptions().drop_after
    assert RECORDER["linger_us"].default == SessionConfig().linger_s * 1e6
    assert RECORDER["ring_mib"].default << 20 == SessionConfig().call_ring_bytes
    assert RECORDER["window"].span == (1, link.RECEIVE_WINDOW)
    assert RECORDER["max_length"].span == RECORDER["min_length"].span == (1, plan.MAX_PLAN_CALLS)
    assert RECORDER["search_memory_bytes"].span[0] == learner.LEAST_SEARCH_MEMORY_BYTES
    assert RECORDER["plan_cache_bytes"].default == plan_store.DEFAULT_LIMIT_BYTES
    assert SERVER["blob_cache_bytes"].default == blob_store.DEFAULT_LIMIT_BYTES
    assert SERVER["max_message_bytes"].default == link.MAX_MESSAGE_BYTES
    assert SERVER["kernel_cache_bytes"].default == DeviceSettings(1).cache_bytes
    assert SERVER["session_timeout_s"].default == HostLimits().timeout_s
    assert OPTIONS["domain"].span == (-1, port.HIGHEST_DOMAIN)
    assert set(NODES["camera"]["encoding"].choices) == set(CHANNELS)


def test_the_options_of_bring_up_are_those_that_are_described():
    assert {f.name: f.default for f in dataclasses.fields(Options)} == {
        name: item.default for name, item in OPTIONS.items()
    }
    assert set(RECORDER) >= {p.name for p in REPLAY}


def test_a_command_has_the_options_and_their_defaults():
    from rrto_ros.cli.analyze_command import analyze
    from rrto_ros.cli.main import demo_command, run, up

    def defaults(command):
        return {n: p.default for n, p in inspect.signature(command).parameters.items()}

    left_out = {"limit_bytes", "jit", "label"}
    assert defaults(up) == {n: p.default for n, p in OPTIONS.items() if n not in left_out}
    assert {p.name for p in REPLAY} <= set(defaults(run))
    for command, described, own in (
        (demo_command, OPTIONS, {"frames", "output"}),  # ends by itself, and leaves something
        (run, OPTIONS, {"mode", "device", "log_level"}),  # as the robot runs already; quiet
        (analyze, RECORDER, set()),
    ):
        found = defaults(command)
        shared = found.keys() & described.keys() - own
        assert len(shared) >= 4
        assert {n: found[n] for n in shared} == {n: described[n].default for n in shared}


WRONG = [
    ("search", "luck", "'luck' is none of operator_sequence, data_dependency"),
    ("min_repetitions", "1", "1 cannot be used, want a whole number, 2 or more, 1000 at most"),
    ("max_length", "40000", "40000 cannot be used, want a whole number, 0 or more, 32768 at most"),
    ("device", "tpu", "'tpu' is none of auto, cpu, gpu, null"),
    ("mode", "fast", "'fast' is none of rpc, batched, replay"),
]


@pytest.mark.parametrize(("name", "text", "wrong"), WRONG)
def test_a_launch_argument_and_an_option_are_refused_with_the_one_message(name, text, wrong):
    with pytest.raises(ConfigError) as error:
        Options.from_texts({name: text})
    message = str(error.value)
    assert message.startswith(f"{name} {wrong}")
    assert "; change it in the option, launch argument or parameter file" in message
    option = "--" + name.replace("_", "-")
    start = "import sys\nfrom rrto_ros.cli.main import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, "up", option, text],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"rrto: {message}\n")


@pytest.mark.parametrize(
    ("item", "value", "wrong"),
    [
        (RECORDER["linger_us"], -1, "want a whole number, 0 or more, 100000 at most; "),
        (RECORDER["linger_us"], True, "linger_us True cannot be used, want a whole number"),
        (RECORDER["server_timeout_s"], 0.0, "want a number, 0.5 or more, 600 at most"),
        (RECORDER["blob_references"], "no", "blob_references 'no' cannot be used, want true or"),
        (RECORDER["ring_mib"], 3, "ring_mib 3 is not a power of two"),
        (RECORDER["ring_mib"], 0, "want a whole number, 1 or more"),
        (RECORDER["device"], "auto", "device 'auto' is none of cpu, gpu, null, empty"),
        (SERVER["compute_capability"], "nine", "want a capability like '8.9', or an empty text"),
        (SERVER["compute_capability"], "2.0", "compute_capability '2.0' cannot be used"),
    ],
)  # fmt: skip
def test_a_node_refuses_a_value_with_what_is_wanted(item, value, wrong):
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        item.check(value)


def test_an_unset_option_is_allowed_and_the_same_value_is_none_of_the_node():
    for item in REPLAY:
        option = OPTIONS[item.name]
        option.check(option.unset)
        if item.name != "plan_cache_directory":
            with pytest.raises(ConfigError):
                item.check(option.unset)


def test_the_shortest_sequence_is_not_above_the_longest():
    with pytest.raises(ConfigError, match="min_length 9 is above max_length 8; make"):
        Options(min_length=9, max_length=8)
    assert Options(min_length=9).min_length == 9


def test_parameter_file_and_pages_are_what_the_description_says():
    for path, text in parameter_pages.pages().items():
        assert path.read_text("utf-8") == text, "run python -m rrto_ros.bringup.parameter_pages"


def test_a_page_that_is_behind_the_description_is_named(monkeypatch, capsys):
    other = dataclasses.replace(RECORDER["linger_us"], default=501)
    monkeypatch.setitem(RECORDER, "linger_us", other)
    monkeypatch.setattr(sys, "argv", ["parameter_pages", "--check"])
    assert parameter_pages.main() == 1
    assert "docs/recorder_replayer.md is not what the code says" in capsys.readouterr().err


def test_every_table_is_in_a_page():
    text = "".join(parameter_pages.pages().values())
    assert all(table in text for table in parameter_pages.tables().values())


def test_the_parameter_file_has_the_defaults_and_explains_them():
    text = parameter_pages.yaml_text()
    for node, content in yaml.safe_load(text).items():
        for name, value in content["ros__parameters"].items():
            assert NODES[node.rpartition("/")[2]][name].default == value
    assert text.count("Values: ") == sum(p.in_file for n in NODES.values() for p in n.values())


def test_the_description_needs_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import rrto_ros.api.parameters\n"
        "print(*{n.split('.')[0] for n in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rrto_ros"]


def test_values_of_bytes_are_shown_in_the_largest_unit_that_fits():
    shown = [parameter_pages.number("a_bytes", n) for n in (0, 64, 1536, 192 << 20, 1 << 40)]
    assert shown == ["0", "64", "1536", "192 MiB", "1 TiB"]
    assert parameter_pages.number("threads", 1024) == "1024"


def test_a_truth_is_read_from_the_words_that_launch_files_have():
    item = Parameter("a", False, "A.")
    assert [item.parse(text) for text in ("True", "on", "0", "no")] == [True, True, False, False]
