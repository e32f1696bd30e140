"""What a host keeps for its worker: owns the names of the stores."""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.disk_store import DiskStore


@dataclass(frozen=True)
class Stores:
    """What a host keeps for a worker, which has no way to files.

    Attributes:
        kernels: Compiled kernels and facts of modules, sealed; None: not kept.
        blobs: Uploads; None: not kept.
        origin: Whom the session belongs to: kernels of one origin are not another's.
    """

    kernels: DiskStore | None = None
    blobs: DiskStore | None = None
    origin: bytes = b""
