"""A real offload_server over DDS, driven by a robot's end of the link without a program."""

import signal
import struct
import threading
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from support.robot_end import RobotEnd  # noqa: E402

from rrto_msgs.msg import SessionEvent, Status  # noqa: E402
from rrto_ros.api.results import CUresult  # noqa: E402
from rrto_ros.errors import UnavailableError  # noqa: E402
from rrto_ros.ros.context import own_context, quiet_node  # noqa: E402
from rrto_ros.ros.participant import SpinThread, announcement_qos  # noqa: E402
from rrto_ros.ros.robot_port import RosRobotPort  # noqa: E402
from rrto_ros.wire.codec import pack_call  # noqa: E402
from rrto_ros.wire.descriptions import unpack_module_info  # noqa: E402
from rrto_ros.wire.format import FLAG_REPLY  # noqa: E402
from rrto_ros.wire.port import CallsMessage, OpenRequest, topic  # noqa: E402

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry add_one(.param .u64 pointer, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .b64 %d<4>;
    ld.param.u64 %d0, [pointer];
    ld.param.u32 %r0, [count];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    setp.ge.u32 %p, %r4, %r0;
    @%p bra done;
    cvta.to.global.u64 %d1, %d0;
    mul.wide.u32 %d2, %r4, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r5, [%d3];
    add.s32 %r5, %r5, 1;
    st.global.u32 [%d3], %r5;
done:
    ret;
}
"""


class Robot:
    """The robot's side in this process: a port, and what the topics say."""

    def __init__(self, domain, robot):
        self.robot = robot
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.ends = []
        self.port = RosRobotPort(
            domain, robot, lambda m: [end.receive(m) for end in self.ends], "test_robot"
        )
        self.node = Node("listener", context=self.context)
        self.statuses, self.events, self.diagnostics = [], [], []
        self.node.create_subscription(Status, topic(robot, "status"), self.statuses.append, 10)
        # Announcements of sessions come with the calls, by the transports of data.
        self.announcements = quiet_node("announcements", own_context(domain))
        self.announcements.create_subscription(
            SessionEvent, topic(robot, "sessions"), self.events.append, announcement_qos()
        )
        self.spin = SpinThread(self.announcements)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def open(self, name=b"s", **changes):
        session = name * 16
        answer = self.port.open_session(
            OpenRequest(session, self.robot, "test", "", 7, **changes), 20.0
        )
        end = RobotEnd(session, self.port.publish_calls)
        self.ends.append(end)
        return answer, end

    def wait(self, accepts, what, timeout_s=20.0):
        end = time.monotonic() + timeout_s
        while not (found := accepts()):
            assert time.monotonic() < end, f"no {what} within {timeout_s} s"
            self.executor.spin_once(timeout_sec=0.1)
        return found

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.spin.close()
        self.announcements.destroy_node()
        self.announcements.context.try_shutdown()
        self.port.close()
        self.context.shutdown()


@pytest.fixture
def robot(rig):
    made = Robot(rig.domain, rig.robot)
    yield made
    made.close()


def alloc(index, address, size, flags=0):
    return pack_call("mem_alloc", index, record_flags=flags, address=address, size=size, stream=0)


def write(index, address, data):
    return pack_call("memcpy_htod", index, dst=address, stream=0, payload=data)


def read(index, address, size):
    return pack_call("memcpy_dtoh", index, src=address, size=size, stream=0)


def launch(index, address, count):
    return pack_call(
        "launch", index, module=1, kernel=0, flags=0, grid_x=2, grid_y=1, grid_z=1, block_x=64,
        block_y=1, block_z=1, shared_bytes=0, stream=0, params=struct.pack("<QI", address, count),
    )  # fmt: skip


def test_the_cpu_device_computes_for_two_sessions_at_once(rig, robot):
    rig.server("cpu", authentication="off", limit_bytes=64 << 20)
    opened = [robot.open(b"a"), robot.open(b"b")]
    for number, (answer, end) in enumerate(opened):
        assert answer.accepted, answer.reason
        assert answer.info.kind == "cpu"
        base = answer.info.arena_base
        values = struct.pack("<100I", *range(number * 1000, number * 1000 + 100))
        end.push(pack_call("module_load", 1, module=1, payload=PTX))
        end.push(alloc(2, base, 400) + write(3, base, values) + launch(4, base, 100))
    for number, (answer, end) in enumerate(opened):
        assert unpack_module_info(end.answer(1, 60)[3]).kernels[0].name == "add_one"
        end.push(read(5, answer.info.arena_base, 400))
        expected = struct.pack("<100I", *range(number * 1000 + 1, number * 1000 + 101))
        assert end.answer(5, 60)[3] == expected


def test_a_wild_kernel_is_an_illegal_address_for_its_session_only(rig, robot):
    rig.server("cpu", authentication="off", limit_bytes=64 << 20)
    (answer, first), (_, second) = robot.open(b"a"), robot.open(b"b")
    base = answer.info.arena_base
    first.push(pack_call("module_load", 1, module=1, payload=PTX) + launch(2, base + 4096, 64))
    first.push(pack_call("ctx_synchronize", 3, context=0))
    assert first.answer(3, 60)[1] == CUresult.ILLEGAL_ADDRESS
    assert b"launch #2 of kernel 'add_one'" in first.answer(2)[3]
    second.push(alloc(1, base, 8) + write(2, base, b"87654321") + read(3, base, 8))
    assert second.answer(3)[3] == b"87654321"
    robot.wait(
        lambda: any("failed" in s.message for m in robot.diagnostics for s in m.status),
        "diagnostics of the failed session",
    )


def test_large_copies_cross_in_pieces(rig, robot):
    rig.server("cpu", authentication="off", limit_bytes=64 << 20)
    answer, end = robot.open()
    base, size = answer.info.arena_base, 20_000_000
    data = bytes(range(256)) * (size // 256)
    end.push(alloc(1, base, len(data)) + write(2, base, data) + read(3, base, len(data)))
    assert end.answer(3, 60)[3] == data


def test_a_silent_recorder_loses_its_session_within_the_stated_time(rig, robot):
    rig.server("null", authentication="off", session_timeout_s=1.0)
    answer, end = robot.open()
    end.push(alloc(1, answer.info.arena_base, 8, FLAG_REPLY))
    end.answer(1)
    silent = time.monotonic()
    closed = robot.wait(
        lambda: [e for e in robot.events if e.event == SessionEvent.CLOSED], "closing", 5.0
    )
    assert time.monotonic() - silent < 4.0
    assert "nothing was heard" in closed[0].reason
    end.wait(lambda e: e.closed, what="word that the session is closed")


def test_messages_for_a_session_that_is_not_open_are_refused_and_answered(rig, robot):
    rig.server("null", authentication="off")
    assert robot.open(b"a")[0].accepted
    stranger = RobotEnd(b"z" * 16, robot.port.publish_calls)
    robot.ends.append(stranger)
    robot.port.publish_calls(CallsMessage(b"z" * 16, 1, 0, 0, bytes(64)))
    stranger.wait(lambda e: e.closed, what="CLOSED")
    status = robot.wait(
        lambda: [s for s in robot.statuses if s.messages_refused], "a status with a refusal"
    )
    assert "not open here" in status[-1].last_refusal
    assert status[-1].kind == "offload_server"


def test_another_table_or_version_is_refused_with_the_reason(rig, robot):
    rig.server("null", authentication="off")
    answer, _ = robot.open(table_hash=b"?" * 32)
    assert not answer.accepted
    assert "table of operations" in answer.reason
    answer, _ = robot.open(protocol_version=77)
    assert not answer.accepted
    assert "protocol version 77" in answer.reason


def test_opening_a_session_does_not_stop_another(rig, robot):
    """While sessions open, each starting a process, small calls of another go on."""
    rig.server("cpu", authentication="off", spare_workers=0, max_sessions=8)
    answer, end = robot.open(b"a")
    assert answer.accepted
    opened = threading.Event()

    def open_others():
        for name in (b"b", b"c"):
            robot.open(name)
        opened.set()

    thread = threading.Thread(target=open_others)
    thread.start()
    slowest, index = 0.0, 0
    while not opened.is_set():
        index += 1
        started = time.monotonic()
        end.push(pack_call("ctx_synchronize", index, context=0))
        end.answer(index)
        slowest = max(slowest, time.monotonic() - started)
    thread.join()
    assert index > 20
    assert slowest < 0.5


def test_a_stopped_server_tells_its_sessions_and_leaves_no_process(rig, robot):
    server = rig.server("null", authentication="off")
    answer, end = robot.open()
    assert answer.accepted
    server.signal(signal.SIGTERM)
    assert server.wait(20) == 0
    end.wait(lambda e: e.closed, what="CLOSED")
    closed = robot.wait(
        lambda: [e for e in robot.events if e.event == SessionEvent.CLOSED], "announcement"
    )
    assert "shuts down" in closed[0].reason
    with pytest.raises(UnavailableError):
        robot.port.open_session(OpenRequest(b"n" * 16, rig.robot, "test", "", 7), 1.0)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"device": "toaster"}, "none of auto, cpu, gpu, null"),
        ({"max_sessions": 0}, "max_sessions 0 cannot be used, want a whole number, 1 or more"),
        ({"compute_capability": "nine"}, "compute_capability 'nine' cannot be used, want a capa"),
        ({"blob_directory": "/proc/none"}, "blob directory"),
    ],
)
def test_a_server_that_cannot_be_configured_ends_with_the_reason(rig, parameters, words):
    server = rig.server(wait=False, **{"device": "null", **parameters})
    assert server.wait(40) == 2
    assert words in server.text()
