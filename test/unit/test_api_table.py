"""The table of driver calls, what is generated from it, and what the built shim exports."""

import ctypes
import re
import subprocess

import pytest

from rrto_ros.api._generated.exports import CLASSES, EXPORTS
from rrto_ros.api.ops import OPS
from rrto_ros.api.table import CALLS, UNSUPPORTED_NOTES
from rrto_ros.errors import UnavailableError
from rrto_ros.shim import build
from rrto_ros.shim.generate import committed, differences, generate

CLIENTS = {
    "tinygrad": """cuCtxCreate_v2 cuCtxEnablePeerAccess cuCtxSetCurrent cuCtxSynchronize
        cuDeviceCanAccessPeer cuDeviceComputeCapability cuDeviceGet cuDeviceGetCount cuEventCreate
        cuEventDestroy_v2 cuEventElapsedTime cuEventRecord cuEventSynchronize cuFuncSetAttribute
        cuGetErrorString cuGraphAddKernelNode cuGraphAddMemcpyNode cuGraphCreate cuGraphDestroy
        cuGraphExecDestroy cuGraphExecKernelNodeSetParams cuGraphExecMemcpyNodeSetParams
        cuGraphInstantiate_v2 cuGraphLaunch cuInit cuLaunchKernel cuMemAlloc_v2 cuMemFreeHost
        cuMemFree_v2 cuMemHostAlloc cuMemcpyDtoDAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2
        cuModuleGetFunction cuModuleLoadData cuModuleUnload cuStreamWaitEvent""",
    "cuda.bindings": """cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetName cuDeviceGetAttribute
        cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuCtxSetCurrent cuModuleLoadData
        cuModuleGetFunction cuModuleUnload cuMemAlloc_v2 cuMemFree_v2 cuMemcpyHtoDAsync_v2
        cuMemcpyDtoHAsync_v2 cuStreamCreate cuStreamSynchronize cuLaunchKernel""",
    "cuda.core": """cuCtxGetCurrent cuCtxGetDevice cuCtxGetStreamPriorityRange
        cuStreamCreateWithPriority cuDeviceGetMemPool cuMemPoolGetAttribute cuMemPoolSetAttribute
        cuMemAllocFromPoolAsync cuMemFreeAsync cuLibraryLoadData cuLibraryGetKernel
        cuKernelGetAttribute cuLaunchKernelEx cuStreamIsCapturing cuDeviceGetUuid_v2""",
    "numba-cuda": """cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuMemGetInfo_v2 cuCtxSynchronize
        cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuLibraryLoadData cuLaunchKernelEx
        cuLinkCreate_v2 cuLinkAddData_v2 cuLinkComplete cuLinkDestroy cuMemsetD8_v2
        cuMemsetD8Async cuMemHostRegister_v2 cuMemHostUnregister cuEventQuery
        cuOccupancyMaxActiveBlocksPerMultiprocessor cuPointerGetAttribute cuProfilerStart
        cuKernelSetAttribute cuKernelSetCacheConfig cuLibraryGetGlobal cuLibraryUnload
        cuMemGetAddressRange_v2 cuDevicePrimaryCtxReset_v2""",
}


def test_the_committed_files_are_what_the_table_generates():
    assert differences(generate(committed())) == []


def test_the_header_snapshot_holds_the_exports_of_cuda_12_9_and_13():
    data = committed()
    assert data["releases"]["12090"] == 616
    assert len(data["exports"]) == 685
    assert len(data["proc"]) == len(data["exports"])


def test_every_export_is_in_the_built_library_and_nothing_else_is():
    library = build.ensure_built() / "libcuda.so.1"
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    found = {line.split()[-1] for line in listing.splitlines() if " T " in line}
    assert found == set(EXPORTS)


def test_the_export_list_is_in_the_order_of_the_counters():
    assert list(EXPORTS) == sorted(EXPORTS)
    stubs = (build.SHIM / "generated" / "stubs.c").read_text()
    for name in ("cuInit", "cuLaunchKernel", "cuMemcpy3DBatchAsync"):
        body = rf"^CUresult {name}\([^)]*\)\n{{[^}}]*?"
        counted = re.search(body + r"\((\d+)[,)]", stubs, re.MULTILINE)
        assert counted
        assert EXPORTS[int(counted[1])] == name


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_client_calls_is_supported(client):
    assert [name for name in CLIENTS[client].split() if name not in CLASSES] == []


def test_operations_of_the_table_exist_and_each_is_recorded_by_some_call():
    named = {op for call in CALLS for op in call.ops}
    assert named == {op.name for op in OPS}
    assert not set(UNSUPPORTED_NOTES) & set(CLASSES)


def test_the_shim_compiles_without_a_warning(tmp_path):
    build.build(tmp_path, [*build.CFLAGS, "-Werror"])
    assert ctypes.PyDLL(str(tmp_path / "librrto_recorder.so")).rrto_load_u64
    assert {"libcuda.so", "libcuda.so.1"} <= {path.name for path in tmp_path.iterdir()}


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UnavailableError, match="no C compiler found"):
        build.compiler()


def test_sources_that_do_not_compile_are_told_with_the_compilers_words(tmp_path):
    with pytest.raises(UnavailableError, match="no-such-flag"):
        build.build(tmp_path, ["--no-such-flag"])
