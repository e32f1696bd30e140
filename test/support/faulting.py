"""Runs kernels that may kill their process, each in a process of its own.

Reads a list of cases as JSON from standard input, each (PTX, lanes, words of the buffer, launch's
further arguments); writes a list of (how it ended, words of the buffer) to standard output. How it
ended is "ok", the name of a CUDA result, or that of a signal.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

WORDS = 64


def ends(cases: list[tuple[str, int, list[int]]], threads: int) -> list[tuple[str, list[int]]]:
    """How each case ends: (PTX with a kernel `k`, lanes, 32-bit arguments behind the buffer)."""
    done = subprocess.run(
        [sys.executable, __file__, str(threads)],
        input=json.dumps(cases),
        text=True,
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    return [(how, words) for how, words in json.loads(done.stdout)]


def made_device(lanes: int, base: int = 0) -> CpuDevice:
    """A device whose launches end after two seconds."""
    place = {"arena_base": base} if base else {}
    return CpuDevice(
        threads=1,
        vector_lanes=lanes,
        limit_bytes=1 << 20,
        arena_bytes=1 << 24,
        launch_timeout_s=2.0,
        cache_bytes=0,
        **place,
    )


def run(device: CpuDevice, text: str, extra: list[int], threads: int) -> tuple[str, list[int]]:
    """Loads and runs the kernel of one case and gives its memory back."""
    base = device.info.arena_base
    device.mem_alloc(base, WORDS * 4, 0)
    device.memcpy_htod(base, b"\xcc" * (4 * WORDS), 0)
    device.module_load(1, text.encode() + b"\0")
    params = np.uint64(base).tobytes() + b"".join(np.uint32(v).tobytes() for v in extra)
    try:
        device.launch(Launch(1, 0, (1, 1, 1), (threads, 1, 1), 0, params), 0)
        words = np.frombuffer(bytes(device.memcpy_dtoh(base, 4 * WORDS, 0)), np.uint32)
        return "ok", words.tolist()
    except CudaError as error:
        return error.result.name, []
    finally:
        device.module_unload(1)
        device.mem_free(base, 0)


def _case(case: tuple[str, int, list[int]], threads: int) -> tuple[str, list[int]]:
    text, lanes, extra = case
    return run(made_device(lanes), text, extra, threads)


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            with os.fdopen(write, "wb") as out:
                out.write(pickle.dumps(_case(case, int(sys.argv[1]))))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as source:
            data = source.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            results.append((signal.Signals(os.WTERMSIG(status)).name, []))
        else:
            results.append(pickle.loads(data))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
