"""Every thread sees a variable at a multiple of its alignment, in every state space."""

import numpy as np
import pytest

ALIGNMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192, 65536)
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
SPACES = {
    # The declaration before the kernel, in it, and how the address is made generic.
    "local": ("", ".local .align 1 .b8 u[3]; .local .align {a} .b8 v[48];", "local"),
    "shared": ("", ".shared .align 1 .b8 u[3]; .shared .align {a} .b8 v[48];", "shared"),
    "dynamic shared": (
        ".extern .shared .align {a} .b8 v[];",
        ".shared .align 1 .b8 u[3];",
        "shared",
    ),
    "global": (".global .align 1 .b8 u[3]; .global .align {a} .b8 v[48];", "", "global"),
    "const": (".const .align 1 .b8 u[3]; .const .align {a} .b8 v[48];", "", "const"),
}


@pytest.mark.parametrize("barrier", ["", "bar.sync 0;"])
@pytest.mark.parametrize("space", SPACES)
def test_the_address_that_each_thread_sees_is_aligned(harness, space, barrier):
    before, inside, suffix = SPACES[space]
    # A GPU and its assembler stop earlier than the virtual device.
    most = 1024 if harness.device.info.kind == "gpu" else 65536
    most = min(most, 32768) if "shared" in space else most
    for align in (a for a in ALIGNMENTS if a <= most):
        threads = 48 if align < 4096 else 8
        text = (
            HEAD
            + before.format(a=align)
            + f"""
.visible .entry k(.param .u64 out) {{
 .reg .b32 %r<9>; .reg .b64 %rd<9>; {inside.format(a=align)}
 ld.param.u64 %rd1,[out]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,8; add.u64 %rd1,%rd1,%rd2;
 {barrier} mov.u64 %rd3,v; cvta.{suffix}.u64 %rd4,%rd3; st.global.u64 [%rd1],%rd4; ret; }}"""
        )
        loaded = harness.load(text)
        (found,) = harness.launch(
            loaded, "k", (2, 1, 1), (threads, 1, 1), [np.zeros(threads, np.uint64)], 64
        )
        assert not np.any(found % align), (align, [hex(a) for a in found])
        if suffix == "local" and harness.device.info.kind == "cpu":
            # Neighbouring threads of a vector have memory of their own.
            assert all(found[0] != other or not barrier for other in found[1:])


@pytest.mark.parametrize("align", [8, 16, 64, 128])
def test_a_parameter_lies_at_a_multiple_of_its_alignment(harness, align):
    text = (
        HEAD
        + f"""
.visible .entry k(.param .u64 out, .param .align {align} .b8 v[48]) {{
 .reg .b32 %r<9>; .reg .b64 %rd<9>;
 ld.param.u64 %rd1,[out]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,8; add.u64 %rd1,%rd1,%rd2;
 mov.b64 %rd3,v; cvta.param.u64 %rd4,%rd3; st.global.u64 [%rd1],%rd4; ret; }}"""
    )
    (found,) = harness.launch(
        harness.load(text), "k", (1, 1, 1), (48, 1, 1), [np.zeros(48, np.uint64), bytes(48)]
    )
    assert not np.any(found % align)


def test_threads_of_an_aligned_array_do_not_share_it(harness):
    text = (
        HEAD
        + """
.visible .entry k(.param .u64 out) {
 .reg .b32 %r<9>; .reg .b64 %rd<9>; .local .align 256 .b8 v[64];
 ld.param.u64 %rd1,[out]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,4; add.u64 %rd1,%rd1,%rd2;
 and.b32 %r2,%r1,15; mul.wide.u32 %rd3,%r2,4; mov.u64 %rd4,v; add.u64 %rd4,%rd4,%rd3;
 st.local.u32 [%rd4],%r1; bar.sync 0; ld.local.u32 %r3,[%rd4]; st.global.u32 [%rd1],%r3; ret; }"""
    )
    for variant in (text, text.replace("bar.sync 0; ", "")):
        (found,) = harness.launch(
            harness.load(variant), "k", (2, 1, 1), (96, 1, 1), [np.zeros(96, np.uint32)]
        )
        assert found.tolist() == list(range(96))
