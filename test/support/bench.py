"""The measurements of bench/ as modules of a test."""

import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"


def forget():
    """Have the modules of bench/ imported anew by the next test."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == BENCH:
            del sys.modules[name]
