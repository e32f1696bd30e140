"""Landlock: owns the ruleset by which a process gives up files, the network and others' signals.

It needs no privilege, holds for what the process starts, and cannot be taken back. It holds for
the calling thread and for threads that this one starts, so it is for a process with one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from rrto_ros.seccomp import forbid_new_privileges

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # of every architecture
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
_WRITE = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE
    | _REFER | _TRUNCATE | _IOCTL
)  # fmt: skip
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
# Version: all rights over files that it knows.
_HANDLED = ((5, (1 << 16) - 1), (3, (1 << 15) - 1), (2, (1 << 14) - 1), (1, (1 << 13) - 1))
_TCP = 0b11  # bind, connect: from version 4 on
_SCOPE = 0b11  # abstract Unix sockets, signals: from version 6 on

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def version() -> int:
    """Of the kernel's Landlock; 0 if it has none, or has it switched off."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def missing(found: int) -> list[str]:
    """What a version does not keep a process from."""
    since = {
        3: "truncating files", 4: "TCP", 5: "ioctl on devices",
        6: "signals to others and abstract sockets",
    }  # fmt: skip
    return [what for first, what in since.items() if found < first]


class Ruleset:
    """What a process will still be able to reach; it is restricted by `apply`.

    Args:
        read: Files and folders to read; what does not exist is left out.
        write: The same to read and write, with device nodes.

    Raises:
        OSError: The kernel has no Landlock.
    """

    def __init__(self, read: Iterable[Path] = (), write: Iterable[Path] = ()) -> None:
        found = version()
        handled = next((rights for since, rights in _HANDLED if found >= since), 0)
        attributes = struct.pack(
            "=QQQ", handled, _TCP if found >= 4 else 0, _SCOPE if found >= 6 else 0
        )
        self._fd = int(_libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for paths, rights in ((read, _READ), (write, _WRITE)):
            for path in dict.fromkeys(paths):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    self._add(path, rights & handled)

    def _add(self, path: Path, rights: int) -> None:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights, place)
            if _libc.syscall(_ADD, self._fd, _PATH_BENEATH, rule, 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        finally:
            os.close(place)

    def apply(self) -> None:
        """Restrict this thread, and what it starts from now on.

        Raises:
            OSError: The kernel refuses.
        """
        forbid_new_privileges()
        try:
            if _libc.syscall(_RESTRICT, self._fd, 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(self._fd)
