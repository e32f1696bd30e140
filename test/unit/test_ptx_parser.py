"""The PTX parser accepts what compilers write and refuses the rest with PtxError."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.codegen.table import supported_instructions
from rrto_ros.devices.cpu.facts import facts_of
from rrto_ros.devices.cpu.modules import check_kernel
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.lexer import Row, tokenize
from rrto_ros.devices.cpu.ptx.parser import parse_module
from rrto_ros.errors import PtxError

CASES = sorted((Path(__file__).parents[1] / "conformance" / "cases").glob("*.ptx"))
HEAD = ".version 8.7\n.target sm_121\n.address_size 64\n"


def kernel(body, params=""):
    return f"{HEAD}.visible .entry k({params})\n{{\n{body}\n}}\n"


def check(text):
    """What a module load does."""
    for program in prepare(text).kernels:
        check_kernel(program)


def test_operands_of_every_kind_are_read():
    module = parse_module(
        kernel("""
      .reg .b32 %r<4>; .reg .f32 %f<3>; .reg .pred %p<2>, %q; .reg .b64 %rd1;
      @!%p1 mov.f32 %f1, 0fBF800000;
      mov.f64 %f2, 0d3FF0000000000000;
      ld.global.v2.f32 {%f1, _}, [%rd1+-8];
      setp.lt.and.s32 %p0|%q, %r1, -5, !%p1;
      mov.u32 %r2, %ctaid.x; add.u32 %r3, %r2, 0x1FU;""")
    )
    code = module.functions["k"].body
    assert code[0].guard == ast.Reg("%p1")
    assert code[0].guard_negated
    assert code[0].args[1] == ast.FloatImm(0xBF800000, 32)
    assert code[2].args == (ast.Vec((ast.Reg("%f1"), ast.Sink())), ast.Addr(ast.Reg("%rd1"), -8))
    assert code[3].args[0] == ast.Pair(ast.Reg("%p0"), ast.Reg("%q"))
    assert code[3].args[2:] == (ast.Imm(-5), ast.Not(ast.Reg("%p1")))
    assert code[4].args[1] == ast.Special("ctaid.x")
    assert code[5].args[2] == ast.Imm(31)


def variable_bytes(declaration):
    """The bytes that a variable holds at the start."""
    facts = facts_of(prepare(HEAD + declaration + " .visible .entry k() { ret; }"))
    return b"".join(data for _, data in facts.initial)


ROWS = {
    "u8": ("u8", lambda r: str(r.randrange(-128, 256))),
    "s16": ("s16", lambda r: str(r.randrange(-32768, 32768))),
    "hex": ("b32", lambda r: f"0x{r.randrange(1 << 32):08X}"),
    "u64": ("u64", lambda r: f"{r.randrange(1 << 64)}U"),
    "f32 bits": ("f32", lambda r: f"0f{r.randrange(1 << 32):08x}"),
    "f64 bits": ("f64", lambda r: f"0d{r.randrange(1 << 64):016X}"),
    "f64 in f32": ("f32", lambda r: f"0D{r.randrange(1 << 59, 1 << 60) + (3 << 60):016X}"),
    "f32 in f64": ("f64", lambda r: f"0F{r.randrange(1 << 30):08X}"),
    "f32 bits in b32": ("b32", lambda r: f"0f{r.randrange(1 << 32):08x}"),
    "integers in f32": ("f32", lambda r: str(r.randrange(-(10**9), 10**9))),
    "integers in f16": ("f16", lambda r: str(r.randrange(1 << 16))),
    "octal": ("u32", lambda r: f"0{r.randrange(8)}{r.randrange(8)}"),
    "mixed": ("b64", lambda r: r.choice(["0x1F", "0f3F800000", "-7", "0b101", "12U"])),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_long_row_of_initial_values_means_what_its_parts_mean(name):
    kind, number = ROWS[name]
    rng = random.Random(name)
    numbers = [number(rng) for _ in range(300)]
    long = f".global .{kind} x[{len(numbers)}] = {{{', '.join(numbers)}}};"
    assert any(isinstance(token, Row) for token in tokenize(long))
    apart = b"".join(variable_bytes(f".global .{kind} x = {n};").ljust(1, b"\0") for n in numbers)
    assert variable_bytes(long) == apart
    lines = ",\n".join(numbers)
    assert variable_bytes(f".global .{kind} x[] = {{{lines},}};") == apart


def test_rows_in_groups_fill_their_places():
    one, two = ", ".join(["1"] * 150), ", ".join(["2"] * 149)
    data = variable_bytes(f".const .u32 x[3][150] = {{{{{one}}}, {{{two}}}, {{3}}}};")
    assert data == b"\1\0\0\0" * 150 + b"\2\0\0\0" * 149 + bytes(4) + b"\3" + bytes(599)


@pytest.mark.parametrize(
    ("values", "names"),
    [("1, " * 300 + "x", "x is too narrow"),
     ("1, " * 300 + "1 2", "expected"), ("1,, " * 300, "line 5"), ("1, " * 300 + "--", "line 5"),
     ("1, " * 300 + "0x", "line"), ("1, " * 401, "more initial"),
     ("1, " * 401 + "1", "more initial")],
    ids=range(7),
)  # fmt: skip
def test_a_long_row_that_is_wrong_is_refused_with_its_line(values, names):
    with pytest.raises(PtxError, match=names):
        variable_bytes(f"\n.global .u32 x[400] = {{{values}}};")


def test_millions_of_initial_values_are_few_objects_and_beyond_a_bound_refused():
    text = HEAD + f".global .u16 x[{1 << 20}] = {{{'65535,' * (1 << 20)}}};"
    assert len(tokenize(text)) < 40
    module = parse_module(text)
    assert len(module.variables[0].init) == 1
    too_many = HEAD + f".global .u8 x[] = {{{'1,' * ((1 << 22) + 1)}}};"
    with pytest.raises(PtxError, match="initial values"):
        parse_module(too_many)


def test_a_text_of_more_words_than_a_bound_is_refused_before_it_takes_all_memory(monkeypatch):
    monkeypatch.setattr("rrto_ros.devices.cpu.ptx.lexer.MAX_TOKENS", 1000)
    with pytest.raises(PtxError, match="more than 1000 words"):
        parse_module(HEAD + ".global .u32 x[2000][1] = {" + "{1}," * 2000 + "};")


def test_directives_that_change_nothing_are_skipped():
    module = parse_module(
        HEAD
        + """
      .file 1 "a.cu"
      .weak .func helper() .noreturn ;
      .visible .entry k(.param .u64 .ptr .global .align 16 a)
      .maxntid 128, 2, 1
      .minnctapersm 2
      .pragma "nounroll";
      { .loc 1 2 3
        /* a
           comment */ ret; // end
      }
      .section .debug_str { .b8 1, 2 }"""
    )
    assert module.functions["k"].maxntid == (128, 2, 1)
    assert len(module.entries) == 1


def test_parameters_are_placed_as_the_abi_says():
    program = prepare(
        kernel("ret;", ".param .u8 a, .param .u64 b, .param .align 16 .b8 c[20], .param .f32 d")
    )
    assert program.kernels[0].layout.params == ((0, 1), (8, 8), (16, 20), (36, 4))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("frobnicate.f32 %f0, %f0;", "frobnicate.f32"),
        ("tex.2d.v4.f32.f32 {%f0, %f0, %f0, %f0}, [t, {%f0, %f0}];", "tex.2d.v4.f32.f32"),
        ("rsqrt.rz.f64 %d0, %d0;", "rsqrt.rz.f64"),
        ("bar.sync 1, 2048;", "bar.sync.*up to 1024 threads"),
        ("bar.sync 16;", "bar.sync.*barriers 0 to 15"),
        ("bar.red.popc.u32 %r0, 1, 64, %p0;", "bar.red.popc.u32.*part of the block"),
        ("popc.f32 %r0, %f0;", "popc.f32"),
        ("ex2.approx.s32 %r0, %r0;", "ex2.approx.s32"),
        ("atom.global.min.f32 %f0, [%d0], %f0;", "atom.global.min.f32"),
        ("red.global.add.v2.u32 [%d0], {%r0, %r0};", "red.global.add.v2.u32"),
        ("cp.async.bulk.commit_group;", "cp.async.bulk"),
        ("call vprintf, ();", "vprintf"),
        ("mov.u32 %r0, %envreg3;", "envreg3"),
        ("bra NOWHERE;", "NOWHERE"),
        ("add.u32 %r0, %r0, %r9;", "r9"),
        ("ld.global.u32 %r0, %r0;", "ld.global.u32"),
        ("add.u32 %r0;", "add.u32"),
        ("mov.u32 %r0, %p0;", "predicate"),
    ],
)
def test_unsupported_code_is_refused_by_name(body, names):
    text = kernel(
        ".reg .f32 %f<1>; .reg .f64 %d<1>; .reg .b32 %r<1>; .reg .pred %p<1>;" + body + " ret;"
    )
    with pytest.raises(PtxError, match=names) as caught:
        check(text)
    assert caught.value.result == CUresult.INVALID_PTX


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (".shared .u32 x = 5;", "x: .shared memory has no initial values"),
        (
            ".global .u32 y; .global .u8 x[4] = {0xFF(y), 0xFF00(y), 1, 2};",
            "x .* part of an address",
        ),
        (".global .u32 y; .global .u8 x[8] = {0xFE(y), 1};", "one byte of an address"),
        (".global .u32 y; .global .u32 x = y;", "x is too narrow"),
        (".global .u32 x = nowhere;", "x is too narrow"),
        (".global .u64 x = nowhere;", "nowhere"),
        (".global .u32 x[2] = {1, 2, 3};", "more initial values"),
        (".global .u32 x[2][2] = {{1}, {2}, {3}};", "more initial values"),
        (".global .u32 x[2] = {{1}, {2, 3}};", "does not fit the array"),
        (".global .u32 x[2][4000000000] = {{1}, {2}};", "initial values"),
        (".global .u32 x = {;", "line"),
    ],
)
def test_initial_values_that_do_not_fit_are_refused(variable, names):
    with pytest.raises(PtxError, match=names):
        facts_of(prepare(HEAD + variable + " .visible .entry k() { ret; }"))


def test_a_kernel_that_calls_a_kernel_is_refused():
    text = HEAD + ".visible .entry k() { call k, (); ret; }"
    with pytest.raises(PtxError, match=r"line .* k is a kernel, which only a launch starts"):
        prepare(text)


def test_functions_that_are_inlined_too_deep_are_refused():
    deep = "".join(f".func f{k}() {{ call f{k + 1}, (); ret; }}\n" for k in range(80))
    text = HEAD + deep + ".func f80() { ret; }\n.visible .entry k() { call f0, (); ret; }"
    with pytest.raises(PtxError, match="inlined more than 64 deep"):
        prepare(text)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_text_cut_anywhere_never_breaks_the_parser(path):
    text = path.read_text()
    for cut in range(0, len(text), 23):
        try:
            check(text[:cut])
        except PtxError:
            continue
        # What is accepted lost only blank space, comments or a whole later function.
        assert text[:cut].count("{") == text[:cut].count("}")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=' \n.%@!{}[]()<>,;:|+-=_rdpfxe019abmovldtu"/*', max_size=200))
def test_garbage_is_refused_quickly(noise):
    for text in (noise, kernel(noise), HEAD + noise):
        with contextlib.suppress(PtxError):
            check(text)


def test_deeply_nested_input_does_not_exhaust_the_stack():
    prepare(kernel("{" * 5000 + "}" * 5000 + "ret;"))
    with pytest.raises(PtxError):
        prepare(kernel("mov.u32 %r, " + "{" * 5000))


def test_the_table_of_instructions_can_be_listed():
    table = supported_instructions()
    assert {"add", "fma", "ld", "st", "atom", "shfl", "bar", "cvt"} <= set(table)
    assert all(table.values())


def test_the_alignment_of_a_pointee_does_not_move_the_parameter():
    program = prepare(
        kernel(
            "ret;",
            ".param .u32 n, .param .u64 .ptr .align 1 a, "
            ".param .u32 m, .param .u64 .ptr .global .align 64 b",
        )
    )
    assert program.kernels[0].layout.params == ((0, 4), (8, 8), (16, 4), (24, 8))
