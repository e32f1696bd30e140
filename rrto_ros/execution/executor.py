"""Executes batches of call records on a device: owns the session's order and its errors.

CUDA's rules for errors: a call whose answer is sent (REPLY) fails with its own error and the
session goes on; a call that nobody waits for, and any error that breaks a CUDA context, is sticky:
its result record is sent at once, nothing is executed afterwards, and every REPLY is answered
with the same status. A record that does not fit the format ends the session the same way, with
CUDA_ERROR_UNKNOWN, and never the process.

Over 400 lines: order and errors of every kind of record are one state, and change together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from rrto_ros.api.info import ModuleInfo
from rrto_ros.api.results import BREAKS_CONTEXT, CUresult
from rrto_ros.devices.protocol import Device, NumberedDevice, PrintingDevice, SegmentDevice
from rrto_ros.errors import CudaError, ProtocolError
from rrto_ros.execution.access_ranges import FOLLOWED, AccessRanges
from rrto_ros.execution.checkpoints import Checkpoints
from rrto_ros.execution.dispatch import Handler, Prepared, bind, prepare, read_memory
from rrto_ros.execution.prepared_plan import Preparer, RowRun, Step
from rrto_ros.execution.profile import Profiler, Profiles
from rrto_ros.execution.progress import Progress, describe
from rrto_ros.execution.quantised import quantised_handlers
from rrto_ros.execution.references import BlobAwaited, BlobReferences, BlobSource, NoBlobs
from rrto_ros.execution.session_plans import SessionPlans
from rrto_ros.execution.speculation import Speculation
from rrto_ros.execution.state import MemoryState
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.codec import OP_BY_NAME, CallHeader, CallRecord, decode_call, iter_headers
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    CHECKPOINT_OP,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    MEMORY_RESTORE_OP,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    PROFILE_OP,
    RESULT_ERRORS,
    RESULT_PRINTED,
    RESULT_PROFILE,
    RESULT_STATE,
    RESULT_STICKY,
    Buffer,
)
from rrto_ros.wire.reference import marked_calls
from rrto_ros.wire.result_codec import pack_result

PRINTED_BYTES = 32 << 10
"""Of what kernels printed in one record."""
FLUSH_BYTES = 1 << 20
"""So many bytes of results are not kept for the end of a batch."""

_HTOD = OP_BY_NAME["memcpy_htod"].code
_MAPS = frozenset((OP_BY_NAME["mem_create"].code,))
_UNLOAD = OP_BY_NAME["module_unload"].code
# The index of the launch operations that name a kernel, and where module and kernel are.
_LAUNCH_FIELDS = {20: 0, 52: 2, 56: 2, 62: 2}


class _Pending:
    """A batch that is not done: its records from `header` (or the next) on."""

    __slots__ = ("header", "step", "steps", "view")

    def __init__(self, batch: Buffer) -> None:
        self.view = memoryview(batch).cast("B")
        self.steps: Iterator[Step] | None = None
        self.step: Step | None = None
        self.header: CallHeader | None = None


class Executor:
    """Executes one session's calls on its device, one batch after another.

    Args:
        device: The session's device; the caller closes it.
        blobs: Where blob references are looked up and kept uploads go.
        progress: Told of each call before it is executed.
        interrupted: Whether another batch is there, so that nothing more is guessed.
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
        self._progress = progress
        self._handlers: dict[int, Handler] = bind(device, self._loaded)
        rows = device if isinstance(device, SegmentDevice) else None
        self._printing = device if isinstance(device, PrintingDevice) else None
        self._comes = device.call_comes if isinstance(device, NumberedDevice) else None
        self._ranges = AccessRanges(device.info.compute_capability, beside=beside)
        self._handlers |= quantised_handlers(device, self._ranges.holds)
        self._speculation = Speculation(
            Checkpoints(device), self._ranges, self._begin, interrupted
        )
        self._plans = SessionPlans(
            Preparer(partial(prepare, device, self._handlers), rows, self._note),
            self._speculation,
        )
        self._state = MemoryState(partial(read_memory, device), device.info.kind)
        self._restore_to = device.memcpy_htod
        self._synchronize = device.ctx_synchronize
        self._kernels: dict[int, tuple[bytes, ...]] = {}
        self._queue: deque[_Pending] = deque()
        self._results: list[bytes] = []
        self._results_bytes = 0
        self._awaited = False
        self._blobs = BlobReferences(
            blobs or NoBlobs(), self._results, partial(self._break, status=CUresult.UNKNOWN)
        )
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
        self._busy_s = 0.0
        self._profiles = Profiles(
            lambda: Profiler(device, self._handlers, self._ranges, self._kernel_text)
        )

    @property
    def memory(self) -> Allocations:
        """The session's live memory."""
        return self._ranges.memory

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
            self._blobs.take(batch)
        self._queue.append(_Pending(batch))
        if self._blobs.awaited:
            self._blobs.ask([self._queue[-1].view], self._last_index)
        while self._queue and not self._blobs.awaited:
            pending = self._queue[0]
            try:
                self._run(pending, flush)
            except BlobAwaited:
                self._blobs.ask((waiting.view for waiting in self._queue), self._last_index)
                break
            except ProtocolError as error:
                header = pending.header
                index = header.index if header is not None else self._last_index
                self._malformed = f"malformed call log: {error}"
                self._break(index, self._malformed, CUresult.UNKNOWN)
            except CudaError as error:
                # Calls catch their own.
                self._not_rolled_back(error)
            self._queue.popleft()
            self._batches += 1
        if not self._queue and not self._sticky:
            # Nothing speculative prints, but what is waited for may be answered there.
            self._print()
            self._speculate(flush)
        self._speculation.tell(self._results)
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
            "busy_s": self._busy_s,
            **self._blobs.statistics(),
            **self._plans.statistics(),
            **self._speculation.statistics(),
            **self._state.statistics(),
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
            if header.op in (CHECKPOINT_OP, MEMORY_RESTORE_OP):
                if not self._sticky:
                    self._keep_state(decode_call(pending.view, header), header, flush)
                step = None
                continue
            if header.op == PROFILE_OP:
                self._profile(decode_call(pending.view, header), flush)
                step = None
                continue
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

    def _speculate(self, flush: Callable[[bytes], None] | None) -> None:
        """Execute what the program will probably call next."""
        send = flush or self._results.append
        try:
            self._speculation.run(
                self._results,
                lambda: send(self._take_results()),
                # A call is looked at when the program makes it, and what was guessed is not
                # executed then.
                hold=self._profiles.ahead(self._last_index),
            )
        except CudaError as error:
            self._not_rolled_back(error)

    def _not_rolled_back(self, error: CudaError) -> None:
        """Memory is not what the program made of it: the session is over."""
        self._speculation.forget()
        text = f"calls executed after #{self._last_index} cannot be rolled back: {error}"
        self._break(self._last_index, text, error.result)

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
                if self._speculation.plan is not None:
                    self._speculation.drop()
                yield Step(header)

    def _call(self, record: CallRecord, header: CallHeader, run: Prepared | None) -> None:
        if header.flags & FLAG_BLOB_REF:
            record.payload = memoryview(self._blobs.resolve(header, record.payload or b""))
        elif header.flags & FLAG_KEEP and record.payload is not None:
            self._blobs.keep(record.payload)
        kernel = self._begin(header.index, record)
        self._calls += 1
        try:
            if self._profiles.coming and (profiled := self._profiles.of(header.index)):
                profiler, place = profiled
                data = profiler.execute(place, record)
            else:
                data = run() if run is not None else self._handlers[header.op](record)
        except CudaError as error:
            self._failed(header, error.result, str(error), error.detail, kernel)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._failed(header, CUresult.UNKNOWN, text, text, kernel)
        else:
            if header.op in FOLLOWED:
                self._ranges.followed(record)
            if header.op == _HTOD and header.flags & (FLAG_KEEP | FLAG_BLOB_REF):
                content = record.payload or b""
                self._state.uploaded(record.values[0], content, header.index, self._ranges.memory)
            elif header.op == _UNLOAD:
                self._state.unloaded(record.values[0])
            elif header.op in _MAPS:
                self._state.mapped()
            if header.flags & FLAG_REPLY:
                if header.flags & FLAG_WAITED:
                    self._print()
                self._reply(header.index, 0, data)

    def _keep_state(
        self, record: CallRecord, header: CallHeader, flush: Callable[[bytes], None] | None
    ) -> None:
        """Say what memory holds, or bring memory to what it held in another worker."""
        if header.op == CHECKPOINT_OP:
            self._checkpoint(record.values[0], flush)
            return
        content: Buffer = record.payload or b""
        if header.flags & FLAG_BLOB_REF:
            content = self._blobs.resolve(header, content)
        try:
            self._restore_to(record.values[0], memoryview(content), 0)
        except CudaError as error:
            text = f"memory of the session cannot be restored: {error}"
            self._break(self._last_index, text, error.result)
            return
        self._state.restored(record.values[0], content, self._ranges.memory)

    def _checkpoint(self, number: int, flush: Callable[[bytes], None] | None) -> None:
        """Send what the robot does not know of memory; the last record says how it went."""
        self._print()
        status, text = 0, self._state.refused()
        if text:
            status = int(CUresult.NOT_SUPPORTED)
        else:
            try:
                self._synchronize()
                for payload in self._state.changes(self._ranges.memory):
                    self._results.append(pack_result(number, 0, payload, RESULT_STATE))
                    self._results_bytes += len(payload)
                    if self._results_bytes >= FLUSH_BYTES and flush is not None:
                        flush(self._take_results())
            except CudaError as error:
                status, text = int(error.result), str(error)
        if not status:
            # An empty payload: that was all.
            self._results.append(pack_result(number, 0, b"", RESULT_STATE))
        else:
            self._results.append(pack_result(number, status, text.encode(), RESULT_STATE))

    def _profile(self, record: CallRecord, flush: Callable[[bytes], None] | None) -> None:
        """Look at calls that come, or tell what was found; the last record says how it went."""
        number, calls, first = record.values
        status, text = self._sticky, self._sticky_text
        if calls:
            if not status:
                self._profiles.announce(number, first, calls, self._last_index)
            return
        payloads: list[bytes] = []
        if not status:
            try:
                payloads = self._profiles.end(number)
            except CudaError as error:
                status, text = int(error.result), str(error).encode()
        for payload in payloads:
            self._results.append(pack_result(number, 0, payload, RESULT_PROFILE))
            self._results_bytes += len(payload)
            if self._results_bytes >= FLUSH_BYTES and flush is not None:
                flush(self._take_results())
        # An empty payload: that was all.
        self._results.append(pack_result(number, status, text if status else b"", RESULT_PROFILE))

    def _print(self) -> None:
        """What kernels printed goes before the result that a thread waits for."""
        if self._printing is None:
            return
        printed, errors = self._printing.take_output()
        for text, flags in ((printed, RESULT_PRINTED), (errors, RESULT_PRINTED | RESULT_ERRORS)):
            for at in range(0, len(text), PRINTED_BYTES):
                self._results.append(pack_result(0, 0, text[at : at + PRINTED_BYTES], flags))

    def _several(self, run: RowRun) -> CallHeader:
        """Execute calls that the device runs as one; returns the last one's header."""
        last = run.headers[-1]
        if self._profiles.ahead(self._last_index):
            for header, record in zip(run.headers, run.records, strict=True):
                if self._sticky:
                    self._skip(header)
                else:
                    self._call(record, header, None)
            return last
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
        if self._comes is not None:
            self._comes(index)
        return kernel

    def _failed(
        self, header: CallHeader, status: CUresult, text: str, detail: str, kernel: bytes
    ) -> None:
        named = f"{describe(header.index, header.op, kernel.decode(errors='replace'))}: {text}"
        own = bool(header.flags & FLAG_REPLY) and status not in BREAKS_CONTEXT
        if not own:
            self._break(header.index, named, status)
            return
        if status is not CUresult.NOT_READY:
            self._errors += 1
            self._last_error = named
        self._reply(header.index, status, detail.encode())

    def _break(self, index: int, text: str, status: CUresult) -> None:
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
        self._state.loaded(module, info)

    def _kernel_name(self, module: int, kernel: int) -> bytes:
        names = self._kernels.get(module, ())
        return names[kernel] if kernel < len(names) else b"?"

    def _kernel_text(self, module: int, kernel: int) -> str:
        return self._kernel_name(module, kernel).decode(errors="replace")
