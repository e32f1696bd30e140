"""What a session needs to know of a module to load and launch it, without its text.

Kept in the disk cache beside the compiled kernels, so that a module that was loaded once is not
parsed, checked or analysed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rrto_ros.devices.cpu.cache import Entry
from rrto_ros.devices.cpu.passes.layout import initial_values
from rrto_ros.devices.cpu.passes.pressure import register_words
from rrto_ros.devices.cpu.program import KernelProgram, ModuleProgram

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class KernelFacts:
    """One kernel.

    Attributes:
        params: (offset, size) of each parameter.
        shared_bytes: Static shared memory.
        local_bytes: Local memory of one thread.
        required: Threads that a launch must have (.reqntid), None for any.
        most: Threads that a launch may have (.maxntid), None for the device's limit.
        ordered: Whether its blocks run one after the other.
        spins: Whether a thread may wait in a loop for another block.
        registers: 32-bit words that are alive where most is, at most its .maxnreg.
    """

    name: str
    params: tuple[tuple[int, int], ...]
    shared_bytes: int
    local_bytes: int
    required: Size3 | None
    most: Size3 | None
    ordered: bool
    spins: bool
    registers: int

    @property
    def block(self) -> Size3 | None:
        """The block size that the text says, if any."""
        return self.required or self.most


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
        version: PTX version of its text, (major, minor).
        total_bytes: Size of the block of its variables.
        alignment: Of that block.
        variables: In the order of the text.
        initial: (offset, bytes) of what is not zero at the start.
        pointers: Offsets of addresses in it, which count from the start of the block.
    """

    version: tuple[int, int]
    total_bytes: int
    alignment: int
    variables: tuple[Variable, ...]
    initial: tuple[tuple[int, bytes], ...]
    pointers: tuple[int, ...]
    kernels: tuple[KernelFacts, ...]

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
    """The facts of a prepared module.

    Raises:
        PtxError: A variable is initialised with what does not fit it.
    """
    layout = program.layout
    initial, pointers = initial_values(layout)
    return ModuleFacts(
        program.module.version,
        layout.total_bytes,
        max((p.var.align for p in layout.symbols.values()), default=1),
        tuple(
            Variable(n, p.offset, p.var.size, p.var.space == "const")
            for n, p in layout.symbols.items()
        ),
        tuple(initial),
        tuple(pointers),
        tuple(map(_kernel, program.kernels)),
    )


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


def _kernel(kernel: KernelProgram) -> KernelFacts:
    function, layout = kernel.function, kernel.layout
    words = register_words(kernel.regions.blocks, kernel.types)
    return KernelFacts(
        kernel.name,
        layout.params,
        layout.shared_bytes,
        layout.declared_local_bytes,
        function.reqntid,
        function.maxntid,
        kernel.ordered,
        kernel.spins,
        min(words, function.maxnreg or words),
    )


def _kept_kernel(kept: dict[str, Any]) -> KernelFacts:
    return KernelFacts(
        **{
            **kept,
            "params": tuple(map(_pair, kept["params"])),
            "required": _size(kept["required"]),
            "most": _size(kept["most"]),
        }
    )


def _pair(kept: Sequence[int]) -> tuple[int, int]:
    return kept[0], kept[1]


def _size(kept: Sequence[int] | None) -> Size3 | None:
    return None if kept is None else (kept[0], kept[1], kept[2])
