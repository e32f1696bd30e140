"""A stream of batches as the literal records that it means, for readers that execute nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rrto_ros.api.codec import decode_call, iter_headers
from rrto_ros.api.wire import PLAN_DEFINE_OP, PLAN_REF_OP, Buffer
from rrto_ros.errors import ProtocolError
from rrto_ros.replay.plan import MAX_PLANS, Plan, decode_plan, literal, read_reference


class LiteralReader:
    """Reads one session's batches in order. Not thread-safe."""

    def __init__(self) -> None:
        self._plans: dict[int, Plan] = {}
        self._references = 0

    def read(self, batch: Buffer) -> Iterator[Buffer]:
        """The records of a batch, definitions left out and references replaced.

        Raises:
            ProtocolError: A record does not fit the format, or its plan is not defined.
        """
        view = memoryview(batch).cast("B")
        for header in iter_headers(view):
            if header.op == PLAN_DEFINE_OP:
                record = decode_call(view, header)
                number, digest = record.values
                if not 1 <= number <= MAX_PLANS:
                    raise ProtocolError(f"plan number {number}, they are 1 to {MAX_PLANS}")
                self._plans[number] = decode_plan(record.payload or b"", bytes(digest))
            elif header.op == PLAN_REF_OP:
                reference = read_reference(view, header)
                plan = self._plans.get(reference.plan)
                if plan is None:
                    raise ProtocolError(f"reference to plan {reference.plan}, not defined")
                self._references += 1
                yield from literal(plan, reference)
            else:
                yield view[header.offset : header.offset + header.size]

    def statistics(self) -> dict[str, int]:
        """Plans known now and references read."""
        return {"plans": len(self._plans), "references": self._references}
