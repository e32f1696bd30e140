/* An executable graph takes over what another graph of the same shape does. Nodes are paired from
 * the last ones back, each with its dependencies in their order. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

enum { SAME = 0, ERROR = 1, TOPOLOGY = 2, NOT_SUPPORTED = 6 };

struct report {
    int result;
    const struct rrto_node *node, *from;
};

static int fail(struct report *report, int result, const struct rrto_node *node,
                const struct rrto_node *from)
{
    *report = (struct report){result, node, from};
    return 0;
}

/* The nodes that nothing waits for, in their order. */
static size_t list_leaves(const struct rrto_graph *graph, struct rrto_node **out)
{
    size_t count = 0;
    for (struct rrto_node *node = graph->first; node; node = node->next)
        node->stamp = 0;
    for (struct rrto_node *node = graph->first; node; node = node->next)
        for (size_t i = 0; i < node->count; i++)
            node->dependencies[i]->stamp = UINT32_MAX;
    for (struct rrto_node *node = graph->first; node; node = node->next)
        if (node->stamp != UINT32_MAX)
            out[count++] = node;
    return count;
}

/* `list` has the pairs so far, wanted nodes; those from `next` on are still to be looked at. */
static int pair_all(struct rrto_node **list, size_t count, struct report *report)
{
    for (size_t next = 0; next < count; next++) {
        struct rrto_node *wanted = list[next], *now = wanted->pair;
        if (wanted->count != now->count)
            return fail(report, TOPOLOGY, wanted, NULL);
        for (size_t i = 0; i < wanted->count; i++) {
            struct rrto_node *a = wanted->dependencies[i], *b = now->dependencies[i];
            if (a->pair != (b->pair ? b : NULL) || b->pair != (a->pair ? a : NULL))
                return fail(report, TOPOLOGY, wanted, a);
            if (a->pair)
                continue;
            a->pair = b;
            b->pair = a;
            list[count++] = a;
        }
    }
    return 1;
}

static int pair_graphs(const struct rrto_graph *now, const struct rrto_graph *wanted,
                       struct report *report);

static int compare(const struct rrto_graph *wanted, struct report *report)
{
    for (const struct rrto_node *node = wanted->first; node; node = node->next) {
        int unfit = rrto_work_fits(&node->pair->work, &node->work);
        if (unfit)
            return fail(report, unfit, node, NULL);
        if (node->work.child && !pair_graphs(node->pair->work.child, node->work.child, report))
            return 0;
    }
    return 1;
}

/* Pairs the nodes of two graphs that an update may lead from and to, or says why it may not. */
static int pair_graphs(const struct rrto_graph *now, const struct rrto_graph *wanted,
                       struct report *report)
{
    if (now->count != wanted->count)
        return fail(report, TOPOLOGY, NULL, NULL);
    for (struct rrto_node *a = now->first, *b = wanted->first; a; a = a->next, b = b->next)
        a->pair = b->pair = NULL;
    struct rrto_node **list = malloc(2 * (now->count + 1) * sizeof *list);
    if (!list)
        return fail(report, ERROR, NULL, NULL);
    struct rrto_node **theirs = list + now->count + 1;
    size_t count = list_leaves(wanted, list), other = list_leaves(now, theirs);
    int same = count <= other ? 1 : fail(report, TOPOLOGY, list[count - 1], NULL);
    if (same && count < other)
        same = fail(report, TOPOLOGY, NULL, NULL);
    for (size_t i = 0; i < count && same; i++) {
        list[i]->pair = theirs[i];
        theirs[i]->pair = list[i];
    }
    same = same && pair_all(list, count, report);
    free(list);
    for (const struct rrto_node *node = wanted->first; node && same; node = node->next)
        if (!node->pair) /* on a cycle */
            same = fail(report, TOPOLOGY, node, NULL);
    return same && compare(wanted, report);
}

static CUresult take_over(struct rrto_exec *exec, const struct rrto_graph *wanted)
{
    CUresult result = CUDA_SUCCESS;
    for (const struct rrto_node *node = wanted->first; node && !result; node = node->next) {
        struct rrto_work work;
        if (node->work.child)
            result = take_over(exec, node->work.child);
        else if (!rrto_work_equal(&node->pair->work, &node->work) &&
                 !(result = rrto_work_clone(&node->work, 0, &work)))
            result = rrto_exec_set(exec, node->pair, &work);
    }
    return result;
}

static CUgraphNode handle_of(const struct rrto_node *node)
{
    return node && node->object ? node->object->handle : NULL;
}

CUresult rrto_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                   CUgraphExecUpdateResultInfo *resultInfo)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraphExec);
    struct rrto_graph *wanted;
    struct report report = {SAME, NULL, NULL};
    if (!resultInfo)
        return CUDA_INVALID_VALUE;
    *resultInfo = (CUgraphExecUpdateResultInfo){ERROR, NULL, NULL};
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_graph_of(hGraph, &wanted);
    if (result)
        return result;
    struct rrto_exec *exec = object->data;
    int same = pair_graphs(exec->graph, wanted, &report);
    *resultInfo = (CUgraphExecUpdateResultInfo){report.result, handle_of(report.node),
                                                handle_of(report.from)};
    if (!same)
        return CUDA_GRAPH_EXEC_UPDATE_FAILURE;
    result = take_over(exec, wanted);
    if (result)
        resultInfo->result = ERROR;
    return result;
}

CUresult rrto_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                                CUgraphExecUpdateResult *updateResult_out)
{
    CUgraphExecUpdateResultInfo info;
    if (!updateResult_out)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
    if (hErrorNode_out)
        *hErrorNode_out = info.errorNode;
    *updateResult_out = info.result;
    return result;
}

CUresult rrto_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                 CUgraph childGraph)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, hGraphExec);
    struct report report = {SAME, NULL, NULL};
    struct rrto_graph *wanted;
    struct rrto_node *node;
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_node_of_kind(hNode, RRTO_CHILD_NODE, &node);
    if (!result)
        result = rrto_graph_of(childGraph, &wanted);
    if (result)
        return result;
    struct rrto_exec *exec = object->data;
    node = rrto_exec_node(exec, hNode);
    if (!node || !pair_graphs(node->work.child, wanted, &report))
        return CUDA_INVALID_VALUE;
    return take_over(exec, wanted);
}
