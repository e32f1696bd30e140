"""Environment variables of the processes: of ROS nodes, and of programs that are interposed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rrto_ros.errors import ConfigError
from rrto_ros.shim.build import ensure_built

NODE_DEFAULTS: Mapping[str, str] = {
    # Nodes of one machine find each other also where multicast does not work; others as before.
    "ROS_STATIC_PEERS": "127.0.0.1",
    # Keep the memory of large messages instead of asking the kernel for it each time.
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    # One heap: of others malloc_trim leaves the end, up to 64 MB each, when a session is over.
    "MALLOC_ARENA_MAX": "1",
    # Log lines appear when they are written, also through a pipe.
    "RCUTILS_LOGGING_BUFFERED_STREAM": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Set for every node unless the user's environment has the variable."""

_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_CUDA = "libcuda.so.1"


def node_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a node needs, as `base` (default: this process's environment) has them."""
    base = os.environ if base is None else base
    return {name: base.get(name, value) for name, value in NODE_DEFAULTS.items()}


def library_path(shim: Path, present: str) -> str:
    """LD_LIBRARY_PATH with the shim first, and without folders that hold another libcuda.

    The order alone does not protect the shim: the ROS wheels' start-up shuffles the entries.
    """
    kept = [p for p in present.split(os.pathsep) if p and Path(p) != shim]
    return os.pathsep.join([str(shim), *(p for p in kept if not (Path(p) / _CUDA).exists())])


def interposed_environment(
    base: Mapping[str, str], robot: str, label: str = "", *, foreign: bool = False
) -> dict[str, str]:
    """`base` changed so that a program that is started with it loads the shim as libcuda.

    Args:
        base: A whole environment.
        robot: Robot name.
        label: Goes into the session's reports; empty keeps RRTO_LABEL as it is.
        foreign: The program may use another Python than this one. What this Python's ROS wheels
            put into the environment is taken out then; a ROS program puts its own in.

    Raises:
        ConfigError: There is no libcuda in the built shim.
        UnavailableError: The shim cannot be built.
    """
    shim = ensure_built()
    if not (shim / _CUDA).exists():
        raise ConfigError(f"{shim} has no {_CUDA}; build the shim: python -m rrto_ros.shim.build")
    out = dict(base)
    present = out.get("LD_LIBRARY_PATH", "")
    if foreign and out.pop(_GUARD, ""):
        own = str(Path(sys.prefix)) + os.sep
        present = os.pathsep.join(p for p in present.split(os.pathsep) if not p.startswith(own))
    out["LD_LIBRARY_PATH"] = library_path(shim, present)
    out["RRTO_ROBOT"] = robot
    if label:
        out["RRTO_LABEL"] = label
    return out


def find_program(command: str, environment: Mapping[str, str]) -> str:
    """The program that a shell would start.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which(command, path=environment.get("PATH"))
    if found is None:
        raise ConfigError(f"program {command!r} was not found; give its path, or check PATH")
    return found
