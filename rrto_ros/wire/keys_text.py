"""Public keys as users see and paste them."""

from __future__ import annotations

import base64
import binascii

from rrto_ros.errors import ConfigError

PREFIX = "rrto-ed25519:"
_BYTES = 32


def key_text(public: bytes) -> str:
    """A public key as one word."""
    return PREFIX + base64.urlsafe_b64encode(public).decode().rstrip("=")


def key_from(text: str) -> bytes:
    """The public key that a word is.

    Raises:
        ConfigError: It is none.
    """
    text = text.strip()
    bad = ConfigError(
        f"{text[:60]!r} is no key, want {PREFIX} and 43 characters: what `rrto keys show` prints "
        "on the other machine"
    )
    if not text.startswith(PREFIX) or len(text) != len(PREFIX) + 43:
        raise bad
    try:
        public = base64.b64decode(text[len(PREFIX) :] + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise bad from None
    # 43 characters hold two bits more than a key.
    if len(public) != _BYTES or key_text(public) != text or not any(public):
        raise bad
    return public
