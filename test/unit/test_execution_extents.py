"""Where a launch may store is never told too small, and for ordinary kernels to the byte.

RRTO_EXTENTS=2000 looks at so many random kernels; the short form is for every change.
"""

from __future__ import annotations

import os
import random
import struct
import time

import pytest

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.passes.inline import inline_calls
from rrto_ros.devices.cpu.ptx.parser import parse_module
from rrto_ros.devices.protocol import Launch
from rrto_ros.execution.kernels.extents import Geometry, KernelExtents

COUNT = int(os.environ.get("RRTO_EXTENTS", "15"))
HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"
OUT = 0x7000_0000_0000
KERNEL = """
.visible .entry k(.param .u64 out, .param .u32 n, .param .s32 m, .param .u64 log)
{ .reg .pred %p<40>; .reg .b32 %r<200>; .reg .b64 %d<200>;
  ld.param.u64 %d1, [out]; ld.param.u32 %r1, [n]; ld.param.s32 %r2, [m]; ld.param.u64 %d2, [log];
  mov.u32 %r3, %tid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ctaid.x; mov.u32 %r6, %tid.y;
  mov.u32 %r7, %nctaid.x; mad.lo.s32 %r8, %r5, %r4, %r3; mul.lo.s32 %r9, %r4, %r7;
  mul.wide.u32 %d3, %r8, 4; add.s64 %d4, %d1, %d3;
BODY
DONE: ret; }
"""


def extents(body, n=100, m=7, grid=(4, 1, 1), block=(64, 1, 1)):
    """Spans relative to `out`; None if it is not known."""
    module = parse_module(HEAD + KERNEL.replace("BODY", body))
    found = KernelExtents(inline_calls(module.functions["k"], module))
    spans = found.of(struct.pack("<QIiQ", OUT, n, m, 0), Geometry(grid, block))
    return None if spans is None else tuple((a - OUT, b - OUT) for a, b in spans)


STORE = "st.global.u32 [%d4], %r3;"
CASES = {
    "each thread its own": (STORE, {}, ((0, 1024),)),
    "below n": ("setp.ge.u32 %p1, %r8, %r1; @%p1 bra DONE;" + STORE, {}, ((0, 400),)),
    "below n, signed, turned": (
        "setp.lt.s32 %p1, %r8, %r1; @!%p1 bra DONE;" + STORE, {}, ((0, 400),)),
    "guarded itself": ("setp.lt.u32 %p1, %r8, %r1; @%p1 " + STORE, {}, ((0, 400),)),
    "never": ("setp.ge.u32 %p1, %r8, 256; @%p1 " + STORE, {}, ()),
    "one thread": ("setp.ne.s32 %p1, %r3, 0; @%p1 bra DONE; st.global.u32 [%d1+8], %r3;", {},
                   ((8, 12),)),
    "backwards": (
        ("setp.ge.u32 %p1, %r8, %r1; @%p1 bra DONE; sub.u32 %r10, %r1, %r8; add.s32 %r10, %r10,"
         "-1; mul.wide.u32 %d5, %r10, 4; add.s64 %d6, %d1, %d5; st.global.v2.u32 [%d6], {%r1,"
         "%r2};"), {}, ((0, 404),)),
    "a grid's strides": (
        ("mov.u32 %r10, %r8; setp.ge.s32 %p1, %r10, %r1; @%p1 bra DONE; LOOP: mul.wide.s32 %d5,"
         "%r10, 4; add.s64 %d6, %d1, %d5; st.global.u32 [%d6], %r3; add.s32 %r10, %r10, %r9;"
         "setp.lt.s32 %p2, %r10, %r1; @%p2 bra LOOP;"), {"n": 5000}, ((0, 20000),)),
    "a pointer that goes on": (
        ("mov.u32 %r10, 0; mov.u64 %d5, %d4; LOOP: st.global.u32 [%d5], %r3; add.s64 %d5, %d5,"
         "1024; add.u32 %r10, %r10, 1; setp.ne.s32 %p2, %r10, 9; @%p2 bra LOOP;"), {},
        ((0, 9216),)),
    "rows and columns": (
        ("setp.lt.u32 %p1, %r3, 50; setp.lt.u32 %p2, %r5, 3; and.pred %p3, %p1, %p2; @!%p3 bra"
         " DONE; mad.lo.u32 %r10, %r5, 50, %r3; mul.wide.u32 %d5, %r10, 4; add.s64 %d6, %d1, %d5;"
         "st.global.u32 [%d6], %r3;"), {}, ((0, 600),)),
    "nested loops": (
        ("mov.u32 %r10, 0; OUTER: mov.u32 %r11, 0; INNER: mad.lo.u32 %r12, %r10, 6, %r11;"
         "mul.wide.u32 %d5, %r12, 4; add.s64 %d6, %d1, %d5; st.global.u32 [%d6], %r3;"
         "add.u32 %r11, %r11, 1; setp.lt.u32 %p1, %r11, 6; @%p1 bra INNER; add.u32 %r10, %r10, 1;"
         "setp.lt.u32 %p2, %r10, 5; @%p2 bra OUTER;"), {}, ((0, 120),)),
    "a halving stride": (
        ("mov.u32 %r10, %r4; LOOP: shr.u32 %r10, %r10, 1; mul.wide.u32 %d5, %r10, 4; add.s64 %d6,"
         "%d1, %d5; st.global.u32 [%d6], %r3; setp.gt.u32 %p1, %r10, 1; @%p1 bra LOOP;"), {},
        ((0, 132),)),
    "what an argument adds": (
        "cvta.to.global.u64 %d5, %d2; add.s64 %d6, %d4, %d5; st.global.u32 [%d6], %r3;", {},
        ((0, 1024),)),
    "an index that was read": (
        ("ld.global.u32 %r10, [%d1]; mul.wide.u32 %d5, %r10, 4; add.s64 %d6, %d1, %d5;"
         "st.global.u32 [%d6], %r3;"), {}, "far"),
    "a byte that was read": (
        ("ld.global.u8 %r10, [%d1]; mul.wide.u32 %d5, %r10, 4; add.s64 %d6, %d1, %d5;"
         "st.global.u32 [%d6], %r3;"), {}, ((0, 1024),)),
    "as often as memory says": (
        ("ld.global.u32 %r11, [%d1]; mov.u32 %r10, 0; LOOP: mul.wide.u32 %d5, %r10, 4; add.s64"
         " %d6, %d1, %d5; st.global.u32 [%d6], %r3; add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10,"
         "%r11; @%p1 bra LOOP;"), {}, "far"),
    "a pointer that was read": ("ld.global.u64 %d5, [%d1]; st.global.u32 [%d5], %r3;", {}, "far"),
    "a module's": ("st.global.u32 [elsewhere], %r3;", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_stores_of_ordinary_kernels_are_known_to_the_byte(name):
    body, options, wanted = CASES[name]
    found = extents(body, **options)
    if wanted == "far":
        assert found is None or max(end for _, end in found) > 2**32
    else:
        assert found == wanted


def test_a_kernel_that_is_too_intricate_is_not_known_soon():
    """Sums of many numbers below many limits, in loops in each other."""
    lines = [
        f"mad.lo.u32 %r{k}, %r{k - 1 if k > 10 else 3}, 3, %r5;"
        f"setp.ge.u32 %p{k - 9}, %r{k}, %r1; @%p{k - 9} bra DONE;"
        for k in range(10, 40)
    ]
    depth = 12
    lines += [f"mov.u32 %r{50 + k}, 0; LOOP{k}:" for k in range(depth)]
    total = " ".join(f"mad.lo.u32 %r100, %r{50 + k}, {k + 2}, %r100;" for k in range(depth))
    lines.append(f"mov.u32 %r100, %r39; {total} mul.wide.u32 %d5, %r100, 4;")
    lines.append("add.s64 %d6, %d1, %d5; st.global.u32 [%d6], %r3;")
    lines += [
        f"add.u32 %r{50 + k}, %r{50 + k}, 1; setp.lt.u32 %p35, %r{50 + k}, {k + 3};"
        f"@%p35 bra LOOP{k};"
        for k in reversed(range(depth))
    ]
    began = time.process_time()
    extents("\n".join(lines))
    assert time.process_time() - began < 5


class Body:
    """Random instructions; every store is at the address that a register has then."""

    def __init__(self, rng):
        self.rng = rng
        self.lines = []
        self.registers = [f"%r{k}" for k in (1, 2, 3, 4, 5, 6, 7, 8)]
        self.next, self.predicate, self.label = 10, 1, 0
        self.stores = 0

    def fresh(self):
        self.next += 1
        return f"%r{self.next}"

    def value(self):
        rng = self.rng
        if rng.random() < 0.3:
            return str(rng.choice((0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 255, -1, -4, 1000)))
        return rng.choice(self.registers)

    def condition(self):
        kind = self.rng.choice(("u32", "s32"))
        how = self.rng.choice(("lt", "le", "gt", "ge", "eq", "ne"))
        self.predicate += 1
        p = f"%p{self.predicate}"
        self.lines.append(f"setp.{how}.{kind} {p}, {self.rng.choice(self.registers)}, "
                          f"{self.value()};")  # fmt: skip
        if self.rng.random() < 0.3:
            q = self.predicate - 1
            how = self.rng.choice(("and", "or", "xor"))
            self.lines.append(f"{how}.pred {p}, {p}, %p{q};")
        return ("!" if self.rng.random() < 0.4 else "") + p

    def compute(self, into=None):
        rng, a, b = self.rng, self.rng.choice(self.registers), self.value()
        r = into or self.fresh()
        kind = rng.choice(("u32", "s32"))
        guard = f"@{self.condition()} " if rng.random() < 0.15 and r in self.registers else ""
        op = rng.choice(("add", "sub", "mul.lo", "mad", "shl", "shr", "and", "or", "xor", "min",
                         "max", "div", "rem", "selp", "mul.hi", "neg", "cvt", "mov"))  # fmt: skip
        if op == "mad":
            line = f"mad.lo.{kind} {r}, {a}, {b}, {rng.choice(self.registers)};"
        elif op == "shl":
            line = f"shl.b32 {r}, {a}, {rng.randrange(6)};"
        elif op == "shr":
            line = f"shr.{kind} {r}, {a}, {rng.randrange(8)};"
        elif op in ("and", "or", "xor"):
            line = f"{op}.b32 {r}, {a}, {b};"
        elif op in ("div", "rem"):
            line = f"{op}.{kind} {r}, {a}, {rng.choice((1, 2, 3, 7, 8, 50))};"
        elif op == "selp":
            p = self.condition().lstrip("!")
            line = f"selp.b32 {r}, {a}, {b}, {p};"
        elif op == "neg":
            line = f"neg.s32 {r}, {a};"
        elif op == "cvt":
            line = f"cvt.{kind}.{rng.choice(('u8', 's8', 'u16', 's16'))} {r}, {a};"
        elif op == "mov":
            line = f"mov.u32 {r}, {b};"
        else:
            line = f"{op}.{kind} {r}, {a}, {b};"
        self.lines.append(guard + line)
        if r not in self.registers:
            self.registers.append(r)

    def store(self):
        a, b = f"%d{10 + 2 * self.stores}", f"%d{11 + 2 * self.stores}"
        how = self.rng.choice(("mul.wide.u32", "mul.wide.s32"))
        self.lines.append(f"{how} {a}, {self.rng.choice(self.registers[-4:])}, "
                          f"{self.rng.choice((1, 4, 4, 12))};")  # fmt: skip
        self.lines.append(f"add.s64 {b}, %d1, {a};")
        guard = f"@{self.condition()} " if self.rng.random() < 0.3 else ""
        self.lines.append(f"{guard}STORE {self.stores} {b}")
        self.stores += 1

    def branch(self, depth):
        self.label += 1
        end, known = f"END{self.label}", list(self.registers)
        self.lines.append(f"@{self.condition()} bra {end};")
        self.some(depth - 1)
        if self.rng.random() < 0.3:
            pass
        self.lines.append(f"{end}:")
        self.registers = known

    def loop(self, depth):
        rng = self.rng
        self.label += 1
        start, counter = f"LOOP{self.label}", self.fresh()
        first, step, rounds = rng.choice((0, 1, 5)), rng.choice((1, 1, 2, 3)), rng.randint(1, 6)
        self.lines.append(f"mov.u32 {counter}, {first};")
        known = [*self.registers, counter]
        carried = rng.choice(self.registers[:8]) if rng.random() < 0.5 else None
        self.registers = list(known)
        self.lines.append(f"{start}:")
        self.some(depth - 1)
        if carried:
            self.compute(carried)
        self.predicate += 1
        end = first + step * rounds
        how = rng.choice((f"lt.u32 %p{self.predicate}, {counter}, {end}",
                          f"ne.s32 %p{self.predicate}, {counter}, {end}",
                          f"le.s32 %p{self.predicate}, {counter}, {end - 1}"))  # fmt: skip
        self.lines += [f"add.u32 {counter}, {counter}, {step};", f"setp.{how};",
                       f"@%p{self.predicate} bra {start};"]  # fmt: skip
        self.registers = known

    def some(self, depth):
        for _ in range(self.rng.randint(1, 4)):
            kind = self.rng.random()
            if kind < 0.15 and depth and self.label < 4:
                self.branch(depth)
            elif kind < 0.3 and depth and self.label < 4:
                self.loop(depth)
            elif kind < 0.45 and self.stores < 6:
                self.store()
            elif self.predicate < 30:
                self.compute()

    def text(self, log):
        """As it is, or so that it notes the least and the greatest address of each store."""
        out = []
        for line in self.lines:
            guard, _, rest = line.rpartition("STORE ")
            if not rest or not _:
                out.append(line)
                continue
            number, address = rest.split()
            out.append(
                f"{guard}st.global.u32 [{address}], %r3;"
                if not log
                else f"{guard}red.global.min.u64 [%d2+{16 * int(number)}], {address};\n"
                f"{guard}red.global.max.u64 [%d2+{16 * int(number) + 8}], {address};"
            )
        return "\n".join(out)


@pytest.mark.timeout(max(120, COUNT))
def test_no_store_of_a_random_kernel_leaves_what_was_told(tmp_path):
    device = CpuDevice(cache_dir=tmp_path, threads=2)
    memory = device.info.arena_base
    device.mem_alloc(memory, 4096, 0)
    known = touched = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        body = Body(rng)
        body.lines.append("setp.lt.u32 %p1, %r8, %r1;")
        body.some(3)
        body.store()
        n, m = rng.choice((1, 5, 100, 256, 5000)), rng.choice((-3, 0, 7, 64))
        grid, block = rng.choice((((4, 1, 1), (64, 1, 1)), ((1, 1, 1), (8, 4, 1)),
                                  ((3, 2, 1), (33, 1, 1))))  # fmt: skip
        spans = extents(body.text(log=False), n, m, grid, block)
        if spans is None:
            continue
        known += 1
        text = HEAD + KERNEL.replace("BODY", body.text(log=True))
        device.module_load(seed + 1, text.encode())
        device.memcpy_htod(memory, struct.pack("<2Q", 2**64 - 1, 0) * 16, 0)
        params = struct.pack("<QIiQ", OUT, n, m, memory)
        device.launch(Launch(seed + 1, 0, grid, block, 0, params), 0)
        got = struct.iter_unpack("<2Q", device.memcpy_dtoh(memory, 16 * body.stores, 0))
        for number, (low, high) in enumerate(got):
            if low <= high:
                touched += 1
                inside = any(a <= low - OUT and high - OUT + 4 <= b for a, b in spans)
                assert inside, (f"seed {seed}, store {number}: {low - OUT} to {high - OUT + 4}, "
                                f"told {spans}\n{body.text(log=False)}")  # fmt: skip
    device.close()
    assert known > COUNT // 2
    assert touched > COUNT // 2
