/* Copies. Data to the device goes straight into the ring; data from it comes straight into the
 * program's memory. Large copies are cut into pieces that fit the rings. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"

static CUresult to_device(CUdeviceptr dst, const void *src, size_t bytes, uint64_t stream)
{
    CUresult result = rrto_range_check_write(dst, bytes);
    if (result || !bytes)
        return result;
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

static CUresult on_device(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    struct rrto_op_memcpy_dtod op = {dst, src, bytes, stream};
    CUresult result = rrto_range_check_write(dst, bytes);
    if (!result)
        result = rrto_range_check(src, bytes);
    return result || !bytes ? result : rrto_emit_memcpy_dtod(&op, NULL);
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

static CUresult capture_2d(const CUDA_MEMCPY2D *c, CUstream stream)
{
    if (!c)
        return rrto_capture_copy(stream, NULL);
    CUDA_MEMCPY3D copy = {
        .srcXInBytes = c->srcXInBytes, .srcY = c->srcY, .srcMemoryType = c->srcMemoryType,
        .srcHost = c->srcHost, .srcDevice = c->srcDevice, .srcArray = c->srcArray,
        .srcPitch = c->srcPitch, .dstXInBytes = c->dstXInBytes, .dstY = c->dstY,
        .dstMemoryType = c->dstMemoryType, .dstHost = c->dstHost, .dstDevice = c->dstDevice,
        .dstArray = c->dstArray, .dstPitch = c->dstPitch, .WidthInBytes = c->WidthInBytes,
        .Height = c->Height, .Depth = 1};
    return rrto_capture_copy(stream, &copy);
}

CUresult rrto_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    return to_device(dstDevice, srcHost, ByteCount, 0);
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

static CUresult unified(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream);

/* Page-locked memory has one address for host and device. The server chooses the device's, so that
 * numbers may mean both: what is allocated on the device is meant where device memory is asked for. */
static int page_locked(CUdeviceptr at, size_t bytes)
{
    struct rrto_range range;
    struct rrto_host host;
    return bytes && !rrto_range_find(at, &range) &&
           rrto_host_pinned((const void *)(uintptr_t)at, bytes, &host);
}

static CUresult device_to_device(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    if (page_locked(dst, bytes) || page_locked(src, bytes))
        return unified(dst, src, bytes, stream);
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
static int is_device(CUdeviceptr at)
{
    struct rrto_range range;
    return at - rrto_session.arena_base < rrto_session.arena_bytes || rrto_range_find(at, &range);
}

static CUresult unified(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream)
{
    int to = is_device(dst), from = is_device(src);
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
    return unified(dst, src, ByteCount, 0);
}

CUresult rrto_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_row(RRTO_MEMORY_UNIFIED, dst, RRTO_MEMORY_UNIFIED, src, ByteCount,
                                      hStream));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (result)
        return result;
    if (!is_device(dst) && is_device(src))
        return rrto_cuMemcpyDtoHAsync_v2((void *)(uintptr_t)dst, src, ByteCount, hStream);
    return unified(dst, src, ByteCount, stream);
}

/* ---- rows ---- */

struct side {
    CUdeviceptr base; /* of the first byte; host addresses as well */
    size_t pitch, plane;
};

static CUresult side_of(int type, const void *host, CUdeviceptr device, size_t x, size_t y,
                        size_t z, size_t pitch, size_t height, struct side *out)
{
    CUdeviceptr base;
    if (type == RRTO_MEMORY_HOST)
        base = (CUdeviceptr)(uintptr_t)host;
    else if (type == RRTO_MEMORY_DEVICE || type == RRTO_MEMORY_UNIFIED)
        base = device;
    else
        return type == RRTO_MEMORY_ARRAY
                   ? rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemcpy2D, cuMemcpy3D: arrays")
                   : CUDA_INVALID_VALUE;
    if (type == RRTO_MEMORY_DEVICE && !is_device(base) && !page_locked(base, 1))
        return CUDA_INVALID_VALUE;
    if (__builtin_mul_overflow(pitch, height, &out->plane))
        return CUDA_INVALID_VALUE;
    out->base = base + z * out->plane + y * pitch + x;
    out->pitch = pitch;
    return CUDA_SUCCESS;
}

static CUresult rows(const struct side *to, const struct side *from, size_t width, size_t height,
                     size_t depth, uint64_t stream)
{
    if (!width || !height || !depth)
        return CUDA_SUCCESS;
    if ((height > 1 && (to->pitch < width || from->pitch < width)))
        return CUDA_INVALID_VALUE;
    /* Rows that touch on both sides are one piece. */
    int whole = to->pitch == width && from->pitch == width;
    int block = whole && to->plane == width * height && from->plane == width * height;
    if (block || (whole && depth == 1))
        return unified(to->base, from->base, width * height * depth, stream);
    CUresult result = CUDA_SUCCESS;
    for (size_t z = 0; z < depth && !result; z++)
        for (size_t y = 0; y < (whole ? 1 : height) && !result; y++)
            result = unified(to->base + z * to->plane + y * to->pitch,
                             from->base + z * from->plane + y * from->pitch,
                             whole ? width * height : width, stream);
    return result;
}

static CUresult copy_2d(const CUDA_MEMCPY2D *c, uint64_t stream)
{
    struct side to, from;
    if (!c)
        return CUDA_INVALID_VALUE;
    size_t width = c->WidthInBytes;
    CUresult result = side_of(c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY,
                              0, c->srcPitch ? c->srcPitch : width, 1, &from);
    if (!result)
        result = side_of(c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY, 0,
                         c->dstPitch ? c->dstPitch : width, 1, &to);
    return result ? result : rows(&to, &from, width, c->Height, 1, stream);
}

static CUresult copy_3d(const CUDA_MEMCPY3D *c, uint64_t stream)
{
    struct side to, from;
    if (!c || c->srcLOD || c->dstLOD)
        return CUDA_INVALID_VALUE;
    size_t width = c->WidthInBytes, height = c->Height;
    CUresult result =
        side_of(c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY, c->srcZ,
                c->srcPitch ? c->srcPitch : width, c->srcHeight ? c->srcHeight : height, &from);
    if (!result)
        result = side_of(c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY,
                         c->dstZ, c->dstPitch ? c->dstPitch : width,
                         c->dstHeight ? c->dstHeight : height, &to);
    return result ? result : rows(&to, &from, width, height, c->Depth, stream);
}

CUresult rrto_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, 0);
}

CUresult rrto_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, 0);
}

CUresult rrto_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    RRTO_CAPTURE(hStream, capture_2d(pCopy, hStream));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : copy_2d(pCopy, stream);
}

CUresult rrto_cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
    return copy_3d(pCopy, 0);
}

CUresult rrto_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    RRTO_CAPTURE(hStream, rrto_capture_copy(hStream, pCopy));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : copy_3d(pCopy, stream);
}
