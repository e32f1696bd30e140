/* Questions about graphs and their nodes: which there are, what waits for what. */
#include "graph.h"

#include <string.h>

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

static CUresult nodes_of(CUgraph handle, CUgraphNode *nodes, size_t *number, int roots)
{
    struct rrto_graph *graph;
    CUresult result = number ? rrto_graph_of(handle, &graph) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    struct list list = {nodes, NULL, nodes ? *number : 0, 0};
    for (const struct rrto_node *node = graph->first; node; node = node->next)
        if (!roots || !node->count)
            put(&list, node->object->handle, NULL);
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
    struct rrto_graph *graph;
    if (!numEdges || !from != !to)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_graph_of(hGraph, &graph);
    if (result)
        return result;
    struct list list = {from, to, from ? *numEdges : 0, 0};
    for (const struct rrto_node *node = graph->first; node; node = node->next)
        for (size_t i = 0; i < node->count; i++)
            put(&list, node->dependencies[i]->object->handle, node->object->handle);
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
    struct rrto_node *node;
    CUresult result = numDependencies ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    struct list list = {dependencies, NULL, dependencies ? *numDependencies : 0, 0};
    for (size_t i = 0; i < node->count; i++)
        put(&list, node->dependencies[i]->object->handle, NULL);
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
    struct rrto_node *node;
    CUresult result = numDependentNodes ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    struct list list = {dependentNodes, NULL, dependentNodes ? *numDependentNodes : 0, 0};
    for (const struct rrto_node *other = node->graph->first; other; other = other->next)
        for (size_t i = 0; i < other->count; i++)
            if (other->dependencies[i] == node)
                put(&list, other->object->handle, NULL);
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

/* ---- what else there is to know ---- */

CUresult rrto_cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    struct rrto_node *node;
    CUresult result = type ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *type = node->work.kind;
    return result;
}

CUresult rrto_cuGraphNodeGetContainingGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct rrto_node *node;
    CUresult result = phGraph ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *phGraph = node->graph->object->handle;
    return result;
}

CUresult rrto_cuGraphGetId(CUgraph hGraph, unsigned int *graphId)
{
    struct rrto_graph *graph;
    CUresult result = graphId ? rrto_graph_of(hGraph, &graph) : CUDA_INVALID_VALUE;
    if (!result)
        *graphId = graph->id;
    return result;
}

CUresult rrto_cuGraphNodeGetLocalId(CUgraphNode hNode, unsigned int *nodeId)
{
    struct rrto_node *node;
    CUresult result = nodeId ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *nodeId = node->id;
    return result;
}

CUresult rrto_cuGraphNodeGetToolsId(CUgraphNode hNode, unsigned long long *toolsNodeId)
{
    struct rrto_node *node;
    CUresult result = toolsNodeId ? rrto_node_of(hNode, &node) : CUDA_INVALID_VALUE;
    if (!result)
        *toolsNodeId = (unsigned long long)node->graph->id << 32 | node->id;
    return result;
}
