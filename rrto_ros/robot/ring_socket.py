"""The Unix socket where programs find the recorder: owns the listening, HELLO and WELCOME.

One recorder per robot, ROS domain and user: a lock beside the socket says whether another one
lives; a socket that a killed recorder left is replaced. Only processes of the same user get in.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import time
from pathlib import Path

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ConfigError, ProtocolError, UnavailableError
from rrto_ros.runtime_files import hold, socket_lock
from rrto_ros.wire.descriptions import (
    HELLO,
    Hello,
    Welcome,
    hello_bytes,
    pack_welcome,
    unpack_hello,
)
from rrto_ros.wire.format import PROTOCOL_VERSION, TABLE_HASH

MAX_PATH_BYTES = 107
HELLO_TIMEOUT_S = 5.0
MAX_HELLO_BYTES = 16384
PAUSE_S = 0.2
"""How long the listener waits when the machine has nothing left for another program."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CREDENTIALS = struct.Struct("iII")


class RingListener:
    """The listening socket.

    Args:
        path: Of the socket; its folder is made with mode 0700.

    Raises:
        ConfigError: The path is too long, or the folder belongs to someone else or is open to
            others.
        UnavailableError: Another recorder listens there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ConfigError(
                f"socket path {path} is longer than {MAX_PATH_BYTES} bytes; set RRTO_SOCKET to a "
                "shorter one, for the recorder and for the program"
            )
        lock = hold(socket_lock(path))
        if lock is None:
            raise UnavailableError(
                f"another recorder_replayer listens on {path}; stop it, or give this one another "
                "robot name"
            )
        self._lock_fd = lock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(64)
        except OSError as error:
            self._socket.close()
            os.close(self._lock_fd)
            raise UnavailableError(f"cannot listen on {path}: {error}") from error
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Given up for a moment where no descriptor is left, so that a program can be told.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._turned_away = 0

    def accept(self) -> socket.socket | None:
        """Wait for the next program; None once `stop` was called.

        Programs for which there is no descriptor are sent away with that reason; those that are
        gone before they are greeted are passed over.
        """
        # Not select(), which takes no descriptor above 1023.
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        while self._wake not in dict(waiting.poll()):
            try:
                return self._socket.accept()[0]
            except OSError as error:
                if error.errno in _EXHAUSTED and not self._turn_away(error):
                    # Nothing could be done; the program still waits at the socket.
                    self._pause()
        return None

    @property
    def turned_away(self) -> int:
        """How many programs found no descriptor left for them."""
        return self._turned_away

    def _turn_away(self, reason: OSError) -> bool:
        """Use the spare descriptor to tell the program that waits; whether it was told."""
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        try:
            connection = self._socket.accept()[0]
        except OSError:
            return False
        else:
            self._turned_away += 1
            welcome = Welcome(int(CUresult.SYSTEM_NOT_READY), no_room(reason))
            with connection, contextlib.suppress(OSError, ProtocolError):
                send_welcome(connection, welcome)
            return True
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _pause(self) -> None:
        """Wait a little, or until `stop`."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        waiting.poll(PAUSE_S * 1000)

    def stop(self) -> None:
        """Make `accept` return None (from any thread)."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop listening and remove the socket; after the accepting thread has ended."""
        self._socket.close()
        self.path.unlink(missing_ok=True)
        os.close(self._lock_fd)
        os.close(self._wake)
        if self._spare is not None:
            os.close(self._spare)


def no_room(error: OSError) -> str:
    """Why a program has no session whose socket failed: mostly the system has nothing left."""
    if isinstance(error, (BrokenPipeError, ConnectionResetError)):
        return "the program ended, or waited no longer, before its session was open"
    return (
        f"recorder_replayer has no room for another program ({error}); end other programs, or "
        "start it with a higher limit (ulimit -n)"
    )


def read_hello(connection: socket.socket, timeout_s: float = HELLO_TIMEOUT_S) -> Hello:
    """Read and judge HELLO.

    Raises:
        ProtocolError: Wrong user, magic, version, table or lengths, or not within the time.
    """
    size = _CREDENTIALS.size
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if uid != os.getuid():
        raise ProtocolError(f"program {pid} runs as user {uid}, the recorder as {os.getuid()}")
    end = time.monotonic() + timeout_s
    data = _read(connection, HELLO.size, end)
    wanted = hello_bytes(data)
    if wanted > MAX_HELLO_BYTES:
        raise ProtocolError(f"HELLO of {wanted} bytes, at most {MAX_HELLO_BYTES} allowed")
    hello = unpack_hello(data + _read(connection, wanted - HELLO.size, end))
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the program's libcuda speaks protocol {hello.version}, this recorder "
            f"{PROTOCOL_VERSION}; use the libcuda of the same rrto_ros"
        )
    if hello.table_hash != TABLE_HASH:
        raise ProtocolError(
            "the program's libcuda was made from another table of driver calls; use the libcuda "
            "of the same rrto_ros"
        )
    return hello


def send_welcome(connection: socket.socket, welcome: Welcome, fds: tuple[int, ...] = ()) -> None:
    """Send WELCOME, with the descriptors in its first byte's ancillary data.

    Raises:
        OSError: The program is gone.
    """
    data = pack_welcome(welcome)
    connection.settimeout(HELLO_TIMEOUT_S)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = connection.sendmsg([data], rights)
    if sent < len(data):
        connection.sendall(data[sent:])


def _read(connection: socket.socket, size: int, end: float) -> bytes:
    data = b""
    while len(data) < size:
        left = end - time.monotonic()
        if left <= 0:
            raise ProtocolError(f"HELLO stopped after {len(data)} of {size} bytes")
        connection.settimeout(left)
        try:
            part = connection.recv(size - len(data))
        except TimeoutError:
            continue
        except OSError as error:
            raise ProtocolError(f"the program left during HELLO: {error}") from error
        if not part:
            raise ProtocolError(f"the program left during HELLO after {len(data)} bytes")
        data += part
    return data


def hung_up(connection: socket.socket) -> bool:
    """Whether a program that was greeted has closed its socket, which does not block.

    Raises:
        ProtocolError: It has sent something.
    """
    try:
        data = connection.recv(64)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if data:
        raise ProtocolError(f"{len(data)} bytes on the socket after HELLO")
    return True
