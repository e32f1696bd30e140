"""Fast DDS leaves segments in /dev/shm when a process is killed: removes those of a test."""

import contextlib
from pathlib import Path

_SHM = Path("/dev/shm")
_NAMES = ("fastdds_*", "fastrtps_*", "fast_datasharing_*", "sem.fastdds_*", "sem.fastrtps_*")


def _present():
    return {path for pattern in _NAMES for path in _SHM.glob(pattern)}


def _in_use():
    """Paths in /dev/shm that a living process maps or holds open."""
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text().splitlines():
                at = line.find("/dev/shm/")
                if at >= 0:
                    used.add(line[at:])
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    used.add(str(link.readlink()))
    return used


@contextlib.contextmanager
def cleaned_shared_memory():
    """Remove what appeared during the block and is in no one's use at its end."""
    before = _present()
    try:
        yield
    finally:
        appeared = _present() - before
        if appeared:
            used = _in_use()
            for path in appeared:
                # A port's lock files and semaphore belong to the port.
                core = path.name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el")
                if not any(name.startswith(str(_SHM / core)) for name in used):
                    path.unlink(missing_ok=True)
