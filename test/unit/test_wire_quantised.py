"""Floats in a few bits: how far they are off, what crosses as it is, what is refused."""

import random

import numpy as np
import pytest

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.quantised import BLOCK, KINDS, MOST_ELEMENTS, WIDTHS, decode, encode, step

LENGTHS = (1, 2, 3, 7, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 13)


def blocks(values):
    return [values[at : at + BLOCK] for at in range(0, len(values), BLOCK)]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_element_is_off_by_half_a_step_of_its_block_at_most(kind, bits):
    rng = np.random.default_rng(bits)
    for length in LENGTHS:
        values = (rng.normal(size=length) * 10.0 ** rng.integers(-3, 4)).astype(KINDS[kind])
        data = encode(values.tobytes(), kind, bits)
        got = np.frombuffer(decode(data, kind, bits, length), KINDS[kind])
        for before, after in zip(blocks(values), blocks(got), strict=True):
            low, high = float(before.min()), float(before.max())
            # A code is made and used in float32, which is right to a hundredth of a step.
            rounding = 2 * float(np.finfo(KINDS[kind]).eps) * max(abs(low), abs(high))
            off = np.abs(before.astype(np.float64) - after.astype(np.float64)).max()
            assert off <= step(low, high, bits) * 0.51 + rounding
            assert low <= after.min()
            assert after.max() <= high


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_bytes_are_those_of_the_bits_and_nine_for_a_block(bits):
    values = np.linspace(-1, 1, 8 * BLOCK, dtype=np.float32)
    assert len(encode(values.tobytes(), "f32", bits)) == BLOCK * bits + 8 * 9


def test_the_golden_values_of_uniform_affine_quantisation():
    values = np.array([-1, -0.5, 0, 0.25, 1], np.float32)
    got = np.frombuffer(decode(encode(values.tobytes(), "f32", 4), "f32", 4, 5), np.float32)
    assert got == pytest.approx(-1 + np.array([0, 4, 8, 9, 15]) * 2 / 15, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_with_something_that_is_not_finite_or_not_in_range_crosses_as_it_is(kind):
    values = np.random.default_rng(1).normal(size=4 * BLOCK).astype(KINDS[kind])
    values[5], values[2 * BLOCK], values[2 * BLOCK + 9] = np.nan, np.inf, -np.inf
    if kind == "f32":
        values[3 * BLOCK], values[3 * BLOCK + 1] = 3e38, -3e38
    got = np.frombuffer(decode(encode(values.tobytes(), kind, 4), kind, 4, len(values)),
                        KINDS[kind])  # fmt: skip
    for k in (0, 2, 3) if kind == "f32" else (0, 2):
        same = slice(k * BLOCK, (k + 1) * BLOCK)
        assert got[same].tobytes() == values[same].tobytes()
    assert got[BLOCK : 2 * BLOCK].tobytes() != values[BLOCK : 2 * BLOCK].tobytes()


def test_what_is_all_the_same_or_hardly_differs_is_exact():
    for values in (np.full(70, 3.25, np.float32), np.array([0, 1e-44, 3e-39], np.float32)):
        data = encode(values.tobytes(), "f32", 4)
        assert decode(data, "f32", 4, len(values)) == values.tobytes()


def test_what_does_not_fit_is_refused():
    values = np.linspace(0, 1, BLOCK + 9, dtype=np.float32)
    data = encode(values.tobytes(), "f32", 6)
    count = len(values)
    for wrong in (data[:-1], data + b"\0", b"", b"\2" + data[1:]):
        with pytest.raises(ProtocolError, match="quantised memory"):
            decode(wrong, "f32", 6, count)
    nan = bytearray(data)
    nan[1:5] = np.float32(np.nan).tobytes()
    backwards = bytearray(data)
    backwards[1:9] = np.array([2, 1], np.float32).tobytes()
    for wrong in (nan, backwards):
        with pytest.raises(ProtocolError, match="no finite range"):
            decode(wrong, "f32", 6, count)
    for kind, bits, many in (
        ("f64", 6, count), ("f32", 5, count), ("f32", 6, 0), ("f32", 6, MOST_ELEMENTS + 1),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="want up to"):
            decode(data, kind, bits, many)
    for content, kind, bits in ((bytes(8), "u32", 8), (bytes(8), "f32", 7), (bytes(6), "f32", 8)):
        with pytest.raises(ValueError, match=r"want|no whole"):
            encode(content, kind, bits)


def test_no_bytes_crash_the_decoder():
    rnd = random.Random(5)
    good = encode(np.linspace(0, 1, 2 * BLOCK + 40, dtype=np.float32).tobytes(), "f32", 10)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rnd.randint(1, 4)):
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        del data[rnd.choice((len(data), rnd.randrange(len(data)))) :]
        try:
            got = decode(data, "f32", 10, 2 * BLOCK + 40)
        except ProtocolError:
            continue
        assert len(got) == 4 * (2 * BLOCK + 40)
