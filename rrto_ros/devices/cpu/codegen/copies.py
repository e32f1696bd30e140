"""cp.async, done at once, and cache policies, which have no effect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, U32, U64, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.memory import load_values, store_values
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast

_WORD = 4


@emits(
    "cp",
    forms=".async.ca .async.cg from global to shared memory, 4, 8 and 16 bytes, with "
    "src-size or ignore-src, cache hints; .async.commit_group .wait_group .wait_all (copies "
    "are done at once)",
)
def copy(e: Emitter, instr: ast.Instr) -> None:
    """Emits cp.async."""
    mods = instr.mods
    if mods in (("async", "commit_group"), ("async", "wait_group"), ("async", "wait_all")):
        return
    spaces = [m.split("::")[0] for m in mods if m.split("::")[0] in ("shared", "global")]
    size = instr.args[2] if len(instr.args) > 2 else None
    if (
        mods[:1] != ("async",)
        or spaces != ["shared", "global"]
        or not ({"ca", "cg"} & set(mods))
        or not isinstance(size, ast.Imm)
        or size.value not in (4, 8, 16)
    ):
        raise unsupported(instr)
    rest = list(instr.args[3:])
    if "L2::cache_hint" in mods and rest:
        rest.pop()
    count = size.value // _WORD
    if not rest:
        values = load_values(e, instr.args[1], "global", B32, count)
    else:
        values = _some(e, instr.args[1], rest[0], count)
    store_values(e, instr.args[0], "shared", values, B32)


def _some(e: Emitter, source: ast.Operand, limit: ast.Operand, count: int) -> list[Val]:
    """The first bytes of the source, and zeros; what is not wanted is not read."""
    b = e.b
    if not isinstance(source, ast.Addr):
        raise unsupported(e.instr, "expected an address in brackets")
    if isinstance(limit, ast.Reg) and e.is_predicate(limit.name):
        ignored = e.predicate(limit, False)
        left = b.select(ignored, const(0, "i32"), const(_WORD * count, "i32"))
    elif isinstance(limit, ast.Not):
        left = b.select(
            e.predicate(limit.reg, False), const(_WORD * count, "i32"), const(0, "i32")
        )
    else:
        left = e.read(limit, U32)
    values = []
    for index in range(count):
        wanted = b.intrinsic("llvm.usub.sat", left, const(_WORD * index, "i32"))
        with _guarded(e, b.compare("icmp ne", wanted, const(0, "i32"))):
            where = ast.Addr(source.base, source.offset + _WORD * index)
            (word,) = load_values(e, where, "global", B32, 1)
        bits = b.binary(
            "shl", b.intrinsic("llvm.umin", wanted, const(_WORD, "i32")), const(3, "i32")
        )
        one = b.binary("shl", const(1, "i64"), b.resize(bits, "i64", False))
        mask = b.resize(b.binary("sub", one, const(1, "i64")), "i32", False)
        values.append(b.binary("and", word, mask))
    return values


@contextlib.contextmanager
def _guarded(e: Emitter, condition: Val) -> Iterator[None]:
    saved = e.mask
    e.mask = condition if saved is None else e.b.binary("and", saved, condition)
    yield
    e.mask = saved


@emits("createpolicy", forms="all (policies have no effect)")
def policy(e: Emitter, instr: ast.Instr) -> None:
    """Emits createpolicy."""
    if instr.mods[:1] not in (("fractional",), ("range",), ("cvt",)):
        raise unsupported(instr)
    e.write(instr.args[0], const(0, "i64"), U64)
