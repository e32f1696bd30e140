"""Types of the stand-in for `cuda.bindings.driver`: handles, structures and enumerations."""

from enum import IntEnum

from rrto_ros.api.results import CUresult


class Handle:
    """A handle of one type, as the bindings have them: made of a number, equal by number."""

    def __init__(self, value=0):
        self.value = int(value)

    def __int__(self):
        return self.value

    def __index__(self):
        return self.value

    def __eq__(self, other):
        return type(self) is type(other) and self.value == other.value

    def __hash__(self):
        return hash((type(self).__name__, self.value))

    def __repr__(self):
        return f"<{type(self).__name__} {self.value:#x}>"


HANDLES = {
    name: type(name, (Handle,), {})
    for name in (
        "CUdeviceptr", "CUdevice", "CUcontext", "CUstream", "CUevent", "CUmodule", "CUfunction",
        "CUgraph", "CUgraphNode", "CUgraphExec", "CUmemGenericAllocationHandle",
        "CUlinkState",
    )
}  # fmt: skip


class Struct:
    """A structure whose members are fixed, as in the bindings."""

    MEMBERS = ()

    def __init__(self):
        for name in self.MEMBERS:
            object.__setattr__(self, name, 0)

    def __setattr__(self, name, value):
        if name not in self.MEMBERS:
            raise AttributeError(f"{type(self).__name__} has no member {name}")
        object.__setattr__(self, name, value)


class CUmemLocation(Struct):
    MEMBERS = ("type", "id")


class _Located(Struct):
    def __init__(self):
        super().__init__()
        object.__setattr__(self, "location", CUmemLocation())


class CUmemAllocationProp(_Located):
    MEMBERS = ("type", "location", "requestedHandleTypes", "allocFlags")


class CUmemAccessDesc(_Located):
    MEMBERS = ("location", "flags")


class CUDA_KERNEL_NODE_PARAMS(Struct):  # noqa: N801 the bindings' name
    MEMBERS = (
        "func", "gridDimX", "gridDimY", "gridDimZ", "blockDimX", "blockDimY", "blockDimZ",
        "sharedMemBytes", "kernelParams", "extra", "kern", "ctx",
    )  # fmt: skip


class CUDA_MEMCPY3D(Struct):  # noqa: N801
    MEMBERS = (
        "srcMemoryType", "dstMemoryType", "srcDevice", "dstDevice", "WidthInBytes", "Height",
        "Depth",
    )  # fmt: skip


class CUDA_MEMSET_NODE_PARAMS(Struct):  # noqa: N801
    MEMBERS = ("dst", "pitch", "value", "elementSize", "width", "height")


class CUuuid(Struct):
    MEMBERS = ("bytes",)


STRUCTS = {
    c.__name__: c
    for c in (
        CUmemAllocationProp, CUmemAccessDesc, CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D,
        CUDA_MEMSET_NODE_PARAMS, CUuuid,
    )
}  # fmt: skip

_P = "CU_DEVICE_ATTRIBUTE_"
ENUMS = {
    "CUresult": IntEnum(
        "CUresult",
        {
            "CUDA_SUCCESS" if not c else f"CUDA_ERROR_{c.name}": int(c) for c in CUresult
        },
    ),
    "CUdevice_attribute": IntEnum(
        "CUdevice_attribute",
        {
            _P + "MAX_THREADS_PER_BLOCK": 1, _P + "WARP_SIZE": 10,
            _P + "MULTIPROCESSOR_COUNT": 16, _P + "COMPUTE_CAPABILITY_MAJOR": 75,
            _P + "COMPUTE_CAPABILITY_MINOR": 76, _P + "MANAGED_MEMORY": 83,
            _P + "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED": 102, _P + "MEMORY_POOLS_SUPPORTED": 115,
        },
    ),
    "CUfunction_attribute": IntEnum(
        "CUfunction_attribute",
        {
            "CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": 0,
            "CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES": 1,
            "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": 8,
            "CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET": 10,
        },
    ),
    "CUjit_option": IntEnum(
        "CUjit_option",
        {"CU_JIT_ERROR_LOG_BUFFER": 5, "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES": 6},
    ),
    "CUjitInputType": IntEnum(
        "CUjitInputType",
        {"CU_JIT_INPUT_CUBIN": 0, "CU_JIT_INPUT_PTX": 1, "CU_JIT_INPUT_FATBINARY": 2,
         "CU_JIT_INPUT_OBJECT": 3, "CU_JIT_INPUT_LIBRARY": 4},
    ),
    "CUmemAllocationType": IntEnum(
        "CUmemAllocationType", {"CU_MEM_ALLOCATION_TYPE_PINNED": 1}
    ),
    "CUmemLocationType": IntEnum("CUmemLocationType", {"CU_MEM_LOCATION_TYPE_DEVICE": 1}),
    "CUmemAccess_flags": IntEnum(
        "CUmemAccess_flags",
        {"CU_MEM_ACCESS_FLAGS_PROT_NONE": 0, "CU_MEM_ACCESS_FLAGS_PROT_READ": 1,
         "CU_MEM_ACCESS_FLAGS_PROT_READWRITE": 3},
    ),
    "CUmemAllocationGranularity_flags": IntEnum(
        "CUmemAllocationGranularity_flags",
        {"CU_MEM_ALLOC_GRANULARITY_MINIMUM": 0, "CU_MEM_ALLOC_GRANULARITY_RECOMMENDED": 1},
    ),
    "CUmemorytype": IntEnum("CUmemorytype", {"CU_MEMORYTYPE_DEVICE": 2}),
}  # fmt: skip
