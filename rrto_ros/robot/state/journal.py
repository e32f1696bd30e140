"""What brings another server to a session's state: owns the calls since the last checkpoint.

The robot names handles and addresses, so the calls of a session, executed again in their order on
an equal device, give the same state and the same results. Kept are the batches as they left, and a
digest of each result that the program got. Now and then a checkpoint takes their place: the calls
that still give the session its shape (`shape.py`), and what memory held (`memory_image.py`).

When a session is made again, calls since the checkpoint that were answered are answered a second
time. Those results are compared with the digests and left out. One that differs ends the session
with an error: nothing is resumed that is not exact. Results that depend on time (queries, elapsed
times) may differ, and all may where the session's transfers were not exact (`coarse`). Inferences
that leave nothing behind once another has come are not executed again (`superseded.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.state.memory_image import MemoryImage
from rrto_ros.robot.state.shape import SHAPES, Shape, has_shape
from rrto_ros.robot.state.superseded import without_superseded
from rrto_ros.wire.codec import OP_BY_CODE, OP_BY_NAME, CallHeader, iter_headers, pack_call
from rrto_ros.wire.format import (
    FLAG_KEEP,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    RESULT_BLOB_WANTED,
    RESULT_ERRORS,
    RESULT_PRINTED,
    RESULT_ROLLED_BACK,
    RESULT_SPECULATIVE,
    Buffer,
)
from rrto_ros.wire.link import keeps_more
from rrto_ros.wire.plan import Plan, read_define
from rrto_ros.wire.reference import literal, read_reference
from rrto_ros.wire.result_codec import ResultRecord, pack_result, read_contained
from rrto_ros.wire.state import read_pieces

PERIOD_S = 10.0
"""A checkpoint is due so long after the last one, when the program makes no use of the link."""
_OVERDUE = 3
"""After so many times as long it is due whatever the program does: one that always waits for
something would never rest, and go on elsewhere with all of its calls."""
_RARELY = 50
"""It is due no sooner than so many times what the last one took: the server does nothing else
meanwhile."""
_FILLED, _CROWDED = 8, 2
"""It is due sooner with so much (a part of the limit) kept; with so much, whatever is going on."""
_PIECES = 4
"""So many batches are looked at in one go where a checkpoint has come and much is kept."""
_FULL = 7 / 8
"""With so much kept the program waits for the checkpoint that was asked for."""
_DIGEST_BYTES = 8
_RESULT_BYTES = 100
"""What a digest takes in memory, with its entry."""
_RESTORE_BYTES = 1 << 20
MOST_CONTAINED = 1024
"""Plans of which it is known."""
_ELAPSED = OP_BY_NAME["event_elapsed_ms"].code
_HTOD = OP_BY_NAME["memcpy_htod"].code
_TEXTURE = OP_BY_NAME["texture_create"].code
_NOT_ANSWERS = RESULT_BLOB_WANTED | RESULT_SPECULATIVE | RESULT_ROLLED_BACK
Archive = Callable[[int], tuple[bytes, bytes] | None]
"""Digest and content of an upload that was sent by reference."""


@dataclass(slots=True)
class _Printed:
    """Of what kernels printed on one of the program's outputs: what was handed over.

    Attributes:
        told: Bytes that the program got since the last checkpoint.
        again: Bytes of them that are still to come a second time.
    """

    told: int = 0
    again: int = 0


class Journal:
    """The calls of one session since its last checkpoint.

    Not thread-safe: the session's lock guards it.

    Args:
        limit_bytes: Beyond it everything is forgotten, and the session cannot be resumed; 0 for a
            journal that keeps nothing.
        archive: Where uploads by reference are kept.

    Attributes:
        coarse: Whether results may have come with transfers in fewer bits (mode `partition`).
    """

    def __init__(self, limit_bytes: int, archive: Archive = lambda _: None) -> None:
        self.coarse = False
        self._limit_bytes = limit_bytes
        self._archive = archive
        self._batches: list[Buffer] = []
        self._bytes = 0
        self._shape_bytes = 0
        self._whole = limit_bytes > 0
        self._answers: dict[int, bytes] = {}
        self._printed: dict[int, _Printed] = {}
        self._newest = 0
        self._repeats_to = 0
        self._compared = 0
        # Of the checkpoint: what it covers, and the state that it gives.
        self._shape = Shape()
        self._image = MemoryImage()
        self._plans: dict[int, tuple[bytes, Plan]] = {}
        self._contained: dict[int, int] = {}
        self._shaped_at = self._superseded = 0
        self._kept_answers: set[int] = set()
        self._uploads: dict[int, Buffer] = {}
        self._referred: dict[int, bytes] = {}
        self._covered = 0
        self._completed = 0
        self._number = 0
        self._outstanding = False
        self._came = False
        self._mark = self._folded = 0
        self._at = time.monotonic()
        self._took_s = 0.0
        self._fails = ""

    @property
    def whole(self) -> bool:
        """Whether the session can be made again from it."""
        return self._whole

    @property
    def overflowed(self) -> str:
        """Why nothing is kept any more, for people; empty where something is, or never was."""
        if self._whole or not self._limit_bytes:
            return ""
        return (
            f"what brings another server to its state is more than resume_bytes, "
            f"{self._limit_bytes} bytes"
        )

    @property
    def newest(self) -> int:
        """Index of the last call whose result the program got."""
        return self._newest

    @property
    def covered(self) -> int:
        """Index of the last call that the last checkpoint covers, 0 before the first."""
        return self._covered

    @property
    def completed(self) -> int:
        """How many checkpoints have taken the place of their calls; the last one is kept."""
        return self._completed

    # ---- what goes on

    def sent(self, batch: Buffer) -> Buffer:
        """Keep a batch that leaves and that nobody changes any more.

        Returns:
            The batch, in memory of its own if it was a small piece of a larger buffer.
        """
        if not self._whole:
            return batch
        if keeps_more(batch):
            batch = bytes(batch)
        self._batches.append(batch)
        self._grow(len(batch))
        return batch

    def kept(self, size: int) -> None:
        """Count the content of an upload that is kept elsewhere for a server that asks."""
        if self._whole:
            self._grow(size)

    def answered(self, result: ResultRecord) -> None:
        """Note a result that the program got."""
        if not self._whole:
            return
        if result.flags & RESULT_PRINTED:
            self._output(result).told += len(result.payload)
        elif not result.flags & _NOT_ANSWERS:
            self._newest = max(self._newest, result.index)
            self._answers[result.index] = _digest(result)
            self._grow(_RESULT_BYTES)

    def contains(self, result: ResultRecord) -> None:
        """Take a record that says of a plan that its inferences are self-contained.

        Raises:
            ProtocolError: It does not fit the format.
        """
        plan, since = read_contained(result)
        if len(self._contained) < MOST_CONTAINED or plan in self._contained:
            self._contained[plan] = since

    # ---- checkpoints

    @property
    def can_checkpoint(self) -> bool:
        """Whether a checkpoint can be asked for, and would cover anything."""
        return bool(self._whole and self._batches) and not (self._outstanding or self._fails)

    @property
    def outstanding(self) -> bool:
        """Whether one was asked for that does not yet stand in the place of its calls."""
        return self._outstanding

    def wants_checkpoint(self, now: float, *, idle: bool) -> bool:
        """Whether it is time for one."""
        if not self.can_checkpoint:
            return False
        if self._bytes > self._limit_bytes // _CROWDED:
            return True
        since = now - self._at
        due = since >= PERIOD_S or self._bytes > self._limit_bytes // _FILLED
        fits = (idle and due) or since >= _OVERDUE * PERIOD_S
        return fits and since >= _RARELY * self._took_s

    def checkpoint(self, now: float) -> bytes:
        """The record that asks for a checkpoint, behind everything that was sent so far."""
        self._outstanding, self._at = True, now
        self._number += 1
        self._mark, self._folded = len(self._batches), 0
        return pack_call("checkpoint", 0, number=self._number)

    def piece(self, result: ResultRecord) -> None:
        """Take a record of the checkpoint that was asked for.

        Raises:
            ProtocolError: Nobody asked for it, or it does not fit the format.
        """
        if not self._whole:
            return
        if not self._outstanding or result.index != self._number & 0xFFFFFFFF or self._came:
            raise ProtocolError(f"a piece of checkpoint {result.index}, which nobody asked for")
        if result.status:
            self._fails = bytes(result.payload).decode(errors="replace") or "it failed"
            self._image.forget_coming()
            self._outstanding = False
        elif len(result.payload):
            for piece in read_pieces(result.payload):
                self._image.arrived(piece)
        else:
            self._came = True
            self._took_s = time.monotonic() - self._at
            # What is printed from now on is not covered.
            for output in self._printed.values():
                output.told = 0

    @property
    def thinks(self) -> bool:
        """Whether a checkpoint has come that does not yet stand in the place of its calls."""
        return self._came

    @property
    def must_think(self) -> bool:
        """Whether that cannot wait until nothing else is to be done."""
        return self._came and self._bytes > self._limit_bytes // _CROWDED

    @property
    def full(self) -> bool:
        """Whether the calls that come next had better wait for the checkpoint."""
        return self._outstanding and self._held() > _FULL * self._limit_bytes

    def think_hard(self) -> bool:
        """As `think`, a few batches at once."""
        return any(self.think() for _ in range(_PIECES) if self._came)

    def think(self) -> bool:
        """Look at one more batch that a checkpoint covers; True when it has taken their place.

        Raises:
            ProtocolError: The checkpoint is not one of this session.
        """
        if self._folded < self._mark:
            self._fold(memoryview(self._batches[self._folded]).cast("B"))
            self._folded += 1
            return False
        if not self._shape.followed:
            self._fails = "the program maps memory itself (cuMemCreate)"
            self._outstanding = self._came = False
            self._image.forget_coming()
            return False
        self._image.complete(self._upload)
        self._referred = self._referred_to()
        del self._batches[: self._mark]
        self._uploads.clear()
        self._answers = {
            index: digest
            for index, digest in self._answers.items()
            if index > self._covered or index in self._kept_answers
        }
        self._outstanding = self._came = False
        self._completed += 1
        self._bytes = sum(map(len, self._batches)) + _RESULT_BYTES * len(self._answers)
        kept = (*self._shape.records(), *self._referred.values())
        self._shape_bytes = sum(map(len, kept))
        self._grow(0)
        return True

    # ---- when the session is made again

    def settle(self) -> None:
        """Let a checkpoint that has come take the place of its calls at once.

        Raises:
            ProtocolError: The checkpoint is not one of this session.
        """
        while self._came and not self.think():
            pass

    def restoring(self) -> Iterator[Buffer]:
        """What brings a server to the last checkpoint, piece by piece, until there is another."""
        return self._restoring()

    def agrees(self, result: ResultRecord) -> bool:
        """Whether the program was told the same for a call that the last checkpoint keeps."""
        return self._answers.get(result.index) == _digest(result)

    def begin_again(self, holds: int = 0) -> list[Buffer]:
        """What another server is sent; results repeat up to the newest.

        Args:
            holds: The checkpoint that it was brought to already (`completed` of then). It is not
                sent again if it is still the last one.
        """
        self.settle()
        if self._outstanding:
            self._outstanding = False
            self._image.forget_coming()
        self._repeats_to = self._newest
        if self._contained and not any(output.told for output in self._printed.values()):
            # What kernels printed is compared, so all of it is executed again.
            plans = {number: plan for number, (_, plan) in self._plans.items()}
            self._batches, left_out = without_superseded(
                self._batches, plans, self._contained, self._newest, self._shaped_at
            )
            self._superseded += left_out
        for output in self._printed.values():
            output.again = output.told
        if holds and holds == self._completed:
            return list(self._batches)
        return [*self._restoring(), *self._batches]

    def upload(self, call: int) -> bytes | None:
        """The content of an upload that a restored block, or a call of the shape, refers to."""
        found = self._referred.get(call)
        return self._image.upload(call) if found is None else found

    def repeated(self, result: ResultRecord) -> tuple[bool, bytes]:
        """Whether the program has a result already, and of a text that it has in part, the rest.

        Raises:
            ProtocolError: The result differs from what the program got for the same call.
        """
        if result.flags & RESULT_PRINTED:
            output = self._printed.get(result.flags)
            if output is None or not output.again:
                return False, b""
            known = min(output.again, len(result.payload))
            output.again -= known
            rest = bytes(result.payload[known:])
            output.told += len(rest)
            return True, pack_result(0, 0, rest, result.flags) if rest else b""
        if result.flags & _NOT_ANSWERS or result.sticky or result.index > self._repeats_to:
            return False, b""
        before = self._answers.get(result.index)
        if before is None:
            # It came to the program unasked, by a speculative call.
            return True, b""
        self._compared += 1
        if before == _digest(result):
            return True, b""
        # Executed again, all is exact, and the program has what was within its budget.
        good = self.coarse and not result.status
        if not good and not self._depends_on_time(result.index):
            raise ProtocolError(
                f"call #{result.index}, executed again, gives another result (status "
                f"{result.status}, {len(result.payload)} bytes) than the program got"
            )
        return True, b""

    def statistics(self) -> dict[str, int | float | str]:
        """What is kept, results compared with earlier ones, checkpoints and why there is none."""
        return {
            "batches": len(self._batches),
            "bytes": self._bytes,
            "checkpoint_bytes": self._shape_bytes + self._image.kept_bytes,
            "whole": int(self._whole),
            "compared": self._compared,
            "superseded": self._superseded,
            "checkpoints": self._number,
            "completed": self._completed,
            "covered": self._covered,
            "checkpoint_s": round(self._took_s, 4),
            "no_checkpoint": self._fails,
        }

    def _output(self, result: ResultRecord) -> _Printed:
        return self._printed.setdefault(
            result.flags & (RESULT_PRINTED | RESULT_ERRORS), _Printed()
        )

    def _held(self) -> int:
        return self._bytes + self._shape_bytes + self._image.kept_bytes

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._held() > self._limit_bytes:
            self._whole = self._outstanding = self._came = False
            self._batches.clear()
            self._answers.clear()
            self._referred.clear()
            self._shape, self._image = Shape(), MemoryImage()

    def _fold(self, view: memoryview) -> None:
        for header in iter_headers(view):
            if header.op == PLAN_DEFINE_OP:
                number, plan = read_define(view, header)
                if self._contained.get(number, 0) <= self._covered:
                    self._contained.pop(number, None)
                record = bytes(view[header.offset : header.offset + header.size])
                self._plans[number] = record, plan
            elif header.op == PLAN_REF_OP:
                ref = read_reference(view, header)
                self._covered = ref.index + ref.count - 1
                plan = self._plans[ref.plan][1]
                if has_shape(plan):
                    for part in literal(plan, ref):
                        self._fold_call(memoryview(part), next(iter_headers(part)))
            elif header.op in OP_BY_CODE and header.index:
                self._covered = header.index
                self._fold_call(view, header)

    def _fold_call(self, view: memoryview, header: CallHeader) -> None:
        if header.op in SHAPES:
            self._shaped_at = header.index
            self._shape.feed(view, header)
            if header.op == _TEXTURE:
                self._kept_answers.add(header.index)
        elif header.op == _HTOD and header.flags & FLAG_KEEP:
            end = header.offset + header.size
            start = end - (header.payload_bytes + 7 & ~7)
            self._uploads[header.index] = view[start : start + header.payload_bytes]

    def _upload(self, call: int) -> tuple[bytes, bytes] | None:
        content = self._uploads.get(call)
        if content is None:
            return self._archive(call)
        return sha256(content).digest(), bytes(content)

    def _referred_to(self) -> dict[int, bytes]:
        """Call -> what it loads, of the shape's calls that name it: another server may lack it."""
        out = {}
        for call in self._shape.references():
            content = self._referred.get(call)
            if content is None and (kept := self._archive(call)) is not None:
                content = kept[1]
            if content is not None:
                out[call] = content
        return out

    def _restoring(self) -> Iterator[Buffer]:
        if not self._covered:
            return
        yield b"".join((*self._shape.records(), *(record for record, _ in self._plans.values())))
        parts: list[bytes] = []
        size = 0
        for record in self._image.records():
            parts.append(record)
            size += len(record)
            if size >= _RESTORE_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)

    def _depends_on_time(self, index: int) -> bool:
        """Whether a call is a query or asks for a time; looked for only where results differ."""
        code = next(self._operations(index), None)
        if code is None:
            return False
        return code == _ELAPSED or OP_BY_CODE[code].kind is Kind.POLL

    def _operations(self, index: int) -> Iterator[int]:
        plans = {number: plan for number, (_, plan) in self._plans.items()}
        for batch in self._batches:
            view = memoryview(batch).cast("B")
            for header in iter_headers(view):
                if header.op == PLAN_DEFINE_OP:
                    number, plan = read_define(view, header)
                    plans[number] = plan
                elif header.op == PLAN_REF_OP:
                    ref = read_reference(view, header)
                    if ref.index <= index < ref.index + ref.count:
                        yield plans[ref.plan].calls[ref.first + index - ref.index].code
                elif header.index == index and header.op in OP_BY_CODE:
                    yield header.op


def _digest(result: ResultRecord) -> bytes:
    status = result.status.to_bytes(4, "little")
    if len(result.payload) < _DIGEST_BYTES - len(status):
        # Shorter than any digest, so it is none.
        return status + bytes(result.payload)
    return blake2b(result.payload, digest_size=_DIGEST_BYTES, key=status).digest()
