"""Device functions that call themselves: what a compiler makes of them, and hand-written PTX."""

from __future__ import annotations

import functools
import struct

import numpy as np
import pytest
from support.cuda_source import to_ptx

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

SOURCE = r"""
#define DEEP __device__ __noinline__
DEEP int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
DEEP int ackermann(int m, int n) {
  return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
DEEP bool odd(unsigned n);
DEEP bool even(unsigned n) { return n == 0 || !(!odd(n - 1)); }
DEEP bool odd(unsigned n) { return n != 0 && !(!even(n - 1)); }
DEEP void sort(int *a, int low, int high) {
  if (low >= high) return;
  int pivot = a[(low + high) / 2], i = low, j = high;
  while (i <= j) {
    while (a[i] < pivot) i++;
    while (a[j] > pivot) j--;
    if (i <= j) { int t = a[i]; a[i++] = a[j]; a[j--] = t; }
  }
  sort(a, low, j);
  sort(a, i, high);
}
/* Each activation has an array of its own, to which the ones below get a pointer. */
DEEP unsigned chain(unsigned depth, const unsigned *above) {
  unsigned own[5];
  for (int k = 0; k < 5; k++) own[k] = above[k] * 5u + depth + k;
  unsigned below = depth ? chain(depth - 1, own) : 1;
  for (int k = 0; k < 5; k++) below = below * 31u + own[k];
  return below;
}
struct range { double low, high; int part; char name; };
DEEP double area(range r, double whole, double eps) {
  double middle = (r.low + r.high) / 2, h = (r.high - r.low) / 12;
  double a = (r.low + middle) / 2, b = (middle + r.high) / 2;
  double left = h * (r.low * r.low * r.low + 4 * a * a * a + middle * middle * middle);
  double right = h * (middle * middle * middle + 4 * b * b * b + r.high * r.high * r.high);
  double apart = left + right - whole;
  if (r.part > 9 || (apart < eps && apart > -eps && r.part > 3)) return left + right;
  return area({r.low, middle, r.part + 1, 'l'}, left, eps / 2)
       + area({middle, r.high, r.part + 1, 'r'}, right, eps / 2);
}
DEEP range halve(range r) {
  if (r.part == 0) { r.name = 'e'; return r; }
  range inner = halve({r.low / 2, r.high * 2, r.part - 1, r.name});
  inner.part += r.part;
  return inner;
}
DEEP int meet(int depth, int *shared) {
  shared[threadIdx.x] = depth * 100 + threadIdx.x;
  __syncthreads();
  int other = shared[threadIdx.x ^ 1];
  __syncthreads();
  int next = __shfl_xor_sync(~0u, other, 2);
  return depth ? next + 3 * meet(depth - 1, shared) : next;
}
extern "C" {
__global__ void fibonaccis(int *out, int n) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t < n) out[t] = fibonacci(t % 19);
}
__global__ void ackermanns(int *out) {
  out[threadIdx.x] = ackermann(threadIdx.x / 4, threadIdx.x % 4);
}
__global__ void parities(int *out) {
  out[threadIdx.x] = even(threadIdx.x) + 2 * odd(threadIdx.x * threadIdx.x);
}
__global__ void sorts(int *data, int n) {
  int own[48], *mine = data + (blockIdx.x * blockDim.x + threadIdx.x) * n;
  for (int k = 0; k < n; k++) own[k] = mine[k];
  sort(own, 0, n - 1);
  for (int k = 0; k < n; k++) mine[k] = own[k];
}
__global__ void sorts_in_place(int *data, int n) { sort(data + threadIdx.x * n, 0, n - 1); }
__global__ void chains(unsigned *out) {
  unsigned first[5] = {threadIdx.x, 1, 2, 3, 4};
  out[threadIdx.x] = chain(threadIdx.x % 37, first);
}
__global__ void areas(double *out) {
  out[threadIdx.x] = area({0, 1.0 + threadIdx.x, 0, 'x'}, 0, 1e-6);
}
__global__ void halves(double *out) {
  range r = halve({1.0, 2.0, (int)threadIdx.x, 'a'});
  out[3 * threadIdx.x] = r.low; out[3 * threadIdx.x + 1] = r.high;
  out[3 * threadIdx.x + 2] = r.part * 1000 + r.name;
}
__global__ void meetings(int *out, int depth) {
  __shared__ int shared[64];
  out[threadIdx.x] = meet(depth, shared);
}
}
"""


@functools.cache
def compiled(*options):
    return to_ptx(SOURCE, *options)


@pytest.fixture(scope="module", params=[(), ("-G",)], ids=["optimised", "for a debugger"])
def loaded(harness, request):
    return harness.load(compiled(*request.param))


def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def ack(m, n):
    if m == 0:
        return n + 1
    return ack(m - 1, 1) if n == 0 else ack(m - 1, ack(m, n - 1))


def test_a_function_that_calls_itself_twice(harness, loaded):
    out = np.zeros(300, np.int32)
    (got,) = harness.launch(loaded, "fibonaccis", (5, 1, 1), (64, 1, 1), (out, np.int32(300)))
    assert got.tolist() == [fib(t % 19) for t in range(300)]


def test_a_call_whose_argument_is_a_call_of_itself(harness, loaded):
    (got,) = harness.launch(loaded, "ackermanns", (1, 1, 1), (12, 1, 1), (np.zeros(12, np.int32),))
    assert got.tolist() == [ack(t // 4, t % 4) for t in range(12)]


def test_functions_that_call_each_other(harness, loaded):
    (got,) = harness.launch(loaded, "parities", (1, 1, 1), (33, 1, 1), (np.zeros(33, np.int32),))
    assert got.tolist() == [(t % 2 == 0) + 2 * (t * t % 2) for t in range(33)]


@pytest.mark.parametrize("kernel", ["sorts", "sorts_in_place"])
def test_quicksort_of_local_and_of_global_memory(harness, loaded, kernel):
    data = np.random.default_rng(3).integers(-50, 50, (64, 48), np.int32)
    grid = (2, 1, 1) if kernel == "sorts" else (1, 1, 1)
    block = (64 // grid[0], 1, 1)
    (got,) = harness.launch(loaded, kernel, grid, block, (data, np.int32(48)))
    assert np.array_equal(got, np.sort(data, axis=1))


def test_each_activation_has_variables_of_its_own_at_a_depth_of_its_thread(harness, loaded):
    def chain(depth, above):
        own = [(above[k] * 5 + depth + k) & 0xFFFFFFFF for k in range(5)]
        below = chain(depth - 1, own) if depth else 1
        for value in own:
            below = (below * 31 + value) & 0xFFFFFFFF
        return below

    (got,) = harness.launch(loaded, "chains", (1, 1, 1), (128, 1, 1), (np.zeros(128, np.uint32),))
    assert got.tolist() == [chain(t % 37, [t, 1, 2, 3, 4]) for t in range(128)]


def test_doubles_and_a_structure_by_value(harness, loaded):
    (got,) = harness.launch(loaded, "areas", (1, 1, 1), (16, 1, 1), (np.zeros(16),))
    # The rule is exact for cubes, but for rounding.
    np.testing.assert_allclose(got, [(1 + t) ** 4 / 4 for t in range(16)], rtol=1e-12)


def test_a_structure_as_a_result(harness, loaded):
    (got,) = harness.launch(loaded, "halves", (1, 1, 1), (20, 1, 1), (np.zeros(60),))
    assert got.reshape(20, 3).tolist() == [
        [2.0**-t, 2.0 ** (t + 1), t * (t + 1) // 2 * 1000 + ord("e")] for t in range(20)
    ]


@pytest.mark.parametrize("depth", [0, 1, 9])
def test_barriers_and_warp_exchanges_at_each_depth(harness, loaded, depth):
    def meet(d, t):
        own = d * 100 + (t ^ 1 ^ 2)
        return own + 3 * meet(d - 1, t) if d else own

    (got,) = harness.launch(
        loaded, "meetings", (1, 1, 1), (64, 1, 1), (np.zeros(64, np.int32), np.int32(depth))
    )
    assert got.tolist() == [meet(depth, t) for t in range(64)]


HEAD = """.version 8.0
.target sm_80
.address_size 64
"""
TEXT = (
    HEAD
    + """
.func (.reg .f64 out, .reg .pred whole) power(.reg .f64 base, .reg .b32 n, .reg .b16 small,
                                            .reg .v2 .b32 pair)
{
  .reg .f64 %f<4>; .reg .b32 %r<6>; .reg .pred %p<5>; .reg .b16 %h<3>;
  .local .align 32 .b8 own[32]; .reg .b64 %d<3>; .reg .v2 .b32 %v;
  mov.u64 %d1, own; and.b64 %d2, %d1, 31; setp.ne.u64 %p4, %d2, 0; @%p4 trap;
  st.local.u32 [own+12], %r5; st.local.u32 [%d1+12], n;
  setp.eq.u32 %p1, n, 0; mov.f64 out, 0d3FF0000000000000; setp.eq.u32 whole, n, n; @%p1 ret;
  sub.u32 %r1, n, 1; add.u16 %h1, small, 1; add.u32 %r2, pair.x, 3;
  mov.u32 %v.x, %r2; mov.u32 %v.y, pair.y;
  setp.eq.u32 %p2, %r1, 4;
  call (%f1, %p3), power, (base, %r1, %h1, %v);
  ld.local.u32 %r3, [own+12]; setp.ne.u32 %p1, %r3, n; @%p1 trap;
  @%p2 bra FIVE;
  mul.f64 out, %f1, base; and.pred whole, %p3, %p3; ret;
FIVE:
  mul.f64 out, %f1, base; cvt.u32.u16 %r4, %h1; add.u32 %r4, %r4, %r2; add.u32 %r4, %r4, pair.y;
  cvt.rn.f64.u32 %f2, %r4; add.f64 out, out, %f2; not.pred whole, %p3;
}
.visible .entry powers(.param .u64 values)
{
  .reg .b64 %d<4>; .reg .b32 %r<6>; .reg .f64 %f<4>; .reg .pred %p<4>; .reg .b16 %h<2>;
  .reg .v2 .b32 %v; ld.param.u64 %d1, [values]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 16;
  add.s64 %d3, %d1, %d2; ld.global.f64 %f1, [%d3]; mov.u16 %h1, 100; mov.u32 %v.x, 1000;
  mov.u32 %v.y, 7; setp.lt.u32 %p2, %r1, 3; mov.f64 %f2, %f1; setp.ne.u32 %p1, %r1, %r1;
  @!%p2 call (%f2, %p1), power, (%f1, %r1, %h1, %v);
  st.global.f64 [%d3], %f2; selp.u32 %r4, 1, 0, %p1; st.global.u32 [%d3+8], %r4; ret;
}
.func down(.param .b32 n)
{
  .reg .b32 %r<3>; .reg .pred %p; .local .b8 room[128]; .reg .b64 %d;
  mov.u64 %d, room; ld.param.u32 %r1, [n]; st.local.u32 [%d], %r1; setp.eq.u32 %p, %r1, 0;
  @%p exit; sub.u32 %r2, %r1, 1;
  { .param .b32 a; st.param.b32 [a], %r2; call down, (a); }
  ld.local.u32 %r2, [%d]; setp.ne.u32 %p, %r1, %r2; @%p trap;
}
.visible .entry deep(.param .u64 out, .param .u32 n)
{
  .reg .b32 %r<4>; .reg .b64 %d<4>; .reg .pred %p;
  ld.param.u64 %d1, [out]; ld.param.u32 %r1, [n]; mov.u32 %r2, %tid.x; add.u32 %r1, %r1, %r2;
  mul.wide.u32 %d2, %r2, 4; add.s64 %d1, %d1, %d2;
  st.global.u32 [%d1], 1;
  { .param .b32 a; st.param.b32 [a], %r1; call down, (a); }
  st.global.u32 [%d1], 2; ret;
}
"""
)


def test_parameters_in_registers_predicates_and_aligned_variables(harness):
    rows = np.zeros(40, np.dtype([("value", "f8"), ("whole", "u4"), ("pad", "u4")]))
    rows["value"] = np.linspace(0.5, 1.5, 40)
    (got,) = harness.launch(harness.load(TEXT), "powers", (1, 1, 1), (40, 1, 1), (rows,))
    for n, row in enumerate(rows["value"]):
        value, whole = 1.0, 1
        for k in range(1, n + 1):
            value *= row
            if k == 5:
                calls = n - 5
                value += (100 + calls + 1) + (1000 + 3 * calls + 3) + 7
                whole ^= 1
        if n < 3:
            value, whole = row, 0
        assert (got["value"][n], got["whole"][n]) == (value, whole), n


def test_a_thread_that_exits_deep_inside_never_comes_back(harness):
    (got,) = harness.launch(
        harness.load(TEXT), "deep", (1, 1, 1), (70, 1, 1), (np.zeros(70, np.uint32), np.uint32(9))
    )
    assert got.tolist() == [1] * 70


def deep(tmp_path, depth, **options):
    device = CpuDevice(threads=2, cache_dir=tmp_path, **options)
    base = device.info.arena_base
    device.mem_alloc(base, 4096, 0)
    device.module_load(1, TEXT.encode())
    params = struct.pack("<QI", base, depth)
    try:
        device.launch(Launch(1, 1, (1, 1, 1), (16, 1, 1), 0, params), 0)
        return np.frombuffer(device.memcpy_dtoh(base, 64, 0), np.uint32).tolist()
    finally:
        device.close()


@pytest.mark.parametrize("memcheck", [False, True])
def test_a_stack_that_is_full_fails_the_launch_and_one_that_is_not_does_not(tmp_path, memcheck):
    assert deep(tmp_path, 1000, memcheck=memcheck) == [1] * 16
    for depth in (5000, 2**32 - 20):
        with pytest.raises(CudaError, match=r"kernel deep call themselves deeper") as caught:
            deep(tmp_path, depth, memcheck=memcheck)
        assert caught.value.result is CUresult.LAUNCH_FAILED


def test_what_a_kernel_says_of_its_local_memory_does_not_count_the_stack(harness):
    module = harness.load(TEXT)[0]
    if harness.device.info.kind != "cpu":
        pytest.skip("a GPU's driver counts its own frames")
    again = harness.device.module_load(module + 1000, TEXT.encode())
    for kernel in again.kernels:
        assert kernel.attributes[3] < 1024
    harness.device.module_unload(module + 1000)
