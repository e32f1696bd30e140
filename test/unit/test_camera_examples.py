"""What the camera examples and their kin do on the CPU: pictures, preparation, references."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NUMBERS = range(40)


@pytest.fixture
def example(monkeypatch):
    """Imports an example by name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").is_file():
            del sys.modules[name]


def test_pictures_have_the_ball_where_they_say(example):
    camera = example("camera")
    for number in NUMBERS:
        image, (x, y) = camera.picture(number), camera.ball(number)
        assert (image.shape, image.dtype) == ((camera.HEIGHT, camera.WIDTH, 3), np.uint8)
        redness = image.astype(np.float32) @ camera.REDNESS
        rows, columns = np.nonzero(redness > 100)
        assert abs(columns.mean() - x) < 1
        assert abs(rows.mean() - y) < 1


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_picture_is_prepared_alike_with_and_without_opencv(example, factor, monkeypatch):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    camera = example("camera")
    image = camera.picture(3)
    by_opencv = camera.prepared(image, factor)
    monkeypatch.setattr(camera, "cv2", None)
    by_numpy = camera.prepared(image, factor)
    assert by_numpy.shape == (3, camera.HEIGHT // factor, camera.WIDTH // factor)
    assert (by_numpy.dtype, by_opencv.dtype) == (np.float32, np.float32)
    assert by_opencv.flags.c_contiguous
    assert np.abs(by_numpy - by_opencv).max() <= 1.01 / 127.5  # one level of grey
    assert np.abs(by_numpy).max() <= 1


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((240, 320), np.uint8), ((240, 320, 3), np.float32), ((241, 320, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(example, shape, dtype):
    with pytest.raises(ValueError, match=r"bytes|multiples"):
        example("camera").prepared(np.zeros(shape, dtype), 2)


def test_a_region_is_empty_where_nothing_is_hot(example):
    camera = example("camera")
    heat = np.zeros((12, 16), np.float32)
    assert camera.region(heat, 2) == (0, 0, 0, 0)
    heat[3:5, 7:10] = 1
    assert camera.region(heat, 2) == (14, 6, 6, 4)


def test_the_classifiers_thirds_say_where_the_ball_is(example):
    camera, keras = example("camera"), example("classifier_keras")
    for number in NUMBERS:
        (small,) = keras.given(camera.picture(number))
        assert small.shape[1] % len(keras.LABELS) == 0
        redness = np.maximum(small @ camera.REDNESS, 0)
        thirds = redness.reshape(small.shape[0], len(keras.LABELS), -1).mean((0, 2))
        x = camera.ball(number)[0] / camera.WIDTH * 3
        if abs(x - round(x)) > 0.15:  # not on the edge of two thirds
            assert keras.label(thirds) == keras.LABELS[int(x)]


def test_a_mask_has_the_pictures_size_and_marks_the_ball(example):
    camera, torch = example("camera"), example("segmentation_torch")
    small = camera.prepared(camera.picture(5), torch.FACTOR)
    redness = np.tensordot(camera.REDNESS, small, 1)
    mask = torch.mask(np.stack([np.full_like(redness, 0.5), redness]))
    assert (mask.shape, mask.dtype) == ((camera.HEIGHT, camera.WIDTH), np.uint8)
    assert mask.max() == 255
    rows, columns = np.nonzero(mask)
    x, y = camera.ball(5)
    assert abs(columns.mean() - x) < 2
    assert abs(rows.mean() - y) < 2


def test_rectified_pictures_bow_lines_back_and_keep_the_middle(example):
    camera, triton = example("camera"), example("rectify_triton")
    flat = np.full((camera.HEIGHT, camera.WIDTH, 3), 77, np.uint8)
    assert np.allclose(triton.reference(flat), 77)
    image = camera.picture(0)
    out = triton.reference(image)
    assert (out.shape, out.dtype) == (image.shape, np.float32)
    middle = np.s_[camera.HEIGHT // 2 - 4 : camera.HEIGHT // 2 + 4,
                   camera.WIDTH // 2 - 4 : camera.WIDTH // 2 + 4]  # fmt: skip
    assert np.abs(out[middle] - image[middle]).mean() < 12
    assert np.abs(out - image).mean() > 2


def test_thrown_balls_stay_above_the_ground_and_fly_forward(example):
    physics = example("physics_warp")
    place = physics.reference(2)
    assert (place.shape, place.dtype) == ((physics.BALLS, 3), np.float32)
    assert place[:, 2].min() >= 0
    assert place[:, 0].mean() > 3


def test_the_ground_is_where_most_points_are(example):
    ground = example("ground_cupy")
    for number in range(5):
        away = ground.distances(np, *ground.scan(number))
        assert away.shape == (ground.POINTS,)
        assert (away < ground.NEAR_M).mean() > 0.6


def test_the_detector_finds_the_ball_in_every_picture(example):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    camera, detector = example("camera"), example("detector_onnxruntime")
    options = camera.parser("", detector.options).parse_args(["--cpu"])
    model = detector.make(options)
    for number in NUMBERS:
        x, y, width, height = model.answer(model.run(camera.picture(number)))
        at_x, at_y = camera.ball(number)
        assert abs(x + width / 2 - at_x) < 5, number
        assert abs(y + height / 2 - at_y) < 5, number
        assert 0.5 < width / (2 * camera.BALL) < 1.5


def test_a_script_says_how_long_a_picture_took_and_what_came_out():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    command = [sys.executable, EXAMPLES / "detector_onnxruntime.py", "--cpu", "--frames", "6"]
    found = []
    for _ in range(2):
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0]["good"]
    assert found[0]["sha256"] == found[1]["sha256"]
    assert (found[0]["frames"], found[0]["worst"]) == (6, 0.0)
    assert found[0]["median_ms"] > 0


def test_results_that_differ_from_the_cpus_end_an_example_with_1(example, capsys):
    camera = example("camera")
    arguments = camera.parser("").parse_args(["--frames", "4"])
    results = np.arange(8.0)
    for off, code in ((0.0, 0), (0.5, 1), (np.nan, 1)):
        got = camera.compare(
            arguments, "numbers", lambda _, off=off: results + off, lambda _: results, 1e-3
        )
        assert got == code, off
    assert "4 numbers" in capsys.readouterr().out
