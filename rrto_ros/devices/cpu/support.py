"""The page of supported PTX, made from the code: ``python -m rrto_ros.devices.cpu.support``.

With ``--check`` it writes nothing and fails if the page in docs/ is not what the code says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Importing the generator fills the table of instructions.
from rrto_ros.devices.cpu.codegen import kernel as kernel
from rrto_ros.devices.cpu.codegen.emitter import SPECIAL_REGISTERS
from rrto_ros.devices.cpu.codegen.table import supported_instructions
from rrto_ros.devices.cpu.outline import LARGE_TEXT
from rrto_ros.devices.cpu.passes import layout
from rrto_ros.devices.cpu.passes.recursion import STACK_BYTES
from rrto_ros.devices.cpu.ptx.parser import DIRECTIVES
from rrto_ros.devices.cpu.ptx.types import TYPES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "ptx_support.md"
HANDLED_ELSEWHERE = {
    "bra, brx.idx, ret, exit": "guarded and not; tables of .branchtargets",
    "call": ".func of the same module, inlined, or on a stack where functions call themselves or "
    "are called through registers; no services of a driver (malloc and free of a kernel)",
}
LEFT_OUT = """\
Whatever is not named above is refused when a module is loaded, with the instruction and its line
(`CUDA_ERROR_INVALID_PTX`). Of a text of more than LARGE KiB a kernel, and what it calls, is read
when it is first used (launch, graph node, attribute, occupancy, cuFuncLoad): the refusal comes
there, and the other kernels run. `CUDA_MODULE_LOADING=EAGER` has all of them read at the load; a
link's always are. In particular:

- wmma, wgmma, tcgen05, and the forms of mma, ldmatrix and stmatrix that are not named above
- cp.async.bulk, cp.async.mbarrier, mbarrier, multimem, tensor maps
- tex, suld and sust of layers and cube maps, tex with gradients or a sampler of its own, texture
  and surface references; suld and sust with formats (.p), sured, tld4, txq, suq
- clusters (barrier.cluster, mapa, getctarank), setmaxnreg
- 128-bit atomics; floating-point atomics other than add
- cvt to and from floats of 6 and 4 bits, .satfinite elsewhere, stochastic rounding (.rs)
- alloca, stacksave

What is executed differently from a GPU:

- bar.sync of a whole block lets every thread finish its part before any goes on. Kernels in which
  a register says which barrier a part of the block waits for, or with how many threads, run thread
  by thread, slowly; a constant that lies in a register is none of these.
- A thread whose stack is full fails the launch with `CUDA_ERROR_LAUNCH_FAILED`, as a GPU does
  (kokkos issue 2214). The stack is as large whatever limit the program sets: what fits into a
  GPU's fits. Kernels with functions that call themselves, or are called through registers, run
  thread by thread.
- A function's address is a small number. A call through a register that holds no address of a
  function with such parameters fails the launch with `CUDA_ERROR_INVALID_PC`.
- Exchanges of a warp (shfl, vote, match, redux) and bar.warp.sync with a member mask wait until
  every lane of the mask that has not exited waits at the same instruction; lanes that have exited
  take no part, in bar.red neither. Where no lane could go on, which CUDA leaves undefined, all do.
  shfl from a lane that is not there gives the thread's own value.
- What kernels print (vprintf) is written to the program's standard output before the wait ends
  that follows the launch, each launch's lines in the order of blocks and threads, the newest MiB.
  An assertion that does not hold is told on its standard error output, as CUDA's guide says, and
  ends the context with `CUDA_ERROR_ASSERT`.
- brkpt fails the launch as trap does (`CUDA_ERROR_LAUNCH_FAILED`). The manual says that it
  suspends execution, and nothing here could resume it; to go on would make a program look right
  that a GPU stops.
- Blocks run one after the other on each core: a kernel in which one waits for a later one may
  end with `CUDA_ERROR_LAUNCH_TIMEOUT`, unless the launch is cooperative. Then all blocks are there
  at once, and take turns where one waits in a loop that reads global memory by an atomic or with
  .volatile, .relaxed or .acquire. So barriers of the whole grid work: those of cooperative_groups,
  numba-cuda's, and any other. Without a cooperative launch the former fail it, as on a GPU.
- Of libcudadevrt.a a link has cudaCGGetIntrinsicHandle and cudaCGSynchronize, written anew; what
  else is in that archive (launches from kernels, groups of several grids) is undefined.
- A kernel reaches the session's memory and nothing else of the process that runs it: what it
  allocates, module variables, and the shared, local and parameter memory of running blocks. Any
  other address ends the session with `CUDA_ERROR_ILLEGAL_ADDRESS`, in whatever instruction it
  stands (codegen/containment.py). An offset in shared memory has 32 bits; what a 64-bit register
  has above them is ignored, as on a GPU. Inside of the session's memory an access that goes astray
  may meet other memory of the same session; the parameter `memcheck` finds those.
- Local memory of the blocks that run counts as device memory, with the registers that are kept
  across barriers: where it does not fit, fewer cores run blocks, and where there is none for one
  block the launch fails with `CUDA_ERROR_OUT_OF_MEMORY`. A GPU reserves local memory for all
  threads that it can run at once.
- What a kernel prints is cut off at 1 MiB a call, and so are a text and a width.
- clock, clock64 and globaltimer count processor cycles.
- After sub.cc and subc.cc the carry flag says that there was no borrow, as the hardware's adder
  leaves it: addc after a borrowing sub.cc adds 0. The manual's wording (borrow-out in CC.CF) is
  the same for every sub.cc with a subc; tests that other projects ran on GPUs say 0.
- sin.approx and cos.approx are accurate up to 2^28 turns, and 0 and 1 beyond: a GPU multiplies
  by 1/(2 pi) in binary32 and sees whole turns. The manual promises nothing outside of one turn.
- ex2, lg2, sin, cos and tanh (.approx) are polynomials within the documented error; div.full,
  rcp.approx, sqrt.approx and rsqrt.approx are rounded once.
"""
UNDEFINED = """\
LLVM takes what it calls undefined for impossible and removes what leads there. None of it can be
reached; `test/unit/test_cpu_undefined.py` tries it line by line, thread by thread and in
vectors (the last one is tried in `test/conformance/test_forms.py`), and looks
for the words of the IR that would promise something (nsw, inbounds, nonnull,
mustprogress and so on).

| undefined in LLVM's IR | here |
|---|---|
| access to address 0 | it faults like any other (700): functions are `null_pointer_is_valid` |
| access at no multiple of the type's alignment | loads and stores promise 1; the launch fails \
with 716 where an access is at no multiple of its size, as on a GPU; atomics, for which LLVM \
has no such form, go elsewhere first |
| access beyond a variable on the stack | on the stack lie only variables of which every access \
is inside; other local memory is memory that LLVM knows nothing of |
| a frame larger than the stack | its pages are touched in order, so that it ends at the page \
behind the stack (`probe-stack`) |
| value of what was never written | registers, the carry flag and variables on the stack start \
as 0 in each native call; loads from variables on the stack are frozen: the same value for \
whoever looks |
| a loop without effects that never ends | functions do not promise progress, and loops read \
the flag of the time limit (702) |
| division by 0; the least integer / -1 | all ones, the dividend as the remainder; it wraps |
| shift by the width or more | clamped as PTX says, before the shift |
| overflow with nsw, nuw, exact | no such flags: sums, products and addresses wrap |
| float to integer out of range | saturates, NaN is 0 (in 64 bits the top bit): `fptosi.sat`, \
or the range is known |
| fast-math flags | none; a multiplication and an addition are never joined |
| count of zeros of 0, magnitude of the least integer | the width; it wraps |
| element of a vector that is not there | element numbers are constants; lanes of exchanges are \
checked |
| switch beyond its cases (brx.idx), unreachable | goes to the first label; not emitted |
| poison in vectors that are put together | every element is set before it is used |
| noalias, readonly, range and the like | only for the launch context, which no kernel can name \
|
| data race | ld and st with .volatile, .relaxed, .acquire and .release are neither merged nor \
moved; other loads may be done once for many, as a GPU's compiler does |
"""


def page() -> str:
    """The text of docs/ptx_support.md."""
    rows = {**supported_instructions(), **HANDLED_ELSEWHERE}
    forms: dict[str, list[str]] = {}
    for op, form in rows.items():
        forms.setdefault(form, []).append(op)
    count = len(supported_instructions())
    shared, local = layout.MAX_STATIC_SHARED_BYTES >> 10, layout.MAX_LOCAL_BYTES >> 10
    lines = [
        "<!-- Made by python -m rrto_ros.devices.cpu.support: do not edit. -->",
        "# PTX that the cpu device executes",
        "",
        f"{count} opcodes besides branches and calls, PTX 1.0 to 9.x, 64-bit addresses.",
        "",
        "| instruction | forms |",
        "|---|---|",
    ]
    lines += [
        f"| {', '.join(ops)} | {form.replace('|', chr(92) + '|')} |"
        for form, ops in sorted(forms.items(), key=lambda item: item[1])
    ]
    lines += [
        "",
        "Types: " + ", ".join(f".{name}" for name in TYPES) + ".",
        "",
        "Special registers: " + ", ".join(f"%{name}" for name in SPECIAL_REGISTERS) + ".",
        "",
        "Directives: " + ", ".join(f".{name}" for name in DIRECTIVES) + ".",
        "",
        (
            f"Limits: {shared} KiB of static shared memory, {local} KiB of local memory per "
            f"thread, {STACK_BYTES >> 10} KiB of it for functions that call themselves."
        ),
        "",
        "## What is left out",
        "",
        LEFT_OUT.rstrip().replace("LARGE", str(LARGE_TEXT >> 10)),
        "",
        "## What LLVM would leave undefined",
        "",
        UNDEFINED.rstrip(),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description="Makes docs/ptx_support.md from the code.")
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        print(
            f"{PAGE.name} is not what the code says; run python -m {__spec__.name}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
