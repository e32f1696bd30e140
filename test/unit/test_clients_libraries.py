"""What libraries hold for a GPU is read from their fatbins, whole or damaged, in bounded time."""

import struct

import pytest
from support.fatbins import entry, fatbin
from support.installations import ELF, PTX, library

from rrto_ros.clients.libraries import Budget, Contents, contents

TEXT = b".version 8.0\n.target sm_80\n"
HANDSHAKE = bytes.fromhex("d4082055bde6704b8d34ba123c66e1f2")


def both(ptx, *machine_code):
    """A fatbin with PTX for one architecture and machine code for others."""
    return fatbin(*(entry(ELF, b"\x7fELF" + bytes(60), arch=n) for n in machine_code),
                  entry(PTX, TEXT, arch=ptx))  # fmt: skip


def look(tmp_path, data, name="lib.so", seconds=30.0):
    path = tmp_path / name
    path.write_bytes(data)
    return contents([path], Budget(seconds))


def test_all_fatbins_of_a_section_are_found_though_gaps_lie_between_them(tmp_path):
    section = both(90, 75, 80) + bytes(24) + both(75, 86) + fatbin(entry(ELF, b"x" * 8, arch=120))
    found = look(tmp_path, library(nv_fatbin=section))
    assert (found.fatbins, found.damaged) == (3, 0)
    assert found.ptx == {75, 90}
    assert found.machine_code == {75, 80, 86, 120}


def test_compressed_entries_count_without_being_unpacked(tmp_path):
    packed = entry(PTX, b"\xff" * 16, flags=0x8000, raw=1 << 40, compressed=16, arch=90)
    assert look(tmp_path, library(nv_fatbin=fatbin(packed))).ptx == {90}


def test_bytes_of_a_fatbin_outside_its_section_are_not_one(tmp_path):
    assert look(tmp_path, library(rodata=both(90, 75))) == Contents()


@pytest.mark.parametrize(
    ("sections", "runtime"),
    [
        ({"dynstr": b"\0libcudart.so.12\0libc.so.6\0"}, {"libcudart.so.12"}),
        ({"rodata": b"...libcudart.so.13\0"}, {"libcudart.so.13"}),
        ({"rodata": bytes(7) + HANDSHAKE}, {"static"}),
        ({"rodata": b"libcuda.so.1"}, set()),
        ({"text": HANDSHAKE}, set()),
    ],
)
def test_the_cuda_runtime_of_a_library_is_named(tmp_path, sections, runtime):
    assert look(tmp_path, library(**sections)).runtime == runtime


def test_the_runtime_itself_is_no_static_copy(tmp_path):
    found = look(tmp_path, library(rodata=HANDSHAKE), "libcudart.so.12.9.79")
    assert found.runtime == {"libcudart.so.12"}


def test_a_damaged_fatbin_is_counted_and_the_next_one_read(tmp_path):
    damaged = struct.pack("<IHHQ", 0xBA55ED50, 1, 4, 1 << 60)
    found = look(tmp_path, library(nv_fatbin=damaged + both(90)))
    assert (found.fatbins, found.damaged, found.ptx) == (1, 1, {90})


def test_a_library_cut_anywhere_is_read_without_an_error(tmp_path):
    whole = library(nv_fatbin=both(90, 75), rodata=HANDSHAKE, dynstr=b"\0libcudart.so.12\0")
    for length in range(0, len(whole), 5):
        found = look(tmp_path, whole[:length])
        assert found == Contents(), length


@pytest.mark.parametrize("offset", [0x28, 0x3A, 0x3C, 0x3E])
@pytest.mark.parametrize("value", [1, 0x7FFF, 0xFFFF])
def test_a_head_that_points_elsewhere_is_read_without_an_error(tmp_path, offset, value):
    whole = bytearray(library(nv_fatbin=both(90, 75)))
    struct.pack_into("<H", whole, offset, value)
    look(tmp_path, bytes(whole))


def test_one_file_by_two_names_counts_once(tmp_path):
    path, other = tmp_path / "lib.so.1", tmp_path / "lib.so"
    path.write_bytes(library(nv_fatbin=both(90)))
    other.symlink_to(path)
    assert contents([path, other], Budget(30)).fatbins == 1


def test_what_there_was_no_time_for_is_counted(tmp_path):
    found = look(tmp_path, library(nv_fatbin=both(90)), seconds=-1)
    assert (found.fatbins, found.unread) == (0, 1)


def test_a_file_that_is_not_there_holds_nothing(tmp_path):
    assert contents([tmp_path / "none.so"], Budget(30)) == Contents()
