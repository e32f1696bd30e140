"""PTX that several tests and their programs use."""

SCALE = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .global .align 4 .f32 offset[4] = {1.0, 2.0, 3.0, 4.0};
.visible .entry scale(.param .u64 p, .param .f32 k, .param .u32 n)
{
  .reg .pred %q; .reg .b32 %r<6>; .reg .b64 %rd<4>; .reg .f32 %f<3>;
  ld.param.u64 %rd1, [p]; ld.param.f32 %f1, [k]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %q, %r5, %r1;
  @%q bra DONE;
  cvta.to.global.u64 %rd1, %rd1;
  mul.wide.u32 %rd2, %r5, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.f32 %f2, [%rd3];
  mul.f32 %f2, %f2, %f1;
  st.global.f32 [%rd3], %f2;
DONE:
  ret;
}
"""
"""Multiplies `n` floats at `p` by `k`; has a variable, too."""

ADD = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry add(.param .u64 to, .param .u32 value) {
 .reg .b64 %rd<4>; .reg .b32 %r<5>;
 ld.param.u64 %rd1, [to]; ld.param.u32 %r1, [value];
 mov.u32 %r2, %tid.x; mul.wide.u32 %rd2, %r2, 4; add.s64 %rd3, %rd1, %rd2;
 ld.global.u32 %r3, [%rd3]; add.u32 %r4, %r3, %r1; st.global.u32 [%rd3], %r4;
 ret;
}
"""
"""Adds `value` to one 32-bit word for each thread of a block."""
RAMP = b""".version 8.0
.target sm_80
.address_size 64
.visible .entry ramp(.param .u64 out)
{ .reg .b32 %r<3>; .reg .b64 %a<3>;
  ld.param.u64 %a0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %a1, %r0, 4;
  add.s64 %a2, %a0, %a1; st.global.u32 [%a2], %r0; ret; }
"""
"""Each thread of `ramp` stores its number."""
