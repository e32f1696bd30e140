"""A user's sockets and locks on this machine: owns where they are, and who holds a lock.

Everything is named by ROS domain and robot, in a folder of the user's own. A lock is a file that
is locked as long as the process lives, so a killed one leaves none.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from rrto_ros.errors import ConfigError


def socket_path(robot: str, domain: int) -> Path:
    """Where the recorder of `robot` listens: `$RRTO_SOCKET`, else in the user's runtime folder.

    The shim computes the same from RRTO_ROBOT and ROS_DOMAIN_ID (`core/session.c`).
    """
    given = os.environ.get("RRTO_SOCKET")
    return Path(given) if given else _folder() / f"{_name(robot, domain)}.sock"


def socket_lock(socket: Path) -> Path:
    """The lock that the recorder behind a socket holds."""
    return Path(f"{socket}.lock")


def server_lock(robot: str, domain: int, server: str) -> Path:
    """The lock that the offload server of a robot holds that is called `server`.

    A name of neither has an `@`, so that no robot's other files are in its way.
    """
    return _folder() / f"{_name(robot, domain)}@{server}.server.lock"


def serves(robot: str, domain: int) -> bool:
    """Whether an offload server of this user on this machine serves a robot."""
    # No pattern: a robot's name would have to be escaped.
    prefix = f"{_name(robot, domain)}@"
    try:
        found = [path for path in _folder().iterdir() if path.name.startswith(prefix)]
    except OSError:
        return False
    return any(map(held, found))


def secret_path() -> Path:
    """The secret that processes of this user on this machine know each other by (`key_files`)."""
    return _folder() / "local.secret"


def recording_folder(robot: str, domain: int, name: str) -> Path:
    """Where a recording of a robot's calls wants the sessions' keys (`session_keys`)."""
    return _folder() / f"{_name(robot, domain)}.recording-{name}"


def recording_folders(robot: str, domain: int) -> list[Path]:
    """All such folders of a robot."""
    prefix = f"{_name(robot, domain)}.recording-"
    try:
        found = [path for path in _folder().iterdir() if path.name.startswith(prefix)]
    except OSError:
        return []
    return sorted(found)


def hold(lock: Path) -> int | None:
    """Take a lock.

    Returns:
        A descriptor that holds it until it is closed; None if another process has it.

    Raises:
        ConfigError: Its folder belongs to someone else or is open to others.
    """
    _own(lock.parent)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def held(lock: Path) -> bool:
    """Whether a process of this user holds a lock."""
    try:
        with lock.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def runtime_folder() -> Path:
    """Where all of it is, made if need be.

    Raises:
        ConfigError: It belongs to someone else or is open to others.
    """
    _own(_folder())
    return _folder()


def _folder() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"rrto-{os.getuid()}"


def _name(robot: str, domain: int) -> str:
    """What files of a robot in a ROS domain begin with; no two robots have the same."""
    return f"{domain}-{robot.replace('/', '.')}"


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    # A link of someone else's in /tmp would lead to a place of his choice.
    owners = {status.st_uid, folder.lstat().st_uid}
    if owners != {os.getuid()} or status.st_mode & 0o022:
        raise ConfigError(
            f"folder {folder} of the socket must belong to user {os.getuid()} and not be writable "
            f"by others (it belongs to {status.st_uid}, mode {status.st_mode & 0o777:o})"
        )
