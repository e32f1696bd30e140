/* The order in which an executable graph's nodes are done, those of its child graphs among them. */
#include "graph.h"

#include <stdlib.h>

size_t rrto_count_nodes(const struct rrto_graph *graph)
{
    size_t count = 0;
    for (const struct rrto_node *node = graph->first; node; node = node->next)
        count += 1 + (node->work.child ? rrto_count_nodes(node->work.child) : 0);
    return count;
}

static void number(struct rrto_order *order, const struct rrto_graph *graph)
{
    for (struct rrto_node *node = graph->first; node; node = node->next) {
        if (node->work.child)
            number(order, node->work.child);
        node->at = order->count;
        order->atoms[order->count++].node = node;
    }
}

struct edges {
    uint32_t (*pair)[2]; /* to, from */
    size_t count, room;
};

static int put_edge(struct edges *edges, uint32_t to, uint32_t from)
{
    if (edges->count == edges->room) {
        size_t room = edges->room ? edges->room * 2 : 256;
        void *grown = realloc(edges->pair, room * sizeof *edges->pair);
        if (!grown)
            return 0;
        edges->pair = grown;
        edges->room = room;
    }
    edges->pair[edges->count][0] = to;
    edges->pair[edges->count++][1] = from;
    return 1;
}

/* `outer`: the child graph's node whose dependencies its roots have; NULL at the top. */
static int list_edges(struct edges *edges, const struct rrto_graph *graph,
                      const struct rrto_node *const *outer, size_t outer_count)
{
    for (const struct rrto_node *node = graph->first; node; node = node->next) {
        const struct rrto_node *const *waits = (const struct rrto_node *const *)node->dependencies;
        size_t count = node->count;
        if (!count) {
            waits = outer;
            count = outer_count;
        }
        const struct rrto_graph *child = node->work.child;
        if (child && !list_edges(edges, child, waits, count))
            return 0;
        int alone = !child || !child->first;
        for (size_t i = 0; i < count && alone; i++)
            if (!put_edge(edges, node->at, waits[i]->at))
                return 0;
        for (const struct rrto_node *inner = child ? child->first : NULL; inner; inner = inner->next)
            if (inner->stamp != UINT32_MAX && !put_edge(edges, node->at, inner->at))
                return 0;
    }
    return 1;
}

/* Stamps what has followers in its graph: a child graph's other nodes are its leaves. */
static void mark_followed(const struct rrto_graph *graph)
{
    for (struct rrto_node *node = graph->first; node; node = node->next)
        node->stamp = 0;
    for (struct rrto_node *node = graph->first; node; node = node->next) {
        for (size_t i = 0; i < node->count; i++)
            node->dependencies[i]->stamp = UINT32_MAX;
        if (node->work.child)
            mark_followed(node->work.child);
    }
}

static CUresult spread(struct rrto_order *order, const struct edges *edges)
{
    uint32_t *next = order->numbers = malloc((2 * edges->count + 1) * sizeof *next);
    if (!next)
        return CUDA_OUT_OF_MEMORY;
    for (size_t i = 0; i < edges->count; i++) {
        order->atoms[edges->pair[i][0]].count++;
        order->atoms[edges->pair[i][1]].follower_count++;
    }
    for (uint32_t i = 0; i < order->count; i++) {
        struct rrto_atom *atom = &order->atoms[i];
        atom->waits = next;
        atom->followers = next += atom->count;
        next += atom->follower_count;
        atom->missing = atom->count;
        atom->count = atom->follower_count = 0;
    }
    for (size_t i = 0; i < edges->count; i++) {
        struct rrto_atom *to = &order->atoms[edges->pair[i][0]], *from = &order->atoms[edges->pair[i][1]];
        to->waits[to->count++] = edges->pair[i][1];
        from->followers[from->follower_count++] = edges->pair[i][0];
    }
    return CUDA_SUCCESS;
}

/* Alternates between all that the robot and all that the server can do now, each in the order of
 * creation: so there are as few segments as may be. */
static CUresult put_in_order(struct rrto_order *order)
{
    uint32_t *ready[2], first[2] = {0, 0}, last[2] = {0, 0}, done = 0;
    ready[0] = malloc((size_t)order->count * 2 * sizeof **ready + 1);
    order->sorted = malloc(order->count * sizeof *order->sorted + 1);
    order->steps = malloc(((size_t)order->count + 1) * sizeof *order->steps);
    if (!ready[0] || !order->sorted || !order->steps) {
        free(ready[0]);
        return CUDA_OUT_OF_MEMORY;
    }
    ready[1] = ready[0] + order->count;
    for (uint32_t i = 0; i < order->count; i++)
        if (!order->atoms[i].missing) {
            int robot = order->atoms[i].node->work.on_robot;
            ready[robot][last[robot]++] = i;
        }
    for (int robot = 1; first[0] < last[0] || first[1] < last[1]; robot = !robot) {
        if (!robot && first[0] < last[0])
            order->steps[order->step_count++] = done;
        while (first[robot] < last[robot]) {
            uint32_t i = ready[robot][first[robot]++];
            if (robot)
                order->steps[order->step_count++] = done;
            order->sorted[done++] = i;
            for (uint32_t j = 0; j < order->atoms[i].follower_count; j++) {
                uint32_t k = order->atoms[i].followers[j];
                int where = order->atoms[k].node->work.on_robot;
                if (!--order->atoms[k].missing)
                    ready[where][last[where]++] = k;
            }
        }
    }
    order->steps[order->step_count] = done;
    free(ready[0]);
    return done == order->count ? CUDA_SUCCESS : CUDA_INVALID_VALUE; /* a cycle */
}

void rrto_order_free(struct rrto_order *order)
{
    free(order->atoms);
    free(order->numbers);
    free(order->sorted);
    free(order->steps);
}

CUresult rrto_order_of(const struct rrto_graph *graph, struct rrto_order *order)
{
    struct edges edges = {NULL, 0, 0};
    size_t count = rrto_count_nodes(graph);
    *order = (struct rrto_order){0};
    if (count >= 1u << 20 || !(order->atoms = calloc(count + 1, sizeof *order->atoms)))
        return CUDA_OUT_OF_MEMORY;
    number(order, graph);
    mark_followed(graph);
    CUresult result = list_edges(&edges, graph, NULL, 0) ? spread(order, &edges) : CUDA_OUT_OF_MEMORY;
    free(edges.pair);
    return result ? result : put_in_order(order);
}

