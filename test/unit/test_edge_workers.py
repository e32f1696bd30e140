"""Worker processes: what they answer, how they die, and what the host then knows."""

import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import support
from support.memory_device import KERNELS, PTX

from rrto_ros.api.results import CUresult
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.stores import Stores
from rrto_ros.edge.worker_environment import worker_environment
from rrto_ros.edge.worker_pool import WorkerPool
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.errors import UnavailableError
from rrto_ros.execution.messages import Open
from rrto_ros.shim.build import ensure_built
from rrto_ros.wire.blob_store import BlobStore
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_KEEP
from rrto_ros.wire.result_codec import iter_results

TEST_FOLDER = Path(next(iter(support.__path__))).parent
MEMORY = "support.memory_device:make"
OPEN = Open("null", DeviceSettings(limit_bytes=64 << 20))


class Host:
    """Collects what a worker says."""

    def __init__(self, factory=MEMORY, settings=OPEN, preload="", stores=None):
        self.stores = stores or Stores()
        self.lines = []
        self.results = queue.Queue()
        self.malformed = queue.Queue()
        self.deaths = queue.Queue()
        self.worker = WorkerProcess(preload, factory, self.lines.append)
        self.info = None
        self._settings = settings

    def open(self):
        self.info = self.worker.open(
            self._settings, self._results, self.malformed.put, stores=self.stores
        )
        self.worker.watch(self.deaths.put)
        return self.info.arena_base

    def _results(self, results):
        records = [
            (r.index, r.status, r.flags, bytes(r.payload)) for r in iter_results(results.records)
        ]
        self.results.put(
            (records, results.executed_call, results.batches_done, results.last_reply)
        )

    def execute(self, batch):
        self.worker.send(batch)
        return self.results.get(timeout=20)

    def death(self):
        return self.deaths.get(timeout=20)


@pytest.fixture(autouse=True)
def _workers_find_the_test_devices(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TEST_FOLDER))


@pytest.fixture
def host():
    made = Host()
    yield made
    made.worker.close()


def launch(index, kernel, params=b""):
    return pack_call(
        "launch", index, module=1, kernel=KERNELS.index(kernel), flags=0, grid_x=1, grid_y=1,
        grid_z=1, block_x=1, block_y=1, block_z=1, shared_bytes=0, stream=0, params=params,
    )  # fmt: skip


def load(index=1):
    return pack_call("module_load", index, module=1, payload=PTX)


def synchronize(index):
    return pack_call("ctx_synchronize", index, context=0)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_worker_executes_batches_and_reports(host):
    base = host.open()
    data = struct.pack("<2I", 41, 1)
    batch = load() + pack_call("mem_alloc", 2, address=base, size=8, stream=0)
    batch += pack_call("memcpy_htod", 3, dst=base, stream=0, payload=data)
    records, executed, done, last_reply = host.execute(batch)
    assert [r[:2] for r in records] == [(1, 0)]
    assert (executed, done, last_reply) == (3, 1, 1)
    batch = launch(4, "add_one", struct.pack("<QI", base, 2))
    batch += pack_call("memcpy_dtoh", 5, src=base, size=8, stream=0)
    assert host.execute(batch) == ([(5, 0, 0, struct.pack("<2I", 42, 2))], 5, 2, 5)
    assert host.info.kind == "null"


def test_a_batch_that_is_no_call_log_is_said_once_in_a_message_of_its_own(host):
    host.open()
    host.execute(load())
    for _ in range(2):
        host.execute(bytes(40))
    host.execute(synchronize(2))
    assert "malformed" in host.malformed.get(timeout=20)
    assert host.malformed.empty()


def test_batches_larger_than_the_socket_arrive_whole_and_in_order(host):
    base = host.open()
    size = 8 << 20
    host.worker.send(pack_call("mem_alloc", 1, address=base, size=4 * size, stream=0))
    for i in range(4):
        data = bytes([i + 1]) * size
        host.worker.send(
            pack_call("memcpy_htod", 2 + i, dst=base + i * size, stream=0, payload=data)
        )
    host.worker.send(pack_call("memcpy_dtoh", 6, src=base, size=4 * size, stream=0))
    for _ in range(5):
        host.results.get(timeout=20)
    records, executed, done, _ = host.results.get(timeout=20)
    assert (executed, done) == (6, 6)
    assert records[0][3] == b"".join(bytes([i + 1]) * size for i in range(4))
    assert host.worker.queued_bytes == 0


def test_a_kernel_that_crashes_is_an_illegal_address_and_named(host):
    host.open()
    host.execute(load())
    host.worker.send(synchronize(2) + launch(3, "segfault") + synchronize(4))
    death = host.death()
    assert death.status is CUresult.ILLEGAL_ADDRESS
    assert (death.executing.index, death.executing.kernel) == (3, "segfault")
    assert "SIGSEGV while executing launch #3 of kernel 'segfault'" in death.text


@pytest.mark.parametrize(
    ("kernel", "words"), [("abort", "exited with status 3"), ("killed", "SIGKILL")]
)
def test_any_other_death_is_a_failed_launch(host, kernel, words):
    host.open()
    host.execute(load())
    host.worker.send(launch(2, kernel))
    death = host.death()
    assert death.status is CUresult.LAUNCH_FAILED
    assert words in death.text
    assert f"kernel '{kernel}'" in death.text


def test_a_worker_killed_while_idle_says_so(host):
    host.open()
    host.execute(load())
    os.kill(host.worker.pid, signal.SIGKILL)
    death = host.death()
    assert death.executing.index == 0
    assert "between two batches" in death.text
    host.worker.send(synchronize(2))  # no one is there; it must neither block nor raise


def test_a_worker_in_an_endless_kernel_is_ended_at_once(host):
    host.open()
    host.execute(load())
    host.worker.send(launch(2, "hang"))
    while host.worker.executing.kernel != "hang":
        time.sleep(0.001)
    started = time.monotonic()
    host.worker.close(0.0)
    assert time.monotonic() - started < 1.5
    assert not host.worker.alive
    assert host.deaths.empty()


def test_a_device_that_cannot_be_made_gives_its_reason():
    host = Host("support.memory_device:make_none")
    with pytest.raises(UnavailableError, match="no memory for the arena"):
        host.open()
    assert not host.worker.alive


def test_a_crash_while_the_device_is_made_gives_its_reason():
    host = Host("support.memory_device:make_crash")
    with pytest.raises(UnavailableError, match="SIGSEGV"):
        host.open()


def test_an_unavailable_device_gives_its_reason(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # where there is a GPU, too
    settings = Open("gpu", DeviceSettings(limit_bytes=1 << 20))
    with pytest.raises(UnavailableError, match=r"device 'gpu'.*device 'cpu'"):
        Host("", settings, "gpu").open()


def test_what_a_worker_writes_reaches_the_log(monkeypatch):
    host = Host("support.no_such_module:make")
    with pytest.raises(UnavailableError, match="no_such_module"):
        host.open()
    other = WorkerProcess("", MEMORY, host.lines.append)
    other._process.send_signal(signal.SIGUSR1)
    assert other.ready.wait(20)
    other.close()


def test_kept_uploads_serve_the_next_worker(tmp_path):
    weights = b"w" * 1000
    store = BlobStore(tmp_path / "blobs", 1 << 20).store
    first, second = (Host(stores=Stores(blobs=store)) for _ in range(2))
    try:
        base = first.open()
        alloc = pack_call("mem_alloc", 1, address=base, size=1000, stream=0)
        first.execute(
            alloc
            + pack_call(
                "memcpy_htod", 2, dst=base, stream=0, payload=weights, record_flags=FLAG_KEEP
            )
        )
        first.worker.close()
        from hashlib import sha256

        from rrto_ros.wire.codec import pack_blob_ref

        second.open()
        reference = pack_blob_ref(sha256(weights).digest(), 1000)
        records = second.execute(
            alloc
            + pack_call(
                "memcpy_htod", 2, dst=base, stream=0, payload=reference,
                record_flags=FLAG_BLOB_REF,
            )
            + pack_call("memcpy_dtoh", 3, src=base, size=1000, stream=0)
        )[0]  # fmt: skip
        assert records == [(3, 0, 0, weights)]
    finally:
        first.worker.close()
        second.worker.close()


def test_workers_end_when_their_host_is_killed_even_within_a_kernel():
    code = """
import sys, threading
from rrto_ros.edge.worker_process import WorkerProcess
from unit_worker import OPEN, load, launch
w = WorkerProcess("", "support.memory_device:make")
w.open(OPEN, *[lambda _: None] * 2)
w.send(load()); w.send(launch(2, "hang"))
while w.executing.kernel != "hang": pass
print(w.pid, flush=True)
threading.Event().wait()
""".replace("from unit_worker", "sys.path.insert(0, sys.argv[1])\nfrom test_edge_workers")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": worker_environment()["PYTHONPATH"]},
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < end, "the worker outlived its host"
        time.sleep(0.02)


def test_a_waiting_worker_is_taken_at_once_and_replaced():
    pool = WorkerPool(1, "null")
    try:
        first = pool.take()
        second = pool.take()
        assert first.pid != second.pid
        assert first.alive
        assert second.alive
        first.close()
        second.close()
        end = time.monotonic() + 20
        while not pool.statistics()["waiting"]:
            assert time.monotonic() < end
            time.sleep(0.01)
        third = pool.take()
        assert pool.statistics()["taken_warm"] >= 1
        third.close()
    finally:
        pool.close()
    with pytest.raises(UnavailableError):
        pool.take()


def test_a_session_that_comes_while_the_spare_starts_waits_for_it():
    pool = WorkerPool(1, "null")
    try:
        end = time.monotonic() + 20
        while not pool.statistics()["started"]:
            assert time.monotonic() < end
            time.sleep(0.001)
        first = pool.take()
        assert pool.statistics()["taken_starting"] == 1
        first.close()
    finally:
        pool.close()


def test_a_pool_whose_workers_do_not_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    lines = []
    pool = WorkerPool(1, log=lines.append, start_timeout_s=5)
    try:
        with pytest.raises(UnavailableError, match="did not start"):
            pool.take()
    finally:
        pool.close()
    assert threading.active_count() < 50


def test_the_environment_of_a_worker_has_no_shim(monkeypatch, tmp_path):
    shim = str(ensure_built())
    monkeypatch.setenv("LD_LIBRARY_PATH", shim)
    monkeypatch.setenv("LD_PRELOAD", f"{shim}/libcuda.so.1")
    environment = worker_environment()
    assert "LD_LIBRARY_PATH" not in environment
    assert "LD_PRELOAD" not in environment
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join((shim, str(tmp_path), shim)))
    assert worker_environment()["LD_LIBRARY_PATH"] == str(tmp_path)


def test_a_worker_imports_nothing_from_the_folder_that_its_server_runs_in(monkeypatch, tmp_path):
    for name in ("numpy", "mmap", "rrto_ros"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.path.relpath(TEST_FOLDER))
    host = Host()
    assert host.open()
    host.worker.close()
    assert not any("planted" in line for line in host.lines)
