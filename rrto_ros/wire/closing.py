"""Who may say that a session is not open (any more): owns the proof in a CLOSED message.

A server that has the session's keys proves it with them. One that was started anew has lost them:
it shows its id, the number of its run and its identity, and is believed by who has a session with
another run of the same server. A server that never had the session has another id, and is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rrto_ros.wire.handshake import ID_BYTES, KEYS, signed
from rrto_ros.wire.port import ANY_SERVER
from rrto_ros.wire.seal import proof, proves

_CLOSED = b"rrto closed"


def closed_by_session(session: bytes, server: bytes, run: bytes, control: bytes) -> bytes:
    """The data of CLOSED, of the server that had the session."""
    return server + run + proof(control, _CLOSED, session, server, run)


def closed_by_server(
    session: bytes,
    server: bytes,
    run: bytes,
    identity: Ed25519PrivateKey | None,
    local: bytes | None,
) -> bytes:
    """The data of CLOSED, of a server that does not know the session."""
    said = server + run
    if identity is not None:
        return said + identity.sign(_CLOSED + session + said)
    return said if local is None else said + proof(local, _CLOSED, session, server, run)


@dataclass(frozen=True, repr=False)
class ServerOfSession:
    """What the robot knows of the server that its session is on.

    Attributes:
        server: Its id.
        run: Of its process.
        kind: How both proved themselves (`handshake.KEYS` or `LOCAL`); 0: not at all.
        identity: The server's public key, of kind `KEYS`.
        local: The machine's secret, of kind `LOCAL`.
        control: The session's key for proofs.
    """

    server: bytes = b""
    run: bytes = b""
    kind: int = 0
    identity: bytes = b""
    local: bytes = b""
    control: bytes = b""

    def is_other(self, data: bytes) -> bool:
        """Whether CLOSED with this data is of a server that says that it is another one."""
        return (data[:ID_BYTES] or ANY_SERVER) != (self.server or ANY_SERVER)

    def closed(self, session: bytes, data: bytes) -> bool:
        """Whether CLOSED with this data says that the session is over."""
        server, run = data[:ID_BYTES], data[ID_BYTES : 2 * ID_BYTES]
        shown = data[2 * ID_BYTES :]
        if self.is_other(data):
            return False
        if not self.kind:
            return True
        if proves(shown, self.control, _CLOSED, session, server, run):
            return True
        if run == self.run:
            return False
        if self.kind == KEYS:
            return signed(self.identity, shown, _CLOSED + session + server + run)
        return proves(shown, self.local, _CLOSED, session, server, run)
