"""Kernels of the random programs: what each does is plain in its last line."""

KERNEL = """
.visible .entry {name}(.param .u64 x, .param .u64 y, .param .u32 k, .param .u32 n)
{{ .reg .pred %q; .reg .b32 %r<9>; .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u32 %r1, [k]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x; mad.lo.s32 %r5, %r3, %r4, %r5;
  setp.ge.u32 %q, %r5, %r2; @%q bra DONE;
  mul.wide.u32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
  sub.u32 %r6, %r2, %r5; sub.u32 %r6, %r6, 1; mul.wide.u32 %rd6, %r6, 4; add.s64 %rd7, %rd2, %rd6;
  ld.global.u32 %r7, [%rd4];
  {body}
DONE: ret; }}
"""
BODIES = {
    "step": "mad.lo.u32 %r7, %r7, 1664525, %r1; st.global.u32 [%rd4], %r7;",
    "turn": "xor.b32 %r7, %r7, %r1; st.global.u32 [%rd7], %r7;",
    "join": "ld.global.u32 %r8, [%rd5]; mad.lo.u32 %r8, %r8, %r1, %r7; st.global.u32 [%rd5], %r8;",
    # Its second argument is how far it is from one buffer to the other.
    "leap": "xor.b32 %r7, %r7, %r1; add.s64 %rd5, %rd4, %rd2; st.global.u32 [%rd5], %r7;",
    "sum": "add.u32 %r7, %r7, %r1; red.global.add.u32 [%rd2], %r7;",
}
PTX = (".version 7.0\n.target sm_70\n.address_size 64\n"
       + "".join(KERNEL.format(name=n, body=b) for n, b in BODIES.items())).encode()  # fmt: skip
