"""Which barriers open before a step of the block, where they are for a part of it.

Where numbers and counts of threads are constants, each region behind a barrier opens as a whole.
Where a register says them, each waiting thread keeps what it waits for, its key, and threads of a
region go on by themselves: correct, and slow.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.frame import DONE, KernelFrame

_COUNT = """
define internal i32 @rrto_count(ptr %states, i32 %count, i32 %wanted) {
entry:
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %sum = phi i32 [ 0, %entry ], [ %more, %loop ]
  %at = getelementptr i32, ptr %states, i32 %i
  %state = load i32, ptr %at
  %same = icmp eq i32 %state, %wanted
  %one = zext i1 %same to i32
  %more = add i32 %sum, %one
  %next = add i32 %i, 1
  %again = icmp ult i32 %next, %count
  br i1 %again, label %loop, label %end
end:
  ret i32 %more
}
"""

# The barriers that have all their threads, a bit for each. Threads from region %first on wait.
_OPEN = f"""
define internal i32 @rrto_open(ptr %states, ptr %keys, ptr %arrived, i32 %count, i32 %first) {{
entry:
  %waiting = alloca [16 x i32]
  %wanted = alloca [16 x i32]
  %alive = alloca i32
  store [16 x i32] zeroinitializer, ptr %waiting
  store [16 x i32] zeroinitializer, ptr %wanted
  store i32 0, ptr %alive
  br label %threads
threads:
  %i = phi i32 [ 0, %entry ], [ %i2, %next ]
  %state_at = getelementptr i32, ptr %states, i32 %i
  %state = load i32, ptr %state_at
  %done = icmp eq i32 %state, {DONE}
  br i1 %done, label %next, label %living
living:
  %alive0 = load i32, ptr %alive
  %alive1 = add i32 %alive0, 1
  store i32 %alive1, ptr %alive
  %waits = icmp uge i32 %state, %first
  br i1 %waits, label %count_it, label %next
count_it:
  %key_at = getelementptr i32, ptr %keys, i32 %i
  %key = load i32, ptr %key_at
  %name = and i32 %key, 15
  %need = lshr i32 %key, 8
  %waiting_at = getelementptr i32, ptr %waiting, i32 %name
  %waiting0 = load i32, ptr %waiting_at
  %waiting1 = add i32 %waiting0, 1
  store i32 %waiting1, ptr %waiting_at
  %wanted_at = getelementptr i32, ptr %wanted, i32 %name
  %wanted0 = load i32, ptr %wanted_at
  %wanted1 = call i32 @llvm.umax.i32(i32 %wanted0, i32 %need)
  store i32 %wanted1, ptr %wanted_at
  br label %next
next:
  %i2 = add i32 %i, 1
  %more = icmp ult i32 %i2, %count
  br i1 %more, label %threads, label %names
names:
  %n = phi i32 [ 0, %next ], [ %n2, %names ]
  %mask = phi i32 [ 0, %next ], [ %mask2, %names ]
  %w_at = getelementptr i32, ptr %waiting, i32 %n
  %w = load i32, ptr %w_at
  %a_at = getelementptr i32, ptr %arrived, i32 %n
  %a = load i32, ptr %a_at
  %c_at = getelementptr i32, ptr %wanted, i32 %n
  %c = load i32, ptr %c_at
  %all = load i32, ptr %alive
  %whole = icmp eq i32 %c, 0
  %enough_of = select i1 %whole, i32 %all, i32 %c
  %came = add i32 %w, %a
  %enough = icmp uge i32 %came, %enough_of
  %somebody = icmp ne i32 %w, 0
  %opens = and i1 %enough, %somebody
  %left = select i1 %opens, i32 0, i32 %a
  store i32 %left, ptr %a_at
  %bit = shl i32 1, %n
  %set = select i1 %opens, i32 %bit, i32 0
  %mask2 = or i32 %mask, %set
  %n2 = add i32 %n, 1
  %again = icmp ult i32 %n2, 16
  br i1 %again, label %names, label %end
end:
  ret i32 %mask2
}}
declare i32 @llvm.umax.i32(i32, i32)
"""


class Barriers:
    """The code around the regions that lets threads through barriers.

    Args:
        frame: The kernel.
    """

    def __init__(self, frame: KernelFrame) -> None:
        self.frame = frame
        self.b = frame.b
        self._opened = {n: self.b.alloca("i1") for n in frame.arrivals}

    @property
    def helpers(self) -> str:
        """The functions that this code calls."""
        if self.frame.keyed:
            return _OPEN
        return _COUNT if self.frame.named else ""

    def begin_block(self) -> None:
        """Nobody has arrived."""
        for slot in self.frame.arrivals.values():
            self.b.line(f"store i32 0, ptr {slot}")
        if self.frame.keyed:
            self.b.line(f"store [16 x i32] zeroinitializer, ptr {self.frame.arrived}")

    def open(self) -> None:
        """Finds the barriers that have all their threads; those count from zero again.

        None opens while any thread can go on without it. Where none has its threads, the program
        would hang: it goes on until the launch is ended.
        """
        b = self.b
        if self.frame.keyed:
            first = self.frame.program.regions.warp_wide + 1
            b.line(f"%first_waiting = select i1 %in_warp, i32 {DONE}, i32 {first}")
            b.line(
                f"%opened = call i32 @rrto_open(ptr %frames, ptr %keys, ptr "
                f"{self.frame.arrived}, i32 {self.frame.threads}, i32 %first_waiting)"
            )
            return
        for number, slot in self._opened.items():
            waiting, wanted = self._load(self.frame.arrivals[number]), 0
            arrived = waiting
            for region, (name, threads) in self.frame.named.items():
                if name == number:
                    waiting = b.binary("add", waiting, self._count(region))
                    wanted = max(wanted, threads)
            need = const(wanted, "i32")
            if not wanted:
                need = b.binary("sub", const(self.frame.threads, "i32"), self._count(DONE))
            enough = b.compare("icmp uge", waiting, need)
            opens = b.select(Val("%in_warp", "i1"), const(0, "i1"), enough)
            left = b.select(opens, const(0, "i32"), arrived)
            b.line(f"store i1 {opens.text}, ptr {slot}")
            b.line(f"store i32 {left.text}, ptr {self.frame.arrivals[number]}")

    def gate(self, index: int, closed: str) -> None:
        """In front of a region: to `closed` where its barrier is."""
        if index not in self.frame.named:
            return
        b = self.b
        gate, within = b.name("gate"), b.new_label("within")
        b.line(f"{gate} = load i1, ptr {self._opened[self.frame.named[index][0]]}")
        b.line(f"br i1 {gate}, label %{within}, label %{closed}")
        b.label(within)

    def _load(self, slot: str) -> Val:
        out = self.b.name("arrived")
        self.b.line(f"{out} = load i32, ptr {slot}")
        return Val(out, "i32")

    def _count(self, state: int) -> Val:
        out = self.b.name("count")
        self.b.line(
            f"{out} = call i32 @rrto_count(ptr %frames, i32 {self.frame.threads}, i32 {state})"
        )
        return Val(out, "i32")
