"""Records as the program's calls: references replaced by what they stand for, nothing executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import (
    CHECKPOINT_OP,
    MEMORY_RESTORE_OP,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    PLAN_TAKEN_OP,
    PROFILE_OP,
    QUANTISED_READ_OP,
    QUANTISED_WRITE_OP,
    RESULTS_WANTED_OP,
    Buffer,
)
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import literal, read_reference

_NO_CALLS = (
    PLAN_TAKEN_OP, RESULTS_WANTED_OP, CHECKPOINT_OP, MEMORY_RESTORE_OP, PROFILE_OP,
    QUANTISED_READ_OP, QUANTISED_WRITE_OP,
)  # fmt: skip


def literal_records(
    batch: Buffer,
    plans: Mapping[int, Plan],
    define: Callable[[int, Plan], None] | None = None,
) -> Iterator[Buffer]:
    """The calls in a batch, or in what came out of a call ring, as one record each.

    Args:
        batch: Whole records.
        plans: What references mean.
        define: Takes a plan that the batch defines; None: that is an error.

    Raises:
        ProtocolError: A record does not fit the format, or its plan is not known.
    """
    view = memoryview(batch).cast("B")
    for header in iter_headers(view):
        if header.op == PLAN_DEFINE_OP and define is not None:
            define(*read_define(view, header))
        elif header.op == PLAN_REF_OP:
            reference = read_reference(view, header)
            plan = plans.get(reference.plan)
            if plan is None:
                raise ProtocolError(f"reference to plan {reference.plan}, not defined")
            yield from literal(plan, reference)
        elif header.op not in _NO_CALLS:
            yield view[header.offset : header.offset + header.size]


class LiteralReader:
    """Reads one session's batches in order. Not thread-safe."""

    def __init__(self) -> None:
        self._plans: dict[int, Plan] = {}

    def read(self, batch: Buffer) -> Iterator[Buffer]:
        """The records of a batch, definitions left out and references replaced.

        Raises:
            ProtocolError: A record does not fit the format, or its plan is not defined.
        """
        yield from literal_records(batch, self._plans, self._plans.__setitem__)

    def statistics(self) -> dict[str, int]:
        """Plans known now."""
        return {"plans": len(self._plans)}
