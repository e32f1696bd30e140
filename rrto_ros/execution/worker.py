"""A session's worker process: ``python -m rrto_ros.execution.worker --fd N --page M ...``.

Owns one device and one executor, and nothing of ROS. It is started ahead of its session with the
device's modules imported and everything given up that it does not need (`Hello`), makes the device
that the session wants (`Open`, answered by `Ready` or `Failed`) and executes batches until it is
told to `Close` or its host is gone. While it executes it notes the call in the shared page, so
that its host can name what killed it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rrto_ros.confinement import AUTO, MODES, OFF, confine_worker, limit_memory
from rrto_ros.devices.protocol import Device
from rrto_ros.devices.registry import (
    DeviceSettings,
    create_device,
    end_compilers,
    preload,
    start_compilers,
    start_driver,
)
from rrto_ros.errors import ProtocolError, RrtoError, UnavailableError
from rrto_ros.execution.executor import Executor
from rrto_ros.execution.frames import MessageReader, enlarge_buffers, send
from rrto_ros.execution.messages import (
    Batch,
    Close,
    Failed,
    Hello,
    Malformed,
    Open,
    Ready,
    Results,
    Statistics,
)
from rrto_ros.execution.progress import Progress
from rrto_ros.store_link import RemoteStore
from rrto_ros.wire.blob_store import Blobs, BlobWriter
from rrto_ros.wire.format import Buffer

STATISTICS_PERIOD_S = 1.0
_OOM_SCORE = "500"
_PR_SET_NAME = 15


def _factory(entry: str) -> Callable[[DeviceSettings], Device]:
    """The device factory that a test names as ``module:attribute``."""
    module, _, attribute = entry.partition(":")
    factory: Callable[[DeviceSettings], Device] = getattr(
        importlib.import_module(module), attribute
    )
    return factory


def _die_with_host(end: socket.socket) -> None:
    """Kill this process when the host's end closes, even while a kernel runs."""

    def watch() -> None:
        poll = select.poll()
        poll.register(end.fileno(), select.POLLRDHUP)
        poll.poll()
        # A clean end of the main thread comes within this time; a stuck kernel does not.
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-host", daemon=True).start()


def _prepare_process() -> None:
    """Let the kernel prefer this process when memory is short, and give it a name."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"rrto-session", 0, 0, 0)
    # The terminal's Ctrl-C reaches the whole group; the host ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Session:
    """One open session: its device, executor and blobs."""

    def __init__(
        self,
        end: socket.socket,
        reader: MessageReader,
        device: Device,
        blobs: BlobWriter | None,
        page: int,
    ) -> None:
        self._end = end
        self.device = device
        self._blobs = blobs
        self._reader = reader
        self._executor = Executor(device, blobs, Progress(page), lambda: reader.ready, beside=True)
        self._reported = 0.0
        self._said_malformed = False

    def batch(self, records: Buffer) -> None:
        """Execute one batch and send what it answers."""
        executor = self._executor
        results = executor.execute(records, self._flush)
        if executor.blocked:
            self._reader.detach()
        # Sent even when empty: the host counts the batches that are done.
        self._flush(results)
        if executor.malformed and not self._said_malformed:
            self._said_malformed = True
            send(self._end, Malformed(executor.malformed))
        now = time.monotonic()
        if now - self._reported >= STATISTICS_PERIOD_S:
            self._reported = now
            self.report()

    def report(self) -> None:
        """Send the statistics of executor, device and blobs."""
        blobs = self._blobs.statistics() if self._blobs is not None else {}
        statistics = Statistics(self._executor.statistics(), self.device.statistics(), blobs)
        send(self._end, statistics)

    def close(self) -> None:
        """Free the device's memory and finish what is being written."""
        self.device.close()
        if self._blobs is not None:
            self._blobs.flush()

    def _flush(self, results: bytes) -> None:
        executor = self._executor
        progress = (executor.executed_call, executor.batches_done, executor.last_reply)
        send(self._end, Results(results, *progress))


@dataclass(frozen=True)
class _Start:
    """What the process was started with.

    Attributes:
        page: Shared page for the progress.
        kernels: Socket to the keeper of compiled kernels.
        blobs: Socket to the keeper of uploads.
        factory: Makes the device; None: as the session wants it.
        confined: By what the process is confined, in words.
        limited: Whether its memory is to be limited.
    """

    page: int
    kernels: socket.socket
    blobs: socket.socket
    factory: Callable[[DeviceSettings], Device] | None = None
    confined: str = ""
    limited: bool = False


def _open(
    end: socket.socket, reader: MessageReader, wanted: Open, start: _Start
) -> _Session | None:
    """Make the session's device and say how it went."""
    try:
        if start.limited and wanted.device != "gpu":
            limit_memory(wanted.settings.limit_bytes)
        if start.factory is not None:
            device = start.factory(wanted.settings)
        else:
            kernels = RemoteStore(start.kernels) if wanted.kernels else None
            device = create_device(wanted.device, wanted.settings, kernels)
        blobs = BlobWriter(Blobs(RemoteStore(start.blobs))) if wanted.blobs else None
    except (RrtoError, MemoryError, OSError, ImportError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, RrtoError) else f"{type(error).__name__}: {error}"
        send(end, Failed(text))
        return None
    session = _Session(end, reader, device, blobs, start.page)
    send(end, Ready(device.info))
    return session


def serve(end: socket.socket, start: _Start) -> int:
    """Serve one session over `end` until it closes; return the exit status."""
    reader = MessageReader(end)
    session: _Session | None = None
    try:
        send(end, Hello(start.confined))
        while (message := reader.read()) is not None and not isinstance(message, Close):
            if isinstance(message, Batch) and session is not None:
                session.batch(message.records)
            elif isinstance(message, Open) and session is None:
                session = _open(end, reader, message, start)
                if session is None:
                    return 1
            else:
                raise ProtocolError(f"a {type(message).__name__} message is not expected now")
        if session is not None and message is not None:
            session.report()
    except (BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        if session is not None:
            session.close()
    return 0


def main() -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="rrto-worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="socket to the host")
    parser.add_argument("--page", type=int, required=True, help="shared page for the progress")
    parser.add_argument("--preload", default="", help="device whose modules to import now")
    parser.add_argument(
        "--factory", default="", help="device factory, for tests: module:attribute"
    )
    parser.add_argument("--kernels", type=int, required=True, help="socket to their keeper")
    parser.add_argument("--blobs", type=int, required=True, help="socket to their keeper")
    parser.add_argument("--confinement", choices=MODES, default=AUTO)
    arguments = parser.parse_args()
    _prepare_process()
    end = socket.socket(fileno=arguments.fd)
    enlarge_buffers(end)
    mode, device = arguments.confinement, arguments.preload
    # Each step has a reason to be where it is: compilers are started without what follows, what a
    # process gives up holds for threads that it starts later, and a GPU's driver starts some.
    try:
        start_compilers(device, mode)
        _preload(device)
        factory = _factory(arguments.factory) if arguments.factory else None
        confined = confine_worker(mode, device)
    except (UnavailableError, OSError) as error:
        print(f"session worker: {error}", file=sys.stderr, flush=True)
        return 1
    _die_with_host(end)
    start_driver(device)
    start = _Start(
        arguments.page,
        socket.socket(fileno=arguments.kernels),
        socket.socket(fileno=arguments.blobs),
        factory,
        str(confined),
        mode != OFF,
    )
    try:
        return serve(end, start)
    finally:
        end_compilers(device)


def _preload(device: str) -> None:
    try:
        preload(device)
    except ImportError as error:
        # Said again, to the session that needs it, when the device is made.
        print(f"device {device}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
