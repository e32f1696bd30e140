"""Floats in a few bits: owns the bytes of quantised memory, both ways (docs/wire_format.md).

Uniform affine quantisation, block by block: with b bits a block has the 2^b values that lie evenly
between its least and its greatest, and each float becomes the nearest of them. So a float is off
by half a step of its own block at most (`step`). A block that holds something that is not finite,
or that spans more or less than a float can say, is sent as it is.

Over the elements come blocks of 1,024 and what is left; blocks that lie beside each other are
worked on together.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import Buffer

Floats = npt.NDArray[np.float32]
_Codes = npt.NDArray[np.uint16]

BLOCK = 1024
"""Elements of a block."""
WIDTHS = (4, 6, 8, 10, 12, 16)
"""Bits that an element may have."""
KINDS: dict[str, np.dtype[np.generic]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
}
"""Types of elements."""
NAMES = tuple(KINDS)
"""The same, by their number on the wire."""
MOST_ELEMENTS = 16 << 20
"""Of one piece of memory."""
_AT_ONCE = 256
"""Blocks that are worked on together: what is needed meanwhile stays small."""
_SCALED, _AS_IT_IS = 0, 1
_LEAST_SPAN = np.float32(1e-30)
_HEAD = np.dtype([("low", "<f4"), ("high", "<f4")])


def step(low: float, high: float, bits: int) -> float:
    """How far neighbouring values lie apart in a block: an element is off by half of that."""
    return (high - low) / ((1 << bits) - 1)


def encode(content: Buffer, kind: str, bits: int) -> bytes:
    """What stands for elements on the wire.

    Args:
        content: Whole elements.
        kind: Their type, of `KINDS`.
        bits: Of `WIDTHS`.

    Raises:
        ValueError: There is no such type or width, or the content has not whole elements.
    """
    if kind not in KINDS or bits not in WIDTHS:
        raise ValueError(f"type {kind!r} in {bits} bits; want {NAMES} in {WIDTHS} bits")
    size = KINDS[kind].itemsize
    if memoryview(content).nbytes % size:
        raise ValueError(f"{memoryview(content).nbytes} bytes are no whole {kind}")
    elements = np.frombuffer(content, KINDS[kind])
    return b"".join(
        part for some in _groups(elements) for part in _packed(some, some.astype(np.float32), bits)
    )


def decode(data: Buffer, kind: str, bits: int, count: int) -> bytes:
    """The content that `encode` was given, each element as near as its block's step allows.

    Args:
        data: As it came.
        kind: Type of the elements.
        bits: Of each.
        count: Elements.

    Raises:
        ProtocolError: It is not what so many elements take.
    """
    if kind not in KINDS or bits not in WIDTHS or not 0 < count <= MOST_ELEMENTS:
        raise ProtocolError(
            f"quantised memory: {count} elements of type {kind!r} in {bits} bits; want up to "
            f"{MOST_ELEMENTS} of {', '.join(NAMES)} in {WIDTHS} bits"
        )
    view = memoryview(data).cast("B")
    out = np.empty(count, KINDS[kind])
    at = 0
    for some in _groups(out):
        at = _unpack(view, at, some, bits)
    if at != len(view):
        raise ProtocolError(f"quantised memory: {len(view) - at} bytes after its last block")
    return out.tobytes()


def _groups(elements: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    """Elements as [blocks, elements of one]: whole blocks first, then what is left as one."""
    whole = len(elements) // BLOCK * BLOCK
    for first in range(0, whole, _AT_ONCE * BLOCK):
        yield elements[first : min(whole, first + _AT_ONCE * BLOCK)].reshape(-1, BLOCK)
    if whole < len(elements):
        yield elements[whole:].reshape(1, -1)


def _packed(some: npt.NDArray[np.generic], floats: Floats, bits: int) -> Iterator[bytes]:
    """Modes of blocks, the ends of those that are scaled, their codes, and the others."""
    low, high = floats.min(axis=1), floats.max(axis=1)
    with np.errstate(all="ignore"):
        span = high - low
        # A block without any span has codes that are all 0.
        scaled = np.isfinite(span) & ((span == 0) | (span >= _LEAST_SPAN))
    yield np.where(scaled, _SCALED, _AS_IT_IS).astype(np.uint8).tobytes()
    if scaled.any():
        head = np.empty(int(scaled.sum()), _HEAD)
        head["low"], head["high"] = low[scaled], high[scaled]
        yield head.tobytes()
        most = np.float32((1 << bits) - 1)
        scale = np.divide(most, span[scaled], out=np.zeros(len(head), np.float32),
                          where=span[scaled] > 0)  # fmt: skip
        codes = (floats[scaled] - head["low"][:, None]) * scale[:, None] + np.float32(0.5)
        # What is rounded up at the greatest value would be one too many.
        yield _narrow(np.minimum(codes, most).astype(np.uint16), bits)
    if not scaled.all():
        yield some[~scaled].tobytes()


def _unpack(data: memoryview, at: int, out: npt.NDArray[np.generic], bits: int) -> int:
    """Fill blocks from data; returns where what follows begins."""
    blocks, length = out.shape
    modes = np.frombuffer(_taken(data, at, blocks), np.uint8)
    at += blocks
    if modes.max() > _AS_IT_IS:
        raise ProtocolError(f"quantised memory: a block of mode {modes.max()}, want 0 or 1")
    scaled = modes == _SCALED
    count = int(scaled.sum())
    if count:
        head = np.frombuffer(_taken(data, at, count * _HEAD.itemsize), _HEAD)
        at += count * _HEAD.itemsize
        low, high = head["low"], head["high"]
        with np.errstate(all="ignore"):
            span = high - low
        if not (np.isfinite(span) & (span >= 0)).all():
            raise ProtocolError("quantised memory: a block whose ends are no finite range")
        size = _bytes_of(count * length, bits)
        codes = _wide(_taken(data, at, size), count * length, bits)
        at += size
        step_of = (span / np.float32((1 << bits) - 1))[:, None]
        values = low[:, None] + codes.reshape(count, length).astype(np.float32) * step_of
        # Rounding must not lead out of the block's range: a float16 may not hold it.
        out[scaled] = np.minimum(values, high[:, None]).astype(out.dtype)
    if count < blocks:
        size = (blocks - count) * length * out.dtype.itemsize
        raw = np.frombuffer(_taken(data, at, size), out.dtype)
        out[~scaled] = raw.reshape(blocks - count, length)
        at += size
    return at


def _taken(data: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(data):
        raise ProtocolError(
            f"quantised memory: {len(data) - at} bytes are left where {size} are wanted"
        )
    return data[at : at + size]


def _group(bits: int) -> tuple[int, int]:
    """Codes that fill whole bytes together, and how many these are."""
    codes = 8 // gcd(8, bits)
    return codes, codes * bits // 8


def _bytes_of(count: int, bits: int) -> int:
    codes, size = _group(bits)
    return -(-count // codes) * size


def _narrow(codes: _Codes, bits: int) -> bytes:
    """Codes one after the other, the lowest bits first."""
    per, size = _group(bits)
    flat = codes.reshape(-1)
    if bits in (8, 16):
        return flat.astype(f"<u{size}").tobytes()
    if bits == 4:
        flat = np.pad(flat.astype(np.uint8), (0, len(flat) % 2))
        return bytes((flat[::2] | flat[1::2] << np.uint8(4)).tobytes())
    rows = np.pad(flat, (0, -len(flat) % per)).reshape(-1, per)
    words = rows[:, 0].astype("<u8")
    for k in range(1, per):
        words |= rows[:, k].astype("<u8") << np.uint64(k * bits)
    return words.view(np.uint8).reshape(-1, 8)[:, :size].tobytes()


def _wide(data: memoryview, count: int, bits: int) -> npt.NDArray[np.unsignedinteger]:
    per, size = _group(bits)
    if bits in (8, 16):
        return np.frombuffer(data, f"<u{size}")
    if bits == 4:
        pairs = np.frombuffer(data, np.uint8)
        both = np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=1)
        return both.reshape(-1)[:count]
    rows = np.frombuffer(data, np.uint8).reshape(-1, size)
    words = np.zeros(len(rows), np.uint64)
    for k in range(size):
        words |= rows[:, k].astype(np.uint64) << np.uint64(8 * k)
    mask = np.uint64((1 << bits) - 1)
    out = np.empty((len(rows), per), np.uint16)
    for k in range(per):
        out[:, k] = (words >> np.uint64(k * bits)) & mask
    return out.reshape(-1)[:count]
