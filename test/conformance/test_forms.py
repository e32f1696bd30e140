"""Forms of instructions that compilers and assembler programmers write now and then."""

import numpy as np
import pytest

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


def run(harness, body: str, *arrays: np.ndarray, functions: str = "", threads: int = 64):
    """Runs a kernel over arrays %rd1, %rd2 ...; the results lie in the first."""
    params = ", ".join(f".param .u64 p{i}" for i in range(len(arrays)))
    loads = "".join(f"ld.param.u64 %rd{i + 1},[p{i}];" for i in range(len(arrays)))
    text = (
        HEAD
        + functions
        + f""".visible .entry k({params}) {{
 .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .pred %p<4>;
 {loads} mov.u32 %r39,%tid.x; mul.wide.u32 %rd19,%r39,4; mul.wide.u32 %rd18,%r39,16; {body} }}"""
    )
    return harness.launch(harness.load(text), "k", (2, 1, 1), (threads, 1, 1), list(arrays))[0]


def test_vector_registers_are_read_and_written_whole_and_by_elements(harness):
    data = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    found = run(
        harness,
        """
 .reg .v4 .f32 v; .reg .v4 .f32 w<3>; .reg .v2 .b32 h;
 add.u64 %rd2,%rd2,%rd18; add.u64 %rd1,%rd1,%rd18; ld.global.v4.f32 v,[%rd2];
 mov.v4.f32 w2,v; add.f32 w2.x,v.y,v.z; mov.v4.f32 w1,{v.w,w2.x,w2.y,v.x};
 mov.b64 h,%rd18; cvt.rn.f32.u32 w1.w,h.x; st.global.v4.f32 [%rd1],w1; ret;""",
        np.zeros_like(data),
        data,
    )
    wanted = np.stack(
        [data[:, 3], data[:, 1] + data[:, 2], data[:, 1], 16 * np.arange(64, dtype=np.float32)], 1
    )
    assert (found == wanted).all()


def test_eight_values_are_moved_at_once(harness):
    names = [f"%r{i}" for i in range(1, 9)]
    found = run(
        harness,
        "".join(f"add.u32 {n},%r39,{i};" for i, n in enumerate(names))
        + f"""
 mov.v8.b32 {{{",".join(f"%r{i}" for i in range(11, 19))}}},{{{",".join(reversed(names))}}};
 add.u64 %rd1,%rd1,%rd18; st.global.v4.b32 [%rd1],{{%r11,%r12,%r13,%r18}}; ret;""",
        np.zeros((64, 4), np.uint32),
    )
    lanes = np.arange(64)[:, None]
    assert (found == lanes + np.array([7, 6, 5, 0])).all()


def test_moved_values_may_change_places(harness):
    found = run(
        harness,
        """mov.u32 %r1,3; add.u32 %r2,%r39,5; mov.v2.b32 {%r1,%r2},{%r2,%r1};
 add.u64 %rd1,%rd1,%rd19; sub.u32 %r1,%r1,%r2; st.global.u32 [%rd1],%r1; ret;""",
        np.zeros(64, np.uint32),
    )
    assert (found == np.arange(64) + 2).all()


def test_functions_return_predicates(harness):
    functions = """.func (.reg .pred r) above(.reg .u32 x) { setp.gt.u32 r,x,40; ret; }
.func (.reg .pred r) inverse(.reg .pred x) { not.pred r,x; ret; }
"""
    found = run(
        harness,
        """call (%p1),above,(%r39); call (%p2),inverse,(%p1);
 selp.u32 %r1,1,0,%p1; selp.u32 %r2,2,0,%p2; or.b32 %r1,%r1,%r2; add.u64 %rd1,%rd1,%rd19;
 st.global.u32 [%rd1],%r1; ret;""",
        np.zeros(64, np.uint32),
        functions=functions,
    )
    assert (found == np.where(np.arange(64) > 40, 1, 2)).all()


def test_a_register_plus_a_number_is_an_operand(harness):
    found = run(
        harness,
        """add.u64 %rd1,%rd1,%rd19; add.u32 %r1,%r39,1; setp.lt.u32 %p1,%r39,50;
 st.global.u32 [%rd1],%r1+6; @%p1 st.global.u32 [%rd1],%r1-1; ret;""",
        np.zeros(64, np.uint32),
    )
    assert (found == np.where(np.arange(64) < 50, np.arange(64), np.arange(64) + 7)).all()


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("form", ["whole", "part", "ignored"])
def test_asynchronous_copies_are_there_after_the_wait(harness, size, form):
    words = size // 4
    data = np.arange(1, 64 * words + 1, dtype=np.uint32).reshape(64, words)
    wanted_bytes = np.array([i % (size + 1) for i in range(64)], np.uint32)
    extra = {"whole": "", "part": ", %r5", "ignored": ", %p1"}[form]
    level = "cg" if size == 16 else "ca"
    found = run(
        harness,
        f"""
 .shared .align 16 .b8 s[1024]; mul.wide.u32 %rd9,%r39,{size}; cvt.u32.u64 %r1,%rd9;
 mov.u32 %r2,s; add.u32 %r1,%r1,%r2; add.u64 %rd4,%rd2,%rd9; add.u64 %rd1,%rd1,%rd9;
 add.u64 %rd3,%rd3,%rd19; ld.global.u32 %r5,[%rd3]; setp.gt.u32 %p1,%r39,20;
 setp.ne.u32 %p2,%r39,9; st.shared.u32 [%r1],77;
 @%p2 cp.async.{level}.shared.global.L2::128B [%r1],[%rd4],{size}{extra};
 cp.async.commit_group; cp.async.wait_group 0; cp.async.wait_all; bar.sync 0;
 mov.u32 %r8,0; LOOP: ld.shared.u32 %r7,[%r1]; st.global.u32 [%rd1],%r7;
 add.u32 %r1,%r1,4; add.u64 %rd1,%rd1,4; add.u32 %r8,%r8,1; setp.lt.u32 %p3,%r8,{words};
 @%p3 bra LOOP; ret;""",
        np.zeros_like(data),
        data,
        wanted_bytes,
    )
    raw = data.copy().view(np.uint8).reshape(64, size)
    if form == "part":
        raw[np.arange(size)[None, :] >= wanted_bytes[:, None]] = 0
    elif form == "ignored":
        raw[21:] = 0
    wanted = raw.view(np.uint32).copy()
    wanted[9, 0], wanted[9, 1:] = 77, found[9, 1:]
    assert (found == wanted).all()


def test_what_is_not_wanted_of_a_copy_is_not_read(harness):
    found = run(
        harness,
        """.shared .align 16 .b8 s[1024]; cvt.u32.u64 %r1,%rd18; mov.u32 %r2,s;
 add.u32 %r1,%r1,%r2; mov.u64 %rd4,%rd18; mov.u32 %r5,0;
 cp.async.cg.shared.global [%r1],[%rd4],16,%r5;
 cp.async.wait_all; ld.shared.v4.u32 {%r11,%r12,%r13,%r14},[%r1]; or.b32 %r11,%r11,%r14;
 add.u64 %rd1,%rd1,%rd19; st.global.u32 [%rd1],%r11; ret;""",
        np.ones(64, np.uint32),
    )
    assert (found == 0).all()


def test_policies_of_caches_change_nothing(harness):
    data = np.arange(64, dtype=np.uint32)
    found = run(
        harness,
        """createpolicy.fractional.L2::evict_last.b64 %rd5,1.0;
 createpolicy.fractional.L2::evict_first.L2::evict_unchanged.b64 %rd6,0.5;
 createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %rd7,[%rd2],256,256;
 add.u64 %rd2,%rd2,%rd19; add.u64 %rd1,%rd1,%rd19;
 ld.global.L2::cache_hint.u32 %r1,[%rd2],%rd5; st.global.L2::cache_hint.u32 [%rd1],%r1,%rd6;
 ret;""",
        np.zeros_like(data),
        data,
    )
    assert (found == data).all()


@pytest.mark.parametrize("form", ["volatile", "relaxed.gpu", "acquire.gpu"])
@pytest.mark.parametrize("threads", [1, 32])
def test_a_thread_that_waits_for_another_block_sees_what_it_wrote(harness, form, threads):
    # Both blocks run at once on the two workers; a load that is done once only waits for ever.
    store = "st.volatile.global" if form == "volatile" else "st.release.gpu.global"
    found = run(
        harness,
        f"""mov.u32 %r1,%ctaid.x; setp.eq.u32 %p1,%r1,0; @%p1 bra WAIT;
 st.global.u32 [%rd1+4],7; {store}.u32 [%rd1],1; ret;
 WAIT: ld.{form}.global.u32 %r2,[%rd1]; setp.eq.u32 %p2,%r2,0; @%p2 bra WAIT;
 ld.{form}.global.u32 %r3,[%rd1+4]; st.global.u32 [%rd1+8],%r3; ret;""",
        np.zeros(3, np.uint32),
        threads=threads,
    )
    assert found.tolist() == [1, 7, 7]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("space", [".shared", ""])
def test_matrices_are_loaded_by_a_warp(harness, count, trans, space):
    rng = np.random.default_rng(count)
    rows = rng.integers(0, 1 << 16, (2, 32, 8), dtype=np.uint16)  # of two warps, in no order
    order = np.stack([rng.permutation(32) for _ in range(2)]).astype(np.uint32)
    registers = ",".join(f"%r{i + 1}" for i in range(count))
    address = "%r20" if space else "%rd7"
    found = run(
        harness,
        f"""
 .shared .align 16 .b8 s[1024]; mul.wide.u32 %rd9,%r39,{4 * count}; add.u64 %rd1,%rd1,%rd9;
 add.u64 %rd2,%rd2,%rd18; add.u64 %rd3,%rd3,%rd19; ld.global.v4.b32 {{%r5,%r6,%r7,%r8}},[%rd2];
 mov.u32 %r9,s; shl.b32 %r10,%r39,4; add.u32 %r10,%r10,%r9;
 st.shared.v4.b32 [%r10],{{%r5,%r6,%r7,%r8}}; bar.sync 0;
 ld.global.u32 %r11,[%rd3]; and.b32 %r12,%r39,32; add.u32 %r11,%r11,%r12; shl.b32 %r11,%r11,4;
 add.u32 %r20,%r9,%r11; and.b32 %r13,%r39,31; setp.ge.u32 %p1,%r13,{8 * count};
 @%p1 mov.u32 %r20,0x7ffffff0; cvt.u64.u32 %rd7,%r20; cvta.shared.u64 %rd7,%rd7;
 ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {{{registers}}},[{address}];
 st.shared.v4.b32 [%r10],{{0,0,0,0}};
 {"".join(f"st.global.u32 [%rd1+{4 * i}],%r{i + 1};" for i in range(count))} ret;""",
        np.zeros((2, 32, count), np.uint32),
        rows,
        order,
    )
    wanted = np.zeros((2, 32, count, 2), np.uint16)
    for warp, lane, m in np.ndindex(2, 32, count):
        matrix = rows[warp][order[warp][8 * m : 8 * m + 8]]
        matrix = matrix.T if trans else matrix
        wanted[warp, lane, m] = matrix[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2]
    assert (found == wanted.view(np.uint32)[..., 0]).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("space", [".shared", ".shared::cta"])
def test_matrices_are_stored_by_a_warp(harness, count, trans, space):
    rng = np.random.default_rng(count)
    pairs = rng.integers(0, 1 << 16, (2, 32, count, 2), dtype=np.uint16)
    order = np.stack([rng.permutation(32) for _ in range(2)]).astype(np.uint32)
    registers = ",".join(f"%r{i + 1}" for i in range(count))
    take = "".join(f"ld.global.u32 %r{i + 1},[%rd2+{4 * i}];" for i in range(count))
    found = run(
        harness,
        f"""
 .shared .align 16 .b8 s[1024]; mul.wide.u32 %rd9,%r39,{4 * count}; add.u64 %rd2,%rd2,%rd9;
 {take} add.u64 %rd1,%rd1,%rd18; add.u64 %rd3,%rd3,%rd19; mov.u32 %r9,s; shl.b32 %r10,%r39,4;
 add.u32 %r10,%r10,%r9; st.shared.v4.b32 [%r10],{{0,0,0,0}}; bar.sync 0;
 ld.global.u32 %r11,[%rd3]; and.b32 %r12,%r39,32; add.u32 %r11,%r11,%r12; shl.b32 %r11,%r11,4;
 add.u32 %r20,%r9,%r11; and.b32 %r13,%r39,31; setp.ge.u32 %p1,%r13,{8 * count};
 @%p1 mov.u32 %r20,0x7ffffff0;
 stmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 [%r20],{{{registers}}};
 bar.sync 0; ld.shared.v4.b32 {{%r5,%r6,%r7,%r8}},[%r10];
 st.global.v4.b32 [%rd1],{{%r5,%r6,%r7,%r8}}; ret;""",
        np.zeros((2, 32, 8), np.uint16),
        pairs.view(np.uint32)[..., 0],
        order,
    )
    wanted = np.zeros((2, 32, 8), np.uint16)
    for warp, m in np.ndindex(2, count):
        matrix = pairs[warp, :, m].reshape(8, 8)
        wanted[warp][order[warp][8 * m : 8 * m + 8]] = matrix.T if trans else matrix
    assert (found == wanted).all()


def test_functions_take_and_return_vector_registers(harness):
    functions = """.func (.reg .v2 .u32 o) turned(.reg .v2 .u32 i, .reg .u32 by)
{ .reg .v2 .u32 t; mov.v2.u32 t,{i.y,i.x}; add.u32 t.x,t.x,by; mov.v2.u32 o,t; ret; }
"""
    found = run(
        harness,
        """.reg .v2 .u32 a; mov.v2.u32 a,{%r39,5}; call (a),turned,(a,%r39);
 call (a),turned,(a,1); mul.lo.u32 %r1,a.y,1000; add.u32 %r1,%r1,a.x; add.u64 %rd1,%rd1,%rd19;
 st.global.u32 [%rd1],%r1; ret;""",
        np.zeros(64, np.uint32),
        functions=functions,
    )
    lanes = np.arange(64)
    assert (found == (5 + lanes) * 1000 + lanes + 1).all()


def test_functions_have_variables_of_the_module_of_their_own(harness):
    functions = """.global .u32 table[2] = {100,200};
.func (.reg .u32 o) mine(.reg .u32 i) { .reg .u64 %a; .global .u32 table[2] = {7,8};
 .const .u32 more = 30; mul.wide.u32 %a,i,4; .reg .u64 %t; mov.u64 %t,table; add.u64 %a,%a,%t;
 .reg .u32 %m; ld.const.u32 %m,[more]; ld.global.u32 o,[%a]; add.u32 o,o,%m; ret; }
"""
    found = run(
        harness,
        """.global .u32 table = 1000; and.b32 %r1,%r39,1; call (%r2),mine,(%r1);
 ld.global.u32 %r3,[table]; add.u32 %r2,%r2,%r3; add.u64 %rd1,%rd1,%rd19;
 st.global.u32 [%rd1],%r2; ret;""",
        np.zeros(64, np.uint32),
        functions=functions,
    )
    assert (found == 1037 + np.arange(64) % 2).all()
