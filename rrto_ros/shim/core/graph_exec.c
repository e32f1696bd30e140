/* Executable graphs: what of a graph is work of the server goes there in segments, each a graph of
 * its own, of which a launch is one record. Nodes that need the robot (copies from and to host
 * memory, host functions, events, cooperative launches) are done by the shim between them, in the
 * order of the stream; a graph without such nodes is one segment. */
#include "capture.h"

#include <stdlib.h>

struct rrto_place {
    CUgraphNode origin;
    struct rrto_node *node;
};

/* ---- which node of an executable graph a node is ---- */

static size_t home_of(const struct rrto_exec *exec, CUgraphNode origin)
{
    uint64_t key = (uint64_t)(uintptr_t)origin >> 4;
    return (size_t)(key * 0x9E3779B97F4A7C15ull >> 32) & (exec->map_size - 1);
}

struct rrto_node *rrto_exec_node(const struct rrto_exec *exec, CUgraphNode origin)
{
    size_t at = home_of(exec, origin);
    for (; exec->map[at].node; at = (at + 1) & (exec->map_size - 1))
        if (exec->map[at].origin == origin)
            return exec->map[at].node;
    return NULL;
}

static void map_nodes(struct rrto_exec *exec, const struct rrto_graph *graph)
{
    for (struct rrto_node *node = graph->first; node; node = node->next) {
        size_t at = home_of(exec, node->origin);
        while (exec->map[at].node)
            at = (at + 1) & (exec->map_size - 1);
        exec->map[at] = (struct rrto_place){node->origin, node};
        if (node->work.child)
            map_nodes(exec, node->work.child);
    }
}

/* ---- making one, ending it ---- */

static void exec_free(struct rrto_exec *exec)
{
    rrto_graph_free(exec->graph);
    free(exec->steps);
    free(exec->map);
    free(exec);
}

static int has_unset(const struct rrto_graph *graph)
{
    for (const struct rrto_node *node = graph->first; node; node = node->next)
        if (node->work.unset || (node->work.child && has_unset(node->work.child)))
            return 1;
    return 0;
}

static CUresult make(const struct rrto_graph *graph, struct rrto_exec **out)
{
    if (has_unset(graph)) /* a kernel node without blocks or threads */
        return CUDA_INVALID_VALUE;
    struct rrto_exec *exec = calloc(1, sizeof *exec);
    CUresult result = exec ? rrto_graph_clone(graph, 0, &exec->graph) : CUDA_OUT_OF_MEMORY;
    if (!result) {
        size_t count = rrto_count_nodes(exec->graph);
        for (exec->map_size = 16; exec->map_size < 2 * count;)
            exec->map_size *= 2;
        exec->map = calloc(exec->map_size, sizeof *exec->map);
        result = exec->map ? CUDA_SUCCESS : CUDA_OUT_OF_MEMORY;
    }
    if (!result) {
        map_nodes(exec, exec->graph);
        result = rrto_segments_write(exec);
    }
    if (!result)
        *out = exec;
    else if (exec)
        exec_free(exec);
    return result;
}

CUresult rrto_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                          unsigned long long flags)
{
    enum { AUTO_FREE = 1, UPLOAD = 2, USE_NODE_PRIORITY = 8 }; /* 4: launch from the device */
    struct rrto_graph *graph;
    struct rrto_exec *exec = NULL;
    if (!phGraphExec)
        return CUDA_INVALID_VALUE;
    if (rrto_graph_of(hGraph, &graph))
        return CUDA_INVALID_HANDLE;
    if (flags & ~(unsigned long long)(AUTO_FREE | UPLOAD | USE_NODE_PRIORITY))
        return flags & ~15ull ? CUDA_INVALID_VALUE
                              : rrto_refuse(CUDA_NOT_SUPPORTED,
                                            "cuGraphInstantiate: launch from the device (flag 4)");
    struct rrto_object *object = rrto_new(RRTO_EXEC);
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    object->flags = (uint32_t)flags;
    CUresult result = make(graph, &exec);
    if (result) {
        rrto_drop(RRTO_EXEC, object);
        return result;
    }
    object->data = exec;
    *phGraphExec = object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                                    CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    if (phErrorNode)
        *phErrorNode = NULL;
    if (logBuffer && bufferSize)
        *logBuffer = 0;
    return rrto_cuGraphInstantiateWithFlags(phGraphExec, hGraph, 0);
}

CUresult rrto_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    if (!instantiateParams)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_cuGraphInstantiateWithFlags(phGraphExec, hGraph, instantiateParams->flags);
    instantiateParams->hErrNode_out = NULL;
    instantiateParams->result_out = result != CUDA_SUCCESS;
    return result;
}

CUresult rrto_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraphExec);
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_exec *exec = object->data;
    CUresult result = rrto_segments_destroy(exec);
    exec_free(exec);
    rrto_drop(RRTO_EXEC, object);
    return result;
}

/* ---- changing it ---- */

CUresult rrto_exec_set(struct rrto_exec *exec, struct rrto_node *node, struct rrto_work *work)
{
    if (work->kind == RRTO_KERNEL_NODE) {
        work->cooperative = node->work.cooperative; /* an attribute, which stays */
        work->on_robot = node->work.on_robot;
    }
    if (rrto_work_fits(&node->work, work)) {
        rrto_work_release(work);
        return CUDA_INVALID_VALUE;
    }
    rrto_work_set(&node->work, work);
    int sent = node->segment && !exec->stale && !node->disabled;
    return sent && !node->work.on_robot ? rrto_segments_send(exec, node) : CUDA_SUCCESS;
}

static CUresult member(CUgraphExec hGraphExec, CUgraphNode hNode, struct rrto_exec **exec,
                       struct rrto_node **node)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraphExec);
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_node_of(hNode, node);
    if (result)
        return result;
    *exec = object->data;
    *node = rrto_exec_node(*exec, hNode);
    return *node && (*node)->work.kind <= RRTO_MEMSET_NODE ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                                    unsigned int isEnabled)
{
    struct rrto_exec *exec;
    struct rrto_node *node;
    CUresult result = member(hGraphExec, hNode, &exec, &node);
    if (result || node->disabled == !isEnabled)
        return result;
    node->disabled = !isEnabled;
    exec->stale |= !node->work.on_robot;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                                    unsigned int *isEnabled)
{
    struct rrto_exec *exec;
    struct rrto_node *node;
    CUresult result = isEnabled ? member(hGraphExec, hNode, &exec, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *isEnabled = !node->disabled;
    return result;
}

/* ---- launching it ---- */

static CUresult launch_cooperative(const struct rrto_work *work, CUstream hStream)
{
    struct rrto_op_launch op = {.flags = RRTO_COOPERATIVE};
    const struct rrto_kernel *kernel = rrto_work_kernel_of(work);
    CUresult result = kernel ? rrto_name_stream(hStream, &op.stream) : CUDA_INVALID_HANDLE;
    if (result)
        return result;
    RRTO_FILL_LAUNCH(op, work, kernel);
    return rrto_emit_launch(&op, rrto_work_arguments(work), NULL);
}

static CUresult fill_here(const CUDA_MEMSET_NODE_PARAMS *p, CUstream hStream)
{
    switch (p->elementSize) {
    case 1:
        return rrto_cuMemsetD2D8Async(p->dst, p->pitch, (unsigned char)p->value, p->width,
                                      p->height, hStream);
    case 2:
        return rrto_cuMemsetD2D16Async(p->dst, p->pitch, (unsigned short)p->value, p->width,
                                       p->height, hStream);
    default:
        return rrto_cuMemsetD2D32Async(p->dst, p->pitch, p->value, p->width, p->height, hStream);
    }
}

/* One row to host memory goes on while the program does, where that is page-locked. */
static CUresult copy_here(const CUDA_MEMCPY3D *c, CUstream hStream)
{
    struct rrto_range range;
    int row = c->Height == 1 && c->Depth == 1 && !c->dstY && !c->dstZ && !c->srcY && !c->srcZ;
    CUdeviceptr from = c->srcDevice + c->srcXInBytes;
    if (row && c->dstMemoryType == RRTO_MEMORY_HOST && c->srcMemoryType != RRTO_MEMORY_HOST &&
        rrto_range_find(from, &range))
        return rrto_cuMemcpyDtoHAsync_v2((char *)c->dstHost + c->dstXInBytes, from, c->WidthInBytes,
                                         hStream);
    if (row && c->dstMemoryType == RRTO_MEMORY_UNIFIED && c->srcMemoryType == RRTO_MEMORY_UNIFIED)
        return rrto_cuMemcpyAsync(c->dstDevice + c->dstXInBytes, from, c->WidthInBytes, hStream);
    return rrto_cuMemcpy3DAsync_v2(c, hStream);
}

static CUresult do_here(const struct rrto_node *node, CUstream hStream)
{
    const struct rrto_work *work = &node->work;
    if (node->disabled)
        return CUDA_SUCCESS;
    switch (work->kind) {
    case RRTO_KERNEL_NODE:
        return launch_cooperative(work, hStream);
    case RRTO_MEMCPY_NODE:
        return copy_here(&work->copy, hStream);
    case RRTO_MEMSET_NODE:
        return fill_here(&work->fill, hStream);
    case RRTO_HOST_NODE:
        return rrto_cuLaunchHostFunc(hStream, work->host.fn, work->host.userData);
    case RRTO_RECORD_NODE:
        return rrto_cuEventRecord(work->event, hStream);
    default:
        return rrto_cuStreamWaitEvent(hStream, work->event, 0);
    }
}

static CUresult renew(struct rrto_exec *exec)
{
    CUresult result = rrto_segments_destroy(exec);
    if (!result)
        result = rrto_segments_write(exec);
    exec->stale = result != CUDA_SUCCESS;
    return result;
}

/* In a stream that is captured: a child graph. */
static CUresult capture(const struct rrto_exec *exec, CUstream stream)
{
    struct rrto_work work = {.kind = RRTO_CHILD_NODE};
    return rrto_capture_work(stream, rrto_graph_clone(exec->graph, 1, &work.child), &work);
}

CUresult rrto_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraph);
    uint64_t stream;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_exec *exec = object->data;
    RRTO_CAPTURE(hStream, capture(exec, hStream));
    CUresult result = rrto_name_stream(hStream, &stream);
    if (!result && exec->stale)
        result = renew(exec);
    for (size_t i = 0; i < exec->count && !result; i++)
        if (exec->steps[i].segment) {
            struct rrto_op_graph_launch op = {exec->steps[i].segment->name, stream};
            result = rrto_emit_graph_launch(&op, NULL);
        } else {
            result = do_here(exec->steps[i].node, hStream);
        }
    return result;
}

CUresult rrto_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    uint64_t name;
    CUresult result = rrto_name_stream(hStream, &name);
    if (!result && !rrto_find(RRTO_EXEC, hGraph))
        result = CUDA_INVALID_HANDLE;
    return result; /* the server has it already */
}

CUresult rrto_cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    struct rrto_object *exec = rrto_find(RRTO_EXEC, hGraphExec);
    if (!flags)
        return CUDA_INVALID_VALUE;
    if (!exec)
        return CUDA_INVALID_HANDLE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphExecGetId(CUgraphExec hGraphExec, unsigned int *graphId)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraphExec);
    if (!graphId)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    *graphId = ((struct rrto_exec *)object->data)->graph->id;
    return CUDA_SUCCESS;
}
