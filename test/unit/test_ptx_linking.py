"""PTX modules are linked as NVIDIA's linker does it; what does not fit together is refused."""

import numpy as np
import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.ptx.linking import read_module
from rrto_ros.devices.linked import LinkInput, PtxInput, link_inputs, linked_image
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import PtxError

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
FOO = "(.param .b32 r) foo (.param .b32 a)"
CALLS = f"""
.extern .func {FOO};
.visible .entry k(.param .u64 p) {{
 .reg .b32 %r<4>; .reg .b64 %rd<3>;
 ld.param.u64 %rd1,[p]; ld.global.u32 %r1,[%rd1];
 {{ .param .b32 a; st.param.b32 [a],%r1; .param .b32 q;
 call.uni (q), foo, (a); ld.param.b32 %r2,[q]; }}
 st.global.u32 [%rd1],%r2; ret;
}}
"""


def adds(number, linkage=".visible", name="foo"):
    return f"""{linkage} .func (.param .b32 r) {name} (.param .b32 a) {{
 .reg .b32 %r<3>; ld.param.b32 %r1,[a]; add.u32 %r2,%r1,{number}; st.param.b32 [r],%r2; ret;
}}
"""


def image(*texts, names="abcdef"):
    return linked_image(
        tuple(
            LinkInput(1, name, (HEAD + text).encode())
            for name, text in zip(names, texts, strict=False)
        )
    )


@pytest.fixture
def run(tmp_path):
    device = CpuDevice(limit_bytes=1 << 20, arena_bytes=1 << 30, threads=1, cache_dir=tmp_path)
    address = device.info.arena_base
    device.mem_alloc(address, 64, 0)

    def once(linked, value=2, kernel=0, shared=0):
        """What kernel k makes of a word in memory."""
        info = device.module_load(1, linked)
        device.memcpy_htod(address, np.uint32(value).tobytes(), 0)
        device.launch(
            Launch(1, kernel, (1, 1, 1), (1, 1, 1), shared, np.uint64(address).tobytes()), 0
        )
        device.ctx_synchronize()
        once.info = info
        device.module_unload(1)
        return int(np.frombuffer(bytes(device.memcpy_dtoh(address, 4, 0)), np.uint32)[0])

    yield once
    device.close()


def refused(*texts, result=CUresult.INVALID_SOURCE):
    with pytest.raises(PtxError) as caught:
        read_module([PtxInput(n, HEAD + t) for n, t in zip("abcdef", texts, strict=False)])
    assert caught.value.result == result
    return caught.value.detail.splitlines()


def test_the_image_that_holds_a_link_is_read_back_and_damage_is_refused():
    inputs = (LinkInput(1, "a", b"text"), LinkInput(2, "<b>.x", bytes(33)))
    whole = linked_image(inputs)
    assert link_inputs(whole) == inputs
    assert link_inputs(b".version 8.0") is None
    for cut in range(len(whole)):
        assert link_inputs(whole[:cut]) is None  # the table of its parts is at the end
    shorter = bytearray(whole)
    at = shorter.rindex((33).to_bytes(8, "little"))
    shorter[at : at + 8] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(PtxError, match="cut short") as caught:
        link_inputs(bytes(shorter))
    assert caught.value.result == CUresult.INVALID_IMAGE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_function_of_another_module_is_called(run, order):
    parts = (CALLS, adds(40))
    assert run(image(*(parts[i] for i in order))) == 42


def test_linked_modules_come_out_of_the_cache_as_they_were(run):
    assert [run(image(CALLS, adds(n))) for n in (40, 50, 40)] == [42, 52, 42]


def test_a_strong_definition_holds_over_a_weak_one_and_of_weak_ones_the_first(run):
    assert run(image(CALLS, adds(1, ".weak"), adds(40))) == 42
    assert run(image(CALLS, adds(40), adds(1, ".weak"))) == 42
    assert run(image(CALLS, adds(40, ".weak"), adds(1, ".weak"))) == 42


def test_an_alias_is_the_function_that_it_names(run):
    text = adds(40, name="real") + f".visible .func {FOO};\n.alias foo, real;\n"
    assert run(image(CALLS, text)) == 42
    assert (
        ".alias foo, none"
        in refused(f".visible .func {FOO};\n.alias foo, none;\n", result=CUresult.INVALID_PTX)[0]
    )


def test_local_names_of_two_modules_stay_apart(run):
    def module(name, number):
        return f""".global .u32 hidden = {number};
.func (.param .b32 r) helper (.param .b32 a) {{
 .reg .b32 %r<4>; ld.param.b32 %r1,[a]; ld.global.u32 %r2,[hidden]; add.u32 %r3,%r1,%r2;
 st.param.b32 [r],%r3; ret;
}}
.visible .func (.param .b32 r) {name} (.param .b32 a) {{
 .reg .b32 %r<3>; ld.param.b32 %r1,[a];
 {{ .param .b32 x; st.param.b32 [x],%r1; .param .b32 q;
 call.uni (q), helper, (x); ld.param.b32 %r2,[q]; }}
 st.param.b32 [r],%r2; ret;
}}
"""

    assert run(image(CALLS, module("bar", 7), module("foo", 40))) == 42
    assert run(image(CALLS, module("foo", 40), module("bar", 7))) == 42
    # A parameter hides the module's name of the same spelling.
    hides = adds(40).replace(".b32 a)", ".b32 hidden)").replace("[a]", "[hidden]")
    assert run(image(CALLS, module("bar", 7), ".global .u32 hidden = 3;\n" + hides)) == 42


def test_variables_are_found_across_modules_and_initial_values_may_name_them(run):
    reads = """.extern .global .u64 where;
.visible .entry k(.param .u64 p) {
 .reg .b32 %r<4>; .reg .b64 %rd<4>;
 ld.param.u64 %rd1,[p]; ld.global.u64 %rd2,[where]; ld.global.u32 %r1,[%rd2];
 st.global.u32 [%rd1],%r1; ret;
}
"""
    points = ".extern .global .u32 table[3];\n.visible .global .u64 where = table+4;\n"
    table = ".visible .global .u32 table[3] = {1, 42, 3};\n"
    assert run(image(reads, points, table)) == 42
    assert {v.name: v.bytes for v in run.info.globals} == {"where": 8, "table": 12}


def test_common_variables_are_one_of_the_largest_size(run):
    def module(size, code=""):
        return f".common .global .b32 room[{size}];\n{code}"

    kernel = """.visible .entry k(.param .u64 p) {
 .reg .b32 %r<4>; .reg .b64 %rd<4>;
 ld.param.u64 %rd1,[p]; ld.global.u32 %r1,[%rd1]; st.global.u32 [room+12],%r1;
 ld.global.u32 %r2,[room+12]; st.global.u32 [%rd1],%r2; ret;
}
"""
    assert run(image(module(1), module(4, kernel), module(2))) == 2
    assert [v.bytes for v in run.info.globals] == [16]
    whole = ".visible .global .b32 room[4] = {1, 2, 3, 4};\n"
    assert run(image(module(1, kernel), whole), value=9) == 9
    assert "Size doesn't match for 'room'" in refused(module(8), whole)[0]


def test_dynamic_shared_memory_has_one_name_in_all_modules(run):
    store = """.extern .shared .align 16 .b8 room[];
.visible .func (.param .b32 r) foo (.param .b32 a) {
 .reg .b32 %r<3>; ld.param.b32 %r1,[a]; st.shared.u32 [room+4],%r1; ld.shared.u32 %r2,[room+4];
 st.param.b32 [r],%r2; ret;
}
"""
    assert run(image(".extern .shared .align 16 .b8 room[];\n" + CALLS, store), 5, shared=8) == 5


def test_a_result_that_a_declaration_alone_has_is_written_by_nobody(run):
    ignores = CALLS.replace("st.global.u32 [%rd1],%r2", "st.global.u32 [%rd1],%r1")
    nothing = ".visible .func foo (.param .b32 a) { ret; }\n"
    assert run(image(ignores, nothing), 7) == 7
    assert run(image(nothing, ignores), 7) == 7


def test_versions_and_targets_may_differ(run):
    texts = (HEAD + CALLS, ".version 7.1\n.target sm_52, texmode_independent\n" + adds(40))
    linked = linked_image(
        tuple(LinkInput(1, n, t.encode()) for n, t in zip("ab", texts, strict=True))
    )
    assert run(linked) == 42


def test_what_is_missing_is_said_once_a_module_in_the_linkers_words():
    assert refused(CALLS, CALLS.replace("entry k", "entry m")) == [
        "error   : Undefined reference to 'foo' in 'a'",
        "error   : Undefined reference to 'foo' in 'b'",
    ]
    assert refused(".extern .global .u32 x;\n.visible .global .u64 y = x;\n") == [
        "error   : Undefined reference to 'x' in 'a'"
    ]
    # What is declared and not used is nobody's concern, and a driver has its own services.
    read_module(
        [
            PtxInput(
                "a",
                HEAD + f".extern .func {FOO};\n.extern .global .u32 x;\n"
                ".visible .entry k() { ret; }\n",
            )
        ]
    )


def test_two_definitions_are_refused():
    assert refused(adds(1), adds(2)) == [
        "error   : Multiple definition of 'foo' in 'b', first defined in 'a'"
    ]
    entry = ".entry k() { ret; }\n"
    assert "Multiple definition of 'k'" in refused(entry, ".visible " + entry)[0]
    variable = ".visible .global .u32 x;\n"
    assert "Multiple definition of 'x'" in refused(variable, variable)[0]
    assert "Function and variable named 'foo'" in refused(adds(1), ".weak .global .u32 foo;\n")[0]


def test_declarations_that_do_not_fit_their_definition_are_refused():
    assert refused(".extern .global .u32 x[4];\n", ".visible .global .u32 x[5];\n") == [
        "error   : Size doesn't match for 'x' in 'b', first specified in 'a'"
    ]
    assert (
        "State space doesn't match"
        in refused(".extern .global .u32 x;\n", ".visible .const .u32 x = 3;\n")[0]
    )
    assert (
        "Prototype doesn't match for 'foo'"
        in refused(CALLS, adds(1).replace(".b32 a)", ".b64 a)"))[0]
    )
    nothing = ".visible .func foo() { ret; }\n"
    assert "Prototype doesn't match for 'foo'" in refused(CALLS, nothing)[0]


def test_a_text_that_is_wrong_is_named():
    lines = refused(CALLS, adds(1).replace("add.u32", "add.u32 %%"), result=CUresult.INVALID_PTX)
    assert lines[0].startswith("b: line ")


def test_inputs_without_ptx_are_refused(run):
    for kind, said in ((0, "machine code"), (3, "host object"), (4, "library")):
        with pytest.raises(PtxError, match=said) as caught:
            run(linked_image((LinkInput(kind, "x", b"?"),)))
        assert caught.value.result == CUresult.NO_BINARY_FOR_GPU


def test_shared_variables_of_two_functions_that_have_one_name_are_two(run):
    keeps = """.visible .func (.param .b32 r) foo (.param .b32 a) {
 .reg .b32 %r<4>; .shared .b32 room; .shared .b32 other;
 ld.param.b32 %r1,[a]; add.u32 %r2,%r1,1; st.shared.u32 [room],%r2;
 st.shared.u32 [other],%r1; ld.shared.u32 %r3,[room]; st.param.b32 [r],%r3; ret;
}
"""
    kernel = CALLS.replace(
        " ld.param.u64 %rd1,[p];",
        " .shared .b32 room;\n ld.param.u64 %rd1,[p]; st.shared.u32 [room],100;",
    )
    kernel = kernel.replace(
        " st.global.u32 [%rd1],%r2;",
        " ld.shared.u32 %r1,[room];\n add.u32 %r2,%r2,%r1; st.global.u32 [%rd1],%r2;",
    )
    assert run(image(kernel, keeps), 2) == 103


def test_a_kernels_own_names_do_not_hide_the_modules_from_what_it_calls(run):
    reads = """.visible .global .u32 p = 40;
.visible .func (.param .b32 r) foo (.param .b32 a) {
 .reg .b32 %r<4>; ld.param.b32 %r1,[a]; ld.global.u32 %r2,[p]; add.u32 %r3,%r1,%r2;
 st.param.b32 [r],%r3; ret;
}
"""
    assert run(image(CALLS, reads)) == 42
    local = ".extern .global .u32 hidden;\n" + CALLS.replace(
        " ld.param.u64 %rd1,[p];",
        " .local .b32 hidden;\n st.local.u32 [hidden],7;\n ld.param.u64 %rd1,[p];",
    )
    other = reads.replace("[p]", "[hidden]").replace("u32 p =", "u32 hidden =")
    assert run(image(local, other)) == 42
