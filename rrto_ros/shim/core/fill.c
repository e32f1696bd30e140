/* Fills. With one address space for all memory a pointer says where it leads: page-locked memory of
 * the program is filled here, at once, after what was queued into it. */
#include <stdint.h>

#include "capture.h"

struct fill {
    CUdeviceptr at;
    size_t pitch, width, height; /* bytes from row to row, elements, rows */
    unsigned value, unit;        /* bytes of an element */
};

static void fill_rows(const struct fill *f)
{
    for (size_t row = 0; row < f->height; row++) {
        unsigned char *at = (unsigned char *)(uintptr_t)f->at + row * f->pitch;
        for (size_t i = 0; i < f->width; i++)
            switch (f->unit) {
            case 1:
                at[i] = (unsigned char)f->value;
                break;
            case 2:
                ((uint16_t *)(void *)at)[i] = (uint16_t)f->value;
                break;
            default:
                ((uint32_t *)(void *)at)[i] = f->value;
            }
    }
}

static CUresult on_host(const struct fill *f, size_t bytes)
{
    CUresult result = rrto_claim((const void *)(uintptr_t)f->at, bytes);
    if (!result)
        fill_rows(f);
    return result;
}

static CUresult fill(const struct fill *f, uint64_t stream)
{
    struct rrto_range range;
    struct rrto_host host;
    size_t bytes;
    CUresult result = rrto_fill_bytes(f->at, f->pitch, f->unit, f->width, f->height, &bytes);
    if (result)
        return result;
    if (bytes && !rrto_range_find(f->at, &range) &&
        rrto_host_pinned((const void *)(uintptr_t)f->at, bytes, &host))
        return on_host(f, bytes);
    result = rrto_range_check_write(f->at, bytes);
    struct rrto_op_memset op = {f->at, f->pitch, f->width, f->height, f->value, f->unit, stream};
    return result ? result : rrto_emit_memset(&op, NULL);
}

static CUresult capture(const struct fill *f, CUstream hStream)
{
    return rrto_capture_fill(hStream, &(CUDA_MEMSET_NODE_PARAMS){f->at, f->pitch, f->value, f->unit,
                                                                 f->width, f->height});
}

static CUresult fill_async(const struct fill *f, CUstream hStream)
{
    uint64_t stream;
    RRTO_CAPTURE(hStream, capture(f, hStream));
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : fill(f, stream);
}

#define FILLS(bits, type)                                                                          \
    CUresult rrto_cuMemsetD##bits##_v2(CUdeviceptr dstDevice, type value, size_t N)                \
    {                                                                                              \
        return fill(&(struct fill){dstDevice, 0, N, 1, value, bits / 8}, 0);                       \
    }                                                                                              \
    CUresult rrto_cuMemsetD##bits##Async(CUdeviceptr dstDevice, type value, size_t N,              \
                                         CUstream hStream)                                         \
    {                                                                                              \
        return fill_async(&(struct fill){dstDevice, 0, N, 1, value, bits / 8}, hStream);           \
    }                                                                                              \
    CUresult rrto_cuMemsetD2D##bits##_v2(CUdeviceptr dstDevice, size_t dstPitch, type value,       \
                                         size_t Width, size_t Height)                              \
    {                                                                                              \
        return fill(&(struct fill){dstDevice, dstPitch, Width, Height, value, bits / 8}, 0);       \
    }                                                                                              \
    CUresult rrto_cuMemsetD2D##bits##Async(CUdeviceptr dstDevice, size_t dstPitch, type value,     \
                                           size_t Width, size_t Height, CUstream hStream)          \
    {                                                                                              \
        return fill_async(&(struct fill){dstDevice, dstPitch, Width, Height, value, bits / 8},     \
                          hStream);                                                                \
    }

FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned int)
