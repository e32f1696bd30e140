"""Links of several PTX texts: symbols across modules mean the same on every device."""

import numpy as np
import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.linked import LinkInput, linked_image
from rrto_ros.errors import PtxError

HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"
PROTOTYPE = "(.param .b32 r) step (.param .b32 a)"
KERNEL = f"""
.extern .func {PROTOTYPE};
.extern .global .align 4 .u32 table[4];
.extern .shared .align 4 .b8 room[];
.common .global .align 4 .b32 spare[2];
.global .align 4 .u32 own = 5;
.visible .entry whole(.param .u64 out) {{
 .reg .b32 %r<9>; .reg .b64 %rd<9>;
 ld.param.u64 %rd1,[out]; cvta.to.global.u64 %rd2,%rd1;
 mov.u32 %r1,%tid.x; mul.wide.u32 %rd3,%r1,4; add.s64 %rd4,%rd2,%rd3;
 {{ .param .b32 a; st.param.b32 [a+0],%r1; .param .b32 q;
 call.uni (q), step, (a); ld.param.b32 %r2,[q+0]; }}
 mov.u64 %rd5,table; add.s64 %rd6,%rd5,%rd3; ld.global.u32 %r3,[%rd6];
 ld.global.u32 %r4,[own]; add.u32 %r5,%r2,%r3; mad.lo.u32 %r6,%r4,10000,%r5;
 st.global.u32 [%rd4],%r6; ret;
}}
"""
STEP = f"""
.extern .shared .align 4 .b8 room[];
.common .global .align 4 .b32 spare[4];
.visible .global .align 4 .u32 table[4] = {{1000, 2000, 3000, 4000}};
.global .align 4 .u32 own = 7;
.func (.param .b32 r) twice (.param .b32 a) {{
 .reg .b32 %r<4>; ld.param.b32 %r1,[a+0]; ld.global.u32 %r2,[own]; mad.lo.u32 %r3,%r1,2,%r2;
 st.param.b32 [r+0],%r3; ret;
}}
.visible .func {PROTOTYPE} {{
 .reg .b32 %r<9>; ld.param.b32 %r1,[a+0];
 {{ .param .b32 b; st.param.b32 [b+0],%r1; .param .b32 q;
 call.uni (q), twice, (b); ld.param.b32 %r2,[q+0]; }}
 mov.u32 %r3,room; shl.b32 %r4,%r1,2; add.u32 %r3,%r3,%r4; st.shared.u32 [%r3],%r2;
 ld.shared.u32 %r5,[%r3]; st.param.b32 [r+0],%r5; ret;
}}
"""
WEAK = f""".weak .func {PROTOTYPE} {{
 .reg .b32 %r<2>; mov.u32 %r1,9; st.param.b32 [r+0],%r1; ret;
}}
"""


def image(*texts):
    return linked_image(
        tuple(LinkInput(1, f"part{i}", (HEAD + text).encode()) for i, text in enumerate(texts))
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_kernel_uses_what_other_modules_define(harness, order):
    parts = (KERNEL, STEP, WEAK)
    loaded = harness.load(image(*(parts[i] for i in order)))
    (got,) = harness.launch(loaded, "whole", (1, 1, 1), (4, 1, 1), (np.zeros(4, np.uint32),), 16)
    assert got.tolist() == [51007, 52009, 53011, 54013]


def test_common_variables_are_one_of_the_largest_size(harness):
    info = harness.device.module_load(90_001, image(KERNEL, STEP))
    harness.device.module_unload(90_001)
    assert {v.name: v.bytes for v in info.globals}["spare"] == 16


@pytest.mark.parametrize("texts", [(KERNEL,), (KERNEL, STEP, STEP)], ids=["missing", "twice"])
def test_links_that_do_not_fit_are_refused_and_the_session_goes_on(harness, texts):
    with pytest.raises(PtxError, match=r"(?s)step") as caught:
        harness.device.module_load(90_002, image(*texts))
    assert caught.value.result == CUresult.INVALID_SOURCE
    harness.load(image(KERNEL, STEP))
