/* Memory operations of streams. What is written is a fill or a copy in stream order. What is waited
 * for is looked at when everything that the program called before is done: a session's calls have one
 * order, so that a value which only a later call brings would be waited for for ever. */
#include <string.h>

#include "capture.h"
#include "shim.h"

enum { WAIT_32 = 1, WRITE_32 = 2, FLUSH = 3, WAIT_64 = 4, WRITE_64 = 5, BARRIER = 6, REDUCTION = 8 };
enum { NO_BARRIER = 1, FLUSH_FLAG = 1 << 30 };

/* Everything before is done. */
static CUresult settle(void)
{
    struct rrto_op_ctx_synchronize op = {0};
    struct rrto_object *context = rrto_find(RRTO_CONTEXT, rrto_current());
    op.context = context ? context->name : 0;
    return rrto_emit_ctx_synchronize(&op, NULL);
}

static CUresult check_address(CUdeviceptr at, size_t bytes, int writes)
{
    if (at % bytes)
        return CUDA_INVALID_VALUE;
    if (rrto_is_page_locked(at, bytes))
        return CUDA_SUCCESS;
    return writes ? rrto_range_check_write(at, bytes) : rrto_range_check(at, bytes);
}

static CUresult write_value(CUdeviceptr at, uint64_t value, size_t bytes, unsigned flags,
                            uint64_t stream, int only)
{
    CUresult result =
        flags & ~(unsigned)NO_BARRIER ? CUDA_INVALID_VALUE : check_address(at, bytes, 1);
    if (result || only)
        return result;
    if (rrto_is_page_locked(at, bytes)) { /* the program's own: it learns that the work is done */
        struct rrto_op_stream_synchronize op = {stream};
        result = rrto_emit_stream_synchronize(&op, NULL);
        if (!result)
            result = rrto_claim((const void *)(uintptr_t)at, bytes);
        if (!result && bytes == 4)
            __atomic_store_n((uint32_t *)(uintptr_t)at, (uint32_t)value, __ATOMIC_RELEASE);
        else if (!result)
            __atomic_store_n((uint64_t *)(uintptr_t)at, value, __ATOMIC_RELEASE);
        return result;
    }
    if (bytes == 4) {
        struct rrto_op_memset op = {at, 0, 1, 1, (uint32_t)value, 4, stream};
        return rrto_emit_memset(&op, NULL);
    }
    /* A copy, so that nobody sees half of it. */
    struct rrto_op_memcpy_htod op = {at, stream};
    return rrto_emit_memcpy_htod(&op, &value, 8, NULL);
}

static int reached(uint64_t found, uint64_t value, size_t bytes, unsigned how)
{
    switch (how) {
    case 0:
        return bytes == 4 ? (int32_t)((uint32_t)found - (uint32_t)value) >= 0
                          : (int64_t)(found - value) >= 0;
    case 1:
        return found == value;
    case 2:
        return (found & value) != 0;
    default:
        return bytes == 4 ? (uint32_t)~(found | value) != 0 : ~(found | value) != 0;
    }
}

static CUresult wait_value(CUdeviceptr at, uint64_t value, size_t bytes, unsigned flags, int only)
{
    uint64_t found = 0;
    if (flags & FLUSH_FLAG)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuStreamWaitValue: flush of remote writes");
    CUresult result = flags > 3 ? CUDA_INVALID_VALUE : check_address(at, bytes, 0);
    if (result || only)
        return result;
    result = settle();
    if (!result && rrto_is_page_locked(at, bytes)) {
        result = rrto_claim((const void *)(uintptr_t)at, bytes);
        if (!result)
            memcpy(&found, (const void *)(uintptr_t)at, bytes);
    } else if (!result) {
        result = rrto_cuMemcpyDtoH_v2(&found, at, bytes);
    }
    if (bytes == 4)
        value = (uint32_t)value;
    if (result || reached(found, value, bytes, flags))
        return result;
    return rrto_refuse(CUDA_NOT_SUPPORTED, "cuStreamWaitValue%u: a value that only a later call brings",
                       (unsigned)bytes * 8);
}

/* One operation by a call of its own. */
static CUresult alone(CUstream stream, CUdeviceptr at, uint64_t value, size_t bytes, unsigned flags,
                      int writes)
{
    RRTO_CAPTURE(stream, rrto_capture_refuse(stream, "memory operation"));
    uint64_t name;
    CUresult result = rrto_name_stream(stream, &name);
    if (result)
        return result;
    return writes ? write_value(at, value, bytes, flags, name, 0)
                  : wait_value(at, value, bytes, flags, 0);
}

CUresult rrto_cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                      unsigned int flags)
{
    return alone(stream, addr, value, 4, flags, 1);
}

CUresult rrto_cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                      unsigned int flags)
{
    return alone(stream, addr, value, 8, flags, 1);
}

CUresult rrto_cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                     unsigned int flags)
{
    return alone(stream, addr, value, 4, flags, 0);
}

CUresult rrto_cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                     unsigned int flags)
{
    return alone(stream, addr, value, 8, flags, 0);
}

static CUresult one(const CUstreamBatchMemOpParams *op, uint64_t stream, int only)
{
    switch (op->operation) {
    case WAIT_32:
    case WAIT_64:
        return wait_value(op->value.address, op->value.value, op->operation == WAIT_32 ? 4 : 8,
                          op->value.flags, only);
    case WRITE_32:
    case WRITE_64:
        return write_value(op->value.address, op->value.value, op->operation == WRITE_32 ? 4 : 8,
                           op->value.flags, stream, only);
    case BARRIER: /* the order that there is anyway */
        return op->barrier.flags > 1 ? CUDA_INVALID_VALUE : CUDA_SUCCESS;
    case FLUSH:
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuStreamBatchMemOp: flush of remote writes");
    case REDUCTION:
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuStreamBatchMemOp: atomic reductions");
    default:
        return CUDA_INVALID_VALUE;
    }
}

CUresult rrto_cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                                    CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    RRTO_CAPTURE(stream, rrto_capture_refuse(stream, "memory operation"));
    enum { MOST = 256 };
    uint64_t name;
    CUresult result = rrto_name_stream(stream, &name);
    if (result)
        return result;
    if (!count || count > MOST || !paramArray || flags)
        return CUDA_INVALID_VALUE;
    for (int only = 1; only >= 0; only--)
        for (unsigned i = 0; i < count && !result; i++)
            result = one(&paramArray[i], name, only);
    return result;
}

/* ---- events of a whole context ---- */

CUresult rrto_cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent)
{
    struct rrto_object *event = rrto_find(RRTO_EVENT, hEvent);
    CUcontext context = hCtx ? hCtx : rrto_current();
    if (!rrto_find(RRTO_CONTEXT, context))
        return CUDA_INVALID_CONTEXT;
    if (!event || event->owner != context)
        return CUDA_INVALID_HANDLE;
    CUresult result = settle();
    return result ? result : rrto_cuEventRecord(hEvent, NULL);
}

CUresult rrto_cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent)
{
    CUcontext context = hCtx ? hCtx : rrto_current();
    if (!rrto_find(RRTO_CONTEXT, context))
        return CUDA_INVALID_CONTEXT;
    return rrto_cuEventSynchronize(hEvent);
}
