"""The user's keys on this machine: owns the files, who may read them, and what is in them.

    <config>/rrto/identity.pem    the private Ed25519 key (PKCS #8), for every robot and server
    <config>/rrto/trusted_keys    a line for each key that is trusted: key, name
    <runtime>/local.secret        32 bytes that show that two processes are of one user and machine

`<config>` is the user's configuration directory, `<runtime>` that of `runtime_files`. Folders have
mode 0700 and files 0600. A file that belongs to someone else, or that others can read (a private
one) or write, is refused. A change of them holds from then on (`stamp`).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path

from rrto_ros.disk_store import write_whole
from rrto_ros.errors import ConfigError
from rrto_ros.own_files import OPEN_TO_READ, SECRET_BYTES, make_secret, user_folder
from rrto_ros.runtime_files import runtime_folder, secret_path

MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


@dataclass(frozen=True)
class Trusted:
    """A key that is trusted: as `rrto keys show` prints it, and its name here."""

    key: str
    name: str


def folder() -> Path:
    """Where the user's keys are; it need not be there.

    Raises:
        ConfigError: This user has no home.
    """
    return user_folder(user_config_path, "XDG_CONFIG_HOME")


def identity_pem() -> bytes | None:
    """The private key; None if there is none.

    Raises:
        ConfigError: It is not the user's own, or others can read it.
    """
    return _read("identity.pem", private=True)


def write_identity(pem: bytes) -> Path:
    """Keep a private key.

    Raises:
        ConfigError: There is one, or it cannot be written.
    """
    path = _made() / "identity.pem"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; every machine that trusts this key would have to trust the new one. "
            "Remove it first if that is meant"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    return path


def trusted() -> list[Trusted]:
    """The keys that are trusted.

    Raises:
        ConfigError: The file is not the user's own, others can write it, or a line is no key.
    """
    data = _read("trusted_keys", private=False)
    out: list[Trusted] = []
    for number, line in enumerate((data or b"").decode(errors="replace").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[1]):
            raise ConfigError(
                f"{folder() / 'trusted_keys'}, line {number}: {line[:60]!r} is not `KEY NAME`; "
                "mend or remove it"
            )
        out.append(Trusted(words[0], words[1]))
    return out


def write_trusted(keys: list[Trusted]) -> Path:
    """Replace the keys that are trusted.

    Raises:
        ConfigError: The file cannot be written, or a name cannot be used.
    """
    for one in keys:
        if not _NAME.fullmatch(one.name):
            raise ConfigError(
                f"name {one.name[:70]!r}: want 1 to 64 letters, digits and . _ @ -, a letter or "
                "digit first"
            )
    path = _made() / "trusted_keys"
    text = "".join(f"{one.key} {one.name}\n" for one in keys)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path


def stamp() -> tuple[object, ...]:
    """Another one whenever a file of keys, or who may read it, has changed."""
    try:
        where = folder()
        paths = [where, where / "identity.pem", where / "trusted_keys"]
    except ConfigError:
        paths = []
    out: list[object] = []
    for path in (*paths, secret_path()):
        try:
            found = path.lstat()
        except OSError:
            out.append((str(path), None))
            continue
        out.append((str(path), found.st_ino, found.st_ctime_ns, found.st_size, found.st_mode))
    return tuple(out)


def local_secret(*, make: bool) -> bytes | None:
    """The secret of this user on this machine, until the runtime folder is cleared.

    Args:
        make: Make it if there is none: for servers.

    Raises:
        ConfigError: It is not the user's own, or others can read it.
    """
    runtime_folder()
    path = secret_path()
    data = _checked(path, private=True)
    if data is None and make:
        make_secret(path)
        data = _checked(path, private=True)
    if data is not None and len(data) != SECRET_BYTES:
        raise ConfigError(f"{path} has {len(data)} bytes, want {SECRET_BYTES}; remove it")
    return data


def _read(name: str, *, private: bool) -> bytes | None:
    try:
        where = folder()
    except ConfigError:
        return None
    data = _checked(where / name, private=private)
    if data is not None:
        _check(where, where.stat(), private=False)
    return data


def _made() -> Path:
    where = folder()
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {where} cannot be made: {error.strerror}") from error
    _check(where, where.stat(), private=True)
    return where


def _checked(path: Path, *, private: bool) -> bytes | None:
    """The content of a file; None if there is none."""
    try:
        with os.fdopen(os.open(path, OPEN_TO_READ), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{path} is no file; remove it")
            _check(path, found, private=private)
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes; remove it")
    return data


def _check(path: Path, found: os.stat_result, *, private: bool) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, want {os.geteuid()}; its keys are not used"
        )
    others = 0o077 if private else 0o022
    if found.st_mode & others:
        verb = "read or write" if private else "write"
        raise ConfigError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, so that others can {verb} it; "
            f"run `chmod go-rwx {path}`, and `rrto keys` anew if it was read"
        )
