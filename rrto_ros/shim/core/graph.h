/* What the shim keeps of a graph's nodes, as graph.c makes them and graph_nodes.c shows them. */
#ifndef RRTO_GRAPH_H
#define RRTO_GRAPH_H
#include "shim.h"

enum { RRTO_KERNEL_NODE = 0, RRTO_MEMCPY_NODE = 1, RRTO_MEMSET_NODE = 2, RRTO_EMPTY_NODE = 5 };

struct rrto_node {
    CUgraphNode *dependencies;
    size_t count;
    int unset; /* a kernel node whose grid or block has a dimension of 0 */
    CUDA_KERNEL_NODE_PARAMS kernel; /* points into `arguments` */
    void *arguments, *extra[5];
    size_t extra_bytes;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
};

/* A node's record, with its dependencies; NULL: out of memory. */
struct rrto_node *rrto_node_new(const CUgraphNode *dependencies, size_t count);
void rrto_node_free(struct rrto_node *node);
/* Keeps what a kernel node does, for who asks. `other`: the kernel where p->func is NULL. */
CUresult rrto_node_keep(struct rrto_node *node, const CUDA_KERNEL_NODE_PARAMS_v1 *p,
                        const void *other, const struct rrto_kernel *kernel,
                        const unsigned char *packed);

#endif
