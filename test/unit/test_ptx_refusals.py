"""What is refused is named: instruction, line, what there is, what to do next."""

import re

import pytest

from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.codegen.table import supported_instructions
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.errors import PtxError

HEAD = """.version 8.0
.target sm_80
.address_size 64
.global .u32 g;
.visible .entry k(.param .u64 out) {
 .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .pred %p<4>; .reg .b128 %q;
"""
LINE = HEAD.count("\n") + 1
PYTHON = re.compile(r"[A-Z]\w*(Error|Iteration)\b(?!_)|object|tuple|NoneType|Reg\(|Imm\(|ast\.")
OPERANDS = (
    "",
    "%r1",
    "%r1, %r2",
    "%r1, %rd2, %f3",
    "7, 8",
    "[%rd1]",
    "[%rd1], 1.5",
    "{%r1, %r2}",
    "%p1, %p2, %p3, %p0",
    "%r1|%p1, {%r1}, !%p1",
    "%r1, g, [g], 3, 4",
    "_, _, _",
    "(%r1), g",
)
NO_EFFECT = (
    "applypriority",
    "brkpt",
    "discard",
    "fence",
    "griddepcontrol",
    "membar",
    "nanosleep",
    "nop",
    "pmevent",
    "prefetch",
    "prefetchu",
    "trap",
)
MODS = (
    "",
    ".b32",
    ".u32",
    ".sync.b32",
    ".f32",
    ".rn.f32.u8",
    ".v4.u32",
    ".pred",
    ".s16x2",
    ".shared.b64",
    ".b128",
)


def refusal(text: str) -> str:
    """The text of the error, "" if there is none."""
    try:
        for kernel in prepare(text).kernels:
            for lanes in (1, 8):
                generate(kernel, (64, 1, 1), lanes)
    except PtxError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "op",
    [
        *supported_instructions(),
        "call",
        "bra",
        "brx.idx",
        "ret",
        "exit",
        "wgmma",
        "tex.2d",
        "nonsense",
    ],
)
def test_no_refusal_shows_pythons_own_errors(op):
    seen = 0
    for mods in MODS:
        for operands in OPERANDS:
            says = refusal(f"{HEAD}{op}{mods} {operands}; ret; }}")
            if says:
                seen += 1
                assert not PYTHON.search(says.replace("PtxError", "")), (op, mods, operands, says)
                assert f"line {LINE}" in says, (op, mods, operands, says)
    assert seen or op in ("ret", "exit", *NO_EFFECT)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned is not supported"),
        ("cvt.rn.e4m3x2.f32 %r1,%f1,%f2;", "satfinite is needed"),
        ("cp.async.bulk.commit_group;", "of cp there are: .async.ca"),
        ("vadd.u32.u32.u32 %r1,%r2.b3210,%r3;", "of vadd there are: .u32 and .s32"),
        ("mov.v2.b32 {%r1,%r2},{%r1};", "1 values for 2 registers"),
        ("add.u32 %r1;", "its 1 operands are not those"),
    ],
)
def test_a_refusal_says_what_there_is_and_what_to_do(text, says):
    found = refusal(f"{HEAD}{text} ret; }}")
    assert says in found
    assert f"line {LINE}: instruction {text.split()[0].rstrip(';')}" in found
    assert "docs/ptx_support.md" in found
