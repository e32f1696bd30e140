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
    floating,
    integer,
    memory,
    tensor,
    warp,
)
from rrto_ros.devices.cpu.codegen.builder import Builder, Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.passes.cfg import Block, gives_result
from rrto_ros.devices.cpu.passes.layout import KernelLayout, align_up
from rrto_ros.devices.cpu.passes.regions import Region
from rrto_ros.devices.cpu.program import KernelProgram

CONTEXT_FIELDS = ("params", "shared", "frames", "local", "globals", "scratch",
                  "nctaid.x", "nctaid.y", "nctaid.z", "dynamic_smem", "total_smem", "stop")
"""The launch context: one 64-bit word each, in this order."""
_NUMBERS = frozenset(CONTEXT_FIELDS[6:11])

_DONE = 0x7FFFFFFF
_RARELY = '!0 = !{!"branch_weights", i32 1048576, i32 1}'
_ZERO = {"float": "0.0", "double": "0.0", "half": "0xH0000", "i1": "false"}

_FIND = f"""
define internal i32 @rrto_find(ptr %states, i32 %count, i32 %previous) {{
entry:
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %best = phi i32 [ {_DONE}, %entry ], [ %better, %loop ]
  %at = getelementptr i32, ptr %states, i32 %i
  %state = load i32, ptr %at
  %later = icmp sgt i32 %state, %previous
  %less = icmp slt i32 %state, %best
  %take = and i1 %later, %less
  %better = select i1 %take, i32 %state, i32 %best
  %next = add i32 %i, 1
  %more = icmp ult i32 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret i32 %better
}}
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


def generate(program: KernelProgram, block: tuple[int, int, int], max_lanes: int) -> Generated:
    """LLVM IR of a kernel for one block size.

    Raises:
        PtxError: An instruction that is not supported.
    """
    return _KernelWriter(program, block, max_lanes).write()


class _KernelWriter:
    def __init__(self, program: KernelProgram, block: tuple[int, int, int], lanes: int) -> None:
        self.program = program
        self.block = block
        self.threads = block[0] * block[1] * block[2]
        self.vector = program.vector_plan(block, lanes)
        self.lanes = self.vector.lanes if self.vector else 1
        self.b = Builder(self.lanes)
        self.layout: KernelLayout = program.layout
        self.single = len(program.regions.regions) == 1
        self.frames: dict[str, int] = {}
        self.frame_bytes = 0
        self.exchange = 0
        if not self.single:
            self._place_frames()

    def _place_frames(self) -> None:
        offset = align_up(self.threads * 4, 64) * 2
        for region in self.program.regions.regions:
            for name in region.live:
                if name not in self.frames:
                    self.frames[name] = offset
                    width = Val("", self.program.types[name]).bits
                    offset += align_up(self.threads * max(1, width // 8), 64)
        # Two buffers of one word per thread, padded to whole warps.
        self.exchange = offset
        self.frame_bytes = offset + 2 * self.exchange_bytes + 64

    @property
    def exchange_bytes(self) -> int:
        offers = [b.barrier for b in self.program.regions.blocks
                  if b.barrier is not None and gives_result(b.barrier)]
        words = max((warp.words_offered(i) for i in offers), default=1)
        return align_up(self.threads, 32) * 8 * words

    def write(self) -> Generated:
        b = self.b
        symbol = "rrto_kernel"
        self._prologue()
        self._blocks()
        head = [f"define void @{symbol}(ptr noalias %context, i64 %first, i64 %last) #0 {{",
                "entry:"]
        lines = head + b.allocas + b.lines + ["}"]
        declared = sorted(set(b.declared.values()))
        width = "512" if self.lanes >= 16 else "256"
        attributes = ("attributes #0 = { nounwind "
                      f'"min-legal-vector-width"="{width}" "prefer-vector-width"="{width}" }}')
        extra = "" if self.single else _FIND
        text = "\n".join([*declared, extra, *lines, attributes, _RARELY, ""])
        local = self.layout.local_bytes * self.threads if not self.single else 0
        return Generated(text, symbol, self.frame_bytes, local, self.lanes)

    # the frame of the function
    def _prologue(self) -> None:
        b = self.b
        for index, name in enumerate(CONTEXT_FIELDS):
            kind = "i64" if name in _NUMBERS else "ptr"
            where = f"%c{index}"
            b.line(f"{where} = getelementptr i64, ptr %context, i64 {index}")
            target = f"%{name}" if kind == "ptr" else f"%f{index}"
            b.line(f"{target} = load {kind}, ptr {where}")
        for index, target in ((6, "nx"), (7, "ny"), (8, "nz"), (9, "dyn"), (10, "total")):
            b.line(f"%{target} = trunc i64 %f{index} to i32")

    def _blocks(self) -> None:
        b = self.b
        b.line("br label %block_head")
        b.label("block_head")
        b.line("%blk = phi i64 [ %first, %entry ], [ %blk_next, %block_done ]")
        b.line("%blk_more = icmp ult i64 %blk, %last")
        b.line("%blk_stop = load volatile i8, ptr %stop")
        b.line("%blk_free = icmp eq i8 %blk_stop, 0")
        b.line("%blk_go = and i1 %blk_more, %blk_free")
        b.line("br i1 %blk_go, label %block_body, label %leave")
        b.label("leave")
        b.line("ret void")
        b.label("block_body")
        b.line("%blk_x = urem i64 %blk, %f6")
        b.line("%blk_yz = udiv i64 %blk, %f6")
        b.line("%blk_y = urem i64 %blk_yz, %f7")
        b.line("%blk_z = udiv i64 %blk_yz, %f7")
        for axis in "xyz":
            b.line(f"%cta{axis} = trunc i64 %blk_{axis} to i32")
        if self.single:
            self._region(0, "block_done")
        else:
            self._phases()
        b.label("block_done")
        b.line("%blk_next = add i64 %blk, 1")
        b.line("br label %block_head")

    def _phases(self) -> None:
        b = self.b
        size = self.threads * 4
        b.line(f"%states2 = getelementptr i8, ptr %frames, i64 {align_up(size, 64)}")
        b.line(f"call void @llvm.memset.p0.i64(ptr %frames, i8 0, i64 {size}, i1 false)")
        b.line(f"%exchange = getelementptr i8, ptr %frames, i64 {self.exchange}")
        b.line(f"call void @llvm.memset.p0.i64(ptr %exchange, i8 0, "
               f"i64 {2 * self.exchange_bytes}, i1 false)")
        parity = b.alloca("i64")
        b.line(f"store i64 0, ptr {parity}")
        b.line("br label %phase")
        b.label("phase")
        b.line(f"%r0 = call i32 @rrto_find(ptr %frames, i32 {self.threads}, i32 -1)")
        b.line(f"%over = icmp eq i32 %r0, {_DONE}")
        warp_wide = self.program.regions.warp_wide
        b.line(f"%in_warp = icmp ule i32 %r0, {warp_wide}")
        b.line(f"%limit = select i1 %in_warp, i32 {warp_wide}, i32 {_DONE - 1}")
        b.line(f"%write_at = load i64, ptr {parity}")
        b.line(f"%read_at = sub i64 {self.exchange_bytes}, %write_at")
        b.line("%exchange_out = getelementptr i8, ptr %exchange, i64 %write_at")
        b.line("%exchange_in = getelementptr i8, ptr %exchange, i64 %read_at")
        b.line("br i1 %over, label %block_done, label %run")
        b.label("run")
        b.line("%which = phi i32 [ %r0, %phase ], [ %r2, %ran ]")
        count = len(self.program.regions.regions)
        cases = " ".join(f"i32 {i}, label %region{i}" for i in range(count))
        b.line(f"switch i32 %which, label %block_done [ {cases} ]")
        for index in range(count):
            b.label(f"region{index}")
            self._region(index, "ran")
        b.label("ran")
        b.line(f"%r2 = call i32 @rrto_find(ptr %frames, i32 {self.threads}, i32 %which)")
        b.line("%last_region = icmp ugt i32 %r2, %limit")
        b.line("br i1 %last_region, label %swap, label %run")
        b.label("swap")
        b.line(f"call void @llvm.memcpy.p0.p0.i64(ptr %frames, ptr %states2, i64 {size}, "
               "i1 false)")
        b.line(f"store i64 %read_at, ptr {parity}")
        b.line("br label %phase")

    # one region over all threads
    def _region(self, index: int, after: str) -> None:
        whole = self.threads - self.threads % self.lanes
        if whole and self.lanes > 1:
            _RegionWriter(self, index, self.lanes).loop(0, whole)
        if whole < self.threads or self.lanes == 1:
            start = whole if self.lanes > 1 else 0
            _RegionWriter(self, index, 1).loop(start, self.threads)
        self.b.line(f"br label %{after}")


class _RegionWriter:
    """One region for one number of lanes: the thread loop and the code in it."""

    def __init__(self, kernel: _KernelWriter, index: int, lanes: int) -> None:
        self.kernel = kernel
        self.program = kernel.program
        self.index = index
        self.region: Region = self.program.regions.regions[index]
        self.b = kernel.b
        self.lanes = lanes
        self.prefix = f"g{index}w{lanes}"
        self.slots: dict[str, tuple[str, str, bool]] = {}
        self.polls: list[tuple[str, int]] = []

    def loop(self, start: int, stop: int) -> None:
        b = self.b
        saved, b.lanes = b.lanes, self.lanes
        p = self.prefix
        pre = b.new_label("pre")
        b.line(f"br label %{pre}")
        b.label(pre)
        b.line(f"br label %{p}_head")
        b.label(f"{p}_head")
        t, following = f"%{p}_t", f"%{p}_n"
        b.line(f"{t} = phi i32 [ {start}, %{pre} ], [ {following}, %{p}_latch ]")
        self._body(Val(t, "i32"))
        b.label(f"{p}_latch")
        b.line(f"{following} = add i32 {t}, {self.lanes}")
        b.line(f"%{p}_more = icmp ult i32 {following}, {stop}")
        out = b.new_label("out")
        b.line(f"br i1 %{p}_more, label %{p}_head, label %{out}")
        b.label(out)
        b.lanes = saved

    def _body(self, t: Val) -> None:
        b = self.b
        self._make_slots()
        plan = self.kernel.vector
        strides = plan.strides if plan and self.lanes > 1 else {}
        e = Emitter(b, self.program.layout, self.slots, strides)
        e.kernel_params = self.program.kernel_params
        e.threads = self.kernel.threads
        self._specials(e, t)
        self._local(e)
        if not self.kernel.single:
            if self.lanes == 1:
                self._check_state(t)
            self._load_live(t)
        else:
            for name in self.region.live:
                self._store_zero(name)
        for instr in self.region.again:
            e.emit(instr)
        b.line(f"br label %{self._label(self.region.entry)}")
        for index in self.region.blocks:
            block = self.program.regions.blocks[index]
            e.begin_block(self._label(index))
            for instr in block.instrs:
                e.emit(instr)
            self._terminate(e, block, t)

    def _label(self, block: int) -> str:
        return f"{self.prefix}_b{block}"

    def _make_slots(self) -> None:
        b = self.b
        plan = self.kernel.vector
        for name, kind in self.program.types.items():
            vec = self.lanes > 1 and (plan is None or name in plan.varying)
            self.slots[name] = (b.alloca(b.ty(kind, vec)), kind, vec)
        if self.program.uses_carry:
            vec = self.lanes > 1
            self.slots["%carry"] = (b.alloca(b.ty("i1", vec)), "i1", vec)

    def _store_zero(self, name: str) -> None:
        slot, kind, vec = self.slots[name]
        zero = "zeroinitializer" if vec else _ZERO.get(kind, "0")
        self.b.line(f"store {self.b.ty(kind, vec)} {zero}, ptr {slot}")

    def _specials(self, e: Emitter, t: Val) -> None:
        b = self.b
        nx, ny, nz = self.kernel.block
        linear = t
        if self.lanes > 1:
            iota = ", ".join(f"i32 {i}" for i in range(self.lanes))
            linear = b.binary("add", t, Val(f"<{iota}>", "i32", True))
        row_uniform = nx % self.lanes == 0
        x = b.binary("urem", linear, const(nx, "i32")) if ny * nz > 1 else linear
        rows = t if row_uniform else linear
        y = z = const(0, "i32")
        if ny > 1:
            row = b.binary("udiv", rows, const(nx, "i32"))
            y = b.binary("urem", row, const(ny, "i32")) if nz > 1 else row
        if nz > 1:
            planes = t if (nx * ny) % self.lanes == 0 else linear
            z = b.binary("udiv", planes, const(nx * ny, "i32"))
        if nx == 1:
            x = const(0, "i32")
        threads = self.kernel.threads
        e.special = {
            "tid.x": x, "tid.y": y, "tid.z": z, "linear": linear,
            "ntid.x": const(nx, "i32"), "ntid.y": const(ny, "i32"), "ntid.z": const(nz, "i32"),
            "nctaid.x": Val("%nx", "i32"), "nctaid.y": Val("%ny", "i32"),
            "nctaid.z": Val("%nz", "i32"),
            "ctaid.x": Val("%ctax", "i32"), "ctaid.y": Val("%ctay", "i32"),
            "ctaid.z": Val("%ctaz", "i32"),
            "nwarpid": const((threads + 31) // 32, "i32"), "smid": const(0, "i32"),
            "nsmid": const(1, "i32"), "gridid": const(0, "i64"),
            "dynamic_smem_size": Val("%dyn", "i32"), "total_smem_size": Val("%total", "i32"),
            "is_explicit_cluster": const(0, "i1"), "cluster_ctaid.x": const(0, "i32"),
        }

    def _local(self, e: Emitter) -> None:
        b = self.b
        size = self.program.layout.local_bytes
        if not size:
            return
        if self.kernel.single:
            slot = b.alloca(f"[{size * self.lanes} x i8]", 16)
            base = Val(slot, "ptr")
            index = const(0, "i64")
            if self.lanes > 1:
                steps = ", ".join(f"i64 {i * size}" for i in range(self.lanes))
                index = Val(f"<{steps}>", "i64", True)
            e.local = e.offset(base, index) if self.lanes > 1 else base
            return
        number = b.resize(e.special["linear"], "i64", False)
        e.local = e.offset(Val("%local", "ptr"), b.binary("mul", number, const(size, "i64")))

    # registers kept across barriers
    def _check_state(self, t: Val) -> None:
        b = self.b
        where, state, mine = b.name("st"), b.name("st"), b.name("st")
        b.line(f"{where} = getelementptr i32, ptr %frames, i32 {t.text}")
        b.line(f"{state} = load i32, ptr {where}")
        b.line(f"{mine} = icmp eq i32 {state}, {self.index}")
        enter = b.new_label("enter")
        b.line(f"br i1 {mine}, label %{enter}, label %{self.prefix}_latch")
        b.label(enter)

    def _frame(self, name: str, t: Val) -> str:
        b = self.b
        kind = self.program.types[name]
        memory_kind = "i8" if kind == "i1" else kind
        base, where = b.name("fr"), b.name("fr")
        b.line(f"{base} = getelementptr i8, ptr %frames, i64 {self.kernel.frames[name]}")
        b.line(f"{where} = getelementptr {memory_kind}, ptr {base}, i32 {t.text}")
        return where

    def _load_live(self, t: Val) -> None:
        b = self.b
        for name in self.region.live:
            if self.region.entry == 0:
                self._store_zero(name)
                continue
            slot, kind, vec = self.slots[name]
            where = self._frame(name, t)
            out = b.name("lv")
            if kind == "i1":
                b.line(f"{out} = load {b.ty('i8', vec)}, ptr {where}, align 1")
                value = b.cast("trunc", Val(out, "i8", vec), "i1")
                out = value.text
            else:
                b.line(f"{out} = load {b.ty(kind, vec)}, ptr {where}, align 1")
            b.line(f"store {b.ty(kind, vec)} {out}, ptr {slot}")

    def _store_live(self, target: int, t: Val) -> None:
        b = self.b
        region = self.program.regions.regions[target]
        for name in region.live:
            slot, kind, vec = self.slots[name]
            out = b.name("lv")
            b.line(f"{out} = load {b.ty(kind, vec)}, ptr {slot}")
            value = Val(out, kind, vec)
            if kind == "i1":
                value = b.cast("zext", value, "i8")
            b.line(f"store {b.arg(value)}, ptr {self._frame(name, t)}, align 1")

    def _set_state(self, state: int, t: Val) -> None:
        b = self.b
        where = b.name("st")
        b.line(f"{where} = getelementptr i32, ptr %states2, i32 {t.text}")
        value = b.widen(const(state, "i32"))
        b.line(f"store {b.arg(value)}, ptr {where}, align 4")

    # block ends
    def _terminate(self, e: Emitter, block: Block, t: Val) -> None:
        b = self.b
        latch = f"%{self.prefix}_latch"
        if block.barrier is not None:
            target = self.program.regions.of_entry[block.targets[0]]
            if gives_result(block.barrier):
                warp.offer(e, block.barrier)
            self._store_live(target, t)
            self._set_state(target, t)
            b.line(f"br label {latch}")
        elif not block.targets:
            if not self.kernel.single:
                self._set_state(_DONE, t)
            b.line(f"br label {latch}")
        elif block.selector is not None:
            index = e.get(block.selector.name)
            labels = [self._edge(block, target) for target in block.targets]
            cases = " ".join(f"i32 {i}, label %{label}" for i, label in enumerate(labels))
            b.line(f"switch i32 {index.text}, label %{labels[0]} [ {cases} ]")
        elif len(block.targets) == 1:
            b.line(f"br label %{self._edge(block, block.targets[0])}")
        else:
            assert block.guard is not None
            taken, fallen = (self._edge(block, target) for target in block.targets)
            condition = e.predicate(block.guard, block.guard_negated)
            b.line(f"br i1 {condition.text}, label %{taken}, label %{fallen}")
        for label, target in self.polls:
            stop, go = b.name("st"), b.name("st")
            b.label(label)
            b.line(f"{stop} = load volatile i8, ptr %stop")
            b.line(f"{go} = icmp eq i8 {stop}, 0")
            b.line(f"br i1 {go}, label %{self._label(target)}, label %leave, !prof !0")
        self.polls.clear()

    def _edge(self, block: Block, target: int) -> str:
        """The label to jump to; an edge that may close a loop looks at the stop flag first."""
        if target > block.index or (block.index, target) in self.program.bounded:
            return self._label(target)
        label = self.b.new_label("poll")
        self.polls.append((label, target))
        return label
