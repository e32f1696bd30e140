"""Of a large PTX text a kernel is read when it is first used, and gives what it gave before."""

import struct

import pytest
from support.gpu import refused as refusal

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.facts import kernel_facts
from rrto_ros.devices.cpu.modules import check_kernel
from rrto_ros.devices.cpu.outline import LARGE_TEXT, Outline, open_outline
from rrto_ros.devices.cpu.program import ModuleProgram, prepare
from rrto_ros.devices.cpu.ptx.bodies import find_bodies
from rrto_ros.devices.cpu.ptx.parser import parse_declarations
from rrto_ros.devices.protocol import Launch

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
LARGE = "// " + "=" * LARGE_TEXT + " {\n"
"""Makes a text a large one; its brace is a comment's."""
REGISTERS = ".reg .b32 %r<9>; .reg .b64 %a<9>; .reg .pred %p<3>;\n"
STORE = "ld.param.u64 %a0, [out]; st.global.u32 [%a0], %r0; ret; }\n"
ADDS = """
.func (.param .b32 y) twice(.param .b32 x)
{ .reg .b32 %r<3>; ld.param.b32 %r0, [x]; add.s32 %r0, %r0, %r0; st.param.b32 [y], %r0; ret; }
.func (.param .b32 y) unused(.param .b32 x) { mulch.b32 %r0, %r0; ret; }
"""
CALLS = (
    ".visible .entry calls(.param .u64 out)\n{\n" + REGISTERS
    + "{ .param .b32 x; .param .b32 y; mov.b32 %r0, 21; st.param.b32 [x], %r0;\n"
    "call (y), twice, (x); ld.param.b32 %r0, [y]; }\n" + STORE
)  # fmt: skip
PLAIN = ".visible .entry plain(.param .u64 out)\n{" + REGISTERS + "mov.u32 %r0, 7;" + STORE
REFUSED = ".visible .entry refused(.param .u64 out) { wmma.load.a %r0; ret; }\n"
WRONG = ".visible .entry wrong(.param .u64 out) { .reg .b32 %r<2>; mov.u32 %r0 %r1; ret; }\n"
STATICS = (
    """
.global .align 4 .u32 outside = 5;
.visible .entry counts(.param .u64 out)
{ .reg .b32 %r<9>; .reg .b64 %a<9>; .shared .align 4 .b8 tile[4];
  .global .align 4 .u32 inside = 37;
  .const .align 4 .u32 fixed = 3;
  mov.u64 %a1, tile; mov.u64 %a2, outside; cp.async.ca.shared.global [%a1], [%a2], 4;
  ld.global.u32 %r0, [inside]; ld.global.u32 %r1, [outside]; add.u32 %r0, %r0, %r1;
"""
    + STORE
)
POINTERS = """
.func (.param .b32 y) by_pointer(.param .b32 x)
{ .reg .b32 %r<3>; ld.param.b32 %r0, [x]; add.s32 %r0, %r0, 100; st.param.b32 [y], %r0; ret; }
.visible .entry takes(.param .u64 out)
{ .reg .b64 %a<3>; ld.param.u64 %a0, [out]; mov.u64 %a1, by_pointer; st.global.u64 [%a0], %a1;
  ret; }
.visible .entry by(.param .u64 out)
{ .reg .b32 %r<3>; .reg .b64 %a<3>; .param .b32 x; .param .b32 y;
  ld.param.u64 %a0, [out]; ld.global.u64 %a1, [%a0];
  mov.b32 %r0, 1; st.param.b32 [x], %r0;
  prototype : .callprototype (.param .b32 _) _ (.param .b32 _);
  call (y), %a1, (x), prototype;
  ld.param.b32 %r0, [y]; st.global.u32 [%a0], %r0; ret; }
"""
ALIAS = ".visible .func (.param .b32 y) other(.param .b32 x);\n.alias other, twice;\n"
BLOCK = (1, 1, 1)


@pytest.fixture
def device(tmp_path):
    made = CpuDevice(limit_bytes=1 << 20, arena_bytes=1 << 30, threads=1, cache_dir=tmp_path)
    made.mem_alloc(made.info.arena_base, 64, 0)
    yield made
    made.close()


def load(device, *parts, large=True):
    """Loads a text as module 1; the number of each of its kernels."""
    text = HEAD + (LARGE if large else "") + "".join(parts)
    info = device.module_load(1, text.encode())
    return {kernel.name: number for number, kernel in enumerate(info.kernels)}


def launch(device, number):
    base = device.info.arena_base
    device.launch(Launch(1, number, BLOCK, BLOCK, 0, struct.pack("<Q", base)), 0)
    return struct.unpack("<I", bytes(device.memcpy_dtoh(base, 4, 0)))[0]


def counts(device):
    all_ = device.statistics()
    return [all_[name] for name in ("modules_deferred", "functions_read", "kernels_analysed")]


def test_a_load_reads_no_function_and_a_launch_those_that_its_kernel_reaches(device):
    kernels = load(device, ADDS, CALLS, PLAIN, REFUSED)
    assert list(kernels) == ["calls", "plain", "refused"]
    assert counts(device) == [1, 0, 0]
    assert launch(device, kernels["calls"]) == 42
    assert counts(device) == [1, 2, 1]
    assert launch(device, kernels["plain"]) == 7
    assert launch(device, kernels["calls"]) == 42
    assert counts(device) == [1, 3, 2]


def test_what_is_not_supported_is_said_by_its_kernel_alone(device):
    kernels = load(device, PLAIN, REFUSED, WRONG)
    for _ in range(2):
        text = refusal(CUresult.INVALID_PTX, launch, device, kernels["refused"])
        assert "kernel refused: " in text
        assert "wmma.load.a" in text
        text = refusal(CUresult.INVALID_PTX, device.kernel_load, 1, kernels["wrong"])
        assert "kernel wrong: line 9: " in text
    assert launch(device, kernels["plain"]) == 7


@pytest.mark.parametrize("wrong", [REFUSED, WRONG], ids=["refused", "wrong"])
def test_a_small_text_is_checked_whole_when_it_is_loaded(wrong, device):
    text = (HEAD + PLAIN + wrong).encode()
    refusal(CUresult.INVALID_PTX, device.module_load, 1, text)
    before = counts(device)
    load(device, PLAIN, large=False)
    after = counts(device)
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PLAIN[:-3], "ends in the middle"),
        (PLAIN + "}", "line 8: unexpected '}'"),
        (PLAIN.replace("7;", "7; #"), "line 7: unexpected character '#'"),
        (PLAIN.replace("7;", '7; .pragma "a'), "line 7: unexpected character '\"'"),
        (PLAIN + PLAIN, "plain is defined twice"),
        (PLAIN.replace("entry", "entree"), "unknown directive .entree"),
        (".global .u32 a[2] = {1, 2, 3};" + PLAIN, "more initial values"),
        (PLAIN + ".func f() .maxntid {ret;}", "expected a number"),
        (".visible .entry", "ends in the middle"),
    ],
)
def test_what_is_wrong_around_the_functions_is_said_when_a_large_text_is_loaded(text, why, device):
    assert why in refusal(CUresult.INVALID_PTX, load, device, text)


def test_variables_are_there_after_the_load_those_in_functions_too(device):
    text = HEAD + LARGE + STATICS + PLAIN
    found = {one.name: one for one in device.module_load(1, text.encode()).globals}
    assert list(found) == ["outside", "inside$g$counts", "fixed$g$counts"]
    for name, value in (("outside", 5), ("inside$g$counts", 37)):
        data = bytes(device.memcpy_dtoh(found[name].address, 4, 0))
        assert struct.unpack("<I", data) == (value,)
    assert counts(device) == [1, 1, 0], "the function that declares them was read"
    assert launch(device, 0) == 42


def test_a_call_through_a_register_reaches_what_any_function_takes_the_address_of(device):
    kernels = load(device, POINTERS, PLAIN)
    launch(device, kernels["takes"])
    assert launch(device, kernels["by"]) == 101
    assert counts(device) == [1, 3, 2]


def test_a_started_session_finds_in_the_cache_what_another_read(tmp_path):
    for again in (False, True):
        device = CpuDevice(limit_bytes=1 << 20, threads=1, cache_dir=tmp_path)
        device.mem_alloc(device.info.arena_base, 64, 0)
        kernels = load(device, ADDS, CALLS, PLAIN, REFUSED)
        assert launch(device, kernels["calls"]) == 42
        assert counts(device) == ([1, 0, 0] if again else [1, 2, 1])
        assert device.statistics()["modules_known"] == int(again)
        if again:
            assert launch(device, kernels["plain"]) == 7
            refusal(CUresult.INVALID_PTX, launch, device, kernels["refused"])
        device.close()


def test_a_kernel_has_no_attributes_before_it_is_read_and_the_same_then(device):
    small = device.module_load(2, (HEAD + PLAIN).encode()).kernels[0]
    (large,) = device.module_load(1, (HEAD + LARGE + PLAIN).encode()).kernels
    assert (large.params, large.attributes) == (small.params, {})
    assert device.kernel_load(1, 0) == small == device.kernel_load(2, 0)
    for module, kernel in ((1, 1), (1, -1), (3, 0)):
        refusal(CUresult.INVALID_HANDLE, device.kernel_load, module, kernel)


def test_a_graph_that_holds_a_kernel_reads_it(device):
    kernels = load(device, PLAIN, REFUSED)
    for number, name in enumerate(("plain", "refused")):
        device.graph_create(number)
        node = Launch(1, kernels[name], BLOCK, BLOCK, 0, bytes(8))
        device.graph_add_node(number, 1, (), node)
    device.graph_instantiate(1, 0)
    assert "refused" in refusal(CUresult.INVALID_PTX, device.graph_instantiate, 2, 1)


@pytest.mark.parametrize(
    "text",
    [ADDS + CALLS + PLAIN, STATICS, POINTERS, ADDS + ALIAS + CALLS.replace("twice", "other")],
)
def test_a_kernel_that_is_read_later_is_what_it_is_when_all_are_read(text):
    text = HEAD + text.replace("mulch.b32 %r0, %r0;", "")
    declared = parse_declarations(text)
    later = ModuleProgram(Outline(declared.module, declared.bodies, text))
    at_once = prepare(text)
    assert later.outline.deferred
    assert [v.name for v in later.module.variables] == [v.name for v in at_once.module.variables]
    assert later.layout == at_once.layout
    for number, kernel in enumerate(at_once.kernels):
        found = later.kernel(number)
        assert found.function == kernel.function
        assert found.layout == kernel.layout
        assert kernel_facts(found) == kernel_facts(kernel)
        check_kernel(found)


def test_bodies_are_found_whatever_stands_in_comments_strings_and_initial_values():
    text = """.version 8.0 // .entry {
.global .b32 a[2] = { 1, 2 }; /* .func { */ .section .debug { .b8 1 }
.func f(.param .b32 a); .extern .func g();
.visible .entry k ( ) .maxntid 1 { { } .pragma "} .func {"; // }
  /* } */ ld .global.u32 %r0, [a]; @%p bra x; x: }
.func h() { .const .b32 b; }
.entry last(){}"""
    found = find_bodies(text)
    assert [(text[b.start : b.end][:5], b.line, b.static) for b in found] == [
        ("{ { }", 4, False),
        ("{ .co", 6, True),
        ("{}", 7, False),
    ]


def test_a_large_text_is_divided_without_being_read(monkeypatch):
    def read(*_):
        raise AssertionError("a body was read")

    monkeypatch.setattr("rrto_ros.devices.cpu.outline.body_in", read)
    outline = open_outline(HEAD + LARGE + PLAIN + CALLS + ADDS)
    assert [entry.name for entry in outline.module.entries] == ["plain", "calls"]
    with pytest.raises(AssertionError, match="was read"):
        outline.reached("plain")
