"""Kernels that try to leave the session's memory, each launched in a process of its own.

Reads a list of cases as JSON from standard input, each (PTX with a kernel `k` of a buffer, a
target address and a number, lanes, name of the target, the number); writes a list of (how it
ended, words of the buffer, whether the canary is as it was). How it ended is "ok", a CUDA result
or a signal.

In a text, @shared@, @local@, @param@ and @global@ stand for the distance from the first such byte
that a kernel has to the target. The kernels are compiled here, before the processes fork.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

from rrto_ros.devices.cpu.block_memory import FREE_BYTES
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

WORDS, THREADS = 64, 32
CANARY = 0x5EC2E75A
Case = tuple[str, int, str, int]
End = tuple[str, list[int], bool]


def ends(cases: list[Case]) -> list[End]:
    """How each case ends."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(cases),
        text=True,
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "RRTO_TEST_SECRET": "Z" * 256},
    )
    return [(how, words, whole) for how, words, whole in json.loads(done.stdout)]


class Victim:
    """This process: what of it a kernel may be after.

    Attributes:
        canary: Memory that parent and children share.
    """

    def __init__(self) -> None:
        self.canary = mmap.mmap(-1, 1 << 16)
        self.canary[:] = struct.pack("<I", CANARY) * (1 << 14)
        lines = Path("/proc/self/maps").read_text()
        maps = re.findall(r"^(\w+)-\w+ (\S+) .*?(\S*)$", lines, re.MULTILINE)
        first = {name: int(start, 16) for start, _, name in reversed(maps) if name}
        code = next(int(start, 16) for start, rights, _ in maps if "x" in rights)
        environ = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value or 0
        near = ctypes.addressof(ctypes.c_char.from_buffer(self.canary))
        self.targets = {
            "canary": near + 4096,
            "stack": first["[stack]"] + 4096,
            "heap": first["[heap]"] + 4096,
            "environment": ctypes.c_uint64.from_address(environ).value & -8,
            "code": code,
            "nowhere": (1 << 64) - 4096,
            "null": 0,
        }

    def whole(self) -> bool:
        """Whether the canary is as it was."""
        return bytes(self.canary) == struct.pack("<I", CANARY) * (1 << 14)


class Attacker:
    """A device for some number of lanes."""

    def __init__(self, lanes: int, place: int) -> None:
        self.device = CpuDevice(
            threads=1, vector_lanes=lanes, limit_bytes=1 << 22, arena_bytes=1 << 24,
            launch_timeout_s=2.0, cache_bytes=0, arena_base=0x3200_0000_0000 + (place << 40),
        )  # fmt: skip
        self.base = self.device.info.arena_base
        self.device.mem_alloc(self.base, 4 * WORDS, 0)

    def attack(self, text: str, target: int, number: int) -> tuple[str, list[int]]:
        """Compile a kernel here and launch it in a child."""
        device = self.device
        slot = device.launcher.memory.areas(1, 0, FREE_BYTES)[0]
        places = {
            "shared": slot[0],
            "local": slot[2],
            "param": device.launcher.memory.arguments(0),
            "global": device._arena._module_next,
        }
        device.launcher.memory.over()
        for name, place in places.items():
            text = text.replace(f"@{name}@", str(target - place))
        try:
            device.module_load(1, text.encode() + b"\0")
        except CudaError as error:
            return error.result.name, []
        device._compiler.runnable(device._modules[1], 0, (THREADS, 1, 1))
        params = struct.pack("<QQI", self.base, target & (1 << 64) - 1, number)
        ended = _forked(lambda: self._launch(params))
        device.module_unload(1)
        return ended

    def _launch(self, params: bytes) -> tuple[str, list[int]]:
        device, base = self.device, self.base
        device.memcpy_htod(base, b"\xcc" * (4 * WORDS), 0)
        try:
            device.launch(Launch(1, 0, (1, 1, 1), (THREADS, 1, 1), 0, params), 0)
        except CudaError as error:
            return error.result.name, []
        words = np.frombuffer(bytes(device.memcpy_dtoh(base, 4 * WORDS, 0)), np.uint32)
        return "ok", [*words.tolist(), *device.take_output()[0]]


def _forked(call):
    """What a call returns in a child, or the signal that ended it."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with os.fdopen(write, "wb") as out:
            out.write(pickle.dumps(call()))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        data = source.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name, []
    return pickle.loads(data)


def main() -> None:
    victim = Victim()
    attackers = {}
    results = []
    for text, lanes, target, number in json.load(sys.stdin):
        if lanes not in attackers:
            attackers[lanes] = Attacker(lanes, len(attackers))
        how, words = attackers[lanes].attack(text, victim.targets[target], number)
        results.append((how, words, victim.whole()))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
