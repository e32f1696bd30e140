"""What the programs of this folder share: cases that are compared, and one JSON line for all.

A case that raises is told with its error and the others go on: so a table says how far a client
gets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

CONSENT = "RRTO_NVIDIA_COMPILERS"
ABSENT = 77
"""Exit code where the client is not installed."""


class Cases:
    """Cases of one client.

    Args:
        client: Its name.
        version: Its version.
        compared: With what results are compared, for example "NumPy".
        results: Whether the device has results. Else that a case ran, and what shape came out, is
            all that can be right.
    """

    def __init__(self, client: str, version: str, compared: str, *, results: bool = True) -> None:
        compared = compared if results else f"shapes alone, of {compared}"
        self._told: dict[str, Any] = {"client": client, "version": version, "compared": compared}
        self._results = results
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}
        self.digests: dict[str, str] = {}

    def check(
        self, name: str, case: Callable[[], tuple[Any, Any]], tolerance: float = 1e-5
    ) -> None:
        """Run a case, which returns (what came out, what is right), and compare.

        Args:
            name: Of the case.
            case: Runs it.
            tolerance: Relative to the largest value that is right; 0 wants equal bits.
        """
        try:
            got, wanted = (np.asarray(value) for value in case())
            bits = hashlib.sha256(np.ascontiguousarray(got).tobytes())
            self.digests[name] = bits.hexdigest()[:16]
            if got.shape != wanted.shape:
                raise ValueError(f"shape {got.shape}, want {wanted.shape}")
            if not self._results:
                worst = 0.0
            elif tolerance == 0:
                worst = float(not np.array_equal(got, wanted))
            else:
                wide = wanted.astype(np.float64)
                scale = float(np.abs(wide).max(initial=0.0)) or 1.0
                worst = float(np.abs(got.astype(np.float64) - wide).max(initial=0.0)) / scale
            # Not (worst > tolerance): that would let NaN pass.
            if not worst <= tolerance:
                raise ValueError(f"differs by {worst:.3g} of the largest value")
            self.ran.append(name)
        except Exception as error:
            traceback.print_exc()
            text = re.sub("\x1b\\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
            self.failed[name] = " ".join(text.split())[:300]
        print(f"{name}: {self.failed.get(name, 'right')}", file=sys.stderr, flush=True)

    def end(self) -> int:
        """Print the line; the exit code."""
        told = {**self._told, "ran": self.ran, "failed": self.failed, "digests": self.digests}
        print(json.dumps(told), flush=True)
        return 1 if self.failed or not self.ran else 0


def need_consent() -> None:
    """End unless the user wants kernels that NVIDIA's compilers make to run, wherever that is."""
    if os.environ.get(CONSENT) != "1":
        print(
            f"skipped: the kernels are made by NVRTC, whose licence is NVIDIA's; {CONSENT}=1 says "
            "that you want to run them on this device",
            file=sys.stderr,
        )
        sys.exit(ABSENT)


def absent(error: ImportError, install: str) -> None:
    """End because a client is not installed."""
    print(f"skipped: {error}; pip install {install}", file=sys.stderr)
    sys.exit(ABSENT)
