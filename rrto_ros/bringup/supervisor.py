"""Starts a bring-up's processes, passes their output on, ends them in order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rrto_ros.bringup.held import HELD
from rrto_ros.bringup.processes import Process

GRACE_S = 10.0
"""How long a process may take after SIGINT before SIGTERM, and after that before SIGKILL."""

MOST_RESTARTS = 3
"""How often one process is started again by itself: what stands still each time is no accident."""
STOOD_STILL = -signal.SIGABRT
"""Exit code of a process that its watchdog has ended."""

Output = Callable[[str, str], None]
"""Takes (process name, line), from any thread."""


class Child:
    """A process that was started, with the thread that reads its output."""

    def __init__(
        self,
        process: Process,
        output: Output,
        ended: Callable[[Child], None],
        base: Mapping[str, str],
    ) -> None:
        self.process = process
        self._popen = subprocess.Popen(
            process.command,
            env={**base, **process.environment, **(HELD if process.held else {})},
            stdin=subprocess.PIPE if process.held else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal goes to the foreground group; here the order of ending matters.
            start_new_session=True,
        )
        self._output = output
        self._ended = ended
        self._asked = False
        self._goes = not process.held
        self._thread = threading.Thread(target=self._read, name=process.name, daemon=True)
        self._thread.start()

    @property
    def code(self) -> int | None:
        """Exit code (negative: the signal), None while it runs."""
        return self._popen.poll()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def release(self, *, go: bool) -> None:
        """Let a process that is held go on, or end."""
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            # What has ended meanwhile is told by its exit code.
            self._goes = go
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.write("1" if go else "")
                self._popen.stdin.close()

    def ask(self) -> None:
        """Ask it to end, and do not wait."""
        self.release(go=False)
        self._asked = True
        # One that was held to the end may still import; it ends by itself.
        if self._goes:
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """Ask it to end, then insist; returns when it is gone."""
        if not self._asked:
            self.ask()
        # A node ends its own workers in order; only the last resort goes to the whole group.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(GRACE_S)
        if self.code is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_S)
        self._finish()

    def kill(self) -> None:
        """End it and its workers at once; nobody is told. Returns when it is gone."""
        self._ended = lambda _: None
        self._finish()

    def _finish(self) -> None:
        # Workers that outlive their node would keep the output open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._thread.join(timeout=GRACE_S)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self._output(self.process.name, line.rstrip("\n"))
        self._popen.wait()
        self._ended(self)


class Supervisor:
    """The processes of one bring-up on this machine.

    A node that its watchdog has ended is started again, `MOST_RESTARTS` times at most; others are
    started again by `restart` only.

    Args:
        processes: In the order of starting.
        output: Takes their output.
        environment: The environment that theirs is added to; default: this process's.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        output: Output,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._processes = list(processes)
        self._output = output
        self._base = dict(os.environ if environment is None else environment)
        self._children: list[Child] = []
        self._events: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._restarted = 0
        self._stood_still: Counter[str] = Counter()
        self._started = time.monotonic()

    def start(self) -> None:
        """Start all; what cannot be started ends those before it."""
        try:
            for process in self._processes:
                self._children.append(self._child(process))
        except OSError:
            self.stop()
            raise

    def release(self, name: str, *, go: bool) -> None:
        """Let a process that is held go on, or end, which is no failure."""
        for child in self._children:
            if child.process.name == name:
                child.release(go=go)

    def end(self, name: str) -> None:
        """End one process, and wait for it."""
        for child in self._children:
            if child.process.name == name:
                child.stop()

    def restart(self, name: str) -> bool:
        """Kill one process and start it again, released; False if it does not run.

        Raises:
            OSError: It cannot be started.
        """
        for place, child in enumerate(self._children):
            if child.process.name == name and child.code is None:
                child.kill()
                self._children[place] = self._child(dataclasses.replace(child.process, held=False))
                self._restarted += 1
                return True
        return False

    def _child(self, process: Process) -> Child:
        return Child(process, self._output, self._ended, self._base)

    def _ended(self, child: Child) -> None:
        """One has ended by itself (the thread that read its output)."""
        name = child.process.name
        with self._lock:
            again = (
                child.process.restarts
                and child.code == STOOD_STILL
                and not self._stopped
                and self._stood_still[name] < MOST_RESTARTS
                and child in self._children
            )
            if again:
                self._stood_still[name] += 1
                process = dataclasses.replace(child.process, held=False)
                with contextlib.suppress(OSError):
                    self._children[self._children.index(child)] = self._child(process)
                    self._restarted += 1
                    self._output(
                        name,
                        f"stood still and is started again ({self._stood_still[name]} of "
                        f"{MOST_RESTARTS} times)",
                    )
                    return
        self._events.put(child)

    def interrupt(self) -> None:
        """Make `wait` return (any thread, also a signal handler)."""
        self._events.put(None)

    def wait(self) -> int:
        """Wait until a process fails, one that ends all ends, all have ended, or `interrupt`.

        Returns:
            The exit code of the process that failed first, else 0.
        """
        left = len(self._children)
        while left:
            child = self._events.get()
            if child is None:
                return 0
            left -= 1
            code = child.code or 0
            if code:
                self._output(child.process.name, f"ended with {_describe(code)}")
                return code if code > 0 else 128 - code
            if child.process.ends_all:
                return 0
        return 0

    def failed(self) -> str:
        """Names of the processes that ended with an error so far, with how; empty if none."""
        bad = [(c.process.name, c.code) for c in self._children if c.code]
        return ", ".join(f"{name} ended with {_describe(code or 0)}" for name, code in bad)

    def stop(self, *, together: bool = False) -> None:
        """End all in the reverse order of starting; safe to call again.

        Args:
            together: Ask all at once, where none has anything left to say to another.
        """
        with self._lock:
            self._stopped = True
        for child in reversed(self._children) if together else ():
            child.ask()
        for child in reversed(self._children):
            child.stop()

    def statistics(self) -> dict[str, float | int]:
        """Processes started, started again and alive, and seconds since the start."""
        return {
            "started": len(self._children),
            "restarted": self._restarted,
            "alive": sum(child.code is None for child in self._children),
            "seconds": time.monotonic() - self._started,
        }


def _describe(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
