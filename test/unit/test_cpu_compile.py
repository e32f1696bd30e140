"""Compilers that crash, hang or refuse cost a kernel, never the session."""

import subprocess
import sys
import time

import pytest
from support.ptx_texts import RAMP

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.compile_pool import CompileError, CompilePool
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.outline import LARGE_TEXT
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import PtxError

IR = "define i32 @f() { ret i32 7 }"
# Reads jobs as the real one does; WHEN says for which of them it misbehaves.
BROKEN = """
import json, os, signal, sys, time
from rrto_ros.devices.cpu import compile_process as real
def compile_object(text, target, *, vectorise):
    if WHEN: HOW
    return original(text, target, vectorise=vectorise)
original, real.compile_object = real.compile_object, compile_object
real.main()
"""
CRASH = "os.kill(os.getpid(), signal.SIGABRT)"
HANG = "time.sleep(1000)"


def broken(when, how):
    return [sys.executable, "-c", BROKEN.replace("WHEN", when).replace("HOW", how)]


def ramp(device):
    device.module_load(1, RAMP)
    base = device.info.arena_base
    device.mem_alloc(base, 256, 0)
    device.launch(Launch(1, 0, (1, 1, 1), (64, 1, 1), 0, base.to_bytes(8, "little")), 0)
    return list(memoryview(bytes(device.memcpy_dtoh(base, 256, 0))).cast("I"))


@pytest.mark.parametrize("how", [CRASH, HANG], ids=["crash", "hang"])
def test_a_failed_compiler_is_asked_again_without_vectors(how):
    device = CpuDevice(
        threads=1, cache_bytes=0, compile_timeout_s=1.5, compile_command=broken("vectorise", how)
    )
    assert ramp(device) == list(range(64))
    counts = device.statistics()
    assert (counts["compile_failures"], counts["kernels_vectorised"]) == (1, 0)
    device.close()


def test_a_kernel_that_no_compiler_survives_is_an_error_with_its_name():
    device = CpuDevice(threads=1, cache_bytes=0, compile_command=broken("True", CRASH))
    with pytest.raises(PtxError, match=r"kernel ramp cannot be compiled: .*SIGABRT") as caught:
        ramp(device)
    assert caught.value.result == CUresult.INVALID_PTX
    device.close()


def test_code_that_llvm_refuses_is_an_error_and_the_process_lives_on():
    pool = CompilePool(1)
    with pytest.raises(CompileError, match="not valid"):
        pool.compile("define nonsense", vectorise=True)
    assert b"ELF" in pool.compile(IR, vectorise=True)[:8]
    assert pool.started == 1
    pool.close()


def test_jobs_run_side_by_side_and_processes_are_used_again():
    pool = CompilePool(2)
    jobs = [pool.submit(IR, vectorise=True) for _ in range(12)]
    assert len({job.result(60) for job in jobs}) == 1
    assert 1 <= pool.started <= 2
    pool.close()


def test_closing_ends_a_job_that_hangs():
    pool = CompilePool(1, command=broken("True", HANG))
    job = pool.submit(IR, vectorise=True)
    deadline = time.monotonic() + 30
    while not pool.started and time.monotonic() < deadline:
        time.sleep(0.01)
    pool.close()
    with pytest.raises(CompileError):
        job.result(30)
    with pytest.raises(CompileError, match="closed"):
        pool.compile(IR, vectorise=True)


def test_a_compile_process_ends_with_its_session_even_in_a_job():
    process = subprocess.Popen(broken("True", HANG), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b'{"bytes": 2, "vectorise": true}\nxx')
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.mark.parametrize("large", [False, True])
def test_kernels_with_a_known_block_size_are_compiled_ahead(large, tmp_path):
    entry = RAMP[RAMP.index(b".visible") :]
    text = RAMP.replace(b")\n{", b")\n.reqntid 64\n{") + entry.replace(b"ramp", b"second").replace(
        b")\n{", b")\n.reqntid 64\n{"
    )
    device = CpuDevice(threads=2, cache_dir=tmp_path)
    device.module_load(1, text + b"// " + b"=" * LARGE_TEXT * large)
    base = device.info.arena_base
    device.mem_alloc(base, 256, 0)
    for kernel in range(2 * large):
        device.kernel_load(1, kernel)
    for kernel in (0, 1):
        device.launch(Launch(1, kernel, (1, 1, 1), (64, 1, 1), 0, base.to_bytes(8, "little")), 0)
    assert device.statistics()["kernels_compiled"] == 2
    assert device.statistics()["kernels_compiled_ahead"] == 2
    device.close()
