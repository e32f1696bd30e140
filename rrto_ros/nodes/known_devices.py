"""Which devices a robot's edge has, kept on disk: owns what is remembered of them.

A program that starts while no edge is there is shown this device, so that it can go to the edge
later. What it is shown must then be what the edge shows, and after a start of the robot nobody but
the disk remembers that. An entry that is missing or damaged is as good as none.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from rrto_ros.api.info import DeviceInfo
from rrto_ros.disk_store import DiskStore, opened
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.descriptions import pack_device_info, unpack_device_info

EDGES = "edges"
"""Its folder in the user's cache directory."""
MOST_BYTES = 1 << 20


def _store(directory: Path, limit_bytes: int) -> DiskStore:
    return DiskStore(directory, limit_bytes, "edge", sealed=True)


class KnownDevices:
    """The edge's devices by kind. Any thread.

    Args:
        robot: Whose edge; empty for one that nothing is written of.
        log: Takes a line where nothing can be kept.
        directory: Where; None for the user's cache directory.
    """

    def __init__(
        self, robot: str, log: Callable[[str], None], directory: Path | None = None
    ) -> None:
        self._robot = robot
        self._log = log
        self._directory = directory
        self._known: dict[str, DeviceInfo] = {}
        self._store: DiskStore | None = None
        self._looked = False

    def get(self, kind: str) -> DeviceInfo | None:
        """The last one of a kind; None if none is known."""
        if kind not in self._known and (store := self._opened()) is not None:
            found = store.get(self._key(kind))
            if found is not None and (info := _read(found)) is not None and info.kind == kind:
                self._known[kind] = info
        return self._known.get(kind)

    def put(self, info: DeviceInfo) -> None:
        """An edge has opened a session on this device."""
        if self.get(info.kind) == info:
            return
        self._known[info.kind] = info
        if (store := self._opened()) is not None:
            store.put(self._key(info.kind), pack_device_info(info, bytes(16)))

    def _opened(self) -> DiskStore | None:
        if not self._looked and self._robot:
            self._looked = True
            self._store = opened(_store, EDGES, self._directory, MOST_BYTES, self._log)
        return self._store

    def _key(self, kind: str) -> str:
        return sha256(f"{self._robot} {kind}".encode()).hexdigest()


def _read(data: bytes) -> DeviceInfo | None:
    try:
        return unpack_device_info(data)[0]
    except ProtocolError:
        return None
