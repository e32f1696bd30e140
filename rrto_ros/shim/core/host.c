/* Page-locked host memory: what the program allocated or registered. On a robot without a GPU
 * "page-locked" means one thing: a copy from the device may go on after the call, into this memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

struct pinned {
    uintptr_t base;
    size_t bytes;
    unsigned flags;
    int registered;
    uint64_t object, place; /* of the first byte */
    struct pinned *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pinned *first;

static struct pinned **slot_of(uintptr_t at)
{
    struct pinned **slot = &first;
    while (*slot && !(at - (*slot)->base < (*slot)->bytes))
        slot = &(*slot)->next;
    return slot;
}

int rrto_host_find(const void *at, uintptr_t *base, size_t *bytes)
{
    pthread_mutex_lock(&lock);
    struct pinned *found = *slot_of((uintptr_t)at);
    if (found && base) {
        *base = found->base;
        *bytes = found->bytes;
    }
    pthread_mutex_unlock(&lock);
    return found != NULL;
}

void rrto_host_of(const void *at, size_t bytes, struct rrto_host *out)
{
    *out = (struct rrto_host){.address = (uintptr_t)at, .object = RRTO_ANY_OBJECT};
    pthread_mutex_lock(&lock);
    struct pinned *found = *slot_of((uintptr_t)at);
    if (found) {
        uintptr_t from = (uintptr_t)at - found->base;
        out->base = found->base;
        out->bytes = found->bytes;
        out->registered = found->registered;
        if (bytes <= found->bytes - from) {
            out->object = found->object;
            out->place = found->place + from;
        }
    }
    pthread_mutex_unlock(&lock);
}

int rrto_host_pinned(const void *at, size_t bytes, struct rrto_host *out)
{
    rrto_host_of(at, bytes, out);
    return out->base && bytes <= out->bytes - (out->address - out->base);
}

/* Under the lock: whether a byte of the range is page-locked already. */
static int taken(uintptr_t base, size_t bytes)
{
    for (struct pinned *item = first; item; item = item->next)
        if (base < item->base ? item->base - base < bytes : base - item->base < item->bytes)
            return 1;
    return 0;
}

/* Which file's pages these are, and from where on. Memory can be mapped more than once: then a copy
 * that lands at one address is read at another. */
static void object_of(struct pinned *item)
{
    char line[512];
    uintptr_t end = item->base + item->bytes;
    FILE *maps = fopen("/proc/self/maps", "re");
    item->object = maps ? 0 : RRTO_ANY_OBJECT;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long long low, high, offset, inode;
        unsigned major, minor;
        if (sscanf(line, "%llx-%llx %*s %llx %x:%x %llu", &low, &high, &offset, &major, &minor,
                   &inode) != 6 ||
            low >= end || high <= item->base || !(inode || major || minor))
            continue; /* a System V segment's inode may be 0; it has a device */
        uint64_t object = inode ^ (uint64_t)major << 52 ^ (uint64_t)minor << 40;
        if (low > item->base || high < end)
            object = RRTO_ANY_OBJECT; /* several: too many to tell apart */
        item->object = object;
        item->place = offset + (item->base - low);
    }
    if (maps)
        fclose(maps);
}

static CUresult add(uintptr_t base, size_t bytes, unsigned flags, int registered)
{
    struct pinned *item = malloc(sizeof *item);
    if (!item)
        return CUDA_OUT_OF_MEMORY;
    *item = (struct pinned){.base = base, .bytes = bytes, .flags = flags, .registered = registered};
    if (registered)
        object_of(item);
    pthread_mutex_lock(&lock);
    int twice = registered && taken(base, bytes);
    if (!twice) {
        item->next = first;
        first = item;
    }
    pthread_mutex_unlock(&lock);
    if (twice)
        free(item);
    return twice ? CUDA_HOST_MEMORY_ALREADY_REGISTERED : CUDA_SUCCESS;
}

/* Take the entry out if it begins here. A copy still under way must not outlive the memory. */
static CUresult take(void *p, int registered)
{
    CUresult wrong = registered ? CUDA_HOST_MEMORY_NOT_REGISTERED : CUDA_INVALID_VALUE;
    if (!p)
        return CUDA_INVALID_VALUE;
    rrto_finish_deferred();
    pthread_mutex_lock(&lock);
    struct pinned **slot = slot_of((uintptr_t)p);
    struct pinned *found = *slot;
    int mine = found && found->base == (uintptr_t)p && found->registered == registered;
    if (mine)
        *slot = found->next;
    pthread_mutex_unlock(&lock);
    if (!mine)
        return wrong;
    free(found);
    return CUDA_SUCCESS;
}

/* A device that cannot map host memory, which attribute 19 says of this one, takes the flag DEVICEMAP
 * all the same; cuMemHostGetDevicePointer is what fails there. So CUDA has it, of both functions. */
CUresult rrto_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    void *memory;
    if (!pp || !bytesize || Flags & ~7u)
        return CUDA_INVALID_VALUE;
    if (posix_memalign(&memory, 4096, bytesize))
        return CUDA_OUT_OF_MEMORY;
    CUresult result = add((uintptr_t)memory, bytesize, Flags, 0);
    if (result)
        free(memory);
    else
        *pp = memory;
    return result;
}

CUresult rrto_cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return rrto_cuMemHostAlloc(pp, bytesize, 0);
}

CUresult rrto_cuMemFreeHost(void *p)
{
    CUresult result = take(p, 0);
    if (!result)
        free(p);
    return result;
}

CUresult rrto_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    if (!p || !bytesize || bytesize > UINTPTR_MAX - (uintptr_t)p || Flags & ~15u)
        return CUDA_INVALID_VALUE;
    return add((uintptr_t)p, bytesize, Flags, 1);
}

CUresult rrto_cuMemHostUnregister(void *p)
{
    return take(p, 1);
}

CUresult rrto_cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    if (!pFlags)
        return CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    struct pinned *found = *slot_of((uintptr_t)p);
    if (found)
        *pFlags = found->flags;
    pthread_mutex_unlock(&lock);
    return found ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}
