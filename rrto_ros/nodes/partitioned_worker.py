"""What executes a session at two places: owns its threads, and the two sessions it is made of.

To the session's host (`edge/host.py`) it is what a worker process is: it takes batches and gives
results. One thread executes batches (`robot/partition/session.py`) and waits where bytes go from
place to place; another takes what the places answer, so that who brings their messages never
waits.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from rrto_ros.api.choices import EXACT
from rrto_ros.api.results import CUresult
from rrto_ros.edge.worker_process import WorkerDeath
from rrto_ros.errors import ProtocolError, RrtoError
from rrto_ros.execution.messages import Results
from rrto_ros.execution.progress import Executing
from rrto_ros.robot.partition.adaptive import Adaptive
from rrto_ros.robot.partition.end_session import EndSession
from rrto_ros.robot.partition.known_calls import KnownCalls
from rrto_ros.robot.partition.planner import Aim, Planner
from rrto_ros.robot.partition.session import PartitionedSession
from rrto_ros.wire.format import Buffer

_NAMES = ("this robot's own device", "the edge")
EndMaker = Callable[
    [int, Callable[[bytes, int], None], Callable[[str], None], Callable[[], bool]], EndSession
]
"""Makes the session at a place: told the place, what takes its results and its loss, and what says
that no more results are wanted."""
MOST_UNTAKEN_BYTES = 64 << 20
"""Results that wait for the program; with more the places are asked to send none."""


class PartitionedWorker:
    """One session's.

    Args:
        capability: Compute capability of its device.
        aim: What placements are chosen for.
        make: Makes the sessions at the places.
        on_results: Takes results (a thread of its own).
        on_malformed: Told of a batch that is no call log.
        on_death: Told once if it cannot go on, although its places can.
        on_loss: Told once, instead, that a place is lost.
    """

    def __init__(
        self,
        capability: tuple[int, int],
        aim: Aim,
        make: EndMaker,
        on_results: Callable[[Results], None],
        on_malformed: Callable[[str], None],
        on_death: Callable[[WorkerDeath], None],
        on_loss: Callable[[str], None],
    ) -> None:
        self._on_results, self._on_malformed = on_results, on_malformed
        self._on_death, self._on_loss = on_death, on_loss
        self._batches: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, bytes, int] | None] = queue.SimpleQueue()
        # Results for the program, from both threads; one of them takes them.
        self._records: deque[bytes] = deque()
        self._done = self._executed = self._untaken = 0
        self._dead = threading.Event()
        self._lock = threading.Lock()
        self.ends = tuple(
            make(place, self._taker(place), self._loser(place), self.full) for place in (0, 1)
        )
        self._knows = KnownCalls(capability)
        self._planner = Planner(aim, self.ends[1], typed=self._knows.typed)
        self._adaptive = None
        if aim.transfer_precision != EXACT:
            self._adaptive = Adaptive(aim.accuracy_budget, self.ends[1])
        self._session = PartitionedSession(
            self.ends, self._knows, self._records.append, self._planner, adaptive=self._adaptive
        )
        self._threads = [
            threading.Thread(target=run, name=f"partitioned {name}", daemon=True)
            for name, run in (("calls", self._execute), ("results", self._answer))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def resident_bytes(self) -> int:
        """Memory of a process of its own: it has none."""
        return 0

    def send(self, batch: Buffer) -> None:
        """Hand over a batch; never waits."""
        self._batches.put(batch)

    def full(self) -> bool:
        """Whether more results are here than the program takes."""
        return self._untaken > MOST_UNTAKEN_BYTES

    def end(self, reason: str) -> None:
        """End it because of something it did."""
        self._die(CUresult.LAUNCH_FAILED, reason)

    def close(self, patience_s: float = 2.0) -> None:
        """End it, and the sessions at the places."""
        self._dead.set()
        self._session.end("the session is closed")
        self._batches.put(None)
        self._answers.put(None)
        for end in self.ends:
            end.close("the session is closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(patience_s + 1.0)
        self._knows.close()

    def statistics(self) -> dict[str, Any]:
        """Counters of the session, of what places its calls, and of both links."""
        return {
            "executor": self._session.statistics(),
            "sent_bytes": self.ends[1].traffic[0],
            "received_bytes": self.ends[1].traffic[1],
            "planner": self._planner.statistics(),
            "precision": self._adaptive.statistics() if self._adaptive is not None else {},
            "robot": self.ends[0].statistics(),
            "edge": self.ends[1].statistics(),
        }

    def in_words(self) -> str:
        """Where its work ran, for people."""
        executor, planner = self._session.statistics(), self._planner.statistics()
        sent, received = self.ends[1].traffic
        text = (
            f"{executor['work_robot']} calls on this robot and {executor['work_edge']} at the "
            f"edge, with {executor['brought_bytes']} bytes brought between them, "
            f"{sent} sent to the edge and {received} received; "
            f"{planner['understood']} of {planner['plans']} plans understood, "
            f"{planner['changes']} placements"
        )
        if self._adaptive is not None:
            text += f"; {self._adaptive.in_words()}"
        why = planner["last_refusal"]
        return f"{text}; not placed: {why}" if why else text

    def _taker(self, place: int) -> Callable[[bytes, int], None]:
        def took(records: bytes, executed: int) -> None:
            with self._lock:
                self._untaken += len(records)
            self._answers.put((place, records, executed))

        return took

    def _loser(self, place: int) -> Callable[[str], None]:
        return lambda why: self._lose(f"{_NAMES[place]}: {why}")

    def _execute(self) -> None:
        while (batch := self._batches.get()) is not None:
            if self._dead.is_set():
                continue
            try:
                self._session.execute(batch)
            except ProtocolError as error:
                self._on_malformed(f"malformed call log: {error}")
                return
            except RrtoError as error:
                self._lose(str(error))
                return
            except Exception as error:
                self._die(CUresult.UNKNOWN, f"{type(error).__name__}: {error}")
                return
            if self._records:
                # Answers that no place gives: nothing of one may come after them.
                self._answers.put((0, b"", 0))

    def _answer(self) -> None:
        while (answer := self._answers.get()) is not None:
            place, records, executed = answer
            with self._lock:
                self._untaken -= len(records)
            if self._dead.is_set():
                continue
            try:
                if records:
                    self._session.results(place, records)
                self._done, self._executed = self._session.progress(place, executed)
            except Exception as error:
                self._die(CUresult.UNKNOWN, f"{_NAMES[place]}: {type(error).__name__}: {error}")
                return
            made = b"".join(self._records.popleft() for _ in range(len(self._records)))
            last = self._session.last_reply
            self._on_results(Results(made, self._executed, self._done, last))

    def _lose(self, why: str) -> None:
        """A place is lost: the program's session can go on elsewhere; said once."""
        if self._stops(why):
            self._on_loss(why)

    def _stops(self, why: str) -> bool:
        """Nothing is executed any more; whether that is new."""
        with self._lock:
            if self._dead.is_set():
                return False
            self._dead.set()
        self._session.end(why)
        return True

    def _die(self, status: CUresult, text: str) -> None:
        """No call is executed any more; said once."""
        if self._stops(text):
            self._on_death(WorkerDeath(status, text, Executing(self._executed, 0, "")))
