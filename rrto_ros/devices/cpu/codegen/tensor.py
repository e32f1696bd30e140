"""mma, ldmatrix and stmatrix: small matrices of a warp, in fragments that its lanes exchange.

Lane l holds rows g and g + 8 of A and D and column g of B, with g = l / 4; its place t = l % 4
says which k (A, B) or which pair of columns (C, D). 16-bit elements lie in pairs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.memory import store_values
from rrto_ros.devices.cpu.codegen.rounding import narrow, widen
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.codegen.warp import matrices, take, warp_start
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_ROWS, _COLUMNS, _GROUP = 16, 8, 4


@dataclass(frozen=True)
class Shape:
    """Depth and types of one mma form; registers follow from them."""

    depth: int
    inputs: PtxType
    accumulator: PtxType

    @property
    def per_register(self) -> int:
        return 32 // self.inputs.bits

    @property
    def block(self) -> int:
        """Values of k that one register of every lane covers."""
        return _GROUP * self.per_register

    @property
    def a_registers(self) -> int:
        return 2 * self.depth // self.block


def shape_of(instr: ast.Instr) -> Shape:
    """The form of an mma instruction."""
    found = next((re.fullmatch(r"m16n8k(\d+)", m) for m in instr.mods if m[0] == "m"), None)
    types = [TYPES[m] for m in instr.mods if m in TYPES]
    if found is None or len(types) != 4 or "row" not in instr.mods or "sp" in instr.mods:
        raise unsupported(instr)
    result, a, b, c = types
    depth = int(found[1])
    allowed = {"f16": (8, 16), "bf16": (8, 16), "tf32": (4, 8)}.get(a.name, ())
    if depth not in allowed or a != b or c != result or result.name not in ("f32", "f16"):
        raise unsupported(instr)
    return Shape(depth, a, result)


def _elements(e: Emitter, word: Val, shape: Shape) -> list[Val]:
    """The input elements in one register, as floats."""
    b = e.b
    if shape.inputs.bits == 32:
        bits = b.binary("and", word, const(0xFFFFE000, "i32"))
        return [b.bitcast(bits, "float")]
    parts = []
    for shift in (0, 16):
        half = b.resize(b.binary("lshr", word, const(shift, "i32")), "i16", False)
        parts.append(widen(e, b.bitcast(half, shape.inputs.llvm), shape.inputs))
    return parts


def _line(e: Emitter, shape: Shape, owner: Val, first_register: int, step: int) -> list[Val]:
    """A row of A or a column of B: its `depth` elements, gathered from four lanes."""
    b = e.b
    values: list[Val] = []
    for part in range(shape.depth // shape.block):
        for place in range(_GROUP):
            thread = b.binary("add", owner, const(place, "i32"))
            word = b.resize(take(e, thread, first_register + part * step), "i32", False)
            values += _elements(e, word, shape)
    return values


@emits(
    "mma",
    forms=".sync.aligned.row.col: m16n8k8, m16n8k16 (f16, bf16), m16n8k4, m16n8k8 "
    "(tf32); f32 or f16 accumulators",
)
def mma(e: Emitter, instr: ast.Instr) -> None:
    """Emits mma."""
    b = e.b
    shape = shape_of(instr)
    start = warp_start(e)
    lane = e.special_value("laneid")
    group = b.binary("and", lane, const(28, "i32"))  # 4 * g, the first lane of this group
    place = b.binary("and", lane, const(3, "i32"))
    # Registers of A alternate between row g and row g + 8.
    own = b.binary("add", start, group)
    rows = [_line(e, shape, own, half, 2) for half in (0, 1)]
    columns = []
    for odd in (0, 1):
        column = b.binary("add", b.binary("shl", place, const(1, "i32")), const(odd, "i32"))
        owner = b.binary("add", start, b.binary("shl", column, const(2, "i32")))
        columns.append(_line(e, shape, owner, shape.a_registers, 1))
    sums = _accumulators(e, instr, shape)
    for index in range(4):
        row, column_values = rows[index // 2], columns[index % 2]
        for x, y in zip(row, column_values, strict=True):
            sums[index] = b.intrinsic("llvm.fma", x, y, sums[index])
    _write_result(e, instr, shape, sums)


def _accumulators(e: Emitter, instr: ast.Instr, shape: Shape) -> list[Val]:
    operand = instr.args[3]
    if not isinstance(operand, ast.Vec):
        raise unsupported(instr)
    if shape.accumulator.bits == 32:
        return [e.read(item, shape.accumulator) for item in operand.items[:4]]
    half = Shape(shape.depth, TYPES["f16"], shape.accumulator)
    return [v for item in operand.items[:2] for v in _elements(e, e.read(item, B32), half)]


def _write_result(e: Emitter, instr: ast.Instr, shape: Shape, sums: list[Val]) -> None:
    b = e.b
    dest = instr.args[0]
    if not isinstance(dest, ast.Vec):
        raise unsupported(instr)
    if shape.accumulator.bits == 32:
        for item, value in zip(dest.items, sums, strict=True):
            e.write(item, value, shape.accumulator)
        return
    for item, low, high in zip(dest.items, sums[::2], sums[1::2], strict=True):
        words = [b.resize(b.as_int(narrow(e, v, TYPES["f16"])), "i32", False) for v in (low, high)]
        packed = b.binary("or", words[0], b.binary("shl", words[1], const(16, "i32")))
        e.write(item, packed, B32)


@emits("ldmatrix", forms=".sync.aligned.m8n8, .x1 .x2 .x4, .trans, b16; shared and generic")
def load_matrix(e: Emitter, instr: ast.Instr) -> None:
    """Emits ldmatrix: lane 8 * m + r has offered row r of matrix m, four elements in a word."""
    b = e.b
    dest = instr.args[0]
    items = dest.items if isinstance(dest, ast.Vec) else (dest,)
    if len(items) != matrices(instr):
        raise unsupported(instr, "the destination does not fit")
    start = warp_start(e)
    lane = e.special_value("laneid")
    group = b.binary("lshr", lane, const(2, "i32"))
    place = b.binary("shl", b.binary("and", lane, const(3, "i32")), const(1, "i32"))

    def element(row: Val, column: Val) -> Val:
        thread = b.binary("add", start, row)
        second = b.compare("icmp uge", column, const(4, "i32"))
        word = b.select(second, take(e, thread, 1), take(e, thread, 0))
        at = b.binary("shl", b.binary("and", column, const(3, "i32")), const(4, "i32"))
        bits = b.binary("lshr", word, b.resize(at, "i64", False))
        return b.binary("and", b.resize(bits, "i32", False), const(0xFFFF, "i32"))

    for index, item in enumerate(items):
        parts = []
        for k in (0, 1):
            near = b.binary("add", place, const(k, "i32"))
            row, column = (near, group) if "trans" in instr.mods else (group, near)
            parts.append(element(b.binary("add", row, const(8 * index, "i32")), column))
        high = b.binary("shl", parts[1], const(16, "i32"))
        e.write(item, b.binary("or", parts[0], high), B32)


@emits("stmatrix", forms=".sync.aligned.m8n8, .x1 .x2 .x4, .trans, b16; shared")
def store_matrix(e: Emitter, instr: ast.Instr) -> None:
    """Emits stmatrix: lane 8 * m + r stores row r of matrix m, of which four lanes have a pair."""
    b = e.b
    count = matrices(instr)
    items = instr.args[1].items if isinstance(instr.args[1], ast.Vec) else (instr.args[1],)
    # Which memory a launch stores to is known beforehand (execution/kernels) by its spaces.
    if len(items) != count or not any(m.split("::")[0] == "shared" for m in instr.mods):
        raise unsupported(instr)
    start = warp_start(e)
    lane = e.special_value("laneid")
    matrix = b.binary("lshr", lane, const(3, "i32"))
    line = b.binary("and", lane, const(7, "i32"))

    def element(row: Val, column: Val) -> Val:
        owner = b.binary("shl", row, const(2, "i32"))
        owner = b.binary("add", owner, b.binary("lshr", column, const(1, "i32")))
        owner = b.binary("add", start, owner)
        word = take(e, owner, 0)
        for number in range(1, count):
            mine = b.compare("icmp eq", matrix, const(number, "i32"))
            word = b.select(mine, take(e, owner, number), word)
        at = b.binary("shl", b.binary("and", column, const(1, "i32")), const(4, "i32"))
        return b.resize(b.binary("lshr", word, b.resize(at, "i64", False)), "i16", False)

    values = []
    for index in range(8):
        place = const(index, "i32")
        values.append(element(place, line) if "trans" in instr.mods else element(line, place))
    e.mask = b.compare("icmp ult", lane, const(8 * count, "i32"))
    store_values(e, instr.args[0], "shared", values, TYPES["b16"])
