"""A session's plans on the server: owns their numbers and their calls prepared for execution.

Each call of a plan is decoded once, when the plan is defined. A reference becomes the same steps
that its literal records would be; only calls with varying words are decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

from rrto_ros.errors import ProtocolError
from rrto_ros.execution.chains import SHORTEST, Part, Run
from rrto_ros.execution.dispatch import Prepared
from rrto_ros.execution.server_ahead import ServerAhead
from rrto_ros.execution.undo import Undo
from rrto_ros.execution.write_ranges import FOLLOWED, Layout
from rrto_ros.wire.codec import CallHeader, CallRecord, decode_call
from rrto_ros.wire.format import (
    ALL_FLAGS,
    FLAG_AHEAD,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    HEADER_BYTES,
)
from rrto_ros.wire.plan import Plan, pieces, read_define, read_reference
from rrto_ros.wire.templates import CallTemplate

MAX_SESSION_BYTES = 64 << 20
_NO_HEADER = bytes(HEADER_BYTES)
Parts = Callable[[Sequence[CallRecord | None]], list[Part]]
"""Finds the parts of a plan's calls."""


class Step(NamedTuple):
    """One call to execute; without a record it is to be decoded, without `run` dispatched.

    A call that is `done` was executed ahead, and its result is with the robot.
    """

    header: CallHeader
    record: CallRecord | None = None
    run: Prepared | None = None
    done: bool = False
    several: Run | None = None
    """Calls that are executed as one; `header` is the first one's."""


class Ready:
    """A plan whose calls are decoded.

    Args:
        plan: The plan.
        prepare: Makes what executes a call that is always the same.
        parts: Finds what the device runs as one.

    Attributes:
        called: Of each call: the layout of memory in which the program made it last, in this
            session; None before that, or where the layout changed in between.
        evidence: Counts changes of `called`.

    Raises:
        ProtocolError: The fields of a call do not fit its operation.
    """

    def __init__(
        self, plan: Plan, prepare: Callable[[CallRecord], Prepared], parts: Parts
    ) -> None:
        self.plan = plan
        self.records: list[CallRecord | None] = []
        self.runs: list[Prepared | None] = []
        for k, call in enumerate(plan.calls):
            if k in plan.ranges:
                # Decoded with each reference: only then it is whole.
                self.records.append(None)
                self.runs.append(None)
                continue
            record = _decode(call.code, call.body)
            self.records.append(record)
            self.runs.append(None if call.payload_bytes else prepare(record))
        self.called: list[Layout | None] = [None] * len(plan.calls)
        self.evidence = 0
        self._change: list[int] = [len(plan.calls)] * (len(plan.calls) + 1)
        for k in range(len(plan.calls) - 1, -1, -1):
            changes = plan.calls[k].code in FOLLOWED
            self._change[k] = k if changes else self._change[k + 1]
        self.parts = parts(
            [
                _template(call) if record is None else record
                for call, record in zip(plan.calls, self.records, strict=True)
            ]
        )

    def calls(self, first: int, end: int, layout: Layout) -> None:
        """The program makes calls `first` to `end`, in this layout of memory until one changes it.

        What such a call touches is thereby known to be there: a program is taken to be correct
        in what it calls, never in what another one called.
        """
        end = min(end, self._change[first])
        made = [layout] * (end - first)
        if self.called[first:end] != made:
            self.called[first:end] = made
            self.evidence += 1

    def together(self, first: int, steps: list[Step]) -> list[Step]:
        """Put steps of a reference that begins with call `first` together, part by part."""
        out: list[Step] = []
        done = 0
        for part in self.parts:
            start, end = max(part.start - first, 0), min(part.end - first, len(steps))
            while start < end:
                row = list(takewhile(_quiet, steps[start:end]))
                if len(row) >= SHORTEST:
                    out += steps[done:start]
                    varying = [k for k in range(len(row)) if first + start + k in self.plan.ranges]
                    run = Run(
                        part,
                        first + start - part.start,
                        tuple(step.header for step in row),
                        tuple(step.record for step in row if step.record is not None),
                        tuple(varying),
                    )
                    out.append(Step(row[0].header, several=run))
                    done = start + len(row)
                start += len(row) + 1
        return out + steps[done:]


def _quiet(step: Step) -> bool:
    """Whether nothing is to be done about a call but to execute it."""
    return not step.header.flags and not step.done and step.record is not None


def _template(call: CallTemplate) -> CallRecord | None:
    """A call whose arguments vary, with any; None if they say how long it is."""
    try:
        return _decode(call.code, call.body)
    except ProtocolError:
        return None


def _decode(code: int, body: bytes) -> CallRecord:
    """A call of a plan, which was checked to have a known operation and whole words."""
    header = CallHeader(0, HEADER_BYTES + len(body), code, 0, 0, 0, 0)
    return decode_call(memoryview(_NO_HEADER + body), header)


class PlanRunner:
    """The plans of one session by number.

    Args:
        prepare: Makes what executes a call that is always the same.
        undo: For calls that are executed before the program makes them.
        layout: The layout of memory as it is now.
        parts: Finds what the device runs as one.
    """

    def __init__(
        self,
        prepare: Callable[[CallRecord], Prepared],
        undo: Undo,
        layout: Callable[[], Layout],
        parts: Parts = lambda _: [],
    ) -> None:
        self._prepare = prepare
        self._layout = layout
        self._parts = parts
        self._plans: dict[int, Ready] = {}
        self._bytes = 0
        self._defined = 0
        self._references = 0
        self._calls = 0
        self.ahead: ServerAhead[Ready] = ServerAhead(undo)

    def define(self, view: memoryview, header: CallHeader) -> None:
        """Take a PLAN_DEFINE record; a number that is taken gets the new plan.

        Raises:
            ProtocolError: It does not fit the format, or is one too many.
            CudaError: What was executed ahead could not be undone.
        """
        if header.flags:
            raise ProtocolError(f"definition of a plan with flags 0x{header.flags:x}")
        number, plan = read_define(view, header)
        old = self._plans.pop(number, None)
        if old is not None:
            if old is self.ahead.plan:
                self.ahead.drop()
            self._bytes -= len(old.plan.encoded)
        if self._bytes + len(plan.encoded) > MAX_SESSION_BYTES:
            raise ProtocolError(f"plans of more than {MAX_SESSION_BYTES} bytes in one session")
        self._plans[number] = Ready(plan, self._prepare, self._parts)
        self._bytes += len(plan.encoded)
        self._defined += 1

    def expand(self, view: memoryview, header: CallHeader) -> list[Step]:
        """The calls that a PLAN_REF record stands for; checked whole before any is executed.

        Raises:
            ProtocolError: It does not fit the format or its plan.
            CudaError: What was executed ahead could not be undone.
        """
        ref = read_reference(view, header)
        ready = self._plans.get(ref.plan)
        if ready is None:
            raise ProtocolError(f"reference to plan {ref.plan}, which was not defined")
        steps: list[Step] = []
        calls, records, runs = ready.plan.calls, ready.records, ready.runs
        shift = ref.index - ref.first
        for k, marks, body, payload in pieces(ready.plan, ref):
            call = calls[k]
            size = len(payload) if payload is not None else 0
            flags = marks & ALL_FLAGS
            head = CallHeader(0, 0, call.code, flags, k + shift, ref.thread, size)
            record, run = records[k], runs[k]
            if body is not None:
                record = _decode(call.code, body)
            assert record is not None
            if payload is not None:
                record = replace(record, payload=payload, flags=flags, index=head.index)
            elif flags & (FLAG_BLOB_REF | FLAG_KEEP):
                raise ProtocolError(f"call {k} of plan {ref.plan} has no payload to keep")
            steps.append(Step(head, record, run))
        # Only now it is known that the reference fits.
        used = self.ahead.follow(ready, ref)
        ready.calls(ref.first + used, ref.first + ref.count, self._layout())
        for k in range(used):
            if ref.flags.get(k, 0) & (FLAG_REPLY | FLAG_AHEAD) == FLAG_REPLY:
                self.ahead.again()
            else:
                steps[k] = steps[k]._replace(done=True)
        self._references += 1
        self._calls += ref.count
        return ready.together(ref.first, steps) if ready.parts else steps

    def next_ahead(self) -> tuple[CallRecord, Prepared, int] | None:
        """The call that may be executed ahead now, if any, and its `Plan.answers`."""
        ahead = self.ahead
        if ahead.plan is None or ahead.done >= ahead.wanted:
            return None
        position = ahead.position + ahead.done
        record, run = ahead.plan.records[position], ahead.plan.runs[position]
        if record is None or run is None:
            return None
        return record, run, ahead.plan.plan.answers[position]

    def statistics(self) -> dict[str, int]:
        """Plans held and defined, their bytes, references and the calls in them."""
        return {
            "plans": len(self._plans),
            "plan_bytes": self._bytes,
            "plans_defined": self._defined,
            "references": self._references,
            "referenced_calls": self._calls,
        }
