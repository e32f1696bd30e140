"""NVIDIA's libcudadevrt.a as far as barriers of the whole grid need it, in PTX.

Compilers link that archive, which is machine code, for kernels that call cudaCGSynchronize. A
device that executes PTX gets these functions in its place; whatever else the archive has stays
undefined and is named by the link.
"""

from __future__ import annotations

from collections.abc import Iterator

_MAGIC = b"!<arch>\n"
_MEMBER = b"cuda_device_runtime.o"
_HEADER_BYTES = 60

# The grid's workspace, in %envreg1 and %envreg2, is 0 unless the launch is cooperative. As the
# library has it: the only scope there is is 1 (the grid), and a handle of 0 is cudaErrorUnknown.
# The barrier is the word behind the first; each round flips its highest bit.
DEVICE_RUNTIME = """\
.version 7.0
.target sm_70
.address_size 64
.visible .func (.param .b64 handle) cudaCGGetIntrinsicHandle(.param .b32 scope)
{
  .reg .b32 %r<4>; .reg .b64 %d<3>; .reg .pred %p;
  mov.b64 %d1, 0; ld.param.b32 %r1, [scope]; setp.ne.u32 %p, %r1, 1; @%p bra NONE;
  mov.u32 %r2, %envreg1; mov.u32 %r3, %envreg2; mov.b64 %d1, {%r3, %r2};
NONE:
  st.param.b64 [handle], %d1; ret;
}
.visible .func (.param .b32 result) cudaCGSynchronize(.param .b64 handle, .param .b32 flags)
{
  .reg .b32 %r<18>; .reg .b64 %d<4>; .reg .pred %p<6>;
  mov.u32 %r1, %envreg1; mov.u32 %r2, %envreg2; mov.b64 %d1, {%r2, %r1}; add.u64 %d2, %d1, 4;
  ld.param.b64 %d3, [handle]; mov.u32 %r3, 999; setp.eq.u64 %p1, %d3, 0; @%p1 bra END;
  setp.ne.u64 %p1, %d3, %d1; @%p1 bra END;
  barrier.sync 0;
  mov.u32 %r4, %tid.x; mov.u32 %r5, %tid.y; mov.u32 %r6, %tid.z; or.b32 %r4, %r4, %r5;
  or.b32 %r4, %r4, %r6; setp.ne.u32 %p2, %r4, 0; @%p2 bra MEET;
  mov.u32 %r7, %nctaid.x; mov.u32 %r8, %nctaid.y; mov.u32 %r9, %nctaid.z;
  mul.lo.u32 %r7, %r7, %r8; mul.lo.u32 %r7, %r7, %r9; mov.u32 %r10, 0x80000001;
  sub.u32 %r10, %r10, %r7;
  mov.u32 %r11, %ctaid.x; mov.u32 %r12, %ctaid.y; mov.u32 %r13, %ctaid.z; or.b32 %r11, %r11, %r12;
  or.b32 %r11, %r11, %r13; setp.eq.u32 %p3, %r11, 0; selp.u32 %r14, %r10, 1, %p3;
  atom.add.release.gpu.u32 %r15, [%d2], %r14;
WAIT:
  ld.acquire.gpu.u32 %r16, [%d2]; xor.b32 %r17, %r16, %r15; setp.ge.s32 %p4, %r17, 0;
  @%p4 bra WAIT;
MEET:
  barrier.sync 0; mov.u32 %r3, 0;
END:
  st.param.b32 [result], %r3; ret;
}
"""


def is_device_runtime(data: bytes) -> bool:
    """Whether an archive is libcudadevrt.a: its only member is the device runtime's object."""
    return list(_members(data)) == [_MEMBER]


def _members(archive: bytes) -> Iterator[bytes]:
    """Names of the objects in an archive, as ar writes it (System V)."""
    at = len(_MAGIC)
    names = b""
    while archive[: len(_MAGIC)] == _MAGIC and at + _HEADER_BYTES <= len(archive):
        header = archive[at : at + _HEADER_BYTES]
        name, size = header[:16].rstrip(), header[48:58].strip()
        if not size.isdigit():
            return
        at += _HEADER_BYTES
        if name == b"//":
            names = archive[at : at + int(size)]
        elif name[:1] == b"/" and name[1:].isdigit():
            yield names[int(name[1:]) :].split(b"/", 1)[0]
        elif name not in (b"/", b"/SYM64/"):
            yield name.rstrip(b"/")
        at += int(size) + int(size) % 2
