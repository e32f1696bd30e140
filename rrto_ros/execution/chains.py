"""Parts of a plan that a device runs as one: owns where they are and their prepared segments.

A part is a row of launches, copies and fills inside the device. Which of its calls a reference
runs as one is decided anew each time: those that follow each other and that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rrto_ros.api.ops import Work
from rrto_ros.devices.protocol import MemcpyNode, Segment, SegmentCall, SegmentDevice, SegmentWork
from rrto_ros.execution.dispatch import fill_of, launch_of
from rrto_ros.wire.codec import CallHeader, CallRecord

SHORTEST = 2

Note = Callable[[CallRecord], bytes]
"""What the progress page says of a call."""


def _work_of(record: CallRecord) -> SegmentWork:
    values, work = record.values, record.op.work
    if work is Work.LAUNCH:
        return launch_of(values, record["params"])
    return MemcpyNode(*values[:3]) if work is Work.COPY else fill_of(values)


class Part:
    """Calls `start` to before `end` of a plan.

    Args:
        start: In the plan.
        records: The calls, those that vary with any arguments.
        device: Prepares them, when they run for the first time.
        note: Describes a call.
    """

    def __init__(
        self, start: int, records: Sequence[CallRecord], device: SegmentDevice, note: Note
    ) -> None:
        self.start = start
        self.end = start + len(records)
        self._records = records
        self._device = device
        self._note = note
        self._segment: Segment | None = None

    @property
    def segment(self) -> Segment:
        """The prepared calls."""
        if self._segment is None:
            self._segment = self._device.prepare_segment([self.call(r) for r in self._records])
        return self._segment

    def call(self, record: CallRecord) -> SegmentCall:
        """A record as the device wants it."""
        stream = record["stream"]
        return SegmentCall(_work_of(record), stream, self._note(record))


@dataclass(frozen=True)
class Run:
    """Calls of a part that a reference runs as one.

    Attributes:
        part: The part.
        first: First call, counted in the part.
        headers: Of the calls.
        records: Of the calls.
        varying: Places in `records` of those whose arguments vary.
    """

    part: Part
    first: int
    headers: tuple[CallHeader, ...]
    records: tuple[CallRecord, ...]
    varying: tuple[int, ...]

    def execute(self, page: int) -> None:
        """Execute them.

        Args:
            page: Address of the progress page, or 0.

        Raises:
            CudaError: Of the call that `failed` tells.
        """
        changed = {self.first + k: self.part.call(self.records[k]) for k in self.varying}
        last = self.first + len(self.records)
        self.part.segment.run(self.first, last, changed, self.headers[0].index, page)

    @property
    def failed(self) -> int:
        """Place in `records` of the call that raised."""
        return self.part.segment.position - self.first


def parts_of(
    records: Sequence[CallRecord | None], device: SegmentDevice, note: Note
) -> list[Part]:
    """The parts of a plan, in order.

    Args:
        records: All its calls, those that vary with any arguments; None: in no part.
        device: Prepares them.
        note: Describes a call.
    """
    out: list[Part] = []
    row: list[CallRecord] = []
    for k, record in enumerate([*records, None]):
        if record is not None and record.op.only_writes and record.op.work is not Work.GRAPH:
            row.append(record)
            continue
        if len(row) >= SHORTEST:
            out.append(Part(k - len(row), row, device, note))
        row = []
    return out
