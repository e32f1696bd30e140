"""The launch file under the real `launch`, with launch_testing; skipped where they are missing.

`test_up_bring_up.py` tests the same scenario through `rrto up`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "offload.launch.py"
EXAMPLES_FILE = ROOT / "launch" / "examples.launch.py"

launch = pytest.importorskip("launch", reason="launch is not installed (part of ROS 2)")
# A folder called launch imports as an empty package.
if not hasattr(launch, "LaunchDescription"):
    pytest.skip("launch is not installed (part of ROS 2)", allow_module_level=True)
pytest.importorskip("launch_testing", reason="launch_testing is not installed (part of ROS 2)")

SCENARIO = '''
"""Server and recorder come up, talk to each other, and end cleanly."""
import os
import threading
import unittest

import launch
import launch.launch_description_sources
import launch_testing.actions
import launch_testing.asserts

from lifecycle_msgs.msg import Transition

from rrto_ros.ros.client import RECORDER, RobotClient

try:
    from launch_ros.event_handlers import OnStateTransition
    from launch_ros.events.lifecycle import ChangeState
except ImportError:
    OnStateTransition = None

INACTIVE = threading.Event()


def when_inactive():
    """Notes the recorder's transition, as launch sees it."""
    if OnStateTransition is None:
        return []
    noted = launch.actions.OpaqueFunction(function=lambda context: INACTIVE.set())
    handler = OnStateTransition(goal_state="inactive", entities=[noted])
    return [launch.actions.RegisterEventHandler(handler)]


def generate_test_description():
    source = launch.launch_description_sources.PythonLaunchDescriptionSource({launch_file!r})
    arguments = {{
        "robot": "launched", "device": "null", "mode": "rpc", "min_repetitions": "5",
        "search": "data_dependency", "plan_cache_bytes": "0",
    }}.items()
    return launch.LaunchDescription([
        *when_inactive(),
        launch.actions.IncludeLaunchDescription(source, launch_arguments=arguments),
        launch_testing.actions.ReadyToTest(),
    ])


class WhileRunning(unittest.TestCase):
    def test_recorder_is_active_and_knows_the_server(self, proc_output):
        proc_output.assertWaitFor("active in mode rpc", timeout=60)
        with RobotClient("launched", int(os.environ["ROS_DOMAIN_ID"])) as client:
            client.wait_ready(60)
            self.assertEqual(client.status(RECORDER)["mode"], "rpc")
            self.assertEqual(client.get_parameter("min_repetitions"), 5)
            self.assertEqual(client.get_parameter("search"), "data_dependency")
            self.assertEqual(client.get_parameter("plan_cache_bytes"), 0)
            self.assertEqual(client.get_parameter("min_length"), 3)
            self.assertIn("is none of", client.set_parameter("mode", "warp"))

    @unittest.skipIf(OnStateTransition is None, "launch_ros is not installed")
    def test_then_launch_deactivates_it(self, launch_service):
        deactivate = Transition.TRANSITION_DEACTIVATE
        launch_service.emit_event(
            ChangeState(lifecycle_node_matcher=lambda node: True, transition_id=deactivate)
        )
        self.assertTrue(INACTIVE.wait(20), "launch has seen no transition to inactive")


@launch_testing.post_shutdown_test()
class AfterShutdown(unittest.TestCase):
    def test_both_end_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
        self.assertEqual(len(list(proc_info)), 2)
'''


@pytest.fixture
def environment(rig):
    """Of ROS tools in this rig's domain."""
    return {**rig.environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def tool(environment, *arguments):
    """Run a Python module with the test's packages; (exit code, output)."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_launch_file_brings_up_a_working_robot_and_ends_cleanly(environment, tmp_path):
    scenario = tmp_path / "test_offload.test.py"
    scenario.write_text(SCENARIO.format(launch_file=str(LAUNCH_FILE)))
    code, text = tool(environment, "launch_testing.launch_test", str(scenario))
    assert code == 0, text
    assert "OK" in text


def run_launch(arguments, environment, file=LAUNCH_FILE):
    """Run a launch file in a process; (exit code, output)."""
    text = (
        "import sys, launch\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource as S\n"
        "from launch.actions import IncludeLaunchDescription as I\n"
        f"pairs = {arguments!r}.items()\n"
        "service = launch.LaunchService()\n"
        f"service.include_launch_description(launch.LaunchDescription("
        f"[I(S({str(file)!r}), launch_arguments=pairs)]))\n"
        "sys.exit(service.run())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"device": "tpu"}, "device 'tpu' is none of auto, cpu, gpu, null"),
        ({"domain": "many"}, "domain 'many' cannot be used, want a whole number, 0 to 232"),
        ({"robot": "7"}, "'7'"),
        ({"min_repetitions": "1"}, "min_repetitions 1 cannot be used, want a whole number, 2 or"),
    ],
)
def test_a_wrong_launch_argument_is_named(environment, arguments, named):
    code, text = run_launch(arguments, environment)
    assert code != 0
    assert named in text


def test_a_process_that_fails_ends_the_launch(environment, rig, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    partition_objective: energy\n")
    code, text = run_launch({"params_file": str(file), "device": "null"}, environment)
    assert "recorder_replayer ended with exit code 2" in text
    assert "power_profile is empty" in text
    assert code in (0, 1)


def declared(file):
    """The arguments of a launch file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("a_launch_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {one.name for one in module.generate_launch_description().get_launch_arguments()}


def test_every_option_is_a_launch_argument():
    from rrto_ros.bringup.options import Options

    options = {name for name, _, _, _ in Options.describe()}
    assert declared(LAUNCH_FILE) == options
    assert declared(EXAMPLES_FILE) == options | {"program", "arguments", "python"}


def test_an_example_runs_from_a_launch_file_and_its_end_is_the_launchs(environment):
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    arguments = {"program": "vector_add_cuda_bindings.py", "arguments": "--streams 2",
                 "robot": "launched", "mode": "replay"}  # fmt: skip
    code, text = run_launch(arguments, environment, EXAMPLES_FILE)
    assert code == 0, text
    assert "vector_add_cuda_bindings.py ended with exit code 0" in text
    assert "NumPy" in text


def test_a_program_that_is_no_example_and_no_file_is_named(environment):
    code, text = run_launch({"program": "no_such.py"}, environment, EXAMPLES_FILE)
    assert code != 0
    assert "'no_such.py' is no file" in text
    assert "rectify_triton.py" in text
