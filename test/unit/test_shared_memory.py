"""What killed processes left in shared memory goes; what lives, is another's or no one's stays."""

import fcntl
import os
import time

import pytest

from rrto_ros.ros.shared_memory import YOUNG_S, remove_litter

SEGMENT, PORT = "fastdds_0123456789abcdef", "fastrtps_port7412"


def lay(folder, name, size=1 << 16, age=2 * YOUNG_S):
    """What a process of Fast DDS makes: the thing, its lock and its semaphore."""
    made = [folder / name, folder / f"{name}_el", folder / f"sem.{name}_mutex"]
    for path in made:
        path.write_bytes(bytes(size if path.name == name else 0))
        os.utime(path, (time.time() - age,) * 2)
    return made


@pytest.mark.parametrize("name", [SEGMENT, PORT])
def test_what_nobody_has_locked_goes_whole(tmp_path, name):
    lay(tmp_path, name)
    assert remove_litter(tmp_path) == (1, 1 << 16)
    assert list(tmp_path.iterdir()) == []
    assert remove_litter(tmp_path) == (0, 0)


@pytest.mark.parametrize("name", [SEGMENT, PORT])
def test_what_a_process_has_locked_stays(tmp_path, name):
    made = lay(tmp_path, name)
    with made[1].open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_litter(tmp_path) == (0, 0)
        assert all(path.exists() for path in made)
    assert remove_litter(tmp_path)[0] == 1


def test_what_is_taken_anew_between_two_looks_stays(tmp_path, monkeypatch):
    """Another node removed the litter, and one that lives has made the same port again."""
    made = lay(tmp_path, PORT)
    lock = fcntl.flock

    def meanwhile(handle, operation):
        for path in made:
            path.unlink()
            path.write_bytes(b"new")
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    assert remove_litter(tmp_path) == (0, 0)
    assert [path.read_bytes() for path in made] == [b"new"] * 3


def test_what_is_young_stays_because_its_owner_may_not_have_locked_it_yet(tmp_path):
    made = lay(tmp_path, SEGMENT, age=0)
    assert remove_litter(tmp_path) == (0, 0)
    assert all(path.exists() for path in made)


def test_what_is_of_others_or_looks_alike_stays(tmp_path, monkeypatch):
    names = [
        "fastdds_0123_el", "fastdds_0123456789abcdef", "other_0123456789abcdef_el",
        "fastdds_0123456789abcdef_el.bak", "fastdds_port_el", "fastdds_port7412x_el",
    ]  # fmt: skip
    for name in names:
        lay(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    (tmp_path / f"{SEGMENT}_el").unlink()
    before.remove(tmp_path / f"{SEGMENT}_el")
    assert remove_litter(tmp_path) == (0, 0)
    assert sorted(tmp_path.iterdir()) == before
    made = lay(tmp_path, PORT)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert remove_litter(tmp_path) == (0, 0)
    assert all(path.exists() for path in made)


def test_a_link_in_the_place_of_a_lock_or_a_thing_leads_nowhere(tmp_path):
    shared, private = tmp_path / "shm", tmp_path / "private"
    shared.mkdir()
    private.write_text("mine")
    made = lay(shared, SEGMENT)
    made[1].unlink()
    made[1].symlink_to(private)
    assert remove_litter(shared) == (0, 0)
    other = lay(shared, PORT)
    other[0].unlink()
    other[0].symlink_to(private)
    remove_litter(shared)
    assert private.read_text() == "mine"
    assert other[0].is_symlink()


def test_where_there_is_no_such_folder_there_is_nothing_to_remove(tmp_path):
    assert remove_litter(tmp_path / "none") == (0, 0)
