"""Keys on disk: who may read them, what is refused, and what `rrto keys` does with them."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rrto_ros import key_files, session_keys
from rrto_ros.errors import ConfigError
from rrto_ros.wire import credentials
from rrto_ros.wire.keys_text import key_from, key_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A user without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def rrto(home):
    def run(*arguments, user="a"):
        env = {
            "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(home / user), "XDG_RUNTIME_DIR": str(home / "run"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "rrto_ros.cli.main", "keys", *arguments],
            env=env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def mode(path):
    return path.stat().st_mode & 0o777


def test_keys_and_their_folder_are_the_users_alone():
    _, path = credentials.new_identity()
    other = key_text(b"k" * 32)
    credentials.trust(other, "edge")
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert mode(path.with_name("trusted_keys")) == 0o600
    key_files.local_secret(make=True)
    assert mode(key_files.runtime_folder() / "local.secret") == 0o600


@pytest.mark.parametrize("others", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_can_read_is_not_used(others):
    _, path = credentials.new_identity()
    path.chmod(others)
    with pytest.raises(ConfigError, match="chmod go-rwx"):
        credentials.of_robot()


def test_a_secret_that_others_can_read_is_not_used():
    key_files.local_secret(make=True)
    (key_files.runtime_folder() / "local.secret").chmod(0o644)
    for make in (True, False):
        with pytest.raises(ConfigError, match="chmod go-rwx"):
            key_files.local_secret(make=make)


def test_trusted_keys_that_others_can_write_are_not_used():
    credentials.trust(key_text(b"k" * 32), "edge")
    path = key_files.folder() / "trusted_keys"
    path.chmod(0o644)
    assert [one.name for one in key_files.trusted()] == ["edge"]
    path.chmod(0o622)
    with pytest.raises(ConfigError, match="write"):
        credentials.of_robot()
    path.chmod(0o600)
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="write"):
        credentials.of_robot()


def test_files_of_another_user_are_not_used(monkeypatch):
    credentials.new_identity()
    monkeypatch.setattr(key_files.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to user"):
        credentials.of_robot()


def test_a_link_in_the_place_of_a_key_is_not_followed(home):
    _, path = credentials.new_identity()
    elsewhere = home / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="cannot be read"):
        credentials.of_robot()


def test_a_key_of_another_kind_is_refused():
    other = generate_private_key(65537, 2048)
    key_files.write_identity(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ConfigError, match="Ed25519"):
        credentials.of_robot()


@pytest.mark.parametrize("text", ["", "no key at all", "-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_an_identity_that_is_damaged_is_refused(text):
    key_files.write_identity(text.encode())
    with pytest.raises(ConfigError, match="no key"):
        credentials.of_robot()


@pytest.mark.parametrize(
    "line", ["one", "a b c", f"{key_text(b'k' * 32)} bad/name", "rrto-ed25519:short edge"]
)
def test_a_line_that_is_no_trusted_key_is_named(line):
    credentials.trust(key_text(b"k" * 32), "edge")
    path = key_files.folder() / "trusted_keys"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError):
        credentials.of_robot()


@pytest.mark.parametrize(
    "text",
    ["", "rrto-ed25519:", "rrto-ed25519:" + "A" * 43, key_text(b"k" * 32) + "A",
     key_text(b"k" * 32)[:-1] + "\x00", "ssh-ed25519 AAAA"],
)  # fmt: skip
def test_a_text_that_is_no_key_is_refused(text):
    with pytest.raises(ConfigError, match="rrto keys show"):
        key_from(text)


def test_servers_that_start_at_once_have_one_secret():
    found, begin = [], threading.Barrier(8)

    def start():
        begin.wait()
        found.append(key_files.local_secret(make=True))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert key_files.local_secret(make=False) == found[0]
    assert [p.name for p in key_files.runtime_folder().iterdir()] == ["local.secret"]


def test_without_a_server_there_is_no_secret():
    assert key_files.local_secret(make=False) is None


def test_a_server_that_trusts_keys_needs_one_of_its_own():
    credentials.trust(key_text(b"k" * 32), "robot")
    with pytest.raises(ConfigError, match="rrto keys new"):
        credentials.of_server()
    credentials.new_identity()
    assert credentials.of_server().trusted == {b"k" * 32: "robot"}


def test_a_change_of_keys_holds_at_once_and_without_one_no_file_is_read_again(monkeypatch):
    credentials.new_identity()
    first = credentials.of_server()
    reads = []
    original = key_files._checked
    monkeypatch.setattr(
        key_files, "_checked", lambda *a, **k: reads.append(a) or original(*a, **k)
    )
    again = credentials.of_server()  # the first one made the secret
    count = len(reads)
    assert credentials.of_server() is again
    assert len(reads) == count
    assert again.local == first.local
    credentials.trust(key_text(b"k" * 32), "robot")
    assert credentials.of_server().trusted == {b"k" * 32: "robot"}
    credentials.revoke("robot")
    assert credentials.of_server().trusted == {}
    (key_files.folder() / "identity.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod"):
        credentials.of_server()


def test_two_machines_are_paired_by_one_command_on_each(rrto):
    code, out, err = rrto("new", user="robot")
    assert code == 0, err
    (command,) = (line.split() for line in out.splitlines() if line.startswith("  rrto keys"))
    code, out, err = rrto(*command[2:], user="edge")
    assert code == 0, err
    (command,) = (line.split() for line in out.splitlines() if line.startswith("  rrto keys"))
    code, _, err = rrto(*command[2:], user="robot")
    assert code == 0, err
    robot, edge = (json.loads(rrto("show", "--json", user=u)[1]) for u in ("robot", "edge"))
    assert [one["key"] for one in robot["trusted"]] == [edge["key"]]
    assert [one["key"] for one in edge["trusted"]] == [robot["key"]]
    code, out, err = rrto("revoke", edge["trusted"][0]["name"], user="edge")
    assert code == 0, err
    assert json.loads(rrto("show", "--json", user="edge")[1])["trusted"] == []


def test_what_cannot_be_done_with_keys_is_named_with_what_can(rrto):
    assert "rrto keys new" in rrto("show")[1]
    assert rrto("new")[0] == 0
    code, _, err = rrto("new")
    assert (code, "exists" in err) == (2, True)
    code, _, err = rrto("trust", "word", "--name", "edge")
    assert (code, "rrto keys show" in err) == (2, True)
    code, _, err = rrto("revoke", "edge")
    assert (code, "trusted are: none" in err) == (2, True)
    own = json.loads(rrto("show", "--json")[1])["key"]
    code, _, err = rrto("trust", own, "--name", "self")
    assert (code, "this machine" in err) == (2, True)
    assert rrto("trust", key_text(b"k" * 32), "--name", "edge")[0] == 0
    code, _, err = rrto("trust", key_text(b"l" * 32), "--name", "edge")
    assert (code, "another key's" in err) == (2, True)
    code, _, err = rrto("trust", key_text(b"l" * 32), "--name", "a b")
    assert (code, "letters" in err) == (2, True)


def test_keys_are_put_out_only_while_somebody_records():
    session = b"s" * 16
    assert session_keys.disclose("r", 0, session, b"keys") == 0
    with session_keys.wanted_keys("r", 0) as folder, session_keys.wanted_keys("r", 0) as second:
        assert session_keys.disclose("r", 0, session, b"keys") == 2
        assert session_keys.disclose("q", 0, session, b"other") == 0
        for one in (folder, second):
            assert session_keys.taken(one, session.hex()) == b"keys"
            assert mode(one) == 0o700
            assert mode(one / session.hex()) == 0o600
        assert session_keys.taken(folder, "../" + session.hex()) is None
        assert session_keys.taken(folder, "0" * 32) is None
    assert not folder.exists()
    assert session_keys.disclose("r", 0, session, b"keys") == 0


def test_what_a_killed_recording_left_is_removed_and_gets_no_keys():
    program = (
        "import os; from rrto_ros.session_keys import wanted_keys\n"
        "with wanted_keys('r', 0) as folder: print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    left = Path(done.stdout.strip())
    assert left.exists()
    assert session_keys.disclose("r", 0, b"s" * 16, b"keys") == 0
    assert not left.exists()
