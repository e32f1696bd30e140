/* Batches of copies between addresses. They run one after the other, as one call each: a batch has
 * no order of its own. All are checked before the first is made. */
#include "capture.h"
#include "shim.h"

static CUresult check_attributes(const CUmemcpyAttributes *attributes)
{
    return attributes->srcAccessOrder >= 1 && attributes->srcAccessOrder <= 3 &&
                   attributes->flags <= 1
               ? CUDA_SUCCESS
               : CUDA_INVALID_VALUE;
}

static CUresult check_copy(CUdeviceptr dst, CUdeviceptr src, size_t bytes)
{
    CUresult result = CUDA_SUCCESS;
    if (bytes && (!dst || !src))
        return CUDA_INVALID_VALUE;
    if (rrto_is_device(dst))
        result = rrto_range_check_write(dst, bytes);
    return result || !rrto_is_device(src) ? result : rrto_range_check(src, bytes);
}

CUresult rrto_cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                                 CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs,
                                 size_t *failIdx, CUstream hStream)
{
    RRTO_CAPTURE(hStream, rrto_capture_refuse(hStream, "batch of copies"));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (failIdx)
        *failIdx = SIZE_MAX; /* an error that is no single copy's */
    if (result)
        return result;
    if (!dsts || !srcs || !sizes || !count || !attrs || !attrsIdxs || !numAttrs ||
        numAttrs > count || attrsIdxs[0])
        return CUDA_INVALID_VALUE;
    for (size_t i = 0; i < numAttrs && !result; i++)
        result = attrsIdxs[i] >= count || (i && attrsIdxs[i] <= attrsIdxs[i - 1])
                     ? CUDA_INVALID_VALUE
                     : check_attributes(&attrs[i]);
    if (result)
        return result;
    for (int only = 1; only >= 0 && !result; only--)
        for (size_t i = 0; i < count && !result; i++) {
            result = only ? check_copy(dsts[i], srcs[i], sizes[i])
                          : rrto_cuMemcpyAsync(dsts[i], srcs[i], sizes[i], hStream);
            if (result && failIdx)
                *failIdx = i;
        }
    return result;
}

CUresult rrto_cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,
                                    size_t count, CUmemcpyAttributes *attrs, size_t *attrsIdxs,
                                    size_t numAttrs, CUstream hStream)
{
    return rrto_cuMemcpyBatchAsync(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, NULL,
                                   hStream);
}

CUresult rrto_cuMemcpyWithAttributesAsync(CUdeviceptr dst, CUdeviceptr src, size_t size,
                                          CUmemcpyAttributes *attr, CUstream hStream)
{
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (!result)
        result = attr ? check_attributes(attr) : CUDA_INVALID_VALUE;
    return result ? result : rrto_cuMemcpyAsync(dst, src, size, hStream);
}
