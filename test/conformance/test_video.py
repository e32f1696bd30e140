"""Video instructions against Python's integers, whole registers and all parts of them."""

import itertools

import numpy as np
import pytest

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
EDGES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x80FF7F01,
    31,
    32,
    33,
]


def run(harness, text: str, count: int = 96, seed: int = 3):
    """The results of one instruction `text` with %r4 = OP(%r1, %r2, %r3), and its sources."""
    rng = np.random.default_rng(seed)
    sources = [
        np.array(
            [
                (
                    EDGES[rng.integers(len(EDGES))]
                    if rng.integers(2)
                    else int(rng.integers(1 << 32))
                )
                for _ in range(count)
            ],
            np.uint32,
        )
        for _ in range(3)
    ]
    loads = "".join(f"ld.global.u32 %r{i + 1},[%rd{i + 2}];" for i in range(3))
    ptx = (
        HEAD
        + f""".visible .entry k(.param .u64 out, .param .u64 a, .param .u64 b,
 .param .u64 c) {{
 .reg .b32 %r<9>; .reg .b64 %rd<9>;
 ld.param.u64 %rd1,[out]; ld.param.u64 %rd2,[a]; ld.param.u64 %rd3,[b]; ld.param.u64 %rd4,[c];
 mov.u32 %r8,%tid.x; mul.wide.u32 %rd5,%r8,4; add.u64 %rd1,%rd1,%rd5; add.u64 %rd2,%rd2,%rd5;
 add.u64 %rd3,%rd3,%rd5; add.u64 %rd4,%rd4,%rd5; {loads} {text}
 st.global.u32 [%rd1],%r4; ret; }}"""
    )
    found = harness.launch(
        harness.load(ptx), "k", (1, 1, 1), (count, 1, 1), [np.zeros(count, np.uint32), *sources]
    )[0]
    return found.tolist(), [s.tolist() for s in sources]


def part(word: int, start: int, width: int, signed: bool) -> int:
    value = word >> start & (1 << width) - 1
    return value - (1 << width) if signed and value >> width - 1 else value


def selected(word: int, selector: str, signed: bool) -> int:
    if not selector:
        return part(word, 0, 32, signed)
    width = 8 if selector[1] == "b" else 16
    return part(word, width * int(selector[2]), width, signed)


def saturate(value: int, width: int, signed: bool) -> int:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    return min(max(value, low), high)


COMPUTE = {
    "vadd": lambda x, y: x + y,
    "vsub": lambda x, y: x - y,
    "vabsdiff": lambda x, y: abs(x - y),
    "vmin": min,
    "vmax": max,
    "vavrg": lambda x, y: (x + y + (x + y >= 0)) >> 1,
    "vshl": lambda x, y: x << min(y, 32),
    "vshr": lambda x, y: x >> min(y, 32),
}
SECOND = {
    "add": lambda x, y, _: x + y,
    "min": lambda x, y, s: min(s(x), s(y)),
    "max": lambda x, y, s: max(s(x), s(y)),
}


@pytest.mark.parametrize("op", ["vadd", "vsub", "vabsdiff", "vmin", "vmax", "vshl", "vshr"])
def test_one_value(harness, op):
    rng = np.random.default_rng(len(op))
    forms = list(
        itertools.product(
            ("u32", "s32"),
            ("u32", "s32"),
            ("", ".b0", ".b3", ".h1"),
            ("", ".b1", ".h0"),
            ("", ".sat"),
            ("", ".add", ".min", ".b2"),
        )
    )
    for i in rng.choice(len(forms), 6, replace=False):
        to, of, asel, bsel, sat, last = forms[i]
        by = "u32" if op[:3] == "vsh" else of
        mode = ".clamp" if op[:3] == "vsh" else ""
        merge, second = ("", last) if last[:2] != ".b" else (last, "")
        third = ", %r3" if last else ""
        text = f"{op}.{to}.{of}.{by}{sat}{mode}{second} %r4{merge}, %r1{asel}, %r2{bsel}{third};"
        found, sources = run(harness, text, seed=int(i))
        for got, a, b, c in zip(found, *sources, strict=True):
            value = COMPUTE[op](selected(a, asel, of == "s32"), selected(b, bsel, by == "s32"))
            width = 8 if merge else 32
            if sat:
                value = saturate(value, width, to == "s32")
            if merge:
                value = (value & 0xFF) << 16 | c & ~0xFF0000
            elif second:
                signed = to == "s32"
                value = SECOND[second[1:]](
                    value,
                    part(c, 0, 32, signed),
                    lambda v, s=signed: part(v & 0xFFFFFFFF, 0, 32, s),
                )
            assert got == value & 0xFFFFFFFF, (text, hex(a), hex(b), hex(c))


@pytest.mark.parametrize("op", ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"])
@pytest.mark.parametrize("count", [2, 4])
def test_several_values(harness, op, count):
    width, letter = 32 // count, "h" if count == 2 else "b"
    choices = ("", ".h32", ".h01") if count == 2 else ("", ".b7654", ".b0246")
    for to, of, sel, last in [
        ("u32", "u32", "", ""),
        ("s32", "s32", choices[1], ".sat"),
        ("s32", "u32", choices[2], ".add"),
        ("u32", "s32", "", ".add"),
        ("s32", "s32", "", f".{letter}10" if count == 4 else ".h1"),
    ]:
        mask = last if last[1:2] == letter else ""
        text = (
            f"{op}{count}.{to}.{of}.{of}{last if not mask else ''} %r4{mask}, %r1{sel}, %r2, %r3;"
        )
        found, sources = run(harness, text, seed=count)
        first = [int(d) for d in reversed(sel[2:])] if sel else list(range(count))
        lanes = sorted(int(d) for d in mask[2:]) if mask else range(count)
        for got, a, b, c in zip(found, *sources, strict=True):
            total = c
            for lane in lanes:
                x = part(a | b << 32, width * first[lane], width, of == "s32")
                y = part(b, width * lane, width, of == "s32")
                value = COMPUTE[op](x, y)
                if last == ".sat":
                    value = saturate(value, width, to == "s32")
                if last == ".add":
                    total += part(value & (1 << width) - 1, 0, width, to == "s32")
                else:
                    keep = ((1 << width) - 1) << width * lane
                    total = total & ~keep | (value << width * lane) & keep
            assert got == total & 0xFFFFFFFF, (text, hex(a), hex(b), hex(c))


def test_set_and_multiply(harness):
    found, (a, b, c) = run(harness, "vset.s32.s32.lt.add %r4, %r1.h0, %r2.h1, %r3;")
    assert found == [
        (z + (part(x, 0, 16, True) < part(y, 16, 16, True))) & 0xFFFFFFFF
        for x, y, z in zip(a, b, c, strict=True)
    ]
    found, (a, b, c) = run(harness, "vset4.u32.u32.ge %r4, %r1, %r2, %r3;")
    assert found == [
        sum((part(x, 8 * i, 8, False) >= part(y, 8 * i, 8, False)) << 8 * i for i in range(4))
        for x, y in zip(a, b, strict=True)
    ]
    found, (a, b, c) = run(harness, "vmad.s32.s32.u32.sat.shr7 %r4, %r1.h1, %r2.b3, %r3;")
    assert found == [
        saturate((part(x, 16, 16, True) * (y >> 24) + part(z, 0, 32, True)) >> 7, 32, True)
        & 0xFFFFFFFF
        for x, y, z in zip(a, b, c, strict=True)
    ]
