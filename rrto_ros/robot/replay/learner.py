"""From a session's calls to plans: owns its call log, its search, and what they need not see.

Calls of an inference that was replayed from end to end teach nothing new. They are held until it
is clear that nothing deviated, then dropped unseen, so that steady state costs no search.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.plan_store import StartUp
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.search import SearchOptions, make_search
from rrto_ros.robot.search.rounds import Lane
from rrto_ros.robot.search.sequence import Sequence, plan_of
from rrto_ros.wire.literal import literal_records
from rrto_ros.wire.plan import MAX_PLAN_CALLS, Plan, Varying
from rrto_ros.wire.templates import EFFECTS, CallTemplate

SEARCH_MEMORY_BYTES = 192 << 20
LEAST_SEARCH_MEMORY_BYTES = 4 << 20
MAX_HELD_BYTES = 8 << 20
MAX_OFFERS = 32
MAX_START_UP_BYTES = 4 << 20
_MADE = 64
Plans = Mapping[int, Plan] | None
_Held = tuple[list[bytes | int], int, Plans]
"""Records, with the length of a large payload in its place; their bytes without it; the plans."""


class Learner:
    """Log and search of one session. Not thread-safe.

    Args:
        search: Name of the algorithm.
        options: Its thresholds.
        memory_bytes: What log and search may hold, by estimate; the log gets two thirds.

    Raises:
        ConfigError: There is no such algorithm, or that is too little.
    """

    def __init__(
        self,
        search: str,
        options: SearchOptions | None = None,
        memory_bytes: int = SEARCH_MEMORY_BYTES,
    ) -> None:
        if memory_bytes < LEAST_SEARCH_MEMORY_BYTES:
            raise ConfigError(
                f"search_memory_bytes {memory_bytes}: at least {LEAST_SEARCH_MEMORY_BYTES} are "
                "needed"
            )
        third = memory_bytes // 3
        options = replace(options or SearchOptions(), memory_limit_bytes=third)
        self._log = CallLog(memory_limit_bytes=memory_bytes - third)
        self._search = make_search(search, self._log, options)
        self._held: list[_Held] = []
        self._held_bytes = 0
        self._waiting: deque[_Held] = deque()
        self.backlog = 0
        """Bytes of records that `think` has not looked at."""
        self._made: OrderedDict[
            tuple[int, tuple[Varying, ...]], tuple[tuple[CallTemplate, ...], Plan | None]
        ] = OrderedDict()
        self._seen: dict[str, int | float | str] = {}
        self._unseen = 0
        self._impossible = 0
        self._first = 0
        self.apart = False
        """Whether the sequences found last are those of single threads."""

    def take(
        self,
        data: memoryview,
        *,
        clean: bool,
        parted: bool,
        plans: Plans = None,
        large: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Take records that were sent.

        Args:
            data: Whole records.
            clean: Every call was the expected one of a plan.
            parted: After them no lane is in the middle of a plan.
            plans: What references of the shim in them mean; None if there are none.
            large: (first, end) of payloads whose content need not be held.
        """
        if clean and parted and self._held_bytes <= MAX_HELD_BYTES:
            self._unseen += self._held_bytes + len(data)
        else:
            held, at = list[bytes | int](), 0
            for first, end in large:
                held += [bytes(data[at:first]), end - first]
                at = end
            held.append(bytes(data[at:]))
            size = sum(len(part) for part in held if isinstance(part, bytes))
            self._held.append((held, size, plans))
            self._held_bytes += size
            if clean and self._held_bytes <= MAX_HELD_BYTES:
                return
            self._waiting += self._held
            self.backlog += self._held_bytes
        self._held.clear()
        self._held_bytes = 0

    def think(self) -> list[Plan]:
        """Log and search the oldest buffer that was taken; returns the plans now offered.

        Raises:
            ProtocolError: The records do not fit their operations.
        """
        if not self._waiting:
            return []
        held, size, plans = self._waiting.popleft()
        self.backlog -= size
        # The log looks at no payload.
        data = b"".join(bytes(part) for part in held)
        self._log.extend(data if plans is None else b"".join(literal_records(data, plans)))
        changed = self._search.update()
        # `statistics` may be asked by another thread, which must not search.
        self._seen = {
            **{f"log_{key}": value for key, value in self._log.statistics().items()},
            **{f"search_{key}": value for key, value in self._search.statistics().items()},
        }
        if not changed:
            return []
        found = self._search.found()[:MAX_OFFERS]
        self.apart = any(s.thread is not None for s in found)
        self._first = min((s.start for s in found), default=0)
        made = (self._plan(sequence) for sequence in found)
        return [plan for plan in made if plan is not None]

    def start_up(self) -> StartUp | None:
        """What the program did before the first of the sequences found last; None if not known."""
        log, count = self._log, self._first
        if self.apart or log.base or not 0 < count <= MAX_PLAN_CALLS:
            return None
        if log.index_of(0) != 1 or log.index_of(count - 1) != count:
            return None  # it began in another mode, or calls were left out
        plan = Plan(tuple(log.template(position) for position in range(count)))
        if len(plan.encoded) > MAX_START_UP_BYTES:
            return None
        kinds = log.kinds[:count]
        cuts = Lane(None, count).extend(
            log.exact[:count], log.skeletons[:count], kinds, range(count)
        )
        rounds = [at for at, is_round in cuts if is_round]
        worked = int(Kind.WORK) in kinds[rounds[-1] if rounds else 0 :]
        return StartUp(plan, len(rounds) + worked)

    def _plan(self, sequence: Sequence) -> Plan | None:
        """The plan of a sequence, made once."""
        key = (id(sequence.items), sequence.varying)
        known = self._made.get(key)
        # What is kept keeps its id.
        if known is not None:
            self._made.move_to_end(key)
            return known[1]
        plan: Plan | None = None
        try:
            plan = plan_of(sequence)
        except ProtocolError:
            self._impossible += 1
        self._made[key] = (sequence.items, plan)
        if len(self._made) > _MADE:
            self._made.popitem(last=False)
        return plan

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters of log and search; `unseen_bytes` of calls that were not searched."""
        return {
            **self._seen,
            "unseen_bytes": self._unseen,
            "backlog_bytes": self.backlog,
            "impossible_plans": self._impossible,
        }


def tracks(plan: Plan) -> bool:
    """Whether a plan has calls that change what the log follows (allocations, graphs)."""
    return any(EFFECTS[call.code] for call in plan.calls)
