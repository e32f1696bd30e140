"""Preprocessing, decoding, suppression, drawing and records of the demo's detector."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rrto_ros.demo.detector.draw import draw_detections, save_png
from rrto_ros.demo.detector.labels import COCO_CLASSES
from rrto_ros.demo.detector.postprocess import (
    BINS,
    CELLS,
    Decoder,
    Detection,
    cell_centres,
    decode_boxes,
    overlap,
    suppress,
)
from rrto_ros.demo.detector.records import FrameRecord, LatencySummary, ResultFolder
from rrto_ros.demo.frame_sources import DEFAULT_PICTURE, read_picture
from rrto_ros.errors import ConfigError

MODEL = DEFAULT_PICTURE.with_name("nanodet_416_fp16.onnx")


def raw_output() -> np.ndarray:
    return np.zeros((CELLS, len(COCO_CLASSES) + 4 * BINS), np.float32)


def set_side(raw: np.ndarray, cell: int, side: int, strides: int) -> None:
    """Make one bin so likely that the mean of the distribution is its index."""
    raw[cell, len(COCO_CLASSES) + side * BINS + strides] = 60


def test_coco_has_eighty_classes_in_the_networks_order():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[5], COCO_CLASSES[79]) == ("person", "bus", "toothbrush")


def test_cells_are_the_centres_of_three_grids():
    centres, strides = cell_centres()
    assert centres.shape == (2704 + 676 + 169, 2)
    assert centres[0].tolist() == [4, 4]
    assert centres[1].tolist() == [12, 4]  # x runs first
    assert centres[52].tolist() == [4, 12]
    assert centres[2704].tolist() == [8, 8]
    assert centres[-1].tolist() == [400, 400]
    assert np.unique(strides).tolist() == [8, 16, 32]


def test_a_certain_bin_gives_that_many_strides():
    bins = np.zeros((1, 44), np.float32)
    for side, strides in enumerate((1, 2, 3, 4)):
        bins[0, side * BINS + strides] = 60
    box = decode_boxes(bins, np.array([[100, 200]], np.float32), np.array([[8]], np.float32))
    assert np.allclose(box, [[100 - 8, 200 - 16, 100 + 24, 200 + 32]])


def test_two_equal_bins_give_the_middle_between_them():
    bins = np.full((1, 44), -60, np.float32)
    bins[0, [2, 3, 11 + 0, 22 + 9, 22 + 10, 33 + 5]] = 0
    box = decode_boxes(bins, np.zeros((1, 2), np.float32), np.array([[16]], np.float32))
    assert np.allclose(box, [[-2.5 * 16, 0, 9.5 * 16, 5 * 16]])


def test_huge_logits_do_not_overflow():
    bins = np.full((1, 44), 1e30, np.float32)
    box = decode_boxes(bins, np.zeros((1, 2), np.float32), np.ones((1, 1), np.float32))
    assert np.allclose(box, [[-5, -5, 5, 5]])


def test_overlap_is_intersection_over_union():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    assert np.allclose(overlap(box, others), [1, 50 / 150, 0, 0])


def test_overlap_of_two_empty_boxes_is_zero():
    empty = np.zeros(4, np.float32)
    assert overlap(empty, empty[None]).tolist() == [0]


def test_suppression_keeps_the_best_of_each_cluster():
    boxes = np.array(
        [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [50, 51, 60, 61]], np.float32
    )
    scores = np.array([0.5, 0.9, 0.8, 0.4], np.float32)
    assert suppress(boxes, scores, 0.5) == [1, 2]
    assert suppress(boxes, scores, 1.0) == [1, 2, 0, 3]


def test_suppression_of_nothing_is_nothing():
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5) == []


def test_decoder_scales_to_the_picture_and_clips_to_it():
    raw = raw_output()
    cell = 2704 + 676 + 6 * 13 + 6  # stride 32, centre (208, 208)
    raw[cell, 0] = 0.9
    for side, strides in enumerate((2, 3, 4, 10)):
        set_side(raw, cell, side, strides)
    [found] = Decoder()(raw, 832, 416)
    assert found.label == "person"
    assert found.score == pytest.approx(0.9)
    assert found.box == pytest.approx(((208 - 64) * 2, 208 - 96, (208 + 128) * 2, 416), abs=0.01)


def test_decoder_keeps_scores_from_the_threshold_up():
    raw = raw_output()
    raw[0, 3], raw[2000, 4] = 0.35, 0.3499
    assert [found.label for found in Decoder(score_threshold=0.35)(raw, 416, 416)] == [
        "motorcycle"
    ]
    assert Decoder(score_threshold=0.36)(raw, 416, 416) == []


def test_decoder_suppresses_within_a_class_only_and_sorts_by_score():
    raw = raw_output()
    cells = [3000, 3001]  # neighbours of stride 16
    for cell in cells:
        for side in range(4):
            set_side(raw, cell, side, 8)
    raw[cells[0], 0], raw[cells[1], 0], raw[cells[1], 5] = 0.6, 0.7, 0.9
    found = Decoder()(raw, 416, 416)
    assert [(one.label, round(one.score, 3)) for one in found] == [("bus", 0.9), ("person", 0.7)]


def test_decoder_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(3549, 124\)"):
        Decoder()(np.zeros((3549, 100), np.float32), 416, 416)


def test_drawing_marks_the_box_and_leaves_the_input_alone():
    picture = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_detections(picture, [Detection("dog", 0.5, (50.0, 60.0, 150.0, 160.0))])
    assert not picture.any()
    assert drawn.shape == picture.shape
    assert drawn[60, 100].any()
    assert drawn[160, 100].any()
    assert drawn[110, 50].any()
    assert drawn[110, 150].any()
    assert not drawn[110, 100].any()  # the inside stays free
    assert drawn[45:59, 52:90].any()  # the label is above


@pytest.mark.parametrize(
    "box", [(0, 0, 300, 200), (290, 0, 300, 10), (-20, -20, 500, 500), (0, 0, 0, 0)]
)
def test_drawing_copes_with_boxes_at_the_edge(box):
    picture = np.zeros((200, 300, 3), np.uint8)
    assert draw_detections(picture, [Detection("person", 1.0, box)]).any()


def test_classes_have_colours_of_their_own():
    picture = np.zeros((100, 100, 3), np.uint8)
    box = (10.0, 50.0, 90.0, 90.0)
    person, car = (draw_detections(picture, [Detection(c, 0.5, box)]) for c in ("person", "car"))
    assert tuple(person[90, 50]) != tuple(car[90, 50])


def test_saved_picture_is_read_back_equal_and_leaves_no_other_file(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    save_png(tmp_path / "one.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "one.png")), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        save_png(tmp_path / "file" / "one.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ConfigError, match="cannot write results"):
        ResultFolder(tmp_path / "file" / "inside")


def test_result_folder_numbers_some_pictures_and_keeps_the_latest(tmp_path: Path):
    (tmp_path / "annotated_0099.png").write_bytes(b"of an earlier run")
    folder = ResultFolder(tmp_path, every=2, numbered=2)
    found = Detection("person", 0.123456789012345, (1.5, 2.25, 3.125, 4.0))
    for index in range(7):
        record = FrameRecord(1.5 + index, 0.02, (found,) if index else ())
        folder.save(record, np.full((4, 4, 3), index, np.uint8))
    folder.close()
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["annotated_0000.png", "annotated_0002.png", "annotated_latest.png"]
    assert (cv2.imread(str(tmp_path / "annotated_latest.png")) == 6).all()
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(7))
    assert lines[0]["detections"] == []
    assert lines[1]["detections"] == [
        {"class": "person", "score": 0.123456789012345, "box": [1.5, 2.25, 3.125, 4.0]}
    ]
    assert folder.statistics() == {"frames": 7, "pictures": 4}


def test_latency_summary_keeps_the_first_inference_apart():
    summary = LatencySummary()
    assert summary.describe() == "no frames"
    for seconds in (5.0, 0.010, 0.020, 0.030):
        summary.add(seconds)
    values = summary.statistics()
    assert values["frames"] == 4
    assert values["first_ms"] == pytest.approx(5000)
    assert values["median_ms"] == pytest.approx(20)
    assert 20 < values["p95_ms"] <= 30


def test_onnx_model_finds_the_astronaut_where_the_reference_does():
    """Needs onnxruntime, which only development has; the demo test does it with tinygrad."""
    onnxruntime = pytest.importorskip("onnxruntime")
    picture = read_picture(DEFAULT_PICTURE)
    pixels = cv2.resize(picture, (416, 416)).astype(np.float32)
    mean, deviation = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    x = ((pixels - np.float32(mean)) / np.float32(deviation)).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    outputs = [output[0] for output in session.run(None, {"x": x})]
    raw = np.hstack([np.concatenate(outputs[:3]), np.concatenate(outputs[3:])])
    [found] = Decoder()(raw, 512, 512)
    assert found.label == "person"
    assert found.score == pytest.approx(0.734, abs=0.02)
    assert found.box == pytest.approx((14, 14, 364, 508), abs=3)
