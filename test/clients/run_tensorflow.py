"""TensorFlow: eager operations and Keras layers on CUDA, compared with its CPU device.

The arguments choose cases by name; all without any.
"""

from __future__ import annotations

import ctypes
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


def softmax(x):
    return tf.nn.softmax(x)


def gather(x):
    return tf.concat([tf.gather(x, [3, 1, 2]), tf.transpose(x)[:3, :]], 0)


def product(x):
    return tf.matmul(x, x, transpose_b=True)


def convolution(x):
    image = tf.reshape(x, (1, 16, 16, 1))
    kernel = tf.reshape(tf.linspace(-1.0, 1.0, 3 * 3 * 4), (3, 3, 1, 4))
    return tf.nn.conv2d(image, kernel, 1, "SAME")


def network():
    """A small Keras MLP, the same on every device."""
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [tf.keras.layers.Dense(32, activation="relu"), tf.keras.layers.Dense(10)]
    )


def on(device, function, inputs):
    """What a function gives on a device, for each of some inputs."""
    with tf.device(device):
        return np.stack([function(tf.constant(one)).numpy() for one in inputs])


def main():
    cases = Cases("TensorFlow", tf.__version__, "TensorFlow on its CPU device")
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
        ("gather and transpose", gather, 0),
        ("matmul", product, 1e-4),
        ("convolution", convolution, 1e-4),
        ("Keras MLP", lambda x: network()(x), 1e-4),
        ("softmax", softmax, 1e-5),
    ):
        if name in (sys.argv[1:] or [name]):
            cases.check(
                name, lambda f=function: (on(GPU, f, inputs), on(CPU, f, inputs)), tolerance
            )
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
