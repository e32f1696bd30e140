"""Arithmetic of f16 and bf16, single and in pairs, against whole fractions rounded once."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from support.exact_floats import FLOATS, INF, NAN, decoded, encoded

COUNT = 256
OPERANDS = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "min": 2, "max": 2, "abs": 1, "neg": 1}


def number(bits: int, kind: str) -> float:
    negative, x = decoded(bits, FLOATS[kind])
    size = math.inf if x == INF else math.nan if x == NAN else float(x)
    return -size if negative else size


def exactly(op: str, a: list[float]) -> tuple[bool, Fraction | str]:
    """The value before it is rounded; doubles are right about its sign and what is not finite."""
    if op in ("min", "max"):
        numbers = [v for v in a if not math.isnan(v)] or [math.nan]
        pick = min if op == "min" else max
        rough = pick(numbers, key=lambda v: (v, math.copysign(1, v)))
    else:
        rough = {
            "add": lambda x, y: x + y,
            "sub": lambda x, y: x - y,
            "mul": lambda x, y: x * y,
            "fma": lambda x, y, z: x * y + z,
            "abs": abs,
            "neg": lambda x: -x,
        }[op](*a)
    negative = math.copysign(1, rough) < 0
    if math.isnan(rough):
        return False, NAN
    if math.isinf(rough):
        return negative, INF
    if op in ("add", "sub", "mul", "fma"):
        x, y, *rest = map(Fraction, a)
        exact = {"add": x + y, "sub": x - y, "mul": x * y, "fma": x * y + sum(rest)}[op]
    else:
        exact = Fraction(rough)
    return (exact < 0 if exact else negative), abs(exact)


def wanted(op: str, kind: str, mods: tuple[str, ...], bits: list[int]) -> int:
    negative, x = exactly(op, [number(b, kind) for b in bits])
    if "sat" in mods:
        above = x == INF or (x != NAN and x > 1)
        negative, x = False, Fraction(0) if x == NAN or negative else Fraction(1) if above else x
    if "relu" in mods and negative:
        negative, x = False, Fraction(0)
    return encoded((negative, x), FLOATS[kind], "rn")


def inputs(kind: str, seed: int) -> list[int]:
    """Bits of 16-bit floats: edges, any, and many of like size, whose sums and products tie."""
    rng = np.random.default_rng(seed)
    top = FLOATS[kind].infinity
    edges = [0, 1, 2, top - 1, top, top + 1, 0x3C00, 0x3F80, 0x0400, 0x0080, 0x03FF, 0x007F]
    found = [e | s for e in edges for s in (0, 1 << 15)]
    found += rng.integers(0, 1 << 16, 72).tolist()
    one = 15 << 10 if kind == "f16" else 127 << 7
    found += (rng.integers(0, 2, 160) << 15 | one + rng.integers(-900, 900, 160)).tolist()
    return rng.permutation(found).tolist()


def listing(op: str, kind: str, mods: tuple[str, ...], pairs: bool) -> str:
    bits, word = (32, "b32") if pairs else (16, "b16")
    names = "abc"[: OPERANDS[op]]
    lines = [
        ".version 8.6",
        ".target sm_90",
        ".address_size 64",
        f".visible .entry k({', '.join(f'.param .u64 p{n}' for n in (*names, 'd'))})",
        "{",
        f".reg .b32 i; .reg .b64 base, at; .reg .{word} a, b, c, d;",
        "mov.u32 i, %tid.x;",
    ]
    lines += [
        f"ld.param.u64 base, [p{name}]; mad.wide.u32 at, i, {bits // 8}, base; "
        f"ld.global.{word} {name}, [at];"
        for name in names
    ]
    lines += [
        f"{'.'.join([op, *mods, kind + ('x2' if pairs else '')])} d, {', '.join(names)};",
        f"ld.param.u64 base, [pd]; mad.wide.u32 at, i, {bits // 8}, base;",
        f"st.global.{word} [at], d; ret;",
        "}",
        "",
    ]
    return "\n".join(lines)


FORMS = [(op, kind, ()) for kind in ("f16", "bf16") for op in OPERANDS if op != "fma"]
FORMS += [("fma", kind, ("rn", *extra)) for kind in ("f16", "bf16") for extra in ((), ("relu",))]
FORMS += [(op, "f16", ("rn", "sat")) for op in ("add", "sub", "mul", "fma")]


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize(("op", "kind", "mods"), FORMS, ids=lambda form: "".join(form) or "plain")
def test_results_are_rounded_once(harness, op, kind, mods, pairs):
    data = [inputs(kind, seed) for seed in range(OPERANDS[op])]
    arrays = [np.array(d, np.uint16) for d in data]
    loaded = harness.load(listing(op, kind, mods, pairs))
    threads = COUNT // 2 if pairs else COUNT
    got = harness.launch(
        loaded, "k", (1, 1, 1), (threads, 1, 1), [*arrays, np.zeros(COUNT, np.uint16)]
    )[-1].tolist()
    for bits, result in zip(zip(*data, strict=True), got, strict=True):
        want = wanted(op, kind, mods, list(bits))
        nan = decoded(result, FLOATS[kind])[1] == NAN == decoded(want, FLOATS[kind])[1]
        either_zero = "relu" in mods and result == 1 << 15 and want == 0
        assert nan or result == want or either_zero, (list(map(hex, bits)), hex(result), hex(want))


COMPARISONS = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y and not unordered(x, y),
    "lt": lambda x, y: x < y,
    "ge": lambda x, y: x >= y,
    "equ": lambda x, y: x == y or unordered(x, y),
    "neu": lambda x, y: x != y,
    "gtu": lambda x, y: not x <= y,
    "num": lambda x, y: not unordered(x, y),
    "nan": lambda x, y: unordered(x, y),
}


def unordered(x: float, y: float) -> bool:
    return math.isnan(x) or math.isnan(y)


@pytest.mark.parametrize("result", ["pair", "u32", "setp"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_comparisons_of_pairs(harness, kind, result):
    into = "f16x2" if kind == "f16" else "bf16x2"
    into = into if result == "pair" else "u32"
    one = {"f16": 0x3C00, "bf16": 0x3F80}[kind] if result == "pair" else 0xFFFF
    data = [inputs(kind, seed) for seed in (5, 6)]
    data[1][::5] = data[0][::5]
    for name, holds in COMPARISONS.items():
        text = listing("add", kind, (), pairs=True)
        if result == "setp":
            new = (
                f".reg .pred p, q; setp.{name}.{kind}x2 p|q, a, b; selp.b32 d, 0xFFFF, 0, p; "
                "@q or.b32 d, d, 0xFFFF0000"
            )
        else:
            new = f"set.{name}.{into}.{kind}x2 d, a, b"
        text = text.replace(f"add.{kind}x2 d, a, b", new)
        got = harness.launch(
            harness.load(text),
            "k",
            (1, 1, 1),
            (COUNT // 2, 1, 1),
            [*(np.array(d, np.uint16) for d in data), np.zeros(COUNT, np.uint16)],
        )[-1].tolist()
        for x, y, value in zip(*data, got, strict=True):
            want = one if holds(number(x, kind), number(y, kind)) else 0
            assert value == want, (name, hex(x), hex(y), hex(value))
