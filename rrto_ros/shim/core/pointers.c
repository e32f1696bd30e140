/* Questions about memory and pointers: how much there is, where a range lies, what a pointer is. */
#include <string.h>

#include "shim.h"

#define S rrto_session

CUresult rrto_cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    if (!free_bytes || !total)
        return CUDA_INVALID_VALUE;
    *total = S.total_bytes;
    *free_bytes = S.total_bytes - rrto_range_used(NULL, NULL);
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct rrto_range range;
    if (!rrto_range_find(dptr, &range))
        return CUDA_NOT_FOUND;
    if (pbase)
        *pbase = range.address;
    if (psize)
        *psize = range.bytes;
    return CUDA_SUCCESS;
}

/* One attribute into `data`; with `lenient` an unknown pointer gives zeros, not an error. */
static CUresult pointer_attribute(void *data, int attribute, CUdeviceptr ptr, int lenient)
{
    struct rrto_range range = {0};
    uintptr_t base = 0;
    size_t bytes = 0;
    int device = rrto_range_find(ptr, &range);
    int host = !device && rrto_host_find((const void *)(uintptr_t)ptr, &base, &bytes);
    uint64_t wide = 0;
    unsigned narrow = 0;
    int ordinal = device || host ? 0 : -2;
    unsigned char flag = 0;
    void *handle = NULL;
    if (!data)
        return CUDA_INVALID_VALUE;
    if (!device && !host && !lenient)
        return CUDA_INVALID_VALUE;
    switch (attribute) {
    case 1: /* CONTEXT */
        handle = device ? range.context : NULL;
        memcpy(data, &handle, sizeof handle);
        return CUDA_SUCCESS;
    case 2: /* MEMORY_TYPE */
        narrow = device ? RRTO_MEMORY_DEVICE : host ? RRTO_MEMORY_HOST : 0;
        memcpy(data, &narrow, 4);
        return CUDA_SUCCESS;
    case 3: /* DEVICE_POINTER */
        if (!device && !lenient)
            return CUDA_INVALID_VALUE;
        wide = device ? ptr : 0;
        break;
    case 4: /* HOST_POINTER */
        if (!host && !lenient)
            return CUDA_INVALID_VALUE;
        wide = host ? ptr : 0;
        break;
    case 6: /* SYNC_MEMOPS */
        flag = device && range.sync_memops;
        memcpy(data, &flag, 1);
        return CUDA_SUCCESS;
    case 8: /* IS_MANAGED */
    case 10: /* IS_LEGACY_CUDA_IPC_CAPABLE */
    case 15: /* IS_GPU_DIRECT_RDMA_CAPABLE */
        memcpy(data, &flag, 1);
        return CUDA_SUCCESS;
    case 7: /* BUFFER_ID */
    case 20: /* MEMORY_BLOCK_ID */
        wide = device ? range.id : host ? base : 0;
        break;
    case 9: /* DEVICE_ORDINAL */
        memcpy(data, &ordinal, 4);
        return CUDA_SUCCESS;
    case 11: /* RANGE_START_ADDR */
    case 19: /* MAPPING_BASE_ADDR */
        wide = device ? range.address : base;
        break;
    case 12: /* RANGE_SIZE */
    case 18: /* MAPPING_SIZE */
        wide = device ? range.bytes : bytes;
        break;
    case 13: /* MAPPED */
        flag = (unsigned char)device; /* kernels do not reach the host's */
        memcpy(data, &flag, 1);
        return CUDA_SUCCESS;
    case 14: /* ALLOWED_HANDLE_TYPES */
        break;
    case 16: /* ACCESS_FLAGS */
        narrow = device ? (range.memory ? (unsigned)range.access : 3) : 0;
        memcpy(data, &narrow, 4);
        return CUDA_SUCCESS;
    case 17: /* MEMPOOL_HANDLE */
        handle = device ? range.pool : NULL;
        memcpy(data, &handle, sizeof handle);
        return CUDA_SUCCESS;
    default:
        return CUDA_INVALID_VALUE;
    }
    memcpy(data, &wide, 8);
    return CUDA_SUCCESS;
}

CUresult rrto_cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    return pointer_attribute(data, attribute, ptr, 0);
}

CUresult rrto_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
                                     void **data, CUdeviceptr ptr)
{
    if (!numAttributes || !attributes || !data)
        return CUDA_INVALID_VALUE;
    for (unsigned i = 0; i < numAttributes; i++) {
        CUresult result = pointer_attribute(data[i], attributes[i], ptr, 1);
        if (result)
            return result;
    }
    return CUDA_SUCCESS;
}

CUresult rrto_cuPointerSetAttribute(const void *value, CUpointer_attribute attribute,
                                    CUdeviceptr ptr)
{
    enum { SYNC_MEMOPS = 6 };
    unsigned on;
    if (!value || attribute != SYNC_MEMOPS)
        return CUDA_INVALID_VALUE;
    /* It asks for more waiting than CUDA does by itself; what is here waits anyway. */
    memcpy(&on, value, sizeof on);
    return rrto_range_sync_memops(ptr, on != 0) ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}
