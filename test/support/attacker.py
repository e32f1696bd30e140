"""A device for tests whose kernel is hostile: a launch does in its worker what an attacker would.

The kernel `attack` is told which attack by its parameters, as JSON [name, arguments]. What came of
it is what a copy from the device to the host then gives: "done ...", or the name of the error.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from support.memory_device import MemoryDevice

PTX = b"""
.version 7.0
.target sm_80
.visible .entry attack() { ret; }
"""
ANSWER_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)
_SEIZE, _LISTEN, _EXEC, _TIMEOUT_S = 0x4206, 1, "/bin/true", 2.0


def read(path):
    return Path(path).read_text()


def look(path):
    return sorted(entry.name for entry in Path(path).iterdir())


def write(path):
    Path(path).write_text("written by a worker")


def rename(path):
    Path(path).rename(f"{path}.moved")


def change_mode(path):
    Path(path).chmod(0o777)


def tcp(port):
    socket.create_connection(("127.0.0.1", port), _TIMEOUT_S).close()


def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"out", ("127.0.0.1", port))


def listen():
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        end.listen(_LISTEN)


def unix(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_TIMEOUT_S)
        end.connect(path)


def abstract(name):
    unix(f"\0{name}")


def signal_host():
    os.kill(os.getppid(), 0)


def signal_everybody():
    os.kill(-1, 0)


def trace_host():
    """Its tracer is a thread that ends at once: a host that is traced stops at its next signal."""
    errors = []

    def trace():
        if _libc.ptrace(_SEIZE, os.getppid(), None, None):
            errors.append(ctypes.get_errno())

    thread = threading.Thread(target=trace)
    thread.start()
    thread.join()
    if errors:
        raise OSError(errors[0], "ptrace")


def read_host():
    return len(Path(f"/proc/{os.getppid()}/environ").read_bytes()) > 0


def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def execute():
    subprocess.run([_EXEC], check=True)


def call(number):
    """A system call with arguments that mean nothing; a filter looks before the kernel does."""
    if _libc.syscall(number, -1, -1, -1, -1, -1, -1) < 0:
        raise OSError(ctypes.get_errno(), "call")


def raise_limits(pid):
    resource.prlimit(pid or os.getppid(), resource.RLIMIT_CORE, (0, 0))


def memory(size):
    block = bytearray(size)
    return len(block) == size


def shared_memory(size):
    import mmap

    area = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1
    threading.Event().wait()


def rights():
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    names = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
    limits = {
        name: resource.getrlimit(getattr(resource, name))[1]
        for name in ("RLIMIT_CORE", "RLIMIT_NPROC", "RLIMIT_DATA")
    }
    return {**{name: status[name].split() for name in names}, **limits}


def speak(words):
    """What no worker says, in the place of results."""
    os.write(int(sys.argv[sys.argv.index("--fd") + 1]), bytes.fromhex(words))
    threading.Event().wait()


def end_itself():
    os.kill(os.getpid(), signal.SIGTERM)


def compute():
    """What a worker does need: threads, modules that it has not imported, memory of its own."""
    import colorsys

    import numpy as np

    from rrto_ros.zstd import codec

    assert "zstd" in codec().__name__

    done = []
    thread = threading.Thread(target=lambda: done.append(np.linalg.norm(np.ones(9))))
    thread.start()
    thread.join()
    file = os.memfd_create("own")
    os.write(file, b"x")
    return [done[0], colorsys.rgb_to_hsv(0, 0, 0)[2], os.pread(file, 1, 0).decode()]


class Attacker(MemoryDevice):
    """Its one kernel attacks."""

    def launch(self, launch, stream):
        self._answer = b""
        name, *arguments = json.loads(bytes(launch.params))
        try:
            outcome = f"done {json.dumps(globals()[name](*arguments))}"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error))
        except MemoryError:
            outcome = "MemoryError"
        self._answer = outcome.encode().ljust(ANSWER_BYTES, b"\0")

    def memcpy_dtoh(self, src, size, stream):
        return self._answer[:size]


def make(settings):
    """Device factory of a worker."""
    return Attacker(settings.limit_bytes, settings.arena_base)


def words(name, *arguments):
    """Parameters of a launch."""
    return json.dumps([name, *arguments]).encode()
