"""Finding the operator sequence that every inference repeats."""

from __future__ import annotations

from rrto_ros.api.choices import SEARCHES
from rrto_ros.errors import ConfigError
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.search.data_dependency import DataDependencySearch
from rrto_ros.robot.search.operator_sequence import OperatorSequenceSearch
from rrto_ros.robot.search.sequence import Search, SearchOptions, Sequence, plan_of, shared_prefix
from rrto_ros.wire.plan import Varying

ALGORITHMS: dict[str, type[OperatorSequenceSearch | DataDependencySearch]] = dict(
    zip(SEARCHES, (OperatorSequenceSearch, DataDependencySearch), strict=True)
)
"""Values of the parameter `search`; the first is the default."""


def make_search(name: str, log: CallLog, options: SearchOptions | None = None) -> Search:
    """The named search over a log.

    Raises:
        ConfigError: There is no such algorithm.
    """
    if name not in ALGORITHMS:
        raise ConfigError(f"search {name!r}: it must be one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name](log, options or SearchOptions())


__all__ = [
    "ALGORITHMS",
    "DataDependencySearch",
    "OperatorSequenceSearch",
    "Search",
    "SearchOptions",
    "Sequence",
    "Varying",
    "make_search",
    "plan_of",
    "shared_prefix",
]
