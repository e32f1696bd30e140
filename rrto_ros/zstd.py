"""Zstandard: which Python package does it, and unpacking with a bound.

Python has it from 3.14 on; before, the package backports.zstd does, under the same names.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from rrto_ros.errors import UnavailableError

_NAMES = ("compression.zstd", "backports.zstd")
Buffer = bytes | bytearray | memoryview


def codec() -> Any:
    """The module.

    Raises:
        UnavailableError: There is none.
    """
    for name in _NAMES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise UnavailableError(
        "the Python package backports.zstd is not installed; pip install backports.zstd"
    )


def unpack(data: Buffer, most: int) -> bytes:
    """The content of one frame; what follows it is ignored.

    Args:
        data: The frame.
        most: The content has at most so many bytes.

    Raises:
        UnavailableError: Nothing here unpacks it.
        ValueError: It is damaged, or its content is longer.
    """
    module = codec()
    unpacking = module.ZstdDecompressor()
    try:
        out = bytes(unpacking.decompress(data, max_length=most))
    except module.ZstdError as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof:
        raise ValueError(f"it does not end within {most} bytes")
    return out
