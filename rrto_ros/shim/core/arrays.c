/* CUDA arrays: memory of the arena in rows with a pitch, under a handle. Copies to and from them are
 * copies of rows; what a texture reads from one is told when the texture is made. */
#include <stdlib.h>

#include "shim.h"

enum { SURFACES = 2, GATHER = 8, PITCH_ALIGNMENT = 51 };

static size_t format_bytes(int format)
{
    switch (format) {
    case 0x01:
    case 0x08:
        return 1;
    case 0x02:
    case 0x09:
    case 0x10:
        return 2;
    case 0x03:
    case 0x0a:
    case 0x20:
        return 4;
    default:
        return 0;
    }
}

size_t rrto_element_bytes(int format, unsigned channels)
{
    return channels == 1 || channels == 2 || channels == 4 ? format_bytes(format) * channels : 0;
}

const struct rrto_array *rrto_array_of(CUarray array)
{
    struct rrto_object *object = rrto_find(RRTO_ARRAY, array);
    return object ? object->data : NULL;
}

static size_t at_least_one(size_t value)
{
    return value ? value : 1;
}

CUresult rrto_array_side(CUarray array, size_t x, size_t y, size_t z, size_t width, size_t height,
                         size_t depth, struct rrto_side *out)
{
    const struct rrto_array *a = rrto_array_of(array);
    if (!a)
        return CUDA_INVALID_HANDLE;
    size_t row = a->width * a->element, rows = at_least_one(a->height);
    size_t planes = at_least_one(a->depth);
    if (x % a->element || width % a->element || x > row || width > row - x || y > rows ||
        height > rows - y || z > planes || depth > planes - z)
        return CUDA_INVALID_VALUE;
    out->pitch = a->pitch;
    out->plane = a->pitch * rows;
    out->base = a->address + z * out->plane + y * out->pitch + x;
    return CUDA_SUCCESS;
}

/* Whether an array of this size can be: the limits that the device's attributes name. */
static int fits(size_t width, size_t height, size_t depth)
{
    enum { WIDTH_1D = 21, WIDTH_2D = 22, HEIGHT_2D = 23, WIDTH_3D = 24, HEIGHT_3D = 25, DEPTH_3D = 26 };
    if (!width || (depth && !height))
        return 0;
    if (depth)
        return width <= (size_t)rrto_attribute(WIDTH_3D) &&
               height <= (size_t)rrto_attribute(HEIGHT_3D) &&
               depth <= (size_t)rrto_attribute(DEPTH_3D);
    if (height)
        return width <= (size_t)rrto_attribute(WIDTH_2D) &&
               height <= (size_t)rrto_attribute(HEIGHT_2D);
    return width <= (size_t)rrto_attribute(WIDTH_1D);
}

CUresult rrto_cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
    const CUDA_ARRAY3D_DESCRIPTOR *d = pAllocateArray;
    if (!pHandle || !d)
        return CUDA_INVALID_VALUE;
    if (d->Flags & ~(unsigned)(SURFACES | GATHER))
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuArray3DCreate: flags 0x%x", d->Flags);
    size_t element = rrto_element_bytes(d->Format, d->NumChannels);
    if (!element && (d->NumChannels == 1 || d->NumChannels == 2 || d->NumChannels == 4) &&
        d->Format > 0x20)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuArrayCreate: format 0x%x", d->Format);
    if (!element || !fits(d->Width, d->Height, d->Depth))
        return CUDA_INVALID_VALUE;
    size_t unit = at_least_one((size_t)rrto_attribute(PITCH_ALIGNMENT));
    size_t pitch = (d->Width * element + unit - 1) / unit * unit, bytes;
    if (__builtin_mul_overflow(pitch, at_least_one(d->Height), &bytes) ||
        __builtin_mul_overflow(bytes, at_least_one(d->Depth), &bytes))
        return CUDA_OUT_OF_MEMORY;
    struct rrto_array *array = calloc(1, sizeof *array);
    struct rrto_object *object = array ? rrto_new(RRTO_ARRAY) : NULL;
    CUdeviceptr address;
    CUresult result = object ? rrto_cuMemAlloc_v2(&address, bytes) : CUDA_OUT_OF_MEMORY;
    if (result) {
        if (object)
            rrto_drop(RRTO_ARRAY, object);
        free(array);
        return result;
    }
    *array = (struct rrto_array){address, d->Width, d->Height, d->Depth, pitch,
                                 element, d->Format, d->NumChannels, d->Flags};
    object->data = array;
    object->owner = rrto_current();
    *pHandle = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
    const CUDA_ARRAY_DESCRIPTOR *d = pAllocateArray;
    if (!d)
        return CUDA_INVALID_VALUE;
    CUDA_ARRAY3D_DESCRIPTOR whole = {d->Width, d->Height, 0, d->Format, d->NumChannels, 0};
    return rrto_cuArray3DCreate_v2(pHandle, &whole);
}

CUresult rrto_cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    const struct rrto_array *a = rrto_array_of(hArray);
    if (!a)
        return CUDA_INVALID_HANDLE;
    if (!pArrayDescriptor)
        return CUDA_INVALID_VALUE;
    *pArrayDescriptor = (CUDA_ARRAY3D_DESCRIPTOR){a->width,  a->height,   a->depth,
                                                  a->format, a->channels, a->flags};
    return CUDA_SUCCESS;
}

CUresult rrto_cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
    const struct rrto_array *a = rrto_array_of(hArray);
    if (!a)
        return CUDA_INVALID_HANDLE;
    if (!pArrayDescriptor)
        return CUDA_INVALID_VALUE;
    *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR){a->width, a->height, a->format, a->channels};
    return CUDA_SUCCESS;
}

CUresult rrto_cuArrayDestroy(CUarray hArray)
{
    struct rrto_object *object = rrto_find(RRTO_ARRAY, hArray);
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_array *array = object->data;
    CUresult result = rrto_memory_release(array->address, 0);
    rrto_drop(RRTO_ARRAY, object);
    free(array);
    /* Its memory went with the context that it was made in. */
    return result == CUDA_INVALID_VALUE ? CUDA_CONTEXT_IS_DESTROYED : result;
}

/* ---- copies of 1D arrays, places in bytes ---- */

static CUresult part(CUarray array, size_t offset, size_t bytes, CUdeviceptr *out)
{
    struct rrto_side side;
    const struct rrto_array *a = rrto_array_of(array);
    if (a && a->height)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_array_side(array, offset, 0, 0, bytes, 1, 1, &side);
    if (!result)
        *out = side.base;
    return result;
}

CUresult rrto_cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void *srcHost,
                              size_t ByteCount)
{
    CUdeviceptr to;
    CUresult result = part(dstArray, dstOffset, ByteCount, &to);
    return result ? result : rrto_cuMemcpyHtoD_v2(to, srcHost, ByteCount);
}

CUresult rrto_cuMemcpyHtoAAsync_v2(CUarray dstArray, size_t dstOffset, const void *srcHost,
                                   size_t ByteCount, CUstream hStream)
{
    CUdeviceptr to;
    CUresult result = part(dstArray, dstOffset, ByteCount, &to);
    return result ? result : rrto_cuMemcpyHtoDAsync_v2(to, srcHost, ByteCount, hStream);
}

CUresult rrto_cuMemcpyAtoH_v2(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
    CUdeviceptr from;
    CUresult result = part(srcArray, srcOffset, ByteCount, &from);
    return result ? result : rrto_cuMemcpyDtoH_v2(dstHost, from, ByteCount);
}

CUresult rrto_cuMemcpyAtoHAsync_v2(void *dstHost, CUarray srcArray, size_t srcOffset,
                                   size_t ByteCount, CUstream hStream)
{
    CUdeviceptr from;
    CUresult result = part(srcArray, srcOffset, ByteCount, &from);
    return result ? result : rrto_cuMemcpyDtoHAsync_v2(dstHost, from, ByteCount, hStream);
}

CUresult rrto_cuMemcpyDtoA_v2(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice,
                              size_t ByteCount)
{
    CUdeviceptr to;
    CUresult result = part(dstArray, dstOffset, ByteCount, &to);
    return result ? result : rrto_cuMemcpyDtoD_v2(to, srcDevice, ByteCount);
}

CUresult rrto_cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset,
                              size_t ByteCount)
{
    CUdeviceptr from;
    CUresult result = part(srcArray, srcOffset, ByteCount, &from);
    return result ? result : rrto_cuMemcpyDtoD_v2(dstDevice, from, ByteCount);
}

CUresult rrto_cuMemcpyAtoA_v2(CUarray dstArray, size_t dstOffset, CUarray srcArray,
                              size_t srcOffset, size_t ByteCount)
{
    CUdeviceptr to, from;
    const struct rrto_array *dst = rrto_array_of(dstArray), *src = rrto_array_of(srcArray);
    if (dst && src && dst->element != src->element)
        return CUDA_INVALID_VALUE;
    CUresult result = part(dstArray, dstOffset, ByteCount, &to);
    if (!result)
        result = part(srcArray, srcOffset, ByteCount, &from);
    return result ? result : rrto_cuMemcpyDtoD_v2(to, from, ByteCount);
}
