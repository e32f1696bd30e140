"""Whole kernels in cases/*.ptx: control flow, memory spaces, barriers, calls, warps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "cases"
RNG = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """One launch: arguments as the harness takes them, and the arrays expected afterwards."""

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: tuple
    expected: tuple
    shared: int = 0
    tolerance: float = 0.0
    kernel: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.grid}-{self.block}".replace(" ", "")


def u32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint32)


def vector_add(n: int, block: int) -> Case:
    a = RNG.standard_normal(n, np.float32)
    b = RNG.standard_normal(n, np.float32)
    c = np.full(n + 5, 9, np.float32)
    want = np.concatenate([a + b, c[n:]])
    return Case(
        "vector_add", (-(-n // block), 1, 1), (block, 1, 1), (a, b, c, np.uint32(n)), (a, b, want)
    )


def block_sum(blocks: int, threads: int) -> Case:
    data = RNG.integers(0, 100, blocks * threads).astype(np.float32)
    want = data.reshape(blocks, threads).sum(1).astype(np.float32)
    return Case(
        "block_sum",
        (blocks, 1, 1),
        (threads, 1, 1),
        (data, np.zeros(blocks, np.float32)),
        (data, want),
    )


def reverse(threads: int) -> Case:
    data = np.arange(3 * threads, dtype=np.uint32)
    want = data.reshape(3, threads)[:, ::-1].reshape(-1)
    return Case(
        "reverse_dynamic", (3, 1, 1), (threads, 1, 1), (data,), (want,), shared=4 * threads
    )


def collatz(threads: int) -> Case:
    def steps(n: int) -> int:
        count = 0
        while n != 1:
            n, count = (3 * n + 1 if n % 2 else n // 2), count + 1
        return count

    want = np.array([steps(i + 1) for i in range(threads)], np.uint32)
    return Case("loop_collatz", (1, 1, 1), (threads, 1, 1), (u32(threads),), (want,))


def geometry(grid: tuple[int, int, int], block: tuple[int, int, int]) -> Case:
    z, y, x = np.meshgrid(*(np.arange(b) for b in reversed(block)), indexing="ij")
    one = (z << 8 | y << 4 | x).reshape(-1)
    want = np.concatenate(
        [one | bz * 65536 for bz in range(grid[2]) for _ in range(grid[0] * grid[1])]
    ).astype(np.uint32)
    return Case("geometry", grid, block, (u32(want.size),), (want,))


def globals_case() -> Case:
    weights = np.array([1, 2, 3, 4], np.float32)
    return Case(
        "globals", (1, 1, 1), (4, 1, 1), (np.zeros(4, np.float32),), (weights * 7 + ord("o"),)
    )


def vectors() -> Case:
    data = RNG.integers(0, 2**32, (40, 4), dtype=np.uint32)
    want = data.copy()
    want[:, 0], want[:, 1] = data[:, 1], data[:, 0]
    want[:, 2] = data[:, 2] >> 16 | data[:, 2] << 16
    return Case("vectors", (1, 1, 1), (40, 1, 1), (data, np.zeros_like(data)), (data, want))


def warp_sum(threads: int) -> Case:
    data = np.arange(threads, dtype=np.uint32)
    warps = data.reshape(-1, 32)
    want = np.repeat(warps.sum(1), 32) + np.repeat(warps[:, 3] * 1000000, 32)
    return Case(
        "warp_sum",
        (1, 1, 1),
        (threads, 1, 1),
        (data, u32(threads)),
        (data, want.astype(np.uint32)),
    )


def warp_scan() -> Case:
    data = RNG.integers(0, 50, 96).astype(np.uint32)
    want = data.reshape(-1, 16).cumsum(1).reshape(-1).astype(np.uint32)
    return Case("warp_scan", (1, 1, 1), (96, 1, 1), (data,), (want,))


def warp_votes() -> Case:
    t = np.arange(64)
    ballot = [sum(1 << lane for lane in range(32) if (32 * w + lane) % 3 == 0) for w in (0, 1)]
    match = [
        sum(1 << lane for lane in range(32) if (32 * (i // 32) + lane) % 3 == i % 3) for i in t
    ]
    # Lanes 0 and 3 agree in every warp, so .uni over them holds.
    want = np.stack(
        [
            np.array(ballot)[t // 32],
            np.full(64, 1 + 4),
            np.array(match),
            t // 32 * 32 + 31,
            np.full(64, (t % 3 == 0).sum()),
        ],
        1,
    )
    return Case("warp_votes", (1, 1, 1), (64, 1, 1), (u32(64, 5),), (want.astype(np.uint32),))


def atomics() -> Case:
    n = 8 * 24
    start = np.array([0, 5, 50, 0, 0xFFFFFFFF, 0, 0, 0, 0], np.uint32)
    everything = np.bitwise_or.reduce(np.arange(n))
    want = np.array(
        [
            n * (n - 1) // 2,
            n - 1,
            0,
            everything,
            0,
            n % 10,
            np.float32(n * (n - 1) / 2).view(np.uint32),
            n % 2,
            3 * n,
        ],
        np.uint32,
    )
    return Case("atomics", (8, 1, 1), (24, 1, 1), (start,), (want,))


def packed_atomics() -> Case:
    n = 4 * 16
    halves = np.array([n, 2 * n], np.float16).view(np.uint32)[0]
    upper = (np.array([n, 2 * n], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    single = np.array([upper[0], np.float16(n).view(np.uint16)], np.uint16).view(np.uint32)[0]
    floats = np.array([n, -n / 2], np.float32).view(np.uint32)
    want = np.array([halves, upper.view(np.uint32)[0], single, 0, *floats], np.uint32)
    return Case(
        "packed_atomics",
        (4, 1, 1),
        (16, 1, 1),
        (u32(6), u32(n)),
        (want, np.full(n, 1 + 16 + 256, np.uint32)),
    )


def half_math() -> Case:
    data = RNG.standard_normal((50, 2)).astype(np.float16)
    a, b = data[:, 0], data[:, 1]
    total = a + b
    fused = (a.astype(np.float64) * b + total).astype(np.float16)
    squares = data * data
    bits = data.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    want = np.stack(
        [
            total.view(np.uint16),
            fused.view(np.uint16),
            squares[:, 0].view(np.uint16),
            squares[:, 1].view(np.uint16),
            rounded[:, 1],
            rounded[:, 0],
        ],
        1,
    )
    return Case(
        "half_math", (1, 1, 1), (50, 1, 1), (data, np.zeros((50, 6), np.uint16)), (data, want)
    )


def carry_add() -> Case:
    data = RNG.integers(0, 2**32, (20, 8), dtype=np.uint32)
    data[:3] = 0xFFFFFFFF
    want = np.zeros((20, 4), np.uint32)
    for row, out in zip(data, want, strict=True):
        total = int.from_bytes(row[:4].tobytes(), "little") + int.from_bytes(
            row[4:].tobytes(), "little"
        )
        out[:] = np.frombuffer((total % 2**128).to_bytes(16, "little"), np.uint32)
    return Case(
        "carry_add", (1, 1, 1), (20, 1, 1), (data, np.zeros((20, 4), np.uint32)), (data, want)
    )


def tensor_product() -> Case:
    # Small integers: every sum is exact, so the order of addition does not matter.
    a, b = (RNG.integers(-9, 10, shape).astype(np.float16) for shape in ((16, 16), (8, 16)))
    c = RNG.integers(-99, 100, (16, 8)).astype(np.float32)
    want = a.astype(np.float32) @ b.astype(np.float32).T + c
    return Case("tensor_product", (1, 1, 1), (32, 1, 1), (a, b, c), (a, b, want))


def row_exit(rows: int, width: int) -> Case:
    linear = np.arange(4 * width).reshape(4, width)
    want = np.where(np.arange(4)[:, None] < rows, (linear ^ 1) + 1000, 0).astype(np.uint32)
    return Case(
        "row_exit",
        (1, 1, 1),
        (width, 4, 1),
        (u32(4 * width), np.uint32(rows)),
        (want.reshape(-1),),
    )


def apart_and_together(threads: int) -> Case:
    count, total, moved = (np.zeros(threads, np.int64) for _ in range(3))
    moved += np.arange(threads)
    for _ in range(3):
        steps = moved & 3
        count += steps
        moved += steps == 2
        total += count[::-1]
    want = ((count << 8) + total + (moved << 20)).astype(np.uint32)
    return Case("apart_and_together", (1, 1, 1), (threads, 1, 1), (u32(threads),), (want,))


def wrapped_index() -> Case:
    # Threads 0 to 4 see an index just below 2^32, the others one from 0 on.
    want = np.zeros(64 + 64 + 128, np.uint32)
    t = np.arange(32)
    want[64 - 5 : 64 - 5 + 32] = t
    want[128 : 128 + 64 : 2] = np.where(t < 5, 3, 0)
    return Case(
        "wrapped_index", (1, 1, 1), (32, 1, 1), (u32(want.size), np.uint32(2**32 - 5)), (want,)
    )


def guarded_tail(n: int, threads: int) -> Case:
    half = RNG.integers(0, 40, 3 * threads).astype(np.uint16)
    wide = half[:n].astype(np.uint32)
    want = np.zeros(3 * threads, np.uint32)
    want[:n] = wide * wide * (wide + 1) // 2
    after = half.copy()
    after[:n] += 1
    return Case(
        "guarded_tail",
        (3, 1, 1),
        (threads, 1, 1),
        (u32(3 * threads), half, np.int32(n)),
        (want, after),
    )


def named_barriers() -> Case:
    lane = np.arange(32, dtype=np.uint32)
    turned = 3 * (31 - lane)
    want = np.concatenate([turned[::-1] + (turned << 16), 5000 + (turned << 16)])
    return Case("named_barriers", (2, 1, 1), (64, 1, 1), (u32(64),), (want.astype(np.uint32),))


def active_lanes() -> Case:
    t = np.arange(40)
    third = [
        sum(1 << i for i in range(min(32, 40 - 32 * w)) if (32 * w + i) % 3 == 0) for w in (0, 1)
    ]
    whole = [2**32 - 1, 255]
    want = np.array(
        [
            [third[i // 32] if i % 3 == 0 else whole[i // 32] & ~third[i // 32], whole[i // 32]]
            for i in t
        ],
        np.uint32,
    )
    return Case("active_lanes", (1, 1, 1), (40, 1, 1), (u32(40, 2),), (want,))


def counted_barriers(threads: int, first: int) -> Case:
    values = np.arange(threads, dtype=np.uint32)
    groups = [values[:first], values[first:]]
    for group, rounds in zip(groups, (3, 5), strict=True):
        for _ in range(rounds):
            group[:] = group * 3 + group[::-1]
    return Case(
        "counted_barriers",
        (3, 1, 1),
        (threads, 1, 1),
        (u32(threads), np.uint32(first)),
        (values + values[::-1],),
    )


def two_buffers(threads: int, rounds: int) -> Case:
    half = threads // 2
    mine = np.arange(half, dtype=np.uint32)
    upper, lower = np.zeros(half, np.uint32), np.zeros(half, np.uint32)
    for k in range(rounds):
        filled = k * 100 + mine
        upper += filled
        seen = filled[::-1]
        lower = lower * 3 + seen + seen[mine ^ 1]
    return Case(
        "two_buffers",
        (2, 1, 1),
        (threads, 1, 1),
        (u32(threads), np.uint32(rounds)),
        (np.concatenate([lower, upper]).astype(np.uint32),),
    )


T64 = np.arange(64, dtype=np.uint32)
TABLE = np.arange(6, dtype=np.uint32) * 11
CASES = [
    vector_add(1000, 128),
    vector_add(1, 32),
    vector_add(77, 100),
    vector_add(4096, 1024),
    block_sum(5, 64),
    block_sum(1, 2),
    block_sum(300, 32),
    reverse(48),
    reverse(7),
    reverse(1024),
    Case(
        "early_exit",
        (2, 1, 1),
        (64, 1, 1),
        (u32(64), np.uint32(40)),
        (np.where(T64 < 40, 40, 0).astype(np.uint32),),
    ),
    Case(
        "divergent_barriers",
        (1, 1, 1),
        (64, 1, 1),
        (u32(64),),
        (np.where(T64 < 32, T64 + 1032, T64 + 1968).astype(np.uint32),),
    ),
    Case("shared_negative", (1, 1, 1), (64, 1, 1), (u32(64),), (63 - T64,)),
    globals_case(),
    Case(
        "initial_values",
        (1, 1, 1),
        (1, 1, 1),
        (u32(9),),
        (np.array([0, 3, 77, 2**32 - 78, 7, 4, 0xBFF80000, 0x7FFFFFFF, 0], np.uint32),),
    ),
    Case(
        "call_function",
        (1, 1, 1),
        (16, 1, 1),
        (u32(16),),
        ((3 ** np.arange(16) + np.arange(16) ** 2).astype(np.uint32),),
    ),
    Case("local_depot", (1, 1, 1), (64, 1, 1), (u32(64),), (T64 * 100 + T64 % 8,)),
    Case(
        "param_struct", (1, 1, 1), (6, 1, 1), (np.uint8(3), TABLE.tobytes(), u32(6)), (TABLE * 3,)
    ),
    vectors(),
    collatz(32),
    collatz(45),
    Case(
        "switch_table",
        (1, 1, 1),
        (32, 1, 1),
        (u32(32),),
        ((10 + 10 * (T64[:32] & 3) + T64[:32]).astype(np.uint32),),
    ),
    geometry((2, 3, 2), (16, 4, 2)),
    geometry((1, 1, 1), (3, 5, 2)),
    geometry((3, 1, 1), (1, 16, 4)),
    warp_sum(32),
    warp_sum(128),
    warp_scan(),
    warp_votes(),
    atomics(),
    packed_atomics(),
    half_math(),
    carry_add(),
    tensor_product(),
    row_exit(3, 16),
    row_exit(2, 64),
    row_exit(1, 8),
    apart_and_together(64),
    apart_and_together(50),
    apart_and_together(1024),
    wrapped_index(),
    named_barriers(),
    active_lanes(),
    Case(
        "arrive_and_shuffle",
        (2, 1, 1),
        (64, 1, 1),
        (u32(64),),
        (np.where(T64 < 32, T64 + 32, T64 ^ 3),),
    ),
    counted_barriers(128, 96),
    counted_barriers(64, 32),
    two_buffers(128, 7),
    two_buffers(64, 1),
    Case("guarded_barrier", (1, 1, 1), (64, 1, 1), (u32(64), np.uint32(63)), (63 - T64,)),
    guarded_tail(100, 64),
    guarded_tail(140, 50),
    guarded_tail(0, 32),
    guarded_tail(96, 32),
    Case("nested_scopes", (1, 1, 1), (8, 1, 1), (u32(8),), (T64[:8] + 105,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_kernel_leaves_the_expected_memory(harness, case):
    loaded = harness.load((HERE / f"{case.name}.ptx").read_text())
    results = harness.launch(
        loaded, case.kernel or case.name, case.grid, case.block, case.args, case.shared
    )
    for got, want in zip(results, case.expected, strict=True):
        if case.tolerance:
            np.testing.assert_allclose(got, want, rtol=case.tolerance)
        else:
            np.testing.assert_array_equal(got, want)


def test_module_variable_persists_between_launches(harness):
    loaded = harness.load((HERE / "counter_persists.ptx").read_text())
    seen = [
        int(harness.launch(loaded, "counter_persists", (1, 1, 1), (1, 1, 1), (u32(1),))[0][0])
        for _ in range(3)
    ]
    assert seen == [10, 11, 12]


def test_every_listing_has_a_case():
    named = {c.name for c in CASES} | {"counter_persists"}
    assert named == {p.stem for p in HERE.glob("*.ptx")}
