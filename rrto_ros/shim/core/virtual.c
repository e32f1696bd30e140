/* Virtual memory management: address ranges that the program reserves, memory without addresses,
 * and mappings of the one in the other. Addresses are the shim's, so that a reservation makes no
 * record; memory, mappings and access are the device's. Memory whose handle the program has
 * released lives as long as a mapping of it. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { GRANULE = RRTO_MAP_GRANULE, FILE_DESCRIPTOR = 1 };

struct memory {
    struct rrto_object *object;
    uint64_t bytes;
    unsigned handles, mappings; /* how often the program holds it, and where it is mapped */
    CUmemAllocationProp properties;
};

struct reservation {
    uint64_t address, bytes;
};

/* Held while a record is made, too: records come in the order of what is noted here. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct reservation *reservations;
static size_t reserved_count, reserved_room;

static CUresult check_properties(const CUmemAllocationProp *prop)
{
    enum { PINNED = 1, MANAGED = 2, DEVICE = 1, LAST_LOCATION = 5 };
    if (!prop || prop->type < PINNED || prop->type > MANAGED || prop->location.type < DEVICE ||
        prop->location.type > LAST_LOCATION)
        return CUDA_INVALID_VALUE;
    if (prop->location.type != DEVICE || prop->type != PINNED)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemCreate: location type %d, allocation type %d",
                           prop->location.type, prop->type);
    if (prop->location.id)
        return CUDA_INVALID_DEVICE;
    /* Programs ask for a file descriptor as a matter of course and never export it. */
    if (prop->requestedHandleTypes & ~FILE_DESCRIPTOR)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemCreate: shared handles (type %d)",
                           prop->requestedHandleTypes);
    if (prop->compression || prop->usage)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemCreate: compression %d, usage %d",
                           prop->compression, prop->usage);
    return CUDA_SUCCESS;
}

CUresult rrto_cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                            CUmemAllocationGranularity_flags option)
{
    if (!granularity || option < 0 || option > 1)
        return CUDA_INVALID_VALUE;
    CUresult result = check_properties(prop);
    if (!result)
        *granularity = GRANULE;
    return result;
}

/* ---- reserved addresses ---- */

/* The reservation that holds a range, or NULL. */
static struct reservation *holding(uint64_t address, uint64_t bytes)
{
    for (size_t i = 0; i < reserved_count; i++)
        if (address >= reservations[i].address &&
            address - reservations[i].address < reservations[i].bytes &&
            bytes <= reservations[i].bytes - (address - reservations[i].address))
            return &reservations[i];
    return NULL;
}

CUresult rrto_cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                  unsigned long long flags)
{
    CUresult result = CUDA_OUT_OF_MEMORY;
    uint64_t address;
    if (!ptr || !size || size % GRANULE || (alignment & (alignment - 1)) || flags)
        return CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (reserved_count == reserved_room) {
        size_t room = reserved_room ? reserved_room * 2 : 16;
        struct reservation *larger = realloc(reservations, room * sizeof *larger);
        if (larger) {
            reservations = larger;
            reserved_room = room;
        }
    }
    if (reserved_count < reserved_room)
        result = rrto_arena_reserve(size, alignment < GRANULE ? GRANULE : alignment, addr, &address);
    if (!result) {
        reservations[reserved_count++] = (struct reservation){address, size};
        *ptr = address;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    CUresult result = CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    struct reservation *found = holding(ptr, size);
    if (found && found->address == ptr && found->bytes == size && !rrto_range_pieces(ptr, size)) {
        *found = reservations[--reserved_count];
        rrto_arena_unreserve(ptr, size);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- memory ---- */

/* Memory that the program holds, or NULL. */
static struct memory *held(CUmemGenericAllocationHandle handle)
{
    struct rrto_object *object = rrto_find(RRTO_MEMORY, (void *)(uintptr_t)handle);
    struct memory *memory = object ? object->data : NULL;
    return memory && memory->handles ? memory : NULL;
}

static void forget(struct memory *memory)
{
    rrto_range_budget(-(int64_t)memory->bytes);
    rrto_drop(RRTO_MEMORY, memory->object);
    free(memory);
}

/* Gives the memory back when nobody holds it and it is mapped nowhere. Under the lock. */
static CUresult settle(struct memory *memory)
{
    if (memory->handles || memory->mappings)
        return CUDA_SUCCESS;
    struct rrto_op_mem_release op = {.handle = memory->object->name};
    CUresult result = rrto_emit_mem_release(&op, NULL);
    forget(memory);
    return result;
}

CUresult rrto_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                          const CUmemAllocationProp *prop, unsigned long long flags)
{
    if (!handle || !size || size % GRANULE || flags)
        return CUDA_INVALID_VALUE;
    CUresult result = check_properties(prop);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    struct memory *memory = calloc(1, sizeof *memory);
    struct rrto_object *object = memory ? rrto_new(RRTO_MEMORY) : NULL;
    result = object ? rrto_range_budget((int64_t)size) : CUDA_OUT_OF_MEMORY;
    if (result) {
        if (object)
            rrto_drop(RRTO_MEMORY, object);
        free(memory);
    } else {
        *memory = (struct memory){object, size, 1, 0, *prop};
        object->data = memory;
        struct rrto_op_mem_create op = {object->name, size};
        result = rrto_emit_mem_create(&op, NULL);
        if (result)
            forget(memory);
        else
            *handle = (uintptr_t)object->handle;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult result = CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    struct memory *memory = held(handle);
    if (memory) {
        memory->handles--;
        result = settle(memory);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    struct rrto_range piece;
    CUresult result = CUDA_INVALID_VALUE;
    if (!handle)
        return result;
    pthread_mutex_lock(&lock);
    if (rrto_range_find((uintptr_t)addr, &piece) && piece.memory) {
        struct memory *memory = piece.memory->data;
        memory->handles++;
        *handle = (uintptr_t)piece.memory->handle;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                     CUmemGenericAllocationHandle handle)
{
    pthread_mutex_lock(&lock);
    struct memory *memory = held(handle);
    if (memory && prop)
        *prop = memory->properties;
    pthread_mutex_unlock(&lock);
    return memory && prop ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

/* ---- mappings ---- */

CUresult rrto_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                       CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    CUresult result = CUDA_INVALID_VALUE;
    /* CUDA has the offset in the call and wants it to be 0. */
    if (!size || ptr % GRANULE || size % GRANULE || offset || flags)
        return result;
    pthread_mutex_lock(&lock);
    struct memory *memory = held(handle);
    if (memory && size <= memory->bytes && holding(ptr, size))
        result = rrto_range_map(ptr, size, memory->object);
    if (!result) {
        struct rrto_op_mem_map op = {ptr, size, memory->object->name};
        result = rrto_emit_mem_map(&op, NULL);
        if (result)
            rrto_range_unmap(ptr);
        else
            memory->mappings++;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    struct rrto_range piece;
    CUresult result = CUDA_INVALID_VALUE;
    if (!size)
        return result;
    pthread_mutex_lock(&lock);
    if (rrto_range_whole_pieces(ptr, size)) {
        struct rrto_op_mem_unmap op = {ptr, size};
        result = rrto_emit_mem_unmap(&op, NULL);
        for (uint64_t at = ptr; at < ptr + size && rrto_range_find(at, &piece);
             at += piece.bytes) {
            struct memory *memory = piece.memory->data;
            rrto_range_unmap(at);
            memory->mappings--;
            CUresult given_back = settle(memory);
            if (!result)
                result = given_back;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc,
                             size_t count)
{
    enum { DEVICE = 1, LAST_LOCATION = 5 };
    CUresult result = CUDA_SUCCESS;
    if (!size || !desc || !count)
        return CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        int type = desc[i].location.type, flags = desc[i].flags;
        if ((flags != 0 && flags != 1 && flags != 3) || type < DEVICE || type > LAST_LOCATION)
            return CUDA_INVALID_VALUE;
        if (type != DEVICE)
            return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemSetAccess: location type %d", type);
        if (desc[i].location.id)
            return CUDA_INVALID_DEVICE;
    }
    pthread_mutex_lock(&lock);
    if (!rrto_range_whole_pieces(ptr, size))
        result = CUDA_INVALID_VALUE;
    for (size_t i = 0; i < count && !result; i++) {
        struct rrto_op_mem_access op = {ptr, size, (uint32_t)desc[i].flags};
        result = rrto_emit_mem_access(&op, NULL);
        if (!result)
            rrto_range_access(ptr, size, desc[i].flags);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
                             CUdeviceptr ptr)
{
    struct rrto_range piece;
    if (!flags || !location || !rrto_range_find(ptr, &piece) || !piece.memory)
        return CUDA_INVALID_VALUE;
    if (location->type != 1)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuMemGetAccess: location type %d", location->type);
    if (location->id)
        return CUDA_INVALID_DEVICE;
    *flags = (unsigned)piece.access;
    return CUDA_SUCCESS;
}
