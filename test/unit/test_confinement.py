"""What a hostile kernel can do in its worker: attacks, each tried without and with confinement."""

import contextlib
import errno
import json
import os
import platform
import queue
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support
from support.attacker import ANSWER_BYTES, PTX, words

from rrto_ros import confinement, landlock, privileges, seccomp
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.errors import UnavailableError
from rrto_ros.execution.messages import KINDS, Close, Open, Results, Statistics
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.result_codec import iter_results

TEST_FOLDER = Path(next(iter(support.__path__))).parent
LIMIT = 64 << 20
NUMBERS = {**seccomp._NEVER, **seccomp._NETWORK, **seccomp._FILES_CHANGED, **seccomp._FORKS}
needs_landlock = pytest.mark.skipif(
    landlock.version() < 6 or bool(seccomp.available()),
    reason="this kernel has no Landlock of version 6, or no seccomp",
)


class Worker:
    """A worker whose session launches attacks."""

    def __init__(self, mode="auto"):
        self.lines, self.results, self.deaths = [], queue.Queue(), queue.Queue()
        self.process = WorkerProcess("null", "support.attacker:make", self.lines.append, mode)
        settings = Open("null", DeviceSettings(limit_bytes=LIMIT))
        info = self.process.open(settings, self._take, print)
        self.process.watch(self.deaths.put)
        self._base, self._index = info.arena_base, 2
        self._execute(
            pack_call("module_load", 1, module=1, payload=PTX)
            + pack_call("mem_alloc", 2, address=self._base, size=ANSWER_BYTES, stream=0)
        )

    def _take(self, results):
        self.results.put([bytes(r.payload) for r in iter_results(results.records)])

    def _execute(self, batch):
        self.process.send(batch)
        return self.results.get(timeout=20)

    def send(self, name, *arguments):
        self._index += 2
        self.process.send(self._call(name, *arguments))

    def attack(self, name, *arguments):
        """What came of it."""
        self._index += 2
        (answer,) = self._execute(self._call(name, *arguments))
        return answer.rstrip(b"\0").decode()

    def _call(self, name, *arguments):
        answer = pack_call("memcpy_dtoh", self._index, src=self._base, size=ANSWER_BYTES, stream=0)
        return pack_call(
            "launch", self._index - 1, module=1, kernel=0, flags=0, grid_x=1, grid_y=1, grid_z=1,
            block_x=1, block_y=1, block_z=1, shared_bytes=0, stream=0,
            params=words(name, *arguments),
        ) + answer  # fmt: skip


@pytest.fixture(autouse=True)
def _workers_find_the_attacker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TEST_FOLDER))


@pytest.fixture(scope="module")
def workers():
    """One worker of each mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TEST_FOLDER))
        made = {}

        def get(mode):
            if mode not in made:
                made[mode] = Worker(mode)
            return made[mode]

        yield get
        for worker in made.values():
            worker.process.close()


@pytest.fixture
def place(tmp_path):
    """A file that every user can read and write, in a folder where every user can."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        with contextlib.suppress(PermissionError):  # a folder of all users
            folder.chmod(0o777)
    canary = tmp_path / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    return canary


@pytest.fixture
def ends():
    """Ends of a network that listen: TCP, UDP, a Unix socket, an abstract one."""
    made = [
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    ]
    made[1].bind(("127.0.0.1", 0))
    path = f"/tmp/rrto-attacked-{os.getpid()}"
    name = f"rrto-attacked-{os.getpid()}"
    made[2].bind(path)
    Path(path).chmod(0o777)
    made[3].bind(f"\0{name}")
    for end in made[2:]:
        end.listen()
    yield {
        "tcp": made[0].getsockname()[1], "udp": made[1].getsockname()[1], "unix": path,
        "abstract": name,
    }  # fmt: skip
    for end in made:
        end.close()
    Path(path).unlink()


def both(workers, *attack):
    """What came of an attack on the whole machine, and of the same by a confined worker."""
    return workers("off").attack(*attack), workers("auto").attack(*attack)


@needs_landlock
@pytest.mark.parametrize("name", ["read", "write", "change_mode", "rename"])
def test_a_worker_has_no_way_to_files(workers, place, name):
    confined = workers("auto").attack(name, str(place))
    assert confined in ("EACCES", "EPERM")
    assert place.read_text() == "secret"
    assert place.stat().st_mode & 0o777 == 0o666
    assert workers("off").attack(name, str(place)).startswith("done")


@needs_landlock
def test_a_worker_sees_no_home_and_no_folder_of_its_server(workers, tmp_path):
    for folder in (
        str(tmp_path),
        str(Path.home()),
        str(Path.cwd()),
        "/",
        "/tmp",
        "/dev/shm",
        "/proc",
    ):
        free, confined = both(workers, "look", folder)
        assert free.startswith("done"), folder
        assert confined == "EACCES", folder


@needs_landlock
@pytest.mark.parametrize("name", ["tcp", "udp", "unix", "abstract"])
def test_a_worker_reaches_no_socket(workers, ends, name):
    free, confined = both(workers, name, ends[name])
    assert free.startswith("done")
    assert confined in ("EPERM", "EACCES")


@needs_landlock
@pytest.mark.parametrize(
    "name",
    ["listen", "signal_host", "trace_host", "read_host", "fork", "execute"],
)
def test_a_worker_reaches_no_other_process_and_makes_none(workers, name):
    free, confined = both(workers, name)
    assert free.startswith("done")
    assert confined in ("EPERM", "EACCES")


@needs_landlock
def test_a_worker_signals_nobody_but_itself(workers):
    assert workers("auto").attack("signal_everybody") == "EPERM"
    worker = Worker()
    worker.send("end_itself")
    assert "SIGTERM" in worker.deaths.get(timeout=20).text


@needs_landlock
def test_a_worker_changes_no_limit_of_another(workers):
    free, confined = both(workers, "raise_limits", 0)
    assert free.startswith("done")
    assert confined == "EPERM"


@needs_landlock
@pytest.mark.skipif(platform.machine() not in seccomp._MACHINES, reason="no numbers for it")
def test_every_system_call_of_the_list_is_refused(workers):
    column = seccomp._MACHINES[platform.machine()][0]
    for name, numbers in NUMBERS.items():
        if numbers[column] is not None:
            assert workers("auto").attack("call", numbers[column]) == "EPERM", name
    for number in (seccomp._SOME["clone3"][column], 463, 900):
        assert workers("auto").attack("call", number) == "ENOSYS", number


@needs_landlock
def test_a_confined_worker_computes_as_any_other(workers):
    free, confined = both(workers, "compute")
    assert free == confined == 'done [3.0, 0, "x"]'


@needs_landlock
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_worker_of_root_is_a_user_of_its_own_without_rights(workers):
    found = json.loads(workers("auto").attack("rights").removeprefix("done "))
    other = Worker()
    try:
        user = {int(number) for number in (*found["Uid"], *found["Gid"])}
        assert user == {privileges.FIRST_USER + workers("auto").process.pid}
        assert found["Groups"] == []
        # What it may read, whoever owns it, Landlock says.
        read_all = 1 << privileges._READ_ALL
        assert int(found["CapEff"][0], 16) in (0, read_all)
        assert int(found["CapPrm"][0], 16) in (0, read_all)
        assert int(found["CapBnd"][0], 16) == 0
        assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
        assert found["RLIMIT_NPROC"] == confinement.MOST_TASKS
        assert json.loads(other.attack("rights")[5:])["Uid"] != found["Uid"]
    finally:
        other.process.close()


@needs_landlock
def test_a_worker_has_limits(workers):
    found = json.loads(workers("auto").attack("rights").removeprefix("done "))
    assert found["RLIMIT_CORE"] == 0
    assert found["RLIMIT_DATA"] == confinement.memory_limit(LIMIT)
    assert workers("auto").attack("memory", 1 << 33) == "MemoryError"


LIES = {
    "no message": struct.pack("<IIQ", 99, 0, 0),
    "noise": bytes(range(1, 255)),
    "more than there may be": struct.pack("<IIQ", KINDS.index(Results), 0, 1 << 62),
    "depths": struct.pack("<IIQ", KINDS.index(Statistics), 0, 50_000) + b"[" * 50_000,
    "what only a host says": struct.pack("<IIQ", KINDS.index(Close), 0, 0),
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_worker_says_that_none_of_ours_says_ends_its_session_alone(name):
    worker, other = Worker(), Worker()
    try:
        worker.send("speak", LIES[name].hex())
        death = worker.deaths.get(timeout=20)
        assert "worker process was ended by SIGKILL" in death.text
        assert not worker.process.alive
        assert other.attack("rights").startswith("done")
    finally:
        worker.process.close()
        other.process.close()


def test_the_report_says_what_was_done_and_off_does_nothing(workers):
    assert workers("off").process.confined == "not confined (confinement is off)"
    said = workers("auto").process.confined
    assert ("Landlock" in said) == ("seccomp" in said) == bool(confinement.possible().applied)


def test_what_cannot_be_had_is_named_and_refused_only_where_it_is_required(monkeypatch):
    monkeypatch.setattr(confinement, "version", lambda: 0)
    monkeypatch.setattr(confinement, "available", lambda: "no list")
    confinement.check("auto")
    confinement.check("off")
    with pytest.raises(UnavailableError, match=r"Landlock \(not in .*seccomp \(no list\).*'conf"):
        confinement.check("required")
    assert "Landlock" in str(confinement.possible())


WITHOUT = """
import sys, threading
from rrto_ros import confinement
if sys.argv[1] == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
else:
    def refuse(*_):
        raise OSError(38, "Function not implemented")
    confinement.Ruleset = confinement.restrict = refuse
try:
    print(confinement.confine_worker(sys.argv[2], "null"))
except confinement.UnavailableError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("how", "reason"), [("kernel", "not implemented"), ("threads", "threads run already")]
)
def test_a_worker_that_cannot_be_confined_says_why_and_is_refused_where_that_is_required(
    how, reason
):
    for mode in ("auto", "required"):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, how, mode], capture_output=True, text=True,
            check=True, cwd=TEST_FOLDER.parent,
        )  # fmt: skip
        assert reason in done.stdout
        assert done.stdout.startswith("refused:") == (mode == "required")


def test_a_worker_that_must_be_confined_and_cannot_does_not_start(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TEST_FOLDER))
    monkeypatch.setattr(
        "rrto_ros.edge.worker_process.worker_environment",
        lambda: {**os.environ, "PYTHONPATH": f"{TEST_FOLDER}:{TEST_FOLDER.parent}"},
    )
    # Its device's module starts a thread when it is imported.
    process = WorkerProcess("", "support.threaded:make", confinement="required")
    with pytest.raises(UnavailableError, match="threads run already"):
        process.open(Open("null", DeviceSettings(limit_bytes=LIMIT)), print, print)


@needs_landlock
def test_shared_memory_beyond_the_limit_ends_the_session_and_says_so(monkeypatch):
    from rrto_ros.edge import clock
    from rrto_ros.edge import table as tables
    from rrto_ros.edge.settings import ServerSettings
    from rrto_ros.wire.port import OpenRequest

    monkeypatch.setattr(clock, "MEASURE_PERIOD_S", 0.01)
    monkeypatch.setattr(tables, "memory_limit", lambda _: 300 << 20)
    lines = []
    settings = ServerSettings(
        "null", DeviceSettings(limit_bytes=LIMIT), factory="support.attacker:make",
        spare_workers=0,
    )  # fmt: skip
    table = tables.SessionTable(settings, lambda _: None, lambda _: None, lines.append)
    try:
        answer = table.open(OpenRequest(b"s" * 16, "robot", "program", "", 1))
        assert answer.accepted, answer.reason
        (host,) = table.hosts
        host.worker.send(
            pack_call("module_load", 1, module=1, payload=PTX)
            + pack_call(
                "launch", 2, module=1, kernel=0, flags=0, grid_x=1, grid_y=1, grid_z=1, block_x=1,
                block_y=1, block_z=1, shared_bytes=0, stream=0,
                params=words("shared_memory", 400 << 20),
            )
        )  # fmt: skip
        end = time.monotonic() + 30
        while not host.error:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert "MiB, at most 300 are allowed" in host.error
    finally:
        table.close()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("forks", [False, True])
def test_a_filter_decides_by_number_architecture_and_arguments(machine, forks):
    column, architecture = seccomp._MACHINES[machine]
    rules = seccomp.build(seccomp.Permits(forks=forks), machine, 77)

    def decide(number, *arguments, arch=architecture):
        words = (*arguments, *[0] * (6 - len(arguments)))
        data = struct.pack("=iIQ6Q", number, arch, 0, *(w & (1 << 64) - 1 for w in words))
        return run(rules, data)

    def number(name):
        return seccomp._SOME[name][column]

    eperm = 0x50000 | errno.EPERM
    assert decide(0, arch=0x40000003) == eperm
    assert decide(number("kill"), 78, 9) == (0x7FFF0000 if forks else eperm)
    assert decide(number("kill"), -1, 9) == (0x7FFF0000 if forks else eperm)
    assert decide(number("kill"), 77, 9) == 0x7FFF0000
    assert decide(number("tgkill"), 78, 78, 9) == (0x7FFF0000 if forks else eperm)
    assert decide(number("clone"), 17) == (0x7FFF0000 if forks else eperm)
    assert decide(number("clone"), 0x10000000 | 17) == eperm
    assert decide(number("clone"), 0x3D0F00) == 0x7FFF0000
    assert decide(number("clone3")) == decide(470) == 0x50000 | errno.ENOSYS
    assert decide(number("openat"), 0, 0, os.O_RDONLY | os.O_CLOEXEC) == 0x7FFF0000
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        assert decide(number("openat"), 0, 0, flags) == 0x50000 | errno.EACCES
    assert decide(number("prlimit64"), 0) == decide(number("prlimit64"), 77) == 0x7FFF0000
    assert decide(number("prlimit64"), 1) == decide(number("socket"), 1) == eperm
    for numbers in seccomp._NEVER.values():
        if numbers[column] is not None:
            assert decide(numbers[column]) == eperm
    if machine == "x86_64":
        assert decide(0x40000000 | 41) == eperm


def run(rules, data):
    """What a filter returns for a call, as the kernel would find it."""
    at, value = 0, 0
    while True:
        code, yes, no, constant = rules[at]
        at += 1
        if code == seccomp._LOAD:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == seccomp._RETURN:
            return constant
        else:
            test = {
                seccomp._EQUAL: value == constant,
                seccomp._AT_LEAST: value >= constant,
                seccomp._ANY_BIT: bool(value & constant),
            }[code]
            at += yes if test else no
