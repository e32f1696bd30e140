"""A process that is started before it is known whether it is needed: it imports, then it waits.

The starter says go by a byte on the standard input (`Supervisor.release`), or closes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

HELD: Mapping[str, str] = {"RRTO_HELD": "1"}
"""Added to the environment of a process that is to wait."""


def await_release() -> bool:
    """Wait until the starter says go; at once where it does not hold this process.

    Returns:
        False if the process is not needed and is to end.
    """
    held = any(os.environ.pop(name, "") == value for name, value in HELD.items())
    return not held or os.read(0, 1) == b"1"
