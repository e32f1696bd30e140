"""What Fast DDS leaves in shared memory: owns telling what a killed process left, and removing it.

A process that is killed leaves its segment (8 MB of the data's participant and more), its ports
and their semaphores in /dev/shm for good. Each is locked as long as its owner lives, in a file
beside it whose name ends in `_el`: what can be locked is nobody's. That holds across containers
too, where the list of processes would not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import time
from pathlib import Path

from rrto_ros.own_files import OPEN_TO_READ, is_own

FOLDER = Path("/dev/shm")
YOUNG_S = 10.0
"""What is younger may be in the making: its owner has not locked it yet."""
_LOCK = re.compile(r"((?:fastdds|fastrtps)_(?:[0-9a-f]{16}|port\d{1,5}))_el")


def start_clean() -> None:
    """Remove what killed nodes of this user left, with a line; at the start of a node."""
    count, size = remove_litter()
    if count:
        print(
            f"removed {size >> 20} MiB of shared memory that killed nodes left ({count} files)",
            file=sys.stderr,
            flush=True,
        )


def remove_litter(folder: Path = FOLDER) -> tuple[int, int]:
    """Remove what dead processes of this user left.

    Args:
        folder: Where shared memory is.

    Returns:
        (segments and ports removed, their bytes).
    """
    count = size = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries]:
            found = _LOCK.fullmatch(name)
            if found is not None:
                with contextlib.suppress(OSError):
                    size += _remove(folder, found[1], folder / name)
                    count += 1
    return count, size


def _remove(folder: Path, name: str, lock: Path) -> int:
    """Remove one thing with its lock and semaphore; its bytes.

    Raises:
        OSError: It is another user's, young, no file or somebody's.
    """
    handle = os.open(lock, OPEN_TO_READ)
    try:
        status = os.fstat(handle)
        if not is_own(status):
            raise PermissionError
        if status.st_mtime > time.time() - YOUNG_S:
            raise BlockingIOError
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who found the thing dead before us has removed the lock that was opened, and what has
        # these names now is alive.
        if not os.path.samestat(status, lock.lstat()):
            raise BlockingIOError
        size = 0
        # The lock last: whoever comes meanwhile finds the thing taken, and not half gone.
        for path in (folder / f"sem.{name}_mutex", folder / name, lock):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if is_own(found):
                    path.unlink()
                    size += found.st_blocks * 512
        return size
    finally:
        os.close(handle)
