"""Record and replay of one session on the robot: records in, what to send out.

Joins the reference writer (what is sent) and the learner (what is searched). `feed` is on the way
of every call; `think` is to be called when the calls have left, so that no call waits for the
search.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rrto_ros.api.choices import RUN_AHEAD
from rrto_ros.errors import ConfigError
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.plan_store import PlanMemory, StartUp
from rrto_ros.robot.replay.learner import SEARCH_MEMORY_BYTES, Learner, tracks
from rrto_ros.robot.replay.reference_writer import Fed, ReferenceWriter
from rrto_ros.robot.search import SearchOptions
from rrto_ros.wire.codec import CallHeader
from rrto_ros.wire.format import FLAG_WAITED, PLAN_TAKEN_OP, Buffer
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.templates import EFFECTS

RECORDING = "recording"
SEARCHING = "searching"
REPLAYING = "replaying"


@dataclass(frozen=True)
class ReplayOptions:
    """Parameters of record and replay.

    Attributes:
        search: Algorithm: operator_sequence or data_dependency.
        min_repetitions: How often a sequence must have been seen before it is replayed.
        min_length: Shortest sequence, calls.
        max_length: Longest sequence, calls.
        drop_after: A plan that failed so often in a row rests for a while.
        search_memory_bytes: What call log and search may hold, by estimate.
        shim_matches: The shim compares the calls of a plan itself.
        run_ahead: One of `RUN_AHEAD`.
    """

    search: str = "operator_sequence"
    min_repetitions: int = 2
    min_length: int = 3
    max_length: int = 32768
    drop_after: int = 16
    search_memory_bytes: int = SEARCH_MEMORY_BYTES
    shim_matches: bool = True
    run_ahead: str = "reads"


@dataclass(frozen=True)
class ReplayState:
    """What the status shows of record and replay.

    Attributes:
        phase: recording, searching or replaying.
        plans: Sequences that are replayed.
        sequence_calls, sequence_repetitions: Of the one that was replayed last.
        inferences: Sequences replayed from end to end.
        divergences: How often the program left one.
        hit_rate: Share of the calls that did not travel one by one.
        speculation_saved: Times that the program waited for a call whose result came without an
            exchange; `speculation_saved_ms`: round trips saved by that.
        speculation_rollbacks: Times that speculative calls were rolled back.
        speculation_lost_ms: Time lost by that, and with checkpoints.
    """

    phase: str
    plans: int = 0
    sequence_calls: int = 0
    sequence_repetitions: int = 0
    inferences: int = 0
    divergences: int = 0
    hit_rate: float = 0.0
    speculation_saved: int = 0
    speculation_saved_ms: float = 0.0
    speculation_rollbacks: int = 0
    speculation_lost_ms: float = 0.0


class Replayer:
    """One session's record and replay. Not thread-safe, but for `state` and `statistics`.

    Args:
        options: Parameters.
        blobs: What to do with uploads; None to leave them.
        memory: Plans of earlier starts; None for none.

    Raises:
        ConfigError: A parameter cannot be used.
    """

    def __init__(
        self,
        options: ReplayOptions,
        blobs: BlobReferences | None = None,
        memory: PlanMemory | None = None,
    ) -> None:
        if options.run_ahead not in RUN_AHEAD:
            raise ConfigError(f"run_ahead {options.run_ahead!r} is none of {', '.join(RUN_AHEAD)}")
        self.references = ReferenceWriter(blobs, options.drop_after, options.run_ahead)
        """The reference that is being made; what it holds was fed and is not in a part yet."""
        self.speculation = self.references.speculation
        self._learner = Learner(
            options.search,
            SearchOptions(options.min_repetitions, options.min_length, options.max_length),
            options.search_memory_bytes,
        )
        self._memory = memory
        self._recalls = memory is not None
        self._learns_start = memory is not None
        self._start: StartUp | None = None
        self._follow = False
        self._shim_matches = options.shim_matches
        self._told = (0, 0, False)
        self._phase = RECORDING
        self._failure = ""
        self._think_s = 0.0
        self._think_max_s = 0.0

    @property
    def backlog(self) -> int:
        """Bytes of records that `think` has not looked at."""
        return 0 if self._failure else self._learner.backlog

    @property
    def idle_work(self) -> bool:
        """Whether `think` has something to do."""
        return self.backlog > 0 or bool(self.references.plans.proven)

    @property
    def plans(self) -> list[tuple[Plan, int]]:
        """Plans that calls are matched with now; how often each was followed to its end."""
        return [(entry.plan, entry.completed) for entry in self.references.plans.active]

    def recall(self) -> list[Buffer]:
        """Match with the plans of earlier starts from now on; before the first call that is fed.

        Returns:
            What is to be sent before what is fed next.
        """
        if not self._recalls or self._memory is None:
            return []
        self._recalls = False
        found = self._memory.recall()
        out = self._replay(found.plans, found.apart) if found.plans else []
        if found.start is not None and not found.apart:
            out += self.references.add(found.start.plan, found.start.inferences)
        return out

    def end(self) -> None:
        """The session is over: keep what it learnt."""
        if self._memory is not None:
            self._keep()
            self._memory.close()

    def feed(self, data: memoryview) -> Fed:
        """Take whole records from the program; see `ReferenceWriter.feed`.

        Raises:
            ProtocolError: A record does not fit the format.
        """
        before, starts = self.references.divergences, self.references.starts_up
        # A plan may be given back further on in the same buffer.
        plans = self.references.shim.plans
        fed = self.references.feed(data)
        if not self._failure:
            self._learner.take(
                data,
                clean=fed.clean and not (self._follow or starts or self._learns_start),
                parted=fed.parted,
                plans=plans if fed.items else None,
                large=fed.large,
            )
        if fed.ended or (starts and fed.clean):
            self._phase = REPLAYING
        elif self.references.divergences != before:
            self._phase = SEARCHING
        if starts and self.references.plans.started:
            self._learns_start = False
        return fed

    def pass_by(self, op: int, data: memoryview, offset: int, size: int) -> None:
        """Another mode sends this record; the log follows what memory and graphs there are."""
        if EFFECTS.get(op) and not self._failure:
            self._learner.take(data[offset : offset + size], clean=False, parted=True)

    def pass_item(self, view: memoryview, header: CallHeader) -> tuple[Buffer, list[int]]:
        """Another mode is on, and the shim still had something to say.

        Returns:
            What to send for it, maybe nothing, and the calls of it that are waited for.

        Raises:
            ProtocolError: It does not fit the format or the plans.
        """
        shim = self.references.shim
        if header.op == PLAN_TAKEN_OP:
            shim.taken(view, header)
            return b"", []
        ref = shim.reference(view, header)
        record = view[header.offset : header.offset + header.size]
        if tracks(shim.plans[ref.plan]) and not self._failure:
            self._learner.take(record, clean=False, parted=True, plans=shim.plans)
        return record, [ref.index + k for k, bits in ref.flags.items() if bits & FLAG_WAITED]

    def shim_news(self) -> list[Buffer]:
        """What to put into the reply ring, so that the shim matches with the active plans.

        Plans that `think` found must have been sent, or be before what is fed next.
        """
        plans, shim = self.references.plans, self.references.shim
        version = (plans.version, shim.version, self.references.apart)
        # In the middle of a start the shim would take up a sequence that begins like a part of it.
        if not self._shim_matches or version == self._told or self.references.starts_up:
            return []
        self._told = version
        wanted = {entry.number: entry for entry in plans.active}
        return shim.tell(wanted, apart=self.references.apart)

    def close(self) -> list[Buffer]:
        """End the open reference; returns what to send for it at last, maybe nothing."""
        return self.references.close(last=True)

    def think(self) -> list[Buffer]:
        """Search the oldest buffer of the backlog; keep the plans that were found right.

        A search that fails is switched off; the plans that are known are replayed further.

        Returns:
            What is to be sent before what is fed next.
        """
        started = time.perf_counter()
        try:
            plans = self._learner.think() if self.backlog else []
        except Exception as error:
            # The calls were sent already; only what could be learnt from them is lost.
            self._failure = f"{type(error).__name__}: {error}"
            plans = []
        out = self._replay(plans, self._learner.apart) if plans else []
        if plans and self._learns_start:
            self._learns_start = False
            self._start = self._learner.start_up()
        self._keep()
        seconds = time.perf_counter() - started
        self._think_s += seconds
        self._think_max_s = max(self._think_max_s, seconds)
        return out

    def _replay(self, plans: Iterable[Plan], apart: bool) -> list[Buffer]:
        out: list[Buffer] = []
        self.references.set_apart(apart)
        for plan in plans:
            out += self.references.add(plan)
            # Else the log would lose track of the memory that an inference allocates.
            self._follow = self._follow or tracks(plan)
        if self.references.plans.active and self._phase == RECORDING:
            self._phase = SEARCHING
        return out

    def _keep(self) -> None:
        plans = self.references.plans
        if self._memory is not None and (plans.proven or (self._start and plans.last)):
            self._memory.keep(plans.proven, apart=self.references.apart, start=self._start)
            self._start = None
        plans.proven.clear()

    def pause(self) -> list[Buffer]:
        """Calls will pass by for a while (another mode); returns what to send first."""
        out = self.references.close()
        self.references.reset()
        self._phase = RECORDING
        return out

    def state(self) -> ReplayState:
        """What the status shows."""
        plans = self.references.plans
        last = plans.last
        speculation, cost = self.speculation, self.speculation.cost
        return ReplayState(
            self._phase,
            len(plans.active),
            len(last.plan) if last is not None else 0,
            last.completed if last is not None else 0,
            plans.completed,
            self.references.divergences,
            self.references.hit_rate,
            speculation.waits,
            speculation.saved_s * 1000,
            cost.rollbacks,
            (cost.lost_s + cost.copies_s) * 1000,
        )

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters of reference writer and learner, and the time that the search took."""
        return {
            **self.references.statistics(),
            **self.speculation.statistics(),
            **self._learner.statistics(),
            **(self._memory.statistics() if self._memory is not None else {}),
            "think_s": round(self._think_s, 6),
            "think_max_s": round(self._think_max_s, 6),
            "search_failure": self._failure,
        }
