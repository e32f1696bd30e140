"""An offload server in this process that executes what it gets, and keeps the calls it means."""

import os
import time
from contextlib import contextmanager
from dataclasses import replace

from support.echo_server import EchoServer

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.host import RobotHost
from rrto_ros.shim.build import ensure_built
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.port import FLAG_MORE, FLAG_PACKED, OpenAnswer


class DeviceServer(EchoServer):
    """One session on a CPU device.

    Args:
        on_results: Where results go.
        round_trip_s: How long each message is under way in addition.
        cache_dir: Of compiled kernels, None for the user's.
        **options: Of `EchoServer`.
    """

    def __init__(self, on_results, round_trip_s=0.0, *, cache_dir=None, **options):
        self.round_trip_s = round_trip_s
        # A base of its own: the addresses of two runs are compared.
        base = 0x1300_0000_0000
        self.device = CpuDevice(limit_bytes=1 << 28, arena_base=base, cache_dir=cache_dir)
        self.executor = Executor(self.device, interrupted=lambda: not self.inbox.empty())
        self.reader = LiteralReader()
        self.records = []
        self.batches = []
        super().__init__(on_results, **options)

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        answer = super().open_session(request, timeout_s)
        info = self.device.info
        return OpenAnswer(True, "", info, answer.max_message_bytes, answer.known_blobs)

    def receive(self, message):
        more = bool(message.flags & FLAG_MORE)
        receiver, sender = self.links[message.session]
        if not len(message.data):
            super().receive(message)
            return
        time.sleep(self.round_trip_s)
        now = time.monotonic()
        sender.acknowledged(message.results_ack, (), now)
        data = message.data
        if message.flags & FLAG_PACKED:
            data = unpacked(data, self.max_message_bytes)
        for batch in receiver.receive(message.sequence, more, data, now):
            batch = bytes(batch)
            self.batches.append([h.op for h in iter_headers(batch)])
            for record in self.reader.read(batch):
                self.records.append(bytes(record))
            self.push(self.executor.execute(batch, self.push_to(sender)), sender)
        executed = self.executor.executed_call
        self.calls = [("", executed, b"")] if executed else []

    def push_to(self, sender):
        def flush(data):
            self.push(data, sender)
            self.speak(time.monotonic())

        return flush

    def push(self, data, sender):
        if len(data):
            sender.push(bytes(data))

    def stop(self):
        super().stop()
        self.device.close()


@contextmanager
def robot_and_server(folder, config, round_trip_s=0.0, *, cache_dir=None,
                     on_report=lambda _: None, on_line=lambda _: None):  # fmt: skip
    """A recorder and a `DeviceServer` in this process, for programs that are started meanwhile.

    Gives both, and the environment of such a program. The server is silent while it executes,
    which is no loss of it however long a kernel takes to compile on a busy machine.
    """
    config = replace(config, server_timeout_s=120.0, resume="off")
    host = RobotHost(folder / "robot.sock", config, 2, on_report, on_line)
    server = DeviceServer(host.on_results, round_trip_s, cache_dir=cache_dir)
    host.activate(server)
    try:
        yield host, server, {
            **os.environ, "LD_LIBRARY_PATH": str(ensure_built()), "RRTO_SOCKET": str(host.path),
        }  # fmt: skip
    finally:
        host.close()
        server.stop()
