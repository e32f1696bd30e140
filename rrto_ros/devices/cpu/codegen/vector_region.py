"""One region, `lanes` threads at a time, with the scalar copy for what does not go together."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import warp
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.codegen.frame import KernelFrame
from rrto_ros.devices.cpu.codegen.region import RegionCode, ScalarRegion, Spill
from rrto_ros.devices.cpu.passes.cfg import Block


def write_region(kernel: KernelFrame, index: int) -> None:
    """Emits a region; the code goes on behind it."""
    if index in kernel.waits:
        warp.survey(kernel.b, kernel.waits[index], index, kernel.threads)
    if kernel.lanes > 1:
        _VectorRegion(kernel, index).write()
    else:
        scalar = ScalarRegion(kernel, index)
        scalar.write(const(0, "i32"), const(kernel.threads, "i32"), None)


class _VectorRegion(RegionCode):
    """`lanes` threads at a time, with the scalar copy where it is needed."""

    def __init__(self, kernel: KernelFrame, index: int) -> None:
        super().__init__(kernel, index, kernel.lanes)
        plan = kernel.vector
        assert plan is not None
        self.plan = plan
        b = self.b
        self.spill = Spill(b.alloca("i32"), b.alloca("i32"), b.alloca("i32"), {}, "", [])
        self.scalar_label = b.new_label("apart")
        self.local_slot = ""
        self.whole = kernel.threads - kernel.threads % kernel.lanes
        self.fragile = [
            n
            for n in self.region.live
            if self.region.entry
            and n in self.used
            and n in plan.affine
            and not plan.affine[n].exact
        ]
        self.apart = (
            self.whole < kernel.threads
            or bool(self.fragile)
            or (bool(plan.diverging) and not kernel.single)
        )

    def write(self) -> None:
        """The loop over vectors; the code goes on behind it."""
        b = self.b
        p = self.prefix
        pre, out = b.new_label("pre"), b.new_label("out")
        self.make_slots()
        b.line(f"br label %{pre}")
        b.label(pre)
        b.line(f"br label %{p}_head")
        b.label(f"{p}_head")
        t = Val(f"%{p}_t", "i32")
        b.line(f"{t.text} = phi i32 [ 0, %{pre} ], [ %{p}_n, %{p}_latch ]")
        part = b.new_label("part")
        if self.whole < self.kernel.threads:
            full, go = b.name("full"), b.new_label("full")
            b.line(f"{full} = icmp ult i32 {t.text}, {self.whole}")
            b.line(f"br i1 {full}, label %{go}, label %{part}")
            b.label(go)
        e = self.emitter(t)
        self._local(e)
        if not self.kernel.single:
            self._check_states(t, part)
        self.load_live(t)
        self.blocks(e, t)
        if self.apart:
            b.label(part)
            stop = b.intrinsic(
                "llvm.umin",
                b.binary("add", t, const(self.lanes, "i32")),
                const(self.kernel.threads, "i32"),
            )
            self._enter_scalar(t, stop, 0)
        if self.apart or self.spill.exits:
            self._scalar_copy()
        b.label(f"{p}_latch")
        b.line(f"%{p}_n = add i32 {t.text}, {self.lanes}")
        b.line(f"%{p}_more = icmp ult i32 %{p}_n, {self.kernel.threads}")
        b.line(f"br i1 %{p}_more, label %{p}_head, label %{out}")
        b.label(out)

    def _enter_scalar(self, start: Val, stop: Val, resume: int) -> None:
        b = self.b
        b.line(f"store i32 {start.text}, ptr {self.spill.start}")
        b.line(f"store i32 {stop.text}, ptr {self.spill.stop}")
        b.line(f"store i32 {resume}, ptr {self.spill.resume}")
        b.line(f"br label %{self.scalar_label}")

    def _scalar_copy(self) -> None:
        b = self.b
        b.label(self.scalar_label)
        ends = []
        for slot in (self.spill.start, self.spill.stop):
            out = b.name("sp")
            b.line(f"{out} = load i32, ptr {slot}")
            ends.append(Val(out, "i32"))
        ScalarRegion(self.kernel, self.index).write(ends[0], ends[1], self.spill, self.local_slot)
        b.line(f"br label %{self.prefix}_latch")

    def _local(self, e: Emitter) -> None:
        size = self.program.layout.local_bytes
        if not size:
            return
        if not self.kernel.single:
            self.local_memory(e)
            return
        self.local_slot = self.own_local(size * self.lanes)
        steps = ", ".join(f"i64 {i * size}" for i in range(self.lanes))
        e.local = e.offset(Val(self.local_slot, "ptr"), Val(f"<{steps}>", "i64", True))

    def _check_states(self, t: Val, part: str) -> None:
        """To the latch if nobody waits here, to the scalar copy if only some do."""
        b = self.b
        enter = b.new_label("enter")
        latch = f"{self.prefix}_latch"
        where = self._state("%frames", t)
        state = b.name("st")
        if self.plan.diverging:
            b.line(f"{state} = load {b.ty('i32', True)}, ptr {where}, align 4")
            mine = b.compare("icmp eq", Val(state, "i32", True), const(self.index, "i32"))
            self._switch(mine, part, enter, latch)
        else:
            b.line(f"{state} = load i32, ptr {where}, align 4")
            mine = b.compare("icmp eq", Val(state, "i32"), const(self.index, "i32"))
            b.line(f"br i1 {mine.text}, label %{enter}, label %{latch}")
        b.label(enter)
        if self.index in self.kernel.gated:
            self._check_members(t, part)
        for name in self.fragile:
            self._check_step(name, t, part)

    def _check_members(self, t: Val, part: str) -> None:
        """To the scalar copy, which knows who waits for whom, unless all of the warp came."""
        b = self.b
        if self.plan.diverging:
            came = b.compare("icmp eq", warp.absent_lanes(b, self.index, t), const(0, "i32"))
            go = b.new_label("came")
            b.line(f"br i1 {came.text}, label %{go}, label %{part}")
            b.label(go)
        b.line("store i1 true, ptr %progress")

    def _check_step(self, name: str, t: Val, part: str) -> None:
        """A widened register goes on as one number only if no lane wrapped."""
        b = self.b
        kind = self.program.types[name]
        first = self._load(kind, False, self._frame(name, t))
        end = b.binary("add", t, const(self.lanes - 1, "i32"))
        last = self._load(kind, False, self._frame(name, end))
        stride = self.plan.affine[name].stride * (self.lanes - 1)
        good = b.compare("icmp eq", b.binary("sub", last, first), const(stride, kind))
        go = b.new_label("step")
        b.line(f"br i1 {good.text}, label %{go}, label %{part}")
        b.label(go)

    def _switch(self, mask: Val, mixed: str, all_: str, none: str) -> None:
        b = self.b
        bits = b.name("bits")
        kind = f"i{self.lanes}"
        b.line(f"{bits} = bitcast {b.arg(mask)} to {kind}")
        b.line(
            f"switch {kind} {bits}, label %{mixed} [ {kind} -1, label %{all_} "
            f"{kind} 0, label %{none} ]"
        )

    def _part(self, e: Emitter, block: Block, condition: Val, labels: tuple[str, str]) -> None:
        """A branch on a varying condition: together, or lane by lane in the scalar copy."""
        b = self.b
        spill = self.spill
        taken, fallen = block.targets
        live = self.kernel.live
        names = frozenset(n for n in live[taken] | live[fallen] if n in self.slots)
        stub = b.new_label("diverge")
        self._switch(condition, stub, *labels)
        b.label(stub)
        with e.aside():
            for name in sorted(names):
                value = b.widen(e.get(name))
                if name not in spill.arrays:
                    kind = "i8" if value.type == "i1" else value.type
                    spill.arrays[name] = b.alloca(f"[{self.lanes} x {kind}]", 64)
                self._save(value, spill.arrays[name])
        if not spill.condition:
            spill.condition = b.alloca(f"[{self.lanes} x i8]", 64)
        self._save(condition, spill.condition)
        number = len(spill.exits) + 1
        spill.exits.append((number, names, taken, fallen))
        # The parameters of the loop: this vector's threads.
        t = Val(f"%{self.prefix}_t", "i32")
        self._enter_scalar(t, b.binary("add", t, const(self.lanes, "i32")), number)
