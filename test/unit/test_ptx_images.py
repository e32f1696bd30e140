"""PTX is found in text and in fatbins, plain or compressed; damaged images are refused."""

import importlib
import struct
import sys

import pytest
from support.installations import entry, fatbin

from rrto_ros.api.results import CUresult
from rrto_ros.devices.images import contents, ptx_text
from rrto_ros.errors import PtxError

TEXT = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }\n"
TEXT += "// x\n" * 40
HOST = (12, 1)


ELF = entry(2, b"\x7fELF" + bytes(60))


def test_text_ends_at_its_nul():
    assert ptx_text(TEXT.encode() + b"\0junk", HOST) == TEXT


def test_a_fatbin_gives_its_ptx_and_skips_machine_code():
    assert ptx_text(fatbin(ELF, entry(1, TEXT.encode())), HOST) == TEXT


def test_compressed_ptx_is_unpacked():
    lz4 = pytest.importorskip("lz4.block")
    packed = lz4.compress(TEXT.encode(), store_size=False)
    image = fatbin(ELF, entry(1, packed, 0x2000, len(TEXT), len(packed)))
    assert ptx_text(image, HOST) == TEXT
    with pytest.raises(PtxError, match="damaged") as caught:
        ptx_text(fatbin(entry(1, packed[:20], 0x2000, len(TEXT), 20)), HOST)
    assert caught.value.result == CUresult.INVALID_IMAGE


def test_ptx_as_nvcc_of_cuda_13_packs_it_is_unpacked():
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = importlib.import_module(name)
    packed = zstd.compress(TEXT.encode())

    def image(data, raw=None):
        return fatbin(ELF, entry(1, data, 0x8000, raw or len(TEXT), len(data)))

    assert ptx_text(image(packed), HOST) == TEXT
    assert contents(image(packed + bytes(5)))[1] == TEXT.encode()
    for wrong in (image(packed[:20]), image(packed, 9), image(b"no frame at all")):
        with pytest.raises(PtxError, match="damaged") as caught:
            ptx_text(wrong, HOST)
        assert caught.value.result == CUresult.INVALID_IMAGE


def cubin(abi, flags):
    """The head of a cubin as NVRTC 12 (abi 7) and 13 (abi 8) write it."""
    head = b"\x7fELF\2\1\1" + bytes([0x41 if abi == 8 else 0x33, abi]) + bytes(7)
    return head + struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 0, flags, 64, 0, 0, 64, 0, 0)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (cubin(8, 0x6005A04), "machine code for sm_90 and"),
        (cubin(7, 0x5A055A), "for sm_90 and"),
        (cubin(8, 0x6007902), "for sm_121 and"),
        (b"\x7fELF" + bytes(60), "machine code and"),
        (b"\x7fELF", "machine code and"),
        (fatbin(ELF), "machine code and"),
        (
            fatbin(entry(2, b"\x7fELF", arch=80), entry(2, b"\x7fELF", arch=75)),
            "for sm_75, sm_80 and",
        ),
    ],
)
def test_machine_code_alone_is_no_binary_for_this_gpu_and_the_remedy_is_named(image, named):
    with pytest.raises(PtxError, match=named) as caught:
        ptx_text(image, HOST)
    assert caught.value.result == CUresult.NO_BINARY_FOR_GPU
    for step in ("`rrto run` with RRTO_STAND_INS unset", "~/.triton", "code=compute_"):
        assert step in caught.value.detail


def test_a_fatbin_cut_anywhere_is_refused():
    image = fatbin(ELF, entry(1, TEXT.encode()))
    for cut in range(len(image)):
        with pytest.raises(PtxError):
            ptx_text(image[:cut], HOST)


def test_a_size_that_lies_is_refused():
    huge = fatbin(entry(1, b"x" * 16, 0x2000, 1 << 40, 16))
    with pytest.raises(PtxError) as caught:
        ptx_text(huge, HOST)
    assert caught.value.result == CUresult.INVALID_IMAGE


def ptx_for(target):
    text = TEXT.replace("sm_80", target)
    return entry(1, text.encode(), arch=int(target[3:].rstrip("af")))


@pytest.mark.parametrize(
    ("targets", "capability", "best"),
    [
        (["sm_52", "sm_80", "sm_70"], (12, 1), "sm_80"),
        (["sm_52", "sm_80", "sm_70"], (7, 5), "sm_70"),
        (["sm_120", "sm_121"], (12, 0), "sm_120"),
        (["sm_80", "sm_90a"], (12, 1), "sm_80"),
        (["sm_80", "sm_90a"], (9, 0), "sm_90a"),
        (["sm_80", "sm_120f"], (12, 1), "sm_120f"),
        (["sm_80", "sm_100f"], (12, 1), "sm_80"),
    ],
)
def test_of_several_ptx_the_best_for_the_device_is_taken(targets, capability, best):
    text = ptx_text(fatbin(ELF, *(ptx_for(t) for t in targets)), capability)
    assert f".target {best}\n" in text


def test_ptx_for_later_devices_only_is_no_binary_for_this_gpu():
    with pytest.raises(PtxError, match="architectures 90, 120") as caught:
        ptx_text(fatbin(ptx_for("sm_90"), ptx_for("sm_120")), (8, 9))
    assert caught.value.result == CUresult.NO_BINARY_FOR_GPU


def test_plain_text_is_taken_whatever_its_target():
    assert ".target sm_121a" in ptx_text(TEXT.replace("sm_80", "sm_121a").encode(), (7, 5))
