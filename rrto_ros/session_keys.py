"""How a recording gets the keys of sessions: owns the folders that they go through.

A recording that wants keys makes a folder in the user's runtime folder and holds its lock; a
recorder_replayer of the same user puts the keys of each session that opens into every such folder.
Where nobody records, no key is ever written. Nothing of it goes over the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rrto_ros.disk_store import write_whole
from rrto_ros.runtime_files import held, hold, recording_folder, recording_folders

_SESSION = re.compile("[0-9a-f]{32}")
_LOCK = ".lock"
MAX_KEY_BYTES = 1024


@contextlib.contextmanager
def wanted_keys(robot: str, domain: int) -> Iterator[Path]:
    """A folder into which keys are put while the block lasts; it is removed then.

    Raises:
        ConfigError: The runtime folder belongs to someone else or is open to others.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    folder = recording_folder(robot, domain, name)
    # Under its name only when its lock is held: without one it is what a killed process left.
    made = folder.with_name(f".new-{folder.name}")
    lock = hold(made / _LOCK)
    try:
        made.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def disclose(robot: str, domain: int, session: bytes, keys: bytes) -> int:
    """Put a session's keys where recordings on this machine look for them.

    Returns:
        How many want them. What a killed recording left is removed.
    """
    count = 0
    for folder in recording_folders(robot, domain):
        if not held(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            write_whole(folder / session.hex(), keys)
            count += 1
    return count


def taken(folder: Path, session: str) -> bytes | None:
    """The keys of a session (its id hexadecimal) that were put into a folder, if any."""
    if not _SESSION.fullmatch(session):
        return None
    try:
        data = (folder / session).read_bytes()
    except OSError:
        return None
    return data if len(data) <= MAX_KEY_BYTES else None
