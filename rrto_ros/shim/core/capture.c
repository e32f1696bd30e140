/* Stream capture: calls into streams become nodes of a graph instead of being executed. A sequence
 * begins in one stream; others join it by waiting for its events. Owns the rules of what may be
 * called meanwhile, and what a call that breaks them does to the sequences it breaks.
 *
 * Over 400 lines: each rule is about streams, events and sequences at once, under one lock. */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

enum { GLOBAL, THREAD_LOCAL, RELAXED }; /* modes */
enum { NONE, ACTIVE, INVALIDATED };     /* states of a stream */
enum { LEGACY = 1, PER_THREAD = 2, NON_BLOCKING = 1 };

/* A stream of a sequence: what the next call into it waits for. */
struct member {
    struct member *next;
    CUstream stream;
    uint64_t thread; /* of the per-thread stream */
    int blocking;
    CUgraphNode *nodes;
    CUgraphEdgeData *edges; /* as many, of plain edges: zeros */
    size_t count, room;
};

struct sequence {
    struct sequence *next;
    uint64_t id, thread;
    int mode, broken, own; /* own: its graph was made by it */
    struct rrto_graph *graph;
    struct member *members, *origin; /* origin: the one that it began in */
};

/* Of an event: where it was recorded last, in a sequence. */
struct recorded {
    uint64_t sequence;
    size_t count;
    CUgraphNode nodes[];
};

_Atomic uint32_t rrto_captures;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sequence *sequences;
static _Thread_local int thread_mode;

static uint64_t this_thread(void)
{
    static _Atomic uint64_t last;
    static _Thread_local uint64_t mine;
    if (!mine)
        mine = atomic_fetch_add(&last, 1) + 1;
    return mine;
}

static int is_legacy(CUstream stream)
{
    return (uintptr_t)stream <= LEGACY;
}

/* ---- under the lock ---- */

static struct member *find(CUstream stream, struct sequence **of)
{
    for (struct sequence *s = sequences; s; s = s->next)
        for (struct member *m = s->members; m; m = m->next)
            if (m->stream == stream &&
                ((uintptr_t)stream != PER_THREAD || m->thread == this_thread())) {
                *of = s;
                return m;
            }
    return NULL;
}

static struct sequence *by_id(uint64_t id)
{
    struct sequence *s = sequences;
    while (s && s->id != id)
        s = s->next;
    return s;
}

static CUresult break_it(struct sequence *s, CUresult why)
{
    s->broken = 1;
    return why;
}

/* The legacy stream waits for every blocking one, which a sequence cannot hold. */
static CUresult check_legacy(int breaks)
{
    CUresult result = CUDA_SUCCESS;
    for (struct sequence *s = sequences; s; s = s->next)
        for (struct member *m = s->members; m; m = m->next)
            if (m->blocking) {
                s->broken |= breaks;
                result = CUDA_STREAM_CAPTURE_IMPLICIT;
            }
    return result;
}

static int has(const struct member *m, CUgraphNode node)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->nodes[i] == node)
            return 1;
    return 0;
}

static CUresult join(struct member *m, const CUgraphNode *nodes, size_t count)
{
    if (nodes == m->nodes)
        return CUDA_SUCCESS;
    if (m->count + count > m->room) {
        size_t room = m->count + count + 8;
        CUgraphNode *grown = realloc(m->nodes, room * sizeof *grown);
        m->nodes = grown ? grown : m->nodes;
        free(m->edges);
        m->edges = calloc(room, sizeof *m->edges);
        m->room = grown && m->edges ? room : 0;
        if (!m->room)
            return CUDA_OUT_OF_MEMORY;
    }
    for (size_t i = 0; i < count; i++)
        if (!has(m, nodes[i]))
            m->nodes[m->count++] = nodes[i];
    return CUDA_SUCCESS;
}

static void free_member(struct member *m)
{
    free(m->nodes);
    free(m->edges);
    free(m);
}

static struct member *add_member(struct sequence *s, CUstream stream)
{
    const struct rrto_object *object = rrto_find(RRTO_STREAM, stream);
    struct member *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->stream = stream;
    m->thread = this_thread();
    m->blocking = !object || !(object->flags & NON_BLOCKING);
    m->next = s->members;
    s->members = m;
    return m;
}

static void end(struct sequence *s)
{
    struct sequence **at = &sequences;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    while (s->members) {
        struct member *m = s->members;
        s->members = m->next;
        free_member(m);
    }
    s->graph->capturing = 0;
    free(s);
    atomic_fetch_sub(&rrto_captures, 1);
}

/* Nodes that user calls took out of the graph are waited for no more. */
static void drop_destroyed(struct member *m)
{
    size_t count = 0;
    for (size_t i = 0; i < m->count; i++) {
        struct rrto_node *node;
        if (!rrto_node_of(m->nodes[i], &node))
            m->nodes[count++] = m->nodes[i];
    }
    m->count = count;
}

static CUresult add_node(struct sequence *s, struct member *m, struct rrto_work *work)
{
    struct rrto_node *node;
    drop_destroyed(m);
    CUresult result = rrto_graph_add(s->graph, m->nodes, m->count, work, &node);
    if (result)
        return break_it(s, result);
    node->captured = 1;
    m->count = 0;
    CUgraphNode handle = node->object->handle;
    result = join(m, &handle, 1);
    return result ? break_it(s, result) : CUDA_SUCCESS;
}

/* ---- calls into streams ---- */

CUresult rrto_capture_check(CUstream stream, int *captured)
{
    struct sequence *s;
    *captured = 0;
    pthread_mutex_lock(&lock);
    CUresult result = CUDA_SUCCESS;
    if (is_legacy(stream))
        result = check_legacy(1);
    else if (find(stream, &s)) {
        *captured = 1;
        result = s->broken ? CUDA_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_forbid(CUstream stream)
{
    struct sequence *s;
    int captured;
    CUresult result = rrto_capture_check(stream, &captured);
    if (result || !captured)
        return result;
    pthread_mutex_lock(&lock);
    if (find(stream, &s))
        result = break_it(s, CUDA_STREAM_CAPTURE_UNSUPPORTED);
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_work(CUstream stream, CUresult made, struct rrto_work *work)
{
    struct sequence *s;
    pthread_mutex_lock(&lock);
    struct member *m = find(stream, &s);
    CUresult result = made;
    if (m && !result)
        result = add_node(s, m, work);
    else {
        if (m)
            break_it(s, result);
        else
            result = CUDA_STREAM_CAPTURE_INVALIDATED; /* it ended meanwhile */
        rrto_work_release(work);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_refuse(CUstream stream, const char *kind)
{
    struct rrto_work none = {.kind = RRTO_EMPTY_NODE};
    return rrto_capture_work(stream, rrto_refuse(CUDA_NOT_SUPPORTED, "stream capture: %s node", kind),
                             &none);
}

CUresult rrto_capture_copy(CUstream stream, const CUDA_MEMCPY3D *copy)
{
    struct rrto_work work;
    if (copy && (!copy->WidthInBytes || !copy->Height || !copy->Depth))
        return CUDA_SUCCESS;
    return rrto_capture_work(stream, rrto_work_copy(copy, &work), &work);
}

CUresult rrto_capture_fill(CUstream stream, const CUDA_MEMSET_NODE_PARAMS *fill)
{
    struct rrto_work work;
    if (!fill->width || !fill->height)
        return CUDA_SUCCESS;
    return rrto_capture_work(stream, rrto_work_fill(fill, &work), &work);
}

/* ---- calls that may not be made meanwhile ---- */

CUresult rrto_capture_unsafe(void)
{
    uint64_t me = this_thread();
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    for (struct sequence *s = sequences; s; s = s->next) {
        int mine = s->thread == me && s->mode != RELAXED;
        int others = s->thread != me && s->mode == GLOBAL && thread_mode == GLOBAL;
        if (thread_mode != RELAXED && !s->broken && (mine || others))
            result = break_it(s, CUDA_STREAM_CAPTURE_UNSUPPORTED);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_legacy(void)
{
    pthread_mutex_lock(&lock);
    CUresult result = check_legacy(1);
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_everywhere(void)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    for (struct sequence *s = sequences; s; s = s->next)
        result = break_it(s, CUDA_STREAM_CAPTURE_UNSUPPORTED);
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    if (!mode || *mode < GLOBAL || *mode > RELAXED)
        return CUDA_INVALID_VALUE;
    int old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}

/* ---- events ---- */

static void forget(struct rrto_object *event)
{
    free(event->data);
    event->data = NULL;
}

CUresult rrto_capture_record(struct rrto_object *event, CUstream stream, int external,
                             int *captured)
{
    struct sequence *s;
    CUresult result = rrto_capture_check(stream, captured);
    if (result)
        return result;
    if (!*captured) { /* from here on the event is an ordinary one */
        rrto_capture_forget_event(event);
        return external ? CUDA_INVALID_VALUE : CUDA_SUCCESS;
    }
    if (external) {
        struct rrto_work work;
        return rrto_capture_work(
            stream, rrto_work_event(RRTO_RECORD_NODE, event->handle, &work), &work);
    }
    pthread_mutex_lock(&lock);
    const struct member *m = find(stream, &s);
    struct recorded *at = m ? malloc(sizeof *at + m->count * sizeof *at->nodes) : NULL;
    if (at) {
        forget(event);
        *at = (struct recorded){.sequence = s->id, .count = m->count};
        if (m->count)
            memcpy(at->nodes, m->nodes, m->count * sizeof *at->nodes);
        event->data = at;
    } else {
        result = m ? break_it(s, CUDA_OUT_OF_MEMORY) : CUDA_STREAM_CAPTURE_INVALIDATED;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* Under the lock: a stream waits for an event that was recorded in a sequence. */
static CUresult follow(const struct recorded *at, CUstream stream, struct sequence *mine,
                       struct member *m)
{
    struct sequence *theirs = by_id(at->sequence);
    if (!theirs) /* it has ended */
        return mine ? break_it(mine, CUDA_CAPTURED_EVENT) : CUDA_CAPTURED_EVENT;
    if (theirs->broken)
        return CUDA_STREAM_CAPTURE_INVALIDATED;
    if (mine && mine != theirs) {
        break_it(mine, CUDA_STREAM_CAPTURE_MERGE);
        return break_it(theirs, CUDA_STREAM_CAPTURE_MERGE);
    }
    if (is_legacy(stream))
        return break_it(theirs, CUDA_STREAM_CAPTURE_UNSUPPORTED);
    if (!m && !(m = add_member(theirs, stream)))
        return break_it(theirs, CUDA_OUT_OF_MEMORY);
    CUresult result = join(m, at->nodes, at->count);
    return result ? break_it(theirs, result) : CUDA_SUCCESS;
}

CUresult rrto_capture_wait(struct rrto_object *event, CUstream stream, int external,
                           int recorded, int *captured)
{
    struct sequence *s = NULL;
    CUresult result = rrto_capture_check(stream, captured);
    if (result)
        return result;
    if (external) {
        struct rrto_work work;
        return *captured ? rrto_capture_work(
                               stream, rrto_work_event(RRTO_WAIT_NODE, event->handle, &work), &work)
                         : CUDA_INVALID_VALUE;
    }
    pthread_mutex_lock(&lock);
    struct member *m = find(stream, &s);
    if (event->data) {
        result = follow(event->data, stream, s, m);
        *captured = 1;
    } else if (m && recorded) {
        result = break_it(s, CUDA_STREAM_CAPTURE_ISOLATION);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_capture_event(struct rrto_object *event)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    const struct recorded *at = event->data;
    if (at) {
        struct sequence *s = by_id(at->sequence);
        result = s ? break_it(s, CUDA_CAPTURED_EVENT) : CUDA_CAPTURED_EVENT;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

void rrto_capture_forget_event(struct rrto_object *event)
{
    pthread_mutex_lock(&lock);
    forget(event);
    pthread_mutex_unlock(&lock);
}

/* A stream that is destroyed leaves its sequence; what was captured in it must still be joined. The
 * one that the sequence began in ends it. */
void rrto_capture_forget_stream(CUstream stream)
{
    struct sequence *s;
    pthread_mutex_lock(&lock);
    struct member *m = find(stream, &s);
    if (m && m == s->origin) {
        struct rrto_graph *graph = s->own ? s->graph : NULL;
        end(s);
        rrto_graph_free(graph);
    } else if (m) {
        struct member **at = &s->members;
        while (*at != m)
            at = &(*at)->next;
        *at = m->next;
        free_member(m);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- beginning and ending ---- */

static CUresult begin(CUstream stream, struct rrto_graph *graph, const CUgraphNode *nodes,
                      size_t count, int mode)
{
    static uint64_t last;
    struct sequence *s;
    if (mode < GLOBAL || mode > RELAXED)
        return CUDA_INVALID_VALUE;
    if (is_legacy(stream))
        return CUDA_STREAM_CAPTURE_UNSUPPORTED;
    if ((uintptr_t)stream != PER_THREAD && !rrto_find(RRTO_STREAM, stream))
        return CUDA_INVALID_HANDLE;
    pthread_mutex_lock(&lock);
    CUresult result = find(stream, &s) ? CUDA_ILLEGAL_STATE : CUDA_SUCCESS;
    if (!result && (s = calloc(1, sizeof *s))) {
        *s = (struct sequence){.thread = this_thread(), .mode = mode, .own = !graph};
        s->graph = graph ? graph : rrto_graph_new(1);
        s->origin = s->graph ? add_member(s, stream) : NULL;
    }
    if (!result && (!s || !s->origin || join(s->origin, nodes, count)))
        result = CUDA_OUT_OF_MEMORY;
    if (!result) {
        s->id = ++last;
        s->graph->capturing = 1;
        for (struct rrto_node *node = s->graph->first; node; node = node->next)
            node->captured = 0; /* by an earlier sequence */
        s->next = sequences;
        sequences = s;
        atomic_fetch_add(&rrto_captures, 1);
    } else if (result == CUDA_OUT_OF_MEMORY && s) {
        if (s->own)
            rrto_graph_free(s->graph);
        if (s->members)
            free_member(s->members);
        free(s);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
    return begin(hStream, NULL, NULL, 0, mode);
}

CUresult rrto_cuStreamBeginCapture(CUstream hStream)
{
    return begin(hStream, NULL, NULL, 0, GLOBAL);
}

CUresult rrto_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                          const CUgraphNode *dependencies,
                                          const CUgraphEdgeData *dependencyData,
                                          size_t numDependencies, CUstreamCaptureMode mode)
{
    struct rrto_graph *graph;
    struct rrto_node *node;
    CUresult result = rrto_graph_of(hGraph, &graph);
    if (!result && ((numDependencies && !dependencies) || graph->capturing))
        result = CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_no_edge_data(dependencyData, numDependencies);
    for (size_t i = 0; i < numDependencies && !result; i++)
        if (rrto_node_of(dependencies[i], &node) || node->graph != graph)
            result = CUDA_INVALID_VALUE;
    return result ? result : begin(hStream, graph, dependencies, numDependencies, mode);
}

/* Whether what was captured in other streams is waited for by the one that the sequence began in. */
static int all_joined(struct sequence *s)
{
    for (struct rrto_node *node = s->graph->first; node; node = node->next)
        node->stamp = 0;
    for (struct rrto_node *node = s->graph->first; node; node = node->next)
        for (size_t i = 0; i < node->count; i++)
            node->dependencies[i]->stamp = UINT32_MAX;
    for (const struct rrto_node *node = s->graph->first; node; node = node->next)
        if (node->captured && node->stamp != UINT32_MAX &&
            !has(s->origin, node->object->handle))
            return 0;
    return 1;
}

CUresult rrto_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    struct sequence *s;
    CUresult result = CUDA_SUCCESS;
    if (!phGraph)
        return CUDA_INVALID_VALUE;
    *phGraph = NULL;
    pthread_mutex_lock(&lock);
    const struct member *m = find(hStream, &s);
    if (!m)
        result = CUDA_ILLEGAL_STATE;
    else if (s->mode != RELAXED && s->thread != this_thread())
        result = CUDA_STREAM_CAPTURE_WRONG_THREAD;
    else if (m != s->origin)
        result = break_it(s, CUDA_STREAM_CAPTURE_UNMATCHED);
    if (result) {
        pthread_mutex_unlock(&lock);
        return result;
    }
    if (s->broken)
        result = CUDA_STREAM_CAPTURE_INVALIDATED;
    else if (!all_joined(s))
        result = CUDA_STREAM_CAPTURE_UNJOINED;
    struct rrto_graph *graph = s->graph, *dropped = result && s->own ? graph : NULL;
    end(s);
    if (!result)
        *phGraph = graph->object->handle;
    rrto_graph_free(dropped);
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- questions ---- */

static CUresult check_stream(CUstream stream)
{
    return (uintptr_t)stream <= PER_THREAD || rrto_find(RRTO_STREAM, stream) ? CUDA_SUCCESS
                                                                            : CUDA_INVALID_HANDLE;
}

CUresult rrto_cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                        cuuint64_t *id_out, CUgraph *graph_out,
                                        const CUgraphNode **dependencies_out,
                                        const CUgraphEdgeData **edgeData_out,
                                        size_t *numDependencies_out)
{
    struct sequence *s = NULL;
    CUresult result = captureStatus_out && (!edgeData_out || dependencies_out)
                          ? check_stream(hStream)
                          : CUDA_INVALID_VALUE;
    if (result)
        return result;
    struct member *m = NULL;
    int look = rrto_capturing(); /* libraries ask all the time: usually without the lock */
    if (look) {
        pthread_mutex_lock(&lock);
        m = find(hStream, &s);
        if (is_legacy(hStream))
            result = check_legacy(0);
    }
    *captureStatus_out = !m ? NONE : s->broken ? INVALIDATED : ACTIVE;
    if (m)
        drop_destroyed(m);
    if (id_out)
        *id_out = m ? s->id : 0;
    if (graph_out)
        *graph_out = m && !s->broken ? s->graph->object->handle : NULL;
    if (dependencies_out)
        *dependencies_out = m ? m->nodes : NULL;
    if (edgeData_out)
        *edgeData_out = m ? m->edges : NULL;
    if (numDependencies_out)
        *numDependencies_out = m ? m->count : 0;
    if (look)
        pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                        cuuint64_t *id_out, CUgraph *graph_out,
                                        const CUgraphNode **dependencies_out,
                                        size_t *numDependencies_out)
{
    return rrto_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph_out,
                                          dependencies_out, NULL, numDependencies_out);
}

CUresult rrto_cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                     cuuint64_t *id_out)
{
    return rrto_cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, NULL, NULL, NULL,
                                          NULL);
}

CUresult rrto_cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
    return rrto_cuStreamGetCaptureInfo(hStream, captureStatus, NULL);
}

/* ---- what the next call waits for, changed by the program ---- */

CUresult rrto_cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
                                                   const CUgraphEdgeData *dependencyData,
                                                   size_t numDependencies, unsigned int flags)
{
    enum { ADD, SET };
    struct sequence *s;
    struct rrto_node *node;
    CUresult result = flags > SET || (numDependencies && !dependencies) ? CUDA_INVALID_VALUE
                                                                       : check_stream(hStream);
    if (!result)
        result = rrto_no_edge_data(dependencyData, numDependencies);
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    struct member *m = find(hStream, &s);
    if (!m)
        result = CUDA_ILLEGAL_STATE;
    else if (s->broken)
        result = CUDA_STREAM_CAPTURE_INVALIDATED;
    for (size_t i = 0; i < numDependencies && !result; i++)
        if (rrto_node_of(dependencies[i], &node) || node->graph != s->graph)
            result = CUDA_INVALID_VALUE;
    if (!result && flags == SET) {
        for (size_t i = 0; i < m->count; i++) /* these need not be joined any more */
            if (!rrto_node_of(m->nodes[i], &node))
                node->captured = 0;
        m->count = 0;
        for (size_t i = 0; i < numDependencies; i++)
            if (!rrto_node_of(dependencies[i], &node))
                node->captured = 1;
    }
    if (!result)
        result = join(m, dependencies, numDependencies);
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult rrto_cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *dependencies,
                                                size_t numDependencies, unsigned int flags)
{
    return rrto_cuStreamUpdateCaptureDependencies_v2(hStream, dependencies, NULL, numDependencies,
                                                     flags);
}
