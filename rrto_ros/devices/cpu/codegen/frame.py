"""What all regions of one kernel share: the builder, frames, exchange buffers, barriers."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import warp
from rrto_ros.devices.cpu.codegen.builder import Builder, Val
from rrto_ros.devices.cpu.passes.cfg import BARRIER_OPS, gives_result, is_warp_wide, live_in
from rrto_ros.devices.cpu.passes.layout import KernelLayout, align_up
from rrto_ros.devices.cpu.program import KernelProgram
from rrto_ros.devices.cpu.ptx import ast

DONE = warp.DONE
CELL_BYTES = 512


class KernelFrame:
    """The plan of one kernel's native function.

    Args:
        program: The kernel after all passes.
        block: Threads along x, y, z.
        lanes: Threads done at once, at most.
        memcheck: Whether every access is looked up first.

    Attributes:
        vector: How several threads run at once, None for one by one.
        single: Whether there is one region only, so that nothing is kept between regions.
        live: Registers live at the start of each block, where lanes may part.
        frames: Register -> offset of its values (one per thread) between regions.
        frame_bytes: Size of that memory, states and exchange buffers included.
        exchange: Offset of the buffers through which threads of a warp exchange values.
        combine: Offset of those through which a block combines values.
        waits: Region -> the wait before it, of a warp or the block.
        gated: Regions behind a warp's wait for certain lanes.
        masks: Offset of the lanes that each thread waits for.
        named: Region -> (number, threads) of the barrier before it, where any barrier is for a
            part of the block only.
        arrivals: Number of a barrier -> slot that counts bar.arrive.
        keyed: Whether registers say what a barrier waits for, so that threads keep it as a key.
        keys: Offset of the threads' keys.
        arrived: Array that counts bar.arrive, if `keyed`.
        cells: Offset of what is kept of a block besides while others have their turn, 0 if its
            threads run to their end at once.
    """

    def __init__(
        self, program: KernelProgram, block: tuple[int, int, int], lanes: int, memcheck: bool
    ) -> None:
        self.program = program
        self.memcheck = memcheck
        self.block = block
        self.threads = block[0] * block[1] * block[2]
        self.keyed = warp.counted_in_registers(self._barriers())
        self.vector = None if self.keyed else program.vector_plan(block, lanes)
        self.lanes = self.vector.lanes if self.vector else 1
        self.b = Builder(self.lanes)
        self.layout: KernelLayout = program.layout
        self.single = len(program.regions.regions) == 1
        self.live = (
            live_in(list(program.regions.blocks)) if self.vector and self.vector.diverging else []
        )
        self.frames: dict[str, int] = {}
        self.frame_bytes = 0
        self.exchange = 0
        self.combine = 0
        self.waits = {
            program.regions.of_entry[block.targets[0]]: block.barrier
            for block in program.regions.blocks
            if block.barrier is not None
        }
        members = {region: warp.member_mask(instr) for region, instr in self.waits.items()}
        self.gated = {region for region, mask in members.items() if mask is not None}
        self._keeps_masks = any(
            mask is not None and not isinstance(mask, ast.Imm) for mask in members.values()
        )
        self.masks = 0
        self.named: dict[int, tuple[int, int]] = {}
        self.arrivals: dict[int, str] = {}
        self.keys = 0
        self.cells = 0
        self.arrived = ""
        if self.keyed:
            self.arrived = "%arrived" if program.yields else self.b.alloca("[16 x i32]")
        if not self.keyed:
            self._find_named()
        if not self.single:
            self._place_frames()

    def _barriers(self) -> list[ast.Instr]:
        """All barriers of the block, and arrivals at them."""
        blocks = self.program.regions.blocks
        waits = [b.barrier for b in blocks if b.barrier is not None]
        return [i for i in waits if not is_warp_wide(i)] + [
            i for b in blocks for i in b.instrs if i.op in BARRIER_OPS and "arrive" in i.mods
        ]

    def _find_named(self) -> None:
        """Regions behind barriers, if any barrier is for a part of the block only."""
        blocks = self.program.regions.blocks
        found = {}
        for block in blocks:
            if block.barrier is not None and not is_warp_wide(block.barrier):
                region = self.program.regions.of_entry[block.targets[0]]
                found[region] = warp.barrier_of(block.barrier)
        arrive = [
            warp.barrier_of(i)
            for b in blocks
            for i in b.instrs
            if i.op in BARRIER_OPS and "arrive" in i.mods
        ]
        if arrive or any(count not in (0, self.threads) for _, count in found.values()):
            self.named = found
            numbers = {n for n, _ in (*found.values(), *arrive)}
            self.arrivals = {
                n: f"%arrivals{n}" if self.program.yields else self.b.alloca("i32")
                for n in numbers
            }

    def _place_frames(self) -> None:
        offset = align_up(self.threads * 4, 64) * 2
        if self.keyed:
            self.keys = offset
            offset += align_up(self.threads * 4, 64)
        if self._keeps_masks:
            self.masks = offset
            offset += align_up(self.threads * 4, 64)
        for region in self.program.regions.regions:
            for name in region.live:
                if name not in self.frames:
                    self.frames[name] = offset
                    width = Val("", self.program.types[name]).bits
                    offset += align_up(self.threads * max(1, width // 8), 64)
        # Two sides of some words per thread, padded to whole warps.
        self.exchange = offset
        self.combine = offset + 2 * self.exchange_bytes
        self.frame_bytes = self.combine + 2 * self.combine_bytes + 64
        if self.program.yields:
            self.cells = align_up(self.frame_bytes, 64)
            self.frame_bytes = self.cells + CELL_BYTES

    @property
    def exchange_bytes(self) -> int:
        """Size of one side of the warps' buffer."""
        return self._side(warp_wide=True)

    @property
    def combine_bytes(self) -> int:
        """Size of one side of the block's buffer."""
        return self._side(warp_wide=False)

    def _side(self, *, warp_wide: bool) -> int:
        offers = [
            b.barrier
            for b in self.program.regions.blocks
            if b.barrier is not None and gives_result(b.barrier)
        ]
        words = max(
            (warp.words_offered(i) for i in offers if is_warp_wide(i) == warp_wide), default=0
        )
        return align_up(self.threads, 32) * 8 * words
