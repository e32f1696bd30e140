"""TensorFlow: eager operations and Keras layers on CUDA, compared with its CPU device.

The arguments choose cases by name; all without any.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

from agree import Cases, absent


def load_cusolver():
    """TensorFlow 2.21 wants cuSOLVER and looks for it where pip does not put it."""
    for folder in map(Path, sys.path):
        for library in folder.glob("nvidia/cusolver/lib/libcusolver.so.11"):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            return


try:
    import numpy as np

    load_cusolver()
    import tensorflow as tf
except ImportError as error:
    absent(error, "tensorflow[and-cuda]")

ROUNDS = 8
GPU, CPU = "/GPU:0", "/CPU:0"


def elementwise(x):
    return tf.tanh(x) * tf.exp(-x * x) + tf.nn.relu(x)


def reductions(x):
    return tf.concat([tf.reduce_sum(x, 0), tf.reduce_max(x, 1), tf.reduce_mean(x, 0)], 0)


def more_reductions(x):
    parts = [tf.reduce_prod(x, 0), tf.reduce_min(x, 1), tf.math.reduce_std(x, 0)]
    whole = tf.stack([tf.reduce_sum(x), tf.reduce_logsumexp(x), tf.norm(x)])
    return tf.concat([*parts, whole, tf.cast(tf.argmax(x, 1), tf.float32)], 0)


def softmax(x):
    return tf.nn.softmax(x)


def gather(x):
    return tf.concat([tf.gather(x, [3, 1, 2]), tf.gather_nd(x, [[5], [0]])], 0)


def transpose(x):
    cube = tf.reshape(x, (4, 8, 8))
    parts = [tf.transpose(x), tf.transpose(cube, (2, 0, 1)), tf.transpose(cube, (0, 2, 1))]
    return tf.concat([tf.reshape(part, (-1,)) for part in parts], 0)


def shapes(x):
    padded = tf.pad(x, [[1, 2], [0, 3]])[::2, 1:]
    left, right = tf.split(x, 2, axis=1)
    parts = [padded, tf.tile(left, [1, 2]), tf.reverse(right, [0]), tf.roll(x, 3, 0)]
    return tf.concat([tf.reshape(part, (-1,)) for part in parts], 0)


def made(x):
    steps = tf.linspace(-1.0, 1.0, 16)
    numbers = tf.zeros_like(tf.range(16)) + tf.range(16)
    return x * steps + tf.cast(numbers, tf.float32) + tf.ones_like(x)


def choices(x):
    rows = tf.scatter_nd([[2], [0]], x[:2], (4, 16))
    parts = [tf.where(x > 0, x, -x), tf.one_hot(tf.argmax(x, 1), 16), rows]
    return tf.concat([tf.reshape(part, (-1,)) for part in parts], 0)


def sums_on_the_way(x):
    return tf.concat([tf.cumsum(x, 0), tf.cumsum(x, 1, reverse=True), tf.math.cumprod(x, 1)], 0)


def segments(x):
    return tf.math.unsorted_segment_sum(x, tf.constant([0, 1, 2, 1] * 4), 3)


def largest(x):
    values, places = tf.math.top_k(x, 4)
    return tf.concat([values, tf.cast(places, tf.float32)], 1)


def normalised(x):
    mean, variance = tf.nn.moments(x, [0])
    return tf.nn.batch_normalization(x, mean, variance, 0.5, 2.0, 1e-3)


def loss(x):
    labels = tf.constant([1, 3] * 8)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x)
    return tape.gradient(value, x)


def product(x):
    return tf.matmul(x, x, transpose_b=True)


def convolution(x):
    image = tf.reshape(x, (1, 16, 16, 1))
    kernel = tf.constant(np.linspace(-1, 1, 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 1, 4))
    return tf.nn.conv2d(image, kernel, 1, "SAME")


def network():
    """A small Keras MLP, the same on every device."""
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [tf.keras.layers.Dense(32, activation="relu"), tf.keras.layers.Dense(10)]
    )


@functools.cache
def compiled_network(device):
    """The same, compiled by XLA for a device."""
    with tf.device(device):
        found = network()
        found.build((None, 16))
        return tf.function(found, jit_compile=True)


def on(device, function, inputs):
    """What a function gives on a device, for each of some inputs."""
    with tf.device(device):
        return np.stack([function(tf.constant(one)).numpy() for one in inputs])


def main():
    cases = Cases("TensorFlow", tf.__version__, "TensorFlow on its CPU device")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((ROUNDS, 16, 16)).astype(np.float32)

    def devices():
        found = len(tf.config.list_physical_devices("GPU"))
        return [found], [1]

    cases.check("a device is found", devices, 0)
    if cases.failed:
        return cases.end()
    for name, function, tolerance in (
        ("elementwise", elementwise, 1e-5),
        ("reductions", reductions, 1e-5),
        ("more reductions", more_reductions, 1e-5),
        ("gather", gather, 0),
        ("transpose", transpose, 0),
        ("shapes", shapes, 0),
        ("ranges", made, 1e-5),
        ("choices", choices, 0),
        ("softmax", softmax, 1e-5),
        ("cumulative sums", sums_on_the_way, 1e-5),
        ("segments", segments, 1e-5),
        ("top k", largest, 0),
        ("batch normalisation", normalised, 1e-5),
        ("gradient of a loss", loss, 1e-5),
        ("matmul", product, 1e-4),
        ("convolution", convolution, 1e-4),
        ("Keras MLP", lambda x: network()(x), 1e-4),
        ("matmul by XLA", tf.function(product, jit_compile=True), 1e-4),
        ("Keras MLP by XLA", lambda x: compiled_network(x.device)(x), 1e-4),
    ):
        if name in (sys.argv[1:] or [name]):
            cases.check(
                name, lambda f=function: (on(GPU, f, inputs), on(CPU, f, inputs)), tolerance
            )
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
