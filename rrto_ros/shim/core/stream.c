/* Streams and events: names for the server, and what can be said about them here. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"

enum { NON_BLOCKING = 1, DISABLE_TIMING = 2, EXTERNAL = 1, RECORDED = 1u << 16 };

/* The legacy stream, its explicit names and the per-thread one are one stream: 0. All that CUDA
 * orders stays ordered. */
static int is_default(CUstream stream)
{
    return (uintptr_t)stream <= 2;
}

static CUresult name_of(CUstream stream, uint64_t *name)
{
    if (is_default(stream)) {
        *name = 0;
        return CUDA_SUCCESS;
    }
    struct rrto_object *object = rrto_find(RRTO_STREAM, stream);
    if (!object)
        return CUDA_INVALID_HANDLE;
    *name = object->name;
    return CUDA_SUCCESS;
}

CUresult rrto_name_stream(CUstream stream, uint64_t *name)
{
    CUresult result = name_of(stream, name);
    return result || !rrto_capturing() ? result : rrto_capture_forbid(stream);
}

CUresult rrto_name_event(CUevent event, uint64_t *name)
{
    struct rrto_object *object = rrto_find(RRTO_EVENT, event);
    if (!object)
        return CUDA_INVALID_HANDLE;
    *name = object->name;
    return CUDA_SUCCESS;
}

CUresult rrto_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    if (!phStream || flags & ~(unsigned)NON_BLOCKING)
        return CUDA_INVALID_VALUE;
    priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    struct rrto_object *object = rrto_new(RRTO_STREAM);
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    object->owner = rrto_current();
    object->flags = flags;
    object->number = priority;
    struct rrto_op_stream_create op = {object->name, flags, priority};
    CUresult result = rrto_emit_stream_create(&op, NULL);
    if (result)
        rrto_drop(RRTO_STREAM, object);
    else
        *phStream = object->handle;
    return result;
}

CUresult rrto_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return rrto_cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult rrto_cuStreamDestroy_v2(CUstream hStream)
{
    struct rrto_object *object = rrto_find(RRTO_STREAM, hStream);
    if (!object)
        return CUDA_INVALID_HANDLE;
    if (rrto_capturing())
        rrto_capture_forget_stream(hStream);
    struct rrto_op_stream_destroy op = {object->name};
    CUresult result = rrto_emit_stream_destroy(&op, NULL);
    free(object->data); /* its hints */
    rrto_drop(RRTO_STREAM, object); /* after the record: the name may be used again from here */
    return result;
}

CUresult rrto_cuStreamSynchronize(CUstream hStream)
{
    struct rrto_op_stream_synchronize op;
    CUresult result = rrto_name_stream(hStream, &op.stream);
    return result ? result : rrto_emit_stream_synchronize(&op, NULL);
}

CUresult rrto_cuStreamQuery(CUstream hStream)
{
    struct rrto_op_stream_query op;
    CUresult result = rrto_name_stream(hStream, &op.stream);
    if (!result && atomic_load(&rrto_host_calls))
        return CUDA_NOT_READY;
    return result ? result : rrto_emit_stream_query(&op, NULL);
}

CUresult rrto_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    struct rrto_object *event = rrto_find(RRTO_EVENT, hEvent);
    struct rrto_op_stream_wait_event op = {0};
    CUresult result = Flags & ~(unsigned)EXTERNAL ? CUDA_INVALID_VALUE : name_of(hStream, &op.stream);
    if (!result && !event)
        result = CUDA_INVALID_HANDLE;
    if (result)
        return result;
    if (Flags || event->data || rrto_capturing()) {
        int captured;
        result = rrto_capture_wait(event, hStream, Flags & EXTERNAL, (event->flags & RECORDED) != 0,
                                   &captured);
        if (result || captured)
            return result;
    }
    op.event = event->name;
    return rrto_emit_stream_wait_event(&op, NULL);
}

CUresult rrto_cuStreamGetPriority(CUstream hStream, int *priority)
{
    struct rrto_object *object = rrto_find(RRTO_STREAM, hStream);
    if (!priority)
        return CUDA_INVALID_VALUE;
    if (!object && !is_default(hStream))
        return CUDA_INVALID_HANDLE;
    *priority = object ? object->number : 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
    struct rrto_object *object = rrto_find(RRTO_STREAM, hStream);
    if (!flags)
        return CUDA_INVALID_VALUE;
    if (!object && !is_default(hStream))
        return CUDA_INVALID_HANDLE;
    *flags = object ? object->flags : 0;
    return CUDA_SUCCESS;
}

CUresult rrto_cuStreamGetId(CUstream hStream, unsigned long long *streamId)
{
    uint64_t name;
    CUresult result = streamId ? name_of(hStream, &name) : CUDA_INVALID_VALUE;
    if (!result) /* 1 legacy, 2 per-thread: created streams have names from 3 on */
        *streamId = name ? name : (uintptr_t)hStream == 2 ? 2 : 1;
    return result;
}

CUresult rrto_cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
    struct rrto_object *object = rrto_find(RRTO_STREAM, hStream);
    if (!pctx)
        return CUDA_INVALID_VALUE;
    if (!object && !is_default(hStream))
        return CUDA_INVALID_HANDLE;
    *pctx = object ? object->owner : rrto_current();
    return CUDA_SUCCESS;
}

CUresult rrto_cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
    if (pGreenCtx)
        *pGreenCtx = NULL;
    return rrto_cuStreamGetCtx(hStream, pCtx);
}

CUresult rrto_cuStreamGetDevice(CUstream hStream, CUdevice *device)
{
    uint64_t name;
    CUresult result = device ? name_of(hStream, &name) : CUDA_INVALID_VALUE;
    if (!result)
        *device = 0;
    return result;
}

/* ---- events ---- */

CUresult rrto_cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    enum { BLOCKING_SYNC = 1, INTERPROCESS = 4 };
    if (!phEvent || Flags & ~(unsigned)(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS))
        return CUDA_INVALID_VALUE;
    if (Flags & INTERPROCESS && !(Flags & DISABLE_TIMING))
        return CUDA_INVALID_VALUE;
    if (Flags & INTERPROCESS)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuEventCreate: shared between processes (flag 4)");
    struct rrto_object *object = rrto_new(RRTO_EVENT);
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    object->owner = rrto_current();
    object->flags = Flags;
    struct rrto_op_event_create op = {object->name, Flags};
    CUresult result = rrto_emit_event_create(&op, NULL);
    if (result)
        rrto_drop(RRTO_EVENT, object);
    else
        *phEvent = object->handle;
    return result;
}

CUresult rrto_cuEventDestroy_v2(CUevent hEvent)
{
    struct rrto_object *object = rrto_find(RRTO_EVENT, hEvent);
    if (!object)
        return CUDA_INVALID_HANDLE;
    if (object->data)
        rrto_capture_forget_event(object);
    struct rrto_op_event_destroy op = {object->name};
    CUresult result = rrto_emit_event_destroy(&op, NULL);
    rrto_drop(RRTO_EVENT, object);
    return result;
}

static CUresult record(CUevent hEvent, CUstream hStream, int external)
{
    struct rrto_object *object = rrto_find(RRTO_EVENT, hEvent);
    struct rrto_op_event_record op;
    if (!object)
        return CUDA_INVALID_HANDLE;
    op.event = object->name;
    CUresult result = name_of(hStream, &op.stream);
    if (result)
        return result;
    if (external || object->data || rrto_capturing()) {
        int captured;
        result = rrto_capture_record(object, hStream, external, &captured);
        if (result || captured)
            return result;
    }
    object->flags |= RECORDED;
    return rrto_emit_event_record(&op, NULL);
}

CUresult rrto_cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return record(hEvent, hStream, 0);
}

CUresult rrto_cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    return flags & ~(unsigned)EXTERNAL ? CUDA_INVALID_VALUE : record(hEvent, hStream, flags != 0);
}

CUresult rrto_cuEventSynchronize(CUevent hEvent)
{
    struct rrto_object *object = rrto_find(RRTO_EVENT, hEvent);
    if (!object)
        return CUDA_INVALID_HANDLE;
    if (object->data)
        return rrto_capture_event(object);
    CUresult result = rrto_no_unsafe();
    if (result)
        return result;
    struct rrto_op_event_synchronize op = {object->name};
    return object->flags & RECORDED ? rrto_emit_event_synchronize(&op, NULL) : CUDA_SUCCESS;
}

CUresult rrto_cuEventQuery(CUevent hEvent)
{
    struct rrto_object *object = rrto_find(RRTO_EVENT, hEvent);
    if (!object)
        return CUDA_INVALID_HANDLE;
    if (object->data)
        return rrto_capture_event(object);
    CUresult result = rrto_no_unsafe();
    if (result)
        return result;
    struct rrto_op_event_query op = {object->name};
    if (object->flags & RECORDED && atomic_load(&rrto_host_calls))
        return CUDA_NOT_READY;
    return object->flags & RECORDED ? rrto_emit_event_query(&op, NULL) : CUDA_SUCCESS;
}

CUresult rrto_cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    struct rrto_object *start = rrto_find(RRTO_EVENT, hStart), *end = rrto_find(RRTO_EVENT, hEnd);
    if (!pMilliseconds)
        return CUDA_INVALID_VALUE;
    if (start && end && (start->data || end->data)) {
        CUresult result = rrto_capture_event(start);
        return result ? result : rrto_capture_event(end);
    }
    if (!start || !end || (start->flags | end->flags) & DISABLE_TIMING ||
        !(start->flags & end->flags & RECORDED))
        return CUDA_INVALID_HANDLE;
    struct rrto_op_event_elapsed_ms op = {start->name, end->name};
    float answer = 0;
    struct rrto_wait wait = {.data = &answer, .room = sizeof answer};
    CUresult result = rrto_emit_event_elapsed_ms(&op, &wait);
    if (!result)
        memcpy(pMilliseconds, &answer, sizeof answer);
    return result;
}
