"""The call log of one session: 13 bytes a call and each distinct call once, bounded memory.

A log is an array of exact numbers (see `templates`); beside it lie the skeleton number, the kind
and the thread of each call. Positions count the session's calls from 0 and never change; when the
memory limit is reached the older half is dropped and `base` moves up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.wire.accesses import GraphTable
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import BLOB_DATA_OP, CALL_HEADER, FLAG_BLOB_REF, HEADER_BYTES, Buffer
from rrto_ros.wire.templates import EFFECT, CallTemplate, Templates, blob_key

IntArray = npt.NDArray[np.int32]

CALL_BYTES = 13
MAX_BREAKS = 65536


class CallLog:
    """Calls of one session in order. Not thread-safe.

    Attributes:
        base: Position of the oldest call that is kept.
        end: Position after the newest call: the number of calls that the session made.
        exact, skeletons, threads, kinds: One item per kept call.
        templates: What the exact numbers stand for.
        allocations, graphs: What is live after the newest call.
        keepers: Each gives exact numbers that must survive when the older half is dropped.
        session: What is known of the session (for dumps): text by name.
    """

    def __init__(
        self,
        *,
        max_calls: int = 1 << 21,
        memory_limit_bytes: int = 128 << 20,
        session: dict[str, str] | None = None,
    ) -> None:
        """Make an empty log.

        Args:
            max_calls: Calls kept at most.
            memory_limit_bytes: Bytes kept at most, by estimate.
            session: What is known of the session.

        Raises:
            ConfigError: A limit is too small to be of use.
        """
        if max_calls < 16 or memory_limit_bytes < 1 << 16:
            raise ConfigError(
                f"call log of {max_calls} calls in {memory_limit_bytes} bytes: it needs at least "
                "16 calls and 65536 bytes"
            )
        self.max_calls = max_calls
        self.memory_limit_bytes = memory_limit_bytes
        self.session = dict(session or {})
        self.base = 0
        self.exact = array("i")
        self.skeletons = array("i")
        self.threads = array("I")
        self.kinds = bytearray()
        self.templates = Templates()
        self.allocations = Allocations()
        self.graphs = GraphTable()
        self.keepers: list[Callable[[], Iterable[int]]] = []
        # Calls are numbered without gaps but for what never left the robot: (position, index).
        self._breaks: list[tuple[int, int]] = []
        self._next_index = -1
        self._trim_above = memory_limit_bytes

    @property
    def end(self) -> int:
        return self.base + len(self.exact)

    def __len__(self) -> int:
        return len(self.exact)

    def memory_bytes(self) -> int:
        """Estimated size in bytes."""
        return CALL_BYTES * len(self.exact) + self.templates.bytes

    def statistics(self) -> dict[str, int]:
        return {
            "calls": self.end,
            "kept": len(self.exact),
            "distinct": len(self.templates),
            "memory_bytes": self.memory_bytes(),
            "allocations": len(self.allocations),
        }

    def template(self, position: int) -> CallTemplate:
        """The call at a position that is kept.

        Raises:
            IndexError: The position is not kept.
        """
        if not self.base <= position < self.end:
            raise IndexError(f"call {position} is not in the log ({self.base} to {self.end - 1})")
        return self.templates[self.exact[position - self.base]]

    def index_of(self, position: int) -> int:
        """The driver call's number in its session (the record's `index`)."""
        at = bisect_right(self._breaks, (position, 1 << 63)) - 1
        if at < 0:
            return position + 1
        start, index = self._breaks[at]
        return index + position - start

    def extend(self, buffer: Buffer) -> int:
        """Append whole call records; payload contents are not kept.

        Returns:
            How many calls were appended.

        Raises:
            ProtocolError: A record does not fit the format; those before it were appended.
        """
        view = memoryview(buffer).cast("B")
        exact, skeletons, threads, kinds = self.exact, self.skeletons, self.threads, self.kinds
        tables, unpack, limit, offset = (
            self.templates.tables,
            CALL_HEADER.unpack_from,
            len(view),
            0,
        )
        before, expected = len(exact), self._next_index
        while offset < limit:
            if limit - offset < HEADER_BYTES:
                offset += self._odd(view, offset)
                continue
            size, code, flags, index, thread, payload = unpack(view, offset)
            table = tables.get(code)
            body_end = offset + size - ((payload + 7) & ~7)
            if table is None or size & 7 or body_end < offset + 24 or offset + size > limit:
                offset += self._odd(view, offset)
                continue
            if flags & FLAG_BLOB_REF:
                if payload != 40:
                    self._odd(view, offset)
                key = blob_key(view, offset, size, flags)
            else:
                # From payload_bytes on: the rest of the header is different at each call.
                key = view[offset + 20 : body_end].tobytes()
            entry = table.get(key)
            if entry is None:
                entry = self.templates.add(code, key, self.base + len(exact))
            kind = entry[2]
            if kind >= EFFECT:
                self._follow(self.templates[entry[0]])
                kind -= EFFECT
            if index != expected:
                self._breaks.append((self.base + len(exact), index))
            expected = self._next_index = index + 1
            exact.append(entry[0])
            skeletons.append(entry[1])
            kinds.append(kind)
            threads.append(thread)
            offset += size
        kept = len(exact)
        added = kept - before
        if kept > self.max_calls or CALL_BYTES * kept + self.templates.bytes > self._trim_above:
            self._trim()
        if len(self._breaks) > MAX_BREAKS:
            del self._breaks[: MAX_BREAKS // 2]
        return added

    def _odd(self, view: memoryview, offset: int) -> int:
        """Bytes to skip at what is not a plain call record: padding or blob data."""
        if view[offset + 4] == 0 and view[offset + 5] == 0:
            size = int.from_bytes(view[offset : offset + 4], "little")
            if size >= 8 and size % 8 == 0 and offset + size <= len(view):
                return size
        header = next(iter_headers(view[offset:]), None)  # names what is wrong
        if header is None or header.op != BLOB_DATA_OP:
            raise ProtocolError(f"call record at byte {offset} does not fit the format")
        return header.size

    def _follow(self, template: CallTemplate) -> None:
        op, f = template.op, template.fields()
        if not self.allocations.follow(op.effect, f):
            self.graphs.apply(op, f, self.allocations)

    def _trim(self) -> None:
        """Drop the older half (more if the templates alone are too big), amortised O(1)."""
        while len(self.exact) > 16:
            drop = len(self.exact) // 2
            del self.exact[:drop], self.skeletons[:drop], self.threads[:drop], self.kinds[:drop]
            self.base += drop
            keep = set(np.unique(np.frombuffer(self.exact, np.int32)).tolist())
            for keeper in self.keepers:
                keep.update(keeper())
            self.templates.keep_only(n for n in keep if n in self.templates)
            small = self.memory_bytes() <= self.memory_limit_bytes // 2
            if small and len(self.exact) <= self.max_calls:
                break
        # What keepers hold cannot be dropped; without this every call would try again.
        self._trim_above = max(self.memory_limit_bytes, self.memory_bytes() * 5 // 4)

    def restore(
        self,
        *,
        base: int,
        exact: IntArray,
        threads: npt.NDArray[np.uint32],
        breaks: list[tuple[int, int]],
        allocations: Iterable[tuple[int, int]],
    ) -> None:
        """Fill an empty log from a dump; `templates` hold what `exact` refers to."""
        numbers = range(len(self.templates))
        entries = np.array([self.templates.entry(n) for n in numbers], np.int32).reshape(-1, 3)
        self.base = base
        self.exact = array("i", exact.astype(np.int32).tobytes())
        self.threads = array("I", threads.astype(np.uint32).tobytes())
        self.skeletons = array("i", entries[exact, 1].astype(np.int32).tobytes())
        self.kinds = bytearray((entries[exact, 2] & (EFFECT - 1)).astype(np.uint8).tobytes())
        self._breaks = list(breaks)
        self.allocations = Allocations(allocations)

    @property
    def breaks(self) -> tuple[tuple[int, int], ...]:
        """Where call numbers jump: (position, index of the call there), ascending."""
        return tuple(self._breaks)
