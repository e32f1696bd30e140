"""Kernel launches: owns how packed arguments reach the driver, alone and in graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from rrto_ros.api.info import KernelInfo
from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.allocations import Allocations
from rrto_ros.devices.gpu.driver import Driver, unknown_result
from rrto_ros.devices.gpu.modules import Modules
from rrto_ros.devices.protocol import GraphNode, Launch, MemcpyNode, MemsetNode, check_fill
from rrto_ros.errors import CudaError

MAX_ARGUMENT_BYTES = 32764
"""Largest argument buffer of any kernel (CUDA 12.1 and later)."""
_PADDING = 16
_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0


class Arguments:
    """One argument buffer in the form that `extra` wants; the driver copies it at each call."""

    def __init__(self) -> None:
        self._bytes = (ctypes.c_ubyte * (MAX_ARGUMENT_BYTES + _PADDING))()
        self._view = memoryview(self._bytes).cast("B")
        self._size = ctypes.c_size_t()
        self._base = ctypes.addressof(self._bytes)
        self._extra = (ctypes.c_void_p * 5)(
            _BUFFER_POINTER, self._base, _BUFFER_SIZE, ctypes.addressof(self._size), _END
        )
        self._extra_at = ctypes.addressof(self._extra)
        self._pointers = (ctypes.c_void_p * 1)()

    def packed(self, params: bytes, size: int) -> int:
        """Address of `extra` for the first `size` bytes of `params`; 0 for none.

        A kernel without parameters gets neither array: nothing says that an empty buffer is one.
        """
        if not size:
            return 0
        self._view[:size] = params[:size]
        self._size.value = size
        return self._extra_at

    def pointers(self, params: bytes, layout: Sequence[tuple[int, int]]) -> int:
        """Address of an array of pointers, one per parameter; 0 for none."""
        self._view[: len(params)] = params
        if not layout:
            return 0
        self._pointers = (ctypes.c_void_p * len(layout))(*(self._base + at for at, _ in layout))
        return ctypes.addressof(self._pointers)


class Launcher:
    """Starts kernels and makes graph nodes of them.

    Args:
        driver: With a current context.
        context: That CUcontext, which copy nodes name.
        modules: Where kernels are found.
        allocations: Checks the ranges of copies and fills.

    Attributes:
        launches: How many kernels were started, those of graphs not counted.
    """

    def __init__(
        self, driver: Driver, context: Any, modules: Modules, allocations: Allocations
    ) -> None:
        self._driver = driver
        self._context = context
        self._modules = modules
        self._allocations = allocations
        self._arguments = Arguments()
        self._launch = driver.function("cuLaunchKernel")
        self.launches = 0

    def launch(self, launch: Launch, stream: Any) -> None:
        """Start a kernel.

        Raises:
            CudaError: INVALID_VALUE or INVALID_HANDLE for what cannot be launched, or the
                driver's error.
        """
        _, function, kernel = self._modules.kernel(launch.module, launch.kernel)
        size = check_arguments(kernel, launch.params)
        self._driver.check_sound()
        grid, block = launch.grid, launch.block
        if launch.cooperative:
            self._driver.call(
                "cuLaunchCooperativeKernel", function, *grid, *block, launch.shared_bytes, stream,
                self._arguments.pointers(launch.params[:size], kernel.params),
            )  # fmt: skip
        else:
            try:
                code = self._launch(
                    function, grid[0], grid[1], grid[2], block[0], block[1], block[2],
                    launch.shared_bytes, stream, 0, self._arguments.packed(launch.params, size),
                )[0]  # fmt: skip
            except (KeyError, ValueError) as error:
                code = unknown_result(error)
            if code:
                raise self._driver.error(int(code), f"launch of {kernel.name}")
        self.launches += 1

    def add_node(self, graph: Any, dependencies: Sequence[Any], work: GraphNode) -> Any:
        """Add a node to a CUgraph; returns the CUgraphNode."""
        waits = list(dependencies)
        call, count = self._driver.call, len(waits)
        if isinstance(work, Launch):
            return call("cuGraphAddKernelNode", graph, waits, count, self._kernel_node(work))
        if isinstance(work, MemcpyNode):
            node = self._copy_node(work)
            return call("cuGraphAddMemcpyNode", graph, waits, count, node, self._context)
        if isinstance(work, MemsetNode):
            node = self._fill_node(work)
            return call("cuGraphAddMemsetNode", graph, waits, count, node, self._context)
        return call("cuGraphAddEmptyNode", graph, waits, count)

    def set_exec_node(self, executable: Any, node: Any, work: GraphNode) -> None:
        """Change what a node does in the next launches of an executable graph."""
        call = self._driver.call
        if isinstance(work, Launch):
            made = self._kernel_node(work)
            call("cuGraphExecKernelNodeSetParams", executable, node, made)
        elif isinstance(work, MemcpyNode):
            made = self._copy_node(work)
            call("cuGraphExecMemcpyNodeSetParams", executable, node, made, self._context)
        elif isinstance(work, MemsetNode):
            made = self._fill_node(work)
            call("cuGraphExecMemsetNodeSetParams", executable, node, made, self._context)

    def _kernel_node(self, work: Launch) -> Any:
        _, function, kernel = self._modules.kernel(work.module, work.kernel)
        size = check_arguments(kernel, work.params)
        if work.cooperative:
            raise CudaError(
                CUresult.NOT_SUPPORTED, f"{kernel.name}: no cooperative launches in graphs"
            )
        made = self._driver.module.CUDA_KERNEL_NODE_PARAMS()
        made.func = function
        made.gridDimX, made.gridDimY, made.gridDimZ = work.grid
        made.blockDimX, made.blockDimY, made.blockDimZ = work.block
        made.sharedMemBytes = work.shared_bytes
        made.extra = self._arguments.packed(work.params, size)
        return made

    def _copy_node(self, work: MemcpyNode) -> Any:
        self._allocations.check(work.dst, work.bytes, READ_WRITE)
        self._allocations.check(work.src, work.bytes)
        cuda = self._driver.module
        made = cuda.CUDA_MEMCPY3D()
        made.srcMemoryType = made.dstMemoryType = cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
        made.srcDevice = cuda.CUdeviceptr(work.src)
        made.dstDevice = cuda.CUdeviceptr(work.dst)
        made.WidthInBytes, made.Height, made.Depth = work.bytes, 1, 1
        return made

    def _fill_node(self, work: MemsetNode) -> Any:
        size = check_fill(work)
        if size:
            self._allocations.check(work.dst, size, READ_WRITE)
        cuda = self._driver.module
        made = cuda.CUDA_MEMSET_NODE_PARAMS()
        made.dst = cuda.CUdeviceptr(work.dst)
        made.pitch, made.value = work.pitch, work.value & (1 << 8 * work.element_bytes) - 1
        made.elementSize, made.width, made.height = work.element_bytes, work.width, work.height
        return made


def check_arguments(kernel: KernelInfo, params: bytes) -> int:
    """Bytes of `params` that the kernel takes.

    Raises:
        CudaError: INVALID_VALUE if they do not fit; a packed buffer may be padded to the
            alignment of its largest member.
    """
    wanted = kernel.param_bytes
    if not wanted <= len(params) <= -(-wanted // _PADDING) * _PADDING:
        raise CudaError(
            CUresult.INVALID_VALUE,
            f"launch of {kernel.name}: {len(params)} bytes of arguments, the kernel has {wanted}",
        )
    return wanted
