/* Device memory: allocation and stream-ordered allocation and its pools.
 * Pools hold no memory of their own here: freed memory goes back to the arena. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"

#define S rrto_session

struct pool_state {
    int reuse[4];
    uint64_t threshold, most; /* most 0: what the device has */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rrto_object *default_pool, *current_pool;

static CUresult allocate(CUdeviceptr *out, size_t bytes, void *pool, uint64_t stream)
{
    struct rrto_op_mem_alloc op = {.size = bytes, .stream = stream};
    if (!out)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_range_alloc(bytes, rrto_current(), pool, &op.address);
    if (result)
        return result;
    result = rrto_emit_mem_alloc(&op, NULL);
    if (result) {
        uint64_t reserved;
        if (!rrto_range_take(op.address, &reserved))
            rrto_range_return(op.address, reserved);
    } else {
        *out = op.address;
    }
    return result;
}

CUresult rrto_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    return allocate(dptr, bytesize, NULL, 0);
}

CUresult rrto_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                                 size_t Height, unsigned int ElementSizeBytes)
{
    size_t pitch, bytes;
    if (!dptr || !pPitch || !WidthInBytes || !Height ||
        (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16) ||
        __builtin_add_overflow(WidthInBytes, 511, &pitch) ||
        __builtin_mul_overflow(pitch & ~(size_t)511, Height, &bytes))
        return CUDA_INVALID_VALUE;
    CUresult result = allocate(dptr, bytes, NULL, 0);
    if (!result)
        *pPitch = pitch & ~(size_t)511;
    return result;
}

CUresult rrto_memory_release(CUdeviceptr address, uint64_t stream)
{
    struct rrto_op_mem_free op = {.address = address, .stream = stream};
    uint64_t reserved;
    CUresult result = rrto_range_take(address, &reserved);
    if (result)
        return result;
    result = rrto_emit_mem_free(&op, NULL);
    rrto_range_return(address, reserved);
    return result;
}

CUresult rrto_cuMemFree_v2(CUdeviceptr dptr)
{
    return dptr ? rrto_memory_release(dptr, 0) : CUDA_SUCCESS;
}

/* ---- stream-ordered allocation ---- */

static struct rrto_object *new_pool(void)
{
    struct rrto_object *object = rrto_new(RRTO_POOL);
    if (object) {
        struct pool_state *state = calloc(1, sizeof *state);
        if (!state) {
            rrto_drop(RRTO_POOL, object);
            return NULL;
        }
        state->reuse[1] = state->reuse[2] = state->reuse[3] = 1;
        object->data = state;
    }
    return object;
}

static struct rrto_object *the_default(void)
{
    pthread_mutex_lock(&lock);
    if (!default_pool)
        current_pool = default_pool = new_pool();
    struct rrto_object *found = default_pool;
    pthread_mutex_unlock(&lock);
    return found;
}

CUresult rrto_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                      CUstream hStream)
{
    uint64_t stream;
    RRTO_CAPTURE(hStream, rrto_capture_refuse(hStream, "allocation"));
    CUresult result = rrto_name_stream(hStream, &stream);
    if (result)
        return result;
    struct rrto_object *object = rrto_find(RRTO_POOL, pool);
    if (!object)
        return CUDA_INVALID_VALUE;
    const struct pool_state *state = object->data;
    uint64_t used = state->most ? rrto_range_used(pool, NULL) : 0;
    if (state->most && (used > state->most || bytesize > state->most - used))
        return CUDA_OUT_OF_MEMORY;
    return allocate(dptr, bytesize, pool, stream);
}

CUresult rrto_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    if (!the_default())
        return CUDA_OUT_OF_MEMORY;
    return rrto_cuMemAllocFromPoolAsync(dptr, bytesize, current_pool->handle, hStream);
}

CUresult rrto_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    uint64_t stream;
    RRTO_CAPTURE(hStream, rrto_capture_refuse(hStream, "free"));
    CUresult result = rrto_name_stream(hStream, &stream);
    return result ? result : dptr ? rrto_memory_release(dptr, stream) : CUDA_INVALID_VALUE;
}

CUresult rrto_cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    if (!pool_out)
        return CUDA_INVALID_VALUE;
    if (dev)
        return CUDA_INVALID_DEVICE;
    if (!the_default())
        return CUDA_OUT_OF_MEMORY;
    *pool_out = default_pool->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    CUresult result = rrto_cuDeviceGetDefaultMemPool(pool, dev);
    if (!result)
        *pool = current_pool->handle;
    return result;
}

CUresult rrto_cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
    struct rrto_object *object = rrto_find(RRTO_POOL, pool);
    if (dev || !object || !the_default())
        return CUDA_INVALID_VALUE;
    current_pool = object;
    return CUDA_SUCCESS;
}

/* Only memory on the device (location type 1), pinned (allocation type 1). */
static CUresult on_device(const CUmemLocation *location, CUmemAllocationType type)
{
    enum { PINNED = 1, MANAGED = 2, DEVICE = 1, LAST_LOCATION = 5 };
    if (!location || (type != PINNED && type != MANAGED) || location->type < DEVICE ||
        location->type > LAST_LOCATION)
        return CUDA_INVALID_VALUE;
    if (location->type != DEVICE || type != PINNED)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "memory pool: location type %d, allocation type %d",
                           location->type, type);
    return location->id ? CUDA_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult rrto_cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                                     CUmemAllocationType type)
{
    CUresult result = on_device(location, type);
    return result ? result : rrto_cuDeviceGetDefaultMemPool(pool_out, 0);
}

CUresult rrto_cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
    CUresult result = on_device(location, type);
    return result ? result : rrto_cuDeviceGetMemPool(pool, 0);
}

CUresult rrto_cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
    CUresult result = on_device(location, type);
    return result ? result : rrto_cuDeviceSetMemPool(0, pool);
}

CUresult rrto_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    if (!pool || !poolProps)
        return CUDA_INVALID_VALUE;
    if (poolProps->handleTypes)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemPoolCreate: shared handles (type %d)",
                           poolProps->handleTypes);
    CUresult result = on_device(&poolProps->location, poolProps->allocType);
    if (result)
        return result == CUDA_INVALID_DEVICE ? CUDA_INVALID_VALUE : result;
    if (!the_default()) /* the default pool has the first name */
        return CUDA_OUT_OF_MEMORY;
    struct rrto_object *object = new_pool();
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    ((struct pool_state *)object->data)->most = poolProps->maxSize;
    *pool = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemPoolDestroy(CUmemoryPool pool)
{
    struct rrto_object *object = rrto_find(RRTO_POOL, pool);
    if (!object || object == default_pool)
        return CUDA_INVALID_VALUE;
    if (current_pool == object)
        current_pool = default_pool;
    rrto_drop(RRTO_POOL, object);
    rrto_range_forget_pool(pool);
    free(object->data);
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    struct rrto_object *object = rrto_find(RRTO_POOL, pool);
    if (!object || !value)
        return CUDA_INVALID_VALUE;
    struct pool_state *state = object->data;
    uint64_t high, now = rrto_range_used(pool, &high);
    if (attr >= 1 && attr <= 3)
        memcpy(value, &state->reuse[attr], 4);
    else if (attr == 4)
        memcpy(value, &state->threshold, 8);
    else if (attr == 5 || attr == 7)
        memcpy(value, &now, 8);
    else if (attr == 6 || attr == 8)
        memcpy(value, &high, 8);
    else if (attr == 13) /* the largest size */
        memcpy(value, &state->most, 8);
    else if (attr >= 9 && attr <= 14) /* pinned, no shared handles, device 0, on it; 14: no */
        memcpy(value, &(const int[]){1, 0, 0, 1, 0, 0}[attr - 9], 4);
    else
        return CUDA_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    struct rrto_object *object = rrto_find(RRTO_POOL, pool);
    if (!object || !value)
        return CUDA_INVALID_VALUE;
    struct pool_state *state = object->data;
    uint64_t zero;
    if (attr >= 1 && attr <= 3) {
        memcpy(&state->reuse[attr], value, 4);
    } else if (attr == 4) {
        memcpy(&state->threshold, value, 8);
    } else if (attr == 6 || attr == 8) {
        memcpy(&zero, value, 8);
        if (zero)
            return CUDA_INVALID_VALUE;
        rrto_range_reset_high(pool);
    } else {
        return CUDA_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
    (void)minBytesToKeep; /* nothing is kept back */
    return rrto_find(RRTO_POOL, pool) ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
    if (!rrto_find(RRTO_POOL, pool) || (count && !map))
        return CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (map[i].location.type != 1 || map[i].location.id || map[i].flags != 3)
            return rrto_refuse(CUDA_NOT_SUPPORTED,
                               "cuMemPoolSetAccess: other than the device's own, read and write");
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool,
                                 CUmemLocation *location)
{
    if (!flags || !location || !rrto_find(RRTO_POOL, memPool))
        return CUDA_INVALID_VALUE;
    *flags = location->type == 1 && !location->id ? 3 : 0;
    return CUDA_SUCCESS;
}
