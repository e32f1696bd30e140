"""ROS domains for tests: one number per test, so that tests beside each other never meet."""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

HIGHEST = 101


@contextlib.contextmanager
def domain_lock():
    """Lend a domain number, 1 to 101, for as long as the block lasts.

    The lock is a file lock, so it ends with the process however that ends. Numbers start at
    different places in different processes, which spreads them.
    """
    folder = Path(tempfile.gettempdir()) / f"rrto-test-domains-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    first = os.getpid() * 7 + sum(worker.encode())
    for step in range(HIGHEST):
        number = (first + step) % HIGHEST + 1
        with (folder / f"{number}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise RuntimeError(f"all {HIGHEST} ROS domains are lent; are old test runs still alive?")
