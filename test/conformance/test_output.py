"""What kernels print, and assertions that do not hold (device cpu)."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from support.printing import PTX

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.output import BUFFER_BYTES, KernelMemory, KernelOutput, formatted
from rrto_ros.errors import CudaError

ANYWHERE = KernelMemory(int)


@pytest.fixture
def printing(harness):
    if harness.device.info.kind != "cpu":
        pytest.skip("a GPU's driver prints in the server's process")
    return harness


def test_lines_come_in_the_order_of_blocks_and_threads(printing):
    loaded = printing.load(PTX)
    values = np.arange(70, dtype=np.float64) / 4
    printing.launch(loaded, "tell", (35, 1, 1), (2, 1, 1), (values, np.uint32(70)))
    printing.launch(loaded, "tell", (1, 1, 1), (2, 1, 1), (values, np.uint32(1)))
    lines = printing.device.take_output()[0].decode().splitlines()
    assert lines == [f"thread {i}: {i / 4:.2f} of 70" for i in range(70)] + ["thread 0: 0.00 of 1"]
    assert printing.device.take_output() == (b"", b"")


def test_an_assertion_that_does_not_hold_says_where_and_fails_the_launch(printing):
    loaded = printing.load(PTX)
    printing.launch(loaded, "insist", (3, 1, 1), (4, 2, 1), (np.uint32(99),))
    with pytest.raises(CudaError, match="insist") as raised:
        printing.launch(loaded, "insist", (3, 1, 1), (4, 2, 1), (np.uint32(13),))
    assert raised.value.result is CUresult.ASSERT
    printed, text = (part.decode() for part in printing.device.take_output())
    assert not printed
    assert text.splitlines()[0] == (
        "kernel.cu:7: insist: block: [1,0,0], thread: [1,1,0] Assertion `n != 13` failed."
    )


CASES = [
    (b"%d %i %u", "iiI", (-1, 7, 4294967295)),
    (b"%5d|%-5d|%05d|%+d|% d", "iiiii", (42, 42, 42, 42, 42)),
    (b"%x %X %#x %o %#o", "IIIII", (255, 255, 255, 8, 8)),
    (b"%lld %llu %ld %zu", "qQqQ", (-(1 << 40), 1 << 63, -5, 5)),
    (b"%d%lld", "iq", (1, 2)),
    (b"%f %e %g %.3f %8.2f", "ddddd", (1.5, 1e10, 0.0001, 3.14159, 2.5)),
    (b"%c%c %%", "ii", (65, 66)),
    (b"%hhd %hd %hu", "iiI", (300, 70000, 70000)),
    (b"%*d %.*f", "iiid", (6, 42, 2, 1.23456)),
    (b"nothing", "", ()),
]


@pytest.mark.parametrize(("pattern", "kinds", "values"), CASES, ids=[c[0].decode() for c in CASES])
def test_a_pattern_is_formatted_as_the_c_library_does(pattern, kinds, values):
    packed = b""
    for kind, value in zip(kinds, values, strict=True):
        size = struct.calcsize(kind)
        packed += bytes(-len(packed) % size) + struct.pack(f"<{kind}", value)
    arguments = ctypes.create_string_buffer(packed + b"\0")
    out = ctypes.create_string_buffer(256)
    types = {
        "i": ctypes.c_int,
        "I": ctypes.c_uint,
        "q": ctypes.c_int64,
        "Q": ctypes.c_uint64,
        "d": ctypes.c_double,
    }
    ctypes.CDLL(None).snprintf(
        out,
        ctypes.c_size_t(256),
        pattern,
        *(types[k](v) for k, v in zip(kinds, values, strict=True)),
    )
    assert formatted(pattern, ctypes.addressof(arguments), ANYWHERE) == (out.value, len(kinds))


def test_text_and_pointers():
    text = ctypes.create_string_buffer(b"words")
    packed = ctypes.create_string_buffer(struct.pack("<QQQ", ctypes.addressof(text), 0, 4096))
    assert formatted(b"%s|%s|%p", ctypes.addressof(packed), ANYWHERE) == (
        b"words|(null)|0x1000",
        3,
    )


def test_output_that_nobody_takes_is_bounded_and_the_newest_stays():
    output = KernelOutput(int)
    called = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 9)(output.address)
    line = ctypes.create_string_buffer(b"x" * 999 + b"\n")
    context = (ctypes.c_int64 * 16)()
    for turn in range(4000):
        output.begins(one=True)
        called(0, ctypes.addressof(line), 0, 0, 0, turn, 0, 1, ctypes.addressof(context))
    text, errors = output.take()
    assert not errors
    assert BUFFER_BYTES - 1000 < len(text) <= BUFFER_BYTES
    assert len(text) + output.lost == 4_000_000
