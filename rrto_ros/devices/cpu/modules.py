"""Loaded modules: validation at load, compilation at the first launch of each block size."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from rrto_ros.devices.cpu.cache import Entry, KernelCache, cache_key
from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.jit import LoadedCode, compile_object, host_target
from rrto_ros.devices.cpu.launcher import Runnable
from rrto_ros.devices.cpu.program import KernelProgram, ModuleProgram, prepare
from rrto_ros.errors import PtxError

_CHECK_BLOCK = (1, 1, 1)
_VALID = "valid"


@dataclass
class LoadedModule:
    """One module of a session.

    Attributes:
        program: Parsed and prepared kernels.
        digest: Hash of the PTX text.
        base: Address of the module's variables.
        max_dynamic: Kernel index -> dynamic shared bytes that a launch may ask for.
    """

    program: ModuleProgram
    digest: str
    base: int = 0
    max_dynamic: dict[int, int] = field(default_factory=dict)
    runnable: dict[tuple[int, tuple[int, int, int]], Runnable] = field(default_factory=dict)


class Compiler:
    """Turns kernels into native code, through the disk cache."""

    def __init__(self, directory: Path | None, limit_bytes: int, max_lanes: int = 0) -> None:
        self.cache = KernelCache(directory, limit_bytes)
        self.target = host_target()
        self.lanes = max_lanes or self.target.lanes
        self.compiled = 0
        self.compile_ns = 0
        self.vectorised = 0

    def load(self, text: str) -> LoadedModule:
        """Parses a PTX text and checks every instruction of every kernel.

        Raises:
            PtxError: INVALID_PTX, naming the kernel and the instruction or line.
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        program = prepare(text)
        key = cache_key(digest, _VALID)
        if self.cache.get(key) is None:
            for kernel in program.kernels:
                check_kernel(kernel)
            self.cache.put(key, Entry(b"", {"kernels": len(program.kernels)}))
        return LoadedModule(program, digest)

    def runnable(
        self, module: LoadedModule, index: int, block: tuple[int, int, int]
    ) -> Runnable:
        """Native code of a kernel for a block size, compiled now if it is not known."""
        found = module.runnable.get((index, block))
        if found is None:
            found = self._make(module, index, block)
            module.runnable[index, block] = found
        return found

    def _make(
        self, module: LoadedModule, index: int, block: tuple[int, int, int]
    ) -> Runnable:
        program = module.program.kernels[index]
        target = self.target
        key = cache_key(module.digest, program.name, str(block), str(self.lanes),
                        target.cpu, target.features, target.llvm_version)
        entry = self.cache.get(key)
        if entry is None:
            started = time.perf_counter_ns()
            made = generate(program, block, self.lanes)
            code = compile_object(made.text, target)
            entry = Entry(code, {"symbol": made.symbol, "frame_bytes": made.frame_bytes,
                                 "local_bytes": made.local_bytes, "lanes": made.lanes})
            self.cache.put(key, entry)
            self.compiled += 1
            self.compile_ns += time.perf_counter_ns() - started
        facts = entry.facts
        self.vectorised += facts["lanes"] > 1
        return Runnable(program.name, LoadedCode(entry.code, facts["symbol"]),
                        facts["frame_bytes"], facts["local_bytes"], program.ordered)


def check_kernel(kernel: KernelProgram) -> None:
    """Generates code for one thread, to find what is not supported.

    Raises:
        PtxError: Naming the kernel.
    """
    try:
        generate(kernel, _CHECK_BLOCK, 1)
    except PtxError as error:
        raise PtxError(f"kernel {kernel.name}: {error.detail}", error.result) from error
