"""What a server offers, and which requests want something else: owns the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rrto_ros.api.choices import DEVICES
from rrto_ros.confinement import AUTO, OFF
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.host import HostLimits
from rrto_ros.wire.format import PROTOCOL_VERSION, TABLE_HASH
from rrto_ros.wire.port import OpenRequest
from rrto_ros.wire.versions import versions_differ

MAX_TEXT = 256


@dataclass(frozen=True)
class ServerSettings:
    """What a server offers its sessions.

    Attributes:
        device: Kind of device: "cpu", "gpu" or "null".
        device_settings: For every session's device; limit and arena base are per session.
        max_sessions: Sessions open at once.
        blob_directory: Where uploads are kept, None for the user's cache directory.
        blob_bytes: Size limit of that directory, 0 to keep none.
        announce_blobs: Whether a session that opens is told which uploads are kept.
        limits: Of each session.
        peers: What one robot may take of it.
        spare_workers: Workers started ahead.
        factory: ``module:attribute`` of a device factory, for tests.
        confinement: What workers give up (`confinement.MODES`).
    """

    device: str
    device_settings: DeviceSettings
    max_sessions: int = 8
    blob_directory: Path | None = None
    blob_bytes: int = 0
    announce_blobs: bool = True
    limits: HostLimits = field(default_factory=HostLimits)
    peers: PeerLimits = field(default_factory=PeerLimits)
    spare_workers: int = 1
    factory: str = ""
    confinement: str = AUTO


def unfit(settings: ServerSettings, request: OpenRequest) -> str:
    """Why a request is refused whoever makes it; empty if it is not."""
    if request.protocol_version != PROTOCOL_VERSION:
        return versions_differ(
            f"protocol version {request.protocol_version} of the robot is not the server's "
            f"{PROTOCOL_VERSION}"
        )
    if request.table_hash != TABLE_HASH:
        return versions_differ(
            f"the robot's table of operations ({request.table_hash.hex()[:12]}...) is not the "
            f"server's ({TABLE_HASH.hex()[:12]}...)"
        )
    if request.device and request.device not in DEVICES:
        return f"device {request.device[:20]!r} is none of {', '.join(DEVICES)}"
    if request.device and request.device != settings.device:
        return f"device {request.device!r} wanted, this server runs {settings.device!r}"
    if request.limit_bytes > settings.device_settings.limit_bytes:
        return (
            f"{request.limit_bytes} bytes of device memory wanted, this server gives a "
            f"session at most {settings.device_settings.limit_bytes} (limit_bytes)"
        )
    if len(request.session) != 16 or not any(request.session):
        return f"a session id has 16 bytes that are not all zero, got {request.session!r}"
    if len(request.program) > MAX_TEXT or len(request.label) > MAX_TEXT:
        return f"program and label have at most {MAX_TEXT} characters"
    return ""


def confinement(settings: ServerSettings, log: Callable[[str], None]) -> str:
    """What workers give up: with device gpu nothing that the user did not ask for by name.

    No GPU's driver was ever started in a confined worker; what it needs may be missing there.
    """
    if settings.device == "gpu" and settings.confinement == AUTO:
        log(
            "session workers are not confined: with device gpu that has not been tried; "
            "`confinement: required` does it (docs/security.md)"
        )
        return OFF
    return settings.confinement
