"""Assembles the native function of one kernel from its regions.

The function runs blocks [first, last) of the grid, one after the other. Block dimensions are
constants in the code; grid dimensions, pointers and sizes come from the launch context.
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.devices.cpu.codegen import (  # noqa: F401  (importing registers them)
    approximate,
    atomics,
    compare,
    control,
    convert,
    copies,
    floating,
    integer,
    memory,
    packed,
    services,
    surface,
    tensor,
    texture,
    video,
    warp,
)
from rrto_ros.devices.cpu.codegen.barriers import Barriers
from rrto_ros.devices.cpu.codegen.checks import HELPERS, TELL_MISALIGNED
from rrto_ros.devices.cpu.codegen.containment import LOW, LOW_NUMBER
from rrto_ros.devices.cpu.codegen.frame import DONE, KernelFrame
from rrto_ros.devices.cpu.codegen.vector_region import write_region
from rrto_ros.devices.cpu.passes.layout import align_up
from rrto_ros.devices.cpu.program import KernelProgram, well_formed

CONTEXT_FIELDS = (
    "params",
    "shared",
    "frames",
    "local",
    "globals",
    "scratch",
    "nctaid.x",
    "nctaid.y",
    "nctaid.z",
    "dynamic_smem",
    "total_smem",
    "stop",
    "ranges",
    "range_count",
    "report",
    "print",
    "step",
    "workspace",
    "session_low",
    "session_span",
)
"""The launch context: one 64-bit word each, in this order."""
_NUMBERS = frozenset({*CONTEXT_FIELDS[6:11], "range_count", "step", "workspace", "session_span"})
_OF_BLOCK = ("shared", "frames", "local")

_STEP, _WORKSPACE = CONTEXT_FIELDS.index("step"), CONTEXT_FIELDS.index("workspace")

_RARELY = '!0 = !{!"branch_weights", i32 1048576, i32 1}'

# The lowest state above `previous`; states are padded to whole vectors with "done".
_FIND = f"""
define internal i32 @rrto_find(ptr %states, i32 %count, i32 %previous) #0 {{
entry:
  %one = insertelement <16 x i32> poison, i32 %previous, i32 0
  %all = shufflevector <16 x i32> %one, <16 x i32> poison, <16 x i32> zeroinitializer
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %best = phi <16 x i32> [ splat (i32 {DONE}), %entry ], [ %better, %loop ]
  %at = getelementptr i32, ptr %states, i32 %i
  %state = load <16 x i32>, ptr %at, align 4
  %later = icmp sgt <16 x i32> %state, %all
  %open = select <16 x i1> %later, <16 x i32> %state, <16 x i32> splat (i32 {DONE})
  %better = call <16 x i32> @llvm.smin.v16i32(<16 x i32> %best, <16 x i32> %open)
  %next = add i32 %i, 16
  %more = icmp ult i32 %next, %count
  br i1 %more, label %loop, label %end
end:
  %least = call i32 @llvm.vector.reduce.smin.v16i32(<16 x i32> %better)
  ret i32 %least
}}
declare <16 x i32> @llvm.smin.v16i32(<16 x i32>, <16 x i32>)
declare i32 @llvm.vector.reduce.smin.v16i32(<16 x i32>)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


@dataclass(frozen=True)
class Generated:
    """The text of a kernel and what it needs at run time.

    Attributes:
        text: An LLVM module with one external function `symbol`.
        symbol: Its name.
        frame_bytes: Memory for registers kept across barriers, per running block.
        local_bytes: Local memory, per running block.
        lanes: Threads done at once.
    """

    text: str
    symbol: str
    frame_bytes: int
    local_bytes: int
    lanes: int


def generate(
    program: KernelProgram, block: tuple[int, int, int], max_lanes: int, *, memcheck: bool = False
) -> Generated:
    """LLVM IR of a kernel for one block size; with `memcheck` for single lanes only.

    Raises:
        PtxError: An instruction that is not supported.
    """
    with well_formed(program.name):
        lanes = 1 if memcheck else max_lanes
        return KernelWriter(KernelFrame(program, block, lanes, memcheck)).write()


class KernelWriter:
    """Writes the native function around the regions of one kernel."""

    def __init__(self, frame: KernelFrame) -> None:
        self.frame = frame
        self.b = frame.b
        self.barriers = Barriers(frame)

    def write(self) -> Generated:
        b = self.b
        symbol = "rrto_kernel"
        self._prologue()
        begin = len(b.lines)
        self._blocks()
        head = [
            f"define void @{symbol}(ptr noalias %context, i64 %first, i64 %last) #0 {{",
            "entry:",
        ]
        lines = head + b.allocas + b.lines[:begin] + b.starts + b.lines[begin:] + ["}"]
        declared = sorted(set(b.declared.values()))
        width = "512" if self.frame.lanes >= 16 else "256"
        # An access to address 0 is one that faults, not one that cannot happen. A frame larger
        # than the stack ends at the page behind it and does not reach what lies beyond.
        attributes = (
            'attributes #0 = { nounwind null_pointer_is_valid "probe-stack"="inline-asm" '
            f'"min-legal-vector-width"="{width}" "prefer-vector-width"="{width}" }}'
        )
        extra = ("" if self.frame.single else _FIND + warp.HELPERS + self.barriers.helpers) + (
            HELPERS if self.frame.memcheck else ""
        )
        text = "\n".join([*declared, extra, *lines, attributes, _RARELY, ""])
        at_once = self.frame.lanes if self.frame.single else self.frame.threads
        local = (
            0
            if self.frame.single and self.frame.layout.stacked
            else self.frame.layout.local_bytes * at_once
        )
        return Generated(text, symbol, self.frame.frame_bytes, local, self.frame.lanes)

    # the frame of the function
    def _prologue(self) -> None:
        b = self.b
        for index, name in enumerate(CONTEXT_FIELDS):
            kind = "i64" if name in _NUMBERS else "ptr"
            where = f"%c{index}"
            b.line(f"{where} = getelementptr i64, ptr %context, i64 {index}")
            target = f"%{name}" if kind == "ptr" or name == "session_span" else f"%f{index}"
            if name in _OF_BLOCK and self.frame.cells:
                target += ".first"
            b.line(f"{target} = load {kind}, ptr {where}")
        b.line(f"{LOW_NUMBER} = ptrtoint ptr {LOW} to i64")
        for index, target in ((6, "nx"), (7, "ny"), (8, "nz"), (9, "dyn"), (10, "total")):
            b.line(f"%{target} = trunc i64 %f{index} to i32")
        b.line(f"%workspace_low = trunc i64 %f{_WORKSPACE} to i32")
        b.line(f"%workspace_top = lshr i64 %f{_WORKSPACE}, 32")
        b.line("%workspace_high = trunc i64 %workspace_top to i32")

    def _blocks(self) -> None:
        b = self.b
        b.allocas.append("  %odd = alloca i64")
        b.line("store i64 0, ptr %odd")
        if self.frame.cells:
            self._rounds()
        else:
            b.line("br label %block_head")
            b.label("block_head")
            b.line("%blk = phi i64 [ %first, %entry ], [ %blk_next, %block_done ]")
            b.line("%blk_more = icmp ult i64 %blk, %last")
            b.line("%blk_stop = load volatile i8, ptr %stop")
            b.line("%blk_free = icmp eq i8 %blk_stop, 0")
            b.line("%blk_go = and i1 %blk_more, %blk_free")
            b.line("br i1 %blk_go, label %block_body, label %leave")
        b.label("leave")
        b.lines += TELL_MISALIGNED.strip("\n").split("\n")
        b.line("ret void")
        b.label("block_body")
        b.line("%blk_x = urem i64 %blk, %f6")
        b.line("%blk_yz = udiv i64 %blk, %f6")
        b.line("%blk_y = urem i64 %blk_yz, %f7")
        b.line("%blk_z = udiv i64 %blk_yz, %f7")
        for axis in "xyz":
            b.line(f"%cta{axis} = trunc i64 %blk_{axis} to i32")
        if self.frame.single:
            self._region(0, "block_done")
        else:
            self._phases()
        b.label("block_done")
        b.line("%blk_next = add i64 %blk, 1")
        b.line("br label %block_head")

    def _rounds(self) -> None:
        """Goes through the blocks until all are done; one that yields makes room for the next."""
        b = self.b
        b.allocas += ["  %yielded = alloca i1", "  %open = alloca i1"]
        b.declared["sched_yield"] = "declare i32 @sched_yield()"
        b.line("br label %round_head")
        b.label("round_head")
        b.line("%round = phi i64 [ 0, %entry ], [ 1, %round_again ]")
        b.line("store i1 false, ptr %open")
        b.line("br label %block_head")
        b.label("block_head")
        b.line("%blk = phi i64 [ %first, %round_head ], [ %blk_next, %block_done ]")
        b.line("%blk_stop = load volatile i8, ptr %stop")
        b.line("%blk_free = icmp eq i8 %blk_stop, 0")
        b.line("br i1 %blk_free, label %block_look, label %leave")
        b.label("block_look")
        b.line("%blk_more = icmp ult i64 %blk, %last")
        b.line("br i1 %blk_more, label %block_body, label %round_end")
        b.label("round_end")
        b.line("%again = load i1, ptr %open")
        b.line("br i1 %again, label %round_again, label %leave")
        b.label("round_again")
        # Blocks of other cores may be what these wait for.
        b.line("%gave_way = call i32 @sched_yield()")
        b.line("br label %round_head")

    def _cell(self, name: str, number: int) -> str:
        """A place that is kept of the block while others have their turn."""
        self.b.line(f"{name} = getelementptr i8, ptr %frames, i64 {self.frame.cells + 8 * number}")
        return name

    def _phases(self) -> None:
        """Runs region after region until every thread is done.

        Each thread has a state, its next region; the lowest comes first.
        """
        b = self.b
        size = self.frame.threads * 4
        together = bool(self.frame.cells)
        if together:
            b.line(f"%block_at = mul i64 %blk, %f{_STEP}")
            for name in _OF_BLOCK:
                b.line(f"%{name} = getelementptr i8, ptr %{name}.first, i64 %block_at")
        b.line(f"%states2 = getelementptr i8, ptr %frames, i64 {align_up(size, 64)}")
        b.line(f"%exchange = getelementptr i8, ptr %frames, i64 {self.frame.exchange}")
        b.line(f"%combine = getelementptr i8, ptr %frames, i64 {self.frame.combine}")
        if self.frame.masks:
            b.line(f"%masks = getelementptr i8, ptr %frames, i64 {self.frame.masks}")
        if self.frame.keyed:
            b.line(f"%keys = getelementptr i8, ptr %frames, i64 {self.frame.keys}")
        if together:
            parity, number, combine = (self._cell(f"%kept{k}", k) for k in range(3))
            over = self._cell("%kept_over", 3)
            if self.frame.gated:
                self._cell("%progress", 4)
            for k, slot in self.frame.arrivals.items():
                self._cell(slot, 8 + k)
            if self.frame.keyed:
                self._cell(self.frame.arrived, 24)
            b.line("%is_new = icmp eq i64 %round, 0")
            b.line("br i1 %is_new, label %block_begin, label %block_again")
            b.label("block_again")
            b.line(f"%was_over = load i64, ptr {over}")
            b.line("%goes_on = icmp eq i64 %was_over, 0")
            b.line("br i1 %goes_on, label %phase, label %block_done")
            b.label("block_begin")
            b.line(f"store i64 0, ptr {over}")
        else:
            parity, number, combine = b.alloca("i64"), b.alloca("i64"), b.alloca("i64")
            if self.frame.gated:
                b.allocas.append("%progress = alloca i1")
        b.line(f"call void @llvm.memset.p0.i64(ptr %frames, i8 0, i64 {size}, i1 false)")
        if self.frame.exchange_bytes:
            b.line(
                f"call void @llvm.memset.p0.i64(ptr %exchange, i8 0, "
                f"i64 {2 * self.frame.exchange_bytes}, i1 false)"
            )
        side = self.frame.combine_bytes
        if side:
            b.line(f"call void @llvm.memset.p0.i64(ptr %combine, i8 0, i64 {2 * side}, i1 false)")
        if self.frame.threads % 16:
            pad = f"<{-self.frame.threads % 16} x i32>"
            b.line(f"%padding = getelementptr i8, ptr %frames, i64 {size}")
            b.line(f"store {pad} splat (i32 {DONE}), ptr %padding, align 4")
        if self.frame.gated:
            b.line("store i1 true, ptr %progress")
        b.line(f"store i64 0, ptr {combine}")
        self.barriers.begin_block()
        b.line(f"store i64 1, ptr {number}")
        b.line(f"store i64 0, ptr {parity}")
        b.line("br label %phase")
        b.label("phase")
        b.line("%phase_stop = load volatile i8, ptr %stop")
        b.line("%phase_free = icmp eq i8 %phase_stop, 0")
        b.line("br i1 %phase_free, label %begin, label %leave")
        b.label("begin")
        if together:
            b.line("store i1 false, ptr %yielded")
        b.line(f"%r0 = call i32 @rrto_find(ptr %frames, i32 {self.frame.threads}, i32 -1)")
        b.line(f"%over = icmp eq i32 %r0, {DONE}")
        warp_wide = self.frame.program.regions.warp_wide
        b.line(f"%in_warp = icmp ule i32 %r0, {warp_wide}")
        b.line(f"%limit = select i1 %in_warp, i32 {warp_wide}, i32 {DONE - 1}")
        b.line(f"%write_at = load i64, ptr {parity}")
        b.line(f"%read_at = sub i64 {self.frame.exchange_bytes}, %write_at")
        b.line("%exchange_out = getelementptr i8, ptr %exchange, i64 %write_at")
        b.line("%exchange_in = getelementptr i8, ptr %exchange, i64 %read_at")
        if side:
            # The block goes on where no warp can: only then the sides swap.
            b.line(f"%combine_at = load i64, ptr {combine}")
            b.line(f"%combine_swapped = sub i64 {side}, %combine_at")
            b.line("%combine_next = select i1 %in_warp, i64 %combine_at, i64 %combine_swapped")
            b.line(f"store i64 %combine_next, ptr {combine}")
            b.line("%combine_out = getelementptr i8, ptr %combine, i64 %combine_next")
            b.line(f"%combine_other = sub i64 {side}, %combine_next")
            b.line("%combine_in = getelementptr i8, ptr %combine, i64 %combine_other")
        if self.frame.gated:
            b.line("%progressed = load i1, ptr %progress")
            b.line("%forced = xor i1 %progressed, true")
            b.line("store i1 false, ptr %progress")
        b.line(f"%phase_before = load i64, ptr {number}")
        b.line("%phase_number = add i64 %phase_before, 1")
        b.line(f"store i64 %phase_number, ptr {number}")
        b.line(
            f"br i1 %over, label %{'block_over' if together else 'block_done'}, label %barriers"
        )
        b.label("barriers")
        self.barriers.open()
        b.line("br label %run")
        b.label("run")
        b.line("%which = phi i32 [ %r0, %barriers ], [ %r2, %others ]")
        count = len(self.frame.program.regions.regions)
        cases = " ".join(f"i32 {i}, label %region{i}" for i in range(count))
        b.line(f"switch i32 %which, label %block_done [ {cases} ]")
        for index in range(count):
            b.label(f"region{index}")
            self.barriers.gate(index, "others")
            if self.frame.gated and index not in self.frame.gated:
                b.line("store i1 true, ptr %progress")
            self._region(index, "ran")
        b.label("ran")
        b.line(f"store i64 %read_at, ptr {parity}")
        b.line("br label %others")
        b.label("others")
        b.line(f"%r2 = call i32 @rrto_find(ptr %frames, i32 {self.frame.threads}, i32 %which)")
        b.line("%last_region = icmp ugt i32 %r2, %limit")
        b.line("br i1 %last_region, label %swap, label %run")
        b.label("swap")
        b.line(
            f"call void @llvm.memcpy.p0.p0.i64(ptr %frames, ptr %states2, i64 {size}, i1 false)"
        )
        if not together:
            b.line("br label %phase")
            return
        b.line("%gives_way = load i1, ptr %yielded")
        b.line("br i1 %gives_way, label %suspend, label %phase")
        b.label("suspend")
        b.line("store i1 true, ptr %open")
        b.line("br label %block_done")
        b.label("block_over")
        b.line(f"store i64 1, ptr {over}")
        b.line("br label %block_done")

    # one region over all threads
    def _region(self, index: int, after: str) -> None:
        write_region(self.frame, index)
        self.b.line(f"br label %{after}")
