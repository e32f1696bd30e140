"""One region over all threads of a block: the thread loop and the code in it.

With vectors, a loop runs `lanes` threads at a time. Inside it lies a scalar copy of the region,
for what does not go together: the last threads of a block that vectors do not divide, vectors
whose lanes wait in different places, and lanes that part at a branch. The copy is entered at the
region's start or, with the lanes' registers spilled to memory, behind that branch.

Over 400 lines: the vector loop and its scalar copy are two views of the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.devices.cpu.codegen import warp
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.columns import load_columns
from rrto_ros.devices.cpu.codegen.containment import LOW, contained
from rrto_ros.devices.cpu.codegen.emitter import U32, Emitter
from rrto_ros.devices.cpu.codegen.frame import DONE, KernelFrame
from rrto_ros.devices.cpu.codegen.table import emit
from rrto_ros.devices.cpu.passes.affine import Affine
from rrto_ros.devices.cpu.passes.cfg import (
    YIELD,
    Block,
    destinations,
    gives_result,
    is_warp_wide,
    sources,
)
from rrto_ros.devices.cpu.passes.regions import Region
from rrto_ros.devices.cpu.ptx import ast

_ZERO = {"float": "0.0", "double": "0.0", "half": "0xH0000", "i1": "false"}
# A widened value this far from both ends of its range does not wrap within a vector.
_MIDDLE = 1 << 30


@dataclass
class Spill:
    """How lanes that part at a branch get into the scalar copy.

    Attributes:
        start, stop, resume: Slots: first thread, behind the last, and where to (0: the start).
        arrays: Register -> array with its value in each lane.
        condition: Array of the lanes' conditions.
        exits: (number, register names, block taken, block fallen to) of each such branch.
    """

    start: str
    stop: str
    resume: str
    arrays: dict[str, str]
    condition: str
    exits: list[tuple[int, frozenset[str], int, int]]


class RegionCode:
    """What the vector code and the scalar copy have in common."""

    def __init__(self, kernel: KernelFrame, index: int, lanes: int) -> None:
        self.kernel = kernel
        self.program = kernel.program
        self.index = index
        self.region: Region = self.program.regions.regions[index]
        self.b = kernel.b
        self.lanes = lanes
        self.prefix = f"g{index}w{lanes}"
        self.slots: dict[str, tuple[str, str, bool]] = {}
        self.roots: dict[str, str] = {}
        self.safe: dict[str, str] = {}
        self.polls: list[tuple[str, int]] = []
        instrs = [i for k in self.region.blocks for i in self.program.regions.blocks[k].instrs]
        self.used = {n for i in instrs for n in (*destinations(i), *sources(i))}
        written = {n for i in instrs for n in destinations(i)}
        # Still in the frame from before; at the start of the kernel nothing is.
        kept = frozenset(self.region.live) if self.region.entry else frozenset()
        self.unchanged = kept - written

    @property
    def affine(self) -> dict[str, Affine]:
        plan = self.kernel.vector
        return plan.affine if plan is not None and self.lanes > 1 else {}

    def emitter(self, t: Val) -> Emitter:
        """Slots, special registers and memory of the thread(s) from `t` on."""
        e = Emitter(self.b, self.program.layout, self.slots, self.affine, self.roots)
        e.safe, e.moved = self.safe, self.program.addresses.moved
        e.kernel_params = self.program.kernel_params
        e.threads = self.kernel.threads
        e.region = self.index
        e.arrivals = self.kernel.arrivals
        e.arrived = self.kernel.arrived
        e.memcheck = self.kernel.memcheck
        e.param_bytes = max((o + s for o, s in self.program.layout.params), default=0)
        self._specials(e, t)
        return e

    def blocks(self, e: Emitter, t: Val) -> None:
        """The code from the start of the region, all its blocks."""
        for instr in self.region.again:
            emit(e, instr)
        self.b.line(f"br label %{self._label(self.region.entry)}")
        for index in self.region.blocks:
            block = self.program.regions.blocks[index]
            e.begin_block(self._label(index))
            self._instructions(e, block)
            self._terminate(e, block, t)

    def _instructions(self, e: Emitter, block: Block) -> None:
        plan = self.kernel.vector
        groups = plan.columns.get(block.index, ()) if plan is not None and self.lanes > 1 else ()
        done: set[int] = set()
        for position, instr in enumerate(block.instrs):
            if position in done:
                continue
            group = next((g for g in groups if position in g.positions), None)
            if group is None:
                emit(e, instr)
                continue
            load_columns(e, [block.instrs[p] for p in group.positions], group)
            done.update(group.positions)

    def _label(self, block: int) -> str:
        return f"{self.prefix}_b{block}"

    def make_slots(self) -> None:
        b = self.b
        plan = self.kernel.vector
        affine = self.affine
        for name, kind in self.program.types.items():
            vec = self.lanes > 1 and name not in affine and (plan is None or name in plan.varying)
            self.slots[name] = (b.alloca(b.ty(kind, vec)), kind, vec)
            # What the passes overlook is some number, not something that LLVM makes up.
            zero = "zeroinitializer" if vec else _ZERO.get(kind, "0")
            b.allocas.append(f"  store {b.ty(kind, vec)} {zero}, ptr {self.slots[name][0]}")
            if name in affine and not affine[name].exact:
                self.roots[name] = b.alloca("i32")
                b.allocas.append(f"  store i32 0, ptr {self.roots[name]}")
            if name in self.program.addresses.registers and not self.kernel.memcheck:
                self.safe[name] = b.alloca(b.ty("ptr", vec))
                b.starts += self._never_set(name)
        if self.program.uses_carry:
            vec = self.lanes > 1
            self.slots["%carry"] = (b.alloca(b.ty("i1", vec)), "i1", vec)
            self._store_zero("%carry")

    def _store_zero(self, name: str) -> None:
        slot, kind, vec = self.slots[name]
        zero = "zeroinitializer" if vec else _ZERO.get(kind, "0")
        self.b.line(f"store {self.b.ty(kind, vec)} {zero}, ptr {slot}")
        if name in self.roots:
            self.b.line(f"store i32 {_MIDDLE}, ptr {self.roots[name]}")
        if name in self.safe:
            self.b.lines += self._never_set(name)

    def _never_set(self, name: str) -> list[str]:
        """The safe pointer of a register that nothing was written to."""
        b = self.b
        lines, pointer = [], LOW
        if self.slots[name][2]:
            one, pointer, vector = b.name(), b.name(), b.ty("ptr", True)
            picks = f"<{self.lanes} x i32> zeroinitializer"
            lines = [
                f"  {one} = insertelement {vector} poison, ptr {LOW}, i32 0",
                f"  {pointer} = shufflevector {vector} {one}, {vector} poison, {picks}",
            ]
        kind = b.ty("ptr", self.slots[name][2])
        return [*lines, f"  store {kind} {pointer}, ptr {self.safe[name]}"]

    def _set_safe(self, name: str, value: Val) -> None:
        """Beside a register that is set from memory: its safe pointer."""
        if name in self.safe:
            pointer = contained(self.b, value)
            self.b.line(f"store {self.b.arg(pointer)}, ptr {self.safe[name]}")

    def _specials(self, e: Emitter, t: Val) -> None:
        b = self.b
        nx, ny, nz = self.kernel.block
        linear = t
        if self.lanes > 1:
            iota = ", ".join(f"i32 {i}" for i in range(self.lanes))
            linear = b.binary("add", t, Val(f"<{iota}>", "i32", True))
        row_uniform = nx % self.lanes == 0

        def column(of: Val) -> Val:
            if nx == 1:
                return const(0, "i32")
            return b.binary("urem", of, const(nx, "i32")) if ny * nz > 1 else of

        rows = t if row_uniform else linear
        y = z = const(0, "i32")
        if ny > 1:
            row = b.binary("udiv", rows, const(nx, "i32"))
            y = b.binary("urem", row, const(ny, "i32")) if nz > 1 else row
        if nz > 1:
            planes = t if (nx * ny) % self.lanes == 0 else linear
            z = b.binary("udiv", planes, const(nx * ny, "i32"))
        threads = self.kernel.threads
        e.special = {
            "tid.x": column(linear),
            "tid.y": y,
            "tid.z": z,
            "linear": linear,
            "ntid.x": const(nx, "i32"),
            "ntid.y": const(ny, "i32"),
            "ntid.z": const(nz, "i32"),
            "nctaid.x": Val("%nx", "i32"),
            "nctaid.y": Val("%ny", "i32"),
            "nctaid.z": Val("%nz", "i32"),
            "ctaid.x": Val("%ctax", "i32"),
            "ctaid.y": Val("%ctay", "i32"),
            "ctaid.z": Val("%ctaz", "i32"),
            "nwarpid": const((threads + 31) // 32, "i32"),
            "smid": const(0, "i32"),
            "nsmid": const(1, "i32"),
            "gridid": const(0, "i64"),
            "dynamic_smem_size": Val("%dyn", "i32"),
            "total_smem_size": Val("%total", "i32"),
            "envreg1": Val("%workspace_high", "i32"),
            "envreg2": Val("%workspace_low", "i32"),
            "is_explicit_cluster": const(0, "i1"),
            "cluster_ctaid.x": const(0, "i32"),
        }
        if self.lanes > 1:
            e.first_special = {"tid.x": column(t), "linear": t}

    def local_memory(self, e: Emitter) -> None:
        """Points the emitter to the local memory kept across barriers."""
        b = self.b
        size = self.program.layout.local_bytes
        number = b.resize(e.special["linear"], "i64", False)
        e.local = e.offset(Val("%local", "ptr"), b.binary("mul", number, const(size, "i64")))

    def own_local(self, size: int) -> str:
        """Local memory of the threads that run at once, where nothing is kept of it.

        On the stack LLVM turns it into registers, but takes an access beyond it for impossible.
        What others left on the stack is not for kernels to see.
        """
        layout = self.program.layout
        if not layout.stacked:
            return "%local"
        slot = self.b.alloca(f"[{size} x i8]", 64)
        self.b.declared["memset"] = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
        self.b.allocas.append(
            f"  call void @llvm.memset.p0.i64(ptr {slot}, i8 0, i64 {size}, i1 false)"
        )
        return slot

    # registers kept across barriers
    def _frame(self, name: str, t: Val) -> str:
        b = self.b
        kind = self.program.types[name]
        memory_kind = "i8" if kind == "i1" else kind
        base, where = b.name("fr"), b.name("fr")
        b.line(f"{base} = getelementptr i8, ptr %frames, i64 {self.kernel.frames[name]}")
        b.line(f"{where} = getelementptr {memory_kind}, ptr {base}, i32 {t.text}")
        return where

    def _load(self, kind: str, vec: bool, where: str) -> Val:
        b = self.b
        out = b.name("lv")
        if kind == "i1":
            b.line(f"{out} = load {b.ty('i8', vec)}, ptr {where}, align 1")
            return b.cast("trunc", Val(out, "i8", vec), "i1")
        b.line(f"{out} = load {b.ty(kind, vec)}, ptr {where}, align 1")
        return Val(out, kind, vec)

    def _save(self, value: Val, where: str) -> None:
        if value.type == "i1":
            value = self.b.cast("zext", value, "i8")
        self.b.line(f"store {self.b.arg(value)}, ptr {where}, align 1")

    def load_live(self, t: Val) -> None:
        """Registers from earlier regions; zeros at the start of the kernel."""
        for name in self.region.live:
            if self.region.entry == 0:
                self._store_zero(name)
                continue
            slot, kind, vec = self.slots[name]
            value = self._load(kind, vec, self._frame(name, t))
            self.b.line(f"store {self.b.arg(value)}, ptr {slot}")
            self._set_safe(name, value)
            if name in self.roots:
                self.b.line(f"store i32 {_MIDDLE}, ptr {self.roots[name]}")

    def _store_live(self, e: Emitter, target: int, t: Val) -> None:
        for name in self.program.regions.regions[target].live:
            if name in self.unchanged:
                continue
            value = e.get(name)
            self._save(self.b.widen(value), self._frame(name, t))

    def _state(self, states: str, t: Val) -> str:
        where = self.b.name("st")
        self.b.line(f"{where} = getelementptr i32, ptr {states}, i32 {t.text}")
        return where

    def _set_state(self, state: int, t: Val) -> None:
        value = self.b.widen(const(state, "i32"))
        self.b.line(f"store {self.b.arg(value)}, ptr {self._state('%states2', t)}, align 4")

    # block ends
    def _terminate(self, e: Emitter, block: Block, t: Val) -> None:
        b = self.b
        latch = f"%{self.prefix}_latch"
        if block.barrier is not None:
            target = self.program.regions.of_entry[block.targets[0]]
            if block.barrier.op == YIELD:
                b.line("store i1 true, ptr %yielded")
            if gives_result(block.barrier):
                warp.offer(e, block.barrier, target)
            if self.kernel.keyed and not is_warp_wide(block.barrier):
                key = warp.barrier_key(e, block.barrier)
                b.line(f"store i32 {key.text}, ptr {self._state('%keys', t)}")
            if target in self.kernel.gated:
                warp.keep_mask(e, block.barrier, lambda: self._state("%masks", t))
            self._store_live(e, target, t)
            self._set_state(target, t)
            b.line(f"br label {latch}")
        elif not block.targets:
            if not self.kernel.single:
                self._set_state(DONE, t)
            b.line(f"br label {latch}")
        elif block.selector is not None:
            index = e.read(block.selector, U32)
            labels = [self._edge(block, target) for target in block.targets]
            cases = " ".join(f"i32 {i}, label %{label}" for i, label in enumerate(labels))
            b.line(f"switch i32 {index.text}, label %{labels[0]} [ {cases} ]")
        elif len(block.targets) == 1:
            b.line(f"br label %{self._edge(block, block.targets[0])}")
        else:
            assert block.guard is not None
            taken, fallen = (self._edge(block, target) for target in block.targets)
            condition = e.predicate(block.guard, block.guard_negated)
            if condition.vec:
                self._part(e, block, condition, (taken, fallen))
            else:
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

    def _part(self, e: Emitter, block: Block, condition: Val, labels: tuple[str, str]) -> None:
        raise NotImplementedError


class ScalarRegion(RegionCode):
    """Thread by thread: all of a block, or what the vector code hands over."""

    def __init__(self, kernel: KernelFrame, index: int) -> None:
        super().__init__(kernel, index, 1)

    def write(self, start: Val, stop: Val, spill: Spill | None, local: str = "") -> None:
        """The loop over threads [start, stop); the code goes on behind it.

        Args:
            start: Number of the first thread.
            stop: Behind the last one.
            spill: Where the loop is entered, None for the start only.
            local: Memory of the threads from `start` on, where it is not kept across barriers.
        """
        b = self.b
        saved, b.lanes = b.lanes, 1
        p = self.prefix
        pre, fresh, out = b.new_label("pre"), b.new_label("fresh"), b.new_label("out")
        b.line(f"br label %{pre}")
        b.label(pre)
        b.line(f"br label %{p}_head")
        b.label(f"{p}_head")
        t = Val(f"%{p}_t", "i32")
        b.line(f"{t.text} = phi i32 [ {start.text}, %{pre} ], [ %{p}_n, %{p}_latch ]")
        self.make_slots()
        e = self.emitter(t)
        self._local(e, t, start, local)
        if spill is not None and spill.exits:
            self._resume(spill, t, start, fresh)
        else:
            b.line(f"br label %{fresh}")
        b.label(fresh)
        if not self.kernel.single:
            self._check_state(t)
        if self.index in self.kernel.gated:
            self._check_members(e, t)
        self.load_live(t)
        self.blocks(e, t)
        b.label(f"{p}_latch")
        b.line(f"%{p}_n = add i32 {t.text}, 1")
        b.line(f"%{p}_more = icmp ult i32 %{p}_n, {stop.text}")
        b.line(f"br i1 %{p}_more, label %{p}_head, label %{out}")
        b.label(out)
        b.lanes = saved

    def _local(self, e: Emitter, t: Val, start: Val, local: str) -> None:
        b = self.b
        size = self.program.layout.local_bytes
        if not size:
            return
        if not self.kernel.single:
            self.local_memory(e)
        elif local:
            # The lanes that parted go on in the memory that they have.
            number = b.resize(b.binary("sub", t, start), "i64", False)
            e.local = e.offset(Val(local, "ptr"), b.binary("mul", number, const(size, "i64")))
        else:
            e.local = Val(self.own_local(size), "ptr")

    def _check_state(self, t: Val) -> None:
        b = self.b
        state, mine = b.name("st"), b.name("st")
        b.line(f"{state} = load i32, ptr {self._state('%frames', t)}")
        b.line(f"{mine} = icmp eq i32 {state}, {self.index}")
        enter = b.new_label("enter")
        b.line(f"br i1 {mine}, label %{enter}, label %{self.prefix}_latch")
        b.label(enter)
        if self.kernel.keyed and self.index > self.program.regions.warp_wide:
            self._check_key(t)

    def _check_members(self, e: Emitter, t: Val) -> None:
        """To the latch unless everybody has come whom the thread waits for."""
        b = self.b
        instr = self.kernel.waits[self.index]
        said = warp.member_mask(instr)
        if isinstance(said, ast.Imm):
            mask = const(said.value, "i32")
        else:
            mask = Val(b.name("mask"), "i32")
            b.line(f"{mask.text} = load i32, ptr {self._state('%masks', t)}")
        warp.gate(e, instr, mask, f"{self.prefix}_latch")
        b.line("store i1 true, ptr %progress")

    def _check_key(self, t: Val) -> None:
        """To the latch if the thread's barrier is closed."""
        b = self.b
        key = b.name("key")
        b.line(f"{key} = load i32, ptr {self._state('%keys', t)}")
        number = b.binary("and", Val(key, "i32"), const(15, "i32"))
        open_ = b.resize(b.binary("lshr", Val("%opened", "i32"), number), "i1", False)
        go = b.new_label("open")
        b.line(f"br i1 {open_.text}, label %{go}, label %{self.prefix}_latch")
        b.label(go)

    def _resume(self, spill: Spill, t: Val, start: Val, fresh: str) -> None:
        """Goes on behind the branch at which the lanes parted."""
        b = self.b
        lane = b.binary("sub", t, start)
        where = b.name("rs")
        b.line(f"{where} = load i32, ptr {spill.resume}")
        stubs = [(b.new_label("resume"), exit_) for exit_ in spill.exits]
        cases = " ".join(f"i32 {exit_[0]}, label %{label}" for label, exit_ in stubs)
        b.line(f"switch i32 {where}, label %{fresh} [ {cases} ]")

        def item(array: str, kind: str) -> Val:
            at = b.name("rs")
            b.line(
                f"{at} = getelementptr {'i8' if kind == 'i1' else kind}, ptr {array}, "
                f"i32 {lane.text}"
            )
            return self._load(kind, False, at)

        for label, (_, names, taken, fallen) in stubs:
            b.label(label)
            for name in sorted(names):
                slot, kind, _ = self.slots[name]
                value = item(spill.arrays[name], kind)
                b.line(f"store {b.arg(value)}, ptr {slot}")
                self._set_safe(name, value)
            condition = item(spill.condition, "i1")
            b.line(
                f"br i1 {condition.text}, label %{self._label(taken)}, "
                f"label %{self._label(fallen)}"
            )
