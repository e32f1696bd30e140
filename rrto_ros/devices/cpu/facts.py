"""What a session needs to know of a module to load and launch it, without its text.

Kept in the disk cache beside the compiled kernels, so that a module that was loaded once is not
parsed, checked or analysed again. Of a large module it keeps each kernel apart, when it is first
used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rrto_ros.devices.cpu.cache import Entry
from rrto_ros.devices.cpu.passes.layout import initial_values, parameter_places
from rrto_ros.devices.cpu.passes.pressure import register_words
from rrto_ros.devices.cpu.program import KernelProgram, ModuleProgram
from rrto_ros.devices.cpu.ptx import ast

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class KernelHead:
    """What a module's text says of a kernel before its body.

    Attributes:
        params: (offset, size) of each parameter.
        required: Threads that a launch must have (.reqntid), None for any.
        most: Threads that a launch may have (.maxntid), None for the device's limit.
    """

    name: str
    params: tuple[tuple[int, int], ...]
    required: Size3 | None
    most: Size3 | None

    @property
    def block(self) -> Size3 | None:
        """The block size that the text says, if any."""
        return self.required or self.most


@dataclass(frozen=True)
class KernelFacts(KernelHead):
    """A kernel whose body was analysed.

    Attributes:
        shared_bytes: Static shared memory.
        local_bytes: Local memory of one thread.
        ordered: Whether its blocks run one after the other.
        spins: Whether a thread may wait in a loop for another block.
        registers: 32-bit words that are alive where most is, at most its .maxnreg.
    """

    shared_bytes: int
    local_bytes: int
    ordered: bool
    spins: bool
    registers: int

    def to_entry(self) -> Entry:
        """As the disk cache keeps it where the module's other kernels are not known."""
        return Entry(b"", asdict(self))


@dataclass(frozen=True)
class Variable:
    """A module variable: offset in the module's block, size in bytes."""

    name: str
    offset: int
    size: int
    constant: bool


@dataclass(frozen=True)
class ModuleFacts:
    """A module.

    Attributes:
        version: Virtual architecture that its text is for, (major, minor).
        total_bytes: Size of the block of its variables.
        alignment: Of that block.
        variables: In the order of the text.
        initial: (offset, bytes) of what is not zero at the start.
        pointers: Offsets of addresses in it, which count from the start of the block.
        kernels: In the order of the text; their facts where their bodies are read at load.
    """

    version: tuple[int, int]
    total_bytes: int
    alignment: int
    variables: tuple[Variable, ...]
    initial: tuple[tuple[int, bytes], ...]
    pointers: tuple[int, ...]
    kernels: tuple[KernelHead, ...]

    @property
    def constant_bytes(self) -> int:
        return sum(v.size for v in self.variables if v.constant)

    def initial_bytes(self, base: int) -> bytearray:
        """The contents of the block at the start when it lies at address `base`."""
        data = bytearray(self.total_bytes)
        for offset, values in self.initial:
            data[offset : offset + len(values)] = values
        for offset in self.pointers:
            address = int.from_bytes(data[offset : offset + 8], "little") + base
            data[offset : offset + 8] = (address & (1 << 64) - 1).to_bytes(8, "little")
        return data

    def to_entry(self) -> Entry:
        """As the disk cache keeps it."""
        facts = asdict(self)
        facts["initial"] = [(offset, len(values)) for offset, values in self.initial]
        return Entry(b"".join(values for _, values in self.initial), facts)


def facts_of(program: ModuleProgram) -> ModuleFacts:
    """The facts of a module.

    Raises:
        PtxError: A variable is initialised with what does not fit it; a kernel, if they are read
            at load, is not valid.
    """
    layout = program.layout
    initial, pointers = initial_values(layout)
    return ModuleFacts(
        _architecture(program.module.target),
        layout.total_bytes,
        max((p.var.align for p in layout.symbols.values()), default=1),
        tuple(
            Variable(n, p.offset, p.var.size, p.var.space == "const")
            for n, p in layout.symbols.items()
        ),
        tuple(initial),
        tuple(pointers),
        tuple(map(_head, program.entries))
        if program.outline.deferred
        else tuple(map(kernel_facts, program.kernels)),
    )


def _architecture(target: str) -> tuple[int, int]:
    """(7, 5) for sm_75; (0, 0) for a text that names none."""
    number = re.search(r"\d+", target)
    return divmod(int(number[0]), 10) if number else (0, 0)


def facts_in(entry: Entry) -> ModuleFacts:
    """What `ModuleFacts.to_entry` made."""
    kept = entry.facts
    initial, start = [], 0
    for offset, size in kept["initial"]:
        initial.append((offset, entry.code[start : start + size]))
        start += size
    return ModuleFacts(
        _pair(kept["version"]),
        kept["total_bytes"],
        kept["alignment"],
        tuple(Variable(**v) for v in kept["variables"]),
        tuple(initial),
        tuple(kept["pointers"]),
        tuple(map(_kept_kernel, kept["kernels"])),
    )


def _head(function: ast.Function) -> KernelHead:
    return KernelHead(
        function.name, parameter_places(function), function.reqntid, function.maxntid
    )


def kernel_facts(kernel: KernelProgram) -> KernelFacts:
    """The facts of a prepared kernel."""
    function, layout = kernel.function, kernel.layout
    words = register_words(kernel.regions.blocks, kernel.types)
    return KernelFacts(
        kernel.name,
        layout.params,
        function.reqntid,
        function.maxntid,
        layout.shared_bytes,
        layout.declared_local_bytes,
        kernel.ordered,
        kernel.spins,
        min(words, function.maxnreg or words),
    )


def kernel_facts_in(entry: Entry) -> KernelFacts:
    """What `KernelFacts.to_entry` made."""
    return KernelFacts(**_kept(entry.facts))


def _kept_kernel(kept: dict[str, Any]) -> KernelHead:
    return (KernelFacts if "registers" in kept else KernelHead)(**_kept(kept))


def _kept(kept: dict[str, Any]) -> dict[str, Any]:
    return {
        **kept,
        "params": tuple(map(_pair, kept["params"])),
        "required": _size(kept["required"]),
        "most": _size(kept["most"]),
    }


def _pair(kept: Sequence[int]) -> tuple[int, int]:
    return kept[0], kept[1]


def _size(kept: Sequence[int] | None) -> Size3 | None:
    return None if kept is None else (kept[0], kept[1], kept[2])
