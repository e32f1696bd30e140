/* Handles. What a program holds is a tagged number, not a pointer into the shim: kind, generation
 * and slot. So a wrong, destroyed or foreign handle is found out without touching memory, and an
 * object's name on the wire (by its slot) is the same at every start. Objects are never freed, only
 * reused with a new generation. */
#include <stdlib.h>

#include "shim.h"

/* Streams 0, 1 and 2 are CUDA's default streams; created ones come after them. */
enum { FIRST_STREAM = 3, CHUNK = 256, CHUNKS = 8192, GENERATION_BITS = 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(struct rrto_object *) chunks[RRTO_KINDS][CHUNKS];
static struct rrto_object *free_first[RRTO_KINDS];
static _Atomic uint32_t used[RRTO_KINDS];

static void *handle_of(enum rrto_kind kind, uint32_t slot, uint32_t generation)
{
    uintptr_t value = (uintptr_t)kind << 52 | (uintptr_t)generation << 32 | (uintptr_t)slot << 4;
    return (void *)value;
}

struct rrto_object *rrto_new(enum rrto_kind kind)
{
    pthread_mutex_lock(&lock);
    struct rrto_object *object = free_first[kind];
    if (object) {
        free_first[kind] = object->free_next;
    } else {
        uint32_t slot = atomic_load(&used[kind]);
        if (slot < CHUNK * CHUNKS) {
            struct rrto_object *chunk = atomic_load(&chunks[kind][slot / CHUNK]);
            if (!chunk) {
                chunk = calloc(CHUNK, sizeof *chunk);
                atomic_store(&chunks[kind][slot / CHUNK], chunk);
            }
            if (chunk) {
                object = &chunk[slot % CHUNK];
                object->slot = slot;
                object->name = slot + (kind == RRTO_STREAM ? FIRST_STREAM : 1);
                atomic_store(&used[kind], slot + 1);
            }
        }
    }
    if (object) {
        uint32_t generation = (atomic_load(&object->state) / 2 + 1) & ((1u << GENERATION_BITS) - 1);
        object->handle = handle_of(kind, object->slot, generation);
        object->owner = NULL;
        object->flags = 0;
        object->number = 0;
        object->data = NULL;
        object->free_next = NULL;
        atomic_store_explicit(&object->state, generation * 2 + 1, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return object;
}

void rrto_drop(enum rrto_kind kind, struct rrto_object *object)
{
    pthread_mutex_lock(&lock);
    uint32_t state = atomic_load(&object->state);
    if (state & 1) {
        atomic_store(&object->state, state & ~1u);
        /* The lowest free name is used first, whatever the order of destruction. */
        struct rrto_object **at = &free_first[kind];
        while (*at && (*at)->slot < object->slot)
            at = &(*at)->free_next;
        object->free_next = *at;
        *at = object;
    }
    pthread_mutex_unlock(&lock);
}

struct rrto_object *rrto_find(enum rrto_kind kind, const void *handle)
{
    uintptr_t value = (uintptr_t)handle;
    uint32_t slot = (uint32_t)value >> 4;
    uint32_t generation = (uint32_t)(value >> 32) & ((1u << GENERATION_BITS) - 1);
    if (value >> 52 != (uintptr_t)kind || value & 15 || slot >= CHUNK * CHUNKS)
        return NULL;
    struct rrto_object *chunk =
        atomic_load_explicit(&chunks[kind][slot / CHUNK], memory_order_acquire);
    if (!chunk)
        return NULL;
    struct rrto_object *object = &chunk[slot % CHUNK];
    uint32_t state = atomic_load_explicit(&object->state, memory_order_acquire);
    return state == generation * 2 + 1 ? object : NULL;
}

struct rrto_object *rrto_next(enum rrto_kind kind, uint32_t *slot)
{
    uint32_t end = atomic_load(&used[kind]);
    while (*slot < end) {
        struct rrto_object *chunk = atomic_load(&chunks[kind][*slot / CHUNK]);
        struct rrto_object *object = chunk ? &chunk[*slot % CHUNK] : NULL;
        ++*slot;
        if (object && atomic_load(&object->state) & 1)
            return object;
    }
    return NULL;
}
