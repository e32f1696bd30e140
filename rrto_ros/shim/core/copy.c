/* Copies. Data to the device goes straight into the ring; data from it comes straight into the
 * program's memory. Large copies are cut into pieces that fit the rings.
 *
 * A copy that blocks waits for its stream: the program may then look at its page-locked memory for
 * what is queued before it. Copies from the device come after that anyway; the others wait for it
 * (rrto_finish_deferred). */
#include <stdlib.h>
#include <string.h>

#include "capture.h"

static CUresult on_device(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    struct rrto_op_memcpy_dtod op = {dst, src, bytes, stream};
    CUresult result = rrto_range_check_write(dst, bytes);
    if (!result)
        result = rrto_range_check(src, bytes);
    return result || !bytes ? result : rrto_emit_memcpy_dtod(&op, NULL);
}

/* With unified addressing an address says what it is of, whatever a program calls it: TensorFlow
 * copies "to" the device what lies there already (zeros_like of integers). */
static int is_of_device(const void *host, size_t bytes)
{
    CUdeviceptr at = (uintptr_t)host;
    return at - rrto_session.arena_base < rrto_session.arena_bytes &&
           !rrto_is_page_locked(at, bytes);
}

static CUresult to_device(CUdeviceptr dst, const void *src, size_t bytes, uint64_t stream)
{
    CUresult result = rrto_range_check_write(dst, bytes);
    if (result || !bytes)
        return result;
    if (is_of_device(src, bytes))
        return on_device(dst, (uintptr_t)src, bytes, stream);
    if (!src)
        return CUDA_INVALID_VALUE;
    result = rrto_settle(src, bytes);
    size_t piece = rrto_call_piece();
    for (size_t at = 0; at < bytes && !result; at += piece) {
        size_t part = bytes - at < piece ? bytes - at : piece;
        struct rrto_op_memcpy_htod op = {dst + at, stream};
        result = rrto_emit_memcpy_htod(&op, (const char *)src + at, (uint32_t)part, NULL);
    }
    return result;
}

/* All pieces are asked for before the last one is waited for: one round trip. */
static CUresult from_device(void *dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    CUresult result = rrto_range_check(src, bytes);
    if (result || !bytes)
        return result;
    if (is_of_device(dst, bytes))
        return on_device((uintptr_t)dst, src, bytes, stream);
    if (!dst)
        return CUDA_INVALID_VALUE;
    size_t piece = rrto_reply_piece(), count = (bytes + piece - 1) / piece, sent = 0;
    struct rrto_wait small[4], *waits = small;
    if (count > 4 && !(waits = malloc(count * sizeof *waits)))
        return CUDA_OUT_OF_MEMORY;
    for (; sent < count && !result; sent++) {
        size_t at = sent * piece, part = bytes - at < piece ? bytes - at : piece;
        struct rrto_op_memcpy_dtoh op = {src + at, part, stream};
        waits[sent] = (struct rrto_wait){.data = (char *)dst + at, .room = part,
                                         .later = sent + 1 < count};
        result = rrto_emit_memcpy_dtoh(&op, &waits[sent]);
    }
    for (size_t i = 0; i < sent; i++) {
        int status = waits[i].index && !waits[i].done ? rrto_collect(&waits[i]) : waits[i].status;
        if (!result)
            result = status;
    }
    if (waits != small)
        free(waits);
    return result;
}

/* Into pinned memory: the copy goes on; the next synchronisation finds it done. */
static CUresult from_device_later(const struct rrto_host *dst, CUdeviceptr src, size_t bytes,
                                  uint64_t stream)
{
    CUresult result = rrto_range_check(src, bytes);
    if (result || !bytes)
        return result;
    size_t piece = rrto_reply_piece();
    for (size_t at = 0; at < bytes && !result; at += piece) {
        size_t part = bytes - at < piece ? bytes - at : piece;
        struct rrto_op_memcpy_dtoh op = {src + at, part, stream};
        struct rrto_wait *wait = calloc(1, sizeof *wait);
        if (!wait)
            return CUDA_OUT_OF_MEMORY;
        *wait = (struct rrto_wait){.data = (char *)dst->address + at, .room = part, .later = 1,
                                   .foreign = dst->registered, .object = dst->object,
                                   .place = dst->place + at};
        result = rrto_emit_memcpy_dtoh(&op, wait);
        if (wait->index)
            rrto_defer(wait);
        else
            free(wait);
    }
    return result;
}

/* A copy of one row, as a graph's node does it. */
static CUresult capture_row(int to, CUdeviceptr dst, int from, CUdeviceptr src, size_t bytes,
                            CUstream stream)
{
    CUDA_MEMCPY3D copy = {.srcMemoryType = from, .srcHost = (const void *)(uintptr_t)src,
                          .srcDevice = src, .dstMemoryType = to, .dstHost = (void *)(uintptr_t)dst,
                          .dstDevice = dst, .WidthInBytes = bytes, .Height = 1, .Depth = 1};
    return rrto_capture_copy(stream, &copy);
}

CUresult rrto_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    CUresult result = rrto_finish_deferred();
    return result ? result : to_device(dstDevice, srcHost, ByteCount, 0);
}

CUresult rrto_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
                                   CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_row(RRTO_MEMORY_DEVICE, dstDevice, RRTO_MEMORY_HOST,
                                      (uintptr_t)srcHost, ByteCount, hStream));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : to_device(dstDevice, srcHost, ByteCount, stream);
}

CUresult rrto_cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    return from_device(dstHost, srcDevice, ByteCount, 0);
}

CUresult rrto_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_row(RRTO_MEMORY_HOST, (uintptr_t)dstHost, RRTO_MEMORY_DEVICE,
                                      srcDevice, ByteCount, hStream));
    uint64_t stream;
    struct rrto_host host;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (result)
        return result;
    if (dstHost && rrto_host_pinned(dstHost, ByteCount, &host))
        return from_device_later(&host, srcDevice, ByteCount, stream);
    return from_device(dstHost, srcDevice, ByteCount, stream);
}

/* Page-locked memory has one address for host and device. The server chooses the device's, so that
 * numbers may mean both: what is allocated on the device is meant where device memory is asked for. */
int rrto_is_page_locked(CUdeviceptr at, size_t bytes)
{
    struct rrto_range range;
    struct rrto_host host;
    return bytes && !rrto_range_find(at, &range) &&
           rrto_host_pinned((const void *)(uintptr_t)at, bytes, &host);
}

static CUresult device_to_device(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    if (rrto_is_page_locked(dst, bytes) || rrto_is_page_locked(src, bytes))
        return rrto_copy(dst, src, bytes, stream);
    return on_device(dst, src, bytes, stream);
}

CUresult rrto_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    return device_to_device(dstDevice, srcDevice, ByteCount, 0);
}

CUresult rrto_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_row(RRTO_MEMORY_DEVICE, dstDevice, RRTO_MEMORY_DEVICE, srcDevice,
                                      ByteCount, hStream));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : device_to_device(dstDevice, srcDevice, ByteCount, stream);
}

/* ---- direction by address ---- */

/* The whole arena counts, so that a freed pointer is an error and not taken for the host's. */
int rrto_is_device(CUdeviceptr at)
{
    struct rrto_range range;
    return at - rrto_session.arena_base < rrto_session.arena_bytes || rrto_range_find(at, &range);
}

CUresult rrto_copy(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    int to = rrto_is_device(dst), from = rrto_is_device(src);
    if (to && from)
        return on_device(dst, src, bytes, stream);
    if (to)
        return to_device(dst, (const void *)(uintptr_t)src, bytes, stream);
    if (from)
        return from_device((void *)(uintptr_t)dst, src, bytes, stream);
    if (bytes && (!dst || !src))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_claim((const void *)(uintptr_t)src, bytes);
    if (!result)
        result = rrto_claim((const void *)(uintptr_t)dst, bytes);
    if (bytes && !result)
        memmove((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, bytes);
    return result;
}

CUresult rrto_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    CUresult result = CUDA_SUCCESS;
    if (!rrto_is_device(dst) || !rrto_is_device(src))
        result = rrto_finish_deferred();
    return result ? result : rrto_copy(dst, src, ByteCount, 0);
}

CUresult rrto_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_row(RRTO_MEMORY_UNIFIED, dst, RRTO_MEMORY_UNIFIED, src, ByteCount,
                                      hStream));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (result)
        return result;
    if (!rrto_is_device(dst) && rrto_is_device(src))
        return rrto_cuMemcpyDtoHAsync_v2((void *)(uintptr_t)dst, src, ByteCount, hStream);
    return rrto_copy(dst, src, ByteCount, stream);
}
