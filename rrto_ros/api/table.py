"""The table of driver calls: each supported call of the CUDA driver API described once.

From it come the stubs of the shim and docs/driver_calls.md. Prototypes, the versions that brought
a symbol and what cuGetProcAddress answers come from the header snapshot
(`_generated/prototypes.json`). An export that is not named here returns CUDA_ERROR_NOT_SUPPORTED
and is counted.

A call is one of three classes: "local" is answered in the shim, "async" is recorded and returns
at once, "sync" waits for the server (in mode rpc an async call waits as well).

Over 400 lines: there are as many calls.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One supported driver call.

    Attributes:
        name: The export whose prototype the shim's core function `rrto_<name>` has.
        kind: "local", "async" or "sync".
        ops: Wire operations that it may record, for the documentation.
        aliases: Other exports with the same arguments that do the same.
        needs: What is checked before: "none", "init" (cuInit succeeded), "session" (and the
            session is not in error), "context" (cuInit, and a context is current), "operator"
            (a context, and the session is not in error).
        note: What a reader of docs/driver_calls.md should know.
    """

    name: str
    kind: str
    ops: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    needs: str = "init"
    note: str = ""

    @property
    def exports(self) -> tuple[str, ...]:
        """Every exported name of the call."""
        return (self.name, *self.aliases)


def _locals(names: str, needs: str) -> list[Call]:
    """Local calls without more to say: `name=alias=alias`, separated by blanks."""
    split = [word.split("=") for word in names.split()]
    return [Call(w[0], "local", aliases=tuple(w[1:]), needs=needs) for w in split]


def _core(kind: str, ops: str, names: str, needs: str = "operator", note: str = "") -> list[Call]:
    """Calls with hand-written code that record `ops`: `name=alias=alias`."""
    split = [word.split("=") for word in names.split()]
    operations = tuple(ops.split())
    return [Call(w[0], kind, operations, tuple(w[1:]), needs, note=note) for w in split]


def _memsets() -> list[Call]:
    """The twelve memset calls: 8, 16, 32 bits; rows or not; synchronous or not."""
    stems = [f"cuMemset{d}{bits}" for bits in (8, 16, 32) for d in ("D", "D2D")]
    names = " ".join(f"{s}_v2={s}_v2_ptds {s}Async={s}Async_ptsz" for s in stems)
    return _core("async", "memset", names, note="page-locked memory is filled by the shim")


CALLS: tuple[Call, ...] = (
    # start, errors, symbols
    Call("cuInit", "sync", needs="none", note="opens the session"),
    *_locals(
        "cuDriverGetVersion cuGetErrorString cuGetErrorName cuGetProcAddress cuGetProcAddress_v2 "
        "cuGetExportTable",
        "none",
    ),
    *_locals("cuProfilerStart cuProfilerStop cuModuleGetLoadingMode", "init"),
    # devices
    *_locals(
        "cuDeviceGet cuDeviceGetCount cuDeviceGetName cuDeviceGetUuid_v2=cuDeviceGetUuid "
        "cuDeviceTotalMem_v2 cuDeviceGetAttribute cuDeviceGetProperties "
        "cuDeviceComputeCapability cuDeviceGetPCIBusId cuDeviceGetByPCIBusId "
        "cuDeviceCanAccessPeer cuDeviceGetP2PAttribute cuDeviceGetExecAffinitySupport "
        "cuDeviceGetMemPool cuDeviceGetDefaultMemPool cuDeviceSetMemPool "
        "cuDevicePrimaryCtxRetain cuDevicePrimaryCtxSetFlags_v2=cuDevicePrimaryCtxSetFlags "
        "cuDevicePrimaryCtxGetState",
        "init",
    ),
    *_core("local", "", "cuDeviceGetLuid", "init", "NOT_SUPPORTED: LUIDs are Windows' own"),
    *_core(
        "local",
        "",
        "cuDeviceGetHostAtomicCapabilities cuDeviceGetP2PAtomicCapabilities",
        "init",
        "none: kernels reach no other memory",
    ),
    *_core(
        "local",
        "",
        "cuDeviceGetGraphMemAttribute cuDeviceSetGraphMemAttribute cuDeviceGraphMemTrim",
        "init",
        "graphs allocate nothing",
    ),
    *_locals("cuDeviceGetTexture1DLinearMaxWidth", "init"),
    *_core(
        "async",
        "mem_free stream_destroy event_destroy module_unload",
        "cuDevicePrimaryCtxRelease_v2=cuDevicePrimaryCtxRelease "
        "cuDevicePrimaryCtxReset_v2=cuDevicePrimaryCtxReset cuCtxDestroy_v2=cuCtxDestroy",
        "init",
        "frees what belongs to the context",
    ),
    # contexts
    *_locals(
        "cuCtxCreate_v2=cuCtxCreate cuCtxCreate_v3 cuCtxCreate_v4 "
        "cuCtxPushCurrent_v2=cuCtxPushCurrent cuCtxPopCurrent_v2=cuCtxPopCurrent "
        "cuCtxSetCurrent cuCtxGetCurrent cuCtxGetId cuCtxGetApiVersion "
        "cuCtxEnablePeerAccess cuCtxDisablePeerAccess",
        "init",
    ),
    *_locals(
        "cuCtxGetDevice cuCtxGetDevice_v2 cuCtxGetFlags cuCtxSetFlags cuCtxGetLimit cuCtxSetLimit "
        "cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetSharedMemConfig cuCtxSetSharedMemConfig "
        "cuCtxGetStreamPriorityRange cuCtxResetPersistingL2Cache",
        "context",
    ),
    *_core("sync", "ctx_synchronize", "cuCtxSynchronize cuCtxSynchronize_v2"),
    # modules, libraries, kernels, linking
    *_core(
        "sync",
        "module_piece module_load",
        "cuModuleLoad cuModuleLoadData cuModuleLoadDataEx cuModuleLoadFatBinary",
        note="of a fatbin only what the device needs; machine code when it is first used",
    ),
    *_core(
        "sync",
        "module_piece module_load",
        "cuLinkComplete",
        note="loads what was linked, and unloads it, to say what does not fit",
    ),
    *_core(
        "sync",
        "module_piece module_load",
        "cuLibraryLoadData cuLibraryLoadFromFile",
        "session",
        "needs no context",
    ),
    *_core("async", "module_unload", "cuModuleUnload cuLibraryUnload", "init"),
    *_core(
        "async",
        "function_set_attribute",
        "cuFuncSetAttribute",
        note="clusters of more than one block are refused",
    ),
    *_core("async", "function_set_attribute", "cuKernelSetAttribute", "session"),
    *_core(
        "sync",
        "kernel_load",
        "cuFuncLoad",
        "context",
        note="of a kernel of a large PTX text on the device cpu; any other first use does, too",
    ),
    *_locals(
        "cuLibraryGetKernel cuLibraryGetKernelCount cuLibraryEnumerateKernels cuKernelGetLibrary "
        "cuKernelGetAttribute cuKernelSetCacheConfig cuKernelGetName cuKernelGetParamInfo "
        "cuKernelGetParamCount",
        "init",
    ),
    *_locals(
        "cuModuleGetFunction cuModuleGetFunctionCount cuModuleEnumerateFunctions "
        "cuModuleGetGlobal_v2 cuFuncGetAttribute cuFuncSetCacheConfig cuFuncSetSharedMemConfig "
        "cuFuncGetModule cuFuncGetName cuFuncGetParamInfo cuFuncGetParamCount cuFuncIsLoaded "
        "cuLibraryGetModule cuLibraryGetGlobal cuLibraryGetManaged cuKernelGetFunction "
        "cuLinkCreate_v2=cuLinkCreate cuLinkAddData_v2=cuLinkAddData "
        "cuLinkAddFile_v2=cuLinkAddFile cuLinkDestroy "
        "cuOccupancyMaxActiveBlocksPerMultiprocessor "
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize "
        "cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyAvailableDynamicSMemPerBlock "
        "cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize",
        "context",
    ),
    # memory
    *_core("async", "mem_alloc", "cuMemAlloc_v2 cuMemAllocPitch_v2"),
    *_core("async", "mem_free", "cuMemFree_v2", "init"),
    *_core(
        "async",
        "mem_alloc",
        "cuMemAllocAsync=cuMemAllocAsync_ptsz "
        "cuMemAllocFromPoolAsync=cuMemAllocFromPoolAsync_ptsz",
    ),
    *_core("async", "mem_free", "cuMemFreeAsync=cuMemFreeAsync_ptsz"),
    *_locals(
        "cuMemAddressReserve cuMemAddressFree cuMemGetAllocationGranularity "
        "cuMemGetAllocationPropertiesFromHandle cuMemRetainAllocationHandle cuMemGetAccess",
        "init",
    ),
    *_core(
        "async",
        "mem_create",
        "cuMemCreate",
        "session",
        "on the device; may ask for a file descriptor, which nothing exports",
    ),
    *_core("async", "mem_release", "cuMemRelease", "init"),
    *_core(
        "async", "mem_map", "cuMemMap", "session", "in a reserved range, at multiples of 2 MiB"
    ),
    *_core("async", "mem_unmap mem_release", "cuMemUnmap", "session"),
    *_core("async", "mem_access", "cuMemSetAccess", "session"),
    *_locals(
        "cuMemGetInfo_v2 cuMemGetAddressRange_v2 cuMemAllocHost_v2 cuMemHostAlloc "
        "cuMemHostRegister_v2=cuMemHostRegister cuMemHostGetFlags "
        "cuPointerGetAttribute cuPointerGetAttributes cuPointerSetAttribute",
        "context",
    ),
    *_locals(
        "cuMemFreeHost cuMemHostUnregister cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute "
        "cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPoolSetAccess cuMemPoolGetAccess "
        "cuMemGetDefaultMemPool cuMemGetMemPool cuMemSetMemPool",
        "init",
    ),
    *_core(
        "local",
        "",
        "cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync=cuMemPrefetchAsync_ptsz "
        "cuMemPrefetchAsync_v2=cuMemPrefetchAsync_v2_ptsz cuMemRangeGetAttribute "
        "cuMemPrefetchBatchAsync=cuMemPrefetchBatchAsync_ptsz "
        "cuMemDiscardBatchAsync=cuMemDiscardBatchAsync_ptsz "
        "cuMemDiscardAndPrefetchBatchAsync=cuMemDiscardAndPrefetchBatchAsync_ptsz "
        "cuMemRangeGetAttributes cuStreamAttachMemAsync=cuStreamAttachMemAsync_ptsz",
        "context",
        "INVALID_VALUE: no memory is managed",
    ),
    *_core(
        "async",
        "memcpy_htod",
        "cuMemcpyHtoD_v2=cuMemcpyHtoD_v2_ptds cuMemcpyHtoDAsync_v2=cuMemcpyHtoDAsync_v2_ptsz",
        note="the data is taken before the call returns",
    ),
    *_core("sync", "memcpy_dtoh", "cuMemcpyDtoH_v2=cuMemcpyDtoH_v2_ptds"),
    *_core(
        "async",
        "memcpy_dtoh",
        "cuMemcpyDtoHAsync_v2=cuMemcpyDtoHAsync_v2_ptsz",
        note="waits where the destination is not pinned",
    ),
    *_core(
        "async",
        "memcpy_dtod",
        "cuMemcpyDtoD_v2=cuMemcpyDtoD_v2_ptds cuMemcpyDtoDAsync_v2=cuMemcpyDtoDAsync_v2_ptsz",
    ),
    *_core(
        "sync",
        "memcpy_htod memcpy_dtoh memcpy_dtod",
        "cuMemcpy=cuMemcpy_ptds cuMemcpyAsync=cuMemcpyAsync_ptsz "
        "cuMemcpy2D_v2=cuMemcpy2D_v2_ptds cuMemcpy2DUnaligned_v2=cuMemcpy2DUnaligned_v2_ptds "
        "cuMemcpy2DAsync_v2=cuMemcpy2DAsync_v2_ptsz cuMemcpy3D_v2=cuMemcpy3D_v2_ptds "
        "cuMemcpy3DAsync_v2=cuMemcpy3DAsync_v2_ptsz",
        note="waits only where data comes to the host",
    ),
    *_memsets(),
    *_core(
        "sync",
        "memcpy_htod memcpy_dtoh memcpy_dtod",
        "cuMemcpyBatchAsync=cuMemcpyBatchAsync_ptsz "
        "cuMemcpyBatchAsync_v2=cuMemcpyBatchAsync_v2_ptsz "
        "cuMemcpyWithAttributesAsync=cuMemcpyWithAttributesAsync_ptsz "
        "cuMemcpy3DBatchAsync=cuMemcpy3DBatchAsync_ptsz "
        "cuMemcpy3DBatchAsync_v2=cuMemcpy3DBatchAsync_v2_ptsz "
        "cuMemcpy3DWithAttributesAsync=cuMemcpy3DWithAttributesAsync_ptsz",
        note="as one copy after the other",
    ),
    # arrays and textures
    *_core(
        "async",
        "mem_alloc",
        "cuArrayCreate_v2 cuArray3DCreate_v2",
        note="rows with a pitch in device memory; no layers, cube maps, sparse arrays; formats of "
        "8, 16 and 32 bits",
    ),
    *_core("async", "mem_free", "cuArrayDestroy", "init"),
    *_locals("cuArrayGetDescriptor_v2 cuArray3DGetDescriptor_v2", "init"),
    *_core(
        "async",
        "memcpy_htod",
        "cuMemcpyHtoA_v2=cuMemcpyHtoA_v2_ptds cuMemcpyHtoAAsync_v2=cuMemcpyHtoAAsync_v2_ptsz",
    ),
    *_core(
        "sync",
        "memcpy_dtoh",
        "cuMemcpyAtoH_v2=cuMemcpyAtoH_v2_ptds cuMemcpyAtoHAsync_v2=cuMemcpyAtoHAsync_v2_ptsz",
    ),
    *_core(
        "async",
        "memcpy_dtod",
        "cuMemcpyDtoA_v2=cuMemcpyDtoA_v2_ptds cuMemcpyAtoD_v2=cuMemcpyAtoD_v2_ptds "
        "cuMemcpyAtoA_v2=cuMemcpyAtoA_v2_ptds",
    ),
    *_core(
        "sync",
        "texture_create",
        "cuTexObjectCreate",
        note="arrays (the device gpu: of rows), linear memory, rows with a pitch; no sRGB",
    ),
    *_core("async", "texture_destroy", "cuTexObjectDestroy cuSurfObjectDestroy"),
    *_core(
        "sync",
        "texture_create",
        "cuSurfObjectCreate",
        note="arrays made for it (flag 2), not on the device gpu",
    ),
    *_locals(
        "cuTexObjectGetResourceDesc cuTexObjectGetTextureDesc cuTexObjectGetResourceViewDesc "
        "cuSurfObjectGetResourceDesc",
        "init",
    ),
    # streams
    *_core(
        "async",
        "memset memcpy_htod",
        "cuStreamWriteValue32_v2=cuStreamWriteValue32=cuStreamWriteValue32_ptsz="
        "cuStreamWriteValue32_v2_ptsz "
        "cuStreamWriteValue64_v2=cuStreamWriteValue64=cuStreamWriteValue64_ptsz="
        "cuStreamWriteValue64_v2_ptsz",
        note="to page-locked memory: when the stream's work is done, which is waited for",
    ),
    *_core(
        "sync",
        "ctx_synchronize memcpy_dtoh",
        "cuStreamWaitValue32_v2=cuStreamWaitValue32=cuStreamWaitValue32_ptsz="
        "cuStreamWaitValue32_v2_ptsz "
        "cuStreamWaitValue64_v2=cuStreamWaitValue64=cuStreamWaitValue64_ptsz="
        "cuStreamWaitValue64_v2_ptsz",
        note="for what the calls before it bring; NOT_SUPPORTED where it takes a later call",
    ),
    *_core(
        "sync",
        "memset memcpy_htod ctx_synchronize memcpy_dtoh",
        "cuStreamBatchMemOp_v2=cuStreamBatchMemOp=cuStreamBatchMemOp_ptsz="
        "cuStreamBatchMemOp_v2_ptsz",
        note="values written and waited for, barriers",
    ),
    *_core("async", "stream_create", "cuStreamCreate cuStreamCreateWithPriority"),
    *_core("async", "stream_destroy", "cuStreamDestroy_v2=cuStreamDestroy", "init"),
    *_core(
        "sync",
        "stream_synchronize",
        "cuStreamSynchronize=cuStreamSynchronize_ptsz",
    ),
    *_core("sync", "stream_query", "cuStreamQuery=cuStreamQuery_ptsz"),
    *_core(
        "async",
        "stream_wait_event",
        "cuStreamWaitEvent=cuStreamWaitEvent_ptsz",
        note="flag 1 (external): a node of the graph that is captured",
    ),
    *_locals(
        "cuStreamGetPriority=cuStreamGetPriority_ptsz cuStreamGetFlags=cuStreamGetFlags_ptsz "
        "cuStreamGetId=cuStreamGetId_ptsz cuStreamGetCtx=cuStreamGetCtx_ptsz "
        "cuStreamGetAttribute=cuStreamGetAttribute_ptsz "
        "cuStreamSetAttribute=cuStreamSetAttribute_ptsz "
        "cuStreamCopyAttributes=cuStreamCopyAttributes_ptsz "
        "cuStreamGetCtx_v2=cuStreamGetCtx_v2_ptsz cuStreamGetDevice=cuStreamGetDevice_ptsz "
        "cuStreamBeginCapture=cuStreamBeginCapture_ptsz "
        "cuStreamBeginCapture_v2=cuStreamBeginCapture_v2_ptsz "
        "cuStreamBeginCaptureToGraph=cuStreamBeginCaptureToGraph_ptsz "
        "cuStreamEndCapture=cuStreamEndCapture_ptsz "
        "cuStreamUpdateCaptureDependencies=cuStreamUpdateCaptureDependencies_ptsz "
        "cuStreamUpdateCaptureDependencies_v2=cuStreamUpdateCaptureDependencies_v2_ptsz "
        "cuStreamIsCapturing=cuStreamIsCapturing_ptsz "
        "cuStreamGetCaptureInfo=cuStreamGetCaptureInfo_ptsz "
        "cuStreamGetCaptureInfo_v2=cuStreamGetCaptureInfo_v2_ptsz "
        "cuStreamGetCaptureInfo_v3=cuStreamGetCaptureInfo_v3_ptsz "
        "cuThreadExchangeStreamCaptureMode",
        "context",
    ),
    *_core(
        "sync",
        "stream_synchronize",
        "cuLaunchHostFunc=cuLaunchHostFunc_ptsz cuLaunchHostFunc_v2=cuLaunchHostFunc_v2_ptsz "
        "cuStreamAddCallback=cuStreamAddCallback_ptsz",
        note="waits for the stream; the function runs in a thread of its own, and what the "
        "program queues after it waits until it has returned",
    ),
    # events
    *_core("async", "event_create", "cuEventCreate"),
    *_core("async", "event_destroy", "cuEventDestroy_v2=cuEventDestroy", "init"),
    *_core(
        "async",
        "event_record",
        "cuEventRecord=cuEventRecord_ptsz cuEventRecordWithFlags=cuEventRecordWithFlags_ptsz",
    ),
    *_core("sync", "ctx_synchronize event_record", "cuCtxRecordEvent"),
    *_core("sync", "event_synchronize", "cuCtxWaitEvent"),
    *_core("sync", "event_synchronize", "cuEventSynchronize"),
    *_core("sync", "event_query", "cuEventQuery"),
    *_core("sync", "event_elapsed_ms", "cuEventElapsedTime_v2=cuEventElapsedTime"),
    # launches
    *_core(
        "async",
        "launch",
        "cuLaunchKernel=cuLaunchKernel_ptsz cuLaunchKernelEx cuLaunchKernelEx_ptsz "
        "cuLaunchCooperativeKernel=cuLaunchCooperativeKernel_ptsz",
        note="no clusters",
    ),
    # graphs: templates that the shim keeps; the server has what was instantiated
    *_locals("cuGraphCreate cuGraphDestroy cuGraphClone cuGraphDestroyNode", "session"),
    *_core(
        "local",
        "",
        "cuGraphAddKernelNode_v2 cuGraphAddKernelNode",
        note="a grid or block of 0 may be set later; such a graph is not instantiated",
    ),
    *_core(
        "local",
        "",
        "cuGraphAddMemcpyNode",
        note="from and to host memory and arrays the shim copies, when the graph is launched",
    ),
    *_locals(
        "cuGraphAddMemsetNode cuGraphAddChildGraphNode cuGraphAddEventRecordNode "
        "cuGraphAddEventWaitNode cuGraphKernelNodeSetParams_v2 cuGraphKernelNodeSetParams "
        "cuGraphMemcpyNodeSetParams cuGraphMemsetNodeSetParams",
        "operator",
    ),
    *_core(
        "local",
        "",
        "cuGraphAddHostNode",
        note="called by a thread of the shim, as cuLaunchHostFunc's, when the graph is launched",
    ),
    *_locals("cuGraphAddEmptyNode", "session"),
    *_core(
        "local",
        "",
        "cuGraphAddNode cuGraphAddNode_v2=cuGraphAddNode_v3",
        note="kernels, copies, fills, host functions, child graphs, events and empty nodes; "
        "edges without data",
    ),
    *_core(
        "local",
        "",
        "cuGraphNodeSetParams=cuGraphNodeSetParams_v2",
        note="kernels, copies, fills, host functions and events",
    ),
    *_locals(
        "cuGraphAddDependencies cuGraphAddDependencies_v2 cuGraphRemoveDependencies "
        "cuGraphRemoveDependencies_v2 cuGraphNodeFindInClone cuGraphNodeGetContainingGraph "
        "cuGraphGetNodes cuGraphGetRootNodes cuGraphGetEdges cuGraphGetEdges_v2 "
        "cuGraphNodeGetDependencies cuGraphNodeGetDependencies_v2 cuGraphNodeGetDependentNodes "
        "cuGraphNodeGetDependentNodes_v2 cuGraphNodeGetType cuGraphNodeGetParams "
        "cuGraphKernelNodeGetParams cuGraphKernelNodeGetParams_v2 cuGraphMemcpyNodeGetParams "
        "cuGraphMemsetNodeGetParams cuGraphHostNodeGetParams cuGraphHostNodeSetParams "
        "cuGraphChildGraphNodeGetGraph cuGraphEventRecordNodeGetEvent "
        "cuGraphEventRecordNodeSetEvent cuGraphEventWaitNodeGetEvent cuGraphEventWaitNodeSetEvent "
        "cuGraphKernelNodeGetAttribute cuGraphKernelNodeSetAttribute "
        "cuGraphKernelNodeCopyAttributes cuGraphGetId cuGraphNodeGetLocalId "
        "cuGraphNodeGetToolsId cuGraphExecGetId cuGraphExecGetFlags cuGraphNodeGetEnabled "
        "cuGraphDebugDotPrint",
        "init",
    ),
    *_locals(
        "cuUserObjectCreate cuUserObjectRetain cuUserObjectRelease cuGraphRetainUserObject "
        "cuGraphReleaseUserObject",
        "init",
    ),
    *_core(
        "async",
        "graph_create graph_add_kernel_node graph_add_memcpy_node graph_add_memset_node "
        "graph_add_empty_node graph_instantiate graph_destroy",
        "cuGraphInstantiate_v2=cuGraphInstantiate cuGraphInstantiateWithFlags "
        "cuGraphInstantiateWithParams=cuGraphInstantiateWithParams_ptsz",
        note="a graph for the server for each stretch of nodes that need no robot",
    ),
    *_core("async", "graph_exec_destroy", "cuGraphExecDestroy", "session"),
    *_core(
        "async",
        "graph_exec_kernel_node_set",
        "cuGraphExecKernelNodeSetParams_v2 cuGraphExecKernelNodeSetParams",
    ),
    *_core("async", "graph_exec_memcpy_node_set", "cuGraphExecMemcpyNodeSetParams"),
    *_core("async", "graph_exec_memset_node_set", "cuGraphExecMemsetNodeSetParams"),
    *_core(
        "async",
        "graph_exec_kernel_node_set graph_exec_memcpy_node_set graph_exec_memset_node_set",
        "cuGraphExecNodeSetParams cuGraphExecChildGraphNodeSetParams cuGraphExecUpdate "
        "cuGraphExecUpdate_v2",
    ),
    *_locals(
        "cuGraphExecHostNodeSetParams cuGraphExecEventRecordNodeSetEvent "
        "cuGraphExecEventWaitNodeSetEvent",
        "operator",
    ),
    *_core(
        "local",
        "",
        "cuGraphNodeSetEnabled",
        "operator",
        "the graph is made anew at its next launch",
    ),
    *_core(
        "async",
        "graph_launch memcpy_htod memcpy_dtoh launch event_record stream_wait_event",
        "cuGraphLaunch=cuGraphLaunch_ptsz",
        note="one graph_launch, unless nodes need the robot",
    ),
    *_locals("cuGraphUpload=cuGraphUpload_ptsz", "context"),
)
"""Every supported call. What frees or destroys needs no current context, as with CUDA itself."""

WHILE_CAPTURING: dict[str, tuple[str, ...]] = {
    "unsafe": (
        "cuMemAlloc_v2", "cuMemAllocPitch_v2", "cuMemFree_v2", "cuMemAllocHost_v2",
        "cuMemHostAlloc", "cuMemFreeHost", "cuMemHostRegister_v2", "cuMemHostUnregister",
        "cuStreamSynchronize", "cuStreamQuery", "cuArrayCreate_v2", "cuArray3DCreate_v2",
        "cuArrayDestroy",
    ),
    "legacy": (
        "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpyDtoD_v2", "cuMemcpy", "cuMemcpy2D_v2",
        "cuMemcpy2DUnaligned_v2", "cuMemcpy3D_v2", "cuMemcpyHtoA_v2", "cuMemcpyAtoH_v2",
        "cuMemcpyDtoA_v2", "cuMemcpyAtoD_v2", "cuMemcpyAtoA_v2",
        *(f"cuMemset{d}{bits}_v2" for d in ("D", "D2D") for bits in (8, 16, 32)),
    ),
    "capture": (
        "cuCtxSynchronize", "cuCtxSynchronize_v2", "cuCtxRecordEvent", "cuCtxWaitEvent",
    ),
}  # fmt: skip
"""Calls that may not be made while a stream is captured, by what they break: sequences that
their mode protects ("unsafe"), those of blocking streams, by using the legacy stream ("legacy";
not the `_ptds` exports, whose default stream is the thread's), any ("capture")."""

EXTRA_EXPORTS: dict[str, tuple[tuple[str, str], ...]] = {
    "cuProfilerInitialize": (),
    "cuProfilerStart": (),
    "cuProfilerStop": (),
    "cuGraphicsGLRegisterBuffer": (),
    "cuGraphicsGLRegisterImage": (),
}
"""Exports whose prototypes are in no header of the wheels: arguments as (type, name)."""
EXTRA_SINCE: dict[str, int] = {
    name: 4000 if "Profiler" in name else 3000 for name in EXTRA_EXPORTS
}
"""CUDA version that has them first."""

UNSUPPORTED_NOTES: dict[str, str] = {
    "cuMemAllocManaged": "memory is not shared between robot and server",
    "cuMemHostGetDevicePointer_v2": "memory is not shared between robot and server",
    "cuMemExportToShareableHandle": "a session belongs to one process",
    "cuMemPoolExportToShareableHandle": "a session belongs to one process",
    "cuMulticastCreate": "there is one device",
    "cuGraphicsGLRegisterBuffer": "the screen is the robot's, the device the server's",
    "cuIpcGetMemHandle": "a session belongs to one process",
    "cuLaunchCooperativeKernelMultiDevice": "there is one device",
    "cuStreamBeginRecaptureToGraph": "capture anew and update the executable graph",
    "cuGraphAddBatchMemOpNode": "a graph waits for no values",
    "cuGraphAddMemAllocNode": "allocate before the graph is made, from a pool or not",
    "cuGraphConditionalHandleCreate": "a graph's nodes do not depend on what others compute",
    "cuMemGetLocationInfo": "memory does not move",
    "cuMipmappedArrayCreate": "arrays have one level",
    "cuSurfRefSetArray": "surface references are gone from CUDA 12; there are surface objects",
    "cuTexRefCreate": "texture references are gone from CUDA 12; there are texture objects",
    "cuLogsRegisterCallback": "what the shim has to say goes to stderr and the session's report",
    "cuCoredumpSetAttribute": "a kernel's memory is the server's",
    "cuFlushGPUDirectRDMAWrites": "nothing but the driver writes to the device's memory",
    "cuMemAlloc": "the 32-bit interface of CUDA 2 (sizes and addresses of 32 bits), as cuMemFree, "
    "cuMemcpyHtoD, cuMemsetD8, cuArrayCreate and others without _v2; programs get those with it",
}
"""Why a call that a reader may look for is not supported."""
