"""A kernel after all passes, ready for code generation."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rrto_ros.devices.cpu.outline import Outline
from rrto_ros.devices.cpu.passes.addresses import Addresses, find_addresses
from rrto_ros.devices.cpu.passes.cfg import YIELD, build_blocks, destinations, sources
from rrto_ros.devices.cpu.passes.constants import constant_barriers
from rrto_ros.devices.cpu.passes.inline import inline_calls
from rrto_ros.devices.cpu.passes.layout import (
    KernelLayout,
    ModuleLayout,
    layout_kernel,
    layout_module,
)
from rrto_ros.devices.cpu.passes.loops import bounded_edges
from rrto_ros.devices.cpu.passes.pointers import function_addresses
from rrto_ros.devices.cpu.passes.regions import Regions, split
from rrto_ros.devices.cpu.passes.registers import register_types
from rrto_ros.devices.cpu.passes.rename import rename_local
from rrto_ros.devices.cpu.passes.reorder import loads_last
from rrto_ros.devices.cpu.passes.uniform import VectorPlan, plan_vectors
from rrto_ros.devices.cpu.passes.yields import loops_that_wait, with_yields
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.linking import read_module
from rrto_ros.devices.cpu.ptx.types import TYPES
from rrto_ros.devices.linked import PtxInput
from rrto_ros.errors import PtxError


@dataclass(frozen=True)
class KernelProgram:
    """One kernel: regions, register types and layout.

    Attributes:
        function: The kernel with calls inlined.
        ordered: Blocks must run one after the other for results to be the same every time
            (global atomics whose order shows).
        yields: Its blocks take turns.
        addresses: Registers that address memory.
        bounded: Backward edges that need not look at the stop flag.
    """

    function: ast.Function
    layout: KernelLayout
    regions: Regions
    types: dict[str, str]
    kernel_params: frozenset[str]
    uses_carry: bool
    ordered: bool
    bounded: frozenset[tuple[int, int]]
    yields: bool
    addresses: Addresses

    @property
    def spins(self) -> bool:
        """Whether a thread may wait in a loop for what another block writes."""
        return bool(loops_that_wait(self.function))

    def together(self) -> KernelProgram:
        """The kernel for launches whose blocks are all there at once and may wait for another."""
        with well_formed(self.name):
            return _program(with_yields(self.function), self.layout)

    @property
    def name(self) -> str:
        return self.function.name

    def vector_plan(self, block: tuple[int, int, int], max_lanes: int) -> VectorPlan | None:
        """How to run several threads per instruction, or None where threads may diverge."""
        return plan_vectors(self.regions, self.function, self.types, block, max_lanes)


class ModuleProgram:
    """A module whose kernels are prepared when they are asked for.

    Args:
        outline: Of its text.

    Attributes:
        layout: Of its variables and functions.
        entries: Its kernels, as far as they were read.
    """

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        module = outline.module
        self.layout = layout_module(module.variables, function_addresses(module.functions))
        self.entries = module.entries
        self._prepared: dict[int, KernelProgram] = {}

    @property
    def module(self) -> ast.Module:
        """What the text declares."""
        return self.outline.module

    def kernel(self, index: int) -> KernelProgram:
        """One kernel, ready for code generation.

        Raises:
            PtxError: It, or what it calls, is not valid or needs what is not supported.
        """
        found = self._prepared.get(index)
        if found is None:
            name = self.entries[index].name
            with well_formed(name):
                module = self.outline.reached(name)
                found = _analysed(module.functions[name], module, self.layout)
            self._prepared[index] = found
        return found

    @property
    def kernels(self) -> tuple[KernelProgram, ...]:
        """Every kernel."""
        return tuple(map(self.kernel, range(len(self.entries))))


def prepare(source: str | Sequence[PtxInput]) -> ModuleProgram:
    """Parses a PTX text, or links several, and prepares every kernel in it.

    Raises:
        PtxError: The text is not valid or needs something that is not supported.
    """
    program = ModuleProgram(Outline(read_module(source)))
    assert len(program.kernels) == len(program.entries)
    return program


_ANY_ORDER = frozenset({"add", "min", "max", "and", "or", "xor"})


def _needs_order(instrs: list[ast.Instr]) -> bool:
    """Whether what is left in memory depends on which block comes first.

    Integer sums, extremes and bits do not, as long as nobody looks at the value before.
    """
    read = {n for i in instrs for n in sources(i)}
    workspace = _workspace(instrs)
    for instr in instrs:
        if instr.op not in ("atom", "red") or any(m.startswith("shared") for m in instr.mods):
            continue
        base = next((a.base for a in instr.args if isinstance(a, ast.Addr)), None)
        if isinstance(base, ast.Reg) and base.name in workspace:
            continue  # the grid's barrier: nobody learns from it who came first
        kind = next((TYPES[m] for m in reversed(instr.mods) if m in TYPES), None)
        if (
            kind is None
            or kind.kind not in "usb"
            or not _ANY_ORDER & set(instr.mods)
            or any(n in read for n in destinations(instr))
        ):
            return True
    return False


_MOVES = frozenset({"mov", "add", "cvt", "cvta", "shl", "or", "bfi"})


def _workspace(instrs: list[ast.Instr]) -> frozenset[str]:
    """Registers that hold nothing but addresses in the grid's workspace, or parts of them."""
    made: dict[str, list[ast.Instr]] = {}
    for instr in instrs:
        for name in destinations(instr):
            made.setdefault(name, []).append(instr)
    found: set[str] = set()
    while True:
        more = {
            name
            for name, by in made.items()
            if name not in found and all(_of_workspace(i, found) for i in by)
        }
        if not more:
            return frozenset(found)
        found |= more


def _of_workspace(instr: ast.Instr, known: set[str]) -> bool:
    if instr.op not in _MOVES or instr.guard is not None:
        return False
    parts = [p for a in instr.args[1:] for p in (a.items if isinstance(a, ast.Vec) else (a,))]
    named = [p for p in parts if not isinstance(p, ast.Imm)]
    return bool(named) and all(
        p.name in known
        if isinstance(p, ast.Reg)
        else isinstance(p, ast.Special) and p.name in ("envreg1", "envreg2")
        for p in named
    )


@contextlib.contextmanager
def well_formed(kernel: str) -> Iterator[None]:
    """What fails on operands that are missing or of another kind becomes a PtxError."""
    try:
        yield
    except (IndexError, KeyError, ValueError, AttributeError, TypeError, StopIteration) as error:
        found = _looked_at(error)
        what = (
            f"line {found.line}: instruction {found.text} has operands that no form of it "
            f"takes (kernel {kernel})"
            if found is not None
            else f"kernel {kernel} holds an instruction whose operands do not fit it"
        )
        raise PtxError(
            f"{what}; docs/ptx_support.md lists the forms that are supported"
        ) from error


def _looked_at(error: BaseException) -> ast.Instr | None:
    """The instruction that a pass had in hand when it failed."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, ast.Instr):
                found = value
    return found


def _analysed(
    entry: ast.Function, module: ast.Module, module_layout: ModuleLayout
) -> KernelProgram:
    function = inline_calls(entry, module)
    return _program(function, layout_kernel(function, module, module_layout))


def _program(function: ast.Function, layout: KernelLayout) -> KernelProgram:
    kernel_params = frozenset(p.name for p in function.params)
    blocks = build_blocks(function)
    registers = rename_local(blocks, function.regs)
    constant_barriers(blocks)
    loads_last(blocks)
    regions = split(blocks, kernel_params)
    instrs = [i for b in regions.blocks for i in b.instrs]
    carry = any("cc" in i.mods or i.op in ("addc", "subc", "madc") for i in instrs)
    ordered = _needs_order(instrs)
    types = register_types(registers, regions.blocks)
    return KernelProgram(
        function,
        layout,
        regions,
        types,
        kernel_params,
        carry,
        ordered,
        bounded_edges(regions.blocks),
        any(b.barrier is not None and b.barrier.op == YIELD for b in blocks),
        find_addresses([*instrs, *(b.barrier for b in blocks if b.barrier is not None)], types),
    )
