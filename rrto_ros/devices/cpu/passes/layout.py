"""Where variables lie: parameter, shared, local and module-global offsets."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rrto_ros.devices.cpu.passes.accesses import access_of
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.errors import PtxError

MAX_STATIC_SHARED_BYTES = 48 * 1024
MAX_LOCAL_BYTES = 512 * 1024
PARAMS_ALIGNMENT = 256
"""Of a kernel's parameters."""
_STACK_BYTES = 4096
STACK = "$stack"
"""The variable of activations of functions that call themselves (passes/recursion)."""


def align_up(value: int, alignment: int) -> int:
    """The next multiple of a power of two."""
    return (value + alignment - 1) & -alignment


@dataclass(frozen=True)
class Placed:
    """A variable with its state space and offset in bytes."""

    var: ast.Var
    offset: int


@dataclass(frozen=True)
class KernelLayout:
    """Everything that one kernel can name.

    Attributes:
        symbols: Name -> placement, innermost declaration first.
        params: (offset, size) of each kernel parameter.
        shared_bytes: Static shared memory; dynamic shared memory starts there, aligned to 16.
        local_bytes: Local memory of one thread, a multiple of its variables' alignments.
        stacked: Whether LLVM may keep local memory where it likes: it is small, and only named
            variables are accessed, inside their bounds.
    """

    symbols: dict[str, Placed]
    params: tuple[tuple[int, int], ...]
    shared_bytes: int
    local_bytes: int
    stacked: bool = False

    @property
    def declared_local_bytes(self) -> int:
        """Local memory that the text declares: without the stack of functions."""
        stack = self.symbols.get(STACK)
        return self.local_bytes - (stack.var.size if stack is not None else 0)


@dataclass(frozen=True)
class ModuleLayout:
    """Module variables: placements and total size of their block; addresses of functions."""

    symbols: dict[str, Placed]
    total_bytes: int
    functions: Mapping[str, int]


def layout_module(variables: Iterable[ast.Var], functions: Mapping[str, int]) -> ModuleLayout:
    """Offsets of .global and .const variables in one block, each aligned to at least 16."""
    offset = 0
    placed: dict[str, Placed] = {}
    for var in variables:
        if var.space not in ("global", "const"):
            continue
        if var.external:
            raise PtxError(f"variable {var.name} is defined in no module")
        offset = align_up(offset, max(16, var.align))
        placed[var.name] = Placed(var, offset)
        offset += var.size
    return ModuleLayout(placed, offset, functions)


def parameter_places(kernel: ast.Function) -> tuple[tuple[int, int], ...]:
    """(offset, size) of each parameter in the buffer of a launch's arguments."""
    places = []
    offset = 0
    for var in kernel.params:
        offset = align_up(offset, var.align)
        places.append((offset, var.size))
        offset += var.size
    return tuple(places)


def layout_kernel(
    kernel: ast.Function, module: ast.Module, module_layout: ModuleLayout
) -> KernelLayout:
    """Offsets of a kernel's parameters, shared and local variables."""
    symbols = dict(module_layout.symbols)
    used = _names(kernel)
    shared = local = 0
    local_align = 16
    dynamic: list[ast.Var] = []
    for var in (*module.variables, *kernel.variables):
        if var.space == "shared":
            if var.external or var.size == 0:
                dynamic.append(var)
            elif var.name in used:
                shared = align_up(shared, var.align)
                symbols[var.name] = Placed(var, shared)
                shared += var.size
        elif var.space in ("local", "param"):
            local = align_up(local, max(var.align, 8))
            local_align = max(local_align, var.align)
            symbols[var.name] = Placed(var, local)
            local += var.size
    start = max((align_up(shared, max(16, v.align)) for v in dynamic), default=shared)
    for var in dynamic:
        symbols[var.name] = Placed(var, align_up(start, max(16, var.align)))
    params = parameter_places(kernel)
    for var, (offset, _) in zip(kernel.params, params, strict=True):
        symbols[var.name] = Placed(var, offset)
        if var.align > PARAMS_ALIGNMENT:
            raise PtxError(
                f"{kernel.name}: parameter {var.name} is aligned to {var.align} bytes, "
                f"at most {PARAMS_ALIGNMENT} are supported"
            )
    local = align_up(local, local_align)
    if shared > MAX_STATIC_SHARED_BYTES:
        raise PtxError(
            f"{kernel.name} uses {shared} bytes of static shared memory, "
            f"at most {MAX_STATIC_SHARED_BYTES} are allowed"
        )
    if local > MAX_LOCAL_BYTES:
        raise PtxError(
            f"{kernel.name} uses {local} bytes of local memory per thread, "
            f"at most {MAX_LOCAL_BYTES} are allowed"
        )
    placed = {n: p.var for n, p in symbols.items() if p.var.space in ("local", "param")}
    stacked = local <= _STACK_BYTES and all(
        _inside(i, placed) for i in kernel.body or () if isinstance(i, ast.Instr)
    )
    return KernelLayout(symbols, params, start, local, stacked)


def _inside(instr: ast.Instr, variables: Mapping[str, ast.Var]) -> bool:
    """Whether an instruction that names one of the variables accesses bytes of it alone."""
    args = [i for a in instr.args for i in (a.items if isinstance(a, ast.Vec) else (a,))]
    for arg in args:
        base = arg.base if isinstance(arg, ast.Addr) else arg
        var = variables.get(base.name) if isinstance(base, ast.Sym) else None
        if var is None:
            continue
        if not isinstance(arg, ast.Addr) or instr.op not in ("ld", "st"):
            return False
        assert isinstance(base, ast.Sym)
        start = base.offset + arg.offset
        if not 0 <= start <= var.size - access_of(instr).bytes:
            return False
    return True


def _names(kernel: ast.Function) -> set[str]:
    names: set[str] = set()
    for item in kernel.body or ():
        if isinstance(item, ast.Instr):
            for arg in item.args:
                base = arg.base if isinstance(arg, ast.Addr) else arg
                if isinstance(base, ast.Sym):
                    names.add(base.name)
    return names


def initial_values(layout: ModuleLayout) -> tuple[list[tuple[int, bytes]], list[int]]:
    """What the variables hold at the start.

    Returns:
        (offset, bytes) of each variable that says it, and the offsets of addresses in them, which
        count from the start of the module's block.

    Raises:
        PtxError: A variable is initialised with what does not fit it.
    """
    values = []
    pointers = []
    for placed in layout.symbols.values():
        var, data = placed.var, bytearray()
        for item in _whole_addresses(var):
            if isinstance(item, ast.Sym) and item.name in layout.functions:
                data += (layout.functions[item.name] + item.offset).to_bytes(8, "little")
            elif isinstance(item, ast.Sym):
                pointers.append(placed.offset + len(data))
                data += _address(item, var, layout)
            elif isinstance(item, ast.Numbers):
                data += _encode_row(item, var)
            else:
                data += _encode(item, var)
            if len(data) > var.size:
                raise PtxError(f"variable {var.name} has more initial values than elements")
        if data:
            values.append((placed.offset, bytes(data)))
    return values, pointers


def _whole_addresses(
    var: ast.Var,
) -> Iterator[ast.Imm | ast.FloatImm | ast.Sym | ast.Numbers]:
    """The elements of an initial value; the eight bytes of an address as that address."""
    items = var.init or ()
    index = 0
    while index < len(items):
        item = items[index]
        if isinstance(item, ast.SymByte):
            symbol = item.symbol
            if var.type.bytes != 1 or items[index : index + 8] != tuple(
                ast.SymByte(symbol, k) for k in range(8)
            ):
                raise PtxError(f"variable {var.name} is initialised with a part of an address")
            yield symbol
            index += 8
            continue
        if isinstance(item, ast.Sym) and var.type.bytes != 8:
            raise PtxError(f"variable {var.name} is too narrow for the address of {item.name}")
        yield item
        index += 1


def _address(symbol: ast.Sym, var: ast.Var, layout: ModuleLayout) -> bytes:
    target = layout.symbols.get(symbol.name)
    if target is None:
        raise PtxError(
            f"variable {var.name} is initialised with {symbol.name}, "
            "which is not the address of a variable"
        )
    return (target.offset + symbol.offset & (1 << 64) - 1).to_bytes(8, "little")


def _encode_row(row: ast.Numbers, var: ast.Var) -> bytes:
    """As `_encode`, of every number."""
    kind, width = var.type, var.type.bytes
    values = np.frombuffer(row.values, np.int64 if row.values.typecode == "q" else np.uint64)
    plain = not kind.is_float or (kind.bits <= 16 and not row.width)
    if width > 8:
        return b"".join(_encode(_element(v, row.width), var) for v in row.values)
    if row.width == kind.bits or plain:
        out = values.astype(f"<u{width}")
        return bytes((out & out.dtype.type((1 << kind.bits) - 1)).tobytes())
    if row.width == 32:
        values = values.astype(np.uint32).view(np.float32)
    elif row.width == 64:
        values = values.view(np.float64)
    with np.errstate(over="ignore"):
        floats = values.astype(np.float64).astype(f"<f{width}")
    return bytes(floats.tobytes())


def _element(value: int, width: int) -> ast.Imm | ast.FloatImm:
    return ast.FloatImm(value, width) if width else ast.Imm(value)


def _encode(item: ast.Imm | ast.FloatImm, var: ast.Var) -> bytes:
    width = var.type.bytes
    if isinstance(item, ast.FloatImm):
        if item.width == var.type.bits or not var.type.is_float:
            return (item.bits & (1 << var.type.bits) - 1).to_bytes(width, "little")
        value = (
            struct.unpack("<d", item.bits.to_bytes(8, "little"))[0]
            if item.width == 64
            else (struct.unpack("<f", item.bits.to_bytes(4, "little"))[0])
        )
        return struct.pack({16: "<e", 32: "<f", 64: "<d"}[var.type.bits], value)
    if var.type.is_float and var.type.bits > 16:
        return struct.pack("<f" if width == 4 else "<d", float(item.value))
    return (item.value & (1 << var.type.bits) - 1).to_bytes(width, "little")
