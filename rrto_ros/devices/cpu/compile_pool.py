"""Compile processes: owns their start, their jobs, and what happens when one dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import rrto_ros
from rrto_ros.devices.cpu.compile_process import OK
from rrto_ros.devices.cpu.compile_starter import MOST_COMPILERS, Compiler, begun

DEFAULT_TIMEOUT_S = 120.0
COMMAND = (sys.executable, "-m", "rrto_ros.devices.cpu.compile_process")
_CHUNK = 1 << 16


class CompileError(Exception):
    """A job failed: the compiler refused it, died on it or took too long."""


class _Helper:
    """One compile process."""

    def __init__(self, process: subprocess.Popen[bytes] | Compiler) -> None:
        self._process = process
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def compile(self, job: bytes, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        self._send(memoryview(job), deadline)
        head = self._receive(9, deadline)
        answer = self._receive(int.from_bytes(head[1:], "little"), deadline)
        if head[:1] != OK:
            raise CompileError(answer.decode(errors="replace"))
        return bytes(answer)

    def _send(self, data: memoryview, deadline: float) -> None:
        while data:
            self._wait(self._in, select.POLLOUT, deadline)
            try:
                data = data[os.write(self._in, data[:_CHUNK]) :]
            except BrokenPipeError:
                raise self._died() from None

    def _receive(self, size: int, deadline: float) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._wait(self._out, select.POLLIN, deadline)
            part = os.read(self._out, min(size - len(data), 1 << 20))
            if not part:
                raise self._died()
            data += part
        return data

    def _wait(self, handle: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(handle, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            self.close()
            raise CompileError("the compiler did not finish in time")

    def _died(self) -> CompileError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self.close()
        code = self._process.returncode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
        return CompileError(f"the compiler died ({how})")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _program(command: Sequence[str]) -> subprocess.Popen[bytes]:
    package = str(Path(rrto_ros.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


class CompilePool:
    """Up to `processes` compile processes, started when there is work for them.

    Args:
        processes: How many jobs run at once.
        timeout_s: Seconds that a job may take.
        command: What to start; tests put compilers there that crash and hang. None: copies of the
            process that was begun for it (`compile_starter`), in a process without one `COMMAND`.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        command: Sequence[str] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._starter = begun() if command is None else None
        self._command = tuple(command or COMMAND)
        # One more may run: a launch does not wait for one of these.
        threads = max(1, min(processes, MOST_COMPILERS - 1))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rrto-compile")
        self._free: list[_Helper] = []
        self._all: set[_Helper] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.started = 0
        self.failures = 0

    def warm(self) -> None:
        """Starts a process ahead of the first job; returns at once."""
        with self._lock:
            wanted = not self._all
        if wanted:
            with contextlib.suppress(CompileError):  # said by the first job
                self._give(self._start())

    def submit(self, ir: str, *, vectorise: bool) -> Future[bytes]:
        """Object code of an LLVM module, later; CompileError if there will be none."""
        return self._threads.submit(self.compile, ir, vectorise=vectorise)

    def compile(self, ir: str, *, vectorise: bool) -> bytes:
        """Object code of an LLVM module, now.

        Raises:
            CompileError: The compiler refused it, died on it or took too long.
        """
        text = ir.encode()
        head = json.dumps({"bytes": len(text), "vectorise": vectorise}).encode()
        helper = self._take()
        try:
            return helper.compile(head + b"\n" + text, self._timeout_s)
        except CompileError:
            self.failures += 1
            raise
        finally:
            self._give(helper)

    def close(self) -> None:
        """Ends the processes; a job that runs fails."""
        with self._lock:
            self._closed = True
            helpers, self._all = self._all, set()
            self._free.clear()
        for helper in helpers:
            helper.kill()
        self._threads.shutdown(cancel_futures=True)
        # Only now does no job read from the pipes any more.
        for helper in helpers:
            helper.close()

    def _start(self) -> _Helper:
        try:
            helper = _Helper(Compiler(self._starter) if self._starter else _program(self._command))
        except OSError as error:
            raise CompileError(f"no compiler can be started: {error}") from error
        with self._lock:
            self._all.add(helper)
            self.started += 1
        return helper

    def _take(self) -> _Helper:
        with self._lock:
            if self._closed:
                raise CompileError("the session is closed")
            if self._free:
                return self._free.pop()
        return self._start()

    def _give(self, helper: _Helper) -> None:
        with self._lock:
            if helper.alive and not self._closed:
                self._free.append(helper)
                return
            self._all.discard(helper)
        if not self._closed:
            helper.close()
