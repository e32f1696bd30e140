/* Contexts: the primary one and those the program makes, and each thread's stack of them.
 * All share the session's device; a context owns memory, streams, events and modules only so that
 * its end can free them.
 *
 * Over 400 lines: CUDA has many short calls about contexts, and all of them need the stack. */
#include <string.h>

#include "shim.h"

enum { DEPTH = 64, LIMITS = 10 };

struct context {
    int references; /* primary only */
    int cache, banks;
    size_t limits[LIMITS];
};

static struct context pool[RRTO_CONTEXTS];
static struct rrto_object *primary;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local void *stack[DEPTH];
static _Thread_local int depth;
static _Thread_local int calls_back;

#define S rrto_session

static struct context *state_of(const struct rrto_object *object)
{
    return &pool[object->slot % RRTO_CONTEXTS];
}

static void set_up(struct rrto_object *object, unsigned flags)
{
    static const size_t limits[LIMITS] = {1024, 1 << 20, 8 << 20, 2, 2048, 64};
    struct context *state = state_of(object);
    memset(state, 0, sizeof *state);
    state->banks = 1;
    memcpy(state->limits, limits, sizeof limits);
    object->flags = flags;
}

void rrto_context_start(void)
{
    if (!primary) /* a child's is its parent's */
        primary = rrto_new(RRTO_CONTEXT);
    if (primary)
        set_up(primary, 0);
}

CUcontext rrto_current(void)
{
    return depth ? stack[depth - 1] : NULL;
}

/* CU_CTX_FLAGS_MASK without a scheduling mode that there is not (the low three bits: one at most). */
static int flags_known(unsigned flags)
{
    unsigned scheduling = flags & 7;
    return !(flags & ~0xFFu) && !(scheduling & (scheduling - 1));
}

/* A usable context, or the reason. (CUcontext)-1 and NULL mean the current one where allowed. */
static CUresult resolve(const void *handle, struct rrto_object **out)
{
    if (handle == (void *)(intptr_t)-1)
        handle = rrto_current();
    struct rrto_object *object = rrto_find(RRTO_CONTEXT, handle);
    if (!object)
        return CUDA_INVALID_CONTEXT;
    *out = object;
    return CUDA_SUCCESS;
}

CUresult rrto_context_of(CUcontext ctx, struct rrto_object **out)
{
    return resolve(ctx ? ctx : rrto_current(), out);
}

CUcontext rrto_primary(CUdevice dev)
{
    return primary && !dev ? (CUcontext)primary->handle : NULL;
}

static CUresult current(struct rrto_object **out)
{
    void *handle = rrto_current();
    if (!handle)
        return CUDA_INVALID_CONTEXT;
    struct rrto_object *object = rrto_find(RRTO_CONTEXT, handle);
    if (!object || (object == primary && !state_of(primary)->references))
        return CUDA_CONTEXT_IS_DESTROYED;
    *out = object;
    return CUDA_SUCCESS;
}

CUresult rrto_need_init(void)
{
    if (atomic_load_explicit(&S.forked, memory_order_relaxed) ||
        !atomic_load_explicit(&S.started, memory_order_acquire))
        return CUDA_NOT_INITIALIZED;
    return calls_back ? CUDA_NOT_PERMITTED : CUDA_SUCCESS;
}

void rrto_enter_callbacks(void)
{
    calls_back = 1;
}

int rrto_in_callback(void)
{
    return calls_back;
}

CUresult rrto_need_context(void)
{
    struct rrto_object *object;
    CUresult result = rrto_need_init();
    return result ? result : current(&object);
}

CUresult rrto_need_session(void)
{
    CUresult result = rrto_need_init();
    return result ? result : atomic_load_explicit(&S.error, memory_order_relaxed);
}

CUresult rrto_need_operator(void)
{
    CUresult result = rrto_need_context();
    return result ? result : atomic_load_explicit(&S.error, memory_order_relaxed);
}

/* ---- the end of a context: what belonged to it goes ---- */

static void free_all(void *owner)
{
    struct rrto_range range;
    struct rrto_object *object;
    uint32_t slot = 0;
    rrto_storage_ends((CUcontext)owner);
    if (atomic_load(&S.dead))
        return;
    while ((object = rrto_next(RRTO_MODULE, &slot)))
        if (object->owner == owner && !object->number) /* a library's module lives on */
            rrto_cuModuleUnload((CUmodule)object->handle);
    for (slot = 0; (object = rrto_next(RRTO_EVENT, &slot));)
        if (object->owner == owner)
            rrto_cuEventDestroy_v2((CUevent)object->handle);
    for (slot = 0; (object = rrto_next(RRTO_STREAM, &slot));)
        if (object->owner == owner)
            rrto_cuStreamDestroy_v2((CUstream)object->handle);
    while (rrto_range_first_of(owner, &range))
        rrto_memory_release(range.address, 0);
}

CUresult rrto_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    if (!pctx)
        return CUDA_INVALID_VALUE;
    if (dev)
        return CUDA_INVALID_DEVICE;
    if (!primary)
        return CUDA_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    state_of(primary)->references++;
    pthread_mutex_unlock(&lock);
    *pctx = primary->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    if (dev)
        return CUDA_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    struct context *state = state_of(primary);
    int left = state->references ? --state->references : -1;
    pthread_mutex_unlock(&lock);
    if (!left)
        free_all(primary->handle);
    return left < 0 ? CUDA_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult rrto_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    if (dev)
        return CUDA_INVALID_DEVICE;
    free_all(primary->handle);
    pthread_mutex_lock(&lock);
    state_of(primary)->references = 0;
    set_up(primary, 0);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult rrto_cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    if (dev)
        return CUDA_INVALID_DEVICE;
    if (!flags_known(flags))
        return CUDA_INVALID_VALUE;
    primary->flags = flags;
    return CUDA_SUCCESS;
}

CUresult rrto_cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    if (!flags || !active)
        return CUDA_INVALID_VALUE;
    if (dev)
        return CUDA_INVALID_DEVICE;
    *flags = primary->flags;
    *active = state_of(primary)->references > 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    if (!pctx || !flags_known(flags))
        return CUDA_INVALID_VALUE;
    if (dev)
        return CUDA_INVALID_DEVICE;
    if (depth == DEPTH)
        return CUDA_OUT_OF_MEMORY;
    struct rrto_object *object = rrto_new(RRTO_CONTEXT);
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    if (object->slot >= RRTO_CONTEXTS) {
        rrto_drop(RRTO_CONTEXT, object);
        return CUDA_OUT_OF_MEMORY;
    }
    set_up(object, flags);
    *pctx = stack[depth++] = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
                             unsigned int flags, CUdevice dev)
{
    if (paramsArray && numParams)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuCtxCreate_v3: execution affinity");
    return rrto_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult rrto_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams,
                             unsigned int flags, CUdevice dev)
{
    if (ctxCreateParams && ((ctxCreateParams->execAffinityParams &&
                             ctxCreateParams->numExecAffinityParams) ||
                            ctxCreateParams->cigParams))
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuCtxCreate_v4: execution affinity or graphics");
    return rrto_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult rrto_cuCtxDestroy_v2(CUcontext ctx)
{
    struct rrto_object *object = rrto_find(RRTO_CONTEXT, ctx);
    if (!object || object == primary)
        return CUDA_INVALID_CONTEXT;
    free_all(ctx);
    if (rrto_current() == ctx)
        depth--;
    rrto_drop(RRTO_CONTEXT, object);
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxPushCurrent_v2(CUcontext ctx)
{
    struct rrto_object *object;
    CUresult result = resolve(ctx, &object);
    if (result)
        return result;
    if (depth == DEPTH)
        return CUDA_OUT_OF_MEMORY;
    stack[depth++] = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxPopCurrent_v2(CUcontext *pctx)
{
    if (!depth)
        return CUDA_INVALID_CONTEXT;
    void *top = stack[--depth];
    if (pctx)
        *pctx = top;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxSetCurrent(CUcontext ctx)
{
    struct rrto_object *object;
    if (!ctx) {
        depth -= depth > 0;
        return CUDA_SUCCESS;
    }
    CUresult result = resolve(ctx, &object);
    if (result)
        return result;
    depth += depth == 0;
    stack[depth - 1] = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxGetCurrent(CUcontext *pctx)
{
    if (!pctx)
        return CUDA_INVALID_VALUE;
    *pctx = rrto_current();
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
    struct rrto_object *object;
    if (!ctxId)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_context_of(ctx, &object);
    if (!result)
        *ctxId = (uintptr_t)object->handle >> 4 & 0xFFFFFFFFFFFFull;
    return result;
}

CUresult rrto_cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
    struct rrto_object *object;
    if (!version)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_context_of(ctx, &object);
    if (!result)
        *version = 3020;
    return result;
}

CUresult rrto_cuCtxGetDevice(CUdevice *device)
{
    if (!device)
        return CUDA_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
    struct rrto_object *object;
    CUresult result = ctx ? resolve(ctx, &object) : CUDA_SUCCESS;
    return result ? result : rrto_cuCtxGetDevice(device);
}

CUresult rrto_cuCtxGetFlags(unsigned int *flags)
{
    struct rrto_object *object;
    CUresult result = flags ? current(&object) : CUDA_INVALID_VALUE;
    if (!result)
        *flags = object->flags;
    return result;
}

CUresult rrto_cuCtxSetFlags(unsigned int flags)
{
    struct rrto_object *object;
    CUresult result = flags_known(flags) ? current(&object) : CUDA_INVALID_VALUE;
    if (!result)
        object->flags = flags;
    return result;
}

enum { SYNC_DEPTH = 3, GRANULARITY = 5, IN_GRAPHICS = 7 };

static int has_sync_depth(void)
{
    return S.major < 9;
}

CUresult rrto_cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct rrto_object *object;
    CUresult result = pvalue ? current(&object) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    if (limit < 0 || limit >= LIMITS || (limit == SYNC_DEPTH && !has_sync_depth()))
        return CUDA_UNSUPPORTED_LIMIT;
    *pvalue = state_of(object)->limits[limit];
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct rrto_object *object;
    CUresult result = current(&object);
    if (result)
        return result;
    /* What a context inside graphics (CIG) has can only be asked for: none is one. */
    if (limit < 0 || limit >= IN_GRAPHICS || (limit == SYNC_DEPTH && !has_sync_depth()))
        return CUDA_UNSUPPORTED_LIMIT;
    if (limit == GRANULARITY && value > 128)
        return CUDA_INVALID_VALUE;
    state_of(object)->limits[limit] = value;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    struct rrto_object *object;
    CUresult result = pconfig ? current(&object) : CUDA_INVALID_VALUE;
    if (!result)
        *pconfig = state_of(object)->cache;
    return result;
}

CUresult rrto_cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct rrto_object *object;
    CUresult result = config >= 0 && config <= 3 ? current(&object) : CUDA_INVALID_VALUE;
    if (!result)
        state_of(object)->cache = config;
    return result;
}

CUresult rrto_cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    struct rrto_object *object;
    CUresult result = pConfig ? current(&object) : CUDA_INVALID_VALUE;
    if (!result)
        *pConfig = state_of(object)->banks;
    return result;
}

CUresult rrto_cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct rrto_object *object;
    CUresult result = config >= 0 && config <= 2 ? current(&object) : CUDA_INVALID_VALUE;
    if (!result && config)
        state_of(object)->banks = config;
    return result;
}

CUresult rrto_cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    if (leastPriority)
        *leastPriority = 0;
    if (greatestPriority)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxResetPersistingL2Cache(void)
{
    return CUDA_SUCCESS;
}

CUresult rrto_cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    struct rrto_object *object;
    CUresult result = resolve(peerContext, &object);
    if (result)
        return result;
    if (object->handle == rrto_current())
        return CUDA_INVALID_CONTEXT;
    return Flags ? CUDA_INVALID_VALUE : CUDA_PEER_ACCESS_UNSUPPORTED; /* there is one device */
}

CUresult rrto_cuCtxDisablePeerAccess(CUcontext peerContext)
{
    struct rrto_object *object;
    CUresult result = resolve(peerContext, &object);
    return result ? result : CUDA_PEER_ACCESS_NOT_ENABLED;
}

CUresult rrto_cuCtxSynchronize(void)
{
    struct rrto_object *object;
    CUresult result = current(&object);
    struct rrto_op_ctx_synchronize op = {0};
    if (result)
        return result;
    op.context = object->name;
    return rrto_emit_ctx_synchronize(&op, NULL);
}

CUresult rrto_cuCtxSynchronize_v2(CUcontext ctx)
{
    struct rrto_object *object;
    struct rrto_op_ctx_synchronize op = {0};
    CUresult result = ctx ? resolve(ctx, &object) : current(&object);
    if (result)
        return result;
    op.context = object->name;
    return rrto_emit_ctx_synchronize(&op, NULL);
}
