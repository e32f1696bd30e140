"""Kernels that print, as compilers write such calls."""


def text(name, content):
    """A variable of the module with a text."""
    data = content.encode() + bytes(1)
    return f".global .align 1 .b8 {name}[{len(data)}] = {{{', '.join(map(str, data))}}};\n"


VARIABLES = (text("line", "thread %d: %.2f of %u\n") + text("what", "n != 13")
             + text("file", "kernel.cu") + text("name", "insist"))  # fmt: skip
PTX = (
    """
.version 7.0
.target sm_70
.address_size 64
.extern .func (.param .b32 out) vprintf (.param .b64 text, .param .b64 values);
.extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d,
                            .param .b64 e) .noreturn;
"""
    + VARIABLES
    + """
.visible .entry tell(.param .u64 values, .param .u32 n)
{
  .local .align 8 .b8 packed[24];
  .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %d<9>; .reg .f64 %f<2>;
  ld.param.u64 %d1, [values]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1; @%p1 bra DONE;
  mul.wide.u32 %d2, %r5, 8; add.s64 %d3, %d1, %d2; ld.global.f64 %f1, [%d3];
  mov.u64 %d4, packed; cvta.local.u64 %d5, %d4;
  st.local.u32 [%d4], %r5; st.local.f64 [%d4+8], %f1; st.local.u32 [%d4+16], %r1;
  mov.u64 %d6, line; cvta.global.u64 %d7, %d6;
  { .param .b64 p0; .param .b64 p1; .param .b32 got;
    st.param.b64 [p0], %d7; st.param.b64 [p1], %d5;
    call.uni (got), vprintf, (p0, p1); ld.param.b32 %r6, [got]; }
DONE: ret;
}

.visible .entry insist(.param .u32 n)
{
  .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %d<8>;
  ld.param.u32 %r1, [n]; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %tid.x; mov.u32 %r4, %tid.y;
  mad.lo.u32 %r5, %r2, 8, %r3; mad.lo.u32 %r5, %r4, 4, %r5;
  setp.ne.u32 %p1, %r5, %r1; @%p1 bra DONE;
  mov.u64 %d1, what; cvta.global.u64 %d2, %d1; mov.u64 %d3, file; cvta.global.u64 %d4, %d3;
  mov.u64 %d5, name; cvta.global.u64 %d6, %d5; mov.u64 %d7, 1; mov.u32 %r6, 7;
  { .param .b64 p0; .param .b64 p1; .param .b32 p2; .param .b64 p3; .param .b64 p4;
    st.param.b64 [p0], %d2; st.param.b64 [p1], %d4; st.param.b32 [p2], %r6;
    st.param.b64 [p3], %d6; st.param.b64 [p4], %d7;
    call.uni __assertfail, (p0, p1, p2, p3, p4); }
DONE: ret;
}
"""
)
