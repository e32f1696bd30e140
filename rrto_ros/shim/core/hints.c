/* Attributes of streams that only advise. Nothing is done about them; they read back as they were
 * set. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { WINDOW = 1, SYNCHRONIZATION = 3, PRIORITY = 8, DOMAIN_MAP = 9, DOMAIN = 10, HINTS = 11 };

struct rrto_hints {
    CUstreamAttrValue value[HINTS];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *of_default; /* the default stream's, where it was set */

static CUresult check(int attribute, const CUstreamAttrValue *value)
{
    switch (attribute) {
    case WINDOW:
        return value->window.hit_ratio >= 0 && value->window.hit_ratio <= 1 &&
                       (unsigned)value->window.hit <= 2 && (unsigned)value->window.miss <= 1
                   ? CUDA_SUCCESS
                   : CUDA_INVALID_VALUE;
    case SYNCHRONIZATION:
        return value->number >= 1 && value->number <= 4 ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
    case DOMAIN:
        return (unsigned)value->number <= 1 ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
    case PRIORITY:
    case DOMAIN_MAP:
        return CUDA_SUCCESS;
    default:
        return CUDA_INVALID_VALUE;
    }
}

/* The place of a stream's attributes. NULL: it is no stream. */
static void **place_of(CUstream stream, struct rrto_object **object)
{
    *object = rrto_find(RRTO_STREAM, stream);
    return *object ? &(*object)->data : (uintptr_t)stream <= 2 ? &of_default : NULL;
}

static void read_one(void *const *place, const struct rrto_object *object, int attribute,
                     CUstreamAttrValue *out)
{
    static const unsigned char map[2] = {0, 1};
    const struct rrto_hints *hints = *place;
    memset(out, 0, sizeof *out);
    if (attribute == PRIORITY)
        out->number = object ? object->number : 0;
    else if (hints)
        *out = hints->value[attribute];
    else if (attribute == SYNCHRONIZATION)
        out->number = 1;
    else if (attribute == DOMAIN_MAP)
        memcpy(out, map, sizeof map);
}

CUresult rrto_cuStreamGetAttribute(CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value)
{
    struct rrto_object *object;
    void **place = place_of(hStream, &object);
    if (!value || attr < 0 || attr >= HINTS)
        return CUDA_INVALID_VALUE;
    if (!place)
        return CUDA_INVALID_HANDLE;
    CUstreamAttrValue zero = {.number = 1};
    CUresult result = check(attr, &zero);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    read_one(place, object, attr, value);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

/* Under the lock. */
static CUresult write_one(void **place, struct rrto_object *object, int attribute,
                          const CUstreamAttrValue *value)
{
    if (attribute == PRIORITY) {
        int priority = value->number > 0 ? 0 : value->number < -5 ? -5 : value->number;
        if (object)
            object->number = priority;
        return CUDA_SUCCESS;
    }
    if (!*place) {
        struct rrto_hints *hints = calloc(1, sizeof *hints);
        if (!hints)
            return CUDA_OUT_OF_MEMORY;
        void *none = NULL;
        for (int i = 0; i < HINTS; i++)
            read_one(&none, NULL, i, &hints->value[i]);
        *place = hints;
    }
    ((struct rrto_hints *)*place)->value[attribute] = *value;
    return CUDA_SUCCESS;
}

CUresult rrto_cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr,
                                   const CUstreamAttrValue *param)
{
    struct rrto_object *object;
    void **place = place_of(hStream, &object);
    if (!param)
        return CUDA_INVALID_VALUE;
    if (!place)
        return CUDA_INVALID_HANDLE;
    CUresult result = check(attr, param);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    result = write_one(place, object, attr, param);
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuStreamCopyAttributes(CUstream dstStream, CUstream srcStream)
{
    static const int all[] = {WINDOW, SYNCHRONIZATION, PRIORITY, DOMAIN_MAP, DOMAIN};
    struct rrto_object *to, *from;
    void **target = place_of(dstStream, &to), **source = place_of(srcStream, &from);
    if (!target || !source)
        return CUDA_INVALID_HANDLE;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < sizeof all / sizeof *all && !result; i++) {
        CUstreamAttrValue value;
        read_one(source, from, all[i], &value);
        result = write_one(target, to, all[i], &value);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
