"""A recorder and a device in one thread of the test: answers a program that loads the shim."""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from rrto_ros.api.codec import Welcome, iter_calls, pack_device_info, pack_result
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.replay.executor import Executor
from rrto_ros.shim.build import ensure_built
from rrto_ros.transport.ring import SLEEPING, ReplyWriter, RingConsumer, RingMemory, drain_eventfd
from rrto_ros.transport.ring_socket import RingListener, read_hello, send_welcome

BATCHED = 1
RPC = 0
CASES = Path(__file__).resolve().parent / "programs" / "shim_cases.py"


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
    """

    def __init__(
        self,
        *,
        mode=BATCHED,
        call_bytes=1 << 22,
        reply_bytes=1 << 22,
        wait_timeout_ms=5000,
        memory_bytes=1 << 28,
        welcome=None,
        on_call=None,
    ):
        self.folder = Path(tempfile.mkdtemp(prefix="rrto-shim-"))
        self.path = self.folder / "s.sock"
        self.records = []
        self.rings = []
        self.hello = None
        self.stderr = ""
        self.closed_sessions = threading.Semaphore(0)
        self._settings = {"mode": mode, "call_bytes": call_bytes, "reply_bytes": reply_bytes,
                          "wait_timeout_ms": wait_timeout_ms}  # fmt: skip
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
        env = {k: v for k, v in os.environ.items() if not k.startswith("RRTO_")}
        return {
            **env,
            "LD_LIBRARY_PATH": str(ensure_built()),
            "RRTO_SOCKET": str(self.path),
            "RRTO_CONNECT_TIMEOUT_MS": "5000",
            **extra,
        }

    def start(self, arguments, **extra):
        """Start a program against this peer."""
        return subprocess.Popen(
            arguments, env=self.environment(**extra), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip

    def case(self, name, *arguments, **extra):
        """Run one of programs/shim_cases.py; gives what it printed as JSON, or None.

        Raises:
            AssertionError: It failed; the message holds what it wrote.
        """
        done = subprocess.run(
            [sys.executable, str(CASES), name, *map(str, arguments)],
            env=self.environment(**extra), capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name} exited with {done.returncode}:\n{done.stderr}"
        self.stderr = done.stderr
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

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
        device = CpuDevice(limit_bytes=self._memory_bytes)
        ring = RingMemory(**self._settings)
        self.rings.append(ring)
        info = pack_device_info(device.info, bytes(16))
        send_welcome(
            connection, Welcome(0, "", info), (ring.memory_fd, ring.call_fd, ring.reply_fd)
        )
        try:
            self._loop(connection, ring, Executor(device))
        finally:
            device.close()
            connection.close()
            self.closed_sessions.release()

    def _loop(self, connection, ring, executor):
        consumer, writer = RingConsumer(ring), ReplyWriter(ring)
        while True:
            data = consumer.take()
            if not data:
                consumer.announce(SLEEPING)
                data = consumer.take()
            if not data:
                readable, _, _ = select.select([ring.call_fd, connection], [], [])
                if connection in readable:
                    return
                drain_eventfd(ring.call_fd)
                consumer.awake()
                writer.flush()
                continue
            ring.beat()
            for call in iter_calls(data):
                fields = {
                    name: bytes(v) if isinstance(v, memoryview) else v
                    for name, v in call.fields().items()
                }
                size = len(call.payload) if call.payload is not None else 0
                self.records.append(
                    {"op": call.op.name, "record_flags": call.flags, "index": call.index,
                     "thread": call.thread, "payload_bytes": size, **fields}
                )  # fmt: skip
                answer = self._on_call(call) if self._on_call else None
                if answer is None:
                    record = data[call.offset : call.offset + call.size]
                    answer = executor.execute(record, lambda out: writer.write([out]))
                if answer:
                    writer.write([answer])


def refuse(call, status, text=b"", flags=0):
    """A result record that answers `call` with an error."""
    return pack_result(call.index, status, text, flags)
