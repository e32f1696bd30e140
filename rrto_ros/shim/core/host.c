/* Pinned host memory: what the program allocated or registered. On a robot without a GPU "pinned"
 * means one thing: a copy from the device may go on after the call, into this memory. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

struct pinned {
    uintptr_t base;
    size_t bytes;
    unsigned flags;
    int registered;
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

static CUresult add(uintptr_t base, size_t bytes, unsigned flags, int registered)
{
    struct pinned *item = malloc(sizeof *item);
    if (!item)
        return CUDA_OUT_OF_MEMORY;
    *item = (struct pinned){base, bytes, flags, registered, NULL};
    pthread_mutex_lock(&lock);
    item->next = first;
    first = item;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
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
    if (!p || !bytesize || Flags & ~15u)
        return CUDA_INVALID_VALUE;
    if (rrto_host_find(p, NULL, NULL))
        return CUDA_HOST_MEMORY_ALREADY_REGISTERED;
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
