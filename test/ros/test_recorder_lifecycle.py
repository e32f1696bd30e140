"""The recorder_replayer node: transitions, parameters, status and reports, over real DDS."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.node import Node
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from support.ring_client import RingClient

from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError, UnavailableError
from rrto_ros.ros.client import RobotClient
from rrto_ros.ros.context import leave, own_context, quiet_node
from rrto_ros.ros.participant import SpinThread
from rrto_ros.ros.services import ask
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.descriptions import Hello

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
SHUTDOWN = Transition.TRANSITION_ACTIVE_SHUTDOWN
PATIENCE_S = 20.0


class Manager:
    """Calls the services of one recorder_replayer."""

    def __init__(self, rig):
        self.name = f"/{rig.robot}/recorder_replayer"
        self.context = Context()
        rclpy.init(
            args=[],
            context=self.context,
            domain_id=rig.domain,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = quiet_node("manager", self.context)
        self.spin = SpinThread(self.node)
        self.clients = {}

    def call(self, kind, service, request, harmless=None):
        """Ask a service; first with what it may get twice, if the request is not that."""
        client = self.clients.get(service)
        if client is None:
            client = self.clients[service] = self.node.create_client(
                kind, f"{self.name}/{service}"
            )
            # Only the first answer can get lost: afterwards both see each other.
            first = request if harmless is None else harmless
            assert ask(client, first, PATIENCE_S), f"{service} did not answer"
        answer = ask(client, request, PATIENCE_S)
        assert answer, f"{service} did not answer"
        return answer

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        unknown = ChangeState.Request(transition=Transition(label="none of this name"))
        return self.call(ChangeState, "change_state", request, unknown).success

    @property
    def state(self):
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def set(self, name, **value):
        kind = {"string_value": 4, "integer_value": 2, "bool_value": 1, "double_value": 3}
        typed = ParameterValue(type=kind[next(iter(value))], **value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
        result = self.call(SetParameters, "set_parameters", request).results[0]
        return "" if result.successful else result.reason

    def describe(self, name):
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, "describe_parameters", request).descriptors[0]

    def close(self):
        self.spin.close()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def manager(rig):
    made = Manager(rig)
    yield made
    made.close()


def program(rig, **hello):
    folder = Path(rig.environment()["XDG_RUNTIME_DIR"])
    path = folder / f"rrto-{os.getuid()}" / f"{rig.domain}-{rig.robot}.sock"
    return RingClient(path, Hello(**{"pid": 77, "program": "prog", "label": "lab"} | hello))


def round_trip(client, index):
    client.put(pack_call("ctx_synchronize", index, context=1, record_flags=3))
    return client.wait(index)


def test_each_transition_does_and_refuses_what_it_says(rig, manager):
    rig.server("null")
    recorder = rig.recorder(wait=False, autostart=False)
    assert manager.state == "unconfigured"
    assert not manager.change(ACTIVATE)
    with pytest.raises(UnavailableError, match="no recorder_replayer listens"):
        program(rig)

    assert manager.change(CONFIGURE)
    assert manager.state == "inactive"
    with pytest.raises(CudaError, match=r"SYSTEM_NOT_READY.*is not active.*ros2 lifecycle set"):
        program(rig)

    assert manager.change(ACTIVATE)
    assert manager.state == "active"
    client = program(rig)
    assert round_trip(client, 1).status == 0

    assert not manager.change(DEACTIVATE), "a session is open"
    recorder.wait_for(r"not deactivated: 1 sessions are open \(prog \(pid 77\)\)")
    assert manager.state == "active"
    assert round_trip(client, 2).status == 0
    program(rig, pid=78).close()

    assert manager.set("force_deactivate", bool_value=True) == ""
    assert manager.change(DEACTIVATE)
    assert manager.state == "inactive"
    with pytest.raises(CudaError) as caught:
        round_trip(client, 3)
    assert caught.value.result == CUresult.DEVICE_UNAVAILABLE
    client.close()

    assert manager.change(CLEANUP)
    assert manager.state == "unconfigured"
    with pytest.raises(UnavailableError):
        program(rig)

    assert manager.change(CONFIGURE)
    assert manager.change(ACTIVATE)
    client = program(rig)
    assert round_trip(client, 1).status == 0
    assert manager.change(SHUTDOWN)
    assert manager.state == "finalized"
    with pytest.raises(CudaError):
        round_trip(client, 2)
    client.close()
    assert recorder.stop() == 0


def test_a_second_recorder_of_the_same_robot_ends_with_the_reason(rig):
    rig.recorder()
    second = rig.recorder(wait=False)
    assert second.wait(PATIENCE_S) == 2
    assert "another recorder_replayer listens" in second.text()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"partition_algorithm": "guess"}, "partition_algorithm 'guess' is none of min_cut, mcop"),
        ({"power_profile": "toaster"}, "power profile 'toaster': want one of jetson_xavier_nx"),
        ({"search": "luck"}, "search 'luck' is none of operator_sequence, data_dependency"),
        ({"min_length": 9, "max_length": 8}, "min_length 9 is above max_length 8"),
        ({"mode": "fast"}, "mode 'fast' is none of rpc"),
        ({"device": "tpu"}, "device 'tpu' is none of"),
        ({"ring_mib": 3}, "ring_mib 3 is not a power of two"),
        ({"linger_us": -1}, "linger_us -1 cannot be used, want a whole number, 0 or more"),
        ({"linger_us": "many"}, "linger_us 'many' cannot be used, want a whole number"),
        ({"robot": "9lives"}, "robot name '9lives'"),
    ],
)
def test_a_parameter_that_cannot_be_used_ends_the_start_with_the_reason(rig, parameters, text):
    options = {"mode": "batched", "robot": "robot", "autostart": True, **parameters}
    process = rig._node("recorder_replayer", "robot", options, "robot")
    assert process.wait(PATIENCE_S) == 2
    assert text in process.text()


def test_parameters_are_described_bounded_and_changed_only_where_that_is_safe(rig, manager):
    rig.server("null")
    rig.recorder(mode="batched")
    client = program(rig)
    assert "is none of" in manager.set("mode", string_value="warp")
    assert client.mode == 1
    assert manager.set("mode", string_value="replay") == ""
    assert client.mode == 2
    assert manager.set("min_repetitions", integer_value=1)
    assert manager.set("min_repetitions", integer_value=3) == ""
    assert manager.set("max_length", integer_value=100) == ""
    assert "above max_length" in manager.set("min_length", integer_value=101)
    assert manager.set("mode", string_value="rpc") == ""
    assert client.mode == 0
    assert round_trip(client, 1).status == 0
    assert "read-only" in manager.set("robot", string_value="other")
    assert manager.set("linger_us", integer_value=10**9)
    assert manager.set("linger_us", integer_value=200) == ""
    assert manager.set("server_timeout_s", double_value=0.0)
    described = manager.describe("linger_us")
    assert "microseconds" in described.description
    assert described.integer_range[0].to_value == 100_000
    constraints = manager.describe("search").additional_constraints
    assert constraints == "operator_sequence, data_dependency"
    assert manager.describe("robot").read_only
    client.close()


def test_an_answer_that_is_lost_is_asked_for_again(rig, monkeypatch):
    sent = []
    send = Service.send_response

    def lossy(service, response, header):
        sent.append(service.srv_name)
        if len(sent) > 1:
            send(service, response, header)

    monkeypatch.setattr(Service, "send_response", lossy)
    context = own_context(rig.domain)
    node = Node(
        "recorder_replayer",
        context=context,
        namespace=f"/{rig.robot}",
        use_global_arguments=False,
        enable_rosout=False,
    )
    node.declare_parameter("mode", "replay")
    spin = SpinThread(node)
    try:
        with RobotClient(rig.robot, rig.domain) as client:
            assert client.get_parameter("mode", timeout_s=PATIENCE_S) == "replay"
            assert len(sent) >= 2
            assert client.set_parameter("mode", "rpc", timeout_s=PATIENCE_S) == ""
            assert client.get_parameter("mode", timeout_s=PATIENCE_S) == "rpc"
    finally:
        spin.close()
        leave(context, node)


def test_no_server_is_told_to_the_program_within_the_stated_time(rig):
    rig.recorder(connect_timeout_s=1.0)
    started = time.monotonic()
    with pytest.raises(CudaError, match=r"SYSTEM_NOT_READY.*no offload server answered.*1 s"):
        program(rig)
    assert time.monotonic() - started < 4.0


def test_status_and_reports_follow_a_session_from_start_to_end(rig):
    server = rig.server("null")
    rig.recorder()
    with RobotClient(rig.robot, rig.domain) as watcher:
        watcher.wait_ready(PATIENCE_S)
        client = program(rig, label="my run")
        client.put(pack_call("mem_alloc", 1, address=client.info.arena_base, size=256, stream=0))
        assert round_trip(client, 2).status == 0
        client.count(1, 7)
        client.count(4, 1)

        def shown():
            status = watcher.status("recorder_replayer")
            return bool(status["sessions"]) and status["sessions"][0]["round_trips"] == 1

        assert watcher.wait(shown, PATIENCE_S)
        session = watcher.status("recorder_replayer")["sessions"][0]
        assert (session["label"], session["pid"], session["device"]) == ("my run", 77, "null")
        assert session["calls_async"] == 7
        assert session["messages_sent"] >= 1
        assert session["bytes_sent"] > 0
        assert session["phase"] == "recording"
        assert session["median_wait_ms"] > 0
        client.close()
        assert watcher.wait(lambda: bool(watcher.reports("my run")), PATIENCE_S)
        server.stop()

        def lost():
            return watcher.status("recorder_replayer")["server_state"] == "lost"

        assert watcher.wait(lost, PATIENCE_S)
    with RobotClient(rig.robot, rig.domain) as late:
        assert late.wait(lambda: bool(late.reports("my run")), PATIENCE_S)
        report = late.reports("my run")[0]
        assert (report["phase"], report["error"]) == ("closed", "")


def test_a_signal_ends_the_recorder_cleanly_and_programs_and_server_are_told(rig):
    server = rig.server("null")
    recorder = rig.recorder()
    client = program(rig)
    assert round_trip(client, 1).status == 0
    seen = len(server.lines)
    assert recorder.stop() == 0
    with pytest.raises(CudaError, match="DEVICE_UNAVAILABLE"):
        round_trip(client, 2)
    client.close()
    server.wait_for(r"closed: recorder_replayer shuts down", 5.0, after=seen)


def test_a_killed_server_is_noticed_within_the_stated_time(rig):
    server = rig.server("null")
    rig.recorder(server_timeout_s=1.0, resume="off")
    client = program(rig)
    assert round_trip(client, 1).status == 0
    server.kill()
    started = time.monotonic()
    with pytest.raises(CudaError) as caught:
        round_trip(client, 2)
    assert caught.value.result == CUresult.DEVICE_UNAVAILABLE
    assert time.monotonic() - started < 4.0
    client.close()
