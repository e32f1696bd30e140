"""The page by which a session host can name the call that killed its worker.

The worker writes what it is about to execute, the host reads it after the worker's death. One
writer, no lock: the reader looks only when the writer is gone.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from dataclasses import dataclass

from rrto_ros.wire.codec import OP_BY_CODE

PAGE_BYTES = 4096
_CALL = struct.Struct("<QII")
_NAME = struct.Struct("<Q")
_NAME_AT = 16
MAX_NAME_BYTES = 512


@dataclass(frozen=True)
class Executing:
    """The call that a worker was executing.

    Attributes:
        index: Index of the call, 0 if the worker was idle.
        op: Operation code.
        kernel: Name of the kernel for a launch, else empty.
    """

    index: int
    op: int
    kernel: str

    def __str__(self) -> str:
        return describe(self.index, self.op, self.kernel)


def describe(index: int, op: int, kernel: str = "") -> str:
    """How messages name a call: ``launch #123 of kernel 'r_64'``."""
    known = OP_BY_CODE.get(op)
    name = known.name if known is not None else f"operation {op}"
    return f"{name} #{index} of kernel '{kernel}'" if kernel else f"{name} #{index}"


class Progress:
    """One process's view of the page.

    Args:
        fd: A file of at least `PAGE_BYTES`, mapped shared; the caller still owns the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, PAGE_BYTES)
        # Of no use once the page is unmapped: only what executes may have it.
        anchor = ctypes.c_char.from_buffer(self._page)
        self.address = ctypes.addressof(anchor)
        del anchor

    def begin(self, index: int, op: int, kernel: bytes = b"") -> None:
        """Note the call that is executed next; `kernel` is cut to `MAX_NAME_BYTES`."""
        kernel = kernel[:MAX_NAME_BYTES]
        size = len(kernel)
        if size:
            self._page[_NAME_AT : _NAME_AT + size] = kernel
        _CALL.pack_into(self._page, 0, index, op, size)

    @staticmethod
    def note(op: int, kernel: bytes = b"") -> bytes:
        """What the page holds behind the index of a call; its address is `address`."""
        kernel = kernel[:MAX_NAME_BYTES]
        return _CALL.pack(0, op, len(kernel))[_NAME.size :] + kernel

    def idle(self) -> None:
        """Note that nothing is executed."""
        _NAME.pack_into(self._page, 0, 0)

    def read(self) -> Executing:
        """What the page says."""
        if self._page.closed:
            return Executing(0, 0, "")
        index, op, size = _CALL.unpack_from(self._page, 0)
        name = self._page[_NAME_AT : _NAME_AT + min(size, MAX_NAME_BYTES)]
        return Executing(index, op, name.decode(errors="replace"))

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()
