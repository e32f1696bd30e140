/* Graphs as templates: their nodes, and which waits for which. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_DEPENDENCIES = 65536 };

CUresult rrto_graph_of(CUgraph handle, struct rrto_graph **out)
{
    struct rrto_object *object = rrto_find(RRTO_GRAPH, handle);
    *out = object ? object->data : NULL;
    return object ? CUDA_SUCCESS : handle ? CUDA_INVALID_HANDLE : CUDA_INVALID_VALUE;
}

CUresult rrto_node_of(CUgraphNode handle, struct rrto_node **out)
{
    struct rrto_object *object = rrto_find(RRTO_NODE, handle);
    *out = object ? object->data : NULL;
    return object ? CUDA_SUCCESS : handle ? CUDA_INVALID_HANDLE : CUDA_INVALID_VALUE;
}

CUresult rrto_node_of_kind(CUgraphNode handle, int kind, struct rrto_node **out)
{
    struct rrto_object *object = rrto_find(RRTO_NODE, handle);
    *out = object ? object->data : NULL;
    if (!object)
        return CUDA_INVALID_HANDLE;
    return (*out)->work.kind == kind ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

struct rrto_graph *rrto_graph_new(int with_handle)
{
    static _Atomic uint32_t last;
    struct rrto_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return NULL;
    if (with_handle) {
        graph->object = rrto_new(RRTO_GRAPH);
        if (!graph->object) {
            free(graph);
            return NULL;
        }
        graph->object->data = graph;
    }
    graph->id = atomic_fetch_add(&last, 1) + 1;
    return graph;
}

static void free_node(struct rrto_node *node)
{
    if (node->object)
        rrto_drop(RRTO_NODE, node->object);
    rrto_work_release(&node->work);
    free(node->dependencies);
    free(node);
}

void rrto_graph_free(struct rrto_graph *graph)
{
    if (!graph)
        return;
    /* From the last on: the lowest free name is found first. */
    for (struct rrto_node *node = graph->last, *before; node; node = before) {
        before = node->before;
        free_node(node);
    }
    rrto_uses_drop(graph);
    if (graph->object)
        rrto_drop(RRTO_GRAPH, graph->object);
    free(graph);
}

CUresult rrto_cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    if (!phGraph || flags)
        return CUDA_INVALID_VALUE;
    struct rrto_graph *graph = rrto_graph_new(1);
    if (!graph)
        return CUDA_OUT_OF_MEMORY;
    *phGraph = graph->object->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphDestroy(CUgraph hGraph)
{
    struct rrto_graph *graph;
    CUresult result = rrto_graph_of(hGraph, &graph);
    if (result)
        return result;
    if (graph->parent || graph->capturing) /* its node's, its stream's */
        return CUDA_INVALID_VALUE;
    rrto_graph_free(graph);
    return CUDA_SUCCESS;
}

/* ---- nodes ---- */

static int make_room(struct rrto_node *node, size_t count)
{
    if (count <= node->room)
        return 1;
    size_t room = node->room * 2 > count ? node->room * 2 : count;
    struct rrto_node **grown = realloc(node->dependencies, room * sizeof *grown);
    if (!grown)
        return 0;
    node->dependencies = grown;
    node->room = room;
    return 1;
}

static struct rrto_node *new_node(struct rrto_graph *graph, size_t count, int with_handle)
{
    struct rrto_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->work.kind = RRTO_EMPTY_NODE;
    if (make_room(node, count) && with_handle && (node->object = rrto_new(RRTO_NODE)))
        node->object->data = node;
    if (node->room < count || (with_handle && !node->object)) {
        free_node(node);
        return NULL;
    }
    node->graph = graph;
    return node;
}

static void append(struct rrto_graph *graph, struct rrto_node *node)
{
    node->id = ++graph->next_id;
    node->before = graph->last;
    *(graph->last ? &graph->last->next : &graph->first) = node;
    graph->last = node;
    graph->count++;
}

static uint32_t next_stamp(void)
{
    static _Atomic uint32_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

static CUresult take_dependencies(struct rrto_node *node, const CUgraphNode *dependencies,
                                  size_t count)
{
    uint32_t stamp = next_stamp();
    for (size_t i = 0; i < count; i++) {
        struct rrto_node *other;
        if (rrto_node_of(dependencies[i], &other) || other->graph != node->graph ||
            other->stamp == stamp)
            return CUDA_INVALID_VALUE;
        other->stamp = stamp;
        node->dependencies[node->count++] = other;
    }
    return CUDA_SUCCESS;
}

CUresult rrto_graph_add(struct rrto_graph *graph, const CUgraphNode *dependencies, size_t count,
                        struct rrto_work *work, struct rrto_node **out)
{
    CUresult result = count > MOST_DEPENDENCIES || (count && !dependencies) ? CUDA_INVALID_VALUE
                                                                           : CUDA_SUCCESS;
    struct rrto_node *node = result ? NULL : new_node(graph, count, 1);
    if (!result && !node)
        result = CUDA_OUT_OF_MEMORY;
    if (!result)
        result = take_dependencies(node, dependencies, count);
    if (result) {
        if (node)
            free_node(node);
        rrto_work_release(work);
        return result;
    }
    rrto_work_move(&node->work, work);
    if (node->work.child)
        node->work.child->parent = node;
    append(graph, node);
    *out = node;
    return CUDA_SUCCESS;
}

static int find_edge(const struct rrto_node *to, const struct rrto_node *from, size_t *at)
{
    for (*at = 0; *at < to->count; ++*at)
        if (to->dependencies[*at] == from)
            return 1;
    return 0;
}

static void remove_edge(struct rrto_node *to, size_t at)
{
    to->count--;
    memmove(&to->dependencies[at], &to->dependencies[at + 1],
            (to->count - at) * sizeof *to->dependencies);
}

CUresult rrto_cuGraphDestroyNode(CUgraphNode hNode)
{
    struct rrto_node *node;
    size_t at;
    CUresult result = rrto_node_of(hNode, &node);
    if (result)
        return result;
    struct rrto_graph *graph = node->graph;
    if (graph->capturing)
        return CUDA_INVALID_VALUE;
    for (struct rrto_node *other = graph->first; other; other = other->next)
        if (find_edge(other, node, &at))
            remove_edge(other, at);
    *(node->before ? &node->before->next : &graph->first) = node->next;
    *(node->next ? &node->next->before : &graph->last) = node->before;
    graph->count--;
    free_node(node);
    return CUDA_SUCCESS;
}

/* ---- edges ---- */

/* Data of edges that say more than "after it" are refused. */
CUresult rrto_no_edge_data(const CUgraphEdgeData *data, size_t count)
{
    static const CUgraphEdgeData zero;
    for (size_t i = 0; data && i < count; i++)
        if (memcmp(&data[i], &zero, sizeof zero))
            return rrto_refuse(CUDA_NOT_SUPPORTED, "graphs: edges with data");
    return CUDA_SUCCESS;
}

static int insert_edge(struct rrto_node *to, struct rrto_node *from, size_t at)
{
    if (!make_room(to, to->count + 1))
        return 0;
    memmove(&to->dependencies[at + 1], &to->dependencies[at],
            (to->count - at) * sizeof *to->dependencies);
    to->dependencies[at] = from;
    to->count++;
    return 1;
}

/* One edge; says in *at where it was or is, for who takes the change back. */
static CUresult change_edge(struct rrto_graph *graph, CUgraphNode from, CUgraphNode to, int add,
                            size_t *at)
{
    struct rrto_node *a, *b;
    if (rrto_node_of(from, &a) || rrto_node_of(to, &b) || a == b || a->graph != graph ||
        b->graph != graph || find_edge(b, a, at) == add)
        return CUDA_INVALID_VALUE;
    if (!add)
        remove_edge(b, *at);
    else if (!insert_edge(b, a, *at))
        return CUDA_OUT_OF_MEMORY;
    return CUDA_SUCCESS;
}

/* All edges or none. */
static CUresult change_edges(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                             const CUgraphEdgeData *data, size_t count, int add)
{
    struct rrto_graph *graph;
    size_t done = 0;
    CUresult result = rrto_graph_of(hGraph, &graph);
    if (!result && count && (!from || !to))
        result = CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_no_edge_data(data, count);
    if (result || !count)
        return result;
    size_t *at = calloc(count, sizeof *at);
    if (!at)
        return CUDA_OUT_OF_MEMORY;
    while (done < count && !(result = change_edge(graph, from[done], to[done], add, &at[done])))
        done++;
    while (result && done--) {
        struct rrto_node *a, *b;
        rrto_node_of(from[done], &a);
        rrto_node_of(to[done], &b);
        if (add)
            remove_edge(b, at[done]);
        else
            insert_edge(b, a, at[done]); /* into the room that it had */
    }
    free(at);
    return result;
}

CUresult rrto_cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                                        const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                        size_t numDependencies)
{
    return change_edges(hGraph, from, to, edgeData, numDependencies, 1);
}

CUresult rrto_cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                     size_t numDependencies)
{
    return change_edges(hGraph, from, to, NULL, numDependencies, 1);
}

CUresult rrto_cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                                           const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                           size_t numDependencies)
{
    return change_edges(hGraph, from, to, edgeData, numDependencies, 0);
}

CUresult rrto_cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from,
                                        const CUgraphNode *to, size_t numDependencies)
{
    return change_edges(hGraph, from, to, NULL, numDependencies, 0);
}

/* ---- clones ---- */

CUresult rrto_graph_clone(const struct rrto_graph *from, int with_handles, struct rrto_graph **out)
{
    struct rrto_graph *graph = rrto_graph_new(with_handles);
    CUresult result = graph ? rrto_uses_clone(from, graph) : CUDA_OUT_OF_MEMORY;
    for (struct rrto_node *node = from->first; node && !result; node = node->next) {
        struct rrto_node *copy = new_node(graph, node->count, with_handles);
        if (!copy) {
            result = CUDA_OUT_OF_MEMORY;
            break;
        }
        append(graph, copy);
        copy->origin = node->object ? node->object->handle : node->origin;
        copy->disabled = node->disabled;
        result = rrto_work_clone(&node->work, with_handles, &copy->work);
        if (copy->work.child)
            copy->work.child->parent = copy;
        node->pair = copy;
    }
    for (struct rrto_node *node = from->first; node && !result; node = node->next)
        for (size_t i = 0; i < node->count; i++) /* an edge may lead to a later node */
            node->pair->dependencies[node->pair->count++] = node->dependencies[i]->pair;
    if (result)
        rrto_graph_free(graph);
    else
        *out = graph;
    return result;
}

CUresult rrto_cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    struct rrto_graph *graph, *clone;
    CUresult result = phGraphClone ? rrto_graph_of(originalGraph, &graph) : CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_graph_clone(graph, 1, &clone);
    if (!result)
        *phGraphClone = clone->object->handle;
    return result;
}

CUresult rrto_cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode,
                                     CUgraph hClonedGraph)
{
    struct rrto_graph *graph;
    struct rrto_node *original;
    CUresult result = phNode ? rrto_graph_of(hClonedGraph, &graph) : CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_node_of(hOriginalNode, &original);
    if (result)
        return result;
    for (struct rrto_node *node = graph->first; node; node = node->next)
        if (node->origin == hOriginalNode) {
            *phNode = node->object->handle;
            return CUDA_SUCCESS;
        }
    return CUDA_INVALID_VALUE;
}
