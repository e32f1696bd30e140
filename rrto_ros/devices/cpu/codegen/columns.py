"""Loads of neighbouring elements by lanes that lie apart: a few elements per lane, dealt out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.codegen.table import emit
from rrto_ros.devices.cpu.passes.columns import WIDTH, Columns, strided_type
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType

_WORD = 1 << 32


def load_columns(e: Emitter, instrs: Sequence[ast.Instr], group: Columns) -> None:
    """Emits WIDTH loads of one element; `instrs` are sorted by address."""
    kind = strided_type(instrs[0], e.affine)
    assert kind is not None

    def apart() -> list[Val]:
        for instr in instrs:
            emit(e, instr)
        return [e.read(instr.args[0], kind) for instr in instrs]

    e.instr, e.mask, e.first = instrs[0], None, False
    for instr in instrs:
        e.look_at_alignment(instr.args[1], "global", kind.bytes)
    values = dealt(e, instrs[0].args[1], "global", kind, (group.first, group.last), apart)
    for instr, value in zip(instrs, values, strict=True):
        e.write(instr.args[0], value, kind)


def dealt(
    e: Emitter,
    operand: ast.Operand,
    space: str,
    kind: PtxType,
    reach: tuple[int, int],
    apart: Callable[[], list[Val]],
) -> list[Val]:
    """WIDTH elements per lane from `operand` on, as WIDTH values of all lanes.

    Args:
        e: The emitter.
        operand: Address of the first element, affine.
        space: Its state space.
        kind: Type of an element.
        reach: How far the 32-bit values behind the others' addresses lie from the first's.
        apart: Emits the same lane by lane, for where a 32-bit value wraps.
    """
    b = e.b
    assert isinstance(operand, ast.Addr)
    assert isinstance(operand.base, ast.Reg)
    affine = e.affine[operand.base.name]
    e.first = True
    pointer = e.pointer(operand, space)
    e.first = False
    if affine.exact:
        return _transposed(e, pointer, affine.stride, kind)
    lanes = affine.root * (b.lanes - 1)
    least, most = min(0, lanes) + min(0, reach[0]), max(0, lanes) + max(0, reach[1])
    low = -(_WORD >> 1) if affine.signed else 0
    root = b.resize(e.root(operand.base.name), "i64", affine.signed)
    above = b.compare("icmp sge", root, const(low - least, "i64"))
    below = b.compare("icmp slt", root, const(low + _WORD - most, "i64"))
    good = b.binary("and", above, below)
    fast, slow, done = b.new_label("near"), b.new_label("far"), b.new_label("dealt")
    fast_end, slow_end = b.new_label("near"), b.new_label("far")
    b.line(f"br i1 {good.text}, label %{fast}, label %{slow}, !prof !0")
    b.label(fast)
    quick = _transposed(e, pointer, affine.stride, kind)
    b.line(f"br label %{fast_end}")
    b.label(fast_end)
    b.line(f"br label %{done}")
    b.label(slow)
    with e.aside():
        others = [b.widen(v) for v in apart()]
    b.line(f"br label %{slow_end}")
    b.label(slow_end)
    b.line(f"br label %{done}")
    b.label(done)
    values = []
    for one, other in zip(quick, others, strict=True):
        out = b.name("v")
        b.line(
            f"{out} = phi {b.of(one)} [ {one.text}, %{fast_end} ], [ {other.text}, %{slow_end} ]"
        )
        values.append(Val(out, one.type, True))
    return values


def _transposed(e: Emitter, pointer: Val, stride: int, kind: PtxType) -> list[Val]:
    """Loads WIDTH elements at each of lanes places `stride` bytes apart; one value per column."""
    b = e.b
    type_ = kind.llvm_int if kind.llvm == "half" else kind.llvm
    rows = []
    for lane in range(b.lanes):
        where = e.offset(pointer, const(lane * stride, "i64")) if lane else pointer
        out = b.name("row")
        b.line(f"{out} = load <{WIDTH} x {type_}>, ptr {where.text}, align 1")
        rows.append(out)
    # Vector i holds rows i, i + 4, ... side by side; then blocks of 4 x 4 are turned.
    quarters = [_joined(e, rows[i::WIDTH], type_) for i in range(WIDTH)]
    count = b.lanes // WIDTH
    low, high = [], []
    for first, second in ((quarters[0], quarters[1]), (quarters[2], quarters[3])):
        low.append(_mixed(e, first, second, type_, count, ((0, 0), (1, 0), (0, 1), (1, 1))))
        high.append(_mixed(e, first, second, type_, count, ((0, 2), (1, 2), (0, 3), (1, 3))))
    columns = [
        _mixed(e, first, second, type_, count, ((0, at), (0, at + 1), (1, at), (1, at + 1)))
        for first, second in (low, high)
        for at in (0, 2)
    ]
    return [b.bitcast(Val(c, type_, True), kind.llvm) for c in columns]


def _joined(e: Emitter, parts: list[str], type_: str) -> str:
    """Vectors of WIDTH one behind the other."""
    width = WIDTH
    while len(parts) > 1:
        picks = ", ".join(f"i32 {i}" for i in range(2 * width))
        joined = []
        for one, other in zip(parts[::2], parts[1::2], strict=True):
            out = e.b.name("row")
            e.b.line(
                f"{out} = shufflevector <{width} x {type_}> {one}, <{width} x {type_}> "
                f"{other}, <{2 * width} x i32> <{picks}>"
            )
            joined.append(out)
        parts, width = joined, 2 * width
    return parts[0]


def _mixed(
    e: Emitter,
    one: str,
    other: str,
    type_: str,
    count: int,
    picks: tuple[tuple[int, int], ...],
) -> str:
    """The same choice (vector, element) in each of `count` blocks of WIDTH."""
    width = WIDTH * count
    mask = ", ".join(
        f"i32 {which * width + block * WIDTH + at}"
        for block in range(count)
        for which, at in picks
    )
    out = e.b.name("col")
    e.b.line(
        f"{out} = shufflevector <{width} x {type_}> {one}, <{width} x {type_}> {other}, "
        f"<{width} x i32> <{mask}>"
    )
    return out
