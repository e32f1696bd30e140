/* Questions about graphs and their nodes: which there are, what waits for what, what they do. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

struct rrto_node *rrto_node_new(const CUgraphNode *dependencies, size_t count)
{
    struct rrto_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->dependencies = malloc(count * sizeof *dependencies + 1);
    if (!node->dependencies) {
        free(node);
        return NULL;
    }
    if (count)
        memcpy(node->dependencies, dependencies, count * sizeof *dependencies);
    node->count = count;
    return node;
}

void rrto_node_free(struct rrto_node *node)
{
    if (!node)
        return;
    free(node->dependencies);
    free(node->arguments);
    free(node);
}

CUresult rrto_node_keep(struct rrto_node *node, const CUDA_KERNEL_NODE_PARAMS_v1 *p,
                        const void *other, const struct rrto_kernel *kernel,
                        const unsigned char *packed)
{
    enum { END = 0, POINTER = 1, SIZE = 2 };
    size_t table = kernel->param_count * sizeof(void *), bytes = kernel->param_bytes;
    /* The same kernel's table stays where it is: a program may still look at it. */
    CUfunction before = node->kernel.func ? node->kernel.func : (CUfunction)node->kernel.kern;
    if (before != kernel->function->handle || !node->arguments) {
        void *arguments = calloc(1, table + bytes + 1);
        if (!arguments)
            return CUDA_OUT_OF_MEMORY;
        free(node->arguments);
        node->arguments = arguments;
    }
    void **pointers = node->arguments;
    unsigned char *values = (unsigned char *)node->arguments + table;
    memcpy(values, packed, bytes);
    for (uint32_t i = 0; i < kernel->param_count; i++)
        pointers[i] = values + kernel->params[i].offset;
    node->extra_bytes = bytes;
    void *extra[5] = {(void *)POINTER, values, (void *)SIZE, &node->extra_bytes, (void *)END};
    memcpy(node->extra, extra, sizeof extra);
    memset(&node->kernel, 0, sizeof node->kernel);
    memcpy(&node->kernel, p, sizeof *p);
    node->kernel.kern = p->func ? NULL : (CUkernel)(uintptr_t)other;
    node->kernel.ctx = rrto_current();
    node->kernel.kernelParams = p->extra ? NULL : pointers;
    node->kernel.extra = p->extra ? node->extra : NULL;
    return CUDA_SUCCESS;
}

/* ---- lists ---- */

/* What CUDA's list calls do: count, or fill as much as there is room for and the rest with NULL. */
struct list {
    CUgraphNode *first, *second; /* second: only of edges */
    size_t room, count;
};

static void put(struct list *list, CUgraphNode first, CUgraphNode second)
{
    if (list->count < list->room) {
        if (list->first)
            list->first[list->count] = first;
        if (list->second)
            list->second[list->count] = second;
    }
    list->count++;
}

static CUresult end(struct list *list, size_t *number)
{
    int filled = list->first || list->second;
    for (size_t i = list->count; i < list->room; i++) {
        if (list->first)
            list->first[i] = NULL;
        if (list->second)
            list->second[i] = NULL;
    }
    if (!filled || list->count < *number)
        *number = list->count;
    return CUDA_SUCCESS;
}

/* The next node of a graph. */
static struct rrto_object *next_of(const void *graph, uint32_t *slot)
{
    struct rrto_object *node;
    while ((node = rrto_next(RRTO_NODE, slot)))
        if (node->owner == graph)
            return node;
    return NULL;
}

static CUresult handle_of(enum rrto_kind kind, const void *handle, struct rrto_object **object)
{
    *object = rrto_find(kind, handle);
    return *object ? CUDA_SUCCESS : handle ? CUDA_INVALID_HANDLE : CUDA_INVALID_VALUE;
}

static CUresult nodes_of(CUgraph graph, CUgraphNode *nodes, size_t *number, int roots)
{
    struct rrto_object *object, *node;
    uint32_t slot = 0;
    if (!number)
        return CUDA_INVALID_VALUE;
    CUresult result = handle_of(RRTO_GRAPH, graph, &object);
    if (result)
        return result;
    struct list list = {nodes, NULL, nodes ? *number : 0, 0};
    while ((node = next_of(graph, &slot)))
        if (!roots || !((struct rrto_node *)node->data)->count)
            put(&list, node->handle, NULL);
    return end(&list, number);
}

CUresult rrto_cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    return nodes_of(hGraph, nodes, numNodes, 0);
}

CUresult rrto_cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    return nodes_of(hGraph, rootNodes, numRootNodes, 1);
}

CUresult rrto_cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    struct rrto_object *object, *node;
    uint32_t slot = 0;
    if (!numEdges || !from != !to)
        return CUDA_INVALID_VALUE;
    CUresult result = handle_of(RRTO_GRAPH, hGraph, &object);
    if (result)
        return result;
    struct list list = {from, to, from ? *numEdges : 0, 0};
    while ((node = next_of(hGraph, &slot))) {
        const struct rrto_node *kept = node->data;
        for (size_t i = 0; i < kept->count; i++)
            put(&list, kept->dependencies[i], node->handle);
    }
    return end(&list, numEdges);
}

/* Every edge is a plain one: its data are zeros. */
static CUresult plain(CUresult result, CUgraphEdgeData *data, size_t count)
{
    if (!result && data)
        memset(data, 0, count * sizeof *data);
    return result;
}

CUresult rrto_cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                                 CUgraphEdgeData *edgeData, size_t *numEdges)
{
    if (edgeData && (!from || !to))
        return CUDA_INVALID_VALUE;
    size_t room = numEdges ? *numEdges : 0;
    return plain(rrto_cuGraphGetEdges(hGraph, from, to, numEdges), edgeData, room);
}

CUresult rrto_cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies,
                                         size_t *numDependencies)
{
    struct rrto_object *node;
    if (!numDependencies)
        return CUDA_INVALID_VALUE;
    CUresult result = handle_of(RRTO_NODE, hNode, &node);
    if (result)
        return result;
    const struct rrto_node *kept = node->data;
    struct list list = {dependencies, NULL, dependencies ? *numDependencies : 0, 0};
    for (size_t i = 0; i < kept->count; i++)
        put(&list, kept->dependencies[i], NULL);
    return end(&list, numDependencies);
}

CUresult rrto_cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies,
                                            CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    if (edgeData && !dependencies)
        return CUDA_INVALID_VALUE;
    size_t room = numDependencies ? *numDependencies : 0;
    return plain(rrto_cuGraphNodeGetDependencies(hNode, dependencies, numDependencies), edgeData,
                 room);
}

CUresult rrto_cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                           size_t *numDependentNodes)
{
    struct rrto_object *node, *other;
    uint32_t slot = 0;
    if (!numDependentNodes)
        return CUDA_INVALID_VALUE;
    CUresult result = handle_of(RRTO_NODE, hNode, &node);
    if (result)
        return result;
    struct list list = {dependentNodes, NULL, dependentNodes ? *numDependentNodes : 0, 0};
    while ((other = next_of(node->owner, &slot))) {
        const struct rrto_node *kept = other->data;
        for (size_t i = 0; i < kept->count; i++)
            if (kept->dependencies[i] == hNode)
                put(&list, other->handle, NULL);
    }
    return end(&list, numDependentNodes);
}

CUresult rrto_cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                              CUgraphEdgeData *edgeData,
                                              size_t *numDependentNodes)
{
    if (edgeData && !dependentNodes)
        return CUDA_INVALID_VALUE;
    size_t room = numDependentNodes ? *numDependentNodes : 0;
    return plain(rrto_cuGraphNodeGetDependentNodes(hNode, dependentNodes, numDependentNodes),
                 edgeData, room);
}

/* ---- what a node does ---- */

static CUresult kept_of(CUgraphNode handle, int kind, const void *out, struct rrto_node **kept)
{
    struct rrto_object *node;
    if (!out)
        return CUDA_INVALID_VALUE;
    CUresult result = handle_of(RRTO_NODE, handle, &node);
    if (result)
        return result;
    *kept = node->data;
    return node->number == kind ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct rrto_node *kept;
    CUresult result = kept_of(hNode, RRTO_KERNEL_NODE, nodeParams, &kept);
    if (!result)
        *nodeParams = kept->kernel;
    return result;
}

CUresult rrto_cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct rrto_node *kept;
    CUresult result = kept_of(hNode, RRTO_KERNEL_NODE, nodeParams, &kept);
    if (result)
        return result;
    memcpy(nodeParams, &kept->kernel, sizeof *nodeParams);
    if (!nodeParams->func)
        nodeParams->func = (CUfunction)kept->kernel.kern;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    struct rrto_node *kept;
    CUresult result = kept_of(hNode, RRTO_MEMCPY_NODE, nodeParams, &kept);
    if (!result)
        *nodeParams = kept->copy;
    return result;
}

CUresult rrto_cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct rrto_node *kept;
    CUresult result = kept_of(hNode, RRTO_MEMSET_NODE, nodeParams, &kept);
    if (!result)
        *nodeParams = kept->fill;
    return result;
}

CUresult rrto_cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    struct rrto_object *node;
    CUresult result = type ? handle_of(RRTO_NODE, hNode, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *type = node->number;
    return result;
}

/* ---- nodes of any kind ---- */

/* Data of edges that say more than "after it" are refused. */
static CUresult check_edges(const CUgraphEdgeData *data, size_t count)
{
    static const CUgraphEdgeData zero;
    for (size_t i = 0; data && i < count; i++)
        if (memcmp(&data[i], &zero, sizeof zero))
            return rrto_refuse(CUDA_NOT_SUPPORTED, "cuGraphAddNode: edges with data");
    return CUDA_SUCCESS;
}

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
    if (!result)
        result = check_edges(dependencyData, numDependencies);
    if (result)
        return result;
    switch (p->type) {
    case RRTO_KERNEL_NODE:
        return rrto_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies,
                                            &p->kernel);
    case RRTO_MEMCPY_NODE:
        return rrto_cuGraphAddMemcpyNode(phGraphNode, hGraph, dependencies, numDependencies,
                                         &p->copy.params, p->copy.context);
    case RRTO_MEMSET_NODE:
        return rrto_cuGraphAddMemsetNode(phGraphNode, hGraph, dependencies, numDependencies,
                                         &p->fill.params, p->fill.context);
    case RRTO_EMPTY_NODE:
        return rrto_cuGraphAddEmptyNode(phGraphNode, hGraph, dependencies, numDependencies);
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

CUresult rrto_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    struct rrto_object *node;
    CUresult result = check_rest(nodeParams);
    if (!result)
        result = handle_of(RRTO_NODE, hNode, &node);
    if (result)
        return result;
    if (node->number != nodeParams->type)
        return CUDA_INVALID_VALUE;
    return nodeParams->type == RRTO_KERNEL_NODE
               ? rrto_cuGraphKernelNodeSetParams_v2(hNode, &nodeParams->kernel)
               : refuse_kind("cuGraphNodeSetParams", nodeParams->type);
}

CUresult rrto_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                       CUgraphNodeParams *nodeParams)
{
    CUgraphNodeParams *p = nodeParams;
    CUresult result = check_rest(p);
    if (result)
        return result;
    switch (p->type) {
    case RRTO_KERNEL_NODE:
        return rrto_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &p->kernel);
    case RRTO_MEMCPY_NODE:
        return rrto_cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, &p->copy.params,
                                                   p->copy.context);
    case RRTO_MEMSET_NODE:
        return rrto_cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, &p->fill.params,
                                                   p->fill.context);
    default:
        return refuse_kind("cuGraphExecNodeSetParams", p->type);
    }
}
