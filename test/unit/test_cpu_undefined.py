"""What is undefined in LLVM's IR and defined (or an error) in PTX keeps PTX's meaning.

docs/ptx_support.md lists these. Kernels that may kill their process run in one of their own.
"""

import pytest
from support.faulting import ends

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
LANES = (1, 0)


def kernel(body: str, params: str = ".param .u64 p, .param .u32 c") -> str:
    """A kernel over a buffer %rd1, a 32-bit argument %r1 and the thread's number %r2."""
    return HEAD + f""".visible .entry k({params}) {{
 .reg .b64 %rd<20>; .reg .b32 %r<20>; .reg .b16 %h<9>; .reg .f32 %f<20>; .reg .f64 %fd<9>;
 .reg .pred %p<9>;
 ld.param.u64 %rd1,[p]; ld.param.u32 %r1,[c]; mov.u32 %r2,%tid.x;
 {body} }}
"""


def in_both(text: str, *arguments: int, threads: int = 32) -> list[tuple[str, list[int]]]:
    """How a kernel ends thread by thread and in vectors."""
    return ends([(text, lanes, list(arguments)) for lanes in LANES], threads)


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
    text = kernel(f"setp.eq.u32 %p1,%r1,0; @%p1 bra OK; {NULL_STORES[what]}"
                  "st.global.u32 [%rd1+4],9; ret; OK: st.global.u32 [%rd1+4],8; ret;")
    for how, words in in_both(text, 0):
        assert (how, words[1]) == ("ok", 8)
    assert [how for how, _ in in_both(text, 1)] == ["SIGSEGV", "SIGSEGV"]


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
    text = kernel(f"{LOCAL_BRANCHES[what]} mul.wide.u32 %rd3,%r2,4; add.u64 %rd3,%rd1,%rd3;"
                  "setp.eq.u32 %p1,%r5,77; mov.u32 %r7,0; @%p1 bra A; add.u32 %r7,%r7,1; A:"
                  "setp.ne.u32 %p2,%r5,77; @%p2 bra B; add.u32 %r7,%r7,2; B:"
                  "xor.b32 %r8,%r5,%r5; shl.b32 %r8,%r8,4; or.b32 %r7,%r7,%r8;"
                  "st.global.u32 [%rd3],%r7; ret;")
    for how, words in in_both(text, 1):
        assert how == "ok"
        assert set(words[:32]) <= {1, 2}


ROW = ("mul.wide.u32 %rd3,%r2,4; add.u64 %rd2,%rd1,%rd3; cvt.u64.u32 %rd4,%r1;"
       "add.u64 %rd2,%rd2,%rd4;")
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
    text = kernel(f"{ROW} setp.eq.u32 %p1,%r2,99; @%p1 ld.global.u32 %r5,[%rd2];"
                  "@%p1 st.global.u32 [%rd2],%r5; @%p1 red.global.add.u32 [%rd2],1;"
                  "mul.wide.u32 %rd5,%r5,%r5; @%p1 ld.global.u64 %rd6,[%rd5]; ret;")
    assert [how for how, _ in in_both(text, 1)] == ["ok", "ok"]


def test_memcheck_names_the_misaligned_access(tmp_path):
    device = CpuDevice(threads=1, arena_base=0x3100_0000_0000, memcheck=True, cache_bytes=0,
                       limit_bytes=1 << 20, arena_bytes=1 << 24)
    base = device.info.arena_base
    device.mem_alloc(base, 256, 0)
    device.module_load(1, kernel(f"{ROW}\n ld.global.u32 %r5,[%rd2]; ret;").encode())
    params = base.to_bytes(8, "little") + (2).to_bytes(4, "little")
    with pytest.raises(CudaError, match=r"line 9: thread \(0, 0, 0\).*no multiple of 4") as caught:
        device.launch(Launch(1, 0, (1, 1, 1), (4, 1, 1), 0, params), 0)
    assert caught.value.result == CUresult.MISALIGNED_ADDRESS
    device.close()
