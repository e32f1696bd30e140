/* Calls that are about managed memory. There is none (cuMemAllocManaged is not supported), and CUDA
 * answers them with INVALID_VALUE for memory of any other kind. */
#include "shim.h"

CUresult rrto_cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    (void)devPtr, (void)count, (void)advice, (void)device;
    return CUDA_INVALID_VALUE;
}

CUresult rrto_cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
                             CUmemLocation location)
{
    (void)devPtr, (void)count, (void)advice, (void)location;
    return CUDA_INVALID_VALUE;
}

static CUresult on_stream(CUstream stream)
{
    uint64_t name;
    CUresult result = rrto_name_stream(stream, &name);
    return result ? result : CUDA_INVALID_VALUE;
}

CUresult rrto_cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                                 CUstream hStream)
{
    (void)devPtr, (void)count, (void)dstDevice;
    return on_stream(hStream);
}

CUresult rrto_cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                    unsigned int flags, CUstream hStream)
{
    (void)devPtr, (void)count, (void)location, (void)flags;
    return on_stream(hStream);
}

CUresult rrto_cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length,
                                     unsigned int flags)
{
    (void)dptr, (void)length, (void)flags;
    return on_stream(hStream);
}

CUresult rrto_cuMemRangeGetAttribute(void *data, size_t dataSize, CUmem_range_attribute attribute,
                                     CUdeviceptr devPtr, size_t count)
{
    (void)data, (void)dataSize, (void)attribute, (void)devPtr, (void)count;
    return CUDA_INVALID_VALUE;
}

CUresult rrto_cuMemRangeGetAttributes(void **data, size_t *dataSizes,
                                      CUmem_range_attribute *attributes, size_t numAttributes,
                                      CUdeviceptr devPtr, size_t count)
{
    (void)data, (void)dataSizes, (void)attributes, (void)numAttributes, (void)devPtr, (void)count;
    return CUDA_INVALID_VALUE;
}

CUresult rrto_cuMemPrefetchBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                      CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs,
                                      size_t numPrefetchLocs, unsigned long long flags,
                                      CUstream hStream)
{
    (void)dptrs, (void)sizes, (void)count, (void)prefetchLocs, (void)prefetchLocIdxs;
    (void)numPrefetchLocs, (void)flags;
    return on_stream(hStream);
}

CUresult rrto_cuMemDiscardBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                     unsigned long long flags, CUstream hStream)
{
    (void)dptrs, (void)sizes, (void)count, (void)flags;
    return on_stream(hStream);
}

CUresult rrto_cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr *dptrs, size_t *sizes, size_t count,
                                                CUmemLocation *prefetchLocs,
                                                size_t *prefetchLocIdxs, size_t numPrefetchLocs,
                                                unsigned long long flags, CUstream hStream)
{
    (void)dptrs, (void)sizes, (void)count, (void)prefetchLocs, (void)prefetchLocIdxs;
    (void)numPrefetchLocs, (void)flags;
    return on_stream(hStream);
}
