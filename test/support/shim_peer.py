"""A recorder and a device in one thread of the test: answers a program that loads the shim."""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from support.shim_under_test import python, shim_environment

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.robot.replay.shim_plans import ShimPlans
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.ring import SLEEPING, RingConsumer, RingMemory, drain_eventfd
from rrto_ros.robot.ring_socket import RingListener, read_hello, send_welcome
from rrto_ros.wire.codec import iter_calls, iter_headers
from rrto_ros.wire.descriptions import Welcome, pack_device_info
from rrto_ros.wire.literal import literal_records
from rrto_ros.wire.plan import pack_define
from rrto_ros.wire.result_codec import iter_results, pack_result

RPC, BATCHED, REPLAY = 0, 1, 2
CASES = Path(__file__).resolve().parent / "programs" / "shim_cases.py"

ARENA_BASE = 0x1200_0000_0000
"""Nobody else's in this process: the addresses of two runs are compared."""
ARENA_STEP = 1 << 40
"""Between sessions that are open at the same time, whichever peer has them."""
_places = set()
_placing = threading.Lock()


class Peer:
    """Serves every program that connects, one session each, until closed.

    Args:
        mode: RPC or BATCHED.
        call_bytes: Size of the call ring.
        reply_bytes: Size of the reply ring.
        wait_timeout_ms: How long the shim waits without a sign of life.
        memory_bytes: Device memory of a session.
        welcome: Answer this instead of opening a session.
        on_call: Told of each decoded call; returns result bytes to send instead of executing it,
            b"" to say nothing, or None to execute it.
        plans: Number -> plan that the shim is told of before the program's first call.
        apart: Whether each thread is matched on its own.
        device: Makes the device of a session, as CpuDevice does.
        cuda_runtime: Whether the CUDA runtime library's validity check is answered.
    """

    def __init__(
        self,
        *,
        mode=BATCHED,
        call_bytes=1 << 22,
        reply_bytes=1 << 22,
        wait_timeout_ms=20000,
        memory_bytes=1 << 28,
        welcome=None,
        on_call=None,
        plans=None,
        apart=False,
        device=CpuDevice,
        cuda_runtime=False,
    ):
        self.folder = Path(tempfile.mkdtemp(prefix="rrto-shim-"))
        self.path = self.folder / "s.sock"
        self.records = []
        self.calls = []
        self.references = []
        self.taken = []
        self.rings = []
        self.writers = []
        self.shim_plans = ShimPlans()
        self._plans = dict(plans or {})
        self._entries = {}
        self._executing = threading.RLock()
        self._apart = apart
        self._device = device
        self.hello = None
        self.stderr = ""
        self.closed_sessions = threading.Semaphore(0)
        self._settings = {"mode": mode, "call_bytes": call_bytes, "reply_bytes": reply_bytes,
                          "wait_timeout_ms": wait_timeout_ms,
                          "cuda_runtime": cuda_runtime}  # fmt: skip
        self._memory_bytes = memory_bytes
        self._welcome = welcome
        self._on_call = on_call
        self._listener = RingListener(self.path)
        self._connections = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def names(self):
        """Names of the operations so far, in order."""
        return [record["op"] for record in self.records]

    def environment(self, **extra):
        """Of a program that shall find this peer."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RRTO_", "CUDA_"))}
        return {
            **env,
            **shim_environment(),
            "RRTO_SOCKET": str(self.path),
            "RRTO_CONNECT_TIMEOUT_MS": "20000",
            **extra,
        }

    def start(self, arguments, **extra):
        """Start a program against this peer."""
        return subprocess.Popen(
            arguments, env=self.environment(**extra), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip

    def case(self, name, *arguments, program=CASES, **extra):
        """Run a case of programs/shim_cases.py or of another program; gives its JSON, or None.

        Raises:
            AssertionError: It failed; the message holds what it wrote.
        """
        done = subprocess.run(
            [*python(), str(program), name, *map(str, arguments)],
            env=self.environment(**extra), capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name} exited with {done.returncode}:\n{done.stderr}"
        self.stderr = done.stderr
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def tell(self, plans):
        """Tell the (only) shim of plans, and what executes its calls."""
        for number, plan in plans.items():
            if not self.shim_plans.holds(number):
                self.define(number, plan)
        wanted = {}
        for number, plan in plans.items():
            entry = self._entries.get(number)
            if entry is None or entry.plan is not plan:
                entry = PlanEntry(number, plan)
            wanted[number] = self._entries[number] = entry
        self.writers[-1].write(self.shim_plans.tell(wanted, apart=self._apart))

    def define(self, number, plan):
        """Tell what executes the calls of a plan."""
        with self._executing:
            self.executor.execute(pack_define(number, plan), lambda _: None)

    def hang_up(self):
        """Close every connection, as a killed recorder does."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End the sessions and remove the socket."""
        self._listener.stop()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        for ring in self.rings:
            ring.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _accept(self):
        while (connection := self._listener.accept()) is not None:
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        self.hello = read_hello(connection)
        if self._welcome is not None:
            send_welcome(connection, self._welcome)
            connection.close()
            return
        with _placing:
            place = next(n for n in range(64) if n not in _places)
            _places.add(place)
        device = self._device(
            limit_bytes=self._memory_bytes, arena_base=ARENA_BASE + place * ARENA_STEP
        )
        ring = RingMemory(**self._settings)
        writer = ReplyWriter(ring)
        self.rings.append(ring)
        self.writers.append(writer)
        executor = Executor(device)
        self.executor = executor
        if self._plans:
            self.tell(self._plans)
        info = pack_device_info(device.info, bytes(16))
        send_welcome(
            connection, Welcome(0, "", info), (ring.memory_fd, ring.call_fd, ring.reply_fd)
        )
        try:
            self._loop(connection, ring, writer, executor)
        finally:
            device.close()
            _places.discard(place)
            connection.close()
            self.closed_sessions.release()

    def _loop(self, connection, ring, writer, executor):
        consumer = RingConsumer(ring)
        # Not select(), which takes no descriptor above 1,023.
        poll = select.poll()
        poll.register(ring.call_fd, select.POLLIN)
        poll.register(connection, select.POLLIN)
        while True:
            data = consumer.take()
            if not data:
                consumer.announce(SLEEPING)
                data = consumer.take()
            if not data:
                readable = {fd for fd, _ in poll.poll()}
                if connection.fileno() in readable and not (data := consumer.take()):
                    return
                if not data:
                    drain_eventfd(ring.call_fd)
                    consumer.awake()
                    writer.flush()
                    continue
            ring.beat()
            for item in iter_calls(data):
                record = data[item.offset : item.offset + item.size]
                view = memoryview(record)
                header = next(iter_headers(view))
                if item.op.name == "results_wanted":
                    continue
                if item.op.name == "plan_taken":
                    self.taken.append(tuple(item.values))
                    self.shim_plans.taken(view, header)
                    continue
                whole = record
                if item.op.name == "plan_ref":
                    self.references.append(self.shim_plans.reference(view, header))
                    whole = b"".join(literal_records(record, self.shim_plans.plans))
                answers = [self._call(call, whole) for call in iter_calls(whole)]
                if any(answer is not None for answer in answers):
                    assert all(answer is not None for answer in answers), "on_call answers all"
                    writer.write([answer for answer in answers if answer])
                    continue
                with self._executing:
                    answer = executor.execute(record, lambda out: writer.write(results_in(out)))
                writer.write(results_in(answer))

    def _call(self, call, data):
        fields = {
            name: bytes(v) if isinstance(v, memoryview) else v for name, v in call.fields().items()
        }
        size = len(call.payload) if call.payload is not None else 0
        self.calls.append(data[call.offset : call.offset + call.size])
        self.records.append(
            {"op": call.op.name, "record_flags": call.flags, "index": call.index,
             "thread": call.thread, "payload_bytes": size, **fields}
        )  # fmt: skip
        return self._on_call(call) if self._on_call else None


def results_in(data):
    """The result records in a buffer, one by one."""
    at = 0
    for result in iter_results(data):
        yield data[at : at + result.size]
        at += result.size


def refuse(call, status, text=b"", flags=0):
    """A result record that answers `call` with an error."""
    return pack_result(call.index, status, text, flags)
