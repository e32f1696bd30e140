"""Processes under test: started in a group of their own, read line by line, always ended.

Every wait is for something the process says or does, with a bound; none is a sleep.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time

PATIENCE_S = 60.0
"""Bound of waits that have no stated time of their own; reached only when something is broken."""


class Process:
    """A running program with its output.

    Args:
        name: For logs.
        arguments: Command line.
        env: Its whole environment.
        namespace: A `Namespace` to run it in, or None.
        stdin: Whether the test wants to write to it (`say`).
    """

    def __init__(self, name, arguments, env, namespace=None, stdin=False):
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False
        command = self.arguments if namespace is None else namespace.command(self.arguments)
        self._popen = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._popen.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def say(self, text):
        """Write one line to its standard input."""
        self._popen.stdin.write(text + "\n")
        self._popen.stdin.flush()

    def close_input(self):
        """Close its standard input; it reads the end of the file."""
        self._popen.stdin.close()

    def wait_until(self, accepts, timeout_s=PATIENCE_S, after=0, what="the wanted line"):
        """Wait for a line that `accepts(line)` likes; returns what `accepts` returned.

        Args:
            after: Lines before this number are not looked at.
        """
        end = time.monotonic() + timeout_s
        seen = after
        with self._changed:
            while True:
                while seen < len(self.lines):
                    found = accepts(self.lines[seen])
                    seen += 1
                    if found:
                        return found
                left = end - time.monotonic()
                if self._ended:
                    raise AssertionError(
                        f"{self.name} ended (status {self._popen.wait()}) without {what}:\n"
                        + self.text(15)
                    )
                if left <= 0:
                    raise AssertionError(
                        f"{self.name}: no {what} within {timeout_s:g} s:\n" + self.text(15)
                    )
                self._changed.wait(left)

    def wait_for(self, pattern, timeout_s=PATIENCE_S, after=0):
        """Wait for a line that matches the regular expression; returns the match."""
        search = re.compile(pattern).search
        return self.wait_until(search, timeout_s, after, f"line that matches {pattern!r}")

    def wait(self, timeout_s=PATIENCE_S):
        """Wait for its end; returns the exit status (negative: the signal)."""
        try:
            status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {timeout_s:g} s:\n{self.text(15)}"
            ) from None
        self._reader.join(5.0)
        return status

    @property
    def alive(self):
        """Whether it still runs."""
        return self._popen.poll() is None

    def signal(self, number):
        """Send a signal to the process alone."""
        self._popen.send_signal(number)

    def kill(self):
        """End the whole process group at once, as a crash would, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, timeout_s=15.0):
        """Ask it to end (SIGINT); returns its exit status. Kills what is left of its group."""
        if self.alive:
            self.signal(signal.SIGINT)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.lines.append(f"[test: did not end within {timeout_s:g} s of SIGINT, killed]")
        self.kill()
        self._reader.join(5.0)
        if self._popen.stdin:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        return self._popen.returncode

    def text(self, last=None):
        """Its output so far, or the last lines of it, each cut to 500 characters."""
        return "\n".join(line[:500] for line in (self.lines[-last:] if last else self.lines))
