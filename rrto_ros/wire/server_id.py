"""Ids of servers: owns how a server's name is bound to its id.

An id is signed when a session opens; a name comes in a status that anybody in the ROS domain can
send. So the second half of an id is a hash of the first half and the name: who hears both sees
whether they belong together, and who looks for a server of a name needs no status at all.
"""

from __future__ import annotations

from hashlib import sha256

from rrto_ros.wire.handshake import ID_BYTES

_HALF = ID_BYTES // 2


def server_id(own: bytes, name: str) -> bytes:
    """The id of a server.

    Args:
        own: What tells it from all others, whatever their names.
        name: What people call it.
    """
    first = sha256(b"rrto server " + own).digest()[:_HALF]
    return first + _bound(first, name)


def is_named(server: bytes, name: str) -> bool:
    """Whether the server of an id has a name."""
    return len(server) == ID_BYTES and server[_HALF:] == _bound(server[:_HALF], name)


def _bound(first: bytes, name: str) -> bytes:
    return sha256(b"rrto server name " + first + name.encode()).digest()[:_HALF]
