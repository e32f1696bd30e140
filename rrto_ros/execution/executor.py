"""Executes batches of call records on a device: owns the session's order, errors and blobs.

CUDA's rules for errors: a call whose answer is sent (REPLY) fails with its own error and the
session goes on; a call that nobody waits for, and any error that breaks a CUDA context, is sticky:
its result record is sent at once, nothing is executed afterwards, and every REPLY is answered
with the same status. A record that does not fit the format ends the session the same way, with
CUDA_ERROR_UNKNOWN, and never the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Protocol

from rrto_ros.api.info import ModuleInfo
from rrto_ros.api.results import BREAKS_CONTEXT, CUresult
from rrto_ros.devices.protocol import Device, PrintingDevice, SegmentDevice
from rrto_ros.errors import CudaError, ProtocolError
from rrto_ros.execution.ahead_runner import AheadRunner
from rrto_ros.execution.chains import Run, parts_of
from rrto_ros.execution.dispatch import Handler, Prepared, bind, prepare
from rrto_ros.execution.plan_runner import Parts, PlanRunner, Step
from rrto_ros.execution.progress import Progress, describe
from rrto_ros.execution.undo import Undo
from rrto_ros.execution.write_ranges import FOLLOWED, WriteRanges
from rrto_ros.wire.codec import (
    CallHeader,
    CallRecord,
    decode_call,
    iter_headers,
    pack_result,
    unpack_blob_ref,
)
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    BLOB_REF,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    RESULT_BLOB_WANTED,
    RESULT_ERRORS,
    RESULT_PRINTED,
    RESULT_STICKY,
    Buffer,
)
from rrto_ros.wire.plan import marked_calls

PRINTED_BYTES = 32 << 10
"""Of what kernels printed in one record."""
FLUSH_BYTES = 1 << 20
"""So many bytes of results are not kept for the end of a batch."""

# The index of the launch operations that name a kernel, and where module and kernel are.
_LAUNCH_FIELDS = {20: 0, 52: 2, 56: 2, 62: 2}


class BlobSource(Protocol):
    """Where the contents of blob references come from."""

    def get(self, digest: bytes, length: int) -> bytes | None: ...

    def has(self, digest: bytes, length: int) -> bool: ...

    def keep(self, data: Buffer) -> None: ...


class NoBlobs:
    """A blob source that keeps nothing."""

    def get(self, digest: bytes, length: int) -> bytes | None:  # noqa: ARG002
        return None

    def has(self, digest: bytes, length: int) -> bool:  # noqa: ARG002
        return False

    def keep(self, data: Buffer) -> None:
        """Forget `data`."""


class _Pending:
    """A batch that is not done: its records from `header` (or the next) on."""

    __slots__ = ("header", "step", "steps", "view")

    def __init__(self, batch: Buffer) -> None:
        self.view = memoryview(batch).cast("B")
        self.steps: Iterator[Step] | None = None
        self.step: Step | None = None
        self.header: CallHeader | None = None


class _BlobWanted(Exception):  # noqa: N818 not an error: the execution pauses
    """A reference cannot be resolved yet."""


class Executor:
    """Executes one session's calls on its device, one batch after another.

    Args:
        device: The session's device; the caller closes it.
        blobs: Where blob references are looked up and kept uploads go.
        progress: Told of each call before it is executed.
        interrupted: Whether another batch is there, so that nothing more is executed ahead.
        beside: What kernels may write is found in a thread of its own.
    """

    def __init__(
        self,
        device: Device,
        blobs: BlobSource | None = None,
        progress: Progress | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        *,
        beside: bool = False,
    ) -> None:
        self._blobs: BlobSource = blobs or NoBlobs()
        self._progress = progress
        self._handlers: dict[int, Handler] = bind(device, self._loaded)
        parts: Parts = lambda _: []  # noqa: E731
        # By its class: a stand-in that answers to every name offers nothing by that.
        if hasattr(type(device), "prepare_segment") and isinstance(device, SegmentDevice):
            parts = partial(parts_of, device=device, note=self._note)
        self._printing = (
            device if hasattr(type(device), "take_output") and isinstance(device, PrintingDevice)
            else None
        )  # fmt: skip
        self._ranges = ranges = WriteRanges(device.info.compute_capability, beside=beside)
        self._plans = PlanRunner(
            partial(prepare, device, self._handlers), Undo(device), lambda: ranges.layout, parts
        )
        self._ahead = AheadRunner(self._plans, self._ranges, self._begin, interrupted)
        self._kernels: dict[int, tuple[bytes, ...]] = {}
        self._queue: deque[_Pending] = deque()
        self._wanted: dict[bytes, tuple[int, int]] = {}
        self._arrived: dict[bytes, bytes] = {}
        self._results: list[bytes] = []
        self._results_bytes = 0
        self._awaited = False
        self._last_index = 0
        self._last_reply = 0
        self._sticky = 0
        self._sticky_text = b""
        self._malformed = ""
        self._calls = 0
        self._batches = 0
        self._errors = 0
        self._last_error = ""
        self._skipped = 0
        self._blobs_used = 0
        self._blobs_asked = 0
        self._blobs_ignored = 0
        self._busy_s = 0.0

    @property
    def executed_call(self) -> int:
        """Index of the last call that was executed or skipped, 0 before the first."""
        return self._last_index

    @property
    def last_reply(self) -> int:
        """Index of the last call whose result record was made, 0 before the first."""
        return self._last_reply

    @property
    def batches_done(self) -> int:
        """How many batches were executed to their end."""
        return self._batches

    @property
    def blocked(self) -> bool:
        """Whether a blob is awaited; the buffers given so far are then still in use."""
        return bool(self._queue)

    @property
    def sticky(self) -> int:
        """CUresult that every call gets, 0 while the session is sound."""
        return self._sticky

    @property
    def malformed(self) -> str:
        """What was no call log, empty if all was; calls may be missing, so nobody should wait."""
        return self._malformed

    def execute(self, batch: Buffer, flush: Callable[[bytes], None] | None = None) -> bytes:
        """Execute one batch of whole records.

        Args:
            batch: The records. The caller may reuse the buffer afterwards unless `blocked`.
            flush: Takes result records that a program thread waits for before the batch ends.

        Returns:
            The result records that were not flushed, in order; may be empty.
        """
        started = time.perf_counter()
        if self._queue:
            self._take_blobs(batch)
        self._queue.append(_Pending(batch))
        if self._wanted:
            self._ask_ahead(self._queue[-1])
        while self._queue and not self._wanted:
            pending = self._queue[0]
            try:
                self._run(pending, flush)
            except _BlobWanted:
                for ahead in self._queue:
                    self._ask_ahead(ahead)
                break
            except ProtocolError as error:
                header = pending.header
                index = header.index if header is not None else self._last_index
                self._malformed = f"malformed call log: {error}"
                self._break(index, CUresult.UNKNOWN, self._malformed)
            except CudaError as error:
                # Calls catch their own.
                self._broken_ahead(error)
            self._queue.popleft()
            self._batches += 1
        if not self._queue and not self._sticky:
            # Nothing that is executed ahead prints, but what is waited for may be answered there.
            self._print()
            self._run_ahead(flush)
        self._ahead.tell(self._results)
        if self._progress is not None:
            self._progress.idle()
        self._busy_s += time.perf_counter() - started
        return self._take_results()

    def statistics(self) -> dict[str, int | float | str]:
        """Counters since the session opened; seconds for times."""
        return {
            "calls": self._calls,
            "batches": self._batches,
            "errors": self._errors,
            "last_error": self._last_error,
            "skipped_calls": self._skipped,
            "malformed": self._malformed,
            "sticky": self._sticky,
            "sticky_text": self._sticky_text.decode(errors="replace"),
            "blobs_used": self._blobs_used,
            "blobs_asked": self._blobs_asked,
            "blobs_ignored": self._blobs_ignored,
            "busy_s": self._busy_s,
            **self._plans.statistics(),
            **self._ahead.statistics(),
        }

    def _run(self, pending: _Pending, flush: Callable[[bytes], None] | None) -> None:
        """Execute what is left of a batch."""
        if pending.steps is None:
            pending.steps = self._steps(pending)
        step = pending.step
        while True:
            if step is None:
                step = next(pending.steps, None)
                if step is None:
                    return
                pending.step = step
            if (self._awaited or self._results_bytes >= FLUSH_BYTES) and flush is not None:
                # Not before: what the last call of a batch made is sent with the batch's end.
                # It waits while nobody takes results, so that they are never many.
                flush(self._take_results())
            header = step.header
            if header.index <= self._last_index:
                raise ProtocolError(
                    f"call #{header.index} comes after call #{self._last_index}, indices ascend"
                )
            if step.done:
                pass  # its result is with the robot, and it changes nothing
            elif step.several is not None:
                header = self._several(step.several)
            elif self._sticky:
                self._skip(header)
            else:
                self._call(step.record or decode_call(pending.view, header), header, step.run)
            self._last_index = header.index
            if header.flags & FLAG_WAITED and self._results:
                self._awaited = True
            step = None

    def _run_ahead(self, flush: Callable[[bytes], None] | None) -> None:
        """Execute what the program will probably call next."""
        send = flush or self._results.append
        try:
            self._ahead.run(self._results, lambda: send(self._take_results()))
        except CudaError as error:
            self._broken_ahead(error)

    def _broken_ahead(self, error: CudaError) -> None:
        """Something executed ahead failed and could not be undone."""
        self._plans.ahead.undo.forget()
        text = f"what was executed ahead after call #{self._last_index} cannot be undone: {error}"
        self._break(self._last_index, error.result, text)

    def _steps(self, pending: _Pending) -> Iterator[Step]:
        """The calls of a batch in order, references to plans replaced by what they stand for."""
        view = pending.view
        for header in iter_headers(view):
            pending.header = header
            if header.op == PLAN_DEFINE_OP:
                self._plans.define(view, header)
            elif header.op == PLAN_REF_OP:
                if self._sticky:
                    # Its plan may have been refused; what waits must be answered all the same.
                    yield from (Step(marked) for marked in marked_calls(view, header))
                else:
                    yield from self._plans.expand(view, header)
            elif header.op != BLOB_DATA_OP:
                if self._plans.ahead.plan is not None:
                    self._plans.ahead.drop()
                yield Step(header)

    def _call(self, record: CallRecord, header: CallHeader, run: Prepared | None) -> None:
        if header.flags & FLAG_BLOB_REF:
            record.payload = memoryview(self._resolve(header, record.payload or b""))
        elif header.flags & FLAG_KEEP and record.payload is not None:
            self._blobs.keep(record.payload)
        kernel = self._begin(header.index, record)
        self._calls += 1
        try:
            data = run() if run is not None else self._handlers[header.op](record)
        except CudaError as error:
            self._failed(header, error.result, str(error), error.detail, kernel)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._failed(header, CUresult.UNKNOWN, text, text, kernel)
        else:
            if header.op in FOLLOWED:
                self._ranges.followed(record)
            if header.flags & FLAG_REPLY:
                if header.flags & FLAG_WAITED:
                    self._print()
                self._reply(header.index, 0, data)

    def _print(self) -> None:
        """What kernels printed goes before the result that a thread waits for."""
        if self._printing is None:
            return
        printed, errors = self._printing.take_output()
        for text, flags in ((printed, RESULT_PRINTED), (errors, RESULT_PRINTED | RESULT_ERRORS)):
            for at in range(0, len(text), PRINTED_BYTES):
                self._results.append(pack_result(0, 0, text[at : at + PRINTED_BYTES], flags))

    def _several(self, run: Run) -> CallHeader:
        """Execute calls that the device runs as one; returns the last one's header."""
        last = run.headers[-1]
        if self._sticky:
            self._skipped += len(run.headers)
            return last
        at = len(run.headers)
        try:
            run.execute(self._progress.address if self._progress is not None else 0)
        except CudaError as error:
            at = run.failed
            record = run.records[at]
            self._failed(run.headers[at], error.result, str(error), error.detail,
                         self._kernel(record))  # fmt: skip
            self._skipped += len(run.headers) - at - 1
            at += 1
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._failed(run.headers[0], CUresult.UNKNOWN, text, text, b"")
        self._calls += at
        return last

    def _kernel(self, record: CallRecord) -> bytes:
        """The name of the kernel that a record launches, empty for another operation."""
        at = _LAUNCH_FIELDS.get(record.op.code)
        return b"" if at is None else self._kernel_name(record.values[at], record.values[at + 1])

    def _note(self, record: CallRecord) -> bytes:
        return Progress.note(record.op.code, self._kernel(record))

    def _begin(self, index: int, record: CallRecord) -> bytes:
        """Note the call that is executed next; returns the name of its kernel."""
        kernel = self._kernel(record)
        if self._progress is not None:
            self._progress.begin(index, record.op.code, kernel)
        return kernel

    def _failed(
        self, header: CallHeader, status: CUresult, text: str, detail: str, kernel: bytes
    ) -> None:
        named = f"{describe(header.index, header.op, kernel.decode(errors='replace'))}: {text}"
        own = bool(header.flags & FLAG_REPLY) and status not in BREAKS_CONTEXT
        if not own:
            self._break(header.index, status, named)
            return
        if status is not CUresult.NOT_READY:
            self._errors += 1
            self._last_error = named
        self._reply(header.index, status, detail.encode())

    def _break(self, index: int, status: CUresult, text: str) -> None:
        """The session is in error from here on."""
        self._errors += 1
        self._last_error = text
        if self._sticky:
            return
        self._print()
        self._sticky = int(status)
        self._sticky_text = text.encode()
        self._reply(index, self._sticky, self._sticky_text, RESULT_STICKY)

    def _skip(self, header: CallHeader) -> None:
        self._skipped += 1
        if header.flags & FLAG_REPLY:
            self._reply(header.index, self._sticky, self._sticky_text)

    def _reply(self, index: int, status: int, data: Buffer = b"", flags: int = 0) -> None:
        self._last_reply = index
        self._results_bytes += len(data)
        self._results.append(pack_result(index, status, data, flags))

    def _take_results(self) -> bytes:
        results = self._results
        self._awaited = False
        self._results_bytes = 0
        if len(results) == 1:
            out = results[0]
        else:
            out = b"".join(results)
        results.clear()
        return out

    def _loaded(self, module: int, info: ModuleInfo, image: bytes) -> None:
        self._kernels[module] = tuple(kernel.name.encode() for kernel in info.kernels)
        self._ranges.loaded(module, info, image)

    def _kernel_name(self, module: int, kernel: int) -> bytes:
        names = self._kernels.get(module, ())
        return names[kernel] if kernel < len(names) else b"?"

    # Blobs: a reference that cannot be resolved pauses the execution until its content came.

    def _resolve(self, header: CallHeader, payload: Buffer) -> bytes:
        digest, length = unpack_blob_ref(payload)
        data = self._arrived.pop(digest, None)
        if data is None:
            data = self._blobs.get(digest, length)
        if data is None:
            self._ask(header.index, digest, length)
            raise _BlobWanted
        self._blobs_used += 1
        return data

    def _ask(self, index: int, digest: bytes, length: int) -> None:
        if digest in self._wanted or digest in self._arrived:
            return
        self._wanted[digest] = (index, length)
        self._blobs_asked += 1
        # Not through _reply: it does not answer the call.
        self._results.append(pack_result(index, CUresult.NOT_FOUND, b"", RESULT_BLOB_WANTED))

    def _ask_ahead(self, pending: _Pending) -> None:
        """Ask for every unknown blob of a waiting batch, so that all cost one round trip."""
        try:
            for header in iter_headers(pending.view):
                if not header.flags & FLAG_BLOB_REF or header.index <= self._last_index:
                    continue
                end = header.offset + header.size
                digest, length = unpack_blob_ref(pending.view[end - BLOB_REF.size : end])
                if not self._blobs.has(digest, length):
                    self._ask(header.index, digest, length)
        except ProtocolError:
            return  # reported when the execution gets there

    def _take_blobs(self, batch: Buffer) -> None:
        """Take the contents that a batch brings for the awaited references."""
        view = memoryview(batch).cast("B")
        try:
            for header in iter_headers(view):
                if header.op == BLOB_DATA_OP:
                    start = header.offset + HEADER_BYTES
                    self._take_blob(header.index, view[start : start + header.payload_bytes])
        except ProtocolError:
            return  # reported when the execution gets there

    def _take_blob(self, index: int, content: memoryview) -> None:
        digest = sha256(content).digest()
        length = self._wanted.get(digest, (0, -1))[1]
        if length == len(content):
            del self._wanted[digest]
            self._arrived[digest] = bytes(content)
            self._blobs.keep(content)
            return
        self._blobs_ignored += 1
        for known, (asked, _) in list(self._wanted.items()):
            if asked == index:
                # Waiting on would hang the program: nothing else will come for this call.
                self._wanted.clear()
                self._break(
                    index,
                    CUresult.UNKNOWN,
                    f"blob for call #{index}: content of {len(content)} bytes with SHA-256 "
                    f"{digest.hex()[:16]}..., wanted {known.hex()[:16]}...",
                )
                return


def refuse_calls(batch: Buffer, status: int, text: str, *, after: int = 0, but: int = 0) -> bytes:
    """Result records for every REPLY in a batch that will not be executed.

    Args:
        batch: Whole call records; what comes after a malformed one is not answered.
        status: CUresult for each.
        text: Reason, the data of each record.
        after: Only calls with a higher index.
        but: A call that was answered already.
    """
    out: list[bytes] = []
    data = text.encode()
    try:
        view = memoryview(batch).cast("B")
        for item in iter_headers(view):
            calls = marked_calls(view, item) if item.op == PLAN_REF_OP else (item,)
            for header in calls:
                if header.op in (BLOB_DATA_OP, PLAN_DEFINE_OP) or header.index == but:
                    continue
                if header.flags & FLAG_REPLY and header.index > after:
                    out.append(pack_result(header.index, status, data))
    except ProtocolError:
        pass
    return b"".join(out)
