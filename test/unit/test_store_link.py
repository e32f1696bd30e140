"""A store that another process keeps: what a worker gets, and what a hostile one cannot do."""

import array
import fcntl
import os
import socket
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from rrto_ros.disk_store import DiskStore
from rrto_ros.store_link import DAMAGED, GET, KEEP, PUT, RemoteStore, StoreKeeper

MOST = 1 << 20
A, B = b"a" * 5000, b"b" * 70_000
KEY = sha256(b"a key").hexdigest()
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def key_of(data):
    return sha256(data).hexdigest()


class Kept:
    """A store with its keeper and a worker's end."""

    def __init__(self, folder, *, sealed, origin=b"", limit=1 << 24):
        self.store = DiskStore(folder, limit, "test", sealed=sealed)
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(20)
        self.keeper = StoreKeeper(self.store, ours, sealed=sealed, origin=origin, most_bytes=MOST)
        self.worker = RemoteStore(self.end)

    def raw(self, what, key=KEY, size=0, data=None, seals=SEALS):
        """A request as a hostile worker writes it, with an anonymous file."""
        files = []
        if data is not None:
            file = os.memfd_create("entry", os.MFD_ALLOW_SEALING)
            os.write(file, data)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
        self.end.sendmsg([struct.pack("<B32sQ", what, bytes.fromhex(key), size)], files)
        if data is not None:
            os.close(file)

    def close(self):
        self.end.close()
        self.keeper.join(20)


@pytest.fixture(params=[False, True], ids=["by content", "sealed"])
def kept(request, tmp_path):
    made = Kept(tmp_path / "store", sealed=request.param)
    yield made
    made.close()


def stored(kept, data):
    """Store data; its key."""
    if kept.store._seal_bytes:
        kept.worker.put(KEY, data)
        return KEY
    kept.worker.keep(data)
    return key_of(data)


@pytest.mark.parametrize("data", [A, B, b"x" * (MOST // 2), bytearray(A), memoryview(B)[7:]])
def test_what_a_worker_stores_it_gets_again(kept, data):
    key = stored(kept, data)
    assert kept.worker.size(key) == len(data)
    assert kept.worker.get(key) == bytes(data)
    assert kept.store.get(key) == bytes(data)
    assert kept.worker.size(key_of(b"other")) is kept.worker.get(key_of(b"other")) is None
    counts = kept.worker.statistics()
    assert (counts["hits"], counts["misses"], counts["stored"]) == (1, 1, 1)
    assert kept.keeper.refused == 0


def test_one_workers_entry_serves_the_next(kept, tmp_path):
    key = stored(kept, A)
    assert kept.worker.get(key) == A  # it is stored then
    other = Kept(tmp_path / "store", sealed=bool(kept.store._seal_bytes))
    assert other.worker.get(key) == A
    other.close()


def test_what_one_origin_stores_under_a_key_another_does_not_find(tmp_path):
    hostile, victim, alike = (
        Kept(tmp_path / "store", sealed=True, origin=name) for name in (b"evil", b"good", b"good")
    )
    hostile.worker.put(KEY, b"poison")
    assert hostile.worker.get(KEY) == b"poison"
    assert victim.worker.get(KEY) is victim.worker.size(KEY) is None
    victim.worker.put(KEY, A)
    assert victim.worker.get(KEY) == alike.worker.get(KEY) == A
    assert hostile.worker.get(KEY) == b"poison"
    for one in (hostile, victim, alike):
        one.close()


def test_a_content_under_another_ones_key_cannot_be_stored(tmp_path):
    kept = Kept(tmp_path / "store", sealed=False)
    kept.raw(PUT, key_of(A), len(B), B)
    assert kept.worker.get(key_of(A)) is None
    # What is kept goes under the hash of what was read, whatever the worker calls it.
    kept.raw(KEEP, key_of(A), len(B), B)
    assert kept.worker.get(key_of(A)) is None
    assert kept.worker.get(key_of(B)) == B
    kept.close()
    assert kept.keeper.refused == 1


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


HOSTILE = {
    "no such request": {"what": 9},
    "no file": {"what": PUT, "size": 10},
    "a file that may be cut while it is read": {"what": PUT, "size": 5000, "data": A, "seals": 0},
    "a file that may be changed": {
        "what": PUT, "size": 5000, "data": A, "seals": fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW,
    },
    "more than there is": {"what": PUT, "size": 6000, "data": A},
    "less than there is": {"what": PUT, "size": 4000, "data": A},
    "nothing": {"what": PUT, "size": 0, "data": b""},
    "more than is taken": {"what": PUT, "size": MOST + 1, "data": bytes(MOST + 1)},
    "a size beyond every memory": {"what": PUT, "size": (1 << 64) - 1, "data": A},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_and_counted_and_the_next_one_answered(kept, name):
    request = dict(HOSTILE[name])
    if request["what"] == PUT and not kept.store._seal_bytes:
        request["what"] = KEEP
    kept.raw(**request)
    assert kept.worker.get(KEY) is None
    assert kept.worker.get(stored(kept, A)) == A
    assert kept.keeper.refused == 1


def test_packets_of_any_form_and_files_of_any_kind_are_refused(kept, tmp_path):
    pipe = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    before = descriptors()
    for data in (b"x", b"x" * 40, b"x" * 41, b"x" * 42, b"x" * 5000):
        for files in ([], [pipe[0]], [folder], [pipe[0], pipe[1]]):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
            kept.end.sendmsg([data], [rights] if files else [])
    head = struct.pack("<B32sQ", KEEP if not kept.store._seal_bytes else PUT, bytes(32), 5)
    for file in (pipe[0], folder):
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
        kept.end.sendmsg([head], [rights])
    assert kept.worker.get(stored(kept, A)) == A
    assert kept.keeper.refused == 22
    kept.worker.size(KEY)  # the keeper has closed what it answered before
    assert descriptors() == before
    for file in (*pipe, folder):
        os.close(file)


def test_a_damaged_upload_is_not_used_and_goes(tmp_path):
    kept = Kept(tmp_path / "store", sealed=False)
    kept.store.keep(A)
    (path,) = (tmp_path / "store").glob("??/*")
    path.write_bytes(b"A" + A[1:])
    assert kept.worker.get(key_of(A)) is None
    assert kept.worker.statistics()["corrupt"] == 1
    assert kept.worker.size(key_of(A)) is None
    assert not path.exists()
    # A worker that only says that an entry is damaged has no entry removed.
    kept.worker.keep(B)
    kept.raw(DAMAGED, key_of(B))
    assert kept.worker.get(key_of(B)) == B
    kept.close()


def test_an_entry_is_given_to_read_only(tmp_path):
    kept = Kept(tmp_path / "store", sealed=False)
    kept.store.keep(A)
    kept.raw(GET, key_of(A))
    _, extra, _, _ = kept.end.recvmsg(64, socket.CMSG_SPACE(64))
    (file,) = struct.unpack("i", extra[0][2][:4])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(file, b"x")
    os.close(file)
    kept.close()


def test_a_keeper_that_is_gone_costs_the_cache_and_nothing_else(kept):
    kept.keeper._end.shutdown(socket.SHUT_RDWR)
    assert kept.worker.get(KEY) is kept.worker.size(KEY) is None
    kept.worker.put(KEY, A)
    kept.worker.keep(A)
    assert kept.worker.statistics()["failed"] == 4


def test_an_answer_that_no_keeper_gives_is_no_entry(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = RemoteStore(theirs)
    ours.send(b"x")
    assert worker.size(KEY) is None
    assert worker.statistics()["failed"] == 1
    ours.close()
    theirs.close()
