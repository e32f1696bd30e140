"""PTX is found in text and in fatbins, plain or compressed; damaged images are refused."""

import contextlib
import importlib
import struct
import sys

import pytest
from support.fatbins import FAMILY, ONLY_THIS, Kernel, cubin, entry, fatbin, machine

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cubins import Cubin
from rrto_ros.devices.images import contents, machine_code, ptx_text
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


def head_of(abi, flags):
    """The head of a cubin as NVRTC 12 (abi 7) and 13 (abi 8) write it."""
    head = b"\x7fELF\2\1\1" + bytes([0x41 if abi == 8 else 0x33, abi]) + bytes(7)
    return head + struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 0, flags, 64, 0, 0, 64, 0, 0)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (head_of(8, 0x6005A04), "machine code for sm_90 and"),
        (head_of(7, 0x5A055A), "for sm_90 and"),
        (head_of(8, 0x6007902), "for sm_121 and"),
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


CODES = [machine(a, (f"k{a}",), seed=a) for a in (75, 80, 86, 90)]


@pytest.mark.parametrize(
    ("entries", "capability", "kernel"),
    [
        (CODES, (8, 9), "k86"),
        (CODES, (8, 0), "k80"),
        (CODES, (7, 5), "k75"),
        (CODES, (7, 0), None),
        (CODES, (10, 0), None),
        ([machine(90, ("a",), flags=ONLY_THIS), machine(90, ("plain",))], (9, 0), "a"),
        (
            [machine(100, ("a",), flags=ONLY_THIS), machine(100, ("f",), flags=FAMILY)],
            (10, 3),
            "f",
        ),
        ([machine(86, ("k86",), pack="zstd")], (8, 9), "k86"),
        ([machine(86, ("k86",), pack="lz4")], (8, 9), "k86"),
    ],
)
def test_of_machine_code_a_device_takes_the_best_of_its_major_version(entries, capability, kernel):
    code = machine_code(fatbin(ptx_for("sm_50"), *entries), capability)
    assert (code and [k.name for k in Cubin(code).kernels()]) == (kernel and [kernel])


def test_a_cubin_of_another_architecture_is_no_binary_for_this_gpu():
    assert machine_code(cubin(80, ["k"]), (8, 9)) == cubin(80, ["k"])
    assert machine_code(TEXT.encode(), (8, 9)) is None
    with pytest.raises(PtxError, match="machine code for sm_90; the device is sm_89") as caught:
        machine_code(cubin(90, ["k"]), (8, 9))
    assert caught.value.result == CUresult.NO_BINARY_FOR_GPU


def test_kernels_and_variables_are_read_from_machine_code():
    kernels = [Kernel("b", ((0, 8), (8, 200)), 40, 512, 128), Kernel("a", (), 16)]
    found = Cubin(cubin(90, kernels, [("v", 4), ("table", 256)], filler=100))
    assert [(k.name, k.params, k.param_bytes) for k in found.kernels()] == [
        ("a", (), 0),
        ("b", ((0, 8), (8, 200)), 208),
    ]
    assert [(k.attributes[0], k.attributes[1], k.attributes[4]) for k in found.kernels()] == [
        (1024, 0, 16),
        (128, 512, 40),
    ]
    assert [(v.name, v.bytes) for v in found.variables()] == [("v", 4), ("table", 256)]
    assert found.architecture == 90


def test_machine_code_that_was_damaged_is_refused_or_read_and_never_crashes():
    whole = cubin(90, ["first", "second"], [("v", 4)], filler=50)
    for cut in range(0, len(whole), 7):
        with contextlib.suppress(PtxError):
            Cubin(whole[:cut]).kernels()
    for at in range(len(whole)):
        image = bytearray(whole)
        image[at] ^= 0xFF
        with contextlib.suppress(PtxError):
            damaged = Cubin(bytes(image))
            damaged.kernels()
            damaged.variables()
