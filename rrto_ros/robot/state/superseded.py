"""Inferences that need not be executed again: owns finding them among calls that are kept.

Of an inference that is self-contained (`schedule/dataflow.py`) nothing is left once the same plan
has come again: the later one writes all that it wrote, from what neither of them changes. So of
whole inferences that directly follow each other the last one leaves what all of them leave.

Left out is only what the program has all answers of. Anything between two inferences keeps both,
and what gives the session another shape (modules, graphs) ends what is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rrto_ros.robot.state.shape import SHAPES, has_shape
from rrto_ros.wire.codec import CallHeader, iter_headers
from rrto_ros.wire.format import PLAN_DEFINE_OP, PLAN_REF_OP, Buffer
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import Reference, read_reference

_Part = tuple[int, int, int]


@dataclass(slots=True)
class _Inference:
    """References that follow each other and are one inference, or its beginning.

    Attributes:
        plan: Number of its plan.
        parts: (batch, offset, bytes) of the records.
        calls: So many calls of the plan they have.
        last: Number of the last of them.
        fixed: Whether nothing varies in it but what it uploads.
    """

    plan: int
    parts: list[_Part] = field(default_factory=list)
    calls: int = 0
    last: int = 0
    fixed: bool = True


class _Scan:
    """One look at the calls that are kept."""

    def __init__(
        self, plans: dict[int, Plan], contained: Mapping[int, int], newest: int, shaped_at: int
    ) -> None:
        self._plans = plans
        self._since = {n: at for n, at in contained.items() if at > shaped_at}
        self._newest = newest
        self._last = 0
        self._begun: _Inference | None = None
        self._whole: _Inference | None = None
        self.gone: dict[int, list[tuple[int, int]]] = {}
        """Batch -> (offset, bytes) of records that need not be executed."""
        self.left_out = 0

    def take(self, batch: int, view: memoryview, header: CallHeader) -> None:
        """The next record."""
        if header.op == PLAN_DEFINE_OP:
            number, self._plans[number] = read_define(view, header)
            if self._since.get(number, 0) <= self._last:
                self._since.pop(number, None)  # that was of another plan
        elif header.op == PLAN_REF_OP:
            part = batch, header.offset, header.size
            self._refers(read_reference(view, header), part)
        else:
            self._begun = self._whole = None
            self._last = header.index or self._last
            if header.op in SHAPES:
                self._reshaped()

    def _reshaped(self) -> None:
        """What was known before the last call is of another session, as it were."""
        self._since = {n: at for n, at in self._since.items() if at > self._last}

    def _refers(self, ref: Reference, part: _Part) -> None:
        plan, begun = self._plans[ref.plan], self._begun
        self._last = ref.index + ref.count - 1
        if has_shape(plan):
            self._reshaped()
        if not ref.first:
            begun = self._begun = _Inference(ref.plan)
        elif begun is None or (begun.plan, begun.calls) != (ref.plan, ref.first):
            self._begun = self._whole = None
            return
        begun.parts.append(part)
        begun.calls += ref.count
        begun.last = ref.index + ref.count - 1
        begun.fixed = begun.fixed and not ref.words
        if begun.calls < len(plan):
            return
        self._begun, before = None, self._whole
        since = self._since.get(ref.plan)
        first = begun.last - begun.calls + 1
        self._whole = begun if since is not None and begun.fixed and first >= since else None
        follows = before is not None and before.plan == ref.plan and before.last + 1 == first
        if before is None or self._whole is None or not follows:
            return
        if before.last <= self._newest:
            for batch, offset, size in before.parts:
                self.gone.setdefault(batch, []).append((offset, size))
            self.left_out += before.calls


def without_superseded(
    batches: Sequence[Buffer],
    plans: Mapping[int, Plan],
    contained: Mapping[int, int],
    newest: int,
    shaped_at: int,
) -> tuple[list[Buffer], int]:
    """Calls that leave the same as those that are kept, without inferences that leave nothing.

    Args:
        batches: What is kept, in order.
        plans: Those that are defined before, by number.
        contained: Plans whose inferences are self-contained -> the call from which that holds.
        newest: The last call whose result the program has.
        shaped_at: The last call before these that gave the session its shape.

    Returns:
        (the batches that are left, how many calls are not in them).

    Raises:
        ProtocolError: They do not fit the format.
    """
    scan = _Scan(dict(plans), contained, newest, shaped_at)
    for number, batch in enumerate(batches):
        view = memoryview(batch).cast("B")
        for header in iter_headers(view):
            scan.take(number, view, header)
    left: list[Buffer] = []
    for number, batch in enumerate(batches):
        gone = scan.gone.get(number)
        rest = batch if gone is None else _without(memoryview(batch).cast("B"), gone)
        if len(rest):
            left.append(rest)
    return left, scan.left_out


def _without(view: memoryview, gone: Iterable[tuple[int, int]]) -> bytes:
    parts, start = [], 0
    for offset, size in sorted(gone):
        parts.append(view[start:offset])
        start = offset + size
    return b"".join((*parts, view[start:]))
