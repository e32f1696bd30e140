"""Which messages are coded, and how: as their content and the link ask."""

import random

import numpy as np
import pytest

from rrto_ros.errors import UnavailableError
from rrto_ros.wire import compressor
from rrto_ros.wire.compressor import Compressor, best_filter
from rrto_ros.wire.packing import unpacked

MIB = 1 << 20
SLOW, FAST = 1e5, 10e9
"""So slow that coding pays, however busy this machine is."""


def camera(number, height=240, width=320):
    """A picture with edges, shades and a camera's noise."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    shade = 90 + 50 * np.sin((x + 3 * number) / 40) + 40 * np.cos(y / 25) + 30 * ((x // 60) % 2)
    channels = [shade + 8 * c + rng.normal(0, 2, shade.shape) for c in range(3)]
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def normalised(picture):
    mean, spread = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    return (picture.astype(np.float32) / 255 - mean) / spread


def sent(messages, rate=SLOW):
    """What part of the bytes leaves, and the compressor; each message arrives as it was."""
    one, whole, left = Compressor(), 0, 0
    for number, data in enumerate(messages, 1):
        out = one.pack(data, rate, number)
        assert out is None or unpacked(out, MIB) == data
        whole, left = whole + len(data), left + len(data if out is None else out)
    assert one.saved_bytes == whole - left
    return left / whole, one


def test_pictures_leave_in_less_than_six_tenths_of_their_bytes():
    part, one = sent(camera(n).tobytes() for n in range(8))
    assert part <= 0.6
    assert one.statistics()["ways"] == "filtered"


@pytest.mark.parametrize("planes", [True, False])
def test_normalised_pictures_leave_in_less_than_a_third_of_theirs(planes):
    def frames():
        for n in range(8):
            made = normalised(camera(n))
            yield np.ascontiguousarray(made.transpose(2, 0, 1) if planes else made).tobytes()

    part, one = sent(frames())
    assert part <= 0.35
    assert one.statistics()["ways"] == f"palette of {1 if planes else 3}"


def test_lines_of_a_picture_are_found():
    assert best_filter(camera(1)[:150].reshape(-1)).pitch in (0, 960)
    # What comes again with the next line only.
    line = np.random.default_rng(1).integers(0, 256, 700, np.uint8)
    found = best_filter(np.tile(line, 100))
    assert found.pitch > 0
    assert (found.distance, found.pitch % 700) == (0, 0)


def test_noise_is_left_as_it_is():
    rng = random.Random(1)
    part, one = sent(rng.randbytes(400_000) for _ in range(5))
    assert part == 1.0
    assert one.statistics()["choices"] == 1


def test_a_link_that_is_fast_or_unknown_gets_messages_as_they_are():
    for rate in (FAST, 0.0):
        part, one = sent((camera(n).tobytes() for n in range(3)), rate)
        assert (part, one.statistics()["choices"]) == (1.0, 0)


def test_what_coding_costs_counts(monkeypatch):
    # 5 ms on the link, of which coding would save half and take, with decoding, 8 ms.
    clock = iter(np.arange(0.0, 100.0, 0.004))
    monkeypatch.setattr(compressor.time, "perf_counter", lambda: next(clock))
    one, data = Compressor(), camera(1).tobytes()
    outs = [one.pack(data, len(data) / 0.005, n) for n in range(1, 301)]
    # Now and then it is looked at again.
    assert [n for n, out in enumerate(outs) if out] == [0, 128, 256]
    assert one.pack(data, len(data) / 0.05, 301) is not None


def test_other_content_of_the_same_length_is_coded_in_another_way():
    size = camera(1).size
    black = [bytes(size)] * 3
    pictures = [camera(n).tobytes() for n in range(6)]
    _, one = sent([*black, *pictures])
    assert one.statistics()["choices"] == 2
    out = one.pack(pictures[0], SLOW, 10)
    assert out is not None
    assert len(out) < 0.6 * size


def test_a_message_that_is_sent_again_saves_nothing_twice():
    one, data = Compressor(), camera(1).tobytes()
    one.pack(data, SLOW, 1)
    before = one.saved_bytes
    assert one.pack(data, SLOW, 1) is not None
    assert one.saved_bytes == before > 0


def test_kinds_of_messages_are_bounded():
    one = Compressor()
    rng = random.Random(2)
    for n in range(compressor.MOST_KINDS + 20):
        one.pack(rng.randbytes(40_000 + n), SLOW, n + 1)
    assert len(one._kinds) == compressor.MOST_KINDS


def test_without_a_codec_nothing_is_coded(monkeypatch):
    def none():
        raise UnavailableError("none")

    monkeypatch.setattr(compressor, "codec", none)
    assert Compressor().pack(camera(1).tobytes(), SLOW, 1) is None
