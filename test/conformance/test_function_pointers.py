"""Calls through registers: function pointers, virtual functions, and what is no function."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from support.cuda_source import to_ptx

from rrto_ros.api.results import CUresult
from rrto_ros.devices.linked import LinkInput, linked_image
from rrto_ros.errors import CudaError
from rrto_ros.execution.kernels.writes import kernel_writes

SOURCE = r"""
struct shape {
  int k;
  __device__ shape(int k) : k(k) {}
  __device__ virtual int of(int x) const { return x + k; }
  __device__ virtual double scaled(double y, float z) const { return y + k; }
};
struct square : shape {
  __device__ square(int k) : shape(k) {}
  __device__ int of(int x) const override { return x * k; }
  __device__ double scaled(double y, float z) const override { return y * z + of(3); }
};
struct wide { double v[5]; int n; };
typedef int (*binary)(int, int);
typedef double (*of_wide)(wide);
__device__ int sum(int a, int b) { return a + b; }
__device__ int product(int a, int b) { return a * b; }
__device__ int meeting(int a, int b) {
  __shared__ int all[64];
  all[threadIdx.x] = a;
  __syncthreads();
  int other = all[threadIdx.x ^ 1];
  __syncthreads();
  return other - b;
}
__device__ double total(wide w) {
  double t = 0;
  for (int k = 0; k < w.n; k++) t += w.v[k];
  return t;
}
__device__ binary table[3] = {sum, product, meeting};
__device__ of_wide other_table[1] = {total};
/* Folds with a function that it is given, which may call the folding again. */
__device__ __noinline__ int fold(binary f, int n) { return n ? f(fold(f, n - 1), n) : 1; }
__device__ int twice(int a, int n);
__device__ binary again[2] = {twice, product};
__device__ int twice(int a, int n) { return n > 2 ? a + fold(again[n & 1], n / 2) : a + n; }
extern "C" {
__global__ void shapes(int *out, double *scaled, int n) {
  int t = threadIdx.x;
  shape a(n);
  square b(n + 1);
  const shape *p = t & 1 ? &b : &a;
  out[t] = p->of(t);
  scaled[t] = p->scaled(t, 2.5f);
}
__global__ void tables(int *out, const int *which) {
  int t = threadIdx.x;
  out[t] = table[which[t]](t, 7);
}
__global__ void wides(double *out) {
  int t = threadIdx.x;
  wide w = {{1.0 * t, 2, 3, 4, 5}, t % 6};
  out[t] = other_table[t * 0](w);
}
__global__ void folds(int *out) {
  out[threadIdx.x] = fold(again[threadIdx.x & 1], threadIdx.x % 13);
}
__global__ void given(int *out, unsigned long long *pointers, int make) {
  int t = threadIdx.x;
  if (make) pointers[t] = (unsigned long long)(t & 1 ? sum : product);
  else out[t] = ((binary)pointers[t])(t, 5);
}
}
"""


@functools.cache
def compiled(*options):
    return to_ptx(SOURCE, *options)


@pytest.fixture(scope="module", params=[(), ("-G",)], ids=["optimised", "for a debugger"])
def loaded(harness, request):
    return harness.load(compiled(*request.param))


T = np.arange(64)


def test_virtual_functions_are_those_of_the_object(harness, loaded):
    of, scaled = harness.launch(loaded, "shapes", (1, 1, 1), (64, 1, 1), (
        np.zeros(64, np.int32), np.zeros(64), np.int32(5)))  # fmt: skip
    assert np.array_equal(of, np.where(T & 1, T * 6, T + 5))
    assert np.array_equal(scaled, np.where(T & 1, T * 2.5 + 18, T + 5))


@pytest.mark.parametrize("which", [T * 0 + 2, T % 2, T // 32 + 1], ids=["all", "lanes", "warps"])
def test_functions_of_a_table(harness, loaded, which):
    if 2 in which and not (which == 2).all():
        which = np.where(which == 2, 0, which)  # all threads of a block meet, or none
    out, _ = harness.launch(loaded, "tables", (1, 1, 1), (64, 1, 1), (
        np.zeros(64, np.int32), which.astype(np.int32)))  # fmt: skip
    wanted = np.select([which == 0, which == 1], [T + 7, T * 7], (T ^ 1) - 7)
    assert np.array_equal(out, wanted)


def test_a_structure_by_value(harness, loaded):
    (out,) = harness.launch(loaded, "wides", (1, 1, 1), (64, 1, 1), (np.zeros(64),))
    assert out.tolist() == [sum([float(t), 2, 3, 4, 5][: t % 6]) for t in range(64)]


def test_a_function_may_call_what_it_is_given_and_be_called_by_that(harness, loaded):
    def fold(f, n):
        return f(fold(f, n - 1), n) if n else 1

    def twice(a, n):
        return a + fold(again[n & 1], n // 2) if n > 2 else a + n

    again = (twice, lambda a, b: a * b)
    (out,) = harness.launch(loaded, "folds", (1, 1, 1), (64, 1, 1), (np.zeros(64, np.int32),))
    wanted = np.array([fold(again[t & 1], t % 13) for t in range(64)], np.int64)
    assert np.array_equal(out, wanted.astype(np.int32))


def test_pointers_are_kept_from_one_launch_to_another_and_others_fail_it(harness, loaded):
    if harness.device.info.kind != "cpu":
        pytest.skip("the context of a GPU would be lost to the tests that follow")
    empty = np.zeros(64, np.int32)
    _, pointers = harness.launch(loaded, "given", (1, 1, 1), (64, 1, 1), (
        empty, np.zeros(64, np.uint64), np.int32(1)))  # fmt: skip
    assert 0 not in pointers
    assert len(set(pointers.tolist())) == 2
    out, _ = harness.launch(loaded, "given", (1, 1, 1), (64, 1, 1), (
        empty, pointers, np.int32(0)))  # fmt: skip
    assert np.array_equal(out, np.where(T & 1, T + 5, T * 5))
    for bad in (0, 1, int(pointers[0]) + 1, 2**64 - 1):
        wrong = pointers.copy()
        wrong[40] = bad
        with pytest.raises(CudaError, match="given called through a register") as caught:
            harness.launch(loaded, "given", (1, 1, 1), (64, 1, 1), (empty, wrong, np.int32(0)))
        assert caught.value.result is CUresult.INVALID_PC


HEAD = """.version 8.0
.target sm_80
.address_size 64
"""
TEXT = (
    HEAD
    + """
.extern .func (.param .b32 r) elsewhere(.param .b32 x);
.visible .func (.param .b32 r) other(.param .b32 x);
.global .align 8 .b8 bytes[8] = {0xFF(other), 0xFF00(other), 0xFF0000(other), 0xFF000000(other),
  0xFF00000000(other), 0xFF0000000000(other), 0xFF000000000000(other), 0xFF00000000000000(other)};
.visible .func (.param .b32 r) other(.param .b32 x)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, 1; st.param.b32 [r], %r2; ret; }
.func (.reg .b32 r) in_registers(.reg .b32 x) { mul.lo.u32 r, x, 9; ret; }
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .pred %p<3>;
  ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3;
  mov.u64 %d2, elsewhere; ld.global.u64 %d3, [bytes]; setp.eq.u32 %p1, %r2, 0;
  selp.b64 %d4, %d2, %d3, %p1; setp.lt.u32 %p2, %r2, 2; mov.u32 %r4, %r1;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1;
    proto: .callprototype (.param .b32 _) _ (.param .b32 _);
    @%p2 call (b), %d4, (a), proto; ld.param.b32 %r3, [b]; }
  @%p2 mov.u32 %r4, %r3;
  mov.u64 %d5, in_registers; setp.eq.u32 %p1, %r2, 3;
  @%p1 call (%r4), %d5, (%r1), proto;
  mul.wide.u32 %d6, %r1, 4; add.s64 %d7, %d1, %d6; st.global.u32 [%d7], %r4; ret;
}
"""
)
ELSEWHERE = (
    HEAD
    + """
.visible .func (.param .b32 r) elsewhere(.param .b32 x)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [x]; mul.lo.u32 %r2, %r1, 100; st.param.b32 [r], %r2; ret; }
"""
)


def test_functions_of_other_modules_addresses_byte_by_byte_and_guarded_calls(harness):
    if harness.device.info.kind != "cpu":
        pytest.skip("a GPU's driver links what its own linker is given")
    image = linked_image(
        tuple(LinkInput(1, name, text.encode()) for name, text in (("a", TEXT), ("b", ELSEWHERE)))
    )
    (out,) = harness.launch(harness.load(image), "k", (1, 1, 1), (64, 1, 1), (
        np.zeros(64, np.uint32),))  # fmt: skip
    wanted = np.select([T % 4 == 0, T % 4 == 1, T % 4 == 2], [T * 100, T + 1, T], T * 9)
    assert np.array_equal(out, wanted)


def test_what_a_call_through_a_register_writes_is_not_known_ahead():
    found = kernel_writes(compiled(), (12, 1))
    assert found
    assert set(found.values()) == {None}
