"""A stream of batches as the literal records that it means, for readers that execute nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import PLAN_DEFINE_OP, PLAN_REF_OP, Buffer
from rrto_ros.wire.plan import Plan, literal, read_define, read_reference


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
                number, plan = read_define(view, header)
                self._plans[number] = plan
            elif header.op == PLAN_REF_OP:
                reference = read_reference(view, header)
                known = self._plans.get(reference.plan)
                if known is None:
                    raise ProtocolError(f"reference to plan {reference.plan}, not defined")
                self._references += 1
                yield from literal(known, reference)
            else:
                yield view[header.offset : header.offset + header.size]

    def statistics(self) -> dict[str, int]:
        """Plans known now and references read."""
        return {"plans": len(self._plans), "references": self._references}
