"""The disk store of compiled kernels: owns its name and form, for device and server alike."""

from __future__ import annotations

from pathlib import Path

from rrto_ros.disk_store import DiskStore

KERNELS = "kernels"
"""Its folder in the user's cache directory."""


def kernel_store(directory: Path, limit_bytes: int) -> DiskStore:
    """Open it.

    Raises:
        ConfigError: It cannot be there.
    """
    return DiskStore(directory, limit_bytes, "kernel", sealed=True)
