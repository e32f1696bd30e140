"""A user's credentials on this machine: read as they are now, and changed by `rrto keys`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rrto_ros import key_files
from rrto_ros.errors import ConfigError
from rrto_ros.wire.handshake import Credentials, key_id
from rrto_ros.wire.keys_text import key_from, key_text


def of_robot() -> Credentials:
    """What a recorder shows and trusts.

    Raises:
        ConfigError: A file of keys cannot be used.
    """
    return _read(key_files.stamp(), make=False)


def of_server() -> Credentials:
    """What a server shows and trusts.

    Raises:
        ConfigError: A file of keys cannot be used, or keys are trusted and there is no own one.
    """
    found = _read(key_files.stamp(), make=True)
    if found.trusted and found.identity is None:
        raise ConfigError("keys are trusted here and there is no own one; run `rrto keys new`")
    return found


def identity() -> Ed25519PrivateKey | None:
    """The user's own key, None if there is none.

    Raises:
        ConfigError: Its file cannot be used.
    """
    pem = key_files.identity_pem()
    if pem is None:
        return None
    # As long to import as all the rest of it; most nodes have no key.
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key_files.folder() / 'identity.pem'} is no key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{key_files.folder() / 'identity.pem'} is a key of another kind, want Ed25519; "
            "remove it and run `rrto keys new`"
        )
    return key


def new_identity() -> tuple[Ed25519PrivateKey, Path]:
    """Make the user's own key.

    Raises:
        ConfigError: There is one, or it cannot be written.
    """
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key, key_files.write_identity(pem)


def trust(text: str, name: str) -> bytes:
    """Trust a key, under a name; a key that is trusted gets the new name.

    Returns:
        The public key.

    Raises:
        ConfigError: It is no key, or the user's own, or the name is taken.
    """
    public = key_from(text)
    own = identity()
    if own is not None and own.public_key().public_bytes_raw() == public:
        raise ConfigError("this is the key of this machine, which is trusted here anyway")
    kept = [one for one in key_files.trusted() if key_from(one.key) != public]
    if any(one.name == name for one in kept):
        raise ConfigError(
            f"name {name!r} is another key's; choose another one, or `rrto keys revoke {name}` "
            "first"
        )
    key_files.write_trusted([*kept, key_files.Trusted(key_text(public), name)])
    return public


def revoke(which: str) -> key_files.Trusted:
    """Trust a key no longer.

    Args:
        which: Its name, the key, or its id.

    Raises:
        ConfigError: No such key is trusted.
    """
    kept = key_files.trusted()
    for one in kept:
        if which in (one.name, one.key, key_id(key_from(one.key))):
            key_files.write_trusted([other for other in kept if other is not one])
            return one
    names = ", ".join(one.name for one in kept) or "none"
    raise ConfigError(f"no key {which[:80]!r} is trusted here; trusted are: {names}")


@lru_cache(maxsize=2)
def _read(_: tuple[object, ...], *, make: bool) -> Credentials:
    # A status or a flood of hellos asks often, and the files change seldom.
    return Credentials(
        identity(),
        {key_from(one.key): one.name for one in key_files.trusted()},
        key_files.local_secret(make=make),
    )
