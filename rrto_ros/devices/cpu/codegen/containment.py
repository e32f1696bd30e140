"""Keeps every access of a kernel inside of the session's memory.

All that a kernel may touch lies in one range of addresses: the arena, module variables, and the
shared, local and parameter memory of running blocks (devices/cpu/memory.py). Around it lie
`2 * REACH` bytes on either side that nobody can access. An address is compared with the range,
`REACH` more on either side, and one outside is replaced by one that faults. So an address that
was compared may be moved by up to `REACH` without being compared again: an index of 32 bits
(passes/addresses.py), constants behind a register, the lanes of a vector and the elements of an
access need nothing of their own. What was right stays right, since who is farther from the range
than `REACH` cannot get into it by that.

An offset in shared memory has 32 bits, as on a GPU, and needs no comparison at all.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Builder, Val
from rrto_ros.devices.cpu.passes import addresses

FAR = addresses.FAR
"""How far other registers, and how far lanes, may move an address that was compared."""
NEAR = 1 << 31
"""How far a constant may move it besides."""
REACH = 2 * FAR + NEAR + (2 << 20)
"""All of these, and the bytes of an access. A multiple of the arena's alignment."""
LOW, SPAN = "%session_low", "%session_span"
"""Where addresses may begin (a pointer, and `LOW_NUMBER` as a number), and how many there are."""
LOW_NUMBER = "%session_number"

HELPER = f"""define internal ptr @rrto_contained(i64 %address, ptr {LOW}, i64 {SPAN})
  alwaysinline {{
  {LOW_NUMBER} = ptrtoint ptr {LOW} to i64
  %away = sub i64 %address, {LOW_NUMBER}
  %kept = call i64 @llvm.umin.i64(i64 %away, i64 {SPAN})
  %inside = getelementptr i8, ptr {LOW}, i64 %kept
  ret ptr %inside
}}"""
"""`contained` as a function, for the code of textures and surfaces."""


def contained(b: Builder, address: Val) -> Val:
    """The pointer of an address (i64), or of one that faults if it is outside of the range."""
    away = b.binary("sub", address, Val(LOW_NUMBER, "i64"))
    kept = b.intrinsic("llvm.umin", away, Val(SPAN, "i64"))
    out = b.name("p")
    b.line(f"{out} = getelementptr i8, ptr {LOW}, {b.arg(kept)}")
    return Val(out, "ptr", kept.vec)


def declare_helper(b: Builder) -> None:
    """Makes HELPER a part of the kernel's text."""
    b.declared["llvm.umin.i64"] = "declare i64 @llvm.umin.i64(i64, i64)"
    b.declared["rrto_contained"] = HELPER
