"""The process that a worker's compilers are copies of: owns its start, its jobs and its end.

A confined worker can neither start programs nor copy itself. So before it is confined, and before
it has any data, it forks a process that has loaded LLVM and does nothing but fork again: each copy
is a compile process, confined like its parent, with the two pipes that the worker gave. A copy is
ready in milliseconds; a program that loads LLVM takes a third of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import sys
import threading
from io import FileIO
from subprocess import TimeoutExpired

from rrto_ros.confinement import confine_compiler, confine_starter
from rrto_ros.devices.cpu import compile_process
from rrto_ros.devices.cpu.jit import host_target
from rrto_ros.errors import UnavailableError

MOST_COMPILERS = 2 + len(os.sched_getaffinity(0))
"""At once; more than there are cores compile nothing sooner."""
_START = b"start"
_NUMBER = struct.Struct("<i")
_SET_PARENT_DEATH_SIGNAL, _SET_NAME = 1, 15


class Compiler:
    """A compile process, in the form of `subprocess.Popen` as far as it is needed.

    Args:
        starter: Starts and ends it.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self.returncode: int | None = None
        jobs, self_in = os.pipe2(os.O_CLOEXEC)
        self_out, answers = os.pipe2(os.O_CLOEXEC)
        self._status, status = os.pipe2(os.O_CLOEXEC)
        self.stdin, self.stdout = FileIO(self_in, "wb"), FileIO(self_out, "rb")
        try:
            self.pid = starter.start([jobs, answers, status])
        except OSError:
            self.stdin.close()
            self.stdout.close()
            os.close(self._status)
            raise
        finally:
            for file in (jobs, answers, status):
                os.close(file)

    def poll(self) -> int | None:
        """The status it ended with (minus a signal's number), None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As `poll`, when it has ended.

        Raises:
            TimeoutExpired: It has not within so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise TimeoutExpired("compiler", timeout or 0.0)
            self._ended()
        return self.returncode or 0

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            self._starter.kill(self.pid)

    def _ended(self) -> None:
        told = os.read(self._status, _NUMBER.size)
        os.close(self._status)
        # Without a word the starter is gone, and its compilers with it.
        self.returncode = _NUMBER.unpack(told)[0] if told else -signal.SIGKILL


class Starter:
    """The worker's end of the process that starts compilers.

    Args:
        confinement: As the parameter of the server.
    """

    def __init__(self, confinement: str) -> None:
        host_target()  # loads what every copy has then
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if not self._pid:
            status = 1
            try:
                _serve(theirs, confinement)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self._lock = threading.Lock()

    def start(self, files: list[int]) -> int:
        """Start a compiler with these descriptors: jobs, answers, status; returns its number.

        Raises:
            OSError: It cannot be started.
        """
        with self._lock:
            socket.send_fds(self._end, [_START], files)
            told = self._end.recv(_NUMBER.size)
        if not told:
            raise OSError("the process that starts compilers is gone")
        if not (pid := int(_NUMBER.unpack(told)[0])):
            raise OSError(f"{MOST_COMPILERS} compilers run")
        return pid

    def kill(self, pid: int) -> None:
        """End a compiler."""
        with contextlib.suppress(OSError):
            self._end.send(_NUMBER.pack(pid))

    def close(self) -> None:
        """End the process, and compilers that still run."""
        self._end.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


_begun: list[Starter] = []


def begin(confinement: str) -> None:
    """Have this process's compilers be started so; once, while it has one thread."""
    _begun.append(Starter(confinement))


def begun() -> Starter | None:
    """What starts the compilers of this process, None if nothing was begun."""
    return _begun[0] if _begun else None


def end() -> None:
    """End what was begun."""
    while _begun:
        _begun.pop().close()


def _serve(end: socket.socket, confinement: str) -> None:
    """Start compilers until the worker is gone."""
    os.closerange(3, end.fileno())
    os.closerange(end.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    ctypes.CDLL(None).prctl(_SET_NAME, b"rrto-compilers", 0, 0, 0)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    with contextlib.suppress(UnavailableError):
        confine_starter(confinement)
        _answer(end, wake, confinement)


def _answer(end: socket.socket, wake: int, confinement: str) -> None:
    compilers: dict[int, int] = {}
    while True:
        ready = select.select([end.fileno(), wake], [], [])[0]
        if wake in ready:
            os.read(wake, 256)
            _reap(compilers)
        if end.fileno() not in ready:
            continue
        data, files, _, _ = socket.recv_fds(end, 16, 3)
        if not data:
            break
        if data == _START and len(files) == 3 and len(compilers) < MOST_COMPILERS:
            jobs, answers, status = files
            pid = os.fork()
            if not pid:
                os.close(end.detach())
                for other in (*compilers.values(), status):
                    os.close(other)
                _compile(jobs, answers, confinement)
            compilers[pid] = status
            files = [jobs, answers]
            end.send(_NUMBER.pack(pid))
        elif data == _START:
            end.send(_NUMBER.pack(0))
        elif len(data) == _NUMBER.size and (pid := _NUMBER.unpack(data)[0]) in compilers:
            os.kill(pid, signal.SIGKILL)
        for file in files:
            os.close(file)
    for pid in compilers:
        os.kill(pid, signal.SIGKILL)


def _reap(compilers: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            told = compilers.pop(pid)
            with contextlib.suppress(OSError):
                os.write(told, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os.close(told)


def _compile(jobs: int, answers: int, confinement: str) -> None:
    """Be a compile process; does not return."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        confine_compiler(confinement)
        with os.fdopen(jobs, "rb") as source, os.fdopen(answers, "wb") as sink:
            compile_process.serve(source, sink)
        status = 0
    finally:
        os._exit(status)
