"""Stand-ins for NVIDIA's tools that make machine code, for programs of a device that executes PTX.

    python -m rrto_ros.bringup.stand_ins

prints what such a program's environment needs, as a shell reads it; `rrto run` sets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import rrto_ros
from rrto_ros.disk_store import cache_directory, write_whole
from rrto_ros.errors import ConfigError
from rrto_ros.shim.build import STAND_IN_FOLDER, STAND_INS, ensure_built

DEVICE = "cpu"
"""The kind of device that executes PTX."""
TOOL = "ptxas"
TOOL_VARIABLES = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from rrto_ros.devices.cpu.ptxas import main; sys.exit(main())"
)


def with_stand_ins(base: Mapping[str, str], device: str) -> dict[str, str]:
    """`base` so that a program for a device that executes PTX does not make machine code.

    The libraries are loaded before the program looks for those that they stand in for, because
    that is the one place where every way of looking finds them. The assembler is named where
    Triton looks, and found on the PATH by others; the user's own choice is left.

    Args:
        base: An interposed environment. RRTO_STAND_INS=0 in it leaves it as it is.
        device: Kind of the server's device.

    Raises:
        UnavailableError: The stand-ins cannot be built.
    """
    out = dict(base)
    if device != DEVICE or out.get("RRTO_STAND_INS", "") == "0":
        return out
    folder = ensure_built() / STAND_IN_FOLDER
    loaded = [p for p in re.split(r"[ :]+", out.get("LD_PRELOAD", "")) if p]
    if not re.search(r"[ :]", str(folder)):  # LD_PRELOAD has no way to write such a path
        loaded += [str(folder / name) for name in STAND_INS if str(folder / name) not in loaded]
        out["LD_PRELOAD"] = ":".join(loaded)
    tool = assembler(folder)
    if tool is not None:
        for name in TOOL_VARIABLES:
            out.setdefault(name, str(tool))
        path = out.get("PATH", os.defpath).split(os.pathsep)
        if os.pathsep not in str(tool):
            own = str(tool.parent)
            out["PATH"] = os.pathsep.join([own, *(p for p in path if p != own)])
    return out


def assembler(folder: Path) -> Path | None:
    """Our ptxas as a command that starts fast: this Python without its site packages.

    Args:
        folder: Of the stand-ins. Where it cannot be written, the user's cache has the command.

    Returns:
        None if neither can be written.
    """
    root = str(Path(rrto_ros.__file__).resolve().parents[1])
    words = [sys.executable or "python3", "-I", "-S", "-c", _MAIN, root]
    text = f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    places = [folder / "bin"]
    with contextlib.suppress(ConfigError):
        places.append(cache_directory() / "tools" / name)
    for place in places:
        tool = place / TOOL
        with contextlib.suppress(OSError):
            if not _is(tool, text):
                tool.parent.mkdir(parents=True, exist_ok=True)
                # In place whole: another may be starting it.
                write_whole(tool, text.encode(), mode=0o755)
            return tool
    return None


def _is(tool: Path, text: str) -> bool:
    try:
        return tool.read_text() == text and os.access(tool, os.X_OK)
    except OSError:
        return False


def main() -> int:
    """Print the variables."""
    base = dict(os.environ)
    for name, value in with_stand_ins(base, DEVICE).items():
        if base.get(name) != value:
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
