"""The system's calls on pages of this process, as the arena needs them."""

from __future__ import annotations

import ctypes
import os

from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError

NONE, READ, READ_WRITE = 0, 1, 3
_SHARED, _FIXED = 0x01, 0x10
_RESERVED = 0x02 | 0x20 | 0x4000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
_FIXED_NOREPLACE = 0x100000
_DONTNEED = 4
_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def reserve(base: int, size: int) -> int | None:
    """Addresses without memory, at `base` or (0) anywhere; None if there are none."""
    address = _libc.mmap(base, size, NONE, _RESERVED | (_FIXED_NOREPLACE if base else 0), -1, 0)
    if address == _FAILED or address is None:
        return None
    if base and address != base:  # an old kernel took the base as a hint
        _libc.munmap(address, size)
        return None
    return int(address)


def give_back(address: int, size: int) -> None:
    """The addresses are not reserved any more."""
    _libc.munmap(address, size)


def protect(address: int, size: int, protection: int) -> bool:
    """Change what may be done with pages; False where the system refuses (errno)."""
    return bool(_libc.mprotect(address, size, protection) == 0)


def drop(address: int, size: int) -> None:
    """Give the pages' memory back and let accesses fault."""
    _libc.madvise(address, size, _DONTNEED)
    _libc.mprotect(address, size, NONE)


def map_file(address: int, size: int, file: int, offset: int) -> None:
    """Put a part of a file in the place of reserved pages; accesses fault."""
    got = _libc.mmap(address, size, NONE, _SHARED | _FIXED, file, offset)
    if got == _FAILED:
        raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))


def clear(address: int, size: int) -> None:
    """Reserved pages again, in the place of what was mapped there."""
    got = _libc.mmap(address, size, NONE, _RESERVED | _FIXED, -1, 0)
    if got == _FAILED:
        raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))


def punch(file: int, offset: int, size: int) -> None:
    """Give the memory of a part of a file back."""
    _libc.fallocate(file, _KEEP_SIZE_PUNCH_HOLE, offset, size)
