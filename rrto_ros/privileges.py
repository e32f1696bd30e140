"""Giving up: owns how a process gives up root, capabilities and resources."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct

FIRST_USER = 0x7000_0000
"""A process that gives up root becomes the user with this number plus its own: systemd's list of
numbers has no use for these, and no two processes of one machine have the same."""
_NOBODY = 65534
_KEEP_CAPABILITIES, _DROP_FROM_BOUNDING, _AMBIENT, _CLEAR_ALL = 8, 24, 47, 4
_READ_ALL = 2  # CAP_DAC_READ_SEARCH
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_MOST = 64

_libc = ctypes.CDLL(None, use_errno=True)


def become_nobody(*, read_all: bool) -> str:
    """Give up root for a user that owns nothing, and every capability.

    Args:
        read_all: Keep the capability to read what others may not; for a process that Landlock
            keeps to a few places.

    Returns:
        Why it is not another user now, empty if it is.
    """
    problem = ""
    for capability in range(_MOST):
        _libc.prctl(_DROP_FROM_BOUNDING, capability, 0, 0, 0)
    _libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    if os.geteuid():
        problem = "the server is not root"
    else:
        _libc.prctl(_KEEP_CAPABILITIES, int(read_all), 0, 0, 0)
        problem = _switch()
        _libc.prctl(_KEEP_CAPABILITIES, 0, 0, 0, 0)
    kept = 1 << _READ_ALL if read_all else 0
    sets = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    if _libc.capset(_HEADER, sets):
        # It had not even that one.
        _libc.capset(_HEADER, bytes(24))
    return problem


def _switch() -> str:
    error: OSError | None = None
    # In a name space of users there may be few numbers.
    for user in (FIRST_USER + os.getpid(), _NOBODY):
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return ""
        except OSError as raised:
            error = raised
    return f"it cannot be another user ({error.strerror if error else 'no number'})"


def capabilities() -> int:
    """The effective ones, as bits."""
    sets = ctypes.create_string_buffer(24)
    if _libc.capget(_HEADER, sets):
        return 0
    low, _, _, high, _, _ = struct.unpack("=6I", sets.raw)
    return int(low | high << 32)


def limit(kind: int, most: int) -> bool:
    """Lower a limit of this process for good; False if the kernel refuses."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(kind)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))
        return True
    return False
