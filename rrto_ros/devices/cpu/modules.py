"""Loaded modules: validation at load, compilation at the first launch of each block size.

Kernels of a large module are read and checked when they are first used (`outline.py`). A module
whose facts are in the disk cache is neither parsed nor checked again; its text is looked at only
if a kernel must be compiled.
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
from rrto_ros.devices.cpu.facts import (
    KernelFacts,
    KernelHead,
    ModuleFacts,
    facts_in,
    facts_of,
    kernel_facts,
    kernel_facts_in,
)
from rrto_ros.devices.cpu.jit import LoadedCode, host_target
from rrto_ros.devices.cpu.launcher import Runnable
from rrto_ros.devices.cpu.outline import open_outline
from rrto_ros.devices.cpu.program import KernelProgram, ModuleProgram
from rrto_ros.devices.linked import PtxInput
from rrto_ros.errors import PtxError
from rrto_ros.store_link import EntryStore

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
        known: The facts of each kernel; None before its first use in a large module.
    """

    facts: ModuleFacts
    source: str | Sequence[PtxInput]
    digest: str
    base: int = 0
    max_dynamic: dict[int, int] = field(default_factory=dict)
    runnable: dict[tuple[int, Block], Runnable] = field(default_factory=dict)
    together: dict[tuple[int, Block], Runnable] = field(default_factory=dict)
    ahead: dict[tuple[int, Block], tuple[Generated, Future[bytes]]] = field(default_factory=dict)
    known: list[KernelFacts | None] = field(init=False)

    def __post_init__(self) -> None:
        self.known = [k if isinstance(k, KernelFacts) else None for k in self.facts.kernels]

    @cached_property
    def program(self) -> ModuleProgram:
        """The text, parsed when it is first asked for."""
        return ModuleProgram(open_outline(self.source))


class Compiler:
    """Turns kernels into native code, through the disk cache and the compile processes.

    Args:
        directory: Of the disk cache; None is the user's cache directory.
        limit_bytes: Size limit of the disk cache; 0 keeps nothing.
        max_lanes: Threads per vector instruction; 0 is what the processor does best.
        memcheck: Whether kernels look up every access.
        pool: The compile processes, closed with this object.
        kept: The cache, where another process keeps it.
    """

    def __init__(
        self,
        directory: Path | None,
        limit_bytes: int,
        max_lanes: int,
        pool: CompilePool,
        *,
        memcheck: bool = False,
        kept: EntryStore | None = None,
    ) -> None:
        self.memcheck = memcheck
        self.cache = KernelCache(directory, limit_bytes, kept)
        self.target = host_target()
        self.lanes = max_lanes or self.target.lanes
        self.pool = pool
        self.compiled = 0
        self.compile_ns = 0
        self.vectorised = 0
        self.ahead = 0
        self.known = 0
        self.deferred = 0
        self.read = 0
        self.analysed = 0

    def close(self) -> None:
        """Ends the compile processes."""
        self.pool.close()

    def load(self, source: str | Sequence[PtxInput]) -> LoadedModule:
        """Parses a PTX text, or links several, and checks every instruction of every kernel.

        Of a large text only what it declares is read (`facts` does the rest).

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
            program = ModuleProgram(open_outline(source))
            self.read += program.outline.read
            if not program.outline.deferred:
                for kernel in program.kernels:
                    check_kernel(kernel)
                self.analysed += len(program.kernels)
            facts = facts_of(program)
            module = LoadedModule(facts, source, digest)
            module.program = program
            self.cache.put(key, facts.to_entry())
        if None in module.known:
            self.deferred += 1
        else:
            self._compile_ahead(module)
        return module

    def facts(self, module: LoadedModule, index: int) -> KernelFacts:
        """The facts of a kernel, which is read and checked now if it was not.

        Raises:
            PtxError: As `load` does, for this kernel and what it calls.
        """
        found = module.known[index]
        if found is None:
            found = module.known[index] = self._first_use(module, index)
        return found

    def _first_use(self, module: LoadedModule, index: int) -> KernelFacts:
        name = module.facts.kernels[index].name
        key = cache_key(module.digest, _FACTS, name)
        entry = self.cache.get(key)
        if entry is not None:
            return kernel_facts_in(entry)
        program = self._program(module, index)
        check_kernel(program)
        facts = kernel_facts(program)
        self.analysed += 1
        self.cache.put(key, facts.to_entry())
        return facts

    def _program(self, module: LoadedModule, index: int) -> KernelProgram:
        """A kernel of a module, read and analysed now if it was not."""
        outline = module.program.outline
        before = outline.read
        try:
            return module.program.kernel(index)
        except PtxError as error:
            name = module.facts.kernels[index].name
            if name in error.detail:
                raise
            raise _named(error, name) from error
        finally:
            self.read += outline.read - before

    def _compile_ahead(self, module: LoadedModule) -> None:
        """Kernels that say their block size are compiled side by side, before a launch asks."""
        kernels = module.facts.kernels
        for index, kernel in enumerate(kernels[:_AHEAD]):
            if len(kernels) > 1 and kernel.block is not None:
                self._begin(module, index, kernel.block)

    def expect(self, module: LoadedModule, index: int) -> None:
        """The program means to use a kernel: if it has one block size, it is compiled from now on.

        So the kernels of a large module are compiled side by side where a program asks for their
        attributes first.
        """
        required = module.facts.kernels[index].required
        if required is not None and (index, required) not in module.runnable:
            self._begin(module, index, required)

    def _begin(self, module: LoadedModule, index: int, block: Block) -> None:
        if block[0] * block[1] * block[2] > MAX_THREADS or (index, block) in module.ahead:
            return
        if not self.cache.holds(self._key(module, module.facts.kernels[index], block)):
            made = self._generate(self._program(module, index), block)
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
        self, module: LoadedModule, kernel: KernelHead, block: Block, together: bool = False
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
        kernel = self.facts(module, index)
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
        program = self._program(module, index)
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
        raise _named(error, kernel.name) from error


def _named(error: PtxError, kernel: str) -> PtxError:
    return PtxError(f"kernel {kernel}: {error.detail}", error.result)
