#!/usr/bin/env python3
"""Say whether a red ball is left, in the middle or right of camera pictures with Keras.

The layers' weights are made here: how red each pixel is, and the mean of each third. The scores
are compared with TensorFlow's on the CPU; pictures are prepared by OpenCV, or NumPy. Exits with 77
where TensorFlow is not installed.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
from camera import HEIGHT, REDNESS, WIDTH, Model, NoDeviceError, main, prepared

FACTOR = 4
LABELS = ("left", "middle", "right")


def network(tf: Any) -> Any:
    """From pictures (1, height, width, 3) to the scores of the labels (1, 3)."""
    layers = tf.keras.layers
    height, width = HEIGHT // FACTOR, WIDTH // FACTOR - WIDTH // FACTOR % len(LABELS)
    net = tf.keras.Sequential(
        [
            layers.Input((height, width, 3)),
            layers.Conv2D(1, 1, activation="relu", name="redness"),
            layers.AveragePooling2D((height, width // len(LABELS))),
            layers.Flatten(),
            layers.Dense(len(LABELS), name="scores"),
        ]
    )
    net.get_layer("redness").set_weights([REDNESS.reshape(1, 1, 3, 1), np.zeros(1, np.float32)])
    net.get_layer("scores").set_weights(
        [np.eye(len(LABELS), dtype=np.float32) * 50, np.zeros(len(LABELS), np.float32)]
    )
    return net


def given(image: np.ndarray) -> np.ndarray:
    """A picture as `network` takes it: a little narrower, so that it has three thirds."""
    small = prepared(image, FACTOR).transpose(1, 2, 0)
    return small[None, :, : small.shape[1] - small.shape[1] % len(LABELS)]


def label(scores: np.ndarray) -> str:
    """What the scores say."""
    return LABELS[int(scores.argmax())]


def make(arguments: argparse.Namespace) -> Model:
    """The network; its weights are copied to where it runs."""
    del arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise NoDeviceError(f"TensorFlow {tf.__version__} finds none; its log above may say why")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    nets = {}
    for place in ("/GPU:0", "/CPU:0"):
        with tf.device(place):
            nets[place] = network(tf)

    def scores(place: str, image: np.ndarray) -> np.ndarray:
        with tf.device(place):
            return np.asarray(nets[place](tf.constant(given(image)), training=False))[0]

    return Model(
        lambda image: scores("/GPU:0", image),
        lambda image: scores("/CPU:0", image),
        label,
        "label",
        f"/GPU:0 by TensorFlow {tf.__version__}",
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, make, '"tensorflow[and-cuda]"'))
