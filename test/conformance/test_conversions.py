"""Every conversion with every rounding and saturation, against whole fractions.

One kernel for each pair of types holds all forms of cvt between them. The reference knows nothing
of NumPy's conversions: a value is a fraction, rounded to the bits that the format has.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from support.exact_floats import FLOATS, INF, NAN, Format, Value, decoded, encoded, whole

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
MODES = ("rn", "rz", "rm", "rp")
COUNT = 256


def integral(value: Value, mode: str) -> Value:
    negative, x = value
    return value if isinstance(x, str) else (negative, Fraction(whole(x, mode[:2], negative)))


def flushed(value: Value) -> Value:
    negative, x = value
    return (negative, Fraction(0)) if not isinstance(x, str) and x < Fraction(1, 2**126) else value


def saturated(value: Value) -> Value:
    negative, x = value
    if x == NAN or negative or x == 0:
        return False, Fraction(0)
    return False, Fraction(1) if x == INF else min(x, Fraction(1))


def rectified(value: Value) -> Value:
    return (False, Fraction(0)) if value[0] and value[1] != NAN else value


def to_integer(value: Value, kind: str, source: Format) -> int:
    negative, x = value
    bits = int(kind[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    if x == NAN:
        return 1 << bits - 1 if 64 in (bits, source.bits) else 0
    if x == INF:
        number = low if negative else high
    else:
        number = min(max(-int(x) if negative else int(x), low), high)
    return number % (1 << bits)


def converted(bits: int, to: str, source: str, mods: tuple[str, ...]) -> int:
    """What cvt with modifiers gives for the bits of a source."""
    if source in FLOATS:
        value = decoded(bits, FLOATS[source])
    else:
        width = int(source[1:])
        number = bits - (1 << width) if source[0] == "s" and bits >> width - 1 else bits
        value = number < 0, Fraction(abs(number))
    mode = mods[0] if mods and mods[0][0] == "r" and mods[0] != "relu" else "rn"
    if "ftz" in mods and source == "f32":
        value = flushed(value)
    if mode.endswith("i"):
        value, mode = integral(value, mode), "rn"
    if to not in FLOATS:
        return to_integer(value, to, FLOATS[source])
    if "sat" in mods:
        value = saturated(value)
    if "relu" in mods:
        value = rectified(value)
    result = encoded(value, FLOATS[to], mode)
    if "ftz" in mods and to == "f32":
        result = encoded(flushed(decoded(result, FLOATS[to])), FLOATS[to], "rn")
    return result


def alike(got: int, want: int, kind: str, mods: tuple[str, ...]) -> bool:
    """Equal bits; NaN may have any payload, and nothing says which zero .relu makes of -0."""
    if got == want or kind not in FLOATS:
        return got == want
    (_, a), (_, b) = decoded(got, FLOATS[kind]), decoded(want, FLOATS[kind])
    return a == b and (a == NAN or (a == 0 and "relu" in mods))


def width(kind: str) -> int:
    return FLOATS[kind].bits if kind in FLOATS else int(kind[1:])


def inputs(kind: str) -> list[int]:
    """Bits of awkward and random values; the random floats are of every size."""
    bits = width(kind)
    rng = np.random.default_rng(sum(kind.encode()))
    edges = [
        0,
        1,
        2,
        3,
        127,
        128,
        129,
        255,
        256,
        257,
        2047,
        2048,
        2049,
        65503,
        65504,
        65519,
        65520,
        1 << 24,
        (1 << 24) + 1,
        (1 << 25) + 2,
        (1 << 25) + 3,
        (1 << 53) + 1,
        (1 << 54) + 3,
    ]
    if kind not in FLOATS:
        values = [s * e for e in edges for s in (1, -1)]
        values += [(1 << p) + d for p in range(bits) for d in (-1, 0, 1)]
        values += [
            int.from_bytes(rng.bytes(8), "little") >> int(rng.integers(0, 64))
            for _ in range(COUNT)
        ]
        # Ties: halfway between two numbers of 8, 11, 24 or 53 bits, and one beside them.
        ties = [
            (2 * int(rng.integers(1 << p - 1, 1 << p)) + 1 << s) + d
            for p in (8, 11, 24, 53)
            for s in (0, 3, 7)
            for d in (-1, 0, 1)
        ]
        return [v % (1 << bits) for v in [*ties, *values]][-COUNT:]
    form = FLOATS[kind]
    numbers = [Fraction(e) / 2 for e in edges] + [
        Fraction(e, 1 << k) for e in (1, 3, 5, 255) for k in (8, 24, 25, 126, 133, 134, 149, 150)
    ]
    numbers += [
        Fraction(1 << p) + d
        for p in (7, 8, 15, 16, 31, 32, 63, 64)
        for d in (Fraction(-1), Fraction(-1, 2), Fraction(1, 2))
    ]
    fixed = [encoded((s, x), form, "rn") for x in numbers for s in (False, True)]
    fixed += [form.infinity, form.infinity | 1 << bits - 1, form.infinity + 5, form.infinity - 1]
    wild = [int.from_bytes(rng.bytes(8), "little") % (1 << bits) for _ in range(24)]
    sizes = zip(
        rng.integers(1, 1 << 62, COUNT).tolist(),
        rng.integers(40, 100, COUNT).tolist(),
        strict=True,
    )
    tame = [encoded((bool(n & 1), Fraction(n, 1 << p)), form, "rn") for n, p in sizes]
    return [*fixed, *wild, *tame][:COUNT]


def forms(to: str, source: str) -> list[tuple[str, ...]]:
    """All modifiers that cvt takes between two types."""
    found: list[tuple[str, ...]] = []
    if to in FLOATS and source in FLOATS:
        narrows = FLOATS[to].precision < FLOATS[source].precision or (
            FLOATS[to].top < FLOATS[source].top
        )
        found = [(m,) for m in MODES] if narrows else [()]
        if to == source:
            found = [("rni",), ("rzi",), ("rmi",), ("rpi",)]
        if "bf16" not in (to, source):
            found += [(*f, "sat") for f in found]
        if "f32" in (to, source) and "bf16" not in (to, source):
            found += [(*f[:1], "ftz", *f[1:]) for f in found if f[:1] != ("sat",)]
        if source == "f32" and width(to) == 16:
            found += [("rn", "relu"), ("rz", "relu")]
    elif to in FLOATS:
        found = [(m,) for m in MODES]
        if to != "bf16":
            found += [("rn", "sat"), ("rz", "sat")]
    else:
        found = [("rni",), ("rzi",), ("rmi",), ("rpi",)]
        if source != "bf16":
            found.append(("rzi", "sat"))
        if source == "f32":
            found.append(("rni", "ftz"))
    return found


def listing(to: str, source: str, all_mods: list[tuple[str, ...]]) -> str:
    """A kernel that writes what each form makes of an element, one array after the other."""
    here, there = width(source), width(to)
    # Only between bf16 and 8 bits must the register have the size of the value.
    byte = "b8" if "bf16" in (to, source) else "b16"
    into = {8: byte, 16: "b16", 32: "b32", 64: "b64"}
    lines = [
        ".version 8.6",
        ".target sm_90",
        ".address_size 64",
        ".visible .entry k(.param .u64 from, .param .u64 out)",
        "{",
        f".reg .b32 i; .reg .b64 base, at; .reg .{into[here]} a; .reg .{into[there]} d;",
        "mov.u32 i, %tid.x; ld.param.u64 base, [from];",
        f"mad.wide.u32 at, i, {here // 8}, base; ld.global.b{here} a, [at];",
        f"ld.param.u64 base, [out]; mad.wide.u32 at, i, {there // 8}, base;",
    ]
    for number, mods in enumerate(all_mods):
        lines.append(
            f"cvt.{'.'.join([*mods, to, source])} d, a; "
            f"st.global.b{there} [at+{number * COUNT * there // 8}], d;"
        )
    return "\n".join([*lines, "ret;", "}", ""])


PAIRS = [
    (to, source)
    for to in (*FLOATS, *INTEGERS)
    for source in (*FLOATS, *INTEGERS)
    if to in FLOATS or source in FLOATS
]


@pytest.mark.parametrize(("to", "source"), PAIRS, ids=lambda x: x)
def test_every_rounding_gives_the_exact_result(harness, to, source):
    data = inputs(source)
    assert len(data) == COUNT
    array = np.array(data, f"u{width(source) // 8}")
    all_mods = forms(to, source)
    out = np.zeros((len(all_mods), COUNT), f"u{width(to) // 8}")
    loaded = harness.load(listing(to, source, all_mods))
    got = harness.launch(loaded, "k", (1, 1, 1), (COUNT, 1, 1), [array, out])[1].tolist()
    wrong = []
    for mods, row in zip(all_mods, got, strict=True):
        for bits, result in zip(data, row, strict=True):
            want = converted(bits, to, source, mods)
            if not alike(result, want, to, mods):
                wrong.append((mods, hex(bits), hex(result), hex(want)))
    assert not wrong, (len(wrong), wrong[:5])


PAIRED = [
    ("f16x2", "f16", ("rn",)),
    ("f16x2", "f16", ("rz",)),
    ("f16x2", "f16", ("rn", "relu")),
    ("bf16x2", "bf16", ("rn",)),
    ("bf16x2", "bf16", ("rz",)),
    ("bf16x2", "bf16", ("rz", "relu")),
]


@pytest.mark.parametrize(("pair", "half", "mods"), PAIRED, ids=str)
def test_two_floats_become_a_pair(harness, pair, half, mods):
    data = inputs("f32")
    text = listing("f32", "f32", [()]).replace(
        "cvt.f32.f32 d, a",
        f".reg .b32 b; xor.b32 b, a, 0x80000000; cvt.{'.'.join(mods)}.{pair}.f32 d, a, b",
    )
    got = harness.launch(
        harness.load(text),
        "k",
        (1, 1, 1),
        (COUNT, 1, 1),
        [np.array(data, np.uint32), np.zeros(COUNT, np.uint32)],
    )[1].tolist()
    for bits, result in zip(data, got, strict=True):
        for value, part in ((bits, result >> 16), (bits ^ 1 << 31, result & 0xFFFF)):
            want = converted(value, half, "f32", mods)
            assert alike(part, want, half, mods), (hex(bits), hex(result))


@pytest.mark.parametrize("mode", ["rna", "rn", "rz"])
def test_tf32_keeps_ten_fraction_bits(harness, mode):
    data = inputs("f32")
    text = listing("f32", "f32", [()]).replace("cvt.f32.f32", f"cvt.{mode}.tf32.f32")
    got = harness.launch(
        harness.load(text),
        "k",
        (1, 1, 1),
        (COUNT, 1, 1),
        [np.array(data, np.uint32), np.zeros(COUNT, np.uint32)],
    )[1].tolist()
    for bits, result in zip(data, got, strict=True):
        negative, x = decoded(bits, FLOATS["f32"])
        if not isinstance(x, str):
            # The same exponents as binary32, subnormal ones included.
            low = bits & 0x7FFFFFFF
            want = whole(Fraction(low, 1 << 13), mode, negative) << 13 | negative << 31
            assert result == want, (hex(bits), hex(result), hex(want))
        elif x == INF:
            assert result == bits
        else:
            assert decoded(result, FLOATS["f32"])[1] == NAN
