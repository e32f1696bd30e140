"""Cooperative launches: all blocks are there at once, and a barrier may be for the whole grid."""

from __future__ import annotations

import functools
import struct
import time

import numpy as np
import pytest
from support.cuda_source import headers, to_ptx

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.attributes import MAX_BLOCKS_AT_ONCE
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.device_runtime import is_device_runtime
from rrto_ros.devices.linked import LinkInput, linked_image
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import AccessError, CudaError, PtxError
from rrto_ros.execution.kernels.writes import kernel_writes

SOURCE = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" {
__global__ void rows(int *m, int rows, int columns) {
  cg::grid_group grid = cg::this_grid();
  int column = grid.thread_rank();
  for (int row = 1; row < rows; row++) {
    m[row * columns + column] = m[(row - 1) * columns + columns - column - 1] + 1;
    grid.sync();
  }
}
/* Everything that a block has must be as it was when the others have had their turn. */
__global__ void keeps(const int *in, int *out, int *between, int rounds) {
  cg::grid_group grid = cg::this_grid();
  __shared__ int tile[64];
  extern __shared__ int more[];
  int own[6], t = threadIdx.x, n = grid.size(), i = grid.thread_rank();
  tile[t] = in[i];
  more[t] = i;
  for (int k = 0; k < 6; k++) own[k] = in[(i + k) % n];
  int warp = __shfl_xor_sync(~0u, in[i], 5);
  for (int r = 0; r < rounds; r++) {
    between[i] = tile[63 - t] + own[r % 6] + warp;
    grid.sync();
    int far = between[(i + 64 * (r + 1) + 7) % n];
    grid.sync();
    own[(r + 1) % 6] += far;
    warp = __shfl_xor_sync(~0u, warp + far, 3);
    __syncthreads();
    tile[t] += far ^ more[63 - t];
    __syncthreads();
  }
  out[i] = tile[t] + warp + own[0] + own[1] + own[2] + own[3] + own[4] + own[5];
}
__global__ void sums(const float *in, float *total, float *seen, int rounds) {
  cg::grid_group grid = cg::this_grid();
  int i = grid.thread_rank();
  for (int r = 0; r < rounds; r++) {
    atomicAdd(total, in[i] * (r + 1));
    grid.sync();
    seen[r * grid.size() + i] = *(volatile float *)total * in[i];
    grid.sync();
  }
}
/* Lanes wait in an exchange for one that waits for a later block. */
__global__ void exchanges(volatile int *flags, int *out, int rounds) {
  int t = threadIdx.x, lane = t & 31, b = blockIdx.x, value = 100 * b + t;
  for (int r = 0; r < rounds; r++) {
    if (lane == 0 && b + 1 < gridDim.x)
      while (flags[b + 1] <= r) {}
    value += __shfl_sync(~0u, value, (lane + 1 + r) & 31);
    value = value * 3 + __syncthreads_count(value & 1);
    __syncthreads();
    if (t == 0) flags[b] = r + 1;
  }
  out[b * blockDim.x + t] = value;
}
/* Each activation waits for the whole grid, twice, at a depth of its own caller. */
__device__ __noinline__ int down(int depth, int *m) {
  cg::grid_group grid = cg::this_grid();
  int n = grid.size(), i = grid.thread_rank();
  m[i] = depth * 1000 + i;
  grid.sync();
  int other = m[(i + 37 * (depth + 1)) % n];
  grid.sync();
  return depth ? other + 3 * down(depth - 1, m) : other;
}
__global__ void deep(int *out, int *m, int depth) {
  out[cg::this_grid().thread_rank()] = down(depth, m);
}
__global__ void parts(int *out, int stops) {
  cg::grid_group grid = cg::this_grid();
  int i = grid.thread_rank();
  if (i == stops) __trap();
  auto token = grid.barrier_arrive();
  out[i] = i;
  grid.barrier_wait(cuda::std::move(token));
}
__global__ void strays(int *out, long far) {
  cg::grid_group grid = cg::this_grid();
  grid.sync();
  if (grid.thread_rank() == 70) out[far] = 1;
  grid.sync();
}
}
"""
HEAD = """.version 7.0
.target sm_70
.address_size 64
"""
LINKED = (
    HEAD
    + """
.extern .func (.param .b64 r) cudaCGGetIntrinsicHandle(.param .b32 scope);
.extern .func (.param .b32 r) cudaCGSynchronize(.param .b64 handle, .param .b32 flags);
.visible .entry reversed(.param .u64 data, .param .u64 results, .param .u32 scope)
{
  .reg .b32 %r<12>; .reg .b64 %d<12>;
  ld.param.u64 %d1, [data]; ld.param.u64 %d2, [results]; ld.param.u32 %r1, [scope];
  { .param .b32 a; .param .b64 b; st.param.b32 [a], %r1; call (b), cudaCGGetIntrinsicHandle, (a);
    ld.param.b64 %d3, [b]; }
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r5, %r2, %r3, %r4;
  mov.u32 %r6, %nctaid.x; mul.lo.u32 %r6, %r6, %r3; sub.u32 %r7, %r6, %r5; sub.u32 %r7, %r7, 1;
  mul.wide.u32 %d4, %r5, 4; add.s64 %d5, %d1, %d4; mul.wide.u32 %d6, %r7, 4;
  add.s64 %d7, %d1, %d6; add.s64 %d8, %d2, %d4;
  ld.global.u32 %r8, [%d7];
  { .param .b64 a; .param .b32 b; .param .b32 c; st.param.b64 [a], %d3; mov.u32 %r9, 0;
    st.param.b32 [b], %r9; call (c), cudaCGSynchronize, (a, b); ld.param.b32 %r10, [c]; }
  st.global.u32 [%d5], %r8; st.global.u32 [%d8], %r10; ret;
}
"""
)
BY_HAND = (
    HEAD
    + """
.visible .entry later_first(.param .u64 flags, .param .u64 out)
{
  .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .pred %p<4>;
  ld.param.u64 %d1, [flags]; ld.param.u64 %d2, [out]; mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %nctaid.x; mov.u32 %r3, %tid.x; setp.ne.u32 %p1, %r3, 0; @%p1 bra JOIN;
  mul.wide.u32 %d3, %r1, 4; add.s64 %d4, %d1, %d3; add.u32 %r4, %r1, 1; setp.eq.u32 %p2, %r4, %r2;
  mov.u32 %r5, 0; @%p2 bra OWN;
AGAIN:
  ld.volatile.global.u32 %r5, [%d4+4]; setp.eq.u32 %p3, %r5, 0; @%p3 bra AGAIN;
OWN:
  add.u32 %r5, %r5, 3; membar.gl; st.volatile.global.u32 [%d4], %r5;
JOIN:
  bar.sync 0; mov.u32 %r6, %ntid.x; mad.lo.u32 %r6, %r1, %r6, %r3; mul.wide.u32 %d5, %r6, 4;
  add.s64 %d5, %d2, %d5; mul.wide.u32 %d6, %r1, 4; add.s64 %d6, %d1, %d6;
  ld.global.u32 %r7, [%d6]; add.u32 %r7, %r7, %r3; st.global.u32 [%d5], %r7; ret;
}
.visible .entry for_ever(.param .u64 flags, .param .u64 out)
{
  .reg .b32 %r<4>; .reg .b64 %d<3>; .reg .pred %p;
  ld.param.u64 %d1, [flags];
AGAIN: atom.global.cas.b32 %r1, [%d1], 7, 7; setp.ne.u32 %p, %r1, 7; @%p bra AGAIN; ret;
}
.visible .entry halves(.param .u64 flags, .param .u64 out)
{
  .reg .b32 %r<12>; .reg .b64 %d<8>; .reg .pred %p<6>;
  ld.param.u64 %d1, [flags]; ld.param.u64 %d2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, 0; setp.ge.u32 %p1, %r1, 32; mul.wide.u32 %d3, %r2, 128; add.s64 %d3, %d2, %d3;
  mul.wide.u32 %d4, %r1, 4; add.s64 %d5, %d3, %d4;
ROUND:
  @%p1 bra SECOND;
  ld.volatile.global.u32 %r4, [%d5]; add.u32 %r4, %r4, %r2; st.volatile.global.u32 [%d5], %r4;
  bar.arrive 1, 64; bar.sync 2, 64; bra NEXT;
SECOND:
  bar.sync 1, 64; ld.volatile.global.u32 %r5, [%d5+-128]; mad.lo.u32 %r5, %r5, 3, 1;
  st.volatile.global.u32 [%d5+-128], %r5; bar.arrive 2, 64;
NEXT:
  @%p1 bar.arrive 3, 64;
  setp.ne.u32 %p2, %r1, 0; @%p2 bra JOIN; mov.u32 %r6, %nctaid.x; add.u32 %r7, %r3, 1;
  mul.lo.u32 %r7, %r7, %r6; red.release.gpu.global.add.u32 [%d1], 1;
WAIT: ld.acquire.gpu.global.u32 %r8, [%d1]; setp.lt.u32 %p3, %r8, %r7; @%p3 bra WAIT;
JOIN:
  @!%p1 bar.sync 3, 64; bar.sync 0, 64; add.u32 %r3, %r3, 1; setp.lt.u32 %p4, %r3, 5;
  @%p4 bra ROUND; ret;
}
"""
)


def archive(*names):
    """A library whose objects have these names, as ar writes it."""
    long = b"".join(name + b"/\n" for name in names)
    long += b"\n" * (len(long) % 2)
    parts = [b"!<arch>\n", b"%-16s%-32s%-10d`\n" % (b"//", b"", len(long)), long]
    at = 0
    for name in names:
        parts += [b"/%-15d%-32s%-10d`\n" % (at, b"0", 4), b"\x7fELF"]
        at += len(name) + 2
    return b"".join(parts)


RUNTIME = archive(b"cuda_device_runtime.o")


def linked(text, library=RUNTIME):
    return linked_image(
        (LinkInput(1, "kernel", text.encode()), LinkInput(4, "libcudadevrt.a", library))
    )


@functools.cache
def compiled(architecture):
    folder = headers()
    return to_ptx(
        SOURCE, f"-I{folder}", f"-I{folder}/cccl", "--std=c++17", architecture=architecture
    )


@pytest.fixture(scope="module", params=["compute_75", "compute_90"])
def loaded(harness, request):
    return harness.load(compiled(request.param))


def test_each_row_is_made_of_the_one_before(harness, loaded):
    m = np.zeros((60, 512), np.int32)
    (got,) = harness.launch(loaded, "rows", (16, 1, 1), (32, 1, 1), (
        m, np.int32(60), np.int32(512)), cooperative=True)  # fmt: skip
    assert np.array_equal(got, np.tile(np.arange(60)[:, None], 512))


def keeps(data, rounds, threads=64):
    """What the kernel of this name computes, thread by thread, for the whole grid at once."""
    n = len(data)
    i = np.arange(n)
    t, block, lane = i % threads, i // threads, i % 32
    own = np.array([data[(i + k) % n] for k in range(6)])
    tile = data.reshape(-1, threads).copy()
    warp_of = i - lane
    warp = data[warp_of + (lane ^ 5)]
    for r in range(rounds):
        between = tile[block, threads - 1 - t] + own[r % 6] + warp
        far = between[(i + 64 * (r + 1) + 7) % n]
        own[(r + 1) % 6] += far
        warp = (warp + far)[warp_of + (lane ^ 3)]
        tile = tile + (far ^ i.reshape(-1, threads)[:, ::-1].reshape(-1)).reshape(-1, threads)
    return tile.reshape(-1) + warp + own.sum(axis=0)


@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_what_a_block_has_is_kept_while_others_have_their_turn(harness, loaded, blocks):
    data = np.random.default_rng(blocks).integers(-9, 9, 64 * blocks).astype(np.int64)
    empty = np.zeros(64 * blocks, np.int32)
    _, got, _ = harness.launch(
        loaded,
        "keeps",
        (blocks, 1, 1),
        (64, 1, 1),
        (data.astype(np.int32), empty, empty, np.int32(9)),
        256,
        cooperative=True,
    )
    assert np.array_equal(got, keeps(data, 9).astype(np.int32))


def test_functions_that_call_themselves_wait_for_the_grid(harness, loaded):
    n, depth = 96, 6
    got, _ = harness.launch(
        loaded,
        "deep",
        (3, 1, 1),
        (32, 1, 1),
        (np.zeros(n, np.int32), np.zeros(n, np.int32), np.int32(depth)),
        cooperative=True,
    )
    value = np.zeros(n, np.int64)
    for d in range(depth + 1):
        value = d * 1000 + (np.arange(n) + 37 * (d + 1)) % n + 3 * value
    assert np.array_equal(got, value)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_lanes_may_wait_in_an_exchange_for_one_that_waits_for_another_block(
    harness, loaded, blocks
):
    rounds, threads = 7, 64
    _, got = harness.launch(loaded, "exchanges", (blocks, 1, 1), (threads, 1, 1), (
        np.zeros(blocks, np.int32), np.zeros(blocks * threads, np.int32), np.int32(rounds)),
        cooperative=True)  # fmt: skip
    t = np.arange(threads)
    value = 100 * np.arange(blocks)[:, None] + t
    for r in range(rounds):
        value = value + value[:, t - t % 32 + (t % 32 + 1 + r) % 32]
        value = value * 3 + (value & 1).sum(axis=1, keepdims=True)
    assert np.array_equal(got, value.astype(np.int32).reshape(-1))


def test_a_barrier_in_two_parts(harness, loaded):
    (got,) = harness.launch(loaded, "parts", (4, 1, 1), (33, 1, 1), (
        np.zeros(132, np.int32), np.int32(-1)), cooperative=True)  # fmt: skip
    assert got.tolist() == list(range(132))


def test_a_barrier_of_the_grid_in_another_launch_fails_it(harness, loaded):
    if harness.device.info.kind != "cpu":
        pytest.skip("the context of a GPU would be lost to the tests that follow")
    with pytest.raises(CudaError) as caught:
        harness.launch(loaded, "rows", (4, 1, 1), (32, 1, 1), (
            np.zeros((5, 128), np.int32), np.int32(5), np.int32(128)))  # fmt: skip
    assert caught.value.result is CUresult.LAUNCH_FAILED


def test_a_block_that_traps_ends_the_others_that_wait_for_it(harness, loaded):
    if harness.device.info.kind != "cpu":
        pytest.skip("the context of a GPU would be lost to the tests that follow")
    began = time.monotonic()
    with pytest.raises(CudaError, match="parts executed trap"):
        harness.launch(loaded, "parts", (4, 1, 1), (33, 1, 1), (
            np.zeros(132, np.int32), np.int32(70)), cooperative=True)  # fmt: skip
    assert time.monotonic() - began < 20


def run(
    folder,
    image,
    kernel,
    grid,
    block,
    arrays,
    *words,
    threads=2,
    cooperative=True,
    shared=0,
    **options,
):
    """One launch on a device of its own; gives the arrays as they are afterwards."""
    device = CpuDevice(threads=threads, cache_dir=folder, **options)
    try:
        info = device.module_load(1, image)
        base, params, places = device.info.arena_base, b"", []
        for array in arrays:
            places.append(base)
            device.mem_alloc(base, array.nbytes, 0)
            device.memcpy_htod(base, array.tobytes(), 0)
            params += struct.pack("<Q", base)
            base += -(-array.nbytes // 512) * 512
        index = [k.name for k in info.kernels].index(kernel)
        device.launch(
            Launch(
                1,
                index,
                (grid, 1, 1),
                (block, 1, 1),
                shared,
                params + b"".join(words),
                cooperative,
            ),
            0,
        )
        return [
            np.frombuffer(bytes(device.memcpy_dtoh(at, a.nbytes, 0)), a.dtype)
            for at, a in zip(places, arrays, strict=True)
        ]
    finally:
        device.close()


@pytest.mark.parametrize("kernel", ["keeps", "sums"])
def test_results_do_not_depend_on_the_number_of_cores(tmp_path, kernel):
    n, rounds = 64 * 7, 5
    data = np.random.default_rng(4).standard_normal(n).astype(np.float32)
    arrays = (data.view(np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32))
    if kernel == "sums":
        arrays = (data, np.zeros(1, np.float32), np.zeros(rounds * n, np.float32))
    found = [
        b"".join(
            a.tobytes()
            for a in run(
                tmp_path,
                compiled("compute_80"),
                kernel,
                7,
                64,
                arrays,
                struct.pack("<I", rounds),
                threads=threads,
                shared=256,
            )
        )
        for threads in (1, 2, 5, 7)
    ]
    assert len(set(found)) == 1


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("lanes", [1, 0], ids=["thread by thread", "in vectors"])
def test_an_earlier_block_may_wait_for_a_later_one(tmp_path, threads, lanes):
    flags, out = run(
        tmp_path,
        BY_HAND.encode(),
        "later_first",
        9,
        40,
        (np.zeros(9, np.uint32), np.zeros(360, np.uint32)),
        threads=threads,
        vector_lanes=lanes,
    )
    expected = 3 * np.arange(9, 0, -1)
    assert flags.tolist() == expected.tolist()
    assert out.tolist() == (expected[:, None] + np.arange(40)).reshape(-1).tolist()


IN_REGISTERS = BY_HAND.replace(
    "ROUND:",
    """
  mov.u32 %r9, %ntid.x; shr.u32 %r9, %r9, 6; add.u32 %r10, %r9, 1; add.u32 %r11, %r9, 2;
ROUND:""",
)
for number, register in ((1, "%r9"), (2, "%r10"), (3, "%r11")):
    IN_REGISTERS = IN_REGISTERS.replace(f"bar.arrive {number},", f"bar.arrive {register},")
    IN_REGISTERS = IN_REGISTERS.replace(f"bar.sync {number},", f"bar.sync {register},")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("text", [BY_HAND, IN_REGISTERS], ids=["constants", "registers"])
def test_barriers_for_a_part_of_the_block_keep_who_arrived(tmp_path, threads, text):
    _, out = run(
        tmp_path,
        text.encode(),
        "halves",
        6,
        64,
        (np.zeros(1, np.uint32), np.ones(6 * 32, np.uint32)),
        threads=threads,
        launch_timeout_s=20,
    )
    value = np.ones((6, 32), np.int64)
    for _ in range(5):
        value = (value + np.arange(6)[:, None]) * 3 + 1
    assert out.tolist() == value.reshape(-1).tolist()


def test_a_block_that_waits_for_ever_ends_with_the_time_limit(tmp_path):
    with pytest.raises(CudaError, match="launch_timeout_s") as caught:
        run(
            tmp_path,
            BY_HAND.encode(),
            "for_ever",
            3,
            40,
            (np.zeros(1, np.uint32), np.zeros(1, np.uint32)),
            launch_timeout_s=0.3,
        )
    assert caught.value.result is CUresult.LAUNCH_TIMEOUT


def test_memcheck_looks_at_the_grids_barrier_and_names_a_stray_access(tmp_path):
    image, n = compiled("compute_80"), 128
    (out,) = run(
        tmp_path,
        image,
        "parts",
        2,
        64,
        (np.zeros(n, np.int32),),
        struct.pack("<i", -1),
        memcheck=True,
    )
    assert out.tolist() == list(range(n))
    with pytest.raises(AccessError, match=r"strays.*thread \(6, 0, 0\) of block \(1, 0, 0\)"):
        run(
            tmp_path,
            image,
            "strays",
            2,
            64,
            (np.zeros(n, np.int32),),
            struct.pack("<q", 1 << 30),
            memcheck=True,
        )


def test_a_grid_that_is_never_there_at_once_is_refused(tmp_path):
    with pytest.raises(CudaError, match="at most 48 blocks") as caught:
        run(
            tmp_path,
            BY_HAND.encode(),
            "later_first",
            49,
            32,
            (np.zeros(49, np.uint32), np.zeros(49 * 32, np.uint32)),
        )
    assert caught.value.result is CUresult.COOPERATIVE_LAUNCH_TOO_LARGE


# ---- libcudadevrt.a ----


@pytest.mark.parametrize(
    ("scope", "cooperative", "result"), [(1, True, 0), (1, False, 999), (2, True, 999)]
)
def test_the_librarys_barrier_is_linked(tmp_path, scope, cooperative, result):
    n = 5 * 32
    data, results = run(tmp_path, linked(LINKED), "reversed", 5, 32, (
        np.arange(n, dtype=np.uint32), np.zeros(n, np.uint32)), struct.pack("<I", scope),
        cooperative=cooperative)  # fmt: skip
    assert set(results.tolist()) == {result}
    if result == 0:
        assert data.tolist() == list(range(n - 1, -1, -1))


def test_the_archive_that_nvidia_ships_is_known_by_what_is_in_it():
    found = next(headers().parent.glob("lib*/libcudadevrt.a"), None)
    if found is None:
        pytest.skip("libcudadevrt.a is not installed")
    assert is_device_runtime(found.read_bytes())
    assert is_device_runtime(RUNTIME)
    for other in (
        archive(b"other.o"),
        archive(b"cuda_device_runtime.o", b"other.o"),
        RUNTIME[:40],
        RUNTIME[:90],
        b"",
        b"!<arch>\n",
    ):
        assert not is_device_runtime(other)


def test_other_libraries_and_other_functions_are_refused_by_name(tmp_path):
    with pytest.raises(PtxError, match=r"'libcudadevrt.a' of the link is a library") as caught:
        run(tmp_path, linked(LINKED, archive(b"other.o")), "reversed", 1, 32, ())
    assert caught.value.result is CUresult.NO_BINARY_FOR_GPU
    more = LINKED.replace("cudaCGSynchronize", "cudaCGGetRank")
    with pytest.raises(PtxError, match="Undefined reference to 'cudaCGGetRank'") as caught:
        run(tmp_path, linked(more), "reversed", 1, 32, ())
    assert caught.value.result is CUresult.INVALID_SOURCE
    with pytest.raises(PtxError, match="cudaCGGetIntrinsicHandle"):
        run(tmp_path, LINKED.encode(), "reversed", 1, 32, ())


def test_nothing_is_executed_speculatively_that_waits_for_the_grid():
    assert kernel_writes(linked(LINKED), (12, 1)) == {"reversed": None}
    assert set(kernel_writes(BY_HAND.encode(), (12, 1)).values()) == {None}
    assert set(kernel_writes(compiled("compute_80"), (12, 1)).values()) == {None}


def test_a_device_says_more_multiprocessors_than_it_has_threads_and_keeps_its_word(tmp_path):
    blocks = 5 * MAX_BLOCKS_AT_ONCE
    sizes = (np.zeros(blocks, np.uint32), np.zeros(blocks * 40, np.uint32))
    found = [
        b"".join(
            array.tobytes()
            for array in run(tmp_path, BY_HAND.encode(), "later_first", blocks, 40, sizes, **cores)
        )
        for cores in ({"threads": 5}, {"threads": 1, "multiprocessors": 5})
    ]
    assert found[0] == found[1]
    device = CpuDevice(threads=1, multiprocessors=5, cache_dir=tmp_path)
    try:
        assert device.info.attributes[16] == 5
    finally:
        device.close()
    with pytest.raises(CudaError, match=f"at most {blocks} blocks"):
        run(
            tmp_path, BY_HAND.encode(), "later_first", blocks + 1, 40, sizes,
            threads=8, multiprocessors=5,
        )  # fmt: skip
