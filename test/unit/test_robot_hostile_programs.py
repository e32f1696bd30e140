"""Programs that write anything: HELLO, the rings, names. Each loses its own session at most.

RRTO_WIRE_FUZZ and RRTO_FUZZ_SEED as in `test_wire_fuzz.py`.
"""

import contextlib
import os
import queue
import random
import socket
import struct
import threading
from pathlib import Path

import pytest
from support.echo_server import EchoServer
from support.message_fuzz import content
from support.ring_client import RingClient

from rrto_ros.api import ring_layout as layout
from rrto_ros.api.ops import OPS
from rrto_ros.errors import ConfigError, CudaError, ProtocolError, UnavailableError
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.plan_store import PlanStore, StartUp, program_names
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.runtime_files import server_lock, socket_path
from rrto_ros.wire.codec import OP_BY_NAME, pack_call
from rrto_ros.wire.descriptions import HELLO, Hello, pack_hello
from rrto_ros.wire.format import HEADER_BYTES
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.port import topic
from rrto_ros.wire.reference import pack_reference
from rrto_ros.wire.templates import CallTemplate

COUNT = int(os.environ.get("RRTO_WIRE_FUZZ", "6000"))
SEED = int(os.environ.get("RRTO_FUZZ_SEED", "1"))


class Patient(EchoServer):
    """A server that refuses what it cannot read, as a worker does, and goes on."""

    def receive(self, message):
        with contextlib.suppress(ProtocolError, KeyError):
            super().receive(message)


@pytest.fixture
def world(sockets):
    made = []

    def make(**changes):
        reports = queue.SimpleQueue()
        config = SessionConfig(
            server_timeout_s=1.0, call_ring_bytes=1 << 18, reply_ring_bytes=1 << 18, **changes
        )
        host = RobotHost(sockets / "r" / "s", config, 8, reports.put, lambda _: None)
        server = Patient(host.on_results)
        host.activate(server)
        made.append((host, server))
        return host, reports

    yield make
    for host, server in made:
        host.close()
        server.stop()


def sync(index):
    return pack_call("ctx_synchronize", index, record_flags=1, context=1)


def computes(host):
    """Whether a program that does nothing wrong is served."""
    with RingClient(host.path) as client:
        client.put(sync(1))
        return client.wait(1, 20).status == 0


def hellos(rng):
    """What programs say first, right but for something."""
    good = pack_hello(Hello(7, "program", "label"))
    while True:
        kind = rng.randrange(5)
        if kind == 0:
            yield content(rng, good)
        elif kind == 1:
            # Lengths beyond what follows, and beyond what is allowed.
            yield good[: HELLO.size - 4] + struct.pack("<HH", 65535, rng.randrange(65536))
        elif kind == 2:
            yield good[: rng.randrange(len(good))]
        elif kind == 3:
            yield pack_hello(Hello(2**32 - 1, "\x1b[2J\n../../" * 20, "\0" * 30)) + rng.randbytes(
                9
            )
        else:
            yield rng.randbytes(rng.randrange(1, 20_000))


def test_whatever_a_program_says_first_the_next_one_is_served(world):
    host, _ = world()
    rng = random.Random(SEED)
    for _, hello in zip(range(COUNT // 40), hellos(rng), strict=False):
        with socket.socket(socket.AF_UNIX) as program:
            program.connect(str(host.path))
            # The recorder may have hung up after the first words.
            with contextlib.suppress(OSError):
                program.sendall(hello)
                program.shutdown(socket.SHUT_WR)
                program.settimeout(20)
                while program.recv(65536):
                    pass
    assert computes(host)
    assert host.statistics()["refused"] > COUNT // 100


def rows(rng, index):
    """Records as a shim writes them, of every operation; references to plans, too."""
    kind = rng.randrange(4)
    if kind == 0:
        return pack_call("memcpy_htod", index, dst=1 << 40, stream=0, payload=rng.randbytes(200))
    if kind == 1:
        return sync(index)
    if kind == 2:
        return pack_reference(rng.randrange(4), rng.randrange(3), rng.randrange(1, 9), index, 1,
                              [], [rng.getrandbits(64)], b"")  # fmt: skip
    op = rng.choice(OPS).code
    body = rng.randbytes(8 * rng.randrange(8))
    flags = rng.choice((0, 1, 2, 3, 4, 8, 16, 0xFFFF))
    size, payload = HEADER_BYTES + len(body), rng.choice((0, 1, 8, len(body), 1 << 31))
    return struct.pack("<IHHQII", size, op, flags, index, rng.randrange(3), payload) + body


@pytest.mark.timeout(120 + COUNT // 20)
@pytest.mark.parametrize("mode", ["rpc", "batched", "replay"])
def test_whatever_is_in_a_programs_rings_it_loses_its_own_session_only(world, mode):
    host, reports = world(mode=mode, replay=ReplayOptions())
    rng = random.Random(f"{SEED} {mode}")
    good = RingClient(host.path)
    written, lost, checked, stuck = 0, 0, 0, 0
    while written < COUNT // 6:
        bad = RingClient(host.path)
        index = 1
        try:
            for _ in range(rng.choice((5, 50))):
                record = rows(rng, index)
                if rng.random() < 0.3:
                    record = content(rng, record)
                record = record[: 8 * (len(record) // 8)] or bytes(8)
                bad.put(record, 5.0)
                index += rng.choice((1, 1, 1, 1, 0, 9))
                written += 1
            if rng.random() < 0.2:
                place = rng.choice((layout.CALL_HEAD, layout.REPLY_TAIL, layout.REPLY_WAITING))
                bad.atomics.store_u64(
                    bad.address + place, rng.getrandbits(rng.choice((3, 20, 64)))
                )
        except CudaError as error:
            stuck += "room" in str(error)
        bad.close()
        assert not stuck, "the recorder left a program waiting"
        report = reports.get(timeout=20)
        assert not report.error.startswith("recorder_replayer failed"), report.error
        lost += bool(report.error)
        if written // 200 > checked:
            checked = written // 200
            good.put(sync(checked))
            assert good.wait(checked, 20).status == 0
    assert lost, "nothing of it was ever noticed"
    good.close()
    assert computes(host)
    assert not [t for t in threading.enumerate() if "ring-session" in t.name and not t.daemon]


NAMES = ("..", "../up", "a/../../b", "/abs", "a/", "a//b", "a b", "a\nb", "a\0b", "\x1b[2J", "ü",
         "a" * 61, "~", "$(id)", "a;b", "-a", "1a", "")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_robot_name_that_leads_elsewhere_is_refused_and_names_no_other_file(monkeypatch, name):
    monkeypatch.delenv("RRTO_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/x")
    with pytest.raises(ConfigError, match="robot name"):
        topic(name, "status")
    for path in (socket_path(name, 0), server_lock(name, 0, "edge")):
        assert path.parent == Path(f"/run/x/rrto-{os.getuid()}")
        assert "/" not in path.name


@pytest.mark.parametrize("name", ["../" * 40 + "etc/passwd", "a\0b", "\udcff", "\n" * 100, ""])
def test_a_programs_name_is_no_path_of_what_is_kept_of_it(tmp_path, name):
    for found in program_names(name, 1 << 40):
        assert set(found) <= set("0123456789abcdef")
        assert len(found) == 64


def test_plans_that_somebody_put_into_the_cache_change_no_result(world, tmp_path):
    """The right seal and digest, the wrong program: a plan is followed where the calls are."""
    host, _ = world(
        mode="replay", replay=ReplayOptions(), plan_cache_bytes=1 << 20,
        plan_cache_directory=tmp_path,
    )  # fmt: skip
    dtoh = OP_BY_NAME["memcpy_dtoh"].code
    htod = OP_BY_NAME["memcpy_htod"].code
    body = struct.pack("<QQQ", 1 << 40, 8, 0)
    plans = [
        Plan(
            (CallTemplate(dtoh, 0, body),) * length + (CallTemplate(htod, 64, body[:16]),) * other
        )
        for length, other in ((1, 0), (3, 0), (1, 1), (40, 3))
    ]
    store = PlanStore(tmp_path, 1 << 20)
    client = RingClient(host.path, Hello(7, "program", "label"))
    store.keep(
        program_names("program", client.info.arena_base), plans, apart=False,
        start=StartUp(plans[3], 9),
    )  # fmt: skip
    client.close()
    client = RingClient(host.path, Hello(7, "program", "label"))
    server = host._port
    server.answer = lambda call: struct.pack("<Q", call.index)
    index = 0
    for _ in range(30):
        for record in (
            lambda i: pack_call("memcpy_htod", i, dst=1 << 40, stream=0, payload=b"x" * 64),
            lambda i: pack_call("memcpy_dtoh", i, record_flags=3, src=1 << 40, size=8, stream=0),
        ):
            index += 1
            client.put(record(index))
        assert bytes(client.wait(index, 20).payload) == struct.pack("<Q", index)
    assert host.sessions[0].statistics()["replay_plans_recalled"] == len(plans)
    executed = [(name, number) for name, number, _ in server.calls if number]
    assert executed == [
        (("memcpy_dtoh", "memcpy_htod")[number % 2], number) for number in range(1, index + 1)
    ]
    client.close()


def test_a_recorder_that_is_full_says_so_to_those_that_come(sockets):
    host = RobotHost(sockets / "r" / "s", SessionConfig(), 4, lambda _: None, lambda _: None)
    try:
        with pytest.raises((CudaError, UnavailableError), match="not active"):
            RingClient(host.path)
    finally:
        host.close()
