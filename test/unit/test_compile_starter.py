"""Compilers that are copies of a process with LLVM loaded: their work, ends and rights."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import support
from support.ptx_texts import RAMP

from rrto_ros import landlock, seccomp
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.disk_store import DiskStore
from rrto_ros.edge.stores import Stores
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.execution.messages import Open
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.result_codec import iter_results

ROOT = Path(next(iter(support.__path__))).parents[1]
needs_landlock = pytest.mark.skipif(
    landlock.version() < 6 or bool(seccomp.available()),
    reason="this kernel has no Landlock of version 6, or no seccomp",
)


def run(code, *arguments, mode="auto"):
    """What a process prints that has begun a starter of compilers."""
    head = (
        "import json, os, sys, time\n"
        "from rrto_ros.devices.cpu import compile_starter, compile_pool, compile_process\n"
        "IR = 'define i32 @f() { ret i32 7 }'\n"
    )
    begin = f"compile_starter.begin({mode!r})\n"
    before, _, after = code.rpartition("BEGIN\n")
    done = subprocess.run(
        [sys.executable, "-c", head + before + begin + after, *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_copies_compile_side_by_side_and_are_used_again():
    out = run("""
pool = compile_pool.CompilePool(2)
jobs = [pool.submit(IR, vectorise=True) for _ in range(12)]
print(len({job.result(60) for job in jobs}), jobs[0].result()[:4] == b"\\x7fELF", pool.started)
try:
    pool.compile("define nonsense", vectorise=True)
except compile_pool.CompileError as error:
    print("refused", "not valid" in str(error))
pool.close()
compile_starter.end()
""")
    first, second = out.splitlines()
    assert first.split()[:2] == ["1", "True"]
    assert int(first.split()[2]) in (1, 2)
    assert second == "refused True"


@pytest.mark.parametrize(
    ("how", "words"),
    [("os.abort()", "SIGABRT"), ("os._exit(3)", "status 3"), ("time.sleep(99)", "in time")],
)
def test_a_copy_that_dies_or_hangs_is_an_error_and_the_next_one_is_another(how, words):
    out = run(f"""
def compile_object(text, target, *, vectorise):
    if vectorise: {how}
    return original(text, target, vectorise=vectorise)
original, compile_process.compile_object = compile_process.compile_object, compile_object
BEGIN
pool = compile_pool.CompilePool(1, timeout_s=3.0)
try:
    pool.compile(IR, vectorise=True)
except compile_pool.CompileError as error:
    print(error)
print(pool.compile(IR, vectorise=False)[:4] == b"\\x7fELF", pool.started)
pool.close()
compile_starter.end()
""")
    said, then = out.splitlines()
    assert words in said
    assert then == "True 2"


def test_no_compiler_outlives_its_worker_even_in_a_job():
    out = run("""
def compile_object(text, target, *, vectorise):
    time.sleep(1000)
compile_process.compile_object = compile_object
BEGIN
compiler = compile_starter.Compiler(compile_starter.begun())
compiler.stdin.write(b'{"bytes": 1, "vectorise": true}\\nx')
print(json.dumps([compiler.pid, compile_starter.begun()._pid]), flush=True)
os._exit(0)
""")
    end = time.monotonic() + 20
    for pid in json.loads(out):
        while _lives(pid):
            assert time.monotonic() < end, "a compiler outlived its worker"
            time.sleep(0.01)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_there_is_a_most_of_compilers_and_a_word_about_it():
    out = run("""
compile_starter.MOST_COMPILERS = 2
BEGIN
starter = compile_starter.begun()
first, second = compile_starter.Compiler(starter), compile_starter.Compiler(starter)
for _ in range(2):
    try:
        compile_starter.Compiler(starter)
    except OSError as error:
        print(error)
first.kill()
print(first.wait(20), second.poll())
third = compile_starter.Compiler(starter)
print(third.poll(), len(os.listdir("/proc/self/fd")) < 30)
""")
    assert out.splitlines() == ["2 compilers run", "2 compilers run", "-9 None", "None True"]


RIGHTS = """
import socket
def attempt(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__
def fork():
    if not os.fork():
        os._exit(0)
def compile_object(text, target, *, vectorise):
    attempts = {
        "read": lambda: open(sys.argv[1]).read(), "etc": lambda: open("/etc/passwd").read(),
        "write": lambda: open(sys.argv[1], "w"), "fork": fork, "tcp": lambda: socket.socket(),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(os.getppid(), 0), "look": lambda: os.listdir("/"),
    }
    limits = [__import__("resource").getrlimit(n)[1] for n in (1, 2, 4)]
    found = {name: attempt(what) for name, what in attempts.items()}
    return json.dumps({**found, "limits": limits, "uid": os.getuid()}).encode()
compile_process.compile_object = compile_object
BEGIN
pool = compile_pool.CompilePool(1)
print(pool.compile(IR, vectorise=True).decode())
pool.close()
compile_starter.end()
"""


@needs_landlock
def test_a_compiler_reaches_no_file_no_network_and_no_process(tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        with contextlib.suppress(PermissionError):  # a folder of all users
            folder.chmod(0o777)
    canary.chmod(0o666)
    confined = json.loads(run(RIGHTS, str(canary)))
    for name in ("read", "etc", "write", "fork", "tcp", "execute", "kill", "look"):
        assert confined[name] == "PermissionError", name
    assert canary.read_text() == "secret"
    assert confined["limits"][0] == confined["limits"][2] == 0
    assert confined["limits"][1] == 4 << 30
    assert (confined["uid"] != 0) or os.geteuid() != 0
    text = RIGHTS.replace('os.execv("/bin/true", ["true"])', "None")
    free = json.loads(run(text, str(canary), mode="off"))
    for name in ("read", "etc", "fork", "tcp", "kill", "look", "write"):
        assert free[name] == "done", name


def test_a_confined_worker_compiles_and_its_hosts_cache_serves_the_next(tmp_path):
    store = DiskStore(tmp_path / "kernels", 1 << 24, "kernel", sealed=True)
    compiled = []
    for _ in range(2):
        process = WorkerProcess("cpu")
        answers = []
        done = threading.Event()

        def take(results, answers=answers, done=done):
            answers.extend(bytes(r.payload) for r in iter_results(results.records))
            done.set()

        settings = Open(
            "cpu", DeviceSettings(limit_bytes=1 << 26, check_calls=True, cache_bytes=0)
        )
        base = process.open(settings, take, print, stores=Stores(kernels=store)).arena_base
        process.send(
            pack_call("module_load", 1, module=1, payload=RAMP)
            + pack_call("mem_alloc", 2, address=base, size=256, stream=0)
            + pack_call(
                "launch", 3, module=1, kernel=0, flags=0, grid_x=1, grid_y=1, grid_z=1,
                block_x=64, block_y=1, block_z=1, shared_bytes=0, stream=0,
                params=base.to_bytes(8, "little"),
            )
            + pack_call("memcpy_dtoh", 4, src=base, size=256, stream=0)
        )  # fmt: skip
        end = time.monotonic() + 60
        while not answers or len(answers[-1]) != 256:
            assert time.monotonic() < end
            done.wait(1)
            done.clear()
        assert list(memoryview(answers[-1]).cast("I")) == list(range(64))
        process.close()
        compiled.append(process.statistics()["device"]["kernels_compiled"])
        if landlock.version() and not seccomp.available():
            assert "Landlock" in process.confined
    assert compiled == [1, 0]
