"""Of which type the elements are that a kernel loads and stores."""

import struct

import pytest

from rrto_ros.execution.kernels.extents import Geometry
from rrto_ros.execution.kernels.writes import kernel_writes

KERNEL = """.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .f32 s)
{ .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<30>; .reg .b64 %d<20>; .reg .f32 %f<20>;
  ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; mov.u32 %r1, %tid.x;
  mul.wide.u32 %d4, %r1, WIDE; add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4;
  BODY
  ret; }
"""
A, B = 0x10000, 0x20000


def typed(body, wide=4):
    """Types of what the kernel reads from b, and writes to a."""
    image = KERNEL.replace("BODY", body).replace("WIDE", str(wide)).encode()
    kernel = kernel_writes(image, (8, 0))["k"]
    found = kernel.typed(struct.pack("<QQf", A, B, 1.0), Geometry((1, 1, 1), (32, 1, 1)))
    return {kind for _, _, kind in found.reads}, {kind for _, _, kind in found.writes}


FLOAT = ({"f32"}, {"f32"})
HALF = ({"f16"}, {"f16"})
UNKNOWN = ({""}, {""})


@pytest.mark.parametrize(
    ("body", "wanted", "wide"),
    [
        ("ld.global.f32 %f1, [%d6]; mul.f32 %f1, %f1, %f1; st.global.f32 [%d5], %f1;", FLOAT, 4),
        # Moved as bits, as newer compilers do.
        (("ld.global.b32 %r2, [%d6]; mov.b32 %f1, %r2; add.f32 %f2, %f1, 0f3F800000;"
         "mov.b32 %r3, %f2; st.global.b32 [%d5], %r3;"), FLOAT, 4),
        (("ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%d6]; mov.b32 %f1, %r4; neg.f32 %f2, %f1;"
         "st.global.v4.f32 [%d5], {%f2, %f2, %f2, %f2};"), FLOAT, 16),
        (("ld.global.v2.b64 {%d7, %d8}, [%d6]; mov.b64 {%f1, %f2}, %d7; add.f32 %f3, %f1, %f2;"
         "mov.b64 %d9, {%f3, %f3}; st.global.b64 [%d5], %d9;"), FLOAT, 16),
        # Half floats have no suffix of their own.
        (("ld.global.b16 %h1, [%d6]; cvt.f32.f16 %f1, %h1; cvt.rn.f16.f32 %h2, %f1;"
         "st.global.u16 [%d5], %h2;"), HALF, 2),
        ("ld.global.b32 %r2, [%d6]; mul.f16x2 %r3, %r2, %r2; st.global.b32 [%d5], %r3;", HALF, 4),
        (("ld.global.b32 %r2, [%d6]; mov.b32 {%h1, %h2}, %r2; add.f16 %h3, %h1, %h2;"
         "st.global.b16 [%d5], %h3;"), HALF, 4),
        # A comparison that chooses is one of floats; so is an exchange.
        (("ld.global.f32 %f1, [%d6]; setp.gt.f32 %p1, %f1, 0f00000000;"
         "selp.f32 %f2, %f1, 0f00000000, %p1; st.global.f32 [%d5], %f2;"), FLOAT, 4),
        (("ld.global.b32 %r2, [%d6]; shfl.sync.bfly.b32 %r3|%p1, %r2, 1, 31, -1;"
         "mov.b32 %f1, %r3; add.f32 %f1, %f1, %f1; st.global.f32 [%d5], %f1;"), FLOAT, 4),
        # Numbers, copies, bits of floats, other floats.
        ("ld.global.u32 %r2, [%d6]; add.u32 %r3, %r2, 1; st.global.u32 [%d5], %r3;", UNKNOWN, 4),
        ("ld.global.s32 %r2, [%d6]; st.global.s32 [%d5], %r2;", UNKNOWN, 4),
        ("ld.global.b32 %r2, [%d6]; st.global.b32 [%d5], %r2;", UNKNOWN, 4),
        (("ld.global.b16 %h1, [%d6]; cvt.f32.bf16 %f1, %h1; cvt.rn.bf16.f32 %h2, %f1;"
         "st.global.b16 [%d5], %h2;"), UNKNOWN, 2),
        (("ld.global.f32 %f1, [%d6]; add.f32 %f2, %f1, %f1; mov.b32 %r2, %f1; shl.b32 %r3, %r2, 1;"
         "st.global.u32 [%d5], %r3;"), UNKNOWN, 4),
        ("ld.global.u8 %r2, [%d6]; cvt.rn.f32.u8 %f1, %r2; st.global.f32 [%d5], %f1;",
         ({""}, {"f32"}), 4),
        # One load says float, the other number, of the same bytes.
        (("ld.global.f32 %f1, [%d6]; ld.global.s32 %r2, [%d6]; cvt.rn.f32.s32 %f2, %r2;"
         "add.f32 %f1, %f1, %f2; st.global.f32 [%d5], %f1;"), ({""}, {"f32"}), 4),
    ],
)  # fmt: skip
def test_what_calculates_with_elements_says_what_they_are(body, wanted, wide):
    assert typed(body, wide) == wanted
