"""Signals that end a wait of the main thread, or reach a thread, however they fall."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
        self._ends = contextlib.ExitStack()
        self._read = self._ends.enter_context(_numbers_of(SIGNALS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()
        os.close(self._read)

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


@contextlib.contextmanager
def _numbers_of(numbers: Sequence[signal.Signals]) -> Iterator[int]:
    """A context manager, for the main thread: within it the signals only write their numbers.

    Yields:
        What they are read from, a byte each, until the context is left; the caller closes it.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)


@contextlib.contextmanager
def told_of(
    numbers: Sequence[signal.Signals], told: Callable[[signal.Signals], None]
) -> Iterator[None]:
    """A context manager, for a main thread that waits for something else than a signal.

    Within it the signals do nothing but call `told`, in a thread of its own, while the main thread
    waits in whatever call it likes: a handler would only run when that call returns, where the
    signal came between the interpreter's last look and the call.

    Args:
        numbers: The signals.
        told: Called with each; returns soon.
    """

    def follow(read: int) -> None:
        while data := os.read(read, 64):
            for number in data:
                if number in numbers:
                    told(signal.Signals(number))

    with contextlib.ExitStack() as ends:
        read = ends.enter_context(_numbers_of(numbers))
        thread = threading.Thread(target=follow, args=(read,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            # What it reads ends with the context.
            ends.close()
            thread.join()
            os.close(read)
