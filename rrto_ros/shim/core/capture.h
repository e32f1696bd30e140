/* Stream capture, as calls that go into streams see it. */
#ifndef RRTO_CAPTURE_H
#define RRTO_CAPTURE_H
#include "graph.h"

/* Whether a call into a stream is captured. Fails, and invalidates what it breaks, where the stream
 * may not be used now. Only worth asking while rrto_capturing(). */
CUresult rrto_capture_check(CUstream stream, int *captured);
/* Captures a call: adds a node that does `work`. `made` is what making the work gave; a call that
 * fails invalidates the sequence, which lacks it. */
CUresult rrto_capture_work(CUstream stream, CUresult made, struct rrto_work *work);
/* A kind of node that graphs here have not. */
CUresult rrto_capture_refuse(CUstream stream, const char *kind);
CUresult rrto_capture_copy(CUstream stream, const CUDA_MEMCPY3D *copy);
CUresult rrto_capture_fill(CUstream stream, const CUDA_MEMSET_NODE_PARAMS *fill);

/* At the top of a call into a stream: what to do instead if it is captured. */
#define RRTO_CAPTURE(stream, instead)                                                              \
    do {                                                                                           \
        if (rrto_capturing()) {                                                                    \
            int captured_;                                                                         \
            CUresult checked_ = rrto_capture_check(stream, &captured_);                            \
            if (checked_ || captured_)                                                             \
                return checked_ ? checked_ : (instead);                                            \
        }                                                                                          \
    } while (0)

/* Events: where in a sequence one was recorded last is kept with it. */
CUresult rrto_capture_record(struct rrto_object *event, CUstream stream, int external,
                             int *captured);
CUresult rrto_capture_wait(struct rrto_object *event, CUstream stream, int external,
                           int recorded, int *captured);
/* A captured event has no time and no end. */
CUresult rrto_capture_event(struct rrto_object *event);
void rrto_capture_forget_event(struct rrto_object *event);
void rrto_capture_forget_stream(CUstream stream);

#endif
