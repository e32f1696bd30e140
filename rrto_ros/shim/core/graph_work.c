/* What a node of a graph does: read from what the program gives, checked, kept, compared. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL = 4096 };

/* ---- kernels ---- */

static struct rrto_kernel *kernel_of(const struct rrto_work *work)
{
    return rrto_kernel_of(work->kernel.func ? (const void *)work->kernel.func
                                            : (const void *)work->kernel.kern);
}

const unsigned char *rrto_work_arguments(const struct rrto_work *work)
{
    return (const unsigned char *)work->arguments + work->table_bytes;
}

/* The arguments' pointers lead into the work itself. */
static void point(struct rrto_work *work)
{
    enum { END = 0, POINTER = 1, SIZE = 2 };
    if (work->kind != RRTO_KERNEL_NODE)
        return;
    void *extra[5] = {(void *)POINTER, (char *)work->arguments + work->table_bytes, (void *)SIZE,
                      &work->argument_bytes, (void *)END};
    memcpy(work->extra, extra, sizeof extra);
    if (work->kernel.extra)
        work->kernel.extra = work->extra;
    else
        work->kernel.kernelParams = work->arguments;
}

static CUresult keep_arguments(struct rrto_work *work, const struct rrto_kernel *kernel,
                               const unsigned char *packed)
{
    work->table_bytes = kernel->param_count * sizeof(void *);
    work->argument_bytes = kernel->param_bytes;
    work->arguments = calloc(1, work->table_bytes + work->argument_bytes + 1);
    if (!work->arguments)
        return CUDA_OUT_OF_MEMORY;
    void **pointers = work->arguments;
    unsigned char *values = (unsigned char *)work->arguments + work->table_bytes;
    memcpy(values, packed, work->argument_bytes);
    for (uint32_t i = 0; i < kernel->param_count; i++)
        pointers[i] = values + kernel->params[i].offset;
    point(work);
    return CUDA_SUCCESS;
}

CUresult rrto_work_kernel(const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other, int later,
                          struct rrto_work *out)
{
    unsigned char small[SMALL], *packed = small;
    *out = (struct rrto_work){.kind = RRTO_KERNEL_NODE};
    if (!p)
        return CUDA_INVALID_VALUE;
    struct rrto_kernel *kernel;
    CUresult result = rrto_use(p->func ? (const void *)p->func : other, &kernel);
    if (result)
        return result;
    struct rrto_geometry at = {{p->gridDimX, p->gridDimY, p->gridDimZ},
                               {p->blockDimX, p->blockDimY, p->blockDimZ},
                               p->sharedMemBytes};
    /* Nothing runs before the graph is instantiated: this is where CUDA needs every dimension. */
    for (int i = 0; later && i < 3; i++) {
        out->unset |= !at.grid[i] || !at.block[i];
        at.grid[i] += !at.grid[i];
        at.block[i] += !at.block[i];
    }
    result = rrto_check_launch(kernel, &at);
    if (!result)
        result = rrto_pack(kernel, p->kernelParams, p->extra, small, sizeof small, &packed);
    if (result)
        return result;
    memcpy(&out->kernel, p, sizeof *p);
    out->kernel.kern = p->func ? NULL : (CUkernel)(uintptr_t)other;
    out->kernel.ctx = rrto_current();
    out->kernel.kernelParams = NULL;
    result = keep_arguments(out, kernel, packed);
    if (packed != small)
        free(packed);
    return result;
}

/* ---- copies and fills ---- */

struct side {
    CUdeviceptr base; /* of the first byte; host addresses as well */
    size_t bytes;     /* from the first to the last */
    int on_robot;
};

/* Bytes from the first to the last of a block of rows. */
static int extent(size_t pitch, size_t plane, const CUDA_MEMCPY3D *c, size_t *bytes)
{
    size_t planes, rows;
    return !__builtin_mul_overflow(plane, c->Depth - 1, &planes) &&
           !__builtin_mul_overflow(pitch, c->Height - 1, &rows) &&
           !__builtin_add_overflow(planes, rows, bytes) &&
           !__builtin_add_overflow(*bytes, c->WidthInBytes, bytes);
}

/* Rows of an array are the shim's to find, whenever the graph is launched. */
static CUresult array_side(const CUDA_MEMCPY3D *c, CUarray array, const size_t at[3],
                           struct side *out)
{
    struct rrto_side rows;
    *out = (struct side){.on_robot = 1};
    return rrto_array_side(array, at[0], at[1], at[2], c->WidthInBytes, c->Height, c->Depth, &rows);
}

static CUresult side_of(const CUDA_MEMCPY3D *c, int type, const void *host, CUdeviceptr device,
                        const size_t at[3], size_t pitch, size_t height, struct side *out)
{
    struct rrto_range range;
    struct rrto_host pinned;
    size_t plane;
    if (type != RRTO_MEMORY_HOST && type != RRTO_MEMORY_DEVICE && type != RRTO_MEMORY_UNIFIED)
        return CUDA_INVALID_VALUE;
    pitch = pitch ? pitch : c->WidthInBytes;
    height = height ? height : c->Height;
    if (__builtin_mul_overflow(pitch, height, &plane) || !extent(pitch, plane, c, &out->bytes) ||
        (c->Height > 1 && pitch < c->WidthInBytes) || (c->Depth > 1 && height < c->Height))
        return CUDA_INVALID_VALUE;
    out->base = type == RRTO_MEMORY_HOST ? (CUdeviceptr)(uintptr_t)host : device;
    if (!out->base)
        return CUDA_INVALID_VALUE;
    out->on_robot = type == RRTO_MEMORY_HOST ||
                    (type == RRTO_MEMORY_UNIFIED && !rrto_is_device(device)) ||
                    (type == RRTO_MEMORY_DEVICE && !rrto_range_find(device, &range) &&
                     rrto_host_pinned((const void *)(uintptr_t)device, 1, &pinned));
    out->base += at[2] * plane + at[1] * pitch + at[0];
    return out->on_robot ? CUDA_SUCCESS : rrto_range_check(out->base, out->bytes);
}

CUresult rrto_work_copy(const CUDA_MEMCPY3D *p, struct rrto_work *out)
{
    struct side to, from;
    *out = (struct rrto_work){.kind = RRTO_MEMCPY_NODE};
    if (!p || !p->WidthInBytes || !p->Height || !p->Depth || p->srcLOD || p->dstLOD)
        return CUDA_INVALID_VALUE;
    const size_t at_from[3] = {p->srcXInBytes, p->srcY, p->srcZ};
    const size_t at_to[3] = {p->dstXInBytes, p->dstY, p->dstZ};
    CUresult result = p->srcMemoryType == RRTO_MEMORY_ARRAY
                          ? array_side(p, p->srcArray, at_from, &from)
                          : side_of(p, p->srcMemoryType, p->srcHost, p->srcDevice, at_from,
                                    p->srcPitch, p->srcHeight, &from);
    if (!result)
        result = p->dstMemoryType == RRTO_MEMORY_ARRAY
                     ? array_side(p, p->dstArray, at_to, &to)
                     : side_of(p, p->dstMemoryType, p->dstHost, p->dstDevice, at_to, p->dstPitch,
                               p->dstHeight, &to);
    if (!result && !to.on_robot)
        result = rrto_range_check_write(to.base, to.bytes);
    out->copy = *p;
    out->on_robot = !result && (to.on_robot || from.on_robot);
    return result;
}

CUresult rrto_work_fill(const CUDA_MEMSET_NODE_PARAMS *p, struct rrto_work *out)
{
    struct rrto_range range;
    struct rrto_host host;
    size_t bytes;
    *out = (struct rrto_work){.kind = RRTO_MEMSET_NODE};
    if (!p || (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_fill_bytes(p->dst, p->pitch, p->elementSize, p->width, p->height, &bytes);
    out->fill = *p;
    out->on_robot = !result && bytes && !rrto_range_find(p->dst, &range) &&
                    rrto_host_pinned((const void *)(uintptr_t)p->dst, bytes, &host);
    return result || out->on_robot ? result : rrto_range_check_write(p->dst, bytes);
}

/* ---- host functions, events ---- */

CUresult rrto_work_host(CUhostFn fn, void *data, unsigned sync_mode, struct rrto_work *out)
{
    enum { SPIN = 1 };
    *out = (struct rrto_work){.kind = RRTO_HOST_NODE, .on_robot = 1};
    out->host.fn = fn;
    out->host.userData = data;
    out->host.syncMode = sync_mode;
    return fn && sync_mode <= SPIN ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_work_event(int kind, CUevent event, struct rrto_work *out)
{
    uint64_t name;
    *out = (struct rrto_work){.kind = kind, .on_robot = 1, .event = event};
    return rrto_name_event(event, &name);
}

/* ---- of any kind ---- */

void rrto_work_release(struct rrto_work *work)
{
    free(work->arguments);
    free(work->attributes);
    rrto_graph_free(work->child);
    *work = (struct rrto_work){.kind = RRTO_EMPTY_NODE};
}

void rrto_work_move(struct rrto_work *to, struct rrto_work *from)
{
    *to = *from;
    point(to);
    *from = (struct rrto_work){.kind = RRTO_EMPTY_NODE};
}

void rrto_work_set(struct rrto_work *to, struct rrto_work *from)
{
    if (to->kind == RRTO_KERNEL_NODE) {
        struct rrto_attributes *attributes = to->attributes;
        from->cooperative = to->cooperative; /* an attribute too */
        from->on_robot = to->on_robot;
        to->attributes = NULL;
        free(from->attributes);
        from->attributes = attributes;
        /* The same kernel's table stays where it is: a program may still look at it. */
        if (kernel_of(to) == kernel_of(from) && to->argument_bytes == from->argument_bytes) {
            memcpy((char *)to->arguments + to->table_bytes, rrto_work_arguments(from),
                   to->argument_bytes);
            free(from->arguments);
            from->arguments = to->arguments;
            to->arguments = NULL;
        }
    }
    rrto_work_release(to);
    rrto_work_move(to, from);
}

CUresult rrto_work_clone(const struct rrto_work *from, int with_handles, struct rrto_work *out)
{
    size_t bytes = from->table_bytes + from->argument_bytes + 1;
    *out = *from;
    out->attributes = NULL;
    out->child = NULL;
    out->arguments = NULL;
    if (from->attributes && !(out->attributes = rrto_attributes_clone(from->attributes)))
        return CUDA_OUT_OF_MEMORY;
    if (from->child)
        return rrto_graph_clone(from->child, with_handles, &out->child);
    if (!from->arguments)
        return CUDA_SUCCESS;
    if (!(out->arguments = malloc(bytes)))
        return CUDA_OUT_OF_MEMORY;
    memcpy(out->arguments, from->arguments, bytes);
    void **pointers = out->arguments, *const *old = from->arguments;
    for (size_t i = 0; i < from->table_bytes / sizeof *pointers; i++)
        pointers[i] = (char *)out->arguments + ((const char *)old[i] - (const char *)from->arguments);
    point(out);
    return CUDA_SUCCESS;
}

int rrto_work_equal(const struct rrto_work *a, const struct rrto_work *b)
{
    if (a->kind != b->kind)
        return 0;
    switch (a->kind) {
    case RRTO_KERNEL_NODE:
        return kernel_of(a) == kernel_of(b) && a->argument_bytes == b->argument_bytes &&
               !memcmp(&a->kernel.gridDimX, &b->kernel.gridDimX, 7 * sizeof(unsigned)) &&
               !memcmp(rrto_work_arguments(a), rrto_work_arguments(b), a->argument_bytes);
    case RRTO_MEMCPY_NODE:
        return !memcmp(&a->copy, &b->copy, sizeof a->copy);
    case RRTO_MEMSET_NODE:
        return !memcmp(&a->fill, &b->fill, sizeof a->fill);
    case RRTO_HOST_NODE:
        return a->host.fn == b->host.fn && a->host.userData == b->host.userData;
    case RRTO_WAIT_NODE:
    case RRTO_RECORD_NODE:
        return a->event == b->event;
    default:
        return 1;
    }
}

int rrto_work_fits(const struct rrto_work *now, const struct rrto_work *wanted)
{
    enum { KIND = 3, PARAMETERS = 5, ATTRIBUTES = 8 };
    if (now->kind != wanted->kind)
        return KIND;
    if (now->kind == RRTO_KERNEL_NODE && now->cooperative != wanted->cooperative)
        return ATTRIBUTES;
    if (now->kind == RRTO_KERNEL_NODE && wanted->unset)
        return PARAMETERS;
    if (now->on_robot != wanted->on_robot)
        return PARAMETERS;
    if (now->kind == RRTO_MEMCPY_NODE &&
        (now->copy.srcMemoryType != wanted->copy.srcMemoryType ||
         now->copy.dstMemoryType != wanted->copy.dstMemoryType))
        return PARAMETERS;
    return 0;
}
