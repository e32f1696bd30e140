"""Ends a node whose interpreter stands still, so that whoever started it can start it again.

Fast DDS 3.2.x can throw while it takes a sample and be called again with the same one, for ever,
with the interpreter's lock held (a recorder that starts where another was killed: 3 of 139). Then
no thread of Python runs and no signal is handled, every program is refused, and nothing says why.
A thread in C that needs no lock waits for a beat from Python, and aborts the process without one:
a line on standard error says so, followed by the stacks. `bringup.supervisor` and the launch file
start such a node again.
"""

from __future__ import annotations

import ctypes
import faulthandler
import threading
from collections.abc import Callable
from types import TracebackType

from rrto_ros.errors import UnavailableError
from rrto_ros.shim.build import ensure_built

STILL_S = 10.0
"""How long no thread of Python may have run. While the whole process is stopped no time passes."""
BEAT_S = 0.5


class Watchdog:
    """A context manager: within it the process is aborted when Python stands still.

    Args:
        name: Of the node, for the line.
        still_s: How long it may.
        log: Takes the line that there is no watchdog, where none can be had.
    """

    def __init__(
        self, name: str, still_s: float = STILL_S, log: Callable[[str], None] = lambda _: None
    ) -> None:
        self._name = name
        self._still_s = still_s
        self._log = log
        self._stop = threading.Event()
        self._library: ctypes.CDLL | None = None
        self._thread = threading.Thread(target=self._beat, name="watchdog-beat", daemon=True)

    def __enter__(self) -> Watchdog:  # noqa: PYI034 (Self is newer than Python 3.10)
        text = (
            f"{self._name}: no thread of Python has run for {self._still_s:g} s (a call into the "
            "middleware does not return); the process is ended to be started again\n"
        )
        try:
            library = ctypes.CDLL(str(ensure_built() / "librrto_recorder.so"))
            error = library.rrto_watch(int(self._still_s * 1000), text.encode())
        except (UnavailableError, OSError) as reason:
            self._log(f"{self._name} runs without a watchdog: {reason}")
            return self
        if error:
            self._log(f"{self._name} runs without a watchdog: no thread (error {error})")
            return self
        self._library = library
        faulthandler.enable()  # the stacks of what stands still
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._library is not None:
            self._library.rrto_watch(0, b"")
            self._stop.set()
            self._thread.join()

    def _beat(self) -> None:
        assert self._library is not None
        while not self._stop.wait(BEAT_S):
            self._library.rrto_beat()
