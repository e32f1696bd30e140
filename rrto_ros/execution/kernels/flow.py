"""How a kernel goes on, and what of it says where its stores or loads go.

Blocks in an order in which each comes before those that it leads to, except where a loop goes
back; the loops; and the instructions that addresses, branches and guards of those accesses are
made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from rrto_ros.devices.cpu.passes.cfg import Block, build_blocks, destinations, sources
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES
from rrto_ros.execution.kernels.element_types import element_types
from rrto_ros.execution.kernels.forms import Symbol

MAX_INSTRUCTIONS = 20_000
OWN_SPACES = frozenset(("shared", "local", "param"))
"""State spaces of one block or thread."""
STORES = frozenset(("st", "red", "atom"))
LOADS = frozenset(("ld", "ldu", "red", "atom"))
"""What reads memory; an atomic operation does, too."""


class Flow:
    """One kernel's.

    Args:
        kernel: With its calls inlined.
        loads: What reads memory is followed, instead of what writes it.
        variables: Bytes of the module's variables.

    Attributes:
        loads: As given.
        followed: Whether an instruction accesses memory that is asked for.
        variables: Bytes of the module's variables.
        params: Offset of each argument.
        own: Bytes of each variable of the block or thread.
        passed: Those in which arguments and results of device functions are.
        bits: Of each register.
        predicates: Names of registers.
        blocks: By number.
        order: Reachable blocks.
        place: Of a block in this order.
        before: Blocks that lead to a block.
        code: Of each block: what says where accesses go, with a number for each instruction.
        loops: First block -> registers that change in the loop.
        around: First block -> the symbols of the loops around it.
        small: Whether the kernel is one that is looked at.

    Raises:
        PtxError: It is not well formed.
    """

    def __init__(
        self,
        kernel: ast.Function,
        *,
        loads: bool = False,
        variables: Mapping[str, int] | None = None,
    ) -> None:
        self.loads = loads
        self.followed = self._reads if loads else stores
        self.variables = dict(variables or {})
        self.blocks = build_blocks(kernel)
        self.params: dict[str, int] = {}
        at = 0
        for var in kernel.params:
            at += -at % max(1, var.align)
            self.params[var.name] = at
            at += var.size
        self.own = {v.name: v.size for v in kernel.variables if v.space in OWN_SPACES}
        # Where arguments and results of device functions are.
        self.passed = {v.name for v in kernel.variables if v.space == "param"}
        self.bits = {name: kind.bits for name, kind in kernel.regs.items()}
        self.predicates = {name for name, kind in kernel.regs.items() if kind.name == "pred"}
        self.order = _order(self.blocks)
        self.place = {block: k for k, block in enumerate(self.order)}
        self.before: dict[int, list[int]] = {b: [] for b in self.order}
        for b in self.order:
            for target in dict.fromkeys(self.blocks[b].targets):
                self.before[target].append(b)
        self.around: dict[int, set[Symbol]] = {}
        self.small = sum(len(b.instrs) for b in self.blocks) <= MAX_INSTRUCTIONS
        self.code = self._needed()
        self.loops = self._find_loops()

    @cached_property
    def types(self) -> Mapping[int, str]:
        """Of the elements of each load and store, by the numbers that `code` has."""
        return element_types(self.blocks, self.predicates)

    def _needed(self) -> dict[int, list[tuple[int, ast.Instr]]]:
        """Of each block: the instructions that say where accesses go, with a number for each."""
        wanted: set[str] = set()
        everything: list[tuple[int, ast.Instr]] = []
        for block in self.blocks:
            everything += ((block.index, instr) for instr in block.instrs)
            wanted.update(r.name for r in (block.guard, block.selector) if r is not None)
        for _, instr in everything:
            if self.followed(instr):
                wanted.update(n for a in instr.args if isinstance(a, ast.Addr)
                              for n in _registers(a))  # fmt: skip
                if instr.guard is not None:
                    wanted.add(instr.guard.name)
            elif self.slot(instr) is not None:
                wanted.update(sources(instr), destinations(instr))
        size = -1
        while size != len(wanted):
            size = len(wanted)
            for _, instr in everything:
                if instr.op not in ("ld", "ldu", "atom") and not wanted.isdisjoint(
                    destinations(instr)
                ):
                    wanted.update(sources(instr))
                elif instr.guard is not None and not wanted.isdisjoint(destinations(instr)):
                    wanted.add(instr.guard.name)
        out: dict[int, list[tuple[int, ast.Instr]]] = {b.index: [] for b in self.blocks}
        for number, (block_index, instr) in enumerate(everything):
            kept = self.followed(instr) or self.slot(instr) is not None
            if kept or not wanted.isdisjoint(destinations(instr)):
                out[block_index].append((number, instr))
        return out

    def _reads(self, instr: ast.Instr) -> bool:
        """Whether it reads memory other than arguments and what is passed to functions."""
        if instr.op not in LOADS or OWN_SPACES & set(instr.mods):
            return False
        base = next((a.base for a in instr.args if isinstance(a, ast.Addr)), None)
        return not (
            isinstance(base, ast.Sym) and (base.name in self.params or base.name in self.passed)
        )

    def slot(self, instr: ast.Instr) -> tuple[str, int, int] | None:
        """Variable, offset and bytes of what is passed to a device function, or from it."""
        if instr.op not in ("ld", "st"):
            return None
        address = next((a for a in instr.args if isinstance(a, ast.Addr)), None)
        if (
            address is None
            or not isinstance(address.base, ast.Sym)
            or (address.base.name not in self.passed)
        ):
            return None
        kind = TYPES.get(instr.mods[-1])
        size = 16 if kind is None else kind.bytes * elements(instr)
        return address.base.name, address.base.offset + address.offset, size

    def _find_loops(self) -> dict[int, frozenset[str]]:
        """Blocks that a loop begins with -> registers that change in it.

        A loop has what can be reached from its first block and leads there again.
        """
        out: dict[int, frozenset[str]] = {}
        bodies: dict[int, set[int]] = {}
        for head in self.order:
            back = [b for b in self.before[head] if self.place[b] >= self.place[head]]
            if not back:
                continue
            # Backwards from the ends of its rounds; the head is in front of all of them.
            inside, todo = {head}, list(back)
            while todo:
                b = todo.pop()
                if b in inside:
                    continue
                if self.place[b] < self.place[head]:
                    # It can be entered elsewhere.
                    self.small = False
                    return {}
                inside.add(b)
                todo += self.before[b]
            bodies[head] = inside
            out[head] = frozenset(
                name for b in inside for _, i in self.code[b] for name in destinations(i)
            )
        for head in bodies:
            self.around[head] = {
                ("round", outer) for outer, inside in bodies.items()
                if outer != head and head in inside
            }  # fmt: skip
        return out


def stores(instr: ast.Instr) -> bool:
    """Whether it writes memory that other blocks see."""
    return instr.op in STORES and not OWN_SPACES & set(instr.mods)


def _registers(address: ast.Addr) -> list[str]:
    return [address.base.name] if isinstance(address.base, ast.Reg) else []


def _order(blocks: Sequence[Block]) -> list[int]:
    """Reachable blocks, each before those that it leads to except where a loop goes back."""
    done: list[int] = []
    seen = {0}
    stack = [(0, iter(blocks[0].targets))]
    while stack:
        index, targets = stack[-1]
        for target in targets:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(blocks[target].targets)))
                break
        else:
            done.append(index)
            stack.pop()
    return done[::-1]


def elements(instr: ast.Instr) -> int:
    """How many values a load or store has."""
    return next((int(m[1:]) for m in instr.mods if m in ("v2", "v4", "v8")), 1)
