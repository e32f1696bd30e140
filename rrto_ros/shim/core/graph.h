/* What the shim keeps of graphs. A graph is a template that lives here alone; the server gets what
 * an executable graph is made of when it is instantiated. */
#ifndef RRTO_GRAPH_H
#define RRTO_GRAPH_H
#include "shim.h"

enum {
    RRTO_KERNEL_NODE = 0,
    RRTO_MEMCPY_NODE = 1,
    RRTO_MEMSET_NODE = 2,
    RRTO_HOST_NODE = 3,
    RRTO_CHILD_NODE = 4,
    RRTO_EMPTY_NODE = 5,
    RRTO_WAIT_NODE = 6,
    RRTO_RECORD_NODE = 7
};

struct rrto_graph;
struct rrto_attributes; /* of a kernel node, as they were set */

/* ---- graph_work.c: what a node does ---- */
struct rrto_work {
    int kind;
    int on_robot; /* something of it lies or runs here: it is no node of the server's graph */
    int unset;    /* a kernel node whose grid or block has a dimension of 0 */
    int cooperative;
    CUDA_KERNEL_NODE_PARAMS kernel; /* points into `arguments` */
    void *arguments, *extra[5];
    size_t argument_bytes, table_bytes;
    struct rrto_attributes *attributes; /* NULL: none was set */
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
    CUDA_HOST_NODE_PARAMS_v2 host;
    CUevent event;
    struct rrto_graph *child; /* its own */
};

/* Each checks what a node shall do and makes its work, which the caller releases or gives to a
 * node. `other`: the kernel where p->func is NULL; `later`: a dimension of 0 may be set later. */
CUresult rrto_work_kernel(const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other, int later,
                          struct rrto_work *out);
CUresult rrto_work_copy(const CUDA_MEMCPY3D *p, struct rrto_work *out);
CUresult rrto_work_fill(const CUDA_MEMSET_NODE_PARAMS *p, struct rrto_work *out);
CUresult rrto_work_host(CUhostFn fn, void *data, unsigned sync_mode, struct rrto_work *out);
CUresult rrto_work_event(int kind, CUevent event, struct rrto_work *out);
CUresult rrto_work_clone(const struct rrto_work *from, int with_handles, struct rrto_work *out);
void rrto_work_release(struct rrto_work *work);
void rrto_work_move(struct rrto_work *to, struct rrto_work *from);
/* Gives `from` to what has work of the same kind. */
void rrto_work_set(struct rrto_work *to, struct rrto_work *from);
int rrto_work_equal(const struct rrto_work *a, const struct rrto_work *b);
const unsigned char *rrto_work_arguments(const struct rrto_work *work);
/* What an executable graph's node may not change. Of an update's results; 0: it may be so. */
int rrto_work_fits(const struct rrto_work *now, const struct rrto_work *wanted);

/* ---- graph.c: graphs, their nodes and edges ---- */
struct rrto_node {
    struct rrto_graph *graph;
    struct rrto_object *object; /* its handle; NULL in an executable graph */
    struct rrto_node *before, *next;
    struct rrto_node **dependencies;
    size_t count, room;
    struct rrto_work work;
    CUgraphNode origin; /* that it was cloned from */
    uint32_t stamp, id;
    int captured;             /* by an operation of a stream; must be joined */
    int disabled;             /* in an executable graph */
    struct rrto_node *pair;   /* while an update looks at it */
    uint32_t at;              /* while an executable graph is put together: which of its nodes */
    uint32_t segment, first, pieces; /* on the server: which segment, its names there */
};

struct rrto_graph {
    struct rrto_object *object; /* its handle; NULL in an executable graph */
    struct rrto_node *first, *last;
    struct rrto_node *parent; /* whose child graph it is */
    size_t count;
    uint32_t next_id, id;
    int capturing;
    struct rrto_use *uses; /* of user objects */
};

CUresult rrto_graph_of(CUgraph handle, struct rrto_graph **out);
CUresult rrto_node_of(CUgraphNode handle, struct rrto_node **out);
CUresult rrto_node_of_kind(CUgraphNode handle, int kind, struct rrto_node **out);
struct rrto_graph *rrto_graph_new(int with_handle);
void rrto_graph_free(struct rrto_graph *graph);
CUresult rrto_graph_clone(const struct rrto_graph *from, int with_handles,
                          struct rrto_graph **out);
/* Adds a node that does `work`, which is the graph's from here, or released. */
CUresult rrto_graph_add(struct rrto_graph *graph, const CUgraphNode *dependencies, size_t count,
                        struct rrto_work *work, struct rrto_node **out);
CUresult rrto_no_edge_data(const CUgraphEdgeData *data, size_t count);

/* ---- graph_exec.c: executable graphs ---- */
struct rrto_step {
    struct rrto_object *segment; /* a graph of the server, or */
    struct rrto_node *node;      /* what the shim does itself */
};

struct rrto_exec {
    struct rrto_graph *graph; /* what it was instantiated from, and as it was changed since */
    struct rrto_step *steps;
    size_t count;
    struct rrto_place *map; /* node of the graph that it was made from -> its own */
    size_t map_size;
    int stale; /* its segments are made anew before the next launch */
};

struct rrto_node *rrto_exec_node(const struct rrto_exec *exec, CUgraphNode origin);
/* Changes what a node does from the next launch on; the work is the node's, or released. */
CUresult rrto_exec_set(struct rrto_exec *exec, struct rrto_node *node, struct rrto_work *work);

/* ---- graph_order.c ---- */
/* A child graph's node stands for its end: it waits for the child's leaves. */
struct rrto_atom {
    struct rrto_node *node;
    uint32_t *waits;
    uint32_t count, missing;
    uint32_t *followers;
    uint32_t follower_count;
};

struct rrto_order {
    struct rrto_atom *atoms;
    uint32_t count, *numbers; /* of all waits and followers */
    uint32_t *sorted, *steps;  /* atoms; where in the order each step begins */
    uint32_t step_count;
};

size_t rrto_count_nodes(const struct rrto_graph *graph);
CUresult rrto_order_of(const struct rrto_graph *graph, struct rrto_order *order);
void rrto_order_free(struct rrto_order *order);

/* ---- graph_segments.c ---- */
/* Makes the steps of an executable graph, and the server's graphs. */
CUresult rrto_segments_write(struct rrto_exec *exec);
CUresult rrto_segments_destroy(struct rrto_exec *exec);
/* To the server, which has the node in a segment: it does something else now. */
CUresult rrto_segments_send(struct rrto_exec *exec, const struct rrto_node *node);

#define RRTO_FILL_LAUNCH(op, work, kernel_)                                                             \
    do {                                                                                           \
        const CUDA_KERNEL_NODE_PARAMS *p_ = &(work)->kernel;                                       \
        (op).module = (kernel_)->module;                                                           \
        (op).kernel = (kernel_)->index;                                                            \
        (op).grid_x = p_->gridDimX, (op).grid_y = p_->gridDimY, (op).grid_z = p_->gridDimZ;        \
        (op).block_x = p_->blockDimX, (op).block_y = p_->blockDimY, (op).block_z = p_->blockDimZ;  \
        (op).shared_bytes = p_->sharedMemBytes;                                                    \
        (op).params_length = (kernel_)->param_bytes;                                               \
    } while (0)

/* NULL: it is there no more. */
static inline struct rrto_kernel *rrto_work_kernel_of(const struct rrto_work *work)
{
    struct rrto_kernel *kernel = rrto_kernel_of(work->kernel.func ? (const void *)work->kernel.func
                                                                 : (const void *)work->kernel.kern);
    return kernel && kernel->param_bytes == work->argument_bytes ? kernel : NULL;
}

/* ---- graph_attributes.c ---- */
CUresult rrto_attributes_set(struct rrto_work *work, int id, const CUlaunchAttributeValue *value);
struct rrto_attributes *rrto_attributes_clone(const struct rrto_attributes *from);

/* ---- user_objects.c ---- */
CUresult rrto_uses_clone(const struct rrto_graph *from, struct rrto_graph *to);
void rrto_uses_drop(struct rrto_graph *graph);

#endif
