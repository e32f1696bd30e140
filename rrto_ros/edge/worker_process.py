"""The host's end of a session worker: owns the process, its socket and the threads at it.

Nothing here blocks the caller: what the socket does not take at once goes to a writer thread, and
results come back on a reader thread. Knows messages, not sessions.

Over 400 lines: its start, its threads and its end each depend on how far the others are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.api.results import CUresult
from rrto_ros.confinement import AUTO
from rrto_ros.edge.stores import Stores
from rrto_ros.edge.worker_environment import worker_environment
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.execution.frames import MessageReader, enlarge_buffers, send
from rrto_ros.execution.messages import (
    Batch,
    Close,
    Failed,
    Hello,
    Malformed,
    Message,
    Open,
    Ready,
    Results,
    Statistics,
    encode,
)
from rrto_ros.execution.progress import PAGE_BYTES, Executing, Progress
from rrto_ros.store_link import StoreKeeper
from rrto_ros.text import printable
from rrto_ros.wire.blob_store import MOST_PENDING_BYTES
from rrto_ros.wire.format import Buffer

_MEMORY_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS})
_LOG_LINE_BYTES = 2000
MAX_KERNEL_BYTES = 64 << 20


@dataclass(frozen=True)
class WorkerDeath:
    """How a worker ended without being told to.

    Attributes:
        status: The CUresult that its session gets.
        text: What happened, naming the call.
        executing: The call that it was executing (index 0: none).
    """

    status: CUresult
    text: str
    executing: Executing


_NO_STORES = Stores()
ResultsHandler = Callable[[Results], None]
"""Told in the reader thread; the records are valid until it returns."""
MalformedHandler = Callable[[str], None]
"""Told once, in the reader thread, what was no call log."""
DeathHandler = Callable[[WorkerDeath], None]
"""Told once, in the reader thread, if the worker ends before `close`."""


class WorkerProcess:
    """One worker process, started at once.

    Args:
        preload: Device whose modules it imports ahead.
        factory: ``module:attribute`` of a device factory, for tests.
        log: Takes what the worker writes to its stderr, line by line, from a thread.
        confinement: What it gives up (`confinement.MODES`).

    Raises:
        UnavailableError: The process cannot be started.
    """

    def __init__(
        self,
        preload: str = "",
        factory: str = "",
        log: Callable[[str], None] = lambda _: None,
        confinement: str = AUTO,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        enlarge_buffers(ours)
        kernels, kernels_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        blobs, blobs_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = (theirs.fileno(), kernels_end.fileno(), blobs_end.fileno())
        page = os.memfd_create("rrto-progress")
        try:
            os.ftruncate(page, PAGE_BYTES)
            self._progress = Progress(page)
            command = [sys.executable, "-m", "rrto_ros.execution.worker"]
            command += ["--fd", str(theirs.fileno()), "--page", str(page)]
            command += ["--kernels", str(kernels_end.fileno()), "--blobs", str(blobs_end.fileno())]
            command += ["--preload", preload, "--factory", factory, "--confinement", confinement]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(*given, page),
                env=worker_environment(),
                cwd="/",
            )
        except OSError as error:
            for end in (ours, kernels, blobs):
                end.close()
            raise UnavailableError(f"cannot start a session worker: {error}") from error
        finally:
            for end in (theirs, kernels_end, blobs_end):
                end.close()
            os.close(page)
        self._end = ours
        self._store_ends = {"kernels": kernels, "blobs": blobs}
        self._keepers: list[StoreKeeper] = []
        self.confined = ""
        """By what it is confined, in words, once it is `ready`."""
        self._log = log
        self._on_results: ResultsHandler = lambda _: None
        self._on_malformed: MalformedHandler = lambda _: None
        self._on_death: DeathHandler | None = None
        self._death: WorkerDeath | None = None
        self._lock = threading.Lock()
        self._outgoing: deque[Buffer] = deque()
        self._outgoing_bytes = 0
        self._writer_wake = threading.Condition(self._lock)
        self._writer: threading.Thread | None = None
        self._opened = threading.Event()
        self._info: DeviceInfo | None = None
        self._failure = ""
        self._end_reason = ""
        self._closing = False
        self._last_lines: deque[str] = deque(maxlen=5)
        self._statistics = Statistics()
        self.ready = threading.Event()
        """Set once the worker said `Hello`, or ended."""
        self._log_thread = threading.Thread(target=self._copy_log, daemon=True)
        self._log_thread.start()
        self._reader = threading.Thread(
            target=self._read, name=f"worker {self.pid} results", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """What it has in memory, shared memory included; 0 where that cannot be said."""
        try:
            words = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(words[1]) * mmap.PAGESIZE

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def queued_bytes(self) -> int:
        """Bytes of batches that the worker's socket did not take yet."""
        return self._outgoing_bytes

    @property
    def executing(self) -> Executing:
        """The call that it executes now."""
        return self._progress.read()

    def open(
        self,
        wanted: Open,
        on_results: ResultsHandler,
        on_malformed: MalformedHandler,
        timeout_s: float = 30.0,
        stores: Stores = _NO_STORES,
    ) -> DeviceInfo:
        """Make the session's device; waits for it.

        Args:
            wanted: The device.
            on_results: Takes results.
            on_malformed: Told if a batch is no call log.
            timeout_s: How long making the device may take, in seconds.
            stores: What is kept for it.

        Raises:
            UnavailableError: The device cannot be made, the worker ended, or the time is over.
        """
        self._on_results, self._on_malformed = on_results, on_malformed
        wanted = self._keep(wanted, stores)
        with contextlib.suppress(OSError):  # its end is reported below
            send(self._end, wanted)
        if not self._opened.wait(timeout_s):
            self.close(0.0)
            raise UnavailableError(f"the device was not ready within {timeout_s:g} s")
        if self._info is None:
            self.close(0.0)
            raise UnavailableError(self._failure or "the session worker ended at its start")
        return self._info

    def _keep(self, wanted: Open, stores: Stores) -> Open:
        """Answer the worker's requests for what is kept."""
        most = {"kernels": MAX_KERNEL_BYTES, "blobs": MOST_PENDING_BYTES}
        for name, store in (("kernels", stores.kernels), ("blobs", stores.blobs)):
            if store is not None:
                keeper = StoreKeeper(
                    store, self._store_ends.pop(name), sealed=name == "kernels",
                    origin=stores.origin, most_bytes=most[name],
                )  # fmt: skip
                self._keepers.append(keeper)
        return replace(wanted, kernels=stores.kernels is not None, blobs=stores.blobs is not None)

    def watch(self, on_death: DeathHandler) -> None:
        """Have its end told, once, if it ends by itself; at once if it has ended already.

        Args:
            on_death: Takes how it died, in this thread or one of the worker's.
        """
        with self._lock:
            self._on_death = on_death
            death = self._death
        if death is not None:
            on_death(death)

    def send(self, batch: Buffer) -> None:
        """Hand over a batch; never waits. The buffer must not change afterwards."""
        header, _ = encode(Batch(batch))
        with self._lock:
            if self._closing:
                return
            if self._outgoing:
                self._queue(header, batch)
                return
            try:
                sent = self._end.sendmsg([header, batch], [], socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader thread reports the end
            if sent < len(header):
                self._queue(header[sent:], batch)
            elif sent < len(header) + len(batch):
                self._queue(memoryview(batch)[sent - len(header) :])

    def end(self, reason: str) -> None:
        """Kill it; its session is told of the reason, as of any other death."""
        self._end_reason = reason
        self._process.kill()

    def close(self, timeout_s: float = 2.0) -> None:
        """End the process: ask, wait at most `timeout_s`, then kill. Frees all that it holds."""
        with self._lock:
            already = self._closing
            self._closing = True
            # Within a half-written batch nothing can be said.
            polite = not already and not self._outgoing and timeout_s > 0
            self._writer_wake.notify_all()
        if polite:
            with contextlib.suppress(OSError):
                self._end.send(encode(Close())[0], socket.MSG_DONTWAIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        for thread in (self._reader, self._log_thread):
            if thread is not threading.current_thread():
                thread.join(timeout=2.0)
        self._end.close()
        for end in self._store_ends.values():
            end.close()
        for keeper in self._keepers:
            keeper.join(2.0)
        # It has a descriptor, and what refers to this object may stay until the next collection.
        self._progress.close()

    def statistics(self) -> dict[str, Any]:
        """What the worker last reported (at most once per second), its pid and backlog."""
        return {
            "pid": self.pid,
            "queued_bytes": self._outgoing_bytes,
            "store_requests_refused": sum(keeper.refused for keeper in self._keepers),
            **asdict(self._statistics),
        }

    def _queue(self, *parts: Buffer) -> None:
        """Leave parts to the writer thread; the lock is held."""
        self._outgoing.extend(parts)
        self._outgoing_bytes += sum(len(part) for part in parts)
        if self._writer is None:
            self._writer = threading.Thread(
                target=self._write, name=f"worker {self.pid} batches", daemon=True
            )
            self._writer.start()
        self._writer_wake.notify()

    def _write(self) -> None:
        while True:
            with self._writer_wake:
                while not self._outgoing and not self._closing:
                    self._writer_wake.wait()
                if self._closing:
                    return
                part = self._outgoing[0]
            try:
                self._end.sendall(part)
            except OSError:
                return  # the reader thread reports the end
            with self._lock:
                # Only now: while it is in the queue, `send` must not overtake it.
                self._outgoing.popleft()
                self._outgoing_bytes -= len(part)

    def _copy_log(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        with stream:
            while line := stream.readline(_LOG_LINE_BYTES):
                text = printable(line.decode(errors="replace").rstrip())
                self._last_lines.append(text)
                self._log(text)

    def _read(self) -> None:
        reader = MessageReader(self._end)
        try:
            while (message := reader.read()) is not None:
                self._take(message)
        except (ProtocolError, OSError) as error:
            self._failure = self._failure or str(error)
        if not self._closing:
            self._ended()
        self.ready.set()
        self._opened.set()

    def _take(self, message: Message) -> None:
        match message:
            case Results():
                self._on_results(message)
            case Statistics():
                self._statistics = message
            case Malformed(text):
                self._on_malformed(text)
            case Hello(confined):
                self.confined = confined
                self.ready.set()
            case Ready(info):
                self._info = info
                self._opened.set()
            case Failed(text):
                self._failure = text
                self._opened.set()
            case _:
                raise ProtocolError(f"a {type(message).__name__} message from a worker")

    def _ended(self) -> None:
        """The socket closed although nobody asked: say how the process died."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        code = self._process.poll()
        if code is None:
            self._process.kill()
            code = self._process.wait()
        self._log_thread.join(timeout=1.0)
        died = f"exited with status {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                died = f"was ended by {signal.Signals(-code).name}"
        executing = self._progress.read()
        doing = f"while executing {executing}" if executing.index else "between two batches"
        text = f"the session's worker process {died} {doing}"
        if self._end_reason:
            text += f": {self._end_reason}"
        if code >= 0 and self._last_lines:
            text += f" ({self._last_lines[-1]})"
        status = CUresult.LAUNCH_FAILED
        if -code in _MEMORY_SIGNALS:
            status = CUresult.ILLEGAL_ADDRESS
        self._failure = self._failure or text
        death = WorkerDeath(status, text, executing)
        with self._lock:
            self._death = death
            on_death = self._on_death
        if on_death is not None:
            on_death(death)
