"""Waiting for SIGINT or SIGTERM, for processes whose work is done by other threads."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Termination:
    """A context manager, for the main thread: within it the signals end `wait` and nothing else.

    A handler that sets a `threading.Event` can be too late for the wait that it is to end: the
    kernel runs it between the interpreter's last look and the wait, or in another thread. Here
    the signal itself writes a byte that the wait reads.
    """

    def __enter__(self) -> Termination:  # noqa: PYI034 (Self is newer than Python 3.10)
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals are handled in the main thread only")
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float | None = None) -> signal.Signals | None:
        """Wait for a signal, also one that came before.

        Args:
            timeout_s: For so long at most; None for ever.

        Returns:
            The signal; None if the time is over.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._read], [], [], left)[0]:
                return None
            number = os.read(self._read, 1)[0]
            if number in SIGNALS:
                return signal.Signals(number)
