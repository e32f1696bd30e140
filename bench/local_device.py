"""A CUDA device inside the program's own process: owns its listener, its ring and its thread.

What a program costs that runs where the device is, with nothing between the driver calls and the
device but the shim's ring: the reference that offloading is compared with. The program loads the
shim as usual and finds this process itself behind RRTO_SOCKET, so it runs unchanged.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Device
from rrto_ros.errors import ProtocolError
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.ring import SLEEPING, RingConsumer, RingMemory, drain_eventfd
from rrto_ros.robot.ring_socket import RingListener, read_hello, send_welcome
from rrto_ros.wire.descriptions import Welcome, pack_device_info
from rrto_ros.wire.result_codec import iter_results

_BATCHED = 1


class LocalDevice:
    """Serves one program, this one, one session after another.

    Args:
        device: Executes the calls; closed by `close`.
        path: Of the socket, as RRTO_SOCKET names it.

    Raises:
        ConfigError: The path cannot be used.
        UnavailableError: Another recorder listens there.
    """

    def __init__(self, device: Device, path: Path) -> None:
        # Its memory is in the program's process, where the shim would keep its addresses free.
        os.environ["RRTO_KEEP_FREE"] = "0"
        self._device = device
        self._executor = Executor(device)
        self._listener = RingListener(path)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sessions = 0
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="local device", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the session that runs, and free the device."""
        self._listener.stop()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._listener.close()
        os.close(self._wake)
        self._device.close()

    def statistics(self) -> Mapping[str, Any]:
        """Sessions served, why the last one broke, and the executor's counters."""
        own = {"sessions": self._sessions, "failure": self._failure}
        return {**own, **self._executor.statistics()}

    def _run(self) -> None:
        while (connection := self._listener.accept()) is not None:
            self._sessions += 1
            with contextlib.closing(connection):
                try:
                    read_hello(connection)
                    self._serve(connection)
                except (ProtocolError, OSError) as error:
                    self._failure = str(error)

    def _serve(self, connection: socket.socket) -> None:
        ring = RingMemory(mode=_BATCHED)
        try:
            info = pack_device_info(self._device.info, os.urandom(16))
            fds = (ring.memory_fd, ring.call_fd, ring.reply_fd)
            send_welcome(connection, Welcome(0, info=info), fds)
            connection.setblocking(False)
            self._execute(ring, connection)
        except ProtocolError:
            ring.set_state(int(CUresult.UNKNOWN))
            raise
        finally:
            ring.close()

    def _execute(self, ring: RingMemory, connection: socket.socket) -> None:
        """Execute what the program calls until it hangs up."""
        consumer, replies = RingConsumer(ring), ReplyWriter(ring)

        def answer(results: bytes) -> None:
            view, offset, records = memoryview(results), 0, []
            for result in iter_results(view):
                records.append(view[offset : offset + result.size])
                offset += result.size
            replies.write(records)

        waits = [ring.call_fd, connection.fileno(), self._wake]
        while True:
            consumer.announce(0)
            while data := consumer.take():
                answer(self._executor.execute(data, answer))
            consumer.announce(SLEEPING)
            if data := consumer.take():
                answer(self._executor.execute(data, answer))
                continue
            replies.flush()
            readable, _, _ = select.select(waits, [], [])
            if ring.call_fd in readable:
                consumer.awake()
            if self._wake in readable:
                drain_eventfd(self._wake)
                return
            if connection.fileno() in readable and not connection.recv(64):
                return
