/* What a program may ask about the driver and the device, answered from the description that came
 * when the session opened. */
#include <stdio.h>
#include <string.h>

#include "procs.h"
#include "module.h"

enum { DEFAULT_VERSION = 13050, LAST_ATTRIBUTE = 161 /* of CUDA 13.5 */ };

#define S rrto_session

/* Device attributes that promise what this shim does not carry: always "no". */
static const unsigned char not_here[] = {
    19,  /* CAN_MAP_HOST_MEMORY */
    83,  /* MANAGED_MEMORY */
    86,  /* HOST_NATIVE_ATOMIC_SUPPORTED */
    88,  /* PAGEABLE_MEMORY_ACCESS */
    89,  /* CONCURRENT_MANAGED_ACCESS */
    91,  /* CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM */
    92,  93,  94, 96, 122, 123, /* stream memory operations, multi-device launch */
    98,  /* CAN_FLUSH_REMOTE_WRITES */
    100, /* PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES */
    101, /* DIRECT_MANAGED_MEM_ACCESS_FROM_HOST */
    103, 104, 105, /* handles of virtual memory management */
    107, /* GENERIC_COMPRESSION_SUPPORTED */
    110, /* GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED */
    112, /* SPARSE_CUDA_ARRAY_SUPPORTED */
    114, /* TIMELINE_SEMAPHORE_INTEROP_SUPPORTED */
    116, 117, 118, /* GPUDirect RDMA */
    119, /* MEMPOOL_SUPPORTED_HANDLE_TYPES */
    120, /* CLUSTER_LAUNCH */
    121, /* DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED */
    124, /* DMA_BUF_SUPPORTED */
    125, /* IPC_EVENT_SUPPORTED */
    127, /* TENSOR_MAP_ACCESS_SUPPORTED */
    128, /* HANDLE_TYPE_FABRIC_SUPPORTED */
    129, /* UNIFIED_FUNCTION_POINTERS */
    132, /* MULTICAST_SUPPORTED */
};

int rrto_attribute(int id)
{
    for (size_t i = 0; i < sizeof not_here; i++)
        if (not_here[i] == id)
            return 0;
    if (id == 41 || id == 115) /* UNIFIED_ADDRESSING, MEMORY_POOLS_SUPPORTED: done here */
        return 1;
    if (id == 75)
        return S.major;
    if (id == 76)
        return S.minor;
    for (uint32_t i = 0; i < S.attribute_count; i++)
        if (S.attributes[i].id == id)
            return S.attributes[i].value;
    return 0;
}

CUresult rrto_cuDriverGetVersion(int *driverVersion)
{
    if (!driverVersion)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_connect();
    *driverVersion = result ? DEFAULT_VERSION : S.driver_version;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGetErrorName(CUresult error, const char **pStr)
{
    if (!pStr)
        return CUDA_INVALID_VALUE;
    *pStr = rrto_error_name(error);
    return *pStr ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGetErrorString(CUresult error, const char **pStr)
{
    if (!pStr)
        return CUDA_INVALID_VALUE;
    *pStr = NULL;
    for (unsigned i = 0; i < rrto_error_count; i++)
        if (rrto_errors[i].number == error)
            *pStr = rrto_errors[i].text;
    return *pStr ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

/* The newest version of a name that the program's CUDA version may see. */
CUresult rrto_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion,
                                  cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)
{
    enum { FOUND, NOT_FOUND, VERSION_TOO_LOW, PER_THREAD = 2 };
    if (!symbol || !pfn || flags & ~(cuuint64_t)3)
        return CUDA_INVALID_VALUE;
    *pfn = NULL;
    unsigned low = 0, high = rrto_proc_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (strcmp(rrto_procs[middle].name, symbol) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const struct rrto_proc *best = NULL, *at = rrto_procs + low;
    int known = 0;
    for (; at < rrto_procs + rrto_proc_count && !strcmp(at->name, symbol); at++) {
        known = 1;
        if (at->since > cudaVersion)
            continue;
        if (at->per_thread ? flags & PER_THREAD : !(best && best->per_thread))
            best = at;
    }
    if (symbolStatus)
        *symbolStatus = best ? FOUND : known ? VERSION_TOO_LOW : NOT_FOUND;
    if (!best && known) /* what the driver never had is asked for by the hundred */
        return rrto_refuse(CUDA_NOT_FOUND, "cuGetProcAddress: %.40s of CUDA %d", symbol, cudaVersion);
    if (!best)
        return CUDA_NOT_FOUND;
    memcpy(pfn, &best->symbol, sizeof *pfn);
    return CUDA_SUCCESS;
}

CUresult rrto_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
    return rrto_cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, NULL);
}

/* No profiler can be attached, so starting and stopping one is nothing, as with CUDA itself. */
CUresult rrto_cuProfilerStart(void)
{
    return CUDA_SUCCESS;
}

CUresult rrto_cuProfilerStop(void)
{
    return CUDA_SUCCESS;
}

CUresult rrto_cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    if (!mode)
        return CUDA_INVALID_VALUE;
    *mode = rrto_loads_lazily() ? 2 : 1;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGet(CUdevice *device, int ordinal)
{
    if (!device)
        return CUDA_INVALID_VALUE;
    if (ordinal)
        return CUDA_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGetCount(int *count)
{
    if (!count)
        return CUDA_INVALID_VALUE;
    *count = 1;
    return CUDA_SUCCESS;
}

static CUresult asked(const void *out, CUdevice dev)
{
    return !out ? CUDA_INVALID_VALUE : dev ? CUDA_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGetName(char *name, int len, CUdevice dev)
{
    CUresult result = asked(name, dev);
    if (!result && len < 1)
        result = CUDA_INVALID_VALUE;
    if (!result)
        snprintf(name, (size_t)len, "%s", S.name);
    return result;
}

CUresult rrto_cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
    CUresult result = asked(uuid, dev);
    if (!result)
        memcpy(uuid, S.uuid, 16);
    return result;
}

CUresult rrto_cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
    CUresult result = asked(bytes, dev);
    if (!result)
        *bytes = S.total_bytes;
    return result;
}

CUresult rrto_cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    CUresult result = asked(pi, dev);
    if (!result && (attrib < 1 || attrib > LAST_ATTRIBUTE))
        result = CUDA_INVALID_VALUE;
    if (!result)
        *pi = rrto_attribute(attrib);
    return result;
}

CUresult rrto_cuDeviceGetProperties(CUdevprop *prop, CUdevice dev)
{
    CUresult result = asked(prop, dev);
    if (result)
        return result;
    *prop = (CUdevprop){
        .maxThreadsPerBlock = rrto_attribute(1),
        .maxThreadsDim = {rrto_attribute(2), rrto_attribute(3), rrto_attribute(4)},
        .maxGridSize = {rrto_attribute(5), rrto_attribute(6), rrto_attribute(7)},
        .sharedMemPerBlock = rrto_attribute(8),
        .totalConstantMemory = rrto_attribute(9),
        .SIMDWidth = rrto_attribute(10),
        .memPitch = rrto_attribute(11),
        .regsPerBlock = rrto_attribute(12),
        .clockRate = rrto_attribute(13),
        .textureAlign = rrto_attribute(14),
    };
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    CUresult result = asked(major ? minor : NULL, dev);
    if (!result) {
        *major = S.major;
        *minor = S.minor;
    }
    return result;
}

CUresult rrto_cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    CUresult result = asked(pciBusId, dev);
    if (!result && len < 13)
        result = CUDA_INVALID_VALUE;
    if (!result)
        snprintf(pciBusId, (size_t)len, "%04x:%02x:%02x.0", (unsigned)rrto_attribute(50) & 0xFFFF,
                 (unsigned)rrto_attribute(33) & 0xFF, (unsigned)rrto_attribute(34) & 0xFF);
    return result;
}

CUresult rrto_cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId)
{
    unsigned domain = 0, bus, device, function = 0;
    int end = -1;
    if (!dev || !pciBusId)
        return CUDA_INVALID_VALUE;
    /* domain:bus:device.function, domain:bus:device or bus:device.function */
    if (sscanf(pciBusId, "%x:%x:%x%n.%x%n", &domain, &bus, &device, &end, &function, &end) < 3) {
        domain = 0, end = -1;
        if (sscanf(pciBusId, "%x:%x.%x%n", &bus, &device, &function, &end) < 3)
            return CUDA_INVALID_VALUE;
    }
    if (end < 0 || pciBusId[end])
        return CUDA_INVALID_VALUE;
    if (domain != (unsigned)rrto_attribute(50) || bus != (unsigned)rrto_attribute(33) ||
        device != (unsigned)rrto_attribute(34) || function)
        return CUDA_INVALID_DEVICE;
    *dev = 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
    CUresult result = asked(canAccessPeer, dev | peerDev);
    if (!result)
        *canAccessPeer = 0;
    return result;
}

CUresult rrto_cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                                      CUdevice dstDevice)
{
    if (!value || attrib < 1 || attrib > 5)
        return CUDA_INVALID_VALUE;
    /* There is one device, and CUDA wants two different ones here. */
    (void)srcDevice, (void)dstDevice;
    return CUDA_INVALID_DEVICE;
}

CUresult rrto_cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev)
{
    CUresult result = asked(pi, dev);
    if (!result && type)
        result = CUDA_INVALID_VALUE;
    if (!result)
        *pi = 0;
    return result;
}
