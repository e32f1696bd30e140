"""Workers that wait for their session: owns the spares, so that a session opens without a start.

A spare is a worker process with its device's modules imported, or about to import them, and no
device yet. Starting one takes about half a second; taking one takes none, or what is left of its
start, and another is started in its place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rrto_ros.confinement import AUTO
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.errors import UnavailableError


class WorkerPool:
    """Keeps `spares` started workers.

    Args:
        spares: How many wait, 0 to start each when it is needed.
        preload: Device whose modules they import.
        factory: ``module:attribute`` of a device factory, for tests.
        log: Takes the workers' stderr lines and what goes wrong here.
        start_timeout_s: How long a worker may take to start, in seconds.
        confinement: What workers give up (`confinement.MODES`).

    Attributes:
        confined: By what they are confined, in words; empty before the first one has started.
    """

    def __init__(
        self,
        spares: int,
        preload: str = "",
        factory: str = "",
        log: Callable[[str], None] = lambda _: None,
        start_timeout_s: float = 20.0,
        confinement: str = AUTO,
    ) -> None:
        self._confinement = confinement
        self.confined = ""
        self._spares = spares
        self._preload = preload
        self._factory = factory
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._waiting: deque[WorkerProcess] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._started = 0
        self._taken_warm = 0
        self._taken_starting = 0
        self._filler = threading.Thread(target=self._fill, name="worker-pool", daemon=True)
        self._filler.start()

    def take(self) -> WorkerProcess:
        """A started worker, a waiting one if there is.

        Raises:
            UnavailableError: The pool is closed, or a worker does not start.
        """
        with self._changed:
            if self._closed.is_set():
                raise UnavailableError("the server is shutting down")
            worker = None
            while self._waiting:
                worker = self._waiting.popleft()
                if worker.alive:
                    warm = worker.ready.is_set()
                    self._taken_warm += warm
                    self._taken_starting += not warm
                    break
                worker = None
            self._changed.notify()
        if worker is None:
            worker = self._start()
        if not worker.ready.wait(self._start_timeout_s) or not worker.alive:
            worker.close(0.0)
            raise UnavailableError(
                f"a session worker did not start within {self._start_timeout_s:g} s; "
                "the log has its output"
            )
        self._say(worker)
        return worker

    def close(self) -> None:
        """End the waiting workers and start no more."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        self._filler.join(timeout=5.0)
        while self._waiting:
            self._waiting.popleft().close(0.5)

    def statistics(self) -> dict[str, int]:
        """Workers started, waiting now, and sessions that found one ready, or starting."""
        with self._changed:
            waiting = sum(worker.ready.is_set() for worker in self._waiting)
        return {
            "started": self._started,
            "waiting": waiting,
            "taken_warm": self._taken_warm,
            "taken_starting": self._taken_starting,
        }

    def _start(self) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(self._preload, self._factory, self._log, self._confinement)

    def _say(self, worker: WorkerProcess) -> None:
        """Say once how workers are confined; their user's number is each one's own."""
        with self._changed:
            first, self.confined = not self.confined, self.confined or worker.confined
        if first and worker.confined:
            self._log(f"session workers are confined by {worker.confined}")

    def _fill(self) -> None:
        while True:
            with self._changed:
                while not self._closed.is_set() and len(self._waiting) >= self._spares:
                    self._changed.wait()
                if self._closed.is_set():
                    return
                # A session that comes now waits for this one, rather than start another beside it.
                try:
                    worker = self._start()
                except UnavailableError as error:
                    self._log(str(error))
                    return
                self._waiting.append(worker)
            # One after another: a start takes a core, which the open sessions need.
            if worker.ready.wait(self._start_timeout_s) and worker.alive:
                self._say(worker)
            if not worker.alive and not self._closed.is_set():
                # Not again and again: the session that needs one tries once more, and is told.
                self._log("a spare session worker ended at its start")
                return
