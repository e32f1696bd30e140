"""Single instructions over tables of awkward values, against NumPy or Python integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

DTYPES = {
    "u8": np.uint8,
    "s8": np.int8,
    "u16": np.uint16,
    "s16": np.int16,
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
    "f16": np.float16,
    "b16": np.uint16,
    "b32": np.uint32,
    "b64": np.uint64,
}
REGISTER = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}
EDGES = [0, 1, 2, 3, 5, 7, 8, 31, 32, 33, 63, 64, 65, 100, 127, 128, 255, 256, 1000]
FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    3.7,
    -3.7,
    1e-45,
    -1e-40,
    1e30,
    -1e30,
    65504.0,
    70000.0,
    1e10,
    -1e10,
    0.1,
    np.pi,
    np.inf,
    -np.inf,
    np.nan,
    126.3,
    -149.5,
    5e-8,
]


def values(kind: str, seed: int) -> np.ndarray:
    """Awkward values and random ones of a type, 128 of them."""
    dtype = np.dtype(DTYPES[kind])
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            fixed = np.array(FLOATS, np.float64).astype(dtype)
        rest = rng.standard_normal(128 - fixed.size) * 10 ** rng.uniform(-3, 3, 128 - fixed.size)
        out = np.concatenate([fixed, rest.astype(dtype)])
    else:
        bits = 8 * dtype.itemsize
        numbers = [n % 2**bits for e in EDGES for n in (e, -e, 2 ** (bits - 1) + e)]
        numbers += [int.from_bytes(rng.bytes(8), "little") % 2**bits for _ in range(71)]
        out = np.array(numbers[:128], f"u{dtype.itemsize}").view(dtype)
    return rng.permutation(out)


@dataclass(frozen=True)
class Op:
    """`text` with destination d and sources a, b, c of the given types."""

    text: str
    result: str
    sources: tuple[str, ...]
    reference: Callable[..., object]
    ulp: float = 0.0
    absolute: float = 0.0
    limits: tuple[float, float] | None = None

    @property
    def id(self) -> str:
        return self.text.split(" ")[0] + "-" + "-".join(self.sources)


def wrap(value: int, kind: str) -> int:
    bits = 8 * np.dtype(DTYPES[kind]).itemsize
    value %= 1 << bits
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def ints(text: str, result: str, sources: tuple[str, ...], f: Callable[..., int]) -> Op:
    """An integer operation; the reference works on Python integers and wraps."""

    def reference(*arrays: np.ndarray) -> np.ndarray:
        rows = zip(*(a.tolist() for a in arrays), strict=True)
        return np.array([wrap(int(f(*row)), result) for row in rows], DTYPES[result])

    return Op(text, result, sources, reference)


def c_div(x: int, y: int) -> int:
    if y == 0:
        return -1
    q = abs(x) // abs(y)
    return q if (x < 0) == (y < 0) else -q


def c_rem(x: int, y: int) -> int:
    return x if y == 0 else x - y * c_div(x, y)


def shifted(x: int, n: int, bits: int) -> int:
    return x << n if n < bits else 0


def bfe(x: int, pos: int, length: int, bits: int, signed: bool) -> int:
    pos, length = pos & 255, length & 255
    if length == 0:
        return 0
    unsigned = x % (1 << bits)
    top = (unsigned >> min(pos + length - 1, bits - 1)) & 1 if signed else 0
    out = 0
    for i in range(bits):
        bit = unsigned >> (pos + i) & 1 if i < length and pos + i < bits else top
        out |= bit << i
    return out


def bfi(a: int, b: int, pos: int, length: int, bits: int) -> int:
    pos, length = pos & 255, length & 255
    for i in range(length):
        if pos + i < bits:
            b = b & ~(1 << (pos + i)) | (a >> i & 1) << (pos + i)
    return b


def prmt(a: int, b: int, c: int) -> int:
    source = a | b << 32
    out = 0
    for i in range(4):
        pick = c >> 4 * i & 15
        byte = source >> 8 * (pick & 7) & 255
        if pick & 8:
            byte = 255 if byte & 128 else 0
        out |= byte << 8 * i
    return out


def bfind(x: int, bits: int, signed: bool) -> int:
    if signed and x < 0:
        x = ~x
    return -1 if x == 0 else (x % (1 << bits)).bit_length() - 1


def saturated(x: float, kind: str, source: str, how: Callable[[float], float]) -> int:
    info = np.iinfo(DTYPES[kind])
    if np.isnan(x):
        return 1 << info.bits - 1 if 64 in (info.bits, int(source[1:])) else 0
    if np.isinf(x):
        return info.max if x > 0 else info.min
    return int(min(max(int(how(x)), info.min), info.max))


def f2i(to: str, source: str, mode: str, how: Callable[[float], float]) -> Op:
    return ints(
        f"cvt.{mode}.{to}.{source} d, a", to, (source,), lambda x: saturated(x, to, source, how)
    )


def canonical_min(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), a, b), np.fmin(a, b))


# The exact result minus r; for sqrt something of the same sign.
GAPS: dict[str, Callable[..., Fraction]] = {
    "add": lambda x, y, r: x + y - r,
    "sub": lambda x, y, r: x - y - r,
    "mul": lambda x, y, r: x * y - r,
    "fma": lambda x, y, z, r: x * y + z - r,
    "div": lambda x, y, r: x / y - r,
    "rcp": lambda x, r: 1 / x - r,
    "sqrt": lambda x, r: x - r * r,
}
ROUGHLY: dict[str, Callable[..., np.floating]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "fma": lambda x, y, z: x * y + z,
    "div": np.divide,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
}


def round_directed(op: str, mode: str, row: tuple[np.floating, ...]) -> np.floating:
    """One result rounded by rz, rm or rp; NaN and infinity as when rounded to the nearest."""
    dtype = type(row[0])
    rough, gap = ROUGHLY[op](*row), GAPS[op]
    if not np.isfinite(row).all() or np.isnan(rough) or (op in ("div", "rcp") and row[-1] == 0):
        return rough
    numbers = [Fraction(float(x)) for x in row]
    exact = gap(*numbers, 0)
    if exact == 0:
        if mode != "rm" or op not in ("add", "sub", "fma"):
            return rough
        # Rounded down, a sum of zero is -0, but for that of two +0.
        last = -row[-1] if op == "sub" else row[-1]
        terms = (row[0] * row[1] if op == "fma" else row[0], last)
        return dtype(-0.0 if np.signbit(terms).any() or any(terms) else 0.0)
    if op != "sqrt":
        try:
            rough = dtype(float(exact))
        except OverflowError:
            rough = dtype(np.inf if exact > 0 else -np.inf)
    near = [np.nextafter(rough, dtype(-np.inf)), rough, np.nextafter(rough, dtype(np.inf))]
    gaps = {c: -c if np.isinf(c) else gap(*numbers, Fraction(float(c))) for c in near}
    if mode == "rp" or (mode == "rz" and exact < 0):
        result = min(c for c, left in gaps.items() if left <= 0)
    else:
        result = max(c for c, left in gaps.items() if left >= 0)
    return dtype(np.copysign(result, 1 if exact > 0 else -1))


def directed(op: str, mode: str, kind: str) -> Op:
    """An operation with a directed rounding, against whole fractions."""
    count = {"fma": 3, "rcp": 1, "sqrt": 1}.get(op, 2)

    def reference(*arrays: np.ndarray) -> np.ndarray:
        rows = zip(*arrays, strict=True)
        return np.array([round_directed(op, mode, row) for row in rows], DTYPES[kind])

    return floating(f"{op}.{mode}", kind, reference, count)


def rint(x: float) -> float:
    return float(np.rint(x))


OPS: list[Op] = []
for k in ("u32", "s32", "u64", "s64", "u16", "s16"):
    bits = 8 * np.dtype(DTYPES[k]).itemsize
    OPS += [
        ints(f"add.{k} d, a, b", k, (k, k), lambda x, y: x + y),
        ints(f"sub.{k} d, a, b", k, (k, k), lambda x, y: x - y),
        ints(f"mul.lo.{k} d, a, b", k, (k, k), lambda x, y: x * y),
        ints(f"mul.hi.{k} d, a, b", k, (k, k), lambda x, y, n=bits: x * y >> n),
        ints(f"mad.lo.{k} d, a, b, c", k, (k, k, k), lambda x, y, z: x * y + z),
        ints(f"div.{k} d, a, b", k, (k, k), c_div),
        ints(f"rem.{k} d, a, b", k, (k, k), c_rem),
        ints(f"min.{k} d, a, b", k, (k, k), min),
        ints(f"max.{k} d, a, b", k, (k, k), max),
        ints(
            f"shr.{k} d, a, b",
            k,
            (k, "u32"),
            lambda x, n, w=bits: x >> min(n, w) if n < w or x < 0 else 0,
        ),
        ints(f"shl.b{bits} d, a, b", k, (k, "u32"), lambda x, n, w=bits: shifted(x, n, w)),
        ints(f"sad.{k} d, a, b, c", k, (k, k, k), lambda x, y, z: abs(x - y) + z),
        ints(f"selp.b{bits} d, a, b, PRED", k, (k, k), lambda x, y: min(y, x)),
    ]
for k in ("s32", "s64", "s16"):
    OPS += [ints(f"abs.{k} d, a", k, (k,), abs), ints(f"neg.{k} d, a", k, (k,), lambda x: -x)]
for k in ("u32", "s32"):
    w = k[0] + "64"
    OPS += [
        ints(f"mul.wide.{k} d, a, b", w, (k, k), lambda x, y: x * y),
        ints(f"mad.wide.{k} d, a, b, c", w, (k, k, w), lambda x, y, z: x * y + z),
        ints(f"mad.hi.{k} d, a, b, c", k, (k, k, k), lambda x, y, z: (x * y >> 32) + z),
        ints(f"bfind.{k} d, a", "u32", (k,), lambda x, s=k[0] == "s": bfind(x, 32, s)),
        ints(
            f"bfe.{k} d, a, b, c",
            k,
            (k, "u32", "u32"),
            lambda x, p, n, s=k[0] == "s": bfe(x, p, n, 32, s),
        ),
    ]
OPS += [
    ints(
        "bfe.s64 d, a, b, c", "s64", ("s64", "u32", "u32"), lambda x, p, n: bfe(x, p, n, 64, True)
    ),
    ints(
        "bfi.b32 d, a, b, c, 9", "b32", ("b32", "b32", "u32"), lambda x, y, p: bfi(x, y, p, 9, 32)
    ),
    ints(
        "bfi.b64 d, a, b, 5, c", "b64", ("b64", "b64", "u32"), lambda x, y, n: bfi(x, y, 5, n, 64)
    ),
    ints(
        "add.sat.s32 d, a, b",
        "s32",
        ("s32", "s32"),
        lambda x, y: min(max(x + y, -(2**31)), 2**31 - 1),
    ),
    ints("and.b32 d, a, b", "b32", ("b32", "b32"), lambda x, y: x & y),
    ints("or.b64 d, a, b", "b64", ("b64", "b64"), lambda x, y: x | y),
    ints("xor.b16 d, a, b", "b16", ("b16", "b16"), lambda x, y: x ^ y),
    ints("not.b32 d, a", "b32", ("b32",), lambda x: ~x),
    ints("cnot.b32 d, a", "b32", ("b32",), lambda x: int(x == 0)),
    ints("popc.b32 d, a", "u32", ("b32",), lambda x: x.bit_count()),
    ints("popc.b64 d, a", "u32", ("b64",), lambda x: x.bit_count()),
    ints("clz.b32 d, a", "u32", ("b32",), lambda x: 32 - x.bit_length()),
    ints("clz.b64 d, a", "u32", ("b64",), lambda x: 64 - x.bit_length()),
    ints("brev.b32 d, a", "b32", ("b32",), lambda x: int(f"{x:032b}"[::-1], 2)),
    ints("prmt.b32 d, a, b, c", "b32", ("b32", "b32", "b32"), prmt),
    ints(
        "lop3.b32 d, a, b, c, 0xCA", "b32", ("b32", "b32", "b32"), lambda x, y, z: x & y | ~x & z
    ),
    ints(
        "shf.l.wrap.b32 d, a, b, c",
        "b32",
        ("b32", "b32", "u32"),
        lambda x, y, n: ((y << 32 | x) << (n & 31)) >> 32,
    ),
    ints(
        "shf.r.clamp.b32 d, a, b, c",
        "b32",
        ("b32", "b32", "u32"),
        lambda x, y, n: (y << 32 | x) >> min(n, 32),
    ),
    ints(
        "mul24.lo.s32 d, a, b",
        "s32",
        ("s32", "s32"),
        lambda x, y: (
            ((x & 0xFFFFFF) - (x << 1 & 0x1000000)) * ((y & 0xFFFFFF) - (y << 1 & 0x1000000))
        ),
    ),
    ints(
        "dp4a.s32.s32 d, a, b, c",
        "s32",
        ("s32", "s32", "s32"),
        lambda x, y, z: z + sum(wrap(x >> s, "s8") * wrap(y >> s, "s8") for s in (0, 8, 16, 24)),
    ),
    ints(
        "slct.s32.s32 d, a, b, c", "s32", ("s32", "s32", "s32"), lambda x, y, z: x if z >= 0 else y
    ),
    ints("set.lt.u32.s32 d, a, b", "u32", ("s32", "s32"), lambda x, y: -int(x < y)),
    ints("cvt.sat.s8.s32 d, a", "s16", ("s32",), lambda x: min(max(x, -128), 127)),
    ints("cvt.sat.u16.s64 d, a", "u16", ("s64",), lambda x: min(max(x, 0), 65535)),
    ints("cvt.s64.s32 d, a", "s64", ("s32",), lambda x: x),
    ints("cvt.u64.u32 d, a", "u64", ("u32",), lambda x: x),
    ints("cvt.u32.s8 d, a", "u32", ("s8",), lambda x: x),
    ints("cvt.u16.u64 d, a", "u16", ("u64",), lambda x: x),
    f2i("s32", "f32", "rzi", np.trunc),
    f2i("u32", "f32", "rzi", np.trunc),
    f2i("s32", "f64", "rmi", np.floor),
    f2i("s32", "f32", "rni", rint),
    f2i("s16", "f32", "rpi", np.ceil),
    f2i("u32", "f16", "rzi", np.trunc),
]


def floating(op: str, k: str, f: Callable[..., np.ndarray], count: int = 2, **extra: object) -> Op:
    args = ", ".join("abc"[:count])
    return Op(f"{op}.{k} d, {args}", k, (k,) * count, f, **extra)


for k in ("f32", "f64"):
    OPS += [
        floating("add.rn", k, np.add),
        floating("sub", k, np.subtract),
        floating("mul.rn", k, np.multiply),
        floating("div.rn", k, np.divide),
        floating("sqrt.rn", k, np.sqrt, 1),
        floating("rcp.rn", k, lambda x: 1 / x, 1),
        floating("min", k, canonical_min),
        floating("abs", k, np.abs, 1),
        floating("neg", k, np.negative, 1),
        floating("max", k, lambda a, b: -canonical_min(-a, -b)),
        floating("cvt.rzi." + k, k, np.trunc, 1),
        floating("cvt.rni." + k, k, np.rint, 1),
    ]


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Exact through rational numbers, rounded once."""
    out = (a.astype(np.float64) * b + c).astype(np.float32)
    for i, row in enumerate(zip(a, b, c, strict=True)):
        if all(np.isfinite(row)) and np.isfinite(out[i]):
            x, y, z = (Fraction(float(v)) for v in row)
            exact = x * y + z
            near = [
                np.nextafter(out[i], np.float32(-np.inf)),
                out[i],
                np.nextafter(out[i], np.float32(np.inf)),
            ]
            near = [v for v in near if np.isfinite(v)]
            best = min(
                near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1)
            )
            if Fraction(float(best)) != Fraction(float(out[i])):
                out[i] = best
    return out


LOG2, EXP2 = np.log2, np.exp2
OPS += [
    floating("fma.rn", "f32", fma32, 3),
    floating("add.sat", "f32", lambda a, b: np.where(np.isnan(a + b), 0, np.clip(a + b, 0, 1))),
    floating("add.ftz", "f32", lambda a, b: flushed(flushed(a) + flushed(b))),
    floating("add", "f16", np.add),
    floating("mul", "f16", np.multiply),
    floating(
        "ex2.approx", "f32", lambda x: EXP2(x.astype(np.float64)).astype(np.float32), 1, ulp=2
    ),
    floating("lg2.approx", "f32", lambda x: LOG2(x.astype(np.float64)), 1, ulp=3, absolute=2**-22),
    floating(
        "sin.approx",
        "f32",
        lambda x: np.sin(x.astype(np.float64)),
        1,
        absolute=2**-20.5,
        limits=(-3000.0, 3000.0),
    ),
    floating(
        "cos.approx",
        "f32",
        lambda x: np.cos(x.astype(np.float64)),
        1,
        absolute=2**-20.5,
        limits=(-3000.0, 3000.0),
    ),
    floating("tanh.approx", "f32", lambda x: np.tanh(x.astype(np.float64)), 1, ulp=2**13),
    floating("rsqrt.approx", "f32", lambda x: 1 / np.sqrt(x.astype(np.float64)), 1, ulp=2),
    floating("rcp.approx", "f32", lambda x: 1 / x, 1, ulp=1),
    floating("div.full", "f32", np.divide, 2, ulp=2),
    floating("copysign", "f32", lambda a, b: np.copysign(b, a)),
    Op("cvt.rn.f16.f32 d, a", "f16", ("f32",), lambda x: x.astype(np.float16)),
    Op("cvt.f32.f16 d, a", "f32", ("f16",), lambda x: x.astype(np.float32)),
    Op("cvt.rn.f32.f64 d, a", "f32", ("f64",), lambda x: x.astype(np.float32)),
    Op("cvt.f64.f32 d, a", "f64", ("f32",), lambda x: x.astype(np.float64)),
    Op("cvt.rn.f32.s32 d, a", "f32", ("s32",), lambda x: x.astype(np.float32)),
    Op("cvt.rn.f32.u64 d, a", "f32", ("u64",), lambda x: x.astype(np.float32)),
    Op("cvt.rn.f16.s32 d, a", "f16", ("s32",), lambda x: x.astype(np.float64).astype(np.float16)),
    Op(
        "cvt.sat.f32.f32 d, a",
        "f32",
        ("f32",),
        lambda x: np.where(np.isnan(x), 0, np.clip(x, 0, 1)) + 0.0,
    ),
]
SIGNED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
for name, compare in SIGNED.items():
    for k in ("s32", "u32", "f32", "f64"):

        def ordered(a, b, f=compare, flt=k[0] == "f"):
            good = ~(np.isnan(a) | np.isnan(b)) if flt else True
            return np.where(f(a, b) & good, 1, 0).astype(np.uint32)

        OPS.append(Op(f"setp.{name}.{k} P, a, b; selp.u32 d, 1, 0, P", "u32", (k, k), ordered))


INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
for to in INTEGERS:
    for source in INTEGERS:
        if to[1:] != source[1:]:
            OPS.append(ints(f"cvt.{to}.{source} d, a", to, (source,), lambda x: x))
for to, source in (
    ("u8", "s32"),
    ("s8", "u32"),
    ("s16", "s64"),
    ("u32", "s64"),
    ("s32", "u64"),
    ("u16", "s16"),
    ("s32", "s64"),
    ("u8", "u16"),
):
    info = np.iinfo(DTYPES[to])
    OPS.append(
        ints(
            f"cvt.sat.{to}.{source} d, a",
            to,
            (source,),
            lambda x, low=int(info.min), high=int(info.max): min(max(x, low), high),
        )
    )
ROUND = {"rni": rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
for mode, how in ROUND.items():
    for to in ("s32", "u32", "s64", "u64", "s16", "u8"):
        for source in ("f32", "f64", "f16"):
            OPS.append(f2i(to, source, mode, how))
    OPS.append(floating(f"cvt.{mode}.f64", "f64", {**ROUND, "rni": np.rint}[mode], 1))
for source in ("u16", "s16", "u32", "s32", "u64", "s64"):
    for to in ("f32", "f64"):
        OPS.append(
            Op(f"cvt.rn.{to}.{source} d, a", to, (source,), lambda x, t=DTYPES[to]: x.astype(t))
        )
for width in (16, 32, 64):
    k = f"b{width}"
    OPS += [
        ints(f"and.{k} d, a, b", k, (k, k), lambda x, y: x & y),
        ints(f"or.{k} d, a, b", k, (k, k), lambda x, y: x | y),
        ints(f"xor.{k} d, a, b", k, (k, k), lambda x, y: x ^ y),
        ints(f"not.{k} d, a", k, (k,), lambda x: ~x),
        ints(f"cnot.{k} d, a", k, (k,), lambda x: int(x == 0)),
        ints(f"mov.{k} d, a", k, (k,), lambda x: x),
    ]
for k in ("u16", "s16", "u64", "s64", "u32", "s32"):
    for name, compare in SIGNED.items():
        OPS.append(
            Op(
                f"setp.{name}.{k} P, a, b; selp.u32 d, 1, 0, P",
                "u32",
                (k, k),
                lambda a, b, f=compare: f(a, b).astype(np.uint32),
            )
        )
for name, plain in {
    "equ": np.equal,
    "neu": np.not_equal,
    "ltu": np.less,
    "leu": np.less_equal,
    "gtu": np.greater,
    "geu": np.greater_equal,
}.items():
    for k in ("f32", "f64", "f16"):
        OPS.append(
            Op(
                f"setp.{name}.{k} P, a, b; selp.u32 d, 1, 0, P",
                "u32",
                (k, k),
                lambda a, b, f=plain: (f(a, b) | np.isnan(a) | np.isnan(b)).astype(np.uint32),
            )
        )
for name, how in {"num": lambda bad: ~bad, "nan": lambda bad: bad}.items():
    for k in ("f32", "f64"):
        OPS.append(
            Op(
                f"setp.{name}.{k} P, a, b; selp.u32 d, 1, 0, P",
                "u32",
                (k, k),
                lambda a, b, f=how: f(np.isnan(a) | np.isnan(b)).astype(np.uint32),
            )
        )
for name, how in {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (np.abs(x) < np.finfo(x.dtype).tiny) & (x != 0),
}.items():
    for k in ("f32", "f64"):
        OPS.append(
            Op(
                f"testp.{name}.{k} P, a; selp.u32 d, 1, 0, P",
                "u32",
                (k,),
                lambda x, f=how: f(x).astype(np.uint32),
            )
        )


def permuted(mode: str) -> Callable[[int, int, int], int]:
    """Prmt with a mode, as the table of the PTX documentation gives it."""
    tables = {
        "f4e": ("3210", "4321", "5432", "6543"),
        "b4e": ("5670", "6701", "7012", "0123"),
        "rc8": ("0000", "1111", "2222", "3333"),
        "ecl": ("3210", "3211", "3222", "3333"),
        "ecr": ("0000", "1110", "2210", "3210"),
        "rc16": ("1010", "3232", "1010", "3232"),
    }

    def reference(a: int, b: int, c: int) -> int:
        picks = tables[mode][c & 3]
        source = a | b << 32
        return sum((source >> 8 * int(p) & 255) << 8 * (3 - i) for i, p in enumerate(picks))

    return reference


OPS += [
    ints(f"prmt.b32.{m} d, a, b, c", "b32", ("b32", "b32", "b32"), permuted(m))
    for m in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
]
OPS += [
    ints(
        f"lop3.b32 d, a, b, c, {table}",
        "b32",
        ("b32", "b32", "b32"),
        lambda x, y, z, t=table: sum(
            (t >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | z >> i & 1) & 1) << i for i in range(32)
        ),
    )
    for table in (0x96, 0xE8, 0x80, 0xFE, 0x01, 0x1D)
]
OPS += [
    ints(
        "bmsk.clamp.b32 d, a, b",
        "b32",
        ("u32", "u32"),
        lambda x, n: ((1 << min(n, 32)) - 1) << min(x, 32),
    ),
    ints(
        "bmsk.wrap.b32 d, a, b",
        "b32",
        ("u32", "u32"),
        lambda x, n: ((1 << (n & 31)) - 1) << (x & 31),
    ),
    ints(
        "bfe.u64 d, a, b, c", "u64", ("u64", "u32", "u32"), lambda x, p, n: bfe(x, p, n, 64, False)
    ),
    ints("bfind.u64 d, a", "u32", ("u64",), lambda x: bfind(x, 64, False)),
    ints("bfind.s64 d, a", "u32", ("s64",), lambda x: bfind(x, 64, True)),
    ints(
        "bfind.shiftamt.u32 d, a", "u32", ("u32",), lambda x: 31 - bfind(x, 32, False) if x else -1
    ),
    ints("brev.b64 d, a", "b64", ("b64",), lambda x: int(f"{x:064b}"[::-1], 2)),
    ints(
        "shf.l.clamp.b32 d, a, b, c",
        "b32",
        ("b32", "b32", "u32"),
        lambda x, y, n: ((y << 32 | x) << min(n, 32)) >> 32,
    ),
    ints(
        "shf.r.wrap.b32 d, a, b, c",
        "b32",
        ("b32", "b32", "u32"),
        lambda x, y, n: (y << 32 | x) >> (n & 31),
    ),
    ints(
        "dp4a.u32.u32 d, a, b, c",
        "u32",
        ("u32", "u32", "u32"),
        lambda x, y, z: z + sum((x >> s & 255) * (y >> s & 255) for s in (0, 8, 16, 24)),
    ),
    ints(
        "dp2a.lo.s32.s32 d, a, b, c",
        "s32",
        ("s32", "s32", "s32"),
        lambda x, y, z: z + sum(wrap(x >> 16 * i, "s16") * wrap(y >> 8 * i, "s8") for i in (0, 1)),
    ),
    ints(
        "dp2a.hi.u32.u32 d, a, b, c",
        "u32",
        ("u32", "u32", "u32"),
        lambda x, y, z: z + sum((x >> 16 * i & 0xFFFF) * (y >> 16 + 8 * i & 255) for i in (0, 1)),
    ),
    ints(
        "mul24.lo.u32 d, a, b", "u32", ("u32", "u32"), lambda x, y: (x & 0xFFFFFF) * (y & 0xFFFFFF)
    ),
    ints(
        "mad24.lo.u32 d, a, b, c",
        "u32",
        ("u32", "u32", "u32"),
        lambda x, y, z: (x & 0xFFFFFF) * (y & 0xFFFFFF) + z,
    ),
    ints(
        "sub.sat.s32 d, a, b",
        "s32",
        ("s32", "s32"),
        lambda x, y: min(max(x - y, -(2**31)), 2**31 - 1),
    ),
    ints("mad.hi.u64 d, a, b, c", "u64", ("u64", "u64", "u64"), lambda x, y, z: (x * y >> 64) + z),
    ints("mul.wide.u16 d, a, b", "u32", ("u16", "u16"), lambda x, y: x * y),
    ints("mul.wide.s16 d, a, b", "s32", ("s16", "s16"), lambda x, y: x * y),
    ints(
        "slct.u32.s32 d, a, b, c", "u32", ("u32", "u32", "s32"), lambda x, y, z: x if z >= 0 else y
    ),
    ints("set.ge.s32.u32 d, a, b", "s32", ("u32", "u32"), lambda x, y: -int(x >= y)),
    floating("fma.rn", "f64", lambda a, b, c: fused64(a, b, c), 3),
    floating("sub", "f16", np.subtract),
    floating("neg", "f16", np.negative, 1),
    floating("abs", "f16", np.abs, 1),
    floating("min", "f16", canonical_min),
    floating("max", "f16", lambda a, b: -canonical_min(-a, -b)),
    floating(
        "min.NaN",
        "f32",
        lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.nan, canonical_min(a, b)),
    ),
    floating(
        "max.NaN",
        "f32",
        lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.nan, -canonical_min(-a, -b)),
    ),
    floating("copysign", "f64", lambda a, b: np.copysign(b, a)),
    floating("rsqrt.approx", "f64", lambda x: 1 / np.sqrt(x), 1, ulp=2),
    floating(
        "mul.sat", "f32", lambda a, b: np.where(np.isnan(a * b), 0, np.clip(a * b, 0, 1)) + 0.0
    ),
    floating("mul.ftz", "f32", lambda a, b: flushed(flushed(a) * flushed(b))),
]


def by_parts(f: Callable[[int, int], int], bits: int, signed: bool = False) -> Callable[..., int]:
    """A function of each part of two registers."""

    def reference(a: int, b: int, c: int = 0) -> int:
        total = 0
        for shift in range(0, 32, bits):
            x, y = ((v >> shift) % (1 << bits) for v in (a, b))
            if signed:
                x, y = (v - (v >> bits - 1 << bits) for v in (x, y))
            total |= f(x, y) % (1 << bits) << shift
        return total

    return reference


OPS += [
    ints(f"{op}.{k} d, a, b", "b32", ("b32", "b32"), by_parts(f, 16, k[0] == "s"))
    for k in ("u16x2", "s16x2")
    for op, f in {"add": lambda x, y: x + y, "min": min, "max": max}.items()
]
OPS += [
    ints(
        "max.relu.s16x2 d, a, b",
        "b32",
        ("b32", "b32"),
        by_parts(lambda x, y: max(x, y, 0), 16, True),
    ),
    ints(
        "vabsdiff4.u32.u32.u32 d, a, b, c",
        "b32",
        ("b32", "b32", "b32"),
        by_parts(lambda x, y: abs(x - y), 8),
    ),
    ints(
        "vabsdiff4.u32.s32.s32 d, a, b, c",
        "b32",
        ("b32", "b32", "b32"),
        by_parts(lambda x, y: abs(x - y), 8, True),
    ),
    ints(
        "vabsdiff4.u32.u32.u32.add d, a, b, c",
        "b32",
        ("b32", "b32", "b32"),
        lambda x, y, z: z + sum(abs((x >> s & 255) - (y >> s & 255)) for s in (0, 8, 16, 24)),
    ),
]
OPS += [
    directed(op, mode, kind)
    for op in GAPS
    for mode in ("rz", "rm", "rp")
    for kind in ("f32", "f64")
]


def fused64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Python's division of whole numbers rounds once, and correctly."""
    out = a * b + c
    for i, row in enumerate(zip(a, b, c, strict=True)):
        if all(np.isfinite(row)) and np.isfinite(out[i]):
            exact = Fraction(float(row[0])) * Fraction(float(row[1])) + Fraction(float(row[2]))
            if exact:
                out[i] = exact.numerator / exact.denominator
    return out


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def listing(op: Op) -> str:
    """A kernel that applies the instruction to one element per thread."""
    target = "sm_90" if "16x2" in op.text else "sm_80"
    lines = [".version 8.0", f".target {target}", ".address_size 64", ".visible .entry k("]
    names = [f"p{i}" for i in range(len(op.sources))] + ["out"]
    lines.append(", ".join(f".param .u64 {n}" for n in names) + ")\n{")
    lines += [".reg .pred P;", ".reg .b32 i;", ".reg .b64 base, at;", "mov.u32 i, %tid.x;"]
    sizes = {n: np.dtype(DTYPES[t]).itemsize for n, t in zip("abc", op.sources, strict=False)}
    for name, kind in (*zip("abc", op.sources, strict=False), ("d", op.result)):
        floating_register = kind if kind in ("f32", "f64") else None
        lines.append(
            f".reg .{floating_register or REGISTER[np.dtype(DTYPES[kind]).itemsize]} {name};"
        )
    for index, (name, kind) in enumerate(zip("abc", op.sources, strict=False)):
        memory = "b16" if kind == "f16" else kind
        lines += [
            f"ld.param.u64 base, [p{index}];",
            f"mad.wide.u32 at, i, {sizes[name]}, base;",
            f"ld.global.{memory} {name}, [at];",
        ]
    text = op.text
    if "PRED" in text:
        lines.append(f"setp.lt.{op.sources[0]} P, a, b;")
        text = text.replace("PRED", "P")
    memory = "b16" if op.result == "f16" else op.result
    size = np.dtype(DTYPES[op.result]).itemsize
    lines += [
        text + ";",
        "ld.param.u64 base, [out];",
        f"mad.wide.u32 at, i, {size}, base;",
        f"st.global.{memory} [at], d;",
        "ret;",
        "}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.id)
def test_instruction_matches_the_reference(harness, op):
    arrays = [values(kind, 11 * i + 3) for i, kind in enumerate(op.sources)]
    if op.limits:
        arrays = [np.clip(np.nan_to_num(a), *op.limits) for a in arrays]
    out = np.zeros(128, DTYPES[op.result])
    got = harness.launch(harness.load(listing(op)), "k", (1, 1, 1), (128, 1, 1), [*arrays, out])[
        -1
    ]
    with np.errstate(all="ignore"):
        want = np.asarray(op.reference(*arrays))
    if np.dtype(DTYPES[op.result]).kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    narrow = want.astype(got.dtype)
    assert (np.isnan(got) == np.isnan(narrow)).all()
    exact = (got == narrow) | np.isnan(narrow)
    if not op.ulp and not op.absolute:
        bad = np.flatnonzero(
            ~exact | (~np.isnan(narrow) & (np.signbit(got) != np.signbit(narrow)))
        )
        assert not bad.size, [(a[bad[0]] for a in arrays), got[bad[0]], narrow[bad[0]]]
        return
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - want)
        allowed = op.ulp * np.spacing(np.abs(narrow)).astype(np.float64) + op.absolute
    assert (exact | (error <= allowed)).all(), float(
        np.nanmax(np.where(exact, 0, error / allowed))
    )


PAIRS = [(op, mode) for op in ("add", "sub", "mul", "fma") for mode in ("rn", "rz", "rm", "rp")]
PAIRS += [("fma", "rn.ftz"), ("add", "rz.ftz")]


@pytest.mark.parametrize(("op", "mode"), PAIRS, ids=lambda part: part)
def test_a_pair_of_floats_gives_the_bits_of_two_single_ones(harness, op, mode):
    names = "abc" if op == "fma" else "ab"
    take = "".join(
        f"ld.param.u64 base, [p{n}]; mad.wide.u32 at, i, 8, base; ld.global.b64 {n}, [at]; "
        f"mov.b64 {{{n}0, {n}1}}, {n};"
        for n in names
    )
    single = "".join(
        f"{op}.{mode}.f32 d{half}, {', '.join(n + half for n in names)};" for half in "01"
    )
    text = f"""
.version 8.6
.target sm_100
.address_size 64
.visible .entry k({", ".join(f".param .u64 p{n}" for n in (*names, "d", "e"))})
{{
.reg .b32 i; .reg .b64 base, at, a, b, c, d, e; .reg .f32 a0, a1, b0, b1, c0, c1, d0, d1;
mov.u32 i, %tid.x; {take}
{op}.{mode}.f32x2 d, {", ".join(names)};
{single} mov.b64 e, {{d0, d1}};
ld.param.u64 base, [pd]; mad.wide.u32 at, i, 8, base; st.global.b64 [at], d;
ld.param.u64 base, [pe]; mad.wide.u32 at, i, 8, base; st.global.b64 [at], e;
ret;
}}
"""
    rng = np.random.default_rng(11)
    data = []
    for _ in names:
        edges = np.tile(np.array(FLOATS, np.float32), 8)
        usual = (rng.standard_normal(256 - edges.size % 256)).astype(np.float32)
        data.append(rng.permutation(np.concatenate([edges, usual]))[:256])
    out = [np.zeros(256, np.float32) for _ in range(2)]
    done = harness.launch(harness.load(text), "k", (1, 1, 1), (128, 1, 1), [*data, *out])
    together, apart = (x.view(np.uint32) for x in done[-2:])
    assert together.any()
    np.testing.assert_array_equal(together, apart)
