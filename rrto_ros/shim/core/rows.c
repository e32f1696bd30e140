/* Copies of rows and planes, between host, device and arrays. Those that bring data to the host ask
 * for all of it before they wait: one round trip. */
#include <stdlib.h>

#include "capture.h"
#include "shim.h"

/* Rows from the device to memory of the host. */
static CUresult to_host(const struct rrto_side *to, const struct rrto_side *from, size_t width,
                        size_t height, size_t depth, uint64_t stream)
{
    size_t count, sent = 0, piece = rrto_reply_piece();
    CUresult result = CUDA_SUCCESS;
    if (__builtin_mul_overflow(height, depth, &count))
        return CUDA_INVALID_VALUE;
    /* Rows that are larger than a reply are few. */
    struct rrto_wait *waits = width <= piece ? calloc(count, sizeof *waits) : NULL;
    for (size_t z = 0; z < depth && !result; z++)
        for (size_t y = 0; y < height && !result; y++) {
            CUdeviceptr dst = to->base + z * to->plane + y * to->pitch;
            CUdeviceptr src = from->base + z * from->plane + y * from->pitch;
            if (!waits) {
                result = rrto_copy(dst, src, width, stream);
                continue;
            }
            struct rrto_op_memcpy_dtoh op = {src, width, stream};
            waits[sent] = (struct rrto_wait){.data = (void *)(uintptr_t)dst, .room = width,
                                             .later = sent + 1 < count};
            result = rrto_range_check(src, width);
            if (!result)
                result = rrto_emit_memcpy_dtoh(&op, &waits[sent++]);
        }
    for (size_t i = 0; i < sent; i++) {
        int status = waits[i].index && !waits[i].done ? rrto_collect(&waits[i]) : waits[i].status;
        if (!result)
            result = status;
    }
    free(waits);
    return result;
}

CUresult rrto_copy_rows(const struct rrto_side *to, const struct rrto_side *from, size_t width,
                        size_t height, size_t depth, uint64_t stream)
{
    if (!width || !height || !depth)
        return CUDA_SUCCESS;
    if ((height > 1 && (to->pitch < width || from->pitch < width)))
        return CUDA_INVALID_VALUE;
    /* Rows that touch on both sides are one piece. */
    int whole = (to->pitch == width && from->pitch == width) || height == 1;
    int block = depth == 1 || (to->plane == width * height && from->plane == width * height);
    if (whole && block)
        return rrto_copy(to->base, from->base, width * height * depth, stream);
    if (whole) {
        width *= height;
        height = 1;
    }
    if (rrto_is_device(from->base) && !rrto_is_device(to->base) && to->base)
        return to_host(to, from, width, height, depth, stream);
    CUresult result = CUDA_SUCCESS;
    for (size_t z = 0; z < depth && !result; z++)
        for (size_t y = 0; y < height && !result; y++)
            result = rrto_copy(to->base + z * to->plane + y * to->pitch,
                               from->base + z * from->plane + y * from->pitch, width, stream);
    return result;
}

/* One end of a copy as the structures of cuMemcpy2D and cuMemcpy3D name it. */
struct end {
    int type;
    const void *host;
    CUdeviceptr device;
    void *array;
    size_t x, y, z, pitch, height;
};

static CUresult side_of(const struct end *end, size_t width, size_t rows, size_t planes,
                        struct rrto_side *out)
{
    CUdeviceptr base;
    if (end->type == RRTO_MEMORY_ARRAY)
        return rrto_array_side(end->array, end->x, end->y, end->z, width, rows, planes, out);
    if (end->type == RRTO_MEMORY_HOST)
        base = (CUdeviceptr)(uintptr_t)end->host;
    else if (end->type == RRTO_MEMORY_DEVICE || end->type == RRTO_MEMORY_UNIFIED)
        base = end->device;
    else
        return CUDA_INVALID_VALUE;
    if (end->type == RRTO_MEMORY_DEVICE && !rrto_is_device(base) && !rrto_is_page_locked(base, 1))
        return CUDA_INVALID_VALUE;
    out->pitch = end->pitch ? end->pitch : width;
    if (__builtin_mul_overflow(out->pitch, end->height ? end->height : rows, &out->plane))
        return CUDA_INVALID_VALUE;
    out->base = base + end->z * out->plane + end->y * out->pitch + end->x;
    return CUDA_SUCCESS;
}

static CUresult between(const struct end *dst, const struct end *src, size_t width, size_t rows,
                        size_t planes, uint64_t stream)
{
    struct rrto_side to, from;
    CUresult result = side_of(src, width, rows, planes, &from);
    if (!result)
        result = side_of(dst, width, rows, planes, &to);
    return result ? result : rrto_copy_rows(&to, &from, width, rows, planes, stream);
}

static CUresult copy_2d(const CUDA_MEMCPY2D *c, uint64_t stream)
{
    if (!c)
        return CUDA_INVALID_VALUE;
    struct end src = {c->srcMemoryType, c->srcHost, c->srcDevice, c->srcArray,
                      c->srcXInBytes,   c->srcY,    0,            c->srcPitch, 1};
    struct end dst = {c->dstMemoryType, c->dstHost, c->dstDevice, c->dstArray,
                      c->dstXInBytes,   c->dstY,    0,            c->dstPitch, 1};
    return between(&dst, &src, c->WidthInBytes, c->Height, 1, stream);
}

static CUresult copy_3d(const CUDA_MEMCPY3D *c, uint64_t stream)
{
    if (!c || c->srcLOD || c->dstLOD)
        return CUDA_INVALID_VALUE;
    struct end src = {c->srcMemoryType, c->srcHost, c->srcDevice, c->srcArray,   c->srcXInBytes,
                      c->srcY,          c->srcZ,    c->srcPitch,  c->srcHeight};
    struct end dst = {c->dstMemoryType, c->dstHost, c->dstDevice, c->dstArray,   c->dstXInBytes,
                      c->dstY,          c->dstZ,    c->dstPitch,  c->dstHeight};
    return between(&dst, &src, c->WidthInBytes, c->Height, c->Depth, stream);
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

CUresult rrto_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    CUresult result = rrto_finish_deferred();
    return result ? result : copy_2d(pCopy, 0);
}

CUresult rrto_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    CUresult result = rrto_finish_deferred();
    return result ? result : copy_2d(pCopy, 0);
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
    CUresult result = rrto_finish_deferred();
    return result ? result : copy_3d(pCopy, 0);
}

CUresult rrto_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    RRTO_CAPTURE(hStream, rrto_capture_copy(hStream, pCopy));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : copy_3d(pCopy, stream);
}

/* ---- batches of copies of rows ---- */

static CUresult operand(const struct rrto_operand *o, size_t element, const size_t extent[3],
                        struct end *out)
{
    *out = (struct end){.type = RRTO_MEMORY_UNIFIED};
    if (o->type == RRTO_OPERAND_ARRAY) {
        *out = (struct end){.type = RRTO_MEMORY_ARRAY, .array = o->array.array,
                            .x = o->array.offset[0] * element, .y = o->array.offset[1],
                            .z = o->array.offset[2]};
        return CUDA_SUCCESS;
    }
    if (o->type != RRTO_OPERAND_POINTER ||
        (o->pointer.row_length && o->pointer.row_length < extent[0]) ||
        (o->pointer.layer_height && o->pointer.layer_height < extent[1]))
        return CUDA_INVALID_VALUE;
    out->device = o->pointer.address;
    out->pitch = o->pointer.row_length * element;
    out->height = o->pointer.layer_height;
    return CUDA_SUCCESS;
}

/* Bytes of an element: of the array, or of both. 0: they differ, or one is no array. */
static size_t element_of(const CUDA_MEMCPY3D_BATCH_OP *op)
{
    size_t bytes[2] = {0, 0};
    const struct rrto_operand *ends[2] = {&op->src, &op->dst};
    for (int i = 0; i < 2; i++)
        if (ends[i]->type == RRTO_OPERAND_ARRAY) {
            const struct rrto_array *array = rrto_array_of(ends[i]->array.array);
            if (!array)
                return 0;
            bytes[i] = array->element;
        }
    if (bytes[0] && bytes[1])
        return bytes[0] == bytes[1] ? bytes[0] : 0;
    return bytes[0] + bytes[1] ? bytes[0] + bytes[1] : 1;
}

/* Sends one, or (`only` set) looks whether it could be. */
static CUresult one_of_batch(const CUDA_MEMCPY3D_BATCH_OP *op, uint64_t stream, int only)
{
    struct end src, dst;
    struct rrto_side side;
    const size_t *extent = op->extent;
    size_t element = element_of(op), width;
    if (!element || !extent[0] || !extent[1] || !extent[2] || op->order < 1 || op->order > 3 ||
        op->flags > 1 || __builtin_mul_overflow(extent[0], element, &width))
        return CUDA_INVALID_VALUE;
    CUresult result = operand(&op->src, element, extent, &src);
    if (!result)
        result = operand(&op->dst, element, extent, &dst);
    if (!result && only)
        result = side_of(&src, width, extent[1], extent[2], &side);
    if (!result && only)
        result = side_of(&dst, width, extent[1], extent[2], &side);
    return result || only ? result : between(&dst, &src, width, extent[1], extent[2], stream);
}

CUresult rrto_cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx,
                                   unsigned long long flags, CUstream hStream)
{
    RRTO_CAPTURE(hStream, rrto_capture_refuse(hStream, "batch of copies"));
    uint64_t stream;
    CUresult result = rrto_name_stream(hStream, &stream);
    if (failIdx)
        *failIdx = SIZE_MAX;
    if (result)
        return result;
    if (!numOps || !opList || flags)
        return CUDA_INVALID_VALUE;
    for (int only = 1; only >= 0 && !result; only--)
        for (size_t i = 0; i < numOps && !result; i++) {
            result = one_of_batch(&opList[i], stream, only);
            if (result && failIdx)
                *failIdx = i;
        }
    return result;
}

CUresult rrto_cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList,
                                      unsigned long long flags, CUstream hStream)
{
    return rrto_cuMemcpy3DBatchAsync(numOps, opList, NULL, flags, hStream);
}

CUresult rrto_cuMemcpy3DWithAttributesAsync(CUDA_MEMCPY3D_BATCH_OP *op, unsigned long long flags,
                                            CUstream hStream)
{
    return rrto_cuMemcpy3DBatchAsync(1, op, NULL, flags, hStream);
}
