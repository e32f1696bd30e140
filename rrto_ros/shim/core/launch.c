/* Launches: geometry against the device's and the kernel's limits, arguments packed by the kernel's
 * table, one record. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"

enum { SMALL = 4096 };

static unsigned limit_of(int attribute, unsigned otherwise)
{
    int value = rrto_attribute(attribute);
    return value > 0 ? (unsigned)value : otherwise;
}

struct limits {
    unsigned threads, block[3], grid[3];
};

static struct limits limits;

static void ask_limits(void)
{
    limits = (struct limits){limit_of(1, 1024),
                             {limit_of(2, 1024), limit_of(3, 1024), limit_of(4, 64)},
                             {limit_of(5, 0x7FFFFFFF), limit_of(6, 65535), limit_of(7, 65535)}};
}

static const struct limits *device_limits(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask_limits);
    return &limits;
}

CUresult rrto_check_launch(const struct rrto_kernel *kernel, const struct rrto_geometry *at)
{
    const struct limits *most = device_limits();
    for (int i = 0; i < 3; i++) /* 0 becomes the largest number */
        if (at->grid[i] - 1 >= most->grid[i] || at->block[i] - 1 >= most->block[i])
            return CUDA_INVALID_VALUE;
    uint64_t threads = (uint64_t)at->block[0] * at->block[1] * at->block[2];
    if (threads > most->threads ||
        (kernel->max_threads > 0 && threads > (unsigned)kernel->max_threads))
        return CUDA_INVALID_VALUE;
    if (at->shared > (unsigned)atomic_load_explicit((_Atomic int *)&kernel->dynamic_limit,
                                                    memory_order_relaxed))
        return CUDA_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult from_extra(const struct rrto_kernel *kernel, void **extra, const void **out)
{
    enum { END = 0, POINTER = 1, SIZE = 2, MOST = 16 };
    const void *buffer = NULL;
    size_t bytes = 0;
    int complete = 0;
    for (int i = 0; i < MOST && !complete; i++) {
        switch ((uintptr_t)extra[2 * i]) {
        case END:
            complete = 1;
            break;
        case POINTER:
            buffer = extra[2 * i + 1];
            break;
        case SIZE:
            if (!extra[2 * i + 1])
                return CUDA_INVALID_VALUE;
            memcpy(&bytes, extra[2 * i + 1], sizeof bytes);
            break;
        default:
            return CUDA_INVALID_VALUE;
        }
    }
    /* Compilers round the size of the structure up to its alignment, 16 at most. */
    size_t wanted = kernel->param_bytes, most = (wanted + 15) & ~(size_t)15;
    if (!complete || bytes < wanted || bytes > most || (wanted && !buffer))
        return CUDA_INVALID_VALUE;
    *out = buffer;
    return CUDA_SUCCESS;
}

/* Arguments may lie in memory that a copy still has to fill. */
static CUresult arguments_land(const struct rrto_kernel *kernel, void **params, const void *ready)
{
    if (!rrto_lands())
        return CUDA_SUCCESS;
    if (ready)
        return rrto_settle(ready, kernel->param_bytes);
    CUresult result = CUDA_SUCCESS;
    for (uint32_t i = 0; i < kernel->param_count && !result; i++)
        result = rrto_settle(params[i], kernel->params[i].size);
    return result;
}

/* The packed arguments: in `small` if they fit, else allocated (free if it is not `small`). */
CUresult rrto_pack(const struct rrto_kernel *kernel, void **params, void **extra,
                   unsigned char *small, size_t small_bytes, unsigned char **packed)
{
    const void *ready = NULL;
    size_t bytes = kernel->param_bytes;
    *packed = small;
    if (params && extra)
        return CUDA_INVALID_VALUE;
    if (extra) {
        CUresult result = from_extra(kernel, extra, &ready);
        if (result)
            return result;
    } else if (kernel->param_count && !params) {
        return CUDA_INVALID_VALUE;
    }
    CUresult landed = arguments_land(kernel, params, ready);
    if (landed)
        return landed;
    if (bytes > small_bytes && !(*packed = malloc(bytes)))
        return CUDA_OUT_OF_MEMORY;
    if (ready) {
        memcpy(*packed, ready, bytes);
        return CUDA_SUCCESS;
    }
    memset(*packed, 0, bytes); /* gaps between arguments are the same every time */
    for (uint32_t i = 0; i < kernel->param_count; i++) {
        const struct rrto_param *p = &kernel->params[i];
        if (!params[i]) {
            if (*packed != small)
                free(*packed);
            return CUDA_INVALID_VALUE;
        }
        switch (p->size) { /* the usual sizes without a call */
        case 4:
            memcpy(*packed + p->offset, params[i], 4);
            break;
        case 8:
            memcpy(*packed + p->offset, params[i], 8);
            break;
        default:
            memcpy(*packed + p->offset, params[i], p->size);
        }
    }
    return CUDA_SUCCESS;
}

/* Blocks that wait for each other must all be there at once. */
static CUresult check_cooperative(const struct rrto_kernel *kernel, const struct rrto_geometry *at)
{
    uint64_t threads = (uint64_t)at->block[0] * at->block[1] * at->block[2];
    uint64_t most = rrto_blocks_at_once(kernel, threads, at->shared), blocks = 1;
    for (int i = 0; i < 3; i++)
        if (__builtin_mul_overflow(blocks, (uint64_t)at->grid[i], &blocks))
            return CUDA_COOPERATIVE_LAUNCH_TOO_LARGE;
    return blocks > most ? CUDA_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

/* How a launch is to be, beside its geometry. */
struct manner {
    uint32_t flags;
    const struct rrto_launch_attribute *attributes;
    unsigned count;
};

static CUresult capture(CUfunction f, const struct rrto_geometry *at, CUstream hStream,
                        const struct manner *how, void **params, void **extra)
{
    const CUDA_KERNEL_NODE_PARAMS_v1 p = {f,           at->grid[0],  at->grid[1],
                                          at->grid[2], at->block[0], at->block[1],
                                          at->block[2], at->shared,   params,
                                          extra};
    struct rrto_work work;
    CUresult result = rrto_work_kernel(&p, NULL, 0, &work);
    if (!result && how->flags & RRTO_COOPERATIVE)
        result = check_cooperative(rrto_kernel_of(f), at);
    work.cooperative = work.on_robot = how->flags & RRTO_COOPERATIVE;
    for (unsigned i = 0; i < how->count && !result; i++)
        result = rrto_attributes_set(&work, how->attributes[i].id, &how->attributes[i].value);
    return rrto_capture_work(hStream, result, &work);
}

/* CUDA_LAUNCH_BLOCKING=1: a launch returns when its kernel has ended, with the kernel's error. */
static int launches_wait(void)
{
    enum { UNKNOWN, NO, YES };
    static _Atomic int known;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == UNKNOWN) {
        const char *wish = getenv("CUDA_LAUNCH_BLOCKING");
        answer = wish && atoi(wish) ? YES : NO;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == YES;
}

static CUresult launch(CUfunction f, const struct rrto_geometry *at, CUstream hStream,
                       struct manner how, void **params, void **extra)
{
    struct rrto_kernel *kernel;
    unsigned char small[SMALL], *packed;
    uint64_t stream;
    RRTO_CAPTURE(hStream, capture(f, at, hStream, &how, params, extra));
    CUresult result = rrto_use(f, &kernel);
    if (!result)
        result = rrto_name_stream(hStream, &stream);
    if (!result)
        result = rrto_check_launch(kernel, at);
    if (!result && how.flags & RRTO_COOPERATIVE)
        result = check_cooperative(kernel, at);
    if (!result)
        result = rrto_pack(kernel, params, extra, small, sizeof small, &packed);
    if (result)
        return result;
    struct rrto_op_launch op = {kernel->module, kernel->index, how.flags,    at->grid[0],
                                at->grid[1],    at->grid[2],   at->block[0], at->block[1],
                                at->block[2],   at->shared,    stream,       kernel->param_bytes};
    result = rrto_emit_launch(&op, packed, NULL);
    if (packed != small)
        free(packed);
    if (!result && launches_wait())
        result = rrto_emit_stream_synchronize(&(struct rrto_op_stream_synchronize){stream}, NULL);
    return result;
}

CUresult rrto_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                             unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                             unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                             void **kernelParams, void **extra)
{
    struct rrto_geometry at = {{gridDimX, gridDimY, gridDimZ},
                               {blockDimX, blockDimY, blockDimZ},
                               sharedMemBytes};
    return launch(f, &at, hStream, (struct manner){0}, kernelParams, extra);
}

CUresult rrto_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                        unsigned int gridDimZ, unsigned int blockDimX,
                                        unsigned int blockDimY, unsigned int blockDimZ,
                                        unsigned int sharedMemBytes, CUstream hStream,
                                        void **kernelParams)
{
    struct rrto_geometry at = {{gridDimX, gridDimY, gridDimZ},
                               {blockDimX, blockDimY, blockDimZ},
                               sharedMemBytes};
    return launch(f, &at, hStream, (struct manner){.flags = RRTO_COOPERATIVE}, kernelParams,
                  NULL);
}

/* Attributes that only advise are accepted; those that change what the kernel means are refused. */
CUresult rrto_check_launch_attribute(const char *call, int id, const CUlaunchAttributeValue *value,
                                     uint32_t *flags)
{
    enum { COOPERATE = 2, CLUSTER = 4, DEVICE_UPDATABLE = 13 };
    switch (id) {
    case 0:  /* ignore */
    case 1:  /* access policy window */
    case 3:  /* synchronization policy */
    case 5:  /* cluster scheduling preference */
    case 6:  /* programmatic stream serialization: may start early, need not */
    case 8:  /* priority */
    case 9:  /* memory synchronization domain map */
    case 10: /* memory synchronization domain */
    case 11: /* preferred cluster dimension */
    case 14: /* preferred shared memory carve-out */
    case 16: /* scheduling for NVLink */
        return CUDA_SUCCESS;
    case COOPERATE:
        *flags |= value->number ? RRTO_COOPERATIVE : 0;
        return CUDA_SUCCESS;
    case CLUSTER:
        if (!value->dim.x || !value->dim.y || !value->dim.z)
            return CUDA_INVALID_VALUE;
        if (value->dim.x > 1 || value->dim.y > 1 || value->dim.z > 1)
            return rrto_refuse(CUDA_NOT_SUPPORTED, "%s: cluster of %ux%ux%u", call, value->dim.x,
                               value->dim.y, value->dim.z);
        return CUDA_SUCCESS;
    case DEVICE_UPDATABLE:
        return value->number ? rrto_refuse(CUDA_NOT_SUPPORTED, "%s: node updated by the device", call)
                             : CUDA_SUCCESS;
    default: /* events of a launch among them */
        return rrto_refuse(CUDA_NOT_SUPPORTED, "%s: attribute %d", call, id);
    }
}

static CUresult read_attributes(const CUlaunchConfig *config, uint32_t *flags)
{
    CUresult result = config->numAttrs && !config->attrs ? CUDA_INVALID_VALUE : CUDA_SUCCESS;
    for (unsigned i = 0; i < config->numAttrs && !result; i++)
        result = rrto_check_launch_attribute("cuLaunchKernelEx", config->attrs[i].id,
                                             &config->attrs[i].value, flags);
    return result;
}

CUresult rrto_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                               void **extra)
{
    uint32_t flags = 0;
    if (!config)
        return CUDA_INVALID_VALUE;
    CUresult result = read_attributes(config, &flags);
    if (result)
        return result;
    struct rrto_geometry at = {{config->gridDimX, config->gridDimY, config->gridDimZ},
                               {config->blockDimX, config->blockDimY, config->blockDimZ},
                               config->sharedMemBytes};
    return launch(f, &at, config->hStream, (struct manner){flags, config->attrs, config->numAttrs},
                  kernelParams, extra);
}

/* Its default stream is the thread's own, whose name is not among the arguments. */
CUresult rrto_cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                                    void **extra)
{
    if (!config)
        return CUDA_INVALID_VALUE;
    CUlaunchConfig own = *config;
    own.hStream = rrto_per_thread(own.hStream);
    return rrto_cuLaunchKernelEx(&own, f, kernelParams, extra);
}
