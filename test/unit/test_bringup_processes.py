"""The description of processes: which, in which order, with which command lines."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from rrto_ros.bringup.options import REPLAY_OPTIONS, Options
from rrto_ros.bringup.processes import config_folder, example, processes


def parameters(process):
    """{name: value} of the -p arguments, as rcl reads them."""
    words = list(process.command)
    pairs = [words[i + 1].split(":=", 1) for i, word in enumerate(words) if word == "-p"]
    return {name: yaml.safe_load(value) for name, value in pairs}


@pytest.mark.parametrize(
    ("side", "demo", "names"),
    [
        ("both", False, ["offload_server", "recorder_replayer"]),
        ("edge", True, ["offload_server"]),
        ("robot", False, ["recorder_replayer"]),
        ("both", True, ["offload_server", "recorder_replayer", "camera", "perception"]),
    ],
)
def test_a_side_starts_its_processes_servers_first(side, demo, names):
    assert [p.name for p in processes(Options(side=side, demo=demo))] == names


def test_options_reach_the_parameters():
    server, recorder = processes(
        Options(robot="r2", device="null", mode="rpc", limit_bytes=1 << 20)
    )
    assert parameters(server) == {"robot": "r2", "device": "null", "limit_bytes": 1 << 20}
    assert parameters(recorder) == {"robot": "r2", "mode": "rpc", "autostart": True}
    for process in (server, recorder):
        assert "__ns:=/r2" in process.command


def test_replay_options_reach_the_recorder_where_they_are_given():
    given = {
        "search": "data_dependency", "min_repetitions": 3, "min_length": 7, "max_length": 900,
        "drop_plans_after": 5, "search_memory_bytes": 5 << 20, "run_ahead": "auto",
        "plan_cache_bytes": 0, "plan_cache_directory": "here",
    }  # fmt: skip
    assert set(given) == set(REPLAY_OPTIONS)
    server, recorder = processes(Options(mode="replay", **given))
    assert not set(given) & set(parameters(server))
    found = parameters(recorder)
    assert {name: found.pop(name) for name in given} == given
    # What is not given is left to the parameter files.
    assert parameters(processes(Options(mode="replay"))[1]) == found


def test_consent_to_the_cuda_runtime_reaches_the_recorder_and_is_left_to_the_files_otherwise():
    for options, wanted in (
        (Options(), None),
        (Options(cuda_runtime=True), True),
        (Options.from_texts({"cuda_runtime": "true"}), True),
        (Options.from_texts({"cuda_runtime": "false"}), None),
    ):
        _, recorder = processes(options)
        assert parameters(recorder).get("cuda_runtime") is wanted


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path):
    picture = tmp_path / "1e5"
    picture.write_bytes(b"")
    camera = processes(Options(demo=True, input=str(picture)))[2]
    assert parameters(camera)["source"] == str(picture)
    assert '"' in next(word for word in camera.command if word.startswith("source:="))


def test_only_perception_is_interposed_and_ends_everything():
    found = processes(Options(demo=True, frames=3, label="x", robot="r2"))
    interposed = [p for p in found if "rrto_ros.bringup.when_ready" in p.command]
    assert [p.name for p in interposed] == ["perception"]
    assert [p.name for p in found if p.ends_all] == ["perception"]
    assert interposed[0].environment["DEV"] == "CUDA:PTX"
    assert "DEV" not in found[2].environment
    words = interposed[0].command
    assert words[words.index("--robot") + 1] == "r2"
    assert words[words.index("--label") + 1] == "x"
    assert parameters(interposed[0])["frames"] == 3


def test_the_users_parameter_file_is_read_after_the_packages_own(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{}")
    for process in processes(Options(params_file=str(mine))):
        words = process.command
        files = [words[i + 1] for i, word in enumerate(words) if word == "--params-file"]
        assert files == [str(config_folder() / "rrto_ros.yaml"), str(mine)]


def test_nodes_find_each_other_without_multicast_unless_the_user_chose_peers(monkeypatch):
    monkeypatch.delenv("ROS_STATIC_PEERS", raising=False)
    assert processes(Options())[0].environment["ROS_STATIC_PEERS"] == "127.0.0.1"
    monkeypatch.setenv("ROS_STATIC_PEERS", "192.0.2.7")
    # The value itself: what starts the processes may hand them another environment than its own.
    assert processes(Options())[0].environment["ROS_STATIC_PEERS"] == "192.0.2.7"


def test_nodes_keep_the_transports_of_the_users_other_nodes(monkeypatch):
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    assert "FASTDDS_BUILTIN_TRANSPORTS" not in processes(Options())[0].environment


def test_every_node_runs_with_this_python():
    for process in processes(Options(demo=True)):
        assert process.command[0] == sys.executable


def test_the_parameter_file_names_every_node():
    text = yaml.safe_load((config_folder() / "rrto_ros.yaml").read_text())
    assert {name.rpartition("/")[2] for name in text} == {
        p.name for p in processes(Options(demo=True))
    }
    assert json.dumps(text)


def test_an_example_waits_for_the_robot_and_takes_the_users_python():
    options = Options(robot="r2", domain=7, cuda_runtime=True)
    own = example(options, Path("a.py"), ["--frames", "3"])
    assert own.command[own.command.index("--") :] == (
        "--",
        sys.executable,
        "a.py",
        "--frames",
        "3",
    )
    assert own.command[own.command.index("--robot") + 1] == "r2"
    assert "--foreign" not in own.command
    assert own.environment["RRTO_CUDA_RUNTIME"] == "1"
    assert own.environment["ROS_DOMAIN_ID"] == "7"
    assert own.ends_all
    other = example(Options(), Path("a.py"), [], "/opt/env/bin/python")
    assert other.command[-3:] == ("--", "/opt/env/bin/python", "a.py")
    assert "--foreign" in other.command
    assert "RRTO_CUDA_RUNTIME" not in other.environment
