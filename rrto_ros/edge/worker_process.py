"""The host's end of a session worker: owns the process, its socket and the threads at it.

Nothing here blocks the caller: what the socket does not take at once goes to a writer thread, and
results come back on a reader thread. Knows messages, not sessions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.api.results import CUresult
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
from rrto_ros.wire.format import Buffer

_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH",
    "PYTHONHOME", "VIRTUAL_ENV", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "CUDA_MODULE_LOADING", "CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE",
    "CUDA_CACHE_DISABLE", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NUMBA_CPU_NAME",
)  # fmt: skip
"""What a worker inherits as it is. Not LD_PRELOAD, which may name the shim."""
_SHIMS_OTHER_FILE = "librrto_recorder.so"
_MEMORY_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS})
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_LOG_LINE_BYTES = 2000


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


ResultsHandler = Callable[[Results], None]
"""Told in the reader thread; the records are valid until it returns."""
MalformedHandler = Callable[[str], None]
"""Told once, in the reader thread, what was no call log."""
DeathHandler = Callable[[WorkerDeath], None]
"""Told once, in the reader thread, if the worker ends before `close`."""


def worker_environment() -> dict[str, str]:
    """The environment of a worker: only what it needs, and where this package is."""
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # The GPU's driver may lie in a folder of its own (containers); the shim must not be found.
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    kept = [f for f in folders if not (Path(f) / _SHIMS_OTHER_FILE).exists()]
    if kept:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    paths = [str(_PACKAGE_PARENT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return env


class WorkerProcess:
    """One worker process, started at once.

    Args:
        preload: Device whose modules it imports ahead.
        factory: ``module:attribute`` of a device factory, for tests.
        log: Takes what the worker writes to its stderr, line by line, from a thread.

    Raises:
        UnavailableError: The process cannot be started.
    """

    def __init__(
        self, preload: str = "", factory: str = "", log: Callable[[str], None] = lambda _: None
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        enlarge_buffers(ours)
        page = os.memfd_create("rrto-progress")
        try:
            os.ftruncate(page, PAGE_BYTES)
            self._progress = Progress(page)
            command = [sys.executable, "-m", "rrto_ros.execution.worker"]
            command += ["--fd", str(theirs.fileno()), "--page", str(page)]
            command += ["--preload", preload, "--factory", factory]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), page),
                env=worker_environment(),
            )
        except OSError as error:
            ours.close()
            raise UnavailableError(f"cannot start a session worker: {error}") from error
        finally:
            theirs.close()
            os.close(page)
        self._end = ours
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
    ) -> DeviceInfo:
        """Make the session's device; waits for it.

        Args:
            wanted: The device.
            on_results: Takes results.
            on_malformed: Told if a batch is no call log.
            timeout_s: How long making the device may take, in seconds.

        Raises:
            UnavailableError: The device cannot be made, the worker ended, or the time is over.
        """
        self._on_results, self._on_malformed = on_results, on_malformed
        with contextlib.suppress(OSError):  # its end is reported below
            send(self._end, wanted)
        if not self._opened.wait(timeout_s):
            self.close(0.0)
            raise UnavailableError(f"the device was not ready within {timeout_s:g} s")
        if self._info is None:
            self.close(0.0)
            raise UnavailableError(self._failure or "the session worker ended at its start")
        return self._info

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
        # It has a descriptor, and what refers to this object may stay until the next collection.
        self._progress.close()

    def statistics(self) -> dict[str, Any]:
        """What the worker last reported (at most once per second), its pid and backlog."""
        return {"pid": self.pid, "queued_bytes": self._outgoing_bytes, **asdict(self._statistics)}

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
                text = line.decode(errors="replace").rstrip()
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
            case Hello():
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
