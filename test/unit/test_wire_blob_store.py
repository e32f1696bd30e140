"""Uploads on disk: kept under their digest, bounded, checked when read, safe to share."""

import os
import subprocess
import sys
from hashlib import sha256

import pytest

from rrto_ros.errors import ConfigError
from rrto_ros.wire.blob_store import BlobStore, BlobWriter


def digest(data):
    return sha256(data).digest()


def files(root):
    return sorted(p for p in root.rglob("*") if p.is_file() and len(p.name) == 64)


def test_what_was_kept_comes_back_in_another_store(tmp_path):
    BlobStore(tmp_path).keep(b"weights")
    other = BlobStore(tmp_path)
    assert other.get(digest(b"weights"), 7) == b"weights"
    assert other.has(digest(b"weights"), 7)
    assert other.statistics()["hits"] == 1


def test_an_unknown_digest_or_a_wrong_length_gives_nothing(tmp_path):
    store = BlobStore(tmp_path)
    store.keep(b"weights")
    assert store.get(digest(b"other"), 5) is None
    assert store.get(digest(b"weights"), 6) is None
    assert not store.has(digest(b"weights"), 6)
    assert store.get(digest(b"weights"), 7) == b"weights"


@pytest.mark.parametrize("damage", [b"Weights", b"weigh", b""])
def test_a_damaged_file_is_removed_and_not_used(tmp_path, damage):
    store = BlobStore(tmp_path)
    store.keep(b"weights")
    files(tmp_path)[0].write_bytes(damage)
    assert store.get(digest(b"weights"), 7) is None
    assert files(tmp_path) == []
    assert store.statistics()["corrupt"] == 1
    store.keep(b"weights")
    assert store.get(digest(b"weights"), 7) == b"weights"


def test_the_least_recently_used_goes_first(tmp_path):
    store = BlobStore(tmp_path, limit_bytes=1000)
    blobs = [bytes([i]) * 300 for i in range(4)]
    for age, blob in enumerate(blobs[:3]):
        store.keep(blob)
        path = next(p for p in files(tmp_path) if p.name == digest(blob).hex())
        os.utime(path, (1000 + age, 1000 + age))
    assert store.get(digest(blobs[0]), 300) == blobs[0]  # used now, so the second is oldest
    store.keep(blobs[3])
    assert not store.has(digest(blobs[1]), 300)
    assert store.has(digest(blobs[0]), 300)
    assert store.has(digest(blobs[3]), 300)
    assert sum(p.stat().st_size for p in files(tmp_path)) <= 1000
    assert store.newest(1) in ([digest(blobs[0])], [digest(blobs[3])])


def test_a_smaller_limit_at_the_next_start_is_kept(tmp_path):
    BlobStore(tmp_path).keep(b"x" * 500)
    store = BlobStore(tmp_path, limit_bytes=100)
    assert files(tmp_path) == []
    store.keep(b"y" * 101)
    assert files(tmp_path) == []


def test_several_processes_share_a_directory(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rrto_ros.wire.blob_store import BlobStore\n"
        "s = BlobStore(Path(sys.argv[1]), 200_000)\n"
        "for i in range(60): s.keep(bytes([i]) * 10_000)\n"
    )
    from rrto_ros.edge.worker_environment import worker_environment

    running = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], env=worker_environment())
        for _ in range(3)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    store = BlobStore(tmp_path, 200_000)
    kept = files(tmp_path)
    assert kept
    assert sum(p.stat().st_size for p in kept) <= 200_000
    for path in kept:
        assert store.get(bytes.fromhex(path.name), 10_000) is not None
    assert not list(tmp_path.rglob(".new-*"))


def test_the_writer_finds_what_it_was_just_given(tmp_path):
    writer = BlobWriter(BlobStore(tmp_path))
    for i in range(20):
        data = bytes([i]) * 100_000
        writer.keep(memoryview(data))
        assert writer.get(digest(data), len(data)) == data


def test_the_writer_drops_what_it_cannot_hold(tmp_path):
    writer = BlobWriter(BlobStore(tmp_path), pending_bytes=10)
    writer.keep(b"x" * 11)
    writer.flush()
    assert files(tmp_path) == []
    assert writer.statistics()["dropped"] == 1


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        BlobStore(tmp_path / "file" / "blobs")
