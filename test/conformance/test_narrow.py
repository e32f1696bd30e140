"""fp8 pairs and packed integers against exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

HEAD = ".version 8.6\n.target sm_89\n.address_size 64\n"
FORMS = {"e4m3x2": (3, 7, 0x7E, (0x7F,)), "e5m2x2": (2, 15, 0x7B, (0x7D, 0x7E, 0x7F))}


def run(harness, body: str, sources: list[np.ndarray]) -> np.ndarray:
    """One 32-bit result %r9 of each thread, from %r1, %r2 ..., its words of the sources."""
    count = sources[0].size
    params = "".join(f", .param .u64 s{i}" for i in range(len(sources)))
    loads = "".join(
        f"ld.param.u64 %rd2,[s{i}]; add.u64 %rd2,%rd2,%rd9; ld.global.u32 %r{i + 1},[%rd2];"
        for i in range(len(sources))
    )
    text = (
        HEAD
        + f""".visible .entry k(.param .u64 out{params}) {{
 .reg .b32 %r<12>; .reg .b16 %h<9>; .reg .f32 %f<9>; .reg .b64 %rd<12>;
 mov.u32 %r10,%tid.x; mov.u32 %r11,%ctaid.x; shl.b32 %r11,%r11,8; add.u32 %r10,%r10,%r11;
 mul.wide.u32 %rd9,%r10,4; {loads} {body}
 ld.param.u64 %rd1,[out]; add.u64 %rd1,%rd1,%rd9; st.global.u32 [%rd1],%r9; ret; }}"""
    )
    blocks = -(-count // 256)
    assert count % 256 == 0
    return harness.launch(
        harness.load(text),
        "k",
        (blocks, 1, 1),
        (256, 1, 1),
        [np.zeros(count, np.uint32), *sources],
    )[0]


def decoded(byte: int, form: str) -> float:
    fraction, bias, _, nans = FORMS[form]
    size = byte & 0x7F
    sign = -1.0 if byte & 0x80 else 1.0
    if size in nans:
        return float("nan")
    exponent, rest = size >> fraction, size & (1 << fraction) - 1
    if form == "e5m2x2" and exponent == 31:
        return sign * float("inf")
    if exponent == 0:
        return sign * rest * 2.0 ** (1 - bias - fraction)
    return sign * (1 + rest / (1 << fraction)) * 2.0 ** (exponent - bias)


def nearest(value: float, form: str, relu: bool) -> int:
    """The byte nearest to a float, ties to even, saturated; by trying all."""
    if value != value:
        return 0x7F
    if relu and value < 0:
        return 0
    sign = 0x80 if np.signbit(value) else 0
    most = FORMS[form][2]
    if abs(value) == float("inf"):
        return sign | most
    exact = Fraction(abs(value))
    distance = [(abs(exact - Fraction(decoded(b, form))), b & 1, b) for b in range(most + 1)]
    return sign | min(distance)[2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("relu", ["", ".relu"])
def test_every_pair_of_bytes_is_the_same_halves(harness, form, relu):
    words = np.arange(65536, dtype=np.uint32)
    found = run(harness, f"cvt.u16.u32 %h1,%r1; cvt.rn{relu}.f16x2.{form} %r9,%h1;", [words])
    table = np.array([decoded(b, form) for b in range(256)])
    if relu:
        table = np.where(table < 0, 0.0, table)
        table = np.where(table == 0, 0.0, table)
    halves = table.astype(np.float16).view(np.uint16)
    halves[np.isnan(table)] = 0x7FFF
    wanted = halves[words & 255].astype(np.uint32) | halves[words >> 8].astype(np.uint32) << 16
    assert (found == wanted).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("source", ["f32", "f16x2"])
def test_floats_become_the_nearest_of_eight_bits(harness, form, relu, source):
    rng = np.random.default_rng(7)
    exact = np.array([decoded(b, form) for b in range(FORMS[form][2] + 1)])
    ties = (exact[1:] + exact[:-1]) / 2
    near = np.concatenate(
        [
            np.nextafter(ties.astype(np.float32), np.float32(0)),
            ties,
            np.nextafter(ties.astype(np.float32), np.float32(9e9)),
        ]
    )
    values = np.concatenate(
        [exact, near, [np.inf, np.nan, 464.0, 465.0, 61440.0, 65504.0, 1e30, 1e-30]]
    ).astype(np.float32)
    values = rng.permutation(np.concatenate([values, -values])[: 1024 - 1024 % 256])
    values = np.resize(values, 1024).astype(np.float32)
    if source == "f16x2":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        values = halves.astype(np.float32)
        pairs = halves.view(np.uint16).astype(np.uint32)
        found = run(
            harness,
            f"cvt.rn.satfinite{relu}.{form}.f16x2 %h1,%r1; cvt.u32.u16 %r9,%h1;",
            [pairs | np.roll(pairs, 1) << 16],
        )
    else:
        body = (
            f"mov.b32 %f1,%r1; mov.b32 %f2,%r2; cvt.rn.satfinite{relu}.{form}.f32 %h1,%f2,%f1;"
            "cvt.u32.u16 %r9,%h1;"
        )
        found = run(harness, body, [values.view(np.uint32), np.roll(values, 1).view(np.uint32)])
    bytes_ = np.array([nearest(float(v), form, bool(relu)) for v in values], np.uint32)
    wanted = bytes_ | np.roll(bytes_, 1) << 8
    if relu:  # minus zero and zero are both "not below zero"
        found, wanted = found & ~np.uint32(0x8080), wanted & ~np.uint32(0x8080)
    assert (found == wanted).all()


@pytest.mark.parametrize("form", ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"])
def test_integers_are_saturated_and_packed(harness, form):
    rng = np.random.default_rng(9)
    width, signed = int(form[1:]), form[0] == "s"
    near = [
        0,
        1,
        -1,
        (1 << width) - 1,
        1 << width,
        -(1 << width),
        (1 << width - 1) - 1,
        1 << width - 1,
        -(1 << width - 1),
        -(1 << width - 1) - 1,
        2**31 - 1,
        -(2**31),
    ]
    a, b = (
        rng.permutation(np.resize(np.array(near, np.int64), 256)).astype(np.int32)
        for _ in range(2)
    )
    c = rng.integers(0, 1 << 32, 256, dtype=np.uint32)
    more = ".s32.b32 %r9,%r1,%r2,%r3" if width < 16 else ".s32 %r9,%r1,%r2"
    found = run(harness, f"cvt.pack.sat.{form}{more};", [a.view(np.uint32), b.view(np.uint32), c])
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    x, y = (np.clip(v.astype(np.int64), low, high) & (1 << width) - 1 for v in (a, b))
    wanted = y | x << width
    if width < 16:
        wanted |= c.astype(np.int64) << 2 * width
    assert (found == (wanted & 0xFFFFFFFF).astype(np.uint32)).all()
