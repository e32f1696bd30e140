"""What is undefined in LLVM's IR and defined (or an error) in PTX keeps PTX's meaning.

docs/ptx_support.md lists these. Kernels that may kill their process run in one of their own.
"""

import pytest
from support.faulting import ends

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
