"""What a worker inherits of its server's environment."""

from __future__ import annotations

import os
from pathlib import Path

_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH",
    "PYTHONHOME", "VIRTUAL_ENV", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "CUDA_MODULE_LOADING", "CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE",
    "CUDA_CACHE_DISABLE", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NUMBA_CPU_NAME",
)  # fmt: skip
"""What a worker inherits as it is. Not LD_PRELOAD, which may name the shim."""
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""NumPy's library would start threads at import, which a worker that confines itself must not
have, and no device has a use for."""
_SHIMS_OTHER_FILE = "librrto_recorder.so"
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def worker_environment() -> dict[str, str]:
    """The environment of a worker: only what it needs, and where this package is."""
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # The GPU's driver may lie in a folder of its own (containers); the shim must not be found.
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    kept = [f for f in folders if not (Path(f) / _SHIMS_OTHER_FILE).exists()]
    if kept:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
    paths = [str(_PACKAGE_PARENT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    # A worker does not run in the server's folder, from which it would import what lies there.
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(map(os.path.abspath, paths)))
    return {**env, **dict.fromkeys(_ONE_THREAD, "1")}
