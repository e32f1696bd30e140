"""Files kept on disk: whole, what their key says, bounded, private, and never needed."""

import contextlib
import errno
import hmac
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from rrto_ros import own_files
from rrto_ros.disk_store import DiskStore, cache_directory, opened, write_whole
from rrto_ros.errors import ConfigError

A, B = b"a" * 100, b"b" * 100
KINDS = [False, True]


def make(folder, limit=1 << 20, *, sealed=False):
    return DiskStore(folder, limit, "test", sealed=sealed)


def key_of(data):
    return sha256(data).hexdigest()


def place(folder, key):
    return folder / key[:2] / key


def child(code, *arguments, **options):
    """A process that runs `code` with what this module has."""
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    words = [sys.executable, "-c", setup + "from test_disk_store import *\n" + code]
    return subprocess.Popen(
        [*words, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def results(processes):
    """What each printed."""
    ended = [process.communicate(timeout=60) for process in processes]
    for process, (_, err) in zip(processes, ended, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in ended]


# ---- where


def test_the_place_is_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "rrto"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_directory() == tmp_path / "other" / "rrto"


def no_home(monkeypatch):
    def unknown(_):
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_user_without_a_home_is_told_and_nothing_is_kept(monkeypatch, tmp_path):
    no_home(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="HOME"):
        cache_directory()
    lines = []
    assert opened(lambda *_: pytest.fail("opened"), "blobs", None, 1, lines.append) is None
    assert len(lines) == 1
    assert "blobs are not kept on disk" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_the_package_or_the_runtime_folder_has_the_built_files(monkeypatch):
    from rrto_ros.runtime_files import runtime_folder
    from rrto_ros.shim.build import SHIM, _places

    no_home(monkeypatch)
    assert list(_places("0" * 64)) == [SHIM / "lib", runtime_folder() / "shim" / ("0" * 16)]


@pytest.mark.parametrize(("strict", "named"), [(True, True), (True, False), (False, True)])
def test_only_a_path_of_the_users_that_can_be_no_directory_is_an_error(
    monkeypatch, tmp_path, strict, named
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lines = []

    def open_it():
        directory = tmp_path / "file" / "blobs" if named else None
        return opened(lambda *args: DiskStore(*args, "test"), "blobs", directory, 1, lines.append,
                      strict=strict)  # fmt: skip

    if strict and named:
        with pytest.raises(ConfigError, match="Not a directory"):
            open_it()
    else:
        assert open_it() is None
        assert len(lines) == 1


def test_a_limit_of_nothing_makes_no_store_and_no_line(tmp_path):
    lines = []
    assert opened(make, "blobs", tmp_path / "blobs", 0, lines.append) is None
    assert lines == list(tmp_path.iterdir()) == []


def test_only_the_user_can_read_what_is_made(tmp_path):
    before = os.umask(0)
    try:
        store = make(tmp_path / "new" / "deeper")
        store.put(key_of(A), A)
        store.look()
    finally:
        os.umask(before)
    found = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(found) == 5
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}


# ---- integrity

DAMAGES = {
    "cut": lambda data, _: data[:-1],
    "cut to a few bytes": lambda data, _: data[:5],
    "empty": lambda data, _: b"",
    "grown": lambda data, _: data + b"x",
    "first bit": lambda data, _: bytes([data[0] ^ 1]) + data[1:],
    "last bit": lambda data, _: data[:-1] + bytes([data[-1] ^ 128]),
    "another's": lambda _, other: other,
}


@pytest.mark.parametrize("sealed", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_what_its_key_says_is_refused_and_removed(tmp_path, damage, sealed):
    store = make(tmp_path, sealed=sealed)
    for data in (A, B):
        store.put(key_of(data), data)
    path = place(tmp_path, key_of(A))
    other = place(tmp_path, key_of(B)).read_bytes()
    path.write_bytes(DAMAGES[damage](path.read_bytes(), other))
    assert store.get(key_of(A)) is None
    assert not path.exists()
    assert store.statistics()["corrupt"] == 1
    assert store.get(key_of(B)) == B
    store.put(key_of(A), A)
    assert store.get(key_of(A)) == A


@pytest.mark.parametrize("sealed", KINDS)
def test_entries_that_changed_names_are_both_refused(tmp_path, sealed):
    store = make(tmp_path, sealed=sealed)
    for data in (A, B):
        store.put(key_of(data), data)
    first, second = place(tmp_path, key_of(A)), place(tmp_path, key_of(B))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    assert store.get(key_of(A)) is store.get(key_of(B)) is None
    assert not first.exists()
    assert not second.exists()


def test_an_empty_file_under_the_hash_of_nothing_is_no_sealed_entry(tmp_path):
    store = make(tmp_path, sealed=True)
    path = place(tmp_path, key_of(b""))
    path.parent.mkdir()
    path.write_bytes(b"")
    assert store.get(key_of(b"")) is None


def test_what_another_user_wrote_is_neither_used_nor_counted_as_there(tmp_path, monkeypatch):
    store = make(tmp_path)
    store.put(key_of(A), A)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert store.size(key_of(A)) is None
    assert store.get(key_of(A)) is None
    assert not place(tmp_path, key_of(A)).exists()
    monkeypatch.undo()
    store.put(key_of(A), A)
    assert store.get(key_of(A)) == A


def test_who_has_not_the_secret_seals_no_entry(tmp_path):
    """An attacker who may write there, knows all keys and how seals are made."""
    store, elsewhere = make(tmp_path / "a", sealed=True), make(tmp_path / "b", sealed=True)
    key = key_of(b"a key")
    plain = sha256(b"rrto entry 1 " + key.encode() + B).digest()
    unkeyed = hmac.new(b"", b"rrto entry 2 " + key.encode() + B, sha256).digest()
    elsewhere.put(key, B)
    other = place(tmp_path / "b", key).read_bytes()
    for planted in (B, plain + B, unkeyed + B, sha256(B).digest() + B, bytes(32) + B, other):
        store.put(key, A)
        path = place(tmp_path / "a", key)
        path.write_bytes(planted)
        assert store.get(key) is None
        assert not path.exists()
    assert elsewhere.get(key) == B
    store.put(key, A)
    assert make(tmp_path / "a", sealed=True).get(key) == A


@pytest.mark.parametrize("fault", ["open to others", "short", "long", "a link", "another user's"])
def test_a_secret_that_others_may_know_is_none(tmp_path, monkeypatch, fault):
    key = key_of(b"a key")
    make(tmp_path / "store", sealed=True).put(key, A)
    secret = tmp_path / "store" / ".secret"
    known = secret.read_bytes()
    assert (len(known), secret.stat().st_mode & 0o777) == (32, 0o600)
    if fault == "open to others":
        secret.chmod(0o604)
    elif fault == "another user's":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(secret, 4242, 4242)
    elif fault == "a link":
        (tmp_path / "known").write_bytes(known)
        secret.unlink()
        secret.symlink_to(tmp_path / "known")
    else:
        secret.write_bytes(known[:-1] if fault == "short" else known + b"x")
        secret.chmod(0o600)
    store = make(tmp_path / "store", sealed=True)
    assert store.get(key) is None
    store.put(key, A)
    assert make(tmp_path / "store", sealed=True).get(key) == A
    assert secret.read_bytes() != known
    assert (secret.lstat().st_uid, secret.lstat().st_mode & 0o777) == (os.geteuid(), 0o600)


def test_processes_that_begin_at_once_have_one_secret(tmp_path):
    code = "store = make(Path(sys.argv[1]), sealed=True); print(store._secret.hex())"
    secrets = {out.strip() for out in results([child(code, tmp_path / "s") for _ in range(4)])}
    assert secrets == {(tmp_path / "s" / ".secret").read_bytes().hex()}
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".secret"]


@pytest.mark.parametrize("sealed", KINDS)
def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch, sealed):
    make(tmp_path / "store", sealed=sealed).put(key_of(A), A)
    if os.geteuid():
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    else:
        os.chown(tmp_path / "store", 4242, 4242)
    with pytest.raises(ConfigError, match="belongs to user"):
        make(tmp_path / "store", sealed=sealed)
    lines = []
    assert opened(make, "kernels", tmp_path / "store", 1 << 20, lines.append) is None
    assert "kernels are not kept on disk" in lines[0]


def test_a_folder_that_others_may_write_is_not_used_unless_it_is_a_store_which_is_closed(
    tmp_path, monkeypatch
):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "notes").write_text("")
    shared.chmod(0o1777)
    with pytest.raises(ConfigError, match="other users may write there"):
        make(shared)
    (shared / "notes").unlink()
    monkeypatch.setattr(own_files, "_FOR_ALL", {shared})
    with pytest.raises(ConfigError, match="other users may write there"):
        make(shared)  # empty, and for all users, as /tmp
    assert shared.stat().st_mode & 0o7777 == 0o1777
    (shared / "notes").write_text("")
    # Others may read, which is the user's business: what is made there they cannot.
    shared.chmod(0o755)
    make(shared).put(key_of(A), A)
    assert shared.stat().st_mode & 0o777 == 0o755
    assert place(shared, key_of(A)).parent.stat().st_mode & 0o777 == 0o700
    for mode in (0o777, 0o775, 0o755):
        store = make(tmp_path / "store", sealed=True)
        store.put(key_of(A), A)
        (tmp_path / "store").chmod(mode)
        assert make(tmp_path / "store", sealed=True).get(key_of(A)) == A
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("sealed", KINDS)
def test_an_entry_that_was_given_to_another_user_is_not_used(tmp_path, sealed):
    store = make(tmp_path, sealed=sealed)
    store.put(key_of(A), A)
    os.chown(place(tmp_path, key_of(A)), 4242, 4242)
    assert store.size(key_of(A)) is None
    assert store.open(key_of(A)) == (-1, 0)
    assert store.get(key_of(A)) is None


@pytest.mark.parametrize("thing", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_read_even_if_it_leads_to_the_right_content(tmp_path, thing):
    store = make(tmp_path / "store")
    path = place(tmp_path / "store", key_of(A))
    path.parent.mkdir()
    if thing == "link":
        (tmp_path / "elsewhere").write_bytes(A)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir() if thing == "folder" else os.mkfifo(path)
    assert store.size(key_of(A)) is None
    assert store.get(key_of(A)) is None
    assert thing == "folder" or not (path.is_symlink() or path.exists())


def test_a_process_without_descriptors_removes_nothing(tmp_path, monkeypatch):
    store = make(tmp_path)
    store.put(key_of(A), A)

    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    assert store.get(key_of(A)) is None
    monkeypatch.undo()
    assert store.statistics()["failed"] == 1
    assert store.get(key_of(A)) == A


def test_a_file_of_another_length_under_a_content_is_written_anew(tmp_path):
    store = make(tmp_path)
    store.put(key_of(A), A)
    place(tmp_path, key_of(A)).write_bytes(A[:-1])
    store.put(key_of(A), A)
    assert store.get(key_of(A)) == A


# ---- limit


def test_small_entries_count_what_is_said_and_reading_is_use(tmp_path):
    store = DiskStore(tmp_path, 10_000, "test", sealed=True, least_bytes=1000)
    keys = [key_of(bytes([n])) for n in range(30)]
    for number, key in enumerate(keys):
        store.put(key, b"x")
        os.utime(place(tmp_path, key), (number, number))
        if number:
            assert store.get(keys[0]) == b"x"
    assert 5 < len(store.newest(100)) <= 10
    assert store.newest(1) == [keys[0]]
    assert store.size(keys[0]) == 1


def test_compiled_kernels_of_the_former_names_go(tmp_path):
    old = tmp_path / "ab" / f"{'c' * 62}.o"
    old.parent.mkdir()
    for path in (old, old.with_name("notes.txt"), tmp_path / "ab" / f"{'d' * 62}.o"):
        path.write_bytes(A)
    for path in (old, old.with_name("notes.txt")):
        os.utime(path, (1000, 1000))
    make(tmp_path, 1).look()
    assert {path.name for path in old.parent.iterdir()} == {"notes.txt", f"{'d' * 62}.o"}


EVICTOR = """
store = DiskStore(Path(sys.argv[1]), 4000, "test", sealed=True)
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    store.look()
assert not store.statistics()["failed"], store.statistics()
print(store.statistics()["evicted"])
"""
USER = """
store = DiskStore(Path(sys.argv[1]), 1 << 20, "test", sealed=True)
found = 0
for n in range(2000):
    data = bytes([n % 40]) * 500
    got = store.get(key_of(data))
    assert got in (None, data)
    found += got is not None
    store.put(key_of(data), data)
counts = store.statistics()
assert not counts["failed"] and not counts["corrupt"], counts
print(found)
"""


def test_entries_that_an_evictor_removes_meanwhile_are_missing_and_never_wrong(tmp_path):
    evictor = child(EVICTOR, tmp_path)
    assert evictor.stdout.readline() == "ready\n"
    users = [child(USER, tmp_path) for _ in range(2)]
    assert all(int(out) > 0 for out in results(users))
    (out,) = results([evictor])
    assert int(out) > 10


# ---- several processes

SAME = """
store = DiskStore(Path(sys.argv[1]), 1 << 30, "test", sealed=True)
mine = bytes([int(sys.argv[2])]) * 300_000
wanted = {bytes([n]) * 300_000 for n in range(3)}
sys.stdin.readline()
for n in range(200):
    store.put("0" * 64, mine)
    assert store.get("0" * 64) in wanted
counts = store.statistics()
assert not counts["failed"] and not counts["corrupt"], counts
"""


def test_two_that_write_one_key_leave_what_one_of_them_wrote(tmp_path):
    processes = [child(SAME, tmp_path, number) for number in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results(processes)
    assert make(tmp_path, sealed=True).get("0" * 64) in {bytes([n]) * 300_000 for n in range(3)}
    assert not list(tmp_path.rglob(".new-*"))


COUNTING = """
store = DiskStore(Path(sys.argv[1]), 1 << 20, "test", sealed=True)
for _ in range(300):
    with store.locked():
        store.put("0" * 64, str(int(store.get("0" * 64) or b"0") + 1).encode())
"""


def test_changes_under_the_lock_are_not_lost(tmp_path):
    results([child(COUNTING, tmp_path) for _ in range(3)])
    assert make(tmp_path, sealed=True).get("0" * 64) == b"900"


HALF = """
import rrto_ros.disk_store
def wait(*_):
    print("half", flush=True)
    sys.stdin.read()
rrto_ros.disk_store.os.fchmod = wait
make(Path(sys.argv[1])).put(key_of(A * 10_000), A * 10_000)
"""


def test_what_a_killed_process_left_half_written_is_no_entry_and_goes(tmp_path):
    store = make(tmp_path, 1 << 30)
    writer = child(HALF, tmp_path)
    assert writer.stdout.readline() == "half\n"
    (half,) = tmp_path.rglob(".new-*")
    assert half.stat().st_size > 900_000
    os.utime(half, (1000, 1000))
    store.look()
    assert half.exists(), "its writer lives"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(10) == -signal.SIGKILL
    assert store.get(key_of(A * 10_000)) is None
    os.utime(half)
    store.look()
    assert half.exists(), "it may be so young that its writer has not locked it"
    os.utime(half, (time.time() - 100,) * 2)
    store.look()
    assert not half.exists()
    store.put(key_of(A * 10_000), A * 10_000)
    assert store.get(key_of(A * 10_000)) == A * 10_000
    for stream in (writer.stdin, writer.stdout, writer.stderr):
        stream.close()


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(TypeError):
        write_whole(tmp_path / "file", A, "no bytes")
    assert list(tmp_path.iterdir()) == []


# ---- disks

MOUNT = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'


def on_a_disk(options, folder, code):
    """What `code` prints in a process that has a file system of these options at `folder`."""
    enter = ["unshare", "-rm", "sh", "-c", MOUNT, options, str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode == 0:
            setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            words = [sys.executable, "-c", setup + "from test_disk_store import *\n" + code]
            done = subprocess.run(
                [*enter, *words, str(folder)],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return done
    pytest.skip("this user cannot mount a file system in a name space of its own")


@pytest.mark.parametrize(
    ("options", "reason"),
    [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")],
)
def test_a_store_without_a_place_is_none_and_one_line(tmp_path, options, reason):
    done = on_a_disk(options, tmp_path, "\n".join((
        "for directory in (None, Path(sys.argv[1]) / 'blobs', Path(sys.argv[1])):",
        "    os.environ['XDG_CACHE_HOME'] = sys.argv[1]",
        "    assert opened(make, 'blobs', directory, 1, print, strict=True) is None",
    )))  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("blobs are not kept on disk" in line and reason in line for line in lines)


def test_a_full_disk_is_counted_said_once_and_what_is_there_still_read(tmp_path):
    done = on_a_disk("size=64k", tmp_path, "\n".join((
        "store = make(Path(sys.argv[1]))",
        "store.put(key_of(A), A)",
        "for n in range(3):",
        "    data = bytes([n]) * 100_000",
        "    store.put(key_of(data), data)",
        "    assert store.get(key_of(data)) is None",
        "assert store.get(key_of(A)) == A",
        "assert not list(Path(sys.argv[1]).rglob('.new-*'))",
        "counts = store.statistics()",
        "print(counts['failed'], counts['stored'], counts['last_failure'])",
    )))  # fmt: skip
    assert done.stdout.startswith("3 1 [Errno 28]")
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_directory_that_goes_away_is_counted(tmp_path):
    store = make(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    store.put(key_of(A), A)
    assert store.get(key_of(A)) is None
    store.look()
    with store.locked():
        pass
    assert store.statistics()["failed"] == 3
    assert store.newest(1) == []
