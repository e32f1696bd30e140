/* Nodes of a graph, made, asked for and changed: each kind by its own calls, and by those for any
 * kind.
 *
 * Over 400 lines: CUDA has many short calls for this, and each kind has the same few. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

/* The second version only has more members after those of the first. */
static const CUDA_KERNEL_NODE_PARAMS_v1 *first_version(const CUDA_KERNEL_NODE_PARAMS *p)
{
    _Static_assert(offsetof(CUDA_KERNEL_NODE_PARAMS, kern) == sizeof(CUDA_KERNEL_NODE_PARAMS_v1),
                   "layout of kernel node parameters");
    return (const CUDA_KERNEL_NODE_PARAMS_v1 *)(const void *)p;
}

/* ---- adding ---- */

/* What every kind of node has in common: where it goes. */
struct place {
    CUgraphNode *out;
    CUgraph graph;
    const CUgraphNode *dependencies;
    size_t count;
};

static CUresult add(const struct place *place, CUresult result, struct rrto_work *work)
{
    struct rrto_graph *graph;
    struct rrto_node *node;
    if (!result && (!place->out || (place->count && !place->dependencies)))
        result = CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_graph_of(place->graph, &graph);
    if (result) {
        rrto_work_release(work);
        return result;
    }
    result = rrto_graph_add(graph, place->dependencies, place->count, work, &node);
    if (!result)
        *place->out = node->object->handle;
    return result;
}

static CUresult add_kernel(const struct place *place, const CUDA_KERNEL_NODE_PARAMS_v1 *p,
                           const void *other)
{
    struct rrto_work work;
    return add(place, rrto_work_kernel(p, other, 1, &work), &work);
}

static CUresult add_copy(const struct place *place, const CUDA_MEMCPY3D *p)
{
    struct rrto_work work;
    return add(place, rrto_work_copy(p, &work), &work);
}

static CUresult add_fill(const struct place *place, const CUDA_MEMSET_NODE_PARAMS *p)
{
    struct rrto_work work;
    return add(place, rrto_work_fill(p, &work), &work);
}

static CUresult add_host(const struct place *place, CUhostFn fn, void *data, unsigned mode)
{
    struct rrto_work work;
    return add(place, rrto_work_host(fn, data, mode, &work), &work);
}

static CUresult add_event(const struct place *place, int kind, CUevent event)
{
    struct rrto_work work;
    return add(place, rrto_work_event(kind, event, &work), &work);
}

static CUresult add_empty(const struct place *place)
{
    struct rrto_work work = {.kind = RRTO_EMPTY_NODE};
    return add(place, CUDA_SUCCESS, &work);
}

static CUresult add_child(const struct place *place, CUgraph handle)
{
    struct rrto_work work = {.kind = RRTO_CHILD_NODE};
    struct rrto_graph *child;
    CUresult result = rrto_graph_of(handle, &child);
    if (!result)
        result = rrto_graph_clone(child, 1, &work.child);
    return add(place, result, &work);
}

#define PLACE (&(struct place){phGraphNode, hGraph, dependencies, numDependencies})

CUresult rrto_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    return add_kernel(PLACE, nodeParams, NULL);
}

CUresult rrto_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                      const CUgraphNode *dependencies, size_t numDependencies,
                                      const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return add_kernel(PLACE, first_version(nodeParams), nodeParams ? nodeParams->kern : NULL);
}

CUresult rrto_cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    (void)ctx;
    return add_copy(PLACE, copyParams);
}

CUresult rrto_cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    (void)ctx;
    return add_fill(PLACE, memsetParams);
}

CUresult rrto_cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                 const CUgraphNode *dependencies, size_t numDependencies,
                                 const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    return nodeParams ? add_host(PLACE, nodeParams->fn, nodeParams->userData, 0)
                      : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                       const CUgraphNode *dependencies, size_t numDependencies,
                                       CUgraph childGraph)
{
    return add_child(PLACE, childGraph);
}

CUresult rrto_cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies)
{
    return add_empty(PLACE);
}

CUresult rrto_cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                        const CUgraphNode *dependencies, size_t numDependencies,
                                        CUevent event)
{
    return add_event(PLACE, RRTO_RECORD_NODE, event);
}

CUresult rrto_cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                      const CUgraphNode *dependencies, size_t numDependencies,
                                      CUevent event)
{
    return add_event(PLACE, RRTO_WAIT_NODE, event);
}

/* ---- changing: in a graph, or in an executable one ---- */

struct target {
    struct rrto_exec *exec; /* NULL: in the graph */
    struct rrto_node *node;
};

static CUresult in_graph(CUgraphNode hNode, int kind, struct target *out)
{
    out->exec = NULL;
    return rrto_node_of_kind(hNode, kind, &out->node);
}

static CUresult in_exec(CUgraphExec hExec, CUgraphNode hNode, int kind, struct target *out)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hExec);
    struct rrto_node *node;
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_node_of_kind(hNode, kind, &node);
    if (result)
        return result;
    out->exec = object->data;
    out->node = rrto_exec_node(out->exec, hNode);
    return out->node ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

static CUresult set(const struct target *target, CUresult result, struct rrto_work *work)
{
    if (result)
        rrto_work_release(work);
    else if (target->exec)
        result = rrto_exec_set(target->exec, target->node, work);
    else
        rrto_work_set(&target->node->work, work);
    return result;
}

static CUresult set_kernel(CUresult found, const struct target *target,
                           const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other)
{
    struct rrto_work work;
    return found ? found : set(target, rrto_work_kernel(p, other, !target->exec, &work), &work);
}

static CUresult set_copy(CUresult found, const struct target *target, const CUDA_MEMCPY3D *p)
{
    struct rrto_work work;
    return found ? found : set(target, rrto_work_copy(p, &work), &work);
}

static CUresult set_fill(CUresult found, const struct target *target,
                         const CUDA_MEMSET_NODE_PARAMS *p)
{
    struct rrto_work work;
    return found ? found : set(target, rrto_work_fill(p, &work), &work);
}

static CUresult set_host(CUresult found, const struct target *target, CUhostFn fn, void *data,
                         unsigned mode)
{
    struct rrto_work work;
    return found ? found : set(target, rrto_work_host(fn, data, mode, &work), &work);
}

static CUresult set_event(CUresult found, const struct target *target, int kind, CUevent event)
{
    struct rrto_work work;
    return found ? found : set(target, rrto_work_event(kind, event, &work), &work);
}

#define IN_GRAPH(kind) in_graph(hNode, kind, &target), &target
#define IN_EXEC(kind) in_exec(hGraphExec, hNode, kind, &target), &target

CUresult rrto_cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                         const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct target target;
    return set_kernel(IN_GRAPH(RRTO_KERNEL_NODE), nodeParams, NULL);
}

CUresult rrto_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                            const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct target target;
    return set_kernel(IN_GRAPH(RRTO_KERNEL_NODE), first_version(nodeParams),
                      nodeParams ? nodeParams->kern : NULL);
}

CUresult rrto_cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    struct target target;
    return set_copy(IN_GRAPH(RRTO_MEMCPY_NODE), nodeParams);
}

CUresult rrto_cuGraphMemsetNodeSetParams(CUgraphNode hNode,
                                         const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct target target;
    return set_fill(IN_GRAPH(RRTO_MEMSET_NODE), nodeParams);
}

CUresult rrto_cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct target target;
    return nodeParams ? set_host(IN_GRAPH(RRTO_HOST_NODE), nodeParams->fn, nodeParams->userData, 0)
                      : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    struct target target;
    return set_event(IN_GRAPH(RRTO_RECORD_NODE), RRTO_RECORD_NODE, event);
}

CUresult rrto_cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    struct target target;
    return set_event(IN_GRAPH(RRTO_WAIT_NODE), RRTO_WAIT_NODE, event);
}

CUresult rrto_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct target target;
    return set_kernel(IN_EXEC(RRTO_KERNEL_NODE), nodeParams, NULL);
}

CUresult rrto_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct target target;
    return set_kernel(IN_EXEC(RRTO_KERNEL_NODE), first_version(nodeParams),
                      nodeParams ? nodeParams->kern : NULL);
}

CUresult rrto_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct target target;
    (void)ctx;
    return set_copy(IN_EXEC(RRTO_MEMCPY_NODE), copyParams);
}

CUresult rrto_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_MEMSET_NODE_PARAMS *memsetParams,
                                             CUcontext ctx)
{
    struct target target;
    (void)ctx;
    return set_fill(IN_EXEC(RRTO_MEMSET_NODE), memsetParams);
}

CUresult rrto_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                           const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct target target;
    return nodeParams ? set_host(IN_EXEC(RRTO_HOST_NODE), nodeParams->fn, nodeParams->userData, 0)
                      : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                 CUevent event)
{
    struct target target;
    return set_event(IN_EXEC(RRTO_RECORD_NODE), RRTO_RECORD_NODE, event);
}

CUresult rrto_cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                               CUevent event)
{
    struct target target;
    return set_event(IN_EXEC(RRTO_WAIT_NODE), RRTO_WAIT_NODE, event);
}

/* ---- asking ---- */

#define GET(kind_, out_, value_)                                                                   \
    struct rrto_node *node;                                                                        \
    CUresult result = (out_) && hNode ? rrto_node_of_kind(hNode, kind_, &node)                     \
                                      : CUDA_INVALID_VALUE;                                        \
    if (!result)                                                                                   \
        *(out_) = (value_);                                                                        \
    return result

CUresult rrto_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    GET(RRTO_KERNEL_NODE, nodeParams, node->work.kernel);
}

CUresult rrto_cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUDA_KERNEL_NODE_PARAMS whole;
    CUresult result = nodeParams ? rrto_cuGraphKernelNodeGetParams_v2(hNode, &whole)
                                 : CUDA_INVALID_VALUE;
    if (result)
        return result;
    memcpy(nodeParams, &whole, sizeof *nodeParams);
    if (!nodeParams->func)
        nodeParams->func = (CUfunction)whole.kern;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    GET(RRTO_MEMCPY_NODE, nodeParams, node->work.copy);
}

CUresult rrto_cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    GET(RRTO_MEMSET_NODE, nodeParams, node->work.fill);
}

CUresult rrto_cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    GET(RRTO_HOST_NODE, nodeParams,
        ((CUDA_HOST_NODE_PARAMS){node->work.host.fn, node->work.host.userData}));
}

CUresult rrto_cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    GET(RRTO_CHILD_NODE, phGraph, node->work.child->object->handle);
}

CUresult rrto_cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    GET(RRTO_RECORD_NODE, event_out, node->work.event);
}

CUresult rrto_cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    GET(RRTO_WAIT_NODE, event_out, node->work.event);
}

/* ---- any kind ---- */

static CUresult check_rest(const CUgraphNodeParams *p)
{
    return p && !p->reserved0[0] && !p->reserved0[1] && !p->reserved0[2] && !p->reserved2
               ? CUDA_SUCCESS
               : CUDA_INVALID_VALUE;
}

static CUresult refuse_kind(const char *call, int kind)
{
    static const char *const names[] = {
        "kernel", "copy", "fill", "host function", "child graph", "empty", "event wait",
        "event record", "semaphore signal", "semaphore wait", "allocation", "free", "memory op",
        "conditional"};
    if (kind < 0 || kind >= (int)(sizeof names / sizeof *names))
        return CUDA_INVALID_VALUE;
    return rrto_refuse(CUDA_NOT_SUPPORTED, "%s: %s node", call, names[kind]);
}

CUresult rrto_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                const CUgraphNode *dependencies,
                                const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                CUgraphNodeParams *nodeParams)
{
    CUgraphNodeParams *p = nodeParams;
    CUresult result = check_rest(p);
    if (!result && numDependencies && !dependencies)
        result = CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_no_edge_data(dependencyData, numDependencies);
    if (result)
        return result;
    switch (p->type) {
    case RRTO_KERNEL_NODE:
        return add_kernel(PLACE, first_version(&p->kernel), p->kernel.kern);
    case RRTO_MEMCPY_NODE:
        return add_copy(PLACE, &p->copy.params);
    case RRTO_MEMSET_NODE:
        return add_fill(PLACE, &p->fill.params);
    case RRTO_HOST_NODE:
        return add_host(PLACE, p->host.fn, p->host.userData, p->host.syncMode);
    case RRTO_CHILD_NODE:
        if (p->child.ownership)
            return rrto_refuse(CUDA_NOT_SUPPORTED, "cuGraphAddNode: child graph that is moved");
        return add_child(PLACE, p->child.graph);
    case RRTO_EMPTY_NODE:
        return add_empty(PLACE);
    case RRTO_WAIT_NODE:
    case RRTO_RECORD_NODE:
        return add_event(PLACE, p->type, p->event.event);
    default:
        return refuse_kind("cuGraphAddNode", p->type);
    }
}

CUresult rrto_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                             const CUgraphNode *dependencies, size_t numDependencies,
                             CUgraphNodeParams *nodeParams)
{
    return rrto_cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, NULL, numDependencies,
                                  nodeParams);
}

static CUresult set_any(const char *call, CUresult found, const struct target *target,
                        const CUgraphNodeParams *p)
{
    switch (p->type) {
    case RRTO_KERNEL_NODE:
        return set_kernel(found, target, first_version(&p->kernel), p->kernel.kern);
    case RRTO_MEMCPY_NODE:
        return set_copy(found, target, &p->copy.params);
    case RRTO_MEMSET_NODE:
        return set_fill(found, target, &p->fill.params);
    case RRTO_HOST_NODE:
        return set_host(found, target, p->host.fn, p->host.userData, p->host.syncMode);
    case RRTO_WAIT_NODE:
    case RRTO_RECORD_NODE:
        return set_event(found, target, p->type, p->event.event);
    case RRTO_EMPTY_NODE:
        return found;
    default:
        return found ? found : refuse_kind(call, p->type);
    }
}

CUresult rrto_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    struct target target;
    CUresult result = check_rest(nodeParams);
    if (result)
        return result;
    result = hNode ? in_graph(hNode, nodeParams->type, &target) : CUDA_INVALID_VALUE;
    return set_any("cuGraphNodeSetParams", result, &target, nodeParams);
}

CUresult rrto_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                       CUgraphNodeParams *nodeParams)
{
    struct target target;
    CUresult result = check_rest(nodeParams);
    if (!result && nodeParams->type == RRTO_CHILD_NODE)
        return rrto_cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, nodeParams->child.graph);
    if (result)
        return result;
    result = in_exec(hGraphExec, hNode, nodeParams->type, &target);
    return set_any("cuGraphExecNodeSetParams", result, &target, nodeParams);
}

CUresult rrto_cuGraphNodeGetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    struct rrto_node *node;
    CUresult result = nodeParams ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    const struct rrto_work *work = &node->work;
    memset(nodeParams, 0, sizeof *nodeParams);
    nodeParams->type = work->kind;
    switch (work->kind) {
    case RRTO_KERNEL_NODE:
        nodeParams->kernel = work->kernel;
        break;
    case RRTO_MEMCPY_NODE:
        nodeParams->copy.params = work->copy;
        break;
    case RRTO_MEMSET_NODE:
        nodeParams->fill.params = work->fill;
        break;
    case RRTO_HOST_NODE:
        nodeParams->host = work->host;
        break;
    case RRTO_CHILD_NODE:
        nodeParams->child.graph = work->child->object->handle;
        break;
    case RRTO_WAIT_NODE:
    case RRTO_RECORD_NODE:
        nodeParams->event.event = work->event;
        break;
    default:
        break;
    }
    return CUDA_SUCCESS;
}
