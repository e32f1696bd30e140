/* User objects: what a program wants told when the last graph that uses it is gone. */
#include <limits.h>
#include <stdlib.h>

#include "graph.h"

struct user {
    CUhostFn destroy;
    void *data;
    uint64_t references;
};

/* A graph's references to one object. */
struct rrto_use {
    struct rrto_use *next;
    struct rrto_object *object;
    uint64_t count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static CUresult take(struct rrto_object *object, uint64_t count)
{
    struct user *user = object->data;
    pthread_mutex_lock(&lock);
    user->references += count;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

/* The last reference's end calls the program, in the thread of its host functions. */
static CUresult give_back(struct rrto_object *object, uint64_t count)
{
    struct user *user = object->data;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    int enough = user->references >= count;
    user->references -= enough ? count : 0;
    int last = enough && !user->references;
    pthread_mutex_unlock(&lock);
    if (last) {
        result = rrto_call_later(user->destroy, user->data);
        rrto_drop(RRTO_USER_OBJECT, object);
        free(user);
    }
    return enough ? result : CUDA_INVALID_VALUE;
}

static CUresult find(CUuserObject handle, unsigned count, struct rrto_object **out)
{
    *out = rrto_find(RRTO_USER_OBJECT, handle);
    return *out && count && count <= INT_MAX ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                                 unsigned int initialRefcount, unsigned int flags)
{
    enum { NO_DESTRUCTOR_SYNC = 1 };
    if (!object_out || !destroy || !initialRefcount || initialRefcount > INT_MAX ||
        flags != NO_DESTRUCTOR_SYNC)
        return CUDA_INVALID_VALUE;
    struct user *user = malloc(sizeof *user);
    struct rrto_object *object = user ? rrto_new(RRTO_USER_OBJECT) : NULL;
    if (!object) {
        free(user);
        return CUDA_OUT_OF_MEMORY;
    }
    *user = (struct user){destroy, ptr, initialRefcount};
    object->data = user;
    *object_out = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuUserObjectRetain(CUuserObject object, unsigned int count)
{
    struct rrto_object *found;
    CUresult result = find(object, count, &found);
    return result ? result : take(found, count);
}

CUresult rrto_cuUserObjectRelease(CUuserObject object, unsigned int count)
{
    struct rrto_object *found;
    CUresult result = find(object, count, &found);
    return result ? result : give_back(found, count);
}

/* ---- of graphs ---- */

static struct rrto_use **use_of(struct rrto_graph *graph, const struct rrto_object *object)
{
    struct rrto_use **at = &graph->uses;
    while (*at && (*at)->object != object)
        at = &(*at)->next;
    return at;
}

static CUresult add_use(struct rrto_graph *graph, struct rrto_object *object, uint64_t count)
{
    struct rrto_use **at = use_of(graph, object);
    if (!*at && !(*at = calloc(1, sizeof **at)))
        return CUDA_OUT_OF_MEMORY;
    (*at)->object = object;
    (*at)->count += count;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                      unsigned int flags)
{
    enum { MOVE = 1 };
    struct rrto_object *found;
    struct rrto_graph *holder;
    CUresult result = find(object, count, &found);
    if (!result)
        result = rrto_graph_of(graph, &holder);
    if (!result && flags & ~(unsigned)MOVE)
        result = CUDA_INVALID_VALUE;
    if (!result)
        result = add_use(holder, found, count);
    return result || flags & MOVE ? result : take(found, count);
}

CUresult rrto_cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count)
{
    struct rrto_object *found;
    struct rrto_graph *holder;
    CUresult result = find(object, count, &found);
    if (!result)
        result = rrto_graph_of(graph, &holder);
    if (result)
        return result;
    struct rrto_use **at = use_of(holder, found), *use = *at;
    if (!use || use->count < count)
        return CUDA_INVALID_VALUE;
    use->count -= count;
    if (!use->count) {
        *at = use->next;
        free(use);
    }
    return give_back(found, count);
}

CUresult rrto_uses_clone(const struct rrto_graph *from, struct rrto_graph *to)
{
    CUresult result = CUDA_SUCCESS;
    for (const struct rrto_use *use = from->uses; use && !result; use = use->next) {
        result = add_use(to, use->object, use->count);
        if (!result)
            result = take(use->object, use->count);
    }
    return result;
}

void rrto_uses_drop(struct rrto_graph *graph)
{
    while (graph->uses) {
        struct rrto_use *use = graph->uses;
        graph->uses = use->next;
        give_back(use->object, use->count);
        free(use);
    }
}
