"""Kernels of the cpu device reach nothing of the process around the session's memory.

Each attack is tried thread by thread and in vectors, without memcheck, in a process of its own
whose death by SIGSEGV is what a host reports as CUDA_ERROR_ILLEGAL_ADDRESS
(test_edge_workers.py). The canary is memory that the attacker knows the address of and that is
readable and writable: without containment every one of these ends well for the attacker.
"""

import platform
import re
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from support.attacks import CANARY, WORDS, ends

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.block_memory import FREE_BYTES, KEPT_BYTES
from rrto_ros.devices.cpu.cache import _GENERATOR
from rrto_ros.devices.cpu.codegen.containment import NEAR, REACH
from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.jit import _machine, host_target
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

LANES = (1, 0)
CASES = Path(__file__).resolve().parents[1] / "conformance" / "cases"


def kernel(body, variables=""):
    """A kernel over a buffer %rd1, a target address %rd2, a number %r1 and the thread's %r2."""
    return f""".version 8.0
.target sm_80
.address_size 64
{variables}
.visible .entry k(.param .u64 p, .param .u64 a, .param .u32 n) {{
 .reg .b64 %rd<20>; .reg .b32 %r<30>; .reg .b16 %h<9>; .reg .f32 %f<20>; .reg .pred %p<9>;
 ld.param.u64 %rd1,[p]; ld.param.u64 %rd2,[a]; ld.param.u32 %r1,[n]; mov.u32 %r2,%tid.x;
 {body} ret; }}
"""


def attacked(texts, target="canary", number=2):
    """How each text ends, thread by thread and in vectors."""
    cases = [(text, lanes, target, number) for text in texts for lanes in LANES]
    return [(case[0], *end) for case, end in zip(cases, ends(cases), strict=True)]


def all_fault(texts, target="canary"):
    """Each ends with an access that faults, and has changed nothing."""
    for text, how, _, whole in attacked(texts, target):
        assert (how, whole) == ("SIGSEGV", True), text


def none_reaches(texts, target="canary"):
    """Each may end as it likes, but has read and changed nothing of the target."""
    for text, _, words, whole in attacked(texts, target):
        assert whole, text
        assert CANARY not in words, text


# %rd5 becomes an address of the target, of a thread's own where threads differ.
FORMS = {
    "one address": "mov.u64 %rd5,%rd2;",
    "side by side": "mad.wide.u32 %rd5,%r2,4,%rd2;",
    "backwards": "mul.wide.u32 %rd6,%r2,4; sub.u64 %rd5,%rd2,%rd6; add.u64 %rd5,%rd5,128;",
    "a step apart": "mad.wide.u32 %rd5,%r2,64,%rd2;",
    "a step apart, widened": "add.u32 %r6,%r2,%r1; mad.wide.u32 %rd5,%r6,64,%rd2;",
    "far apart": "mad.wide.u32 %rd5,%r2,0x10000000,%rd2;",
    "anywhere": "xor.b32 %r6,%r2,5; mad.wide.u32 %rd5,%r6,4,%rd2;",
    "one thread": "setp.eq.u32 %p1,%r2,17; selp.u64 %rd5,%rd2,%rd1,%p1;",
    "a difference": "sub.u64 %rd6,%rd1,%rd2; sub.u64 %rd5,%rd1,%rd6;",
    "around the end of addresses": "not.b64 %rd6,%rd2; sub.u64 %rd5,-1,%rd6;",
    # What passes/addresses.py could get wrong.
    "an index of 32 bits": "mad.wide.s32 %rd5,%r6,8,%rd2;",
    "an index made small": "and.b64 %rd6,%rd2,-1; sub.u64 %rd6,%rd6,%rd1; add.u64 %rd5,%rd1,%rd6;",
    "an index that is small sometimes": "mov.u64 %rd6,8; setp.ne.u32 %p1,%r1,9;"
    "@%p1 sub.u64 %rd6,%rd2,%rd1; add.u64 %rd5,%rd1,%rd6;",
    "an index of many parts": "sub.u64 %rd6,%rd2,%rd1; cvt.u32.u64 %r6,%rd6; shr.u64 %rd6,%rd6,32;"
    "cvt.u32.u64 %r7,%rd6; cvt.u64.u32 %rd7,%r7; shl.b64 %rd7,%rd7,32; add.u64 %rd5,%rd1,%rd7;"
    "cvt.u64.u32 %rd8,%r6; add.u64 %rd5,%rd5,%rd8;",
    "a product that is cut off": "sub.u64 %rd6,%rd2,%rd1; mad.lo.u64 %rd5,%rd6,1,%rd1;",
    "a product with a negative number": "sub.u64 %rd6,%rd1,%rd2; mad.lo.s64 %rd5,%rd6,-1,%rd1;",
    "a chain of steps": "sub.u64 %rd5,%rd2,0x1000000000;" + "add.u64 %rd5,%rd5,0x200000000;" * 8,
    "a chain of copies": "mov.u64 %rd6,%rd2; mov.u64 %rd7,%rd6; cvta.to.global.u64 %rd5,%rd7;",
    "a register that was something else": "mov.u64 %rd5,%rd1; setp.eq.u32 %p1,%r1,9; @%p1 bra K;"
    "mov.u64 %rd5,%rd2; K: add.u64 %rd5,%rd5,0;",
    "what it was in the round before": "mov.u64 %rd6,%rd1; mov.u32 %r6,0; R: add.u64 %rd5,%rd6,0;"
    "mov.u64 %rd6,%rd2; add.u32 %r6,%r6,1; setp.lt.u32 %p1,%r6,%r1; @%p1 bra R;",
    "kept across a barrier": "add.u64 %rd5,%rd2,0; bar.sync 0; add.u64 %rd5,%rd5,0;",
}
TOUCHES = {
    "load": "ld.global.u32 %r5,[%rd5]; st.global.u32 [%rd1],%r5;",
    "store": "st.global.u32 [%rd5],7;",
    "guarded": "setp.lt.u32 %p2,%r2,20; @%p2 ld.global.u32 %r5,[%rd5];"
    "@%p2 st.global.u32 [%rd5],%r2; st.global.u32 [%rd1],%r5;",
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_no_way_to_make_an_address_leads_out(touch):
    all_fault([kernel(form + TOUCHES[touch]) for form in FORMS.values()])


@pytest.mark.parametrize("target", ["stack", "heap", "environment", "code", "nowhere", "null"])
def test_no_part_of_the_process_can_be_read_or_written(target):
    forms = (FORMS["one address"], FORMS["side by side"])
    all_fault([kernel(f + TOUCHES[t]) for f in forms for t in ("load", "store")], target)


READ = "st.global.u32 [%rd1],%r5;"
READ64 = "st.global.u64 [%rd1],%rd7;"
FAMILIES = {
    "generic": f"ld.u32 %r5,[%rd5]; {READ}",
    "local": f"ld.local.u32 %r5,[%rd5]; {READ}",
    "const": f"ld.const.u32 %r5,[%rd5]; {READ}",
    "param": f"ld.param.u32 %r5,[%rd5]; {READ}",
    "volatile": f"ld.volatile.global.u32 %r5,[%rd5]; {READ}",
    "acquire": f"ld.acquire.gpu.global.u32 %r5,[%rd5]; {READ}",
    "ldu": f"ldu.global.u32 %r5,[%rd5]; {READ}",
    "bytes": "ld.global.u8 %h1,[%rd5]; st.global.u16 [%rd1],%h1;",
    "long": f"ld.global.u64 %rd7,[%rd5]; {READ64}",
    "two": f"ld.global.v2.u64 {{%rd7,%rd8}},[%rd5]; {READ64}",
    "four": f"ld.global.nc.v4.u32 {{%r5,%r6,%r7,%r8}},[%rd5]; {READ}",
    "eight": f"ld.global.v8.u32 {{%r5,%r6,%r7,%r8,%r9,%r10,%r11,%r12}},[%rd5]; {READ}",
    "store generic": "st.u64 [%rd5],%rd1;",
    "store local": "st.local.u32 [%rd5],%r2;",
    "store release": "st.release.gpu.global.u32 [%rd5],%r2;",
    "store four": "st.global.v4.f32 [%rd5],{%f1,%f2,%f3,%f4};",
    "red": "red.global.add.u32 [%rd5],1;",
    "red of floats": "red.global.add.v2.f32 [%rd5],{%f1,%f2};",
    "atom": f"atom.add.u64 %rd7,[%rd5],1; {READ64}",
    "exchange": f"atom.global.exch.b32 %r5,[%rd5],1; {READ}",
    "compare": f"atom.global.cas.b32 %r5,[%rd5],%r1,1; {READ}",
    "bf16": "red.global.add.noftz.bf16x2 [%rd5],%r1;",
    "cp.async": ".shared .align 16 .b8 s[512]; mov.u32 %r6,s; cp.async.ca.shared.global "
    f"[%r6],[%rd5],16; ld.shared.u32 %r5,[s]; {READ}",
    "cp.async of some": ".shared .align 16 .b8 s[512]; mov.u32 %r6,s; cp.async.ca.shared.global "
    f"[%r6],[%rd5],16,%r1; ld.shared.u32 %r5,[s]; {READ}",
    "ldmatrix": f"ldmatrix.sync.aligned.m8n8.x1.b16 {{%r5}},[%rd5]; {READ}",
}


@pytest.mark.parametrize("form", ["one address", "a step apart"])
def test_no_instruction_reaches_out(form):
    all_fault([kernel(FORMS[form] + touch) for touch in FAMILIES.values()])


DISTANCES = [
    sign * (distance + more)
    for distance in (16, 1 << 20, NEAR, REACH, 1 << 33, 1 << 40, 1 << 62)
    for more in (-16, 0, 16)
    for sign in (1, -1)
]


def test_no_constant_behind_a_register_leads_out():
    touches = (
        "ld.global.u32 %r5,[%rd6{}];" + READ,
        "st.global.v4.u32 [%rd6{}],{{%r1,%r1,%r1,%r1}};",
    )
    all_fault(
        kernel(FORMS[form] + f"sub.u64 %rd6,%rd5,{distance};" + touch.format(f"{distance:+}"))
        for form in ("one address", "side by side")
        for distance in DISTANCES[:: 1 if form == "one address" else 5]
        for touch in touches
    )


def test_a_loop_whose_second_round_leads_out_faults():
    loop = (
        "sub.u64 %rd6,%rd2,%rd1; mad.wide.u32 %rd5,%r2,4,%rd1; mov.u32 %r6,0;"
        "L: {touch} add.u64 %rd5,%rd5,%rd6; add.u32 %r6,%r6,1; setp.lt.u32 %p1,%r6,%r1;"
        "@%p1 bra L;"
    )
    one = loop.replace("mad.wide.u32 %rd5,%r2,4,%rd1", "mov.u64 %rd5,%rd1")
    all_fault(
        kernel(text.format(touch=touch)) for text in (loop, one) for touch in TOUCHES.values()
    )


SHARED = ".shared .align 16 .b8 s[1024];"
OFFSETS = (
    f"{SHARED} mov.u64 %rd6,s; cvta.shared.u64 %rd7,%rd6; sub.u64 %rd5,%rd2,%rd7;",
    f"{SHARED} mov.u64 %rd5,@shared@;",
    f"{SHARED} mov.u64 %rd5,@shared@; mad.wide.u32 %rd5,%r2,4,%rd5;",
    f"{SHARED} mov.u64 %rd5,@shared@; xor.b32 %r6,%r2,5; mad.wide.u32 %rd5,%r6,4,%rd5;",
)
SHARED_TOUCHES = (
    f"ld.shared.u32 %r5,[%rd5]; {READ}",
    "st.shared.v4.u32 [%rd5],{%r2,%r2,%r2,%r2};",
    f"atom.shared.add.u32 %r5,[%rd5],1; {READ}",
    "red.shared.add.u32 [%rd5],1;",
    "cp.async.ca.shared.global [%rd5],[%rd1],16;",
    f"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r5}},[%rd5]; {READ}",
    "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%rd5],{%r1};",
)


def test_no_offset_in_shared_memory_leads_out():
    none_reaches(kernel(offset + touch) for offset in OFFSETS for touch in SHARED_TOUCHES)


@pytest.mark.parametrize("offset", ["0x7ffffff0", "0x80000000", "0xfffc0000", "0x00800000"])
def test_an_offset_far_from_shared_memory_faults(offset):
    all_fault(
        kernel(f"{SHARED} mov.u32 %r6,{offset}; {more} {touch}")
        for more in ("", "mad.lo.u32 %r6,%r2,4,%r6;")
        for touch in (f"ld.shared.u32 %r5,[%r6]; {READ}", "st.shared.u32 [%r6+4],%r5;")
    )


def test_no_constant_behind_a_variable_leads_out():
    places = {
        "shared": (SHARED, "", "s"),
        "local": (".local .align 16 .b8 v[64];", "", "v"),
        "param": ("", "", "p"),
        "global": ("", ".global .align 16 .b8 g[64];", "g"),
    }
    texts = []
    for space, (own, outer, name) in places.items():
        for distance in (f"@{space}@", "0x7fffffff0", "-0x7fffffff0"):
            sign = "" if distance[0] == "-" else "+"
            touches = [f"ld.{space}.u32 %r5,[{name}{sign}{distance}]; {READ}"]
            touches.append(f"st.{space}.u32 [{name}{sign}{distance}],%r2;")
            texts += [kernel(f"{own} {touch}", outer) for touch in touches]
    none_reaches(texts)


def described(more):
    """A description of a texture or surface in the buffer, whose memory is the target."""
    fields = {8: 64, 16: 64, 20: 1, 24: 1, 28: 32, 32: 1, 36: 1, 40: 1, 44: 1, 48: 1, 52: 256}
    words = "".join(f"st.global.u32 [%rd1+{at}],{value};" for at, value in fields.items())
    return kernel(
        f"st.global.u64 [%rd1],%rd2; {words} mov.u32 %r6,{{x}}; {more}".replace("{x}", "4")
    )


TEXTURES = (
    f"tex.1d.v4.u32.s32 {{%r5,%r7,%r8,%r9}},[HANDLE,{{%r6}}]; {READ}",
    f"cvt.rn.f32.u32 %f1,%r6; tex.1d.v4.u32.f32 {{%r5,%r7,%r8,%r9}},[HANDLE,{{%f1}}]; {READ}",
    f"suld.b.1d.b32.zero %r5,[HANDLE,{{%r6}}]; {READ}",
    f"suld.b.1d.b32.clamp %r5,[HANDLE,{{%r2}}]; {READ}",
    "sust.b.1d.b32.clamp [HANDLE,{%r6}],%r2;",
    "sust.b.2d.b32.zero [HANDLE,{%r6,%r6}],%r2;".replace("%r6,%r6", "%r6,%r10"),
)


def test_no_forged_texture_or_surface_leads_out():
    all_fault(described(t.replace("HANDLE", "%rd1")) for t in TEXTURES)
    all_fault(kernel("mov.u32 %r6,4;" + t.replace("HANDLE", "%rd2")) for t in TEXTURES)


def test_a_forged_description_of_nothing_does_not_divide_by_it():
    zeros = "".join(f"st.global.u32 [%rd1+{4 * k}],0;" for k in range(32))
    text = kernel(
        f"{zeros} st.global.u64 [%rd1],%rd1; st.global.u32 [%rd1+16],8; st.global.u32 [%rd1+32],1;"
        f"tex.2d.v4.u32.s32 {{%r5,%r7,%r8,%r9}},[%rd1,{{%r2,%r2}}]; {READ}"
    )
    assert [how for _, how, _, _ in attacked([text])] == ["ok", "ok"]


VPRINTF = ".extern .func (.param .b32 r) vprintf (.param .b64 t, .param .b64 v);"
ASSERT = (
    ".extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d,"
    ".param .b64 e) .noreturn;"
)
TEXT = ".global .align 1 .b8 t[3] = {37, 115, 0};"


def printed(pattern, values):
    """A call of vprintf."""
    return kernel(
        f"mov.u64 %rd3,t; {{ .param .b64 x; .param .b64 y; .param .b32 z;"
        f"st.param.b64 [x],{pattern}; st.param.b64 [y],{values}; call.uni (z), vprintf, (x,y); }}",
        VPRINTF + TEXT,
    )


def test_what_kernels_print_is_theirs():
    failed = kernel(
        "{ .param .b64 q; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;"
        "st.param.b64 [q],%rd2; st.param.b64 [b],%rd2; st.param.b32 [c],1; st.param.b64 [d],%rd2;"
        "st.param.b64 [e],1; call.uni __assertfail, (q,b,c,d,e); }",
        ASSERT,
    )
    through = printed("%rd3", "%rd1").replace(
        "mov.u64 %rd3,t;", "mov.u64 %rd3,t; st.u64 [%rd1],%rd2;"
    )
    all_fault([printed("%rd2", "%rd1"), printed("%rd3", "%rd2"), through, failed])


def test_a_number_that_is_no_function_is_not_called():
    callee = ".func f() { ret; }"
    text = kernel("mov.u64 %rd3,f; setp.eq.u32 %p1,%r1,9; selp.u64 %rd4,%rd3,%rd2,%p1;"
                  "P: .callprototype _ (); call %rd4, (), P;", callee)  # fmt: skip
    for target in ("canary", "code"):
        for _, how, _, whole in attacked([text], target):
            assert (how, whole) == ("INVALID_PC", True)


def test_a_return_to_a_forged_place_stays_in_the_kernel():
    """The stack of functions is memory of the kernel's; what it writes there is no address."""
    callee = (
        ".func f(.param .b64 b) { .reg .b64 %q<4>; .reg .b32 %s; .reg .pred %c; .local .b8 v[16];"
        " mov.u64 %q1,v; st.local.u32 [%q1-16],-1; st.local.u32 [%q1-24],0x7fffffff;"
        " st.local.u64 [%q1-32],%q1; st.local.u32 [%q1-40],12345; ld.param.b64 %q2,[b];"
        " setp.ne.u64 %c,%q2,0; @!%c bra E; { .param .b64 z; st.param.b64 [z],0; call f, (z); }"
        " E: ret; }"
    )
    text = kernel("{ .param .b64 z; st.param.b64 [z],%rd2; call f, (z); }", callee)
    for _, how, _, whole in attacked([text]):
        assert how in ("ok", "SIGSEGV", "LAUNCH_TIMEOUT", "LAUNCH_FAILED")
        assert whole


def test_the_stack_of_the_process_has_no_address_for_kernels():
    """Variables whose address goes anywhere lie in the session's memory."""
    escapes = {
        "mov": "mov.u64 %rd5,v; st.global.u64 [%rd1],%rd5;",
        "a vector": "st.global.v2.u64 [%rd1],{v,v};",
        "a store": "st.global.u64 [%rd1],v;",
        "packed": "mov.b64 {%r5,%r6},v; st.global.v2.u32 [%rd1],{%r5,%r6};",
        "cvta": "cvta.local.u64 %rd5,v; st.global.u64 [%rd1],%rd5;",
    }
    device = CpuDevice(threads=1, cache_bytes=0, limit_bytes=1 << 20, arena_bytes=1 << 24)
    inside = range(device._arena.low, device._arena.low + device._arena.span)
    device.close()
    texts = [kernel(f".local .align 8 .b8 v[16]; {e}") for e in escapes.values()]
    seen = 0
    for text, how, words, _ in attacked(texts):
        if how == "ok":
            address = words[0] | words[1] << 32
            # The device of the attack has another base; its range has the same size.
            assert address >> 40 in (0x32, 0x33), (text, hex(address), inside)
            seen += 1
        else:
            assert how == "INVALID_PTX", text
    assert seen >= 4


def test_modifiers_that_contradict_each_other_do_not_reach_beyond_a_variable():
    registers = "{%r5,%r6,%r7,%r8,%r9,%r10,%r11,%r12}"
    body = f".local .align 8 .b8 v[8]; st.local.v2.v8.b32 [v],{registers};"
    body += f"ld.local.v2.v8.b32 {registers},[v]; {READ}"
    (program,) = prepare(kernel(body)).kernels
    assert not program.layout.stacked
    none_reaches([kernel(body)])


def test_variables_on_the_stack_hold_nothing_of_what_was_there():
    loads = "".join(
        f"ld.local.u64 %rd6,[v+{8 * k}]; or.b64 %rd5,%rd5,%rd6;" for k in range(0, 500, 7)
    )
    text = kernel(
        f".local .align 8 .b8 v[4000]; mov.u64 %rd5,0; {loads} mad.wide.u32 %rd4,%r2,8,%rd1;"
        "st.global.u64 [%rd4],%rd5;"
    )
    (program,) = prepare(text).kernels
    assert program.layout.stacked
    for _, how, words, _ in attacked([text]):
        assert (how, words[:WORDS]) == ("ok", [0] * WORDS)


def test_a_frame_larger_than_the_stack_ends_at_the_page_behind_it():
    """The pages of a large frame are touched one after the other as the stack pointer moves."""
    if platform.machine() != "x86_64":
        pytest.skip("looks for x86-64 instructions")
    values = range(200)
    loads = "".join(f"ld.volatile.global.u64 %x{k},[%rd5+{8 * k}];" for k in values)
    adds = "".join(f"mad.lo.u64 %rd6,%rd6,%rd6,%x{k};" for k in (*values, *values))
    text = kernel(
        f".reg .b64 %x<{len(values)}>; mad.wide.u32 %rd5,%r2,8,%rd1; {loads}"
        f"mov.u64 %rd6,3; {adds} st.global.u64 [%rd5],%rd6;"
    )
    (program,) = prepare(text).kernels
    machine = _machine(host_target(), 2)
    module = llvm.parse_assembly(generate(program, (32, 1, 1), 16).text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    assert re.search(r"subq\s+\$4096, %rsp\s+(\.cfi.*\s+)*movq\s+\$0, \(%rsp\)",
                     machine.emit_assembly(module))  # fmt: skip


def listings():
    """Every listing of the conformance tests."""
    return [p.read_text() for p in sorted(CASES.glob("*.ptx"))]


def test_the_generated_code_makes_no_pointer_of_a_number():
    """Whatever a kernel does, its pointers begin at what the launch gives it."""
    seen = 0
    texts = [*listings(), *(kernel(FORMS["anywhere"] + touch) for touch in FAMILIES.values())]
    texts += [described(t.replace("HANDLE", "%rd1")) for t in TEXTURES]
    for text in texts:
        for program in prepare(text).kernels:
            for lanes in (1, 16):
                block = program.function.reqntid or (64, 1, 1)
                ir = generate(program, block, lanes).text
                assert "inttoptr" not in ir
                seen += "@llvm.umin" in ir
    assert seen > 50


def test_what_lies_around_the_session_can_be_accessed_by_nobody():
    device = CpuDevice(threads=2, cache_bytes=0, limit_bytes=1 << 20, arena_bytes=1 << 24)
    arena = device._arena
    low, high = arena.low - REACH, arena.low + arena.span + REACH
    inner = range(arena.low + REACH, arena.low + arena.span - REACH)
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        start, end = int(first, 16), int(last, 16)
        if start < high and end > low and rights[:3] != "---":
            assert inner.start <= start, line
            assert end <= inner.stop, line
    assert arena.contained(arena.base) == arena.base
    faulting = arena.low + arena.span
    for address in (0, arena.low - 1, faulting, faulting + 1, (1 << 64) - 1, -1):
        assert arena.contained(address) == faulting
    device.close()


def test_the_last_bytes_are_the_session_s_and_those_behind_are_not():
    device = CpuDevice(threads=1, cache_bytes=0, limit_bytes=1 << 20, arena_bytes=1 << 24)
    base, size = device.info.arena_base, device.info.arena_bytes
    device.mem_alloc(base + size - 4096, 4096, 0)
    device.module_load(1, kernel("st.global.u64 [%rd1+4088],%rd2;").encode())
    params = (base + size - 4096).to_bytes(8, "little") + bytes(range(8)) + bytes(4)
    device.launch(Launch(1, 0, (1, 1, 1), (32, 1, 1), 0, params), 0)
    assert bytes(device.memcpy_dtoh(base + size - 8, 8, 0)) == bytes(range(8))
    device.close()
    wide = "st.global.v4.u64 [%rd5],{%rd1,%rd1,%rd1,%rd1};"
    edge = f"add.u64 %rd5,%rd1,{(1 << 24) - 16};"
    all_fault([kernel(edge + wide), kernel(f"{edge} mad.wide.u32 %rd5,%r2,32,%rd5; {wide}")])


def test_the_code_that_keeps_kernels_inside_is_a_part_of_a_cached_kernel_s_name():
    folder = Path(__file__).resolve().parents[2] / "rrto_ros" / "devices" / "cpu"
    named = {p for pattern in _GENERATOR for p in folder.glob(pattern)}
    assert folder / "codegen" / "containment.py" in named


# local memory
DEEP = """.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p, .param .u32 n) {
 .local .align 8 .b8 v[SIZE]; .reg .b64 %rd<9>; .reg .b32 %r<9>;
 ld.param.u64 %rd1,[p]; ld.param.u32 %r1,[n]; mov.u32 %r2,%tid.x; mov.u32 %r3,%ctaid.x;
 mad.lo.u32 %r2,%r3,1024,%r2; mov.u64 %rd2,v; cvt.u64.u32 %rd3,%r1; add.u64 %rd3,%rd2,%rd3;
 st.local.u32 [%rd3],%r2; bar.sync 0; ld.local.u32 %r4,[%rd3]; mad.wide.u32 %rd4,%r2,4,%rd1;
 st.global.u32 [%rd4],%r4; ret; }
"""


def deep(size, limit, blocks=4, threads=2):
    """Launches a kernel with `size` bytes of local memory in each of 1024 threads."""
    device = CpuDevice(threads=threads, cache_bytes=0, limit_bytes=limit, arena_bytes=1 << 30)
    device.module_load(1, DEEP.replace("SIZE", str(size)).encode())
    base = device.info.arena_base
    device.mem_alloc(base, 4096 * blocks, 0)
    params = base.to_bytes(8, "little") + (size - 8).to_bytes(4, "little")

    def launch():
        device.launch(Launch(1, 0, (blocks, 1, 1), (1024, 1, 1), 0, params), 0)
        words = np.frombuffer(bytes(device.memcpy_dtoh(base, 4096 * blocks, 0)), np.uint32)
        assert words.tolist() == list(range(1024 * blocks))

    return device, launch


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_local_memory_counts_as_device_memory():
    device, launch = deep(64 << 10, 48 << 20, threads=1)
    with pytest.raises(CudaError, match="asked") as caught:
        launch()
    assert caught.value.result is CUresult.OUT_OF_MEMORY
    assert device.statistics()["memory_bytes"] == 4 * 4096
    device.close()


def test_much_local_memory_is_given_back_after_the_launch():
    device, launch = deep(64 << 10, 256 << 20)
    before = resident()
    for _ in range(3):
        launch()
        statistics = device.statistics()
        assert statistics["memory_of_blocks_bytes"] == 0
        assert statistics["memory_bytes"] == 4 * 4096
    assert statistics["memory_peak_bytes"] > 127 << 20
    assert resident() - before < 16 << 20
    device.close()


def test_where_there_is_no_memory_for_all_workers_fewer_run_the_blocks():
    device, launch = deep(64 << 10, 96 << 20)
    launch()
    assert 63 << 20 < device.statistics()["memory_peak_bytes"] <= 96 << 20
    device.close()


def test_local_memory_that_was_kept_makes_room_for_an_allocation():
    size = 4 << 10
    assert FREE_BYTES < 1024 * size < KEPT_BYTES
    device, launch = deep(size, 32 << 20)
    launch()
    assert device.statistics()["memory_of_blocks_bytes"] >= 1024 * size - FREE_BYTES
    rest = (32 << 20) - 4 * 4096
    device.mem_alloc(device.info.arena_base + (64 << 20), rest, 0)
    assert device.statistics()["memory_of_blocks_bytes"] == 0
    with pytest.raises(CudaError, match="0 of"):
        launch()
    device.mem_free(device.info.arena_base + (64 << 20), 0)
    launch()
    device.close()


def test_registers_that_are_kept_across_barriers_count_too():
    count = 400
    loads = "".join(f"ld.volatile.global.u64 %x{k},[%rd1+{8 * k}];" for k in range(count))
    adds = "".join(f"add.u64 %rd5,%rd5,%x{k};" for k in range(count))
    text = kernel(
        f".reg .b64 %x<{count}>; {loads} bar.sync 0; mov.u64 %rd5,0; {adds}"
        "st.global.u64 [%rd1],%rd5;"
    )
    device = CpuDevice(threads=1, cache_bytes=0, limit_bytes=1 << 20, arena_bytes=1 << 24)
    base = device.info.arena_base
    device.mem_alloc(base, 4096, 0)
    device.module_load(1, text.encode())
    params = base.to_bytes(8, "little") + bytes(12)
    with pytest.raises(CudaError) as caught:
        device.launch(Launch(1, 0, (1, 1, 1), (1024, 1, 1), 0, params), 0)
    assert caught.value.result is CUresult.OUT_OF_MEMORY
    device.close()
