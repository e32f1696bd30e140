"""What a kernel may write is never too little, and what it reads alone is not in it."""

from __future__ import annotations

import struct
import time

import pytest

from rrto_ros.api.info import GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.devices.cpu.outline import LARGE_TEXT
from rrto_ros.execution.access_ranges import AccessRanges
from rrto_ros.execution.kernels.extents import Geometry
from rrto_ros.execution.kernels.writes import kernel_writes
from rrto_ros.wire.codec import OP_BY_NAME, iter_calls, pack_call

HEAD = """
.version 7.0
.target sm_80
.address_size 64
.global .align 8 .b8 counters[64];
.func (.param .b64 out) moved(.param .b64 where)
{
    .reg .b64 %x<3>;
    ld.param.b64 %x1, [where];
    add.s64 %x2, %x1, 16;
    st.param.b64 [out], %x2;
    ret;
}
.func (.param .b64 out) deeper(.param .b64 where, .param .b32 n)
{
    .reg .b64 %x<3>; .reg .b32 %y; .reg .pred %q;
    ld.param.b64 %x1, [where]; ld.param.b32 %y, [n]; add.s64 %x1, %x1, 16;
    setp.eq.u32 %q, %y, 0; @%q bra up; sub.u32 %y, %y, 1;
    { .param .b64 x; .param .b32 y; .param .b64 z; st.param.b64 [x], %x1; st.param.b32 [y], %y;
      call (z), deeper, (x, y); ld.param.b64 %x1, [z]; }
up: st.param.b64 [out], %x1; ret;
}
.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n, .param .align 8 .b8 s[16])
{
    .reg .b64 %d<12>;
    .reg .b32 %r<8>;
    .reg .f32 %f<4>;
    .reg .pred %p<2>;
    .shared .align 4 .b8 tile[64];
    .local .align 8 .b8 stack[64];
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
"""
A, B, S0, S8 = 0x10000, 0x20000, 0x30000, 0x800
"""What the arguments are: pointers, and a number that is also an offset."""
N = 7
PARAMS = struct.pack("<QQIxxxxQQ", A, B, N, S0, S8)
GEOMETRY = Geometry((2, 1, 1), (32, 1, 1))

CASES = {
    "nothing": ("ld.global.f32 %f1, [%d1];", ()),
    "its output": ("ld.global.f32 %f1, [%d1]; st.global.f32 [%d2], %f1;", (B,)),
    "with an index": ("mul.wide.u32 %d3, %r2, 4; add.s64 %d4, %d2, %d3; st.f32 [%d4], %f1;", (B,)),
    "with an index out of memory": (
        ("ld.global.s32 %r3, [%d1]; cvt.s64.s32 %d3, %r3; shl.b64 %d3, %d3, 2;"
        "add.s64 %d4, %d2, %d3; st.global.f32 [%d4], %f1;"), None),
    "behind an index out of memory": (
        ("ld.global.s32 %r3, [%d1]; mul.wide.s32 %d3, %r3, 4; add.s64 %d4, %d1, %d3;"
        "ld.global.f32 %f1, [%d4]; st.global.f32 [%d2], %f1;"), None),
    "a choice of values": (
        ("ld.global.f32 %f1, [%d1]; setp.gt.f32 %p1, %f1, 0f00000000; @%p1 bra keep;"
        "mov.f32 %f1, 0f00000000; bra meet; keep: mul.f32 %f1, %f1, %f1; meet:"
        "bar.sync 0; st.global.f32 [%d2], %f1;"), (B,)),
    "a value that a predicate chooses": (
        ("ld.global.f32 %f1, [%d1]; setp.gt.f32 %p1, %f1, 0f00000000; @!%p1 mov.f32 %f1, %f2;"
        "selp.f32 %f3, %f1, %f2, %p1; st.global.f32 [%d2], %f3;"), (B,)),
    "a choice of addresses": (
        ("ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; mov.u64 %d3, %d2; @%p1 bra meet;"
        "add.s64 %d3, %d2, 64; meet: st.global.f32 [%d3], %f1;"), None),
    "an address that a predicate chooses": (
        ("ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; selp.b64 %d3, %d1, %d2, %p1;"
        "st.global.f32 [%d3], %f1;"), None),
    "only where the data says so": (
        "ld.global.u32 %r3, [%d1]; setp.lt.u32 %p1, %r2, %r3; @%p1 st.global.f32 [%d2], %f1;",
        None),
    "only below a length out of memory": (
        ("ld.global.u32 %r3, [%d1]; setp.ge.u32 %p1, %r2, %r3; @%p1 bra done;"
        "st.global.f32 [%d2], %f1; done:"), None),
    "only if the data does not end it": (
        ("ld.global.u32 %r3, [%d1]; setp.ge.u32 %p1, %r2, %r3; @%p1 ret;"
        "st.global.f32 [%d2], %f1;"), None),
    "only if one way does not end it": (
        ("ld.global.u32 %r3, [%d1]; setp.ge.u32 %p1, %r2, %r3; @!%p1 bra on; ret; on:"
        "st.global.f32 [%d2], %f1;"), None),
    "after as many turns as the data says": (
        ("ld.global.u32 %r3, [%d1]; mov.u32 %r4, 0; again: add.u32 %r4, %r4, 1;"
        "setp.lt.u32 %p1, %r4, %r3; @%p1 bra again; st.global.f32 [%d2], %f1;"), None),
    "a loop that the data lets go on": (
        ("mov.u32 %r4, 0; again: ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0;"
        "@%p1 bra skip; add.u32 %r4, %r4, 1; skip: setp.lt.u32 %p0, %r4, 9; @%p0 bra again;"
        "st.global.f32 [%d2], %f1;"), None),
    "a loop of a given length": (
        ("mov.u32 %r4, 0; again: ld.global.f32 %f1, [%d1]; setp.gt.f32 %p1, %f1, %f2;"
        "@!%p1 bra skip; mov.f32 %f2, %f1; skip: add.u32 %r4, %r4, 1; add.s64 %d1, %d1, 4;"
        "setp.lt.u32 %p0, %r4, %r1; @%p0 bra again; st.global.f32 [%d2], %f2;"), (B,)),
    "waiting for another": (
        ("again: ld.volatile.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; @%p1 bra again;"
        "st.global.f32 [%d2], %f1;"), None),
    "a barrier where the data says so": (
        ("ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; @%p1 bra skip; bar.sync 0; skip:"
        "st.global.f32 [%d2], %f1;"), None),
    "a trap where the data says so": (
        ("ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; @%p1 trap;"
        "st.global.f32 [%d2], %f1;"), None),
    "a breakpoint where the data says so": (
        ("ld.global.u32 %r3, [%d1]; setp.eq.u32 %p1, %r3, 0; @%p1 brkpt;"
        "st.global.f32 [%d2], %f1;"), None),
    "a bin of its block's memory": (
        ("ld.global.u32 %r3, [%d1]; mov.u64 %d3, tile; mul.wide.u32 %d4, %r3, 4;"
        "add.s64 %d3, %d3, %d4; atom.shared.add.u32 %r4, [%d3], 1; st.global.f32 [%d2], %f1;"),
        None),
    "a place that an atomic gave": (
        ("atom.global.add.u32 %r3, [%d1], 1; mul.wide.u32 %d3, %r3, 4; add.s64 %d4, %d2, %d3;"
        "st.global.f32 [%d4], %f1;"), None),
    "a place that a clock gave": (
        ("mov.u32 %r3, %clock; mul.wide.u32 %d3, %r3, 4; add.s64 %d4, %d2, %d3;"
        "st.global.f32 [%d4], %f1;"), None),
    "a place that a carry of data gave": (
        ("ld.global.u32 %r3, [%d1]; add.cc.u32 %r3, %r3, %r3; addc.u32 %r4, %r2, 0;"
        "mul.wide.u32 %d3, %r4, 4; add.s64 %d4, %d2, %d3; st.global.f32 [%d4], %f1;"), None),
    "a place that a function made of data": (
        ("ld.global.u32 %r3, [%d1]; cvt.u64.u32 %d5, %r3; add.s64 %d5, %d5, %d2;"
        "{ .param .b64 x; .param .b64 y; st.param.b64 [x], %d5; call (y), moved, (x);"
        "ld.param.b64 %d3, [y]; } st.global.f32 [%d3], %f1;"), None),
    "a place that a function made which calls itself": (
        ("{ .param .b64 x; .param .b32 w; .param .b64 y; st.param.b64 [x], %d2; mov.u32 %r3, 2;"
        "st.param.b32 [w], %r3; call (y), deeper, (x, w); ld.param.b64 %d3, [y]; }"
        "st.global.f32 [%d3], %f1;"), None),
    "a table of the module": (
        ("mov.u64 %d3, counters; ld.global.u32 %r3, [%d3]; ld.global.u32 %r4, [counters+4];"
        "st.global.u32 [%d2], %r3;"), (B,)),
    "one of two": (
        "setp.eq.s32 %p1, %r1, 0; selp.b64 %d3, %d1, %d2, %p1; st.global.f32 [%d3], %f1;", (A, B)),
    "before it is defined": (
        "bra later; again: st.global.f32 [%d5], %f1; ret; later: mov.u64 %d5, %d1; bra again;",
        (A,)),
    "through another space": (
        "cvta.to.global.u64 %d3, %d2; cvta.global.u64 %d4, %d3; st.f32 [%d4], %f1;", (B,)),
    "an atomic": ("atom.global.add.u32 %r3, [%d1], 1; red.global.add.u32 [%d2], 1;", (A, B)),
    "a vector": ("st.global.v2.f32 [%d1], {%f1, %f2};", (A,)),
    "a structure's pointer": ("ld.param.u64 %d3, [s+8]; st.global.f32 [%d3], %f1;", (S8,)),
    "both of a structure": (
        "ld.param.v2.u64 {%d3, %d4}, [s]; add.s64 %d5, %d3, %d4; st.global.f32 [%d5], %f1;",
        (S0,)),
    "two halves of an argument": (
        ("ld.param.u32 %r3, [a]; ld.param.u32 %r4, [a+4]; mov.b64 %d3, {%r3, %r4};"
        "st.global.f32 [%d3], %f1;"), (A,)),
    "its block's memory": ("mov.u64 %d3, tile; st.shared.f32 [%d3], %f1; st.f32 [%d3], %f1;", ()),
    "in a function": (
        ("{ .param .b64 x; .param .b64 y; st.param.b64 [x], %d1; call (y), moved, (x);"
        "ld.param.b64 %d3, [y]; } st.global.f32 [%d3], %f1;"), (A,)),
    "through a pointer out of memory": (
        "ld.global.u64 %d3, [%d1]; st.global.f32 [%d3], %f1;", None),
    "through a spilled pointer": (
        "st.local.u64 [stack], %d1; ld.local.u64 %d3, [stack]; st.global.f32 [%d3], %f1;", None),
    "through a pointer of two halves": (
        "ld.global.v2.u32 {%r3, %r4}, [%d1]; mov.b64 %d3, {%r3, %r4}; st.global.f32 [%d3], %f1;",
        None),
    "through shifted halves": (
        ("ld.global.u32 %r3, [%d1]; cvt.u64.u32 %d3, %r3; shl.b64 %d4, %d3, 32; add.s64 %d5, %d4,"
        " %d2; st.global.f32 [%d5], %f1;"), None),
    "a pointer from an exchange": (
        "atom.global.exch.b64 %d3, [%d1], %d2; st.global.f32 [%d3], %f1;", None),
    "a module's variable": ("mov.u64 %d3, counters; st.global.u32 [%d3], %r1;", None),
    "a module's variable by name": ("red.global.add.u32 [counters], 1;", None),
    "a constant": ("mov.u64 %d3, 4096; st.global.f32 [%d3], %f1;", None),
    "something unknown": ("wmma.store.d.sync.aligned.row.m16n16k16.f32 [%d1], {%f1}, %r1;", None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_stores_are_traced_to_arguments(name):
    code, wanted = CASES[name]
    found = kernel_writes((HEAD + code + " ret; }").encode(), (8, 0))
    assert set(found) == {"k"}, "it was read"
    if wanted is None:
        assert found["k"] is None
        return
    assert found["k"] is not None
    spans = found["k"].of(PARAMS, GEOMETRY)
    assert spans is not None
    places = {at for at in (A, B, S0, S8) for s, e in spans if s < at + 0x100 and at < e}
    places |= {S0 for s, e in spans if (s, e) == (S0 + S8, S0 + S8 + 4)}
    assert places == set(wanted)


def test_what_is_no_ptx_is_not_known():
    assert kernel_writes(b"\x7fELF" + bytes(60), (8, 0)) == {}
    assert kernel_writes(b"no module", (8, 0)) == {}


def record(name, **fields):
    empty = {"u64[]": [], "bytes": b""}
    wanted = {
        n: fields.get(n, empty.get(kind, 0))
        for n, kind in OP_BY_NAME[name].fields
        if kind != "payload"
    }
    return next(iter_calls(pack_call(name, 1, **wanted)))


def launch(a, b):
    params = b"".join(v.to_bytes(8, "little") for v in (a, b, 7, 0, 0))
    sizes = dict.fromkeys([f"{of}_{axis}" for of in ("grid", "block") for axis in "xyz"], 1)
    return record("launch", module=1, params=params, **sizes)


def ranges(code="st.global.f32 [%d2], %f1;", **options):
    out = AccessRanges((8, 0), **options)
    info = ModuleInfo((KernelInfo("k", (), {}),), (GlobalInfo("counters", 1 << 40, 64),))
    out.loaded(1, info, (HEAD + code + " ret; }").encode())
    for address in (0x1000, 0x2000, 0x3000):
        out.followed(record("mem_alloc", address=address, size=0x800))
    return out


def test_a_launch_writes_what_its_stores_reach_in_allocations():
    r = ranges()
    assert r.writes(launch(0x1000, 0x2010)) == ((0x2010, 0x2014),)
    assert r.writes(launch(0x1000, 1 << 40)) == ((1 << 40, (1 << 40) + 4),)
    assert r.writes(launch(0x1000, 0x2800)) is None, "it points into no allocation"
    assert r.writes(launch(0x1000, 0x27FE)) is None, "not to its end"
    layout = r.layout
    r.followed(record("mem_free", address=0x2000))
    assert r.layout != layout
    assert r.writes(launch(0x1000, 0x2010)) is None
    r.followed(record("mem_alloc", address=0x2000, size=0x800))
    assert r.layout == layout
    r.followed(record("module_unload", module=1))
    assert r.writes(launch(0x1000, 0x2010)) is None


def test_copies_and_fills_name_their_range():
    r = ranges()
    assert r.writes(record("memcpy_dtod", dst=0x1010, src=0x2000, size=16)) == ((0x1010, 0x1020),)
    assert r.writes(record("memcpy_dtod", dst=0x17F8, src=0x2000, size=16)) is None
    fill = {"dst": 0x1000, "pitch": 64, "width": 4, "element_bytes": 4}
    assert r.writes(record("memset", height=3, **fill)) == ((0x1000, 0x1090),)
    assert r.writes(record("memset", height=0, **fill)) == ()


def test_a_graph_writes_what_its_nodes_write():
    r = ranges()
    go = record("graph_launch", graph_exec=9)
    assert r.writes(go) is None, "nobody has seen it"
    r.followed(record("graph_create", graph=5))
    node = launch(0x1000, 0x2000).fields()
    r.followed(record("graph_add_kernel_node", **{**node, "graph": 5, "node": 1}))
    r.followed(record("graph_add_memcpy_node", graph=5, node=2, dst=0x3000, src=0x1000, size=8))
    r.followed(record("graph_instantiate", graph_exec=9, graph=5))
    assert r.writes(go) == ((0x2000, 0x2004), (0x3000, 0x3008))
    other = launch(0x1000, 0x1000).fields()
    r.followed(record("graph_exec_kernel_node_set", **{**other, "graph_exec": 9, "node": 1}))
    assert r.writes(go) == ((0x1000, 0x1004), (0x3000, 0x3008))
    r.followed(record("graph_exec_destroy", graph_exec=9))
    assert r.writes(go) is None


def test_a_graph_that_is_set_to_what_it_was_is_as_it_was():
    r = ranges()
    one, other = launch(0x1000, 0x2000).fields(), launch(0x1000, 0x3000).fields()
    seen = [r.layout]
    r.followed(record("graph_create", graph=5))
    r.followed(record("graph_add_kernel_node", **{**one, "graph": 5, "node": 1}))
    r.followed(record("graph_instantiate", graph_exec=9, graph=5))
    seen.append(r.layout)
    for fields in (other, one):
        r.followed(record("graph_exec_kernel_node_set", **{**fields, "graph_exec": 9, "node": 1}))
        seen.append(r.layout)
    r.followed(record("graph_exec_destroy", graph_exec=9))
    seen.append(r.layout)
    assert seen[3] == seen[1] != seen[2]
    assert seen[4] == seen[0] != seen[1]


def test_beside_the_session_a_kernel_is_unknown_until_it_was_looked_at():
    r = ranges(beside=True)
    before = r.layout, r.learnt
    assert r.writes(launch(0x1000, 0x2000)) is None
    end = time.monotonic() + 20
    while r.learnt == before[1]:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert r.layout == before[0], "what the program did is known as before"
    assert r.writes(launch(0x1000, 0x2000)) == ((0x2000, 0x2004),)


@pytest.mark.parametrize("beside", [False, True])
def test_of_a_large_module_the_kernel_that_is_asked_for_is_looked_at(beside):
    rest = "".join(f".visible .entry k{i}() {{ ret; }}\n" for i in range(9))
    text = HEAD + " st.global.f32 [%d2], %f1; ret; }\n" + rest + "// " + "=" * LARGE_TEXT
    out = AccessRanges((8, 0), beside=beside)
    names = ["k", *(f"k{i}" for i in range(9))]
    out.loaded(1, ModuleInfo(tuple(KernelInfo(n, (), {}) for n in names), ()), text.encode())
    out.followed(record("mem_alloc", address=0x2000, size=0x800))
    out.writes(launch(0x1000, 0x2000))
    end = time.monotonic() + 20
    while beside and not out.learnt:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert out.writes(launch(0x1000, 0x2000)) == ((0x2000, 0x2004),)
    assert out.statistics() == {"analysed_kernels": 1, "kernels_known": 1}


def test_mapped_memory_is_one_across_its_pieces_while_it_may_be_written():
    ranges = AccessRanges((8, 0))

    def follow(name, **fields):
        ranges.followed(next(iter_calls(pack_call(name, 1, **fields))))

    follow("mem_access", address=A, size=64, flags=3)
    before = ranges.layout
    follow("mem_access", address=A + 64, size=64, flags=3)
    assert ranges.layout != before
    assert ranges.holds(A + 60, 8)
    follow("mem_access", address=A + 64, size=64, flags=1)
    assert (ranges.layout, ranges.holds(A + 60, 8)) == (before, False)
    follow("mem_unmap", address=A, size=64)
    assert not ranges.holds(A, 8)
