"""Folders and files of one user: owns where they are, what is trusted of them, and their secrets.

Another user may have made, filled or opened what has the right name. A folder is used if it is
this user's and nobody else can write there; a file if it is this user's and a plain one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from rrto_ros.errors import ConfigError

OPEN_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Follows no link and waits for no pipe."""
_SECRET = ".secret"
SECRET_BYTES = 32
_OWN = re.compile(r"[0-9a-f]{2}|\.lock|\.secret|\.new-.*|programs")
"""Names in a store's directory."""
_FOR_ALL = frozenset(map(Path, ("/", "/tmp", "/var/tmp", "/dev/shm")))
"""Never one user's, empty or not."""


def user_folder(find: Callable[[str], Path], variable: str) -> Path:
    """One of the user's directories for this package; it need not be there.

    Args:
        find: Of `platformdirs`.
        variable: Of the environment, by which the user can say where it is.

    Raises:
        ConfigError: This user has no home.
    """
    with contextlib.suppress(RuntimeError):
        path = find("rrto")
        # Where there is no home, some versions of it say so and some leave the "~".
        if path.is_absolute():
            return path
    raise ConfigError(f"this user has no home directory; set HOME or {variable}")


def is_own(found: os.stat_result) -> bool:
    """Whether it is a file of this user's: what another wrote is not trusted."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def make_own(directory: Path, name: str) -> None:
    """Have a directory be this user's alone.

    Raises:
        ConfigError: It is another's, or others may write there and it holds more than a store.
    """
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{name}: it belongs to user {found.st_uid}; choose another one")
    if not found.st_mode & 0o077:
        return
    # A directory that has other things in it, or is for all users, is left as it is.
    names = [entry.name for entry in directory.iterdir()]
    if directory.resolve() not in _FOR_ALL and all(map(_OWN.fullmatch, names)):
        directory.chmod(0o700)
    elif found.st_mode & 0o022:
        raise ConfigError(f"{name}: other users may write there; choose another one")


def secret_of(directory: Path) -> bytes:
    """What entries of a directory are sealed with, made if there is none of this user's."""
    path = directory / _SECRET
    for _ in range(2):
        try:
            with os.fdopen(os.open(path, OPEN_TO_READ), "rb") as file:
                found, secret = os.fstat(file.fileno()), file.read(SECRET_BYTES + 1)
            if is_own(found) and not found.st_mode & 0o077 and len(secret) == SECRET_BYTES:
                return secret
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError:  # a link, or one that this user may not read
            path.unlink(missing_ok=True)
        make_secret(path)
    raise OSError(errno.EACCES, "no secret for its entries can be made there")


def make_secret(path: Path) -> None:
    """Put a new secret at a path; of several processes that do so at once the first one's stays.

    Raises:
        OSError: It cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
