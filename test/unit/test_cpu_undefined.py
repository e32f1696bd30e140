"""What is undefined in LLVM's IR and defined (or an error) in PTX keeps PTX's meaning.

docs/ptx_support.md lists these. Kernels that may kill their process run in one of their own.
"""

import re
from functools import cache
from pathlib import Path

import pytest
from support.faulting import ends, made_device, run

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
LANES = (1, 0)


def kernel(body: str, params: str = ".param .u64 p, .param .u32 c") -> str:
    """A kernel over a buffer %rd1, a 32-bit argument %r1 and the thread's number %r2."""
    return (
        HEAD
        + f""".visible .entry k({params}) {{
 .reg .b64 %rd<20>; .reg .b32 %r<20>; .reg .b16 %h<9>; .reg .f32 %f<20>; .reg .f64 %fd<9>;
 .reg .pred %p<9>;
 ld.param.u64 %rd1,[p]; ld.param.u32 %r1,[c]; mov.u32 %r2,%tid.x;
 {body} }}
"""
    )


def in_both(text: str, *arguments: int, threads: int = 32) -> list[tuple[str, list[int]]]:
    """How a kernel ends thread by thread and in vectors."""
    return [run(device, text, list(arguments), threads) for device in devices()]


@cache
def devices() -> tuple[CpuDevice, ...]:
    return tuple(made_device(lanes, 0x3200_0000_0000 + (lanes << 40)) for lanes in LANES)


def apart(text: str, *arguments: int) -> list[tuple[str, list[int]]]:
    """The same where a kernel may kill its process."""
    return ends([(text, lanes, list(arguments)) for lanes in LANES], 32)


NULL_STORES = {
    "constant": "mov.u64 %rd2,0; st.global.u32 [%rd2],1;",
    "immediate": "st.global.u32 [0],1;",
    "per thread": "mul.wide.u32 %rd2,%r2,0; st.global.u32 [%rd2],%r2;",
    "side by side": "mul.wide.u32 %rd2,%r2,4; st.global.u32 [%rd2],%r2;",
    "load": "mov.u64 %rd2,0; ld.global.u32 %r5,[%rd2]; st.global.u32 [%rd1+8],%r5;",
    "volatile": "mov.u64 %rd2,0; ld.volatile.global.u32 %r5,[%rd2];",
    "atomic": "mov.u64 %rd2,0; red.global.add.u32 [%rd2],1;",
    "vector": "mov.u64 %rd2,0; st.global.v4.u32 [%rd2],{%r1,%r1,%r1,%r1};",
}


@pytest.mark.parametrize("what", NULL_STORES)
def test_an_access_to_null_faults_and_the_other_branch_does_not_run(what):
    text = kernel(
        f"setp.eq.u32 %p1,%r1,0; @%p1 bra OK; {NULL_STORES[what]}"
        "st.global.u32 [%rd1+4],9; ret; OK: st.global.u32 [%rd1+4],8; ret;"
    )
    for how, words in apart(text, 0):
        assert (how, words[1]) == ("ok", 8)
    assert [how for how, _ in apart(text, 1)] == ["SIGSEGV", "SIGSEGV"]


LOCAL_BRANCHES = {
    "a variable that was never written": ".local .align 8 .b8 v[64]; ld.local.u32 %r5,[v+8];",
    "beyond the variable": ".local .align 8 .b8 v[64]; ld.local.u32 %r5,[v+72];",
    "before it, through its address": ".local .align 8 .b8 v[64]; mov.u64 %rd2,v;"
    "ld.local.u32 %r5,[%rd2-0];",
    "a register": "mov.u32 %r5,%r9;",
    "the carry flag": "addc.u32 %r5,%r1,%r1;",
    "the parameter of a function": "{ .param .b32 a; ld.param.u32 %r5,[a]; }",
}


@pytest.mark.parametrize("what", LOCAL_BRANCHES)
def test_a_value_that_nobody_wrote_is_one_value_and_only_one_branch_runs(what):
    text = kernel(
        f"{LOCAL_BRANCHES[what]} mul.wide.u32 %rd3,%r2,4; add.u64 %rd3,%rd1,%rd3;"
        "setp.eq.u32 %p1,%r5,77; mov.u32 %r7,0; @%p1 bra A; add.u32 %r7,%r7,1; A:"
        "setp.ne.u32 %p2,%r5,77; @%p2 bra B; add.u32 %r7,%r7,2; B:"
        "xor.b32 %r8,%r5,%r5; shl.b32 %r8,%r8,4; or.b32 %r7,%r7,%r8;"
        "st.global.u32 [%rd3],%r7; ret;"
    )
    for how, words in in_both(text, 1):
        assert how == "ok"
        assert set(words[:32]) <= {1, 2}


ROW = (
    "mul.wide.u32 %rd3,%r2,4; add.u64 %rd2,%rd1,%rd3; cvt.u64.u32 %rd4,%r1;add.u64 %rd2,%rd2,%rd4;"
)
MISALIGNED = {
    # Of %rd2 = buffer + 4 * thread + argument.
    "row load": "ld.global.u32 %r5,[%rd2];",
    "row store": "st.global.u32 [%rd2],%r5;",
    "guarded": "setp.eq.u32 %p1,%r2,3; @%p1 ld.global.u32 %r5,[%rd2];",
    "uniform": "sub.u64 %rd2,%rd2,%rd3; ld.global.u32 %r5,[%rd2];",
    "gather": "and.b32 %r6,%r2,3; mul.wide.u32 %rd5,%r6,4; add.u64 %rd5,%rd5,%rd4;"
    "add.u64 %rd5,%rd5,%rd1; ld.global.u32 %r5,[%rd5];",
    "one lane": "setp.eq.u32 %p1,%r2,17; sub.u64 %rd5,%rd2,%rd4; selp.u64 %rd2,%rd2,%rd5,%p1;"
    "st.global.u32 [%rd2],%r5;",
    "vector": "shl.b64 %rd5,%rd3,2; add.u64 %rd5,%rd5,%rd1; shl.b64 %rd4,%rd4,3;"
    "add.u64 %rd5,%rd5,%rd4; ld.global.v4.u32 {%r5,%r6,%r7,%r8},[%rd5];",
    "atomic": "red.global.add.u32 [%rd2],1;",
    "atomic of one thread": "setp.eq.u32 %p1,%r2,9; @%p1 atom.global.add.u32 %r5,[%rd2],1;",
    "shared": ".shared .align 16 .b8 s[256]; mov.u32 %r6,s; add.u32 %r6,%r6,%r1;"
    "st.shared.u32 [%r6],%r5;",
    "local": ".local .align 16 .b8 v[16]; mov.u64 %rd5,v; add.u64 %rd5,%rd5,%rd4;"
    "st.local.u32 [%rd5],%r5;",
    "two bytes": "cvt.u64.u32 %rd6,%r2; add.u64 %rd5,%rd2,%rd6; add.u64 %rd5,%rd5,%rd6;"
    "ld.global.u16 %h1,[%rd5];",
}


@pytest.mark.parametrize("what", MISALIGNED)
def test_an_access_that_is_not_at_a_multiple_of_its_size_fails_the_launch(what):
    text = kernel(f"{ROW} {MISALIGNED[what]} ret;")
    odd = [how for how, _ in in_both(text, 1)]
    assert odd == ["MISALIGNED_ADDRESS", "MISALIGNED_ADDRESS"]
    # With 4 bytes more the same access is one that may be; v4 moves by 8 times that.
    assert [how for how, _ in in_both(text, 4)] == ["ok", "ok"]


def test_an_access_that_no_thread_makes_is_not_misaligned():
    text = kernel(
        f"{ROW} setp.eq.u32 %p1,%r2,99; @%p1 ld.global.u32 %r5,[%rd2];"
        "@%p1 st.global.u32 [%rd2],%r5; @%p1 red.global.add.u32 [%rd2],1;"
        "mul.wide.u32 %rd5,%r5,%r5; @%p1 ld.global.u64 %rd6,[%rd5]; ret;"
    )
    assert [how for how, _ in in_both(text, 1)] == ["ok", "ok"]


def test_memcheck_names_the_misaligned_access():
    device = CpuDevice(
        threads=1,
        arena_base=0x3100_0000_0000,
        memcheck=True,
        cache_bytes=0,
        limit_bytes=1 << 20,
        arena_bytes=1 << 24,
    )
    base = device.info.arena_base
    device.mem_alloc(base, 256, 0)
    device.module_load(1, kernel(f"{ROW}\n ld.global.u32 %r5,[%rd2]; ret;").encode())
    params = base.to_bytes(8, "little") + (2).to_bytes(4, "little")
    with pytest.raises(CudaError, match=r"line 9: thread \(0, 0, 0\).*no multiple of 4") as caught:
        device.launch(Launch(1, 0, (1, 1, 1), (4, 1, 1), 0, params), 0)
    assert caught.value.result == CUresult.MISALIGNED_ADDRESS
    device.close()


def test_an_endless_loop_without_effects_is_ended_and_not_removed():
    text = kernel("mov.u32 %r5,0; L: add.u32 %r5,%r5,1; bra L; st.global.u32 [%rd1],%r5; ret;")
    assert [how for how, _ in in_both(text, 0)] == ["LAUNCH_TIMEOUT", "LAUNCH_TIMEOUT"]
    # Where some threads only stay in it, the others' results do not come either.
    text = kernel("setp.eq.u32 %p1,%r2,5; L: @%p1 bra L; st.global.u32 [%rd1],%r2; ret;")
    assert [how for how, _ in in_both(text, 0)] == ["LAUNCH_TIMEOUT", "LAUNCH_TIMEOUT"]


# Each gives words 0 to 31 of the buffer, one for each thread, from the argument %r1 and %r2.
NO_TRAPS = {
    "a quotient by zero": (
        ("sub.u32 %r6,%r1,%r1; div.s32 %r5,%r2,%r6; div.u32 %r7,%r2,%r6;and.b32 %r5,%r5,%r7;"),
        lambda t, a: -1,
    ),
    "a remainder by zero": ("sub.u32 %r6,%r1,%r1; rem.s32 %r5,%r2,%r6;", lambda t, a: t),
    "a constant quotient by zero": ("div.u32 %r5,7,0;", lambda t, a: -1),
    "the quotient that wraps": (
        (
            "mov.u32 %r6,0x80000000; sub.u32 %r7,0,%r1; div.s32 %r5,%r6,%r7;"
            "rem.s32 %r7,%r6,%r7; add.u32 %r5,%r5,%r7;"
        ),
        lambda t, a: 0x80000000,
    ),
    "a shift beyond the width": (
        ("add.u32 %r6,%r2,32; shl.b32 %r5,%r1,%r6; shr.s32 %r7,-5,%r6;sub.u32 %r5,%r5,%r7;"),
        lambda t, a: 1,
    ),
    "a constant shift beyond the width": (
        ("shl.b32 %r5,%r2,32; shr.u32 %r6,%r2,99;or.b32 %r5,%r5,%r6;"),
        lambda t, a: 0,
    ),
    "a sum that wraps": (
        ("add.s32 %r6,%r2,0x7fffffff; setp.lt.s32 %p1,%r6,%r2;selp.u32 %r5,1,0,%p1;"),
        lambda t, a: int(t > 0),
    ),
    "a float beyond the integers": (
        ("cvt.rn.f32.u32 %f1,%r2; add.f32 %f1,%f1,0f7149F2CA;cvt.rzi.s32.f32 %r5,%f1;"),
        lambda t, a: 0x7FFFFFFF,
    ),
    "NaN as an integer": ("mov.f32 %f1,0f7FC00000; cvt.rzi.s32.f32 %r5,%f1;", lambda t, a: 0),
    "the zeros before zero": (
        ("sub.u32 %r6,%r2,%r2; clz.b32 %r5,%r6; bfind.u32 %r6,%r6;sub.u32 %r5,%r5,%r6;"),
        lambda t, a: 33,
    ),
    "the least integer's magnitude": (
        ("mov.u32 %r6,0x80000000; abs.s32 %r5,%r6; neg.s32 %r7,%r6;and.b32 %r5,%r5,%r7;"),
        lambda t, a: 0x80000000,
    ),
    "a field beyond the register": (
        ("bfe.u32 %r5,%r1,200,255; bfi.b32 %r6,-1,0,40,7;or.b32 %r5,%r5,%r6;"),
        lambda t, a: 0,
    ),
    "a lane that is not there": ("shfl.sync.idx.b32 %r5|%p1,%r2,99,0x1f,-1;", lambda t, a: 3),
    "a table's entry that is not there": (
        (
            "mov.u32 %r6,9; T: .branchtargets A,B; brx.idx %r6,T; A: mov.u32 %r5,1; bra E;"
            "B: mov.u32 %r5,1; E:"
        ),
        lambda t, a: 1,
    ),
}


@pytest.mark.parametrize("what", NO_TRAPS)
def test_arithmetic_that_llvm_leaves_undefined_is_defined(what):
    body, wanted = NO_TRAPS[what]
    text = kernel(
        f"{body} mul.wide.u32 %rd3,%r2,4; add.u64 %rd3,%rd1,%rd3;st.global.u32 [%rd3],%r5; ret;"
    )
    for how, words in in_both(text, 1):
        assert how == "ok"
        assert words[:32] == [wanted(t, 1) & 0xFFFFFFFF for t in range(32)]


FORBIDDEN = (
    "nsw",
    "nuw",
    "exact",
    "inbounds",
    "nnan",
    "ninf",
    "nsz",
    "fast",
    "reassoc",
    "arcp",
    "contract",
    "afn",
    "nonnull",
    "dereferenceable",
    "noundef",
    "mustprogress",
    "willreturn",
    "unreachable",
    "range(",
    "assume",
    "disjoint",
    "nneg",
    "samesign",
    "undef",
    "nofree",
    "speculatable",
    "readonly",
    "readnone",
    "memory(",
)


def test_the_generated_code_promises_llvm_nothing():
    """The words of the IR that make something undefined are not in it."""
    folder = Path(__file__).resolve().parents[1] / "conformance" / "cases"
    texts = [p.read_text() for p in sorted(folder.glob("*.ptx"))]
    texts += [kernel(f"{body} st.global.u32 [%rd1],%r5; ret;") for body, _ in NO_TRAPS.values()]
    seen = 0
    for text in texts:
        for program in prepare(text).kernels:
            for lanes in (1, 16):
                block = program.function.reqntid or (64, 1, 1)
                ir = generate(program, block, lanes).text
                words = set(re.findall(r"(?<![%@\w.])(?:[a-z_]+(?![\w.:])|range\()", ir))
                assert not words & set(FORBIDDEN), (program.name, words & set(FORBIDDEN))
                # Addresses of the program are multiples of nothing; what is aligned is checked.
                assert "null_pointer_is_valid" in ir
                assert ir.count("noalias") == 1
                assert all(
                    "insertelement" in line or "shufflevector" in line
                    for line in ir.splitlines()
                    if "poison" in line
                )
                seen += 1
    assert seen > 60
