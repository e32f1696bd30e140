"""Loads, stores and address conversions.

Over 400 lines: loads and stores mirror each other, as scalars, rows and gathers.
"""

from __future__ import annotations

from collections.abc import Sequence

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.checks import checked
from rrto_ros.devices.cpu.codegen.columns import dealt
from rrto_ros.devices.cpu.codegen.emitter import U64, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.passes.accesses import access_of
from rrto_ros.devices.cpu.passes.columns import WIDTH, strided_type
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType


def access(instr: ast.Instr) -> tuple[str, PtxType, int, bool]:
    """(space, element type, elements, volatile) of a load or store."""
    space, kind, count, volatile = access_of(instr)
    if kind is None:
        raise unsupported(instr, "no type")
    return space, kind, count, volatile


def _memory_type(kind: PtxType) -> str:
    return kind.llvm


@emits(
    "ld",
    "ldu",
    forms="param, global, shared, local, const, generic; .v2 .v4 .v8; .nc, "
    ".volatile, cache hints; 8 to 64 bits",
)
def load(e: Emitter, instr: ast.Instr) -> None:
    """Emits ld and ldu."""
    space, kind, count, volatile = access(instr)
    if volatile:
        _keep_order(e)
    dests = instr.args[0].items if isinstance(instr.args[0], ast.Vec) else (instr.args[0],)
    if len(dests) != count or kind.name == "pred":
        raise unsupported(instr, "the destination does not fit")
    if (
        count == WIDTH
        and e.b.lanes > 1
        and strided_type(instr, e.affine) is not None
        and (e.row(instr.args[1], space, kind.bytes * count) is None)
    ):
        e.look_at_alignment(instr.args[1], space, kind.bytes * count)
        values = dealt(
            e,
            instr.args[1],
            space,
            kind,
            (0, 0),
            lambda: _gather_all(e, e.pointer(instr.args[1], space), kind, count),
        )
    else:
        values = load_values(e, instr.args[1], space, kind, count, volatile=volatile)
    if e.on_stack(instr.args[1]):
        # What was never written has some value, and the same one for whoever looks at it.
        values = [e.b.freeze(v) for v in values]
    if "acquire" in instr.mods:
        e.b.line("fence acquire")
    for dest, value in zip(dests, values, strict=True):
        e.write(dest, value, kind)


def _keep_order(e: Emitter) -> None:
    """Others may change what is read: LLVM keeps no values and moves no accesses over this."""
    e.b.line('fence syncscope("singlethread") seq_cst')


def load_values(
    e: Emitter,
    operand: ast.Operand,
    space: str,
    kind: PtxType,
    count: int,
    *,
    volatile: bool = False,
) -> list[Val]:
    """`count` neighbouring elements, under the instruction's guard."""
    e.look_at_alignment(operand, space, kind.bytes * count)
    row = e.row(operand, space, kind.bytes * count)
    if row is not None:
        return _load_side_by_side(e, operand, space, kind, count, row)
    pointer = e.pointer(operand, space)
    if pointer.vec or (e.mask is not None and e.mask.vec):
        return _gather_all(e, pointer, kind, count)
    return _load_scalar(e, pointer, kind, count, volatile)


def _load_scalar(e: Emitter, pointer: Val, kind: PtxType, count: int, volatile: bool) -> list[Val]:
    b = e.b
    if e.mask is not None:
        # A load that must not happen reads the scratch line instead: no branch is needed.
        pointer = b.select(e.mask, pointer, Val("%scratch", "ptr"))
    pointer = checked(e, pointer, kind.bytes * count, writes=False)
    type_ = _memory_type(kind)
    flag = "volatile " if volatile else ""
    out = b.name("v")
    if count == 1:
        b.line(f"{out} = load {flag}{type_}, ptr {pointer.text}, align 1")
        return [Val(out, type_)]
    b.line(f"{out} = load {flag}<{count} x {type_}>, ptr {pointer.text}, align 1")
    values = []
    for index in range(count):
        item = b.name("v")
        b.line(f"{item} = extractelement <{count} x {type_}> {out}, i32 {index}")
        values.append(Val(item, type_))
    return values


def _mask_of(e: Emitter) -> Val:
    return e.b.widen(e.mask if e.mask is not None else Val("true", "i1"))


def _gather_all(e: Emitter, pointer: Val, kind: PtxType, count: int) -> list[Val]:
    pointer, mask = e.b.widen(pointer), _mask_of(e)
    return [
        _gather(
            e,
            e.offset(pointer, const(i * kind.bytes, "i64")) if i else pointer,
            _memory_type(kind),
            mask,
        )
        for i in range(count)
    ]


def _load_side_by_side(
    e: Emitter,
    operand: ast.Operand,
    space: str,
    kind: PtxType,
    count: int,
    row: tuple[Val, Val | None],
) -> list[Val]:
    b = e.b
    first, condition = row
    type_ = _memory_type(kind)
    if condition is None:
        return _load_row(e, first, type_, count, _mask_of(e))
    fast, slow, done = b.new_label("fast"), b.new_label("slow"), b.new_label("done")
    b.line(f"br i1 {condition.text}, label %{fast}, label %{slow}")
    b.label(fast)
    quick = _load_row(e, first, type_, count, _mask_of(e))
    b.line(f"br label %{done}")
    b.label(slow)
    with e.aside():
        others = _gather_all(e, e.pointer(operand, space), kind, count)
    b.line(f"br label %{done}")
    b.label(done)
    values = []
    for one, other in zip(quick, others, strict=True):
        out = b.name("v")
        b.line(f"{out} = phi {b.of(one)} [ {one.text}, %{fast} ], [ {other.text}, %{slow} ]")
        values.append(Val(out, type_, True))
    return values


def _load_row(e: Emitter, first: Val, type_: str, count: int, mask: Val) -> list[Val]:
    """Loads lanes * count neighbouring elements and deals them out to `count` values."""
    b = e.b
    total = b.lanes * count
    out = b.name("v")
    if e.mask is None:
        b.line(f"{out} = load <{total} x {type_}>, ptr {first.text}, align 1")
    else:
        wide = _repeat_mask(e, mask, count)
        name = f"llvm.masked.load.v{total}{_suffix(type_)}.p0"
        vector = f"<{total} x {type_}>"
        b.declared[name] = f"declare {vector} @{name}(ptr, <{total} x i1>, {vector})"
        b.line(
            f"{out} = call {vector} @{name}(ptr align 1 {first.text}, <{total} x i1> {wide}, "
            f"{vector} zeroinitializer)"
        )
    if count == 1:
        return [Val(out, type_, True)]
    values = []
    for index in range(count):
        item = b.name("v")
        picks = ", ".join(f"i32 {lane * count + index}" for lane in range(b.lanes))
        b.line(
            f"{item} = shufflevector <{total} x {type_}> {out}, <{total} x {type_}> poison, "
            f"<{b.lanes} x i32> <{picks}>"
        )
        values.append(Val(item, type_, True))
    return values


def _repeat_mask(e: Emitter, mask: Val, count: int) -> str:
    if count == 1:
        return mask.text
    b = e.b
    out = b.name("m")
    picks = ", ".join(f"i32 {i // count}" for i in range(b.lanes * count))
    b.line(
        f"{out} = shufflevector <{b.lanes} x i1> {mask.text}, <{b.lanes} x i1> poison, "
        f"<{b.lanes * count} x i32> <{picks}>"
    )
    return out


def _suffix(type_: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16"}.get(type_, type_)


def _gather(e: Emitter, pointer: Val, type_: str, mask: Val) -> Val:
    b = e.b
    lanes = b.lanes
    name = f"llvm.masked.gather.v{lanes}{_suffix(type_)}.v{lanes}p0"
    vector = f"<{lanes} x {type_}>"
    b.declared[name] = f"declare {vector} @{name}(<{lanes} x ptr>, <{lanes} x i1>, {vector})"
    out = b.name("v")
    b.line(
        f"{out} = call {vector} @{name}(<{lanes} x ptr> align 1 {pointer.text}, "
        f"<{lanes} x i1> {mask.text}, {vector} zeroinitializer)"
    )
    return Val(out, type_, True)


@emits(
    "st",
    forms="param, global, shared, local, generic; .v2 .v4 .v8; .volatile, cache hints; "
    "8 to 64 bits",
)
def store(e: Emitter, instr: ast.Instr) -> None:
    """Emits st."""
    space, kind, count, volatile = access(instr)
    if space == "const" or kind.name == "pred":
        raise unsupported(instr)
    items = instr.args[1].items if isinstance(instr.args[1], ast.Vec) else (instr.args[1],)
    if len(items) != count:
        raise unsupported(instr, "the source does not fit")
    values = [e.read(item, kind) for item in items]
    if "release" in instr.mods:
        e.b.line("fence release")
    store_values(e, instr.args[0], space, values, kind, volatile=volatile)
    if volatile:
        _keep_order(e)


def store_values(
    e: Emitter,
    operand: ast.Operand,
    space: str,
    values: list[Val],
    kind: PtxType,
    *,
    volatile: bool = False,
) -> None:
    """Neighbouring elements, under the instruction's guard."""
    mask = e.mask
    e.look_at_alignment(operand, space, kind.bytes * len(values))
    row = e.row(operand, space, kind.bytes * len(values))
    if row is not None:
        _store_side_by_side(e, operand, space, values, kind, row)
        return
    pointer = e.pointer(operand, space)
    if pointer.vec or (mask is not None and mask.vec):
        _scatter(e, pointer, values, kind)
        return
    if any(v.vec for v in values):
        # Every lane writes the same place: the last lane's value stays, as in lane order.
        values = [e.b.lane(v, e.b.lanes - 1) for v in values]
    e.when(mask, lambda: _store_scalar(e, pointer, values, volatile))


def _store_scalar(e: Emitter, pointer: Val, values: Sequence[Val], volatile: bool) -> None:
    b = e.b
    size = sum(max(8, v.bits) for v in values) // 8
    pointer = checked(e, pointer, size, writes=True)
    flag = "volatile " if volatile else ""
    if len(values) == 1:
        b.line(f"store {flag}{b.arg(values[0])}, ptr {pointer.text}, align 1")
        return
    type_, count = values[0].type, len(values)
    text = "poison"
    for index, value in enumerate(values):
        out = b.name()
        b.line(
            f"{out} = insertelement <{count} x {type_}> {text}, {type_} {value.text}, i32 {index}"
        )
        text = out
    b.line(f"store {flag}<{count} x {type_}> {text}, ptr {pointer.text}, align 1")


def _store_side_by_side(
    e: Emitter,
    operand: ast.Operand,
    space: str,
    values: list[Val],
    kind: PtxType,
    row: tuple[Val, Val | None],
) -> None:
    b = e.b
    first, condition = row
    values = [b.widen(v) for v in values]
    if condition is None:
        _store_row(e, first, values, _mask_of(e))
        return
    fast, slow, done = b.new_label("fast"), b.new_label("slow"), b.new_label("done")
    b.line(f"br i1 {condition.text}, label %{fast}, label %{slow}")
    b.label(fast)
    _store_row(e, first, values, _mask_of(e))
    b.line(f"br label %{done}")
    b.label(slow)
    with e.aside():
        _scatter(e, e.pointer(operand, space), values, kind)
    b.line(f"br label %{done}")
    b.label(done)


def _scatter(e: Emitter, pointer: Val, values: list[Val], kind: PtxType) -> None:
    b = e.b
    pointer, mask = b.widen(pointer), _mask_of(e)
    values = [b.widen(v) for v in values]
    lanes, type_ = b.lanes, values[0].type
    name = f"llvm.masked.scatter.v{lanes}{_suffix(type_)}.v{lanes}p0"
    vector = f"<{lanes} x {type_}>"
    b.declared[name] = f"declare void @{name}({vector}, <{lanes} x ptr>, <{lanes} x i1>)"
    for index, value in enumerate(values):
        where = e.offset(pointer, const(index * kind.bytes, "i64")) if index else pointer
        b.line(
            f"call void @{name}({vector} {value.text}, <{lanes} x ptr> align 1 {where.text}, "
            f"<{lanes} x i1> {mask.text})"
        )


def _store_row(e: Emitter, first: Val, values: list[Val], mask: Val) -> None:
    b = e.b
    lanes, count, type_ = b.lanes, len(values), values[0].type
    total = lanes * count
    text = values[0].text
    if count > 1:
        text = _interleave(e, values)
    vector = f"<{total} x {type_}>"
    if e.mask is None:
        b.line(f"store {vector} {text}, ptr {first.text}, align 1")
        return
    name = f"llvm.masked.store.v{total}{_suffix(type_)}.p0"
    b.declared[name] = f"declare void @{name}({vector}, ptr, <{total} x i1>)"
    b.line(
        f"call void @{name}({vector} {text}, ptr align 1 {first.text}, "
        f"<{total} x i1> {_repeat_mask(e, mask, count)})"
    )


def _interleave(e: Emitter, values: list[Val]) -> str:
    """Concatenates the vectors and deals them into memory order."""
    b = e.b
    type_, count, lanes = values[0].type, len(values), b.lanes
    parts = [v.text for v in values]
    width = lanes
    while len(parts) > 1:
        joined = []
        for index in range(0, len(parts), 2):
            out = b.name()
            picks = ", ".join(f"i32 {i}" for i in range(2 * width))
            b.line(
                f"{out} = shufflevector <{width} x {type_}> {parts[index]}, "
                f"<{width} x {type_}> {parts[index + 1]}, <{2 * width} x i32> <{picks}>"
            )
            joined.append(out)
        parts, width = joined, 2 * width
    out = b.name()
    picks = ", ".join(f"i32 {(i % count) * lanes + i // count}" for i in range(width))
    b.line(
        f"{out} = shufflevector <{width} x {type_}> {parts[0]}, <{width} x {type_}> poison, "
        f"<{width} x i32> <{picks}>"
    )
    return out


@emits("cvta", forms="to and from global, shared, local, const, param")
def cvta(e: Emitter, instr: ast.Instr) -> None:
    """Emits cvta."""
    mods = [m.split("::")[0] for m in instr.mods]
    value = e.read(instr.args[1], U64)
    if isinstance(instr.args[1], ast.Sym):
        placed = e.layout.symbols.get(instr.args[1].name)
        if placed is not None and placed.var.space == "shared" and "to" not in mods:
            value = const(placed.offset + instr.args[1].offset, "i64")
    if "shared" in mods:
        base = e.b.cast("ptrtoint", Val("%shared", "ptr"), "i64")
        value = e.b.binary("sub" if "to" in mods else "add", value, base)
    e.write(instr.args[0], value, U64)


@emits("isspacep", forms="shared, global, local, const, param")
def isspacep(e: Emitter, instr: ast.Instr) -> None:
    """Emits isspacep."""
    b = e.b
    address = e.read(instr.args[1], U64)
    base = b.cast("ptrtoint", Val("%shared", "ptr"), "i64")
    inside = b.compare("icmp ult", b.binary("sub", address, base), const(1 << 18, "i64"))
    space = instr.mods[0].split("::")[0]
    if space == "global":
        inside = b.binary("xor", inside, const(1, "i1"))
    elif space != "shared":
        raise unsupported(instr)
    e.put(instr.args[0].name, inside)  # type: ignore[union-attr]


@emits("prefetch", "prefetchu", "discard", "applypriority", forms="all (no effect)")
def prefetch(e: Emitter, instr: ast.Instr) -> None:
    """Hints: nothing to do."""


@emits("membar", "fence", forms="all scopes")
def fence(e: Emitter, instr: ast.Instr) -> None:  # noqa: ARG001
    """Orders memory between the worker threads."""
    e.b.line("fence seq_cst")
