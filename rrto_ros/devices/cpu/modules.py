"""Loaded modules: validation at load, compilation at the first launch of each block size.

A module whose facts are in the disk cache is neither parsed nor checked again; its text is looked
at only if a kernel must be compiled.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rrto_ros.devices.cpu.attributes import MAX_THREADS
from rrto_ros.devices.cpu.cache import Entry, KernelCache, cache_key
from rrto_ros.devices.cpu.codegen.kernel import Generated, generate
from rrto_ros.devices.cpu.compile_pool import CompileError, CompilePool
from rrto_ros.devices.cpu.facts import KernelFacts, ModuleFacts, facts_in, facts_of
from rrto_ros.devices.cpu.jit import LoadedCode, host_target
from rrto_ros.devices.cpu.launcher import Runnable
from rrto_ros.devices.cpu.program import KernelProgram, ModuleProgram, prepare
from rrto_ros.devices.linked import PtxInput
from rrto_ros.errors import PtxError

_CHECK_BLOCK = (1, 1, 1)
_FACTS = "facts"
_AHEAD = 64
Block = tuple[int, int, int]


@dataclass
class LoadedModule:
    """One module of a session.

    Attributes:
        facts: What loading and launching need.
        source: The PTX text, or the texts of a link.
        digest: Its hash.
        base: Address of the module's variables.
        max_dynamic: Kernel index -> dynamic shared bytes that a launch may ask for.
        runnable: (kernel index, block size) -> native code.
        together: The same for launches whose blocks take turns.
        ahead: (kernel index, block size) -> what is being compiled before a launch asked.
    """

    facts: ModuleFacts
    source: str | Sequence[PtxInput]
    digest: str
    base: int = 0
    max_dynamic: dict[int, int] = field(default_factory=dict)
    runnable: dict[tuple[int, Block], Runnable] = field(default_factory=dict)
    together: dict[tuple[int, Block], Runnable] = field(default_factory=dict)
    ahead: dict[tuple[int, Block], tuple[Generated, Future[bytes]]] = field(default_factory=dict)

    @cached_property
    def program(self) -> ModuleProgram:
        """The kernels, parsed and prepared when they are first asked for."""
        return prepare(self.source)


class Compiler:
    """Turns kernels into native code, through the disk cache and the compile processes.

    Args:
        directory: Of the disk cache; None is the user's cache directory.
        limit_bytes: Size limit of the disk cache; 0 keeps nothing.
        max_lanes: Threads per vector instruction; 0 is what the processor does best.
        memcheck: Whether kernels look up every access.
        pool: The compile processes, closed with this object.
    """

    def __init__(
        self,
        directory: Path | None,
        limit_bytes: int,
        max_lanes: int,
        pool: CompilePool,
        *,
        memcheck: bool = False,
    ) -> None:
        self.memcheck = memcheck
        self.cache = KernelCache(directory, limit_bytes)
        self.target = host_target()
        self.lanes = max_lanes or self.target.lanes
        self.pool = pool
        self.compiled = 0
        self.compile_ns = 0
        self.vectorised = 0
        self.ahead = 0
        self.known = 0

    def close(self) -> None:
        """Ends the compile processes."""
        self.pool.close()

    def load(self, source: str | Sequence[PtxInput]) -> LoadedModule:
        """Parses a PTX text, or links several, and checks every instruction of every kernel.

        Raises:
            PtxError: INVALID_PTX, naming the kernel and the instruction or line.
        """
        whole = (
            source
            if isinstance(source, str)
            else "".join(f"{len(part)}:{part}" for one in source for part in (one.name, one.text))
        )
        digest = hashlib.sha256(whole.encode()).hexdigest()
        key = cache_key(digest, _FACTS)
        entry = self.cache.get(key)
        if entry is not None:
            self.known += 1
            module = LoadedModule(facts_in(entry), source, digest)
        else:
            self.pool.warm()
            program = prepare(source)
            for kernel in program.kernels:
                check_kernel(kernel)
            module = LoadedModule(facts_of(program), source, digest)
            module.program = program
            self.cache.put(key, module.facts.to_entry())
        self._compile_ahead(module)
        return module

    def _compile_ahead(self, module: LoadedModule) -> None:
        """Kernels that say their block size are compiled side by side, before a launch asks."""
        kernels = module.facts.kernels
        for index, kernel in enumerate(kernels[:_AHEAD]):
            block = kernel.block
            if len(kernels) < 2 or block is None or block[0] * block[1] * block[2] > MAX_THREADS:
                continue
            key = self._key(module, kernel, block)
            if not self.cache.holds(key):
                made = self._generate(module.program.kernels[index], block)
                module.ahead[index, block] = made, self.pool.submit(made.text, vectorise=True)

    def _generate(self, program: KernelProgram, block: Block) -> Generated:
        try:
            return generate(program, block, self.lanes, memcheck=self.memcheck)
        except PtxError:
            # The check at load covers one lane; what has no vector form runs without.
            return generate(program, block, 1, memcheck=self.memcheck)

    def runnable(
        self, module: LoadedModule, index: int, block: Block, *, together: bool = False
    ) -> Runnable:
        """Native code of a kernel for a block size, compiled now if it is not known.

        With `together`, its blocks take turns.

        Raises:
            PtxError: Naming the kernel that LLVM could not compile.
        """
        known = module.together if together else module.runnable
        found = known.get((index, block))
        if found is None:
            found = known[index, block] = self._make(module, index, block, together)
        return found

    def _key(
        self, module: LoadedModule, kernel: KernelFacts, block: Block, together: bool = False
    ) -> str:
        target = self.target
        return cache_key(
            module.digest,
            kernel.name,
            str(block),
            str(self.lanes),
            str(self.memcheck),
            str(together),
            target.cpu,
            target.features,
            target.llvm_version,
        )

    def _make(self, module: LoadedModule, index: int, block: Block, together: bool) -> Runnable:
        kernel = module.facts.kernels[index]
        key = self._key(module, kernel, block, together)
        entry = self.cache.get(key)
        if entry is None:
            started = time.perf_counter_ns()
            made, code = self._compile(module, index, block, together)
            entry = Entry(
                code,
                {
                    "symbol": made.symbol,
                    "frame_bytes": made.frame_bytes,
                    "local_bytes": made.local_bytes,
                    "lanes": made.lanes,
                },
            )
            self.cache.put(key, entry)
            self.compiled += 1
            self.compile_ns += time.perf_counter_ns() - started
        facts = entry.facts
        self.vectorised += facts["lanes"] > 1
        return Runnable(
            kernel.name,
            LoadedCode(entry.code, facts["symbol"]),
            facts["frame_bytes"],
            facts["local_bytes"],
            kernel.ordered,
            together,
        )

    def _compile(
        self, module: LoadedModule, index: int, block: Block, together: bool
    ) -> tuple[Generated, bytes]:
        program = module.program.kernels[index]
        if together:
            program = program.together()
        try:
            made, job = (
                (None, None) if together else module.ahead.pop((index, block), (None, None))
            )
            if made is not None and job is not None:
                self.ahead += 1
                return made, job.result()
            made = self._generate(program, block)
            return made, self.pool.compile(made.text, vectorise=True)
        except CompileError as error:
            first = error
        made = generate(program, block, 1, memcheck=self.memcheck)
        try:
            return made, self.pool.compile(made.text, vectorise=False)
        except CompileError as error:
            raise PtxError(
                f"kernel {program.name} cannot be compiled: {first}; and without vectors: {error}"
            ) from error


def check_kernel(kernel: KernelProgram) -> None:
    """Generates code for one thread, to find what is not supported.

    Raises:
        PtxError: Naming the kernel.
    """
    try:
        generate(kernel, _CHECK_BLOCK, 1)
    except PtxError as error:
        raise PtxError(f"kernel {kernel.name}: {error.detail}", error.result) from error
