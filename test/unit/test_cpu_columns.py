"""Loads of neighbours by lanes that lie apart: the same values as one by one, whatever happens."""

import random

import numpy as np
import pytest

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.passes import uniform
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.devices.protocol import Launch

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
KINDS = {"f32": np.float32, "u32": np.uint32, "b16": np.uint16, "f64": np.float64}
THREADS, STEPS = 40, 2
ROWS = STEPS + 1


@pytest.fixture(autouse=True)
def always_in_vectors(monkeypatch):
    """These kernels are short: thread by thread they would be as fast."""
    monkeypatch.setattr(uniform, "_INSTRUCTIONS_PER_GATHER", 0)


def groups(text, block):
    """How many groups of loads the kernel has with 16 lanes."""
    plan = prepare(text).kernels[0].vector_plan(block, 16)
    return sum(map(len, plan.columns.values())) if plan is not None else 0


def run(text, lanes, arrays, block, words=()):
    """Launches a kernel on copies of the arrays; returns them as they are afterwards."""
    device = CpuDevice(threads=1, cache_bytes=0, vector_lanes=lanes, limit_bytes=1 << 28)
    try:
        device.module_load(1, text.encode())
        places, at = [], device.info.arena_base
        for array in arrays:
            device.mem_alloc(at, array.nbytes, 0)
            device.memcpy_htod(at, array.tobytes(), 0)
            places.append(at)
            at += -(-array.nbytes // 512) * 512
        params = b"".join(int(p).to_bytes(8, "little") for p in (*places, *words))
        device.launch(Launch(1, 0, (2, 1, 1), block, 0, params), 0)
        return [
            np.frombuffer(bytes(device.memcpy_dtoh(p, a.nbytes, 0)), a.dtype)
            for p, a in zip(places, arrays, strict=True)
        ]
    finally:
        device.close()


def listing(rng, kind, span, offsets):
    """Loads in[t * span + offset] in a loop that moves on by `span` at a random place of it.

    Addresses take one of three forms, registers are used again and again, stores lie between.
    Also returns what happens, in order: ("load", number, offset), ("store", offset), ("move",).
    """
    size = np.dtype(KINDS[kind]).itemsize
    register = "b16" if kind == "b16" else kind
    lines = [
        HEAD,
        ".visible .entry k(.param .u64 in, .param .u64 out)\n{",
        ".reg .pred %p; .reg .b32 %t, %i, %j, %n, %s; .reg .b64 %a, %b, %o;",
        f".reg .{register} %v<{len(offsets)}>, %w;",
        "ld.param.u64 %b, [in]; ld.param.u64 %o, [out];",
        "mov.u32 %t, %ctaid.x; mov.u32 %n, %ntid.x; mov.u32 %i, %tid.x;",
        f"mad.lo.u32 %t, %t, %n, %i; mul.lo.s32 %s, %t, {span * ROWS};",
        f"mad.wide.u32 %o, %t, {len(offsets) * STEPS * size}, %o; mov.u32 %n, 0;",
        "LOOP:",
    ]
    events = []
    moved = rng.randrange(len(offsets))
    usual = rng.randrange(3)
    for number, offset in enumerate(offsets):
        form = usual if rng.random() < 0.9 else rng.randrange(3)
        more = rng.randrange(3)
        if form == 0:
            lines.append(
                f"add.s32 %i, %s, {offset - more}; cvt.s64.s32 %a, %i; "
                f"mad.lo.s64 %a, %a, {size}, %b;"
            )
        elif form == 1:
            lines.append(
                f"add.s32 %j, %s, {offset - more + 9}; add.s32 %j, %j, -9; "
                f"mul.wide.s32 %a, %j, {size}; add.s64 %a, %b, %a;"
            )
        else:
            lines.append(
                f"cvt.s64.s32 %a, %s; add.s64 %a, %a, {offset - more}; "
                f"shl.b64 %a, %a, {size.bit_length() - 1}; add.s64 %a, %a, %b;"
            )
        lines.append(f"ld.global.{kind} %v{number}, [%a+{more * size}];")
        events.append(("load", number, offset))
        if rng.random() < 0.07:
            lines.append(
                f"mov.{'b16' if kind == 'b16' else kind} %w, %v{number}; "
                f"st.global.{kind} [%a+{(more + 1) * size}], %w;"
            )
            events.append(("store", number, offset + 1))
        if number == moved:
            lines.append(f"sub.s64 %b, %b, {-span * size};")
            events.append(("move",))
    lines += [f"st.global.{kind} [%o+{n * size}], %v{n};" for n in range(len(offsets))]
    lines.append(
        f"add.s64 %o, %o, {len(offsets) * size}; add.u32 %n, %n, 1; "
        f"setp.lt.u32 %p, %n, {STEPS}; @%p bra LOOP; ret; }}"
    )
    return "\n".join(lines), events


def expected(events, data, span, count):
    data = data.copy()
    threads = 2 * THREADS
    out = np.zeros((threads, STEPS, count), data.dtype)
    for thread in range(threads):
        base = 0
        for step in range(STEPS):
            seen = out[thread, step]
            for what, *where in events:
                at = base + thread * span * ROWS
                if what == "move":
                    base += span
                elif what == "load":
                    seen[where[0]] = data[at + where[1]]
                else:
                    data[at + where[1]] = seen[where[0]]
    return data, out.reshape(-1)


SEEDS = range(16)


def drawn(seed):
    """(text, events, kind, span, number of loads) of a kernel."""
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    span = rng.choice([12, 17, 64])
    # Two rows of five, which may overlap.
    offsets = [min(o + k, span - 2) for o in rng.sample(range(span - 5), 2) for k in range(5)]
    rng.shuffle(offsets)
    return *listing(rng, kind, span, offsets), kind, span, len(offsets)


@pytest.mark.parametrize("seed", SEEDS)
def test_grouped_loads_read_what_single_ones_read(seed):
    text, events, kind, span, count = drawn(seed)
    data = np.random.default_rng(seed).integers(0, 60000, 2 * THREADS * span * ROWS)
    data = data.astype(KINDS[kind])
    wanted = expected(events, data, span, count)
    blank = np.zeros_like(wanted[1])
    for lanes in (16, 1):
        got = run(text, lanes, [data, blank], (THREADS, 1, 1))
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_most_of_these_kernels_have_such_groups():
    found = [groups(drawn(seed)[0], (THREADS, 1, 1)) for seed in SEEDS]
    assert len([n for n in found if n]) >= len(found) // 2


CONVOLUTION = (
    HEAD
    + """.visible .entry k(.param .u64 in, .param .u64 out, .param .u64 first)
{ .reg .b32 %t, %i, %f, %n<9>; .reg .b64 %a<9>, %b, %o; .reg .b16 %v<9>, %w<9>;
  ld.param.u64 %b, [in]; ld.param.u64 %o, [out]; ld.param.u32 %f, [first];
  mov.u32 %t, %tid.x; mad.lo.u32 %i, %t, 5, %f;
  mul.wide.u32 %a0, %t, 8; add.s64 %o, %o, %a0;
"""
    + "".join(
        f"  add.u32 %n{k}, %i, {k}; mul.wide.u32 %a{k}, %n{k}, 2; add.s64 %a{k}, %a{k}, %b;\n"
        f"  ld.global.b16 %v{k}, [%a{k}];\n"
        for k in range(4)
    )
    + "".join(f"  add.u16 %w{k}, %v{k}, %v{k}; add.u16 %w{k}, %w{k}, {k};\n" for k in range(4))
    + "  st.global.v4.b16 [%o], {%w0, %w1, %w2, %w3}; ret; }"
)


def test_neighbours_are_loaded_together():
    assert groups(CONVOLUTION, (32, 1, 1)) == 1
    apart = CONVOLUTION.replace("add.u32 %n3, %i, 3", "add.u32 %n3, %i, 4")
    assert groups(apart, (32, 1, 1)) == 0


@pytest.mark.parametrize("first", [0, 2**32 - 40, 2**32 - 2, 2**32 - 160, 7])
def test_an_index_that_wraps_in_a_lane_reads_where_it_points_then(first):
    device = CpuDevice(threads=1, cache_bytes=0, limit_bytes=9 << 30)
    base = device.info.arena_base
    try:
        device.module_load(1, CONVOLUTION.encode())
        # The whole range of the index; only the pages that are used take memory.
        device.mem_alloc(base, 2 << 32, 0)
        device.mem_alloc(base + (2 << 32), 256, 0)
        low, high = np.arange(200, dtype=np.uint16), np.arange(1000, 1200, dtype=np.uint16)
        device.memcpy_htod(base, low.tobytes(), 0)
        device.memcpy_htod(base + (2 << 32) - high.nbytes, high.tobytes(), 0)
        words = (base, base + (2 << 32), first)
        params = b"".join(w.to_bytes(8, "little") for w in words)
        device.launch(Launch(1, 0, (1, 1, 1), (32, 1, 1), 0, params), 0)
        got = np.frombuffer(bytes(device.memcpy_dtoh(base + (2 << 32), 256, 0)), np.uint16)
    finally:
        device.close()
    index = (first + 5 * np.arange(32)[:, None] + np.arange(4)) % 2**32
    values = np.where(index < 200, index, index - 2**32 + 1200)
    np.testing.assert_array_equal(got.reshape(32, 4), 2 * values + np.arange(4))
