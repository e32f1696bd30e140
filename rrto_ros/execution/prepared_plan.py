"""A plan prepared for execution: owns what its calls, and references to them, become.

Each call of a plan is decoded once, when the plan is defined. A reference becomes the same steps
that its literal records would be; only calls with varying words are decoded again. Where the
device can run a row of launches, copies and fills as one, those calls of a reference that follow
each other and that nobody waits for become one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from rrto_ros.api.ops import Work
from rrto_ros.devices.protocol import MemcpyNode, Segment, SegmentCall, SegmentDevice, SegmentWork
from rrto_ros.errors import ProtocolError
from rrto_ros.execution.access_ranges import FOLLOWED, Layout
from rrto_ros.execution.dispatch import Prepared, fill_of, launch_of
from rrto_ros.wire.codec import CallHeader, CallRecord, decode_call
from rrto_ros.wire.format import ALL_FLAGS, FLAG_BLOB_REF, FLAG_KEEP, HEADER_BYTES
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.reference import Reference, pieces

SHORTEST_ROW = 2
_NO_HEADER = bytes(HEADER_BYTES)


@dataclass(frozen=True)
class Preparer:
    """How a session prepares the calls of its plans.

    Attributes:
        call: Makes what executes a call that is always the same.
        device: Runs rows of calls as one, if the session's device can.
        note: What the progress page says of a call.
    """

    call: Callable[[CallRecord], Prepared]
    device: SegmentDevice | None = None
    note: Callable[[CallRecord], bytes] = lambda _: b""

    def row(self, records: list[CallRecord]) -> Segment:
        """Prepare calls that the device runs as one."""
        assert self.device is not None
        return self.device.prepare_segment([self.row_call(record) for record in records])

    def row_call(self, record: CallRecord) -> SegmentCall:
        """A call of a row as the device wants it."""
        return SegmentCall(_work_of(record), record["stream"], self.note(record))


@dataclass(slots=True)
class Row:
    """Launches, copies and fills that follow each other in a plan.

    Attributes:
        start: Place of the first call in the plan.
        records: The calls, those that vary with any arguments.
        segment: What the device made of them; None until they run for the first time.
    """

    start: int
    records: list[CallRecord]
    segment: Segment | None = None


class RowRun(NamedTuple):
    """Calls of a row that a reference runs as one.

    Attributes:
        row: The row.
        preparer: Of its plan.
        first: Place of the first call in the row.
        headers: Of the calls.
        records: Of the calls.
        varying: Places in `records` of those whose arguments vary.
    """

    row: Row
    preparer: Preparer
    first: int
    headers: list[CallHeader]
    records: list[CallRecord]
    varying: list[int]

    def execute(self, page: int) -> None:
        """Execute them.

        Args:
            page: Address of the progress page, or 0.

        Raises:
            CudaError: Of the call that `failed` tells.
        """
        row = self.row
        if row.segment is None:
            row.segment = self.preparer.row(row.records)
        changed = {self.first + k: self.preparer.row_call(self.records[k]) for k in self.varying}
        last = self.first + len(self.records)
        row.segment.run(self.first, last, changed, self.headers[0].index, page)

    @property
    def failed(self) -> int:
        """Place in `records` of the call that raised."""
        return 0 if self.row.segment is None else self.row.segment.position - self.first


class Step(NamedTuple):
    """One call to execute; without a record it is to be decoded, without `run` dispatched.

    A call that is `done` was executed speculatively, and its result is with the robot.
    """

    header: CallHeader
    record: CallRecord | None = None
    run: Prepared | None = None
    done: bool = False
    several: RowRun | None = None
    """Calls that are executed as one; `header` is the first one's."""


class PreparedPlan:
    """A plan whose calls are decoded and prepared.

    Args:
        plan: The plan.
        preparer: Prepares them.

    Attributes:
        records: Its calls, those that vary with any arguments; None where the arguments say how
            long the call is.
        runs: What executes a call that is always the same, None for another.
        called: Of each call: the layout of memory in which the program made it last, in this
            session; None before that, or where the layout changed in between.
        evidence: Counts changes of `called`.

    Raises:
        ProtocolError: The fields of a call do not fit its operation.
    """

    def __init__(self, plan: Plan, preparer: Preparer) -> None:
        self.plan = plan
        self.records: list[CallRecord | None] = []
        self.runs: list[Prepared | None] = []
        for k, call in enumerate(plan.calls):
            record = _decode(call.code, call.body, may_fail=k in plan.ranges)
            same = record is not None and k not in plan.ranges and not call.payload_bytes
            self.records.append(record)
            self.runs.append(preparer.call(record) if same and record is not None else None)
        self.called: list[Layout | None] = [None] * len(plan.calls)
        self.evidence = 0
        self._change: list[int] = [len(plan.calls)] * (len(plan.calls) + 1)
        for k in range(len(plan.calls) - 1, -1, -1):
            changes = plan.calls[k].code in FOLLOWED
            self._change[k] = k if changes else self._change[k + 1]
        self._preparer = preparer
        self._rows = self._find_rows() if preparer.device is not None else []

    def _find_rows(self) -> list[Row]:
        out: list[Row] = []
        row: list[CallRecord] = []
        for k, record in enumerate([*self.records, None]):
            if record is not None and record.op.only_writes and record.op.work is not Work.GRAPH:
                row.append(record)
                continue
            if len(row) >= SHORTEST_ROW:
                out.append(Row(k - len(row), row))
            row = []
        return out

    def made(self, first: int, end: int, layout: Layout) -> None:
        """The program makes calls `first` to `end`, in this layout of memory until one changes it.

        What such a call touches is thereby known to be there: a program is taken to be correct
        in what it calls, never in what another one called.
        """
        end = min(end, self._change[first])
        made = [layout] * (end - first)
        if self.called[first:end] != made:
            self.called[first:end] = made
            self.evidence += 1

    def steps(self, ref: Reference) -> list[Step]:
        """The calls that a reference stands for, one by one.

        Raises:
            ProtocolError: It does not fit the plan.
        """
        steps: list[Step] = []
        calls, records, runs = self.plan.calls, self.records, self.runs
        shift = ref.index - ref.first
        for k, marks, body, payload in pieces(self.plan, ref):
            call = calls[k]
            size = len(payload) if payload is not None else 0
            flags = marks & ALL_FLAGS
            head = CallHeader(0, 0, call.code, flags, k + shift, ref.thread, size)
            record = records[k] if body is None else _decode(call.code, body)
            assert record is not None
            if payload is not None:
                record = replace(record, payload=payload, flags=flags, index=head.index)
            elif flags & (FLAG_BLOB_REF | FLAG_KEEP):
                raise ProtocolError(f"call {k} of plan {ref.plan} has no payload to keep")
            steps.append(Step(head, record, runs[k]))
        return steps

    def together(self, first: int, steps: list[Step]) -> list[Step]:
        """Put steps of a reference that begins with call `first` together, row by row."""
        out: list[Step] = []
        done = 0
        for row in self._rows:
            start, end = max(row.start - first, 0), row.start + len(row.records) - first
            end = min(end, len(steps))
            while start < end:
                quiet = list(takewhile(_quiet, steps[start:end]))
                if len(quiet) >= SHORTEST_ROW:
                    out += steps[done:start]
                    at = first + start
                    run = RowRun(
                        row,
                        self._preparer,
                        at - row.start,
                        [step.header for step in quiet],
                        [step.record for step in quiet if step.record is not None],
                        [k for k in range(len(quiet)) if at + k in self.plan.ranges],
                    )
                    out.append(Step(quiet[0].header, several=run))
                    done = start + len(quiet)
                start += len(quiet) + 1
        return out + steps[done:]


def _quiet(step: Step) -> bool:
    """Whether nothing is to be done about a call but to execute it."""
    return not step.header.flags and not step.done and step.record is not None


def _work_of(record: CallRecord) -> SegmentWork:
    values, work = record.values, record.op.work
    if work is Work.LAUNCH:
        return launch_of(values, record["params"])
    return MemcpyNode(*values[:3]) if work is Work.COPY else fill_of(values)


def _decode(code: int, body: bytes, *, may_fail: bool = False) -> CallRecord | None:
    """A call of a plan, which was checked to have a known operation and whole words."""
    header = CallHeader(0, HEADER_BYTES + len(body), code, 0, 0, 0, 0)
    try:
        return decode_call(memoryview(_NO_HEADER + body), header)
    except ProtocolError:
        if may_fail:
            return None
        raise
