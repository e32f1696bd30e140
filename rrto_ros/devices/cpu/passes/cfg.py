"""Basic blocks of a function, and the registers each instruction reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.errors import PtxError

BARRIER_OPS = frozenset({"bar", "barrier"})
WARP_OPS = frozenset(
    {"shfl", "vote", "match", "redux", "mma", "ldmatrix", "stmatrix", "activemask"}
)
ENDS_BADLY = frozenset({"trap", "brkpt"})
"""The thread ends there, and the launch fails."""
YIELD = "$yield"
"""What `passes/yields` adds: the thread goes on when all others have had their turn."""
_ARITHMETIC = frozenset(
    ("mov", "cvt", "cvta", "add", "sub", "mul", "mad", "shl", "shr", "and", "or", "xor", "not",
     "setp", "selp", "min", "max", "neg", "abs", "fma", "div", "rem")
)  # fmt: skip
_STORES = frozenset(
    {
        "st",
        "sust",
        "stmatrix",
        "red",
        "bra",
        "brx",
        "ret",
        "exit",
        "trap",
        "bar",
        "barrier",
        "assertfail",
        "membar",
        "fence",
        "prefetch",
        "prefetchu",
        "discard",
        "brkpt",
        "nanosleep",
        "pmevent",
        "cp",
        "call",
        "applypriority",
    }
)


@dataclass
class Block:
    """Straight-line code and where it goes.

    Attributes:
        index: Position in the program.
        instrs: Instructions without the terminator.
        guard: Register that decides, or None.
        guard_negated: Whether it decides the other way round.
        targets: Successor blocks: [] returns, [t] jumps, [taken, fallen] branches, more for brx.
        barrier: The block ends in a barrier or a warp exchange; targets[0] runs after it.
        selector: Index register of brx.idx.
    """

    index: int
    instrs: list[ast.Instr] = field(default_factory=list)
    guard: ast.Reg | None = None
    guard_negated: bool = False
    targets: list[int] = field(default_factory=list)
    barrier: ast.Instr | None = None
    selector: ast.Reg | None = None
    line: int = 0


def is_barrier(instr: ast.Instr) -> bool:
    """Whether a thread waits here, for its block, for its warp or for its turn."""
    return (
        instr.op in WARP_OPS
        or instr.op == YIELD
        or (instr.op in BARRIER_OPS and "arrive" not in instr.mods)
    )


def is_warp_wide(instr: ast.Instr) -> bool:
    """Whether the wait concerns the warp only, or the thread alone."""
    return instr.op in WARP_OPS or instr.op == YIELD or "warp" in instr.mods


def is_arithmetic(instr: ast.Instr) -> bool:
    """Whether it gives the same whenever it is computed from the same registers."""
    clock = any(
        isinstance(a, ast.Special) and ("clock" in a.name or "timer" in a.name) for a in instr.args
    )
    return instr.op in _ARITHMETIC and "cc" not in instr.mods and not clock


def gives_result(instr: ast.Instr) -> bool:
    """Whether the instruction computes something from all waiting threads' values."""
    return instr.op in WARP_OPS or "red" in instr.mods


def build_blocks(function: ast.Function) -> list[Block]:
    """The basic blocks of a function; block 0 is the entry. The last one only returns."""
    body = _waits_unguarded(function.body or ())
    labels: dict[str, int] = {}
    blocks = [Block(0)]
    pending: list[tuple[Block, list[str], bool]] = []

    def fresh() -> Block:
        block = Block(len(blocks))
        blocks.append(block)
        return block

    current: Block | None = blocks[0]
    for item in body:
        if isinstance(item, ast.Label):
            if item.name in labels:
                raise PtxError(f"{function.name}: label {item.name} is defined twice")
            previous, current = current, fresh()
            if previous is not None:
                previous.targets = [current.index]
            labels[item.name] = current.index
            continue
        if current is None:
            current = fresh()
        ends = item.op in ("bra", "ret", "exit", "brx", *ENDS_BADLY)
        if ends or is_barrier(item):
            block, current = current, None
            block.line = item.line
            if is_barrier(item):
                block.barrier = item
                current = fresh()
                block.targets = [current.index]
                if gives_result(item):
                    current.instrs.append(item)
                continue
            block.guard, block.guard_negated = item.guard, item.guard_negated
            if item.op == "bra":
                if len(item.args) != 1 or not isinstance(item.args[0], ast.Sym):
                    raise PtxError(f"line {item.line}: bra needs a label")
                pending.append((block, [item.args[0].name], item.guard is not None))
            elif item.op == "brx":
                selector, table = item.args[0], item.args[1]
                if not (isinstance(selector, ast.Reg) and isinstance(table, ast.Sym)):
                    raise PtxError(f"line {item.line}: brx.idx needs a register and a table")
                if table.name not in function.tables or item.guard is not None:
                    raise PtxError(f"line {item.line}: {item.text} is not supported here")
                block.selector = selector
                pending.append((block, list(function.tables[table.name]), False))
            elif item.op in ENDS_BADLY:
                block.instrs.append(item)
            if item.guard is not None:
                current = fresh()
                if item.op == "bra":
                    block.targets = [current.index]
                else:
                    block.targets = [-1, current.index]
        else:
            current.instrs.append(item)
    final = fresh()
    if current is not None and current is not final:
        current.targets = [final.index]
    for block, names, falls in pending:
        missing = [n for n in names if n not in labels]
        if missing:
            raise PtxError(f"line {block.line}: branch to unknown label {missing[0]}")
        block.targets = [labels[n] for n in names] + (block.targets if falls else [])
    for block in blocks:
        block.targets = [final.index if t == -1 else t for t in block.targets]
    return blocks


def _waits_unguarded(body: tuple[ast.Instr | ast.Label, ...]) -> list[ast.Instr | ast.Label]:
    """A guarded wait, trap or breakpoint becomes a branch around it."""
    result: list[ast.Instr | ast.Label] = []
    for position, item in enumerate(body):
        if (
            isinstance(item, ast.Label)
            or item.guard is None
            or not (is_barrier(item) or item.op in ENDS_BADLY or item.op in BARRIER_OPS)
        ):
            result.append(item)
            continue
        around = f"$around{position}"
        result.append(
            ast.Instr("bra", (), (ast.Sym(around),), item.guard, not item.guard_negated, item.line)
        )
        result.append(replace(item, guard=None, guard_negated=False))
        result.append(ast.Label(around))
    return result


def operand_registers(operand: ast.Operand) -> list[str]:
    """Names of the registers in an operand."""
    match operand:
        case ast.Reg(name):
            return [name]
        case ast.Not(reg):
            return [reg.name]
        case ast.Addr(ast.Reg(name), _):
            return [name]
        case ast.Vec(items):
            return [n for i in items for n in operand_registers(i)]
        case ast.Pair(first, second):
            return operand_registers(first) + operand_registers(second)
        case _:
            return []


def destinations(instr: ast.Instr) -> list[str]:
    """Registers that an instruction writes."""
    if instr.op == "call":
        first = instr.args[0] if instr.args else None
        return operand_registers(first) if isinstance(first, ast.Vec) else []
    if instr.op in BARRIER_OPS and gives_result(instr):
        return operand_registers(instr.args[0])
    if instr.op in _STORES or not instr.args:
        return []
    return operand_registers(instr.args[0])


def sources(instr: ast.Instr) -> list[str]:
    """Registers that an instruction reads (a guarded write also reads its destination)."""
    skip = 1 if destinations(instr) else 0
    names = [n for a in instr.args[skip:] for n in operand_registers(a)]
    if instr.op not in _STORES and instr.args and isinstance(instr.args[0], ast.Addr):
        names += operand_registers(instr.args[0])
    if instr.guard is not None:
        names.append(instr.guard.name)
        names += destinations(instr)
    return names


def live_in(blocks: list[Block]) -> list[frozenset[str]]:
    """Registers live at the start of each block (backward data flow to a fixed point)."""
    uses: list[set[str]] = []
    kills: list[set[str]] = []
    for block in blocks:
        used: set[str] = set()
        killed: set[str] = set()
        for instr in block.instrs:
            used.update(n for n in sources(instr) if n not in killed)
            if instr.guard is None:
                killed.update(destinations(instr))
        for reg in (block.guard, block.selector):
            if reg is not None and reg.name not in killed:
                used.add(reg.name)
        if block.barrier is not None:
            used.update(n for n in sources(block.barrier) if n not in killed)
        uses.append(used)
        kills.append(killed)
    live = [set(u) for u in uses]
    changed = True
    while changed:
        changed = False
        for index in range(len(blocks) - 1, -1, -1):
            new = set(uses[index])
            for target in blocks[index].targets:
                new |= live[target] - kills[index]
            if new != live[index]:
                live[index] = new
                changed = True
    return [frozenset(s) for s in live]
