/* Texture and surface objects. The number that a program gives to its kernels is the device's: a driver lets
 * nobody choose it. What a texture reads is memory of the arena, an array's or the program's; what a
 * surface reads and writes, an array's. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { ARRAY = 0, MIPMAPPED = 1, LINEAR = 2, PITCH2D = 3 };   /* kinds of resource */
enum { OVER_BYTES, OVER_ROW, OVER_ROWS, OVER_PLANES };      /* what crosses the wire */
enum { CLAMP = 1, BORDER = 3 };                               /* modes */
enum { AS_INTEGER = 1, NORMALISED = 2, SURFACE = 4, SRGB = 0x10, OPTIMISED = 0x20, SEAMLESS = 0x40 };

struct texture {
    CUtexObject number;
    CUDA_RESOURCE_DESC resource;
    CUDA_TEXTURE_DESC texture;
    CUDA_RESOURCE_VIEW_DESC view;
    int viewed, surface;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock. */
static struct rrto_object *object_of(CUtexObject number, int surface)
{
    uint32_t slot = 0;
    struct rrto_object *object;
    while ((object = rrto_next(RRTO_TEXTURE, &slot)))
        if (object->data && ((struct texture *)object->data)->number == number &&
            ((struct texture *)object->data)->surface == surface)
            return object;
    return NULL;
}

static CUresult describe_linear(const CUDA_RESOURCE_DESC *r, struct rrto_op_texture_create *op)
{
    enum { ALIGNMENT = 14, MOST = 69 };
    size_t element = rrto_element_bytes(r->linear.format, r->linear.channels);
    size_t unit = (size_t)rrto_attribute(ALIGNMENT);
    if (!element || (unit && r->linear.address % unit) || r->linear.bytes < element ||
        r->linear.bytes / element > (size_t)rrto_attribute(MOST))
        return CUDA_INVALID_VALUE;
    *op = (struct rrto_op_texture_create){
        .address = r->linear.address, .size = r->linear.bytes / element * element,
        .width = r->linear.bytes / element, .height = 1, .depth = 1,
        .pitch = r->linear.bytes / element * element,
        .kind = OVER_BYTES, .format = (uint32_t)r->linear.format, .channels = r->linear.channels};
    return rrto_range_check(op->address, op->size);
}

static CUresult describe_rows(const CUDA_RESOURCE_DESC *r, struct rrto_op_texture_create *op)
{
    enum { ALIGNMENT = 14, PITCH_ALIGNMENT = 51, WIDTH = 70, HEIGHT = 71, PITCH = 72 };
    size_t element = rrto_element_bytes(r->rows.format, r->rows.channels), row;
    size_t unit = (size_t)rrto_attribute(ALIGNMENT), step = (size_t)rrto_attribute(PITCH_ALIGNMENT);
    if (!element || (unit && r->rows.address % unit) || (step && r->rows.pitch % step) ||
        !r->rows.width || !r->rows.height || r->rows.width > (size_t)rrto_attribute(WIDTH) ||
        r->rows.height > (size_t)rrto_attribute(HEIGHT) ||
        r->rows.pitch > (size_t)rrto_attribute(PITCH) || r->rows.pitch < r->rows.width * element)
        return CUDA_INVALID_VALUE;
    row = r->rows.width * element;
    *op = (struct rrto_op_texture_create){
        .address = r->rows.address, .size = r->rows.pitch * (r->rows.height - 1) + row,
        .width = r->rows.width, .height = r->rows.height, .depth = 1, .pitch = r->rows.pitch,
        .kind = OVER_ROWS, .format = (uint32_t)r->rows.format, .channels = r->rows.channels};
    return rrto_range_check(op->address, op->size);
}

static CUresult describe_array(const CUDA_RESOURCE_DESC *r, struct rrto_op_texture_create *op)
{
    const struct rrto_array *a = rrto_array_of(r->array);
    if (!a)
        return CUDA_INVALID_HANDLE;
    if ((a->depth || !a->height) && rrto_session.kind == RRTO_GPU)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuTexObjectCreate: %dD arrays on the device gpu",
                           a->depth ? 3 : 1);
    size_t rows = a->height ? a->height : 1, planes = a->depth ? a->depth : 1;
    *op = (struct rrto_op_texture_create){
        .address = a->address, .size = a->pitch * (rows * planes - 1) + a->width * a->element,
        .width = a->width, .height = rows, .depth = planes, .pitch = a->pitch,
        .kind = a->depth ? OVER_PLANES : a->height ? OVER_ROWS : OVER_ROW,
        .format = (uint32_t)a->format, .channels = a->channels};
    return rrto_range_check(op->address, op->size);
}

static CUresult describe(const CUDA_RESOURCE_DESC *r, struct rrto_op_texture_create *op)
{
    if (r->flags)
        return CUDA_INVALID_VALUE;
    switch (r->type) {
    case ARRAY:
        return describe_array(r, op);
    case LINEAR:
        return describe_linear(r, op);
    case PITCH2D:
        return describe_rows(r, op);
    case MIPMAPPED:
        return CUDA_INVALID_HANDLE; /* nobody can have made one */
    default:
        return CUDA_INVALID_VALUE;
    }
}

/* How it is read. */
static CUresult sample(const CUDA_TEXTURE_DESC *t, struct rrto_op_texture_create *op)
{
    int whole = op->format == 0x03 || op->format == 0x0a; /* 32-bit integers are never promoted */
    int integers = whole || (t->flags & AS_INTEGER && op->format < 0x10);
    if (t->flags & SEAMLESS || t->flags & ~(unsigned)(AS_INTEGER | NORMALISED | SRGB | OPTIMISED) ||
        (unsigned)t->filter > 1 || (unsigned)t->mode[0] > 3 || (unsigned)t->mode[1] > 3 ||
        (unsigned)t->mode[2] > 3)
        return CUDA_INVALID_VALUE;
    if (t->flags & SRGB)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuTexObjectCreate: sRGB");
    int linear = op->kind != OVER_BYTES;
    if (linear && t->filter && integers)
        return CUDA_INVALID_VALUE;
    op->filter = linear ? (uint32_t)t->filter : 0;
    op->flags = (uint32_t)(integers ? AS_INTEGER : 0) | (linear ? t->flags & NORMALISED : 0);
    uint32_t modes[3];
    for (int i = 0; i < 3; i++) {
        modes[i] = linear ? (uint32_t)t->mode[i] : CLAMP;
        if (!(op->flags & NORMALISED) && modes[i] != BORDER)
            modes[i] = CLAMP; /* to wrap and to mirror takes coordinates up to 1 */
    }
    op->mode_x = modes[0];
    op->mode_y = modes[1];
    op->mode_z = modes[2];
    op->border_r = t->border[0];
    op->border_g = t->border[1];
    op->border_b = t->border[2];
    op->border_a = t->border[3];
    return CUDA_SUCCESS;
}

static CUresult check_view(const CUDA_RESOURCE_VIEW_DESC *view, const CUDA_RESOURCE_DESC *resource)
{
    if (!view)
        return CUDA_SUCCESS;
    const struct rrto_array *a = resource->type == ARRAY ? rrto_array_of(resource->array) : NULL;
    if (!a || view->width != a->width || view->height != a->height || view->depth != a->depth ||
        view->first_level || view->last_level || view->first_layer || view->last_layer)
        return CUDA_INVALID_VALUE;
    return view->format ? rrto_refuse(CUDA_NOT_SUPPORTED,
                                      "cuTexObjectCreate: a view of another format (0x%x)",
                                      view->format)
                        : CUDA_SUCCESS;
}

/* Makes it on the device; `what` becomes the shim's. */
static CUresult make(struct rrto_op_texture_create *op, const struct texture *what,
                     unsigned long long *out)
{
    struct texture *made = calloc(1, sizeof *made);
    struct rrto_object *object = made ? rrto_new(RRTO_TEXTURE) : NULL;
    if (!object) {
        free(made);
        return CUDA_OUT_OF_MEMORY;
    }
    op->texture = object->name;
    uint64_t number = 0;
    struct rrto_wait wait = {.data = &number, .room = sizeof number};
    CUresult result = rrto_emit_texture_create(op, &wait);
    if (result) {
        rrto_drop(RRTO_TEXTURE, object);
        free(made);
        return result;
    }
    *made = *what;
    made->number = number;
    pthread_mutex_lock(&lock);
    object->data = made;
    pthread_mutex_unlock(&lock);
    *out = number;
    return CUDA_SUCCESS;
}

CUresult rrto_cuTexObjectCreate(CUtexObject *pTexObject, const CUDA_RESOURCE_DESC *pResDesc,
                                const CUDA_TEXTURE_DESC *pTexDesc,
                                const CUDA_RESOURCE_VIEW_DESC *pResViewDesc)
{
    struct rrto_op_texture_create op;
    if (!pTexObject || !pResDesc || !pTexDesc)
        return CUDA_INVALID_VALUE;
    CUresult result = describe(pResDesc, &op);
    if (!result)
        result = sample(pTexDesc, &op);
    if (!result)
        result = check_view(pResViewDesc, pResDesc);
    if (result)
        return result;
    struct texture what = {.resource = *pResDesc, .texture = *pTexDesc};
    what.viewed = pResViewDesc != NULL;
    if (pResViewDesc)
        what.view = *pResViewDesc;
    return make(&op, &what, pTexObject);
}

CUresult rrto_cuSurfObjectCreate(CUsurfObject *pSurfObject, const CUDA_RESOURCE_DESC *pResDesc)
{
    enum { MAY_BE_SURFACE = 2 };
    struct rrto_op_texture_create op;
    if (!pSurfObject || !pResDesc || pResDesc->type != ARRAY || pResDesc->flags)
        return CUDA_INVALID_VALUE;
    const struct rrto_array *array = rrto_array_of(pResDesc->array);
    if (array && !(array->flags & MAY_BE_SURFACE))
        return CUDA_INVALID_VALUE;
    if (rrto_session.kind == RRTO_GPU)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuSurfObjectCreate: on the device gpu");
    CUresult result = describe_array(pResDesc, &op);
    if (result)
        return result;
    op.flags = SURFACE;
    op.mode_x = op.mode_y = op.mode_z = CLAMP;
    struct texture what = {.resource = *pResDesc, .surface = 1};
    return make(&op, &what, pSurfObject);
}

static CUresult destroy(unsigned long long number, int surface)
{
    pthread_mutex_lock(&lock);
    struct rrto_object *object = object_of(number, surface);
    void *data = object ? object->data : NULL;
    if (object)
        object->data = NULL;
    pthread_mutex_unlock(&lock);
    if (!object)
        return CUDA_INVALID_VALUE;
    free(data);
    struct rrto_op_texture_destroy op = {object->name};
    CUresult result = rrto_emit_texture_destroy(&op, NULL);
    rrto_drop(RRTO_TEXTURE, object);
    return result;
}

CUresult rrto_cuTexObjectDestroy(CUtexObject texObject)
{
    return destroy(texObject, 0);
}

CUresult rrto_cuSurfObjectDestroy(CUsurfObject surfObject)
{
    return destroy(surfObject, 1);
}

/* A copy of what is known of a texture or surface. */
static CUresult known(unsigned long long number, int surface, const void *out,
                      struct texture *copy)
{
    pthread_mutex_lock(&lock);
    struct rrto_object *object = out ? object_of(number, surface) : NULL;
    if (object)
        *copy = *(struct texture *)object->data;
    pthread_mutex_unlock(&lock);
    return object ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUtexObject texObject)
{
    struct texture found;
    CUresult result = known(texObject, 0, pResDesc, &found);
    if (!result)
        *pResDesc = found.resource;
    return result;
}

CUresult rrto_cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC *pTexDesc, CUtexObject texObject)
{
    struct texture found;
    CUresult result = known(texObject, 0, pTexDesc, &found);
    if (!result)
        *pTexDesc = found.texture;
    return result;
}

CUresult rrto_cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC *pResViewDesc,
                                             CUtexObject texObject)
{
    struct texture found;
    CUresult result = known(texObject, 0, pResViewDesc, &found);
    if (result || !found.viewed) /* as CUDA says */
        return CUDA_INVALID_VALUE;
    *pResViewDesc = found.view;
    return CUDA_SUCCESS;
}

CUresult rrto_cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUsurfObject surfObject)
{
    struct texture found;
    CUresult result = known(surfObject, 1, pResDesc, &found);
    if (!result)
        *pResDesc = found.resource;
    return result;
}
