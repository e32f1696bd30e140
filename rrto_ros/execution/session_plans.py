"""A session's plans on the server: owns their numbers."""

from __future__ import annotations

from rrto_ros.errors import ProtocolError
from rrto_ros.execution.prepared_plan import PreparedPlan, Preparer, Step
from rrto_ros.execution.speculation import Speculation
from rrto_ros.wire.codec import CallHeader
from rrto_ros.wire.plan import read_define
from rrto_ros.wire.reference import read_reference

MAX_SESSION_BYTES = 64 << 20


class SessionPlans:
    """The plans of one session by number.

    Args:
        preparer: Prepares their calls.
        speculation: Told how each reference goes on.
    """

    def __init__(self, preparer: Preparer, speculation: Speculation) -> None:
        self._preparer = preparer
        self._speculation = speculation
        self._plans: dict[int, PreparedPlan] = {}
        self._bytes = 0
        self._defined = 0
        self._references = 0
        self._calls = 0

    def define(self, view: memoryview, header: CallHeader) -> None:
        """Take a PLAN_DEFINE record; a number that is taken gets the new plan.

        Raises:
            ProtocolError: It does not fit the format, or is one too many.
            CudaError: Speculative calls could not be rolled back.
        """
        if header.flags:
            raise ProtocolError(f"definition of a plan with flags 0x{header.flags:x}")
        number, plan = read_define(view, header)
        old = self._plans.pop(number, None)
        if old is not None:
            if old is self._speculation.plan:
                self._speculation.drop()
            self._bytes -= len(old.plan.encoded)
        if self._bytes + len(plan.encoded) > MAX_SESSION_BYTES:
            raise ProtocolError(f"plans of more than {MAX_SESSION_BYTES} bytes in one session")
        self._plans[number] = PreparedPlan(plan, self._preparer)
        self._bytes += len(plan.encoded)
        self._defined += 1

    def expand(self, view: memoryview, header: CallHeader) -> list[Step]:
        """The calls that a PLAN_REF record stands for; checked whole before any is executed.

        Raises:
            ProtocolError: It does not fit the format or its plan.
            CudaError: Speculative calls could not be rolled back.
        """
        ref = read_reference(view, header)
        plan = self._plans.get(ref.plan)
        if plan is None:
            raise ProtocolError(f"reference to plan {ref.plan}, which was not defined")
        steps = plan.steps(ref)
        # Only now it is known that the reference fits.
        for k in self._speculation.follow(plan, ref):
            steps[k] = steps[k]._replace(done=True)
        self._references += 1
        self._calls += ref.count
        return plan.together(ref.first, steps)

    def statistics(self) -> dict[str, int]:
        """Plans held and defined, their bytes, references and the calls in them."""
        return {
            "plans": len(self._plans),
            "plan_bytes": self._bytes,
            "plans_defined": self._defined,
            "references": self._references,
            "referenced_calls": self._calls,
        }
