"""Messages in fewer bytes are what they were, and what is no coded message is refused."""

import random
import struct
import tracemalloc

import numpy as np
import pytest

from rrto_ros.errors import ProtocolError
from rrto_ros.wire import coding
from rrto_ros.wire.coding import (
    BLOCK_WORDS,
    Filter,
    Tables,
    decoded,
    filtered,
    shuffled,
    with_palette,
)
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.palette import Palette

MIB = 1 << 20
SIZES = (0, 1, 3, 4, 5, 4095, 4096, 4097, 40_000, 262_147)


def bytes_of(rng, size):
    """Smooth, or noise, or few values."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randbytes(size)
    steps = np.frombuffer(rng.randbytes(size), np.uint8) >> 5
    return (np.cumsum(steps) if kind == 1 else steps).astype(np.uint8).tobytes()


def picture(rng, lanes, size, planes=False):
    """Floats that were bytes: a table for each channel, in turns or one after the other."""
    tables = np.array([[(v / 255 - m) / 0.2 for v in range(256)] for m in (0.4, 0.5, 0.6, 0.7)])
    values = (np.cumsum(np.frombuffer(rng.randbytes(size), np.uint8) >> 6) & 255).astype(int)
    lane = np.arange(size) * lanes // size if planes else np.arange(size) % lanes
    return tables.astype(np.float32)[lane, values].tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_filtered_messages_are_what_they_were(size):
    rng = random.Random(size)
    for distance in (0, 1, 2, 3, 4, 16):
        for pitch in (0, 33, 300, 4096, size, size + 5):
            data = bytes_of(rng, size)
            coded = filtered(data, Filter(distance, pitch))
            assert decoded(coded, size) == data
            assert unpacked(memoryview(coded), size) == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [2, 4, 8])
def test_shuffled_messages_are_what_they_were(size, width):
    data = bytes_of(random.Random(size), size)
    assert decoded(shuffled(data, width), size) == data


@pytest.mark.parametrize("over", [0, 1, 6, 4093])
@pytest.mark.parametrize(("lanes", "planes"), [(1, False), (3, False), (4, False), (3, True)])
def test_messages_of_few_words_are_what_they_were_and_much_shorter(lanes, planes, over):
    rng = random.Random(over)
    palette = Palette(1 if planes else lanes)
    for _ in range(4):
        data = picture(rng, lanes, 60 * BLOCK_WORDS, planes) + rng.randbytes(over)
        tables, fits = palette.tables(data)
        coded = with_palette(data, tables, Filter(palette.lanes))
        assert decoded(coded, MIB) == data
        assert fits > 0.9
        assert len(coded) < 0.3 * len(data)


def test_words_in_no_table_stay_as_they_are():
    rng = random.Random(5)
    palette = Palette(1)
    for _ in range(6):
        parts = [
            picture(rng, 1, BLOCK_WORDS) if rng.random() < 0.5 else rng.randbytes(4 * BLOCK_WORDS)
            for _ in range(20)
        ]
        data = b"".join(parts)
        tables, fits = palette.tables(data)
        assert 0 < fits < 1
        assert decoded(with_palette(data, tables, Filter(1)), MIB) == data


def test_a_table_grows_with_values_that_were_not_seen_before():
    palette = Palette(1)
    dark = np.random.default_rng(1).integers(0, 90, 20 * BLOCK_WORDS)
    bright = np.random.default_rng(2).integers(0, 256, 20 * BLOCK_WORDS)
    for values in (dark, bright, dark):
        data = (values / 255).astype(np.float32).tobytes()
        tables, fits = palette.tables(data)
        assert fits == 1.0
        assert len(tables.words) == 1
        assert decoded(with_palette(data, tables, Filter(1)), MIB) == data


def test_more_kinds_of_blocks_than_tables_are_no_fault():
    rng = np.random.default_rng(3)
    palette = Palette(1)
    for _ in range(30):
        data = rng.integers(0, 1 << 32, 200, np.uint32)[rng.integers(0, 200, 4 * BLOCK_WORDS)]
        tables, _ = palette.tables(data.tobytes())
        assert decoded(with_palette(data.tobytes(), tables, Filter(1)), MIB) == data.tobytes()
    assert len(palette._tables) <= coding.MOST_TABLES


def some():
    rng = random.Random(9)
    data = picture(rng, 3, 5 * BLOCK_WORDS) + b"end"
    palette = Palette(3)
    return [
        (data, filtered(data, Filter(3, 500))),
        (data, shuffled(data)),
        (data, with_palette(data, palette.tables(data)[0], Filter(3))),
    ]


def test_what_is_cut_or_too_long_is_refused():
    for data, coded in some():
        assert decoded(coded, len(data)) == data
        with pytest.raises(ProtocolError, match="at most"):
            decoded(coded, len(data) - 1)
        for size in [*range(60), *range(60, len(coded), 97), len(coded) - 1]:
            with pytest.raises(ProtocolError):
                unpacked(coded[:size], MIB)
        with pytest.raises(ProtocolError):
            decoded(coded + b"x", MIB)


def test_changed_messages_are_refused_or_something_of_their_size():
    rng = random.Random(13)
    kinds = some()
    refused = 0
    for _ in range(6_000):
        _, coded = rng.choice(kinds)
        bad = bytearray(coded)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(min(len(bad), rng.choice((16, 64, 1 << 20))))] = rng.getrandbits(8)
        try:
            assert len(unpacked(bytes(bad), MIB)) <= MIB
        except ProtocolError:
            refused += 1
    assert refused > 1_000


@pytest.mark.parametrize("huge", [MIB, (1 << 31) - 1, (1 << 32) - 1])
def test_sizes_that_lie_take_no_memory(huge):
    tracemalloc.start()
    try:
        for data, coded in some():
            refused = 0
            for at in range(4, 40, 4):
                bad = bytearray(coded)
                struct.pack_into("<I", bad, at, huge)
                try:
                    # What is a word of a table, say, is another word then.
                    assert len(decoded(bytes(bad), MIB)) == len(data)
                except ProtocolError:
                    refused += 1
            assert refused >= 2
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_tables_that_a_message_has_not_are_refused():
    blocks = np.array([0, 1, 255], np.uint8)
    places = np.zeros(2 * BLOCK_WORDS, np.uint8)
    tables = Tables(np.zeros((1, 1, 256), np.uint32), blocks, places)
    with pytest.raises(ProtocolError, match="tables that it has not"):
        decoded(with_palette(bytes(3 * 4 * BLOCK_WORDS), tables, Filter()), MIB)
