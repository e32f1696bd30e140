/* Questions about abilities that a device behind a network does not have, and about textures. */
#include <string.h>

#include "shim.h"

/* It is there on Windows alone. */
CUresult rrto_cuDeviceGetLuid(char *luid, unsigned int *deviceNodeMask, CUdevice dev)
{
    if (!luid || !deviceNodeMask)
        return CUDA_INVALID_VALUE;
    return dev ? CUDA_INVALID_DEVICE : CUDA_NOT_SUPPORTED;
}

static CUresult check_atomics(const unsigned *capabilities, const CUatomicOperation *operations,
                              unsigned count)
{
    enum { OPERATIONS = 13 };
    if (!capabilities || !operations || !count)
        return CUDA_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++)
        if (operations[i] < 0 || operations[i] >= OPERATIONS)
            return CUDA_INVALID_VALUE;
    return CUDA_SUCCESS;
}

/* Kernels do not reach the host's memory. */
CUresult rrto_cuDeviceGetHostAtomicCapabilities(unsigned int *capabilities,
                                                const CUatomicOperation *operations,
                                                unsigned int count, CUdevice dev)
{
    CUresult result = check_atomics(capabilities, operations, count);
    if (!result && dev)
        result = CUDA_INVALID_DEVICE;
    if (!result)
        memset(capabilities, 0, count * sizeof *capabilities);
    return result;
}

/* There is one device, and CUDA wants two different ones here. */
CUresult rrto_cuDeviceGetP2PAtomicCapabilities(unsigned int *capabilities,
                                               const CUatomicOperation *operations,
                                               unsigned int count, CUdevice srcDevice,
                                               CUdevice dstDevice)
{
    CUresult result = check_atomics(capabilities, operations, count);
    (void)srcDevice, (void)dstDevice;
    return result ? result : CUDA_INVALID_DEVICE;
}

/* Graphs allocate nothing. */
CUresult rrto_cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    if (!value || attr < 0 || attr > 3)
        return CUDA_INVALID_VALUE;
    if (device)
        return CUDA_INVALID_DEVICE;
    memset(value, 0, 8);
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    uint64_t wanted;
    if (!value || (attr != 1 && attr != 3)) /* the high watermarks */
        return CUDA_INVALID_VALUE;
    if (device)
        return CUDA_INVALID_DEVICE;
    memcpy(&wanted, value, sizeof wanted);
    return wanted ? CUDA_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGraphMemTrim(CUdevice device)
{
    return device ? CUDA_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGetTexture1DLinearMaxWidth(size_t *maxWidthInElements, CUarray_format format,
                                                 unsigned numChannels, CUdevice dev)
{
    enum { MOST = 69 };
    if (!maxWidthInElements || !rrto_element_bytes(format, numChannels))
        return CUDA_INVALID_VALUE;
    if (dev)
        return CUDA_INVALID_DEVICE;
    *maxWidthInElements = (size_t)rrto_attribute(MOST);
    return CUDA_SUCCESS;
}
