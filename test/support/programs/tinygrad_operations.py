"""Operations of tinygrad, each compared with NumPy; one JSON line for all.

    tinygrad_operations.py [--only TEXT] [--list]

tinygrad takes its device from the environment, for example DEV=CUDA:PTX. Exits with 1 if a result
is further from NumPy than its tolerance.
"""

import argparse
import json
import sys
import time

import numpy as np
from tinygrad import Device, Tensor, dtypes

RNG = np.random.default_rng(12)
A = RNG.standard_normal((5, 33)).astype(np.float32)
B = RNG.standard_normal((5, 33)).astype(np.float32)
P = (np.abs(A) + 0.1).astype(np.float32)
UNIT = np.clip(A / 3, -0.99, 0.99)
ROW = RNG.standard_normal(33).astype(np.float32)
S32 = RNG.integers(-50, 50, (5, 33)).astype(np.int32)
J = RNG.integers(1, 9, (5, 33)).astype(np.int32)
U8 = RNG.integers(0, 256, (5, 33)).astype(np.uint8)
L64 = RNG.integers(-(2**40), 2**40, (5, 33))
H = RNG.standard_normal((5, 33)).astype(np.float16)
G = RNG.standard_normal((5, 33)).astype(np.float16)
M = RNG.standard_normal((20, 33)).astype(np.float32)
N = RNG.standard_normal((33, 17)).astype(np.float32)
BATCH = RNG.standard_normal((3, 9, 11)).astype(np.float32)
BATCH2 = RNG.standard_normal((3, 11, 7)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 4, 13, 12)).astype(np.float32)
KERNEL = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
DEPTHWISE = RNG.standard_normal((4, 1, 3, 3)).astype(np.float32)
TURNED = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
SIGNAL, TAPS = (RNG.standard_normal(s).astype(np.float32) for s in ((2, 3, 40), (5, 3, 4)))
INDEX = RNG.integers(0, 5, 8)
WHERE = RNG.integers(0, 33, (5, 6))
OPS = []


def op(name, inputs, ours, numpy, rtol=1e-5, atol=1e-6):
    OPS.append((name, inputs, ours, numpy, rtol, atol))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def windows(x, size, stride=1, dilation=1, pad=0, fill=0.0):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    span = dilation * (size - 1) + 1
    out = np.lib.stride_tricks.sliding_window_view(x, (span, span), (2, 3))
    return out[:, :, ::stride, ::stride, ::dilation, ::dilation]


def convolution(x, w, groups=1, **how):
    seen = windows(x, w.shape[-1], **how)
    n, c, *_ = seen.shape
    seen = seen.reshape(n, groups, c // groups, *seen.shape[2:])
    w = w.reshape(groups, -1, *w.shape[1:])
    out = np.einsum("ngchwij,gocij->ngohw", seen.astype(np.float64), w)
    return out.reshape(n, -1, *out.shape[3:])


def transposed(x, w):
    out = np.zeros((x.shape[0], w.shape[1], x.shape[2] + 2, x.shape[3] + 2))
    for i in range(3):
        for j in range(3):
            out[:, :, i : i + x.shape[2], j : j + x.shape[3]] += np.einsum(
                "nchw,co->nohw", x, w[:, :, i, j]
            )
    return out


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


# elementwise, two operands
for name, pair in {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "maximum": (Tensor.maximum, np.maximum),
    "minimum": (Tensor.minimum, np.minimum),
    "less": (lambda a, b: a < b, np.less),
    "equal": (lambda a, b: a == b, np.equal),
    "unequal": (lambda a, b: a != b, np.not_equal),
    "greater equal": (lambda a, b: a >= b, np.greater_equal),
}.items():
    op(f"{name} f32", (A, B), *pair)
    op(f"{name} i32", (S32, J), *pair)
op("divide", (A, P), lambda a, b: a / b, np.divide)
op("power", (P, A), lambda a, b: a.pow(b), np.power, 1e-4)
op("fused multiply-add", (A, B, P), lambda a, b, c: a * b + c, lambda a, b, c: a * b + c)
op("broadcast row", (A, ROW), lambda a, b: a * b + b, lambda a, b: a * b + b)
op("broadcast column", (A,), lambda a: a - a[:, :1], lambda a: a - a[:, :1])
op("outer sum", (ROW,), lambda r: r.reshape(33, 1) + r, lambda r: r[:, None] + r)
op("lerp", (A, B), lambda a, b: a.lerp(b, 0.25), lambda a, b: a + (b - a) * 0.25)
op("where", (A, B), lambda a, b: (a > 0).where(a, b), lambda a, b: np.where(a > 0, a, b))
op("floor divide i32", (S32, J), lambda a, b: a // b, np.floor_divide)
op("modulo i32", (S32, J), lambda a, b: a % b, np.mod)
op("and i32", (S32, J), lambda a, b: a & b, np.bitwise_and)
op("or i32", (S32, J), lambda a, b: a | b, np.bitwise_or)
op("xor i32", (S32, J), lambda a, b: a ^ b, np.bitwise_xor)
op("shift left u32", (U8.astype(np.uint32),), lambda a: a << 7, lambda a: a << 7)
op("shift right u32", (U8.astype(np.uint32) << 20,), lambda a: a >> 9, lambda a: a >> 9)
op("add i64", (L64, L64), lambda a, b: a + b, np.add)
op("mul i64", (L64, S32.astype(np.int64)), lambda a, b: a * b, np.multiply)
op("add u8 wraps", (U8, U8), lambda a, b: a + b, np.add)
op("logical not", (S32 > 0,), Tensor.logical_not, np.logical_not)
op("mul wraps i32", (S32 * 90000, J * 70000), lambda a, b: a * b, np.multiply)

# elementwise, one operand
for name, x, ours, numpy, rtol, atol in [
    ("neg", A, lambda a: -a, np.negative, 0, 0),
    ("abs", A, Tensor.abs, np.abs, 0, 0),
    ("square", A, Tensor.square, np.square, 1e-6, 0),
    ("sign", A, Tensor.sign, np.sign, 0, 0),
    ("sqrt", P, Tensor.sqrt, np.sqrt, 1e-6, 0),
    ("rsqrt", P, Tensor.rsqrt, lambda a: 1 / np.sqrt(a), 1e-5, 0),
    ("reciprocal", P, Tensor.reciprocal, np.reciprocal, 1e-5, 0),
    ("exp", A, Tensor.exp, np.exp, 1e-5, 0),
    ("exp2", A, Tensor.exp2, np.exp2, 1e-5, 0),
    ("log", P, Tensor.log, np.log, 1e-4, 1e-6),
    ("log2", P, Tensor.log2, np.log2, 1e-4, 1e-6),
    ("sin", A * 9, Tensor.sin, np.sin, 1e-4, 1e-5),
    ("cos", A * 9, Tensor.cos, np.cos, 1e-4, 1e-5),
    ("tan", UNIT, Tensor.tan, np.tan, 1e-4, 1e-5),
    ("asin", UNIT, Tensor.asin, np.arcsin, 1e-3, 1e-4),
    ("atan", A, Tensor.atan, np.arctan, 1e-3, 1e-4),
    ("sinh", A, Tensor.sinh, np.sinh, 1e-4, 1e-5),
    ("tanh", A, Tensor.tanh, np.tanh, 1e-4, 1e-5),
    ("erf", A, Tensor.erf, None, 1e-4, 1e-5),
    ("sigmoid", A, Tensor.sigmoid, lambda a: 1 / (1 + np.exp(-a)), 1e-5, 1e-6),
    ("relu", A, Tensor.relu, lambda a: np.maximum(a, 0), 0, 0),
    ("relu6", A * 5, Tensor.relu6, lambda a: np.clip(a, 0, 6), 1e-6, 1e-6),
    ("leaky relu", A, Tensor.leaky_relu, lambda a: np.where(a > 0, a, 0.01 * a), 1e-6, 1e-7),
    ("elu", A, Tensor.elu, lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))), 1e-4, 1e-6),
    ("silu", A, Tensor.silu, lambda a: a / (1 + np.exp(-a)), 1e-5, 1e-6),
    ("softplus", A, Tensor.softplus, lambda a: np.log1p(np.exp(a)), 1e-4, 1e-5),
    ("softsign", A, Tensor.softsign, lambda a: a / (1 + np.abs(a)), 1e-5, 1e-6),
    (
        "gelu",
        A,
        Tensor.gelu,
        lambda a: 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3))),
        1e-4,
        1e-5,
    ),
    ("hardswish", A * 3, Tensor.hardswish, lambda a: a * np.clip(a + 3, 0, 6) / 6, 1e-5, 1e-6),
    ("floor", A * 5, Tensor.floor, np.floor, 0, 0),
    ("ceil", A * 5, Tensor.ceil, np.ceil, 0, 0),
    ("trunc", A * 5, Tensor.trunc, np.trunc, 0, 0),
    ("round", A * 5, Tensor.round, np.round, 0, 0),
    ("clip", A, lambda a: a.clip(-0.5, 0.7), lambda a: np.clip(a, -0.5, 0.7), 0, 0),
    ("isnan", np.where(A > 1, np.nan, A), Tensor.isnan, np.isnan, 0, 0),
    ("isinf", np.where(A > 1, np.inf, A), Tensor.isinf, np.isinf, 0, 0),
]:
    if numpy is None:
        from math import erf

        numpy = np.vectorize(erf)
    op(name, (x.astype(np.float32),), ours, numpy, rtol, atol)

# reductions
for name, ours, numpy in [
    ("sum", Tensor.sum, np.sum),
    ("mean", Tensor.mean, np.mean),
    ("max", Tensor.max, np.max),
    ("min", Tensor.min, np.min),
]:
    op(f"{name} of all", (A,), ours, numpy, 1e-4, 1e-5)
    op(
        f"{name} of rows",
        (A,),
        lambda a, f=ours: f(a, axis=1),
        lambda a, f=numpy: f(a, axis=1),
        1e-4,
        1e-5,
    )
    op(
        f"{name} of columns",
        (A,),
        lambda a, f=ours: f(a, axis=0),
        lambda a, f=numpy: f(a, axis=0),
        1e-4,
        1e-5,
    )
op("sum i32", (S32,), lambda a: a.sum(1), lambda a: a.sum(1))
op("sum of a large array", (np.ones((70, 100), np.float32),), Tensor.sum, np.sum)
op("product", (UNIT + 1,), lambda a: a.prod(1), lambda a: a.prod(1), 1e-4, 1e-6)
op("variance", (A,), lambda a: a.var(1), lambda a: a.var(1, ddof=1), 1e-4)
op("standard deviation", (A,), lambda a: a.std(0), lambda a: a.std(0, ddof=1), 1e-4)
op("any", (S32 > 45,), lambda a: a.any(1), lambda a: a.any(1))
op("all", (S32 > -45,), lambda a: a.all(1), lambda a: a.all(1))
op("argmax", (A,), lambda a: a.argmax(1), lambda a: a.argmax(1))
op("argmin", (A,), lambda a: a.argmin(0), lambda a: a.argmin(0))
op("softmax", (A,), lambda a: a.softmax(1), lambda a: softmax(a, 1))
op("softmax of columns", (A,), lambda a: a.softmax(0), lambda a: softmax(a, 0))
op("log softmax", (A,), Tensor.log_softmax, lambda a: np.log(softmax(a)), 1e-4, 1e-5)
op("logsumexp", (A,), lambda a: a.logsumexp(1), lambda a: np.log(np.exp(a).sum(1)), 1e-4, 1e-5)
op("cumulative sum", (A,), lambda a: a.cumsum(1), lambda a: a.cumsum(1), 1e-4, 1e-5)
op("cumulative maximum", (A,), lambda a: a.cummax(1)[0], lambda a: np.maximum.accumulate(a, 1))
op("layer norm", (A,), Tensor.layernorm, layer_norm, 1e-4, 1e-5)

# movement
op("reshape", (A,), lambda a: a.reshape(33, 5).contiguous(), lambda a: a.reshape(33, 5))
op("transpose", (A,), lambda a: a.T.contiguous(), lambda a: a.T)
op(
    "permute",
    (IMAGE,),
    lambda a: a.permute(0, 2, 3, 1).contiguous(),
    lambda a: a.transpose(0, 2, 3, 1),
)
op("flip", (A,), lambda a: a.flip(1).contiguous(), lambda a: a[:, ::-1])
op("expand", (ROW,), lambda a: a.expand(4, 33).contiguous(), lambda a: np.tile(a, (4, 1)))
op("pad", (A,), lambda a: a.pad(((1, 2), (3, 0))), lambda a: np.pad(a, ((1, 2), (3, 0))))
op("shrink", (A,), lambda a: a[1:4, 5:20].contiguous(), lambda a: a[1:4, 5:20])
op("strided slice", (A,), lambda a: a[::2, 1::3].contiguous(), lambda a: a[::2, 1::3])
op("concatenate", (A, B), lambda a, b: a.cat(b, dim=1), lambda a, b: np.concatenate([a, b], 1))
op("stack", (A, B), lambda a, b: Tensor.stack(a, b), lambda a, b: np.stack([a, b]))
op("repeat", (A,), lambda a: a.repeat(2, 3), lambda a: np.tile(a, (2, 3)))
op("roll", (A,), lambda a: a.roll(7, 1), lambda a: np.roll(a, 7, 1))
op("triangle", (M,), lambda a: a.triu(2), lambda a: np.triu(a, 2))
# Added to an input: what depends on none, tinygrad computes on the host, and needs clang for it.
op(
    "arange",
    (INDEX,),
    lambda i: i.reshape(-1, 1) + Tensor.arange(3, 90, 4),
    lambda i: i[:, None] + np.arange(3, 90, 4),
)
op("identity", (ROW[:19],), lambda r: r + Tensor.eye(19), lambda r: r + np.eye(19))
op("full", (), lambda: Tensor.full((7, 9), 2.5).contiguous(), lambda: np.full((7, 9), 2.5))
op("one hot", (INDEX,), lambda i: i.one_hot(5), lambda i: np.eye(5)[i])
op(
    "nearest upscale",
    (IMAGE[:1, :1],),
    lambda a: a.interpolate((26, 24), mode="nearest"),
    lambda a: a.repeat(2, 2).repeat(2, 3),
)

# gather and scatter
op("gather rows", (A, INDEX), lambda a, i: a[i], lambda a, i: a[i])
op("gather", (A, WHERE), lambda a, i: a.gather(1, i), lambda a, i: np.take_along_axis(a, i, 1))
op(
    "scatter",
    (A, WHERE[:, :1], B[:, :1]),
    lambda a, i, b: a.scatter(1, i, b),
    lambda a, i, b: scattered(a, i, b),
)
op("masked fill", (A,), lambda a: a.masked_fill(a > 0.5, -1.0), lambda a: np.where(a > 0.5, -1, a))
op("sort", (A[:, :12],), lambda a: a.sort(1)[0], lambda a: np.sort(a, 1))
op("top values", (A[:, :12],), lambda a: a.topk(4, 1)[0], lambda a: -np.sort(-a, 1)[:, :4])


def scattered(a, i, b):
    out = a.copy()
    np.put_along_axis(out, i, b, 1)
    return out


# matrix products
op("matmul", (M, N), lambda a, b: a @ b, np.matmul, 1e-4, 1e-5)
op(
    "matmul of a transposed matrix",
    (N, M),
    lambda a, b: a.T @ b.T,
    lambda a, b: a.T @ b.T,
    1e-4,
    1e-5,
)
op("batched matmul", (BATCH, BATCH2), lambda a, b: a @ b, np.matmul, 1e-4, 1e-5)
op("matrix by vector", (M, ROW), lambda a, b: a @ b, np.matmul, 1e-4, 1e-5)
op("dot", (ROW, ROW), Tensor.dot, np.dot, 1e-4)
op(
    "einsum",
    (BATCH, BATCH),
    lambda a, b: Tensor.einsum("bij,bkj->bik", a, b),
    lambda a, b: np.einsum("bij,bkj->bik", a, b),
    1e-4,
    1e-5,
)
op(
    "larger matmul",
    (np.tile(M, (4, 4)), np.tile(N, (4, 4))),
    lambda a, b: a @ b,
    np.matmul,
    1e-4,
    1e-4,
)
op(
    "linear with relu",
    (M, N),
    lambda a, b: (a @ b + 1).relu(),
    lambda a, b: np.maximum(a @ b + 1, 0),
    1e-4,
    1e-5,
)
op(
    "attention",
    (BATCH,),
    lambda q: q.scaled_dot_product_attention(q, q),
    lambda q: softmax(q @ q.transpose(0, 2, 1) / np.sqrt(11)) @ q,
    1e-4,
    1e-5,
)

# convolutions and pooling
op("convolution", (IMAGE, KERNEL), lambda x, w: x.conv2d(w), convolution, 1e-4, 1e-5)
op(
    "convolution padded",
    (IMAGE, KERNEL),
    lambda x, w: x.conv2d(w, padding=1),
    lambda x, w: convolution(x, w, pad=1),
    1e-4,
    1e-5,
)
op(
    "convolution strided",
    (IMAGE[:1], KERNEL),
    lambda x, w: x.conv2d(w, stride=2, padding=1),
    lambda x, w: convolution(x, w, stride=2, pad=1),
    1e-4,
    1e-5,
)
op(
    "convolution dilated",
    (IMAGE, KERNEL),
    lambda x, w: x.conv2d(w, dilation=2),
    lambda x, w: convolution(x, w, dilation=2),
    1e-4,
    1e-5,
)
op(
    "convolution depthwise",
    (IMAGE, DEPTHWISE),
    lambda x, w: x.conv2d(w, groups=4, padding=1),
    lambda x, w: convolution(x, w, groups=4, pad=1),
    1e-4,
    1e-5,
)
op(
    "convolution 1x1",
    (IMAGE, KERNEL[:, :, :1, :1]),
    lambda x, w: x.conv2d(w),
    convolution,
    1e-4,
    1e-5,
)
op(
    "convolution 1-D",
    (SIGNAL, TAPS),
    lambda x, w: x.conv2d(w),
    lambda x, w: np.einsum("nctk,ock->not", np.lib.stride_tricks.sliding_window_view(x, 4, 2), w),
    1e-4,
    1e-5,
)
op(
    "convolution transposed",
    (IMAGE, TURNED),
    lambda x, w: x.conv_transpose2d(w),
    transposed,
    1e-4,
    1e-5,
)
op("max pooling", (IMAGE,), lambda x: x.max_pool2d(2), lambda x: windows(x, 2, 2).max((4, 5)))
op(
    "max pooling 3x3",
    (IMAGE,),
    lambda x: x.max_pool2d(3, stride=2, padding=1),
    lambda x: windows(x, 3, 2, pad=1, fill=-np.inf).max((4, 5)),
)
op(
    "average pooling",
    (IMAGE,),
    lambda x: x.avg_pool2d(2),
    lambda x: windows(x, 2, 2).mean((4, 5)),
    1e-5,
    1e-6,
)
op("global average", (IMAGE,), lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3)), 1e-5, 1e-6)
op(
    "batch norm",
    (IMAGE,),
    lambda x: (
        (x - x.mean((0, 2, 3), keepdim=True))
        * (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).rsqrt()
    ),
    lambda x: (
        (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    ),
    1e-4,
    1e-5,
)

# casts and other types
for name, to in {
    "f64": np.float64,
    "f16": np.float16,
    "i32": np.int32,
    "i64": np.int64,
    "i8": np.int8,
    "u8": np.uint8,
    "i16": np.int16,
    "bool": np.bool_,
}.items():
    x = np.trunc(np.abs(A) * 20).astype(np.float32)
    kind = {
        "f64": dtypes.float64,
        "f16": dtypes.float16,
        "i32": dtypes.int32,
        "i64": dtypes.int64,
        "i8": dtypes.int8,
        "u8": dtypes.uint8,
        "i16": dtypes.int16,
        "bool": dtypes.bool,
    }[name]
    op(f"cast f32 to {name}", (x,), lambda a, k=kind: a.cast(k), lambda a, t=to: a.astype(t))
op("cast i32 to f32", (S32,), lambda a: a.cast(dtypes.float32), lambda a: a.astype(np.float32))
op("cast u8 to f32", (U8,), lambda a: a.cast(dtypes.float32) / 255, lambda a: a / np.float32(255))
op("cast i64 to i32", (L64,), lambda a: a.cast(dtypes.int32), lambda a: a.astype(np.int32))
op("bits of f32", (A,), lambda a: a.bitcast(dtypes.int32), lambda a: a.view(np.int32))
op("add f16", (H, G), lambda a, b: a + b, np.add, 0, 0)
op("mul f16", (H, G), lambda a, b: a * b, np.multiply, 0, 0)
op("compare f16", (H, G), lambda a, b: a < b, np.less)
op("exp f16", (H,), Tensor.exp, np.exp, 3e-3, 1e-3)
op("sqrt f16", (np.abs(H),), Tensor.sqrt, np.sqrt, 2e-3, 1e-3)
op("sum f16", (H,), lambda a: a.sum(1), lambda a: a.astype(np.float32).sum(1), 5e-3, 5e-3)
op("softmax f16", (H,), Tensor.softmax, lambda a: softmax(a.astype(np.float32)), 1e-2, 1e-3)
op(
    "matmul f16",
    (M.astype(np.float16), N.astype(np.float16)),
    lambda a, b: a @ b,
    lambda a, b: a.astype(np.float32) @ b.astype(np.float32),
    1e-2,
    5e-2,
)
op("add f64", (A.astype(np.float64), B.astype(np.float64)), lambda a, b: a + b, np.add, 0, 0)
op("sqrt f64", (P.astype(np.float64),), Tensor.sqrt, np.sqrt, 1e-12, 0)
op(
    "random numbers are uniform",
    (),
    lambda: Tensor.rand(4000).mean(),
    lambda: np.float32(0.5),
    0,
    0.03,
)


def deviation(ours, wanted, rtol, atol):
    """How many tolerances the worst element is away."""
    wanted = np.asarray(wanted)
    if ours.shape != wanted.shape:
        return float("inf")
    got, want = ours.astype(np.float64), wanted.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = np.where(same, 0, np.abs(got - want))
    return float(
        np.nan_to_num(
            np.where(same, 0, error / (atol + rtol * np.abs(want) + 1e-300)), nan=np.inf
        ).max(initial=0)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [o for o in OPS if options.only in o[0]]
    if options.list:
        print("\n".join(o[0] for o in chosen))
        return 0
    failed = {}
    started = time.perf_counter()
    slowest = (0.0, "")
    for name, inputs, ours, numpy, rtol, atol in chosen:
        begin = time.perf_counter()
        try:
            # Through a copy, so that the operation runs on the device and not in the set-up.
            tensors = [Tensor(np.ascontiguousarray(x)).realize() for x in inputs]
            worst = deviation(ours(*tensors).numpy(), numpy(*inputs), rtol, atol)
        except Exception as error:
            failed[name] = repr(error)[:500]
            continue
        slowest = max(slowest, (time.perf_counter() - begin, name))
        if worst > 1:
            failed[name] = f"{worst:.3g} tolerances from NumPy"
    print(
        json.dumps(
            {
                "device": Device.DEFAULT,
                "operations": len(chosen),
                "failed": failed,
                "seconds": round(time.perf_counter() - started, 1),
                "slowest": slowest,
            }
        )
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
