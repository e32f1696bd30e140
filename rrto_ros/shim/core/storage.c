/* Context-local storage: what libraries keep with a context, by key, and have given back when it
 * ends (a table of the CUDA runtime library, which looks into it at nearly every call).
 *
 * A table of each context's own, with linear probing: a lookup is a lock that nobody else holds and
 * one or two comparisons. A key that is put again has its new value, and the old one's end is not
 * called: it was the caller's to look after. */
#include <stdlib.h>

#include "runtime_tables.h"
#include "shim.h"

enum { FIRST_ROOM = 64, MORE_ENDS = 1024 /* for what is put while a context ends */ };

struct entry {
    void *key, *value;
    rrto_storage_end end;
    int used;
};

struct store {
    pthread_mutex_t lock;
    void *context; /* whose: an object that was made anew starts empty */
    struct entry *entries;
    size_t count, room; /* room: a power of two, or 0 */
};

static struct store stores[RRTO_CONTEXTS] = {
    [0 ... RRTO_CONTEXTS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};

static size_t place_of(const void *key, size_t room)
{
    return (size_t)((uint64_t)(uintptr_t)key * 0x9E3779B97F4A7C15ull >> 32) & (room - 1);
}

/* The entry of a key, or the free one where it would be. There is always a free one. */
static struct entry *find(const struct store *store, const void *key)
{
    size_t at = place_of(key, store->room);
    while (store->entries[at].used && store->entries[at].key != key)
        at = (at + 1) & (store->room - 1);
    return &store->entries[at];
}

static int make_room(struct store *store)
{
    if (store->count + 1 <= store->room / 2)
        return 0;
    struct store larger = *store;
    larger.room = store->room ? store->room * 2 : FIRST_ROOM;
    larger.entries = calloc(larger.room, sizeof *larger.entries);
    if (!larger.entries)
        return -1;
    for (size_t i = 0; i < store->room; i++)
        if (store->entries[i].used)
            *find(&larger, store->entries[i].key) = store->entries[i];
    free(store->entries);
    store->entries = larger.entries;
    store->room = larger.room;
    return 0;
}

/* Those behind it that would no longer be found move up. */
static void take_out(struct store *store, struct entry *gone)
{
    size_t hole = (size_t)(gone - store->entries), mask = store->room - 1;
    for (size_t at = (hole + 1) & mask; store->entries[at].used; at = (at + 1) & mask) {
        size_t home = place_of(store->entries[at].key, store->room);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            store->entries[hole] = store->entries[at];
            hole = at;
        }
    }
    store->entries[hole].used = 0;
    store->count--;
}

/* The store of a context, locked. */
static CUresult enter(CUcontext ctx, struct store **out)
{
    struct rrto_object *object;
    CUresult result = rrto_context_of(ctx, &object);
    if (result)
        return result;
    struct store *store = *out = &stores[object->slot];
    pthread_mutex_lock(&store->lock);
    if (store->context != object->handle) {
        for (size_t i = 0; i < store->room; i++)
            store->entries[i].used = 0;
        store->count = 0;
        store->context = object->handle;
    }
    return CUDA_SUCCESS;
}

CUresult rrto_table_storage_put(CUcontext ctx, void *key, void *value, rrto_storage_end end)
{
    struct store *store;
    CUresult result = enter(ctx, &store);
    if (result)
        return result;
    if (make_room(store)) {
        result = CUDA_OUT_OF_MEMORY;
    } else {
        struct entry *entry = find(store, key);
        store->count += !entry->used;
        *entry = (struct entry){key, value, end, 1};
    }
    pthread_mutex_unlock(&store->lock);
    return result;
}

CUresult rrto_table_storage_delete(CUcontext ctx, void *key)
{
    struct store *store;
    CUresult result = enter(ctx, &store);
    if (result)
        return result;
    struct entry *entry = store->count ? find(store, key) : NULL;
    if (entry && entry->used)
        take_out(store, entry);
    else
        result = CUDA_INVALID_HANDLE;
    pthread_mutex_unlock(&store->lock);
    return result;
}

CUresult rrto_table_storage_get(void **value, CUcontext ctx, void *key)
{
    struct store *store;
    if (!value)
        return CUDA_INVALID_VALUE;
    CUresult result = enter(ctx, &store);
    if (result)
        return result;
    const struct entry *entry = store->count ? find(store, key) : NULL;
    if (entry && entry->used)
        *value = entry->value;
    else
        result = CUDA_INVALID_HANDLE;
    pthread_mutex_unlock(&store->lock);
    return result;
}

/* One by one, each without the lock: an end may look here, and delete and put others. */
void rrto_storage_ends(CUcontext ctx)
{
    struct store *store;
    size_t left = MORE_ENDS, known = 0;
    for (;;) {
        if (enter(ctx, &store))
            return;
        if (!known)
            left += known = store->count;
        struct entry *at = store->count ? store->entries : NULL;
        while (at && !at->used)
            at++;
        struct entry taken = at ? *at : (struct entry){0};
        if (at)
            take_out(store, at);
        pthread_mutex_unlock(&store->lock);
        if (!taken.used || !left--)
            return;
        if (taken.end)
            taken.end(ctx, taken.key, taken.value);
    }
}
