"""PTX is found in text and in fatbins, plain or compressed; damaged images are refused."""

import struct

import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.images import ptx_texts
from rrto_ros.errors import PtxError

TEXT = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }\n"
TEXT += "// x\n" * 40


def entry(kind, payload, flags=0, raw=0, compressed=0):
    padded = payload + bytes(-len(payload) % 8)
    head = struct.pack("<HHIQI", kind, 0x101, 64, len(padded), compressed)
    head += bytes(40 - len(head)) + struct.pack("<QQQ", flags, 0, raw)
    assert len(head) == 64
    return head + padded


def fatbin(*entries):
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


ELF = entry(2, b"\x7fELF" + bytes(60))


def test_text_ends_at_its_nul():
    assert ptx_texts(TEXT.encode() + b"\0junk") == [TEXT]


def test_a_fatbin_gives_its_ptx_and_skips_machine_code():
    assert ptx_texts(fatbin(ELF, entry(1, TEXT.encode()))) == [TEXT]


def test_compressed_ptx_is_unpacked():
    lz4 = pytest.importorskip("lz4.block")
    packed = lz4.compress(TEXT.encode(), store_size=False)
    image = fatbin(ELF, entry(1, packed, 0x2000, len(TEXT), len(packed)))
    assert ptx_texts(image) == [TEXT]
    with pytest.raises(PtxError, match="damaged") as caught:
        ptx_texts(fatbin(entry(1, packed[:20], 0x2000, len(TEXT), 20)))
    assert caught.value.result == CUresult.INVALID_IMAGE


def test_machine_code_alone_is_no_binary_for_this_gpu():
    for image in (b"\x7fELF" + bytes(60), fatbin(ELF)):
        with pytest.raises(PtxError) as caught:
            ptx_texts(image)
        assert caught.value.result == CUresult.NO_BINARY_FOR_GPU


def test_a_fatbin_cut_anywhere_is_refused():
    image = fatbin(ELF, entry(1, TEXT.encode()))
    for cut in range(len(image)):
        with pytest.raises(PtxError):
            ptx_texts(image[:cut])


def test_a_size_that_lies_is_refused():
    huge = fatbin(entry(1, b"x" * 16, 0x2000, 1 << 40, 16))
    with pytest.raises(PtxError) as caught:
        ptx_texts(huge)
    assert caught.value.result == CUresult.INVALID_IMAGE
