"""Confined processes: owns what a session's processes give up before they meet a session's data.

Three kinds: the worker, which executes kernels; the process that it starts compilers with; and a
compiler. Each gives up what it can of: files, the network, other processes and their memory
(Landlock, seccomp), root (a user of its own, no capability), resources. What the kernel does not
have is named, in the log, in diagnostics and by `rrto doctor`; whether a server starts without it
is its parameter `confinement`. What a worker keeps it is given by its host, over sockets
(`store_link.py`). docs/security.md says what follows from it.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rrto_ros.api.choices import CONFINEMENTS
from rrto_ros.errors import UnavailableError
from rrto_ros.landlock import Ruleset, missing, version
from rrto_ros.privileges import become_nobody, limit
from rrto_ros.seccomp import Permits, available, restrict

AUTO, REQUIRED, OFF = MODES = CONFINEMENTS
MOST_TASKS = 4096
"""Threads of a worker that is a user of its own."""
COMPILER_BYTES = 4 << 30
_SPARE_BYTES = 4 << 30
_SYSTEM = (
    "/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/zero", "/dev/urandom",
    "/dev/random", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/proc/sys/vm", "/sys/devices/system/cpu", "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
_DRIVER_READS = ("/usr", "/opt", "/etc", "/proc", "/sys", "/run/nvidia-persistenced")
_DEVICES = Path("/dev")
_DRIVER_NODES = (
    "nvidia*", "nvhost*", "nvmap", "dxg", "dri", "shm", "null", "zero",
)  # fmt: skip


@dataclass(frozen=True)
class Confined:
    """What a process gave up.

    Attributes:
        applied: By these means.
        lacking: What this machine has no means for, each with the reason.
        off: Nothing, because the user wants it so.
    """

    applied: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    off: bool = False

    def __str__(self) -> str:
        if self.off:
            return "not confined (confinement is off)"
        text = ", ".join(self.applied) or "by nothing"
        return text + (f"; lacking: {'; '.join(self.lacking)}" if self.lacking else "")


def possible() -> Confined:
    """What this machine has the means for, without a try."""
    found, why = version(), available()
    applied = [f"Landlock {found}"] * bool(found) + ["seccomp"] * (not why)
    lacking = [] if found else ["Landlock (not in this kernel, or switched off)"]
    lacking += [f"Landlock {found} does not cover {what}" for what in missing(found) if found]
    lacking += [f"seccomp ({why})"] * bool(why)
    if os.geteuid():
        lacking.append("a user of its own (the server is not root)")
    else:
        applied.append("a user of its own")
    return Confined(tuple(applied), tuple(lacking))


def check(mode: str) -> None:
    """Refuse, before anything starts, what cannot be had.

    Raises:
        UnavailableError: `mode` is "required" and this machine lacks Landlock or seccomp.
    """
    if mode == REQUIRED and not (version() and not available()):
        raise UnavailableError(
            f"confinement is required and cannot be had: {'; '.join(possible().lacking)}; take a "
            "kernel that has Landlock and seccomp (Linux 5.13, in lsm=), or set the parameter "
            "'confinement' to auto"
        )


def confine_worker(mode: str, device: str) -> Confined:
    """Confine a worker, which has imported what it needs and has one thread.

    Args:
        mode: One of `MODES`.
        device: Kind of its device; the driver of "gpu", which is started after this since it
            starts threads, needs its nodes, and files of its own.

    Raises:
        UnavailableError: It is required and was refused.
    """
    if device == "gpu":
        reads = [*map(Path, _DRIVER_READS), *_environment_folders(), *_python_folders()]
        nodes = [node for pattern in _DRIVER_NODES for node in _DEVICES.glob(pattern)]
        permits = Permits(files=True, local_sockets="CUDA_MPS_PIPE_DIRECTORY" in os.environ)
        # Its user stays: the driver's cache and its nodes are for the user that the server is.
        return _confine(mode, permits, reads, [*nodes, *_driver_cache()], own_user=False)
    reads = [*map(Path, _SYSTEM), *_python_folders()]
    return _confine(mode, Permits(), reads, (), own_user=True)


def confine_starter(mode: str) -> Confined:
    """Confine the process that starts compilers, before its first one.

    Raises:
        UnavailableError: It is required and was refused.
    """
    done = _confine(mode, Permits(forks=True), (), (), own_user=True)
    if not done.off:
        limit(resource.RLIMIT_FSIZE, 0)
    return done


def confine_compiler(mode: str) -> None:
    """Confine a compiler further than the process that started it.

    Raises:
        UnavailableError: It is required and was refused.
    """
    if mode == OFF:
        return
    limit(resource.RLIMIT_DATA, COMPILER_BYTES)
    try:
        restrict(Permits())
    except OSError as error:
        if mode == REQUIRED:
            raise UnavailableError(f"a compiler cannot be confined: {error}") from error


def memory_limit(device_bytes: int) -> int:
    """What a worker may have in memory, in bytes; far more than one of ours needs.

    Args:
        device_bytes: What its session may allocate. Speculation may hold as much in checkpoints.
    """
    return 2 * device_bytes + _SPARE_BYTES


def limit_memory(device_bytes: int) -> None:
    """Limit what this process may have but for shared memory, as its device is about to be made.

    Its host looks at all of it, now and then.
    """
    limit(resource.RLIMIT_DATA, memory_limit(device_bytes))


def _confine(
    mode: str, permits: Permits, reads: Sequence[Path], writes: Sequence[Path], *, own_user: bool
) -> Confined:
    if mode == OFF:
        return Confined(off=True)
    applied, lacking = [], []
    threads = len(list(Path("/proc/self/task").iterdir()))
    rules = None
    try:
        if threads > 1:
            raise OSError(errno.EBUSY, f"{threads} threads run already")
        rules = Ruleset(reads, writes)
    except OSError as error:
        lacking.append(f"Landlock ({error.strerror})")
    limit(resource.RLIMIT_CORE, 0)
    if own_user:
        closed = next((path for path in reads if not _open_to_all(path)), None)
        if closed is not None and rules is None:
            why = f"{closed} is closed to others"
        else:
            # Where Landlock keeps it to what is installed, it may read that, whoever owns it.
            why = become_nobody(read_all=closed is not None)
        if why:
            lacking.append(f"a user of its own ({why})")
        else:
            limit(resource.RLIMIT_NPROC, MOST_TASKS)
            applied.append(f"user {os.getuid()}")
    if rules is not None:
        try:
            rules.apply()
            applied.insert(0, f"Landlock {version()}")
            lacking += [f"Landlock {version()} does not cover {w}" for w in missing(version())]
        except OSError as error:
            lacking.append(f"Landlock ({error.strerror})")
    try:
        restrict(permits)
        applied.append("seccomp")
    except OSError as error:
        lacking.append(f"seccomp ({error.strerror})")
    done = Confined(tuple(applied), tuple(lacking))
    needed = [what for what in lacking if what.startswith(("Landlock (", "seccomp ("))]
    if mode == REQUIRED and needed:
        raise UnavailableError(f"a worker cannot be confined: {'; '.join(needed)}")
    return done


def _python_folders(modules: Mapping[str, object] = sys.modules) -> list[Path]:
    """The standard library, installed packages, and the folders of the packages that are loaded.

    Not all of sys.path, which may have a user's home in it.
    """
    standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    found = {folder for one in standard for folder in (one, one / "lib-dynload")}
    found |= {Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))}
    for name in {name.partition(".")[0] for name in modules}:
        module = modules.get(name)
        file = getattr(module, "__file__", None)
        if name == "__main__" or not file:
            continue
        path = Path(file)
        if path.name.startswith("__init__."):
            # A wheel's libraries lie beside its package.
            found |= {path.parent, path.parent.with_name(f"{path.parent.name}.libs")}
        else:
            found.add(path)
    return sorted(found)


def _open_to_all(path: Path) -> bool:
    """Whether every user can read what is there; what is not there nobody misses."""
    try:
        return all(one.stat().st_mode & 0o001 for one in path.parents) and bool(
            path.stat().st_mode & 0o004
        )
    except OSError:
        return True


def _environment_folders() -> list[Path]:
    names = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_MPS_PIPE_DIRECTORY")
    folders = [part for n in names for part in os.environ.get(n, "").split(os.pathsep)]
    return [Path(part) for part in folders if part]


def _driver_cache() -> list[Path]:
    """Where NVIDIA's driver keeps kernels that it compiled."""
    given = os.environ.get("CUDA_CACHE_PATH")
    home = os.environ.get("HOME")
    return [Path(given)] if given else [Path(home) / ".nv"] if home else []
