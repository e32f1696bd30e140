/* Graphs built node by node. The shim keeps the order of nodes and their kinds; the work itself is
 * the server's. An executable graph knows its graph, so that a node of another one is refused.
 *
 * Over 400 lines: a node is read and checked by the same functions where it is added, changed and
 * set in an executable graph. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

enum {
    KERNEL = RRTO_KERNEL_NODE,
    MEMCPY = RRTO_MEMCPY_NODE,
    MEMSET = RRTO_MEMSET_NODE,
    EMPTY = RRTO_EMPTY_NODE,
    SMALL = 4096
};

static void drop_node(struct rrto_object *object)
{
    struct rrto_node *kept = object->data;
    rrto_drop(RRTO_NODE, object);
    rrto_node_free(kept);
}

CUresult rrto_name_graph_exec(CUgraphExec exec, uint64_t *name)
{
    struct rrto_object *object = rrto_find(RRTO_EXEC, exec);
    if (!object)
        return CUDA_INVALID_HANDLE;
    *name = object->name;
    return CUDA_SUCCESS;
}

CUresult rrto_cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    if (!phGraph || flags)
        return CUDA_INVALID_VALUE;
    struct rrto_object *object = rrto_new(RRTO_GRAPH);
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    struct rrto_op_graph_create op = {object->name};
    CUresult result = rrto_emit_graph_create(&op, NULL);
    if (result)
        rrto_drop(RRTO_GRAPH, object);
    else
        *phGraph = object->handle;
    return result;
}

CUresult rrto_cuGraphDestroy(CUgraph hGraph)
{
    struct rrto_object *object = rrto_find(RRTO_GRAPH, hGraph), *node;
    uint32_t slot = 0;
    if (!object)
        return hGraph ? CUDA_INVALID_HANDLE : CUDA_INVALID_VALUE;
    struct rrto_op_graph_destroy op = {object->name};
    CUresult result = rrto_emit_graph_destroy(&op, NULL);
    while ((node = rrto_next(RRTO_NODE, &slot)))
        if (node->owner == hGraph)
            drop_node(node);
    rrto_drop(RRTO_GRAPH, object);
    return result;
}

/* ---- adding nodes ---- */

struct adding {
    struct rrto_object *graph, *node;
    uint64_t *names; /* of the dependencies */
};

static void stop(struct adding *adding)
{
    if (adding->node)
        drop_node(adding->node);
    free(adding->names);
}

static CUresult start(struct adding *adding, CUgraphNode *out, CUgraph graph,
                      const CUgraphNode *dependencies, size_t count, int kind)
{
    *adding = (struct adding){rrto_find(RRTO_GRAPH, graph), NULL, NULL};
    if (!out || !graph || (count && !dependencies) || count > 65536)
        return CUDA_INVALID_VALUE;
    if (!adding->graph)
        return CUDA_INVALID_HANDLE;
    adding->names = malloc(count * 8 + 1);
    adding->node = adding->names ? rrto_new(RRTO_NODE) : NULL;
    if (!adding->node || !(adding->node->data = rrto_node_new(dependencies, count))) {
        stop(adding);
        return CUDA_OUT_OF_MEMORY;
    }
    static _Atomic uint32_t last;
    uint32_t stamp = atomic_fetch_add(&last, 1) + 1;
    for (size_t i = 0; i < count; i++) {
        struct rrto_object *other = rrto_find(RRTO_NODE, dependencies[i]);
        int twice = other && other->flags == stamp;
        if (other)
            other->flags = stamp;
        if (!other || twice || other->owner != (void *)graph) {
            stop(adding);
            return CUDA_INVALID_VALUE;
        }
        adding->names[i] = other->name;
    }
    adding->node->owner = graph;
    adding->node->number = kind;
    return CUDA_SUCCESS;
}

static CUresult finish(struct adding *adding, CUresult result, CUgraphNode *out)
{
    if (!result) {
        *out = adding->node->handle;
        adding->node = NULL;
    }
    stop(adding);
    return result;
}

struct kernel_work {
    struct rrto_kernel *kernel;
    CUDA_KERNEL_NODE_PARAMS_v1 sent; /* what the server gets */
    int unset;
    unsigned char small[SMALL], *packed;
};

/* Checks what a kernel node shall do and packs its arguments. A node of a graph may still have a
 * dimension of 0 (`later`): nothing runs before the graph is instantiated, so this is where CUDA
 * needs it; the server gets a block of one thread until then. */
static CUresult prepare(const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other, int later,
                        struct kernel_work *work)
{
    work->packed = work->small;
    if (!p)
        return CUDA_INVALID_VALUE;
    CUresult there = rrto_use(p->func ? (const void *)p->func : other, &work->kernel);
    if (there)
        return there;
    unsigned *sizes[6] = {&work->sent.gridDimX,  &work->sent.gridDimY,  &work->sent.gridDimZ,
                          &work->sent.blockDimX, &work->sent.blockDimY, &work->sent.blockDimZ};
    work->sent = *p;
    work->unset = 0;
    for (int i = 0; later && i < 6; i++)
        if (!*sizes[i])
            *sizes[i] = 1, work->unset = 1;
    struct rrto_geometry at = {{work->sent.gridDimX, work->sent.gridDimY, work->sent.gridDimZ},
                               {work->sent.blockDimX, work->sent.blockDimY, work->sent.blockDimZ},
                               p->sharedMemBytes};
    CUresult result = rrto_check_launch(work->kernel, &at);
    return result ? result
                  : rrto_pack(work->kernel, p->kernelParams, p->extra, work->small,
                              sizeof work->small, &work->packed);
}

static void release(struct kernel_work *work)
{
    if (work->packed != work->small)
        free(work->packed);
}

#define FILL_LAUNCH(op, work)                                                                      \
    do {                                                                                           \
        const CUDA_KERNEL_NODE_PARAMS_v1 *p_ = &(work).sent;                                       \
        (op).module = (work).kernel->module;                                                       \
        (op).kernel = (work).kernel->index;                                                        \
        (op).grid_x = p_->gridDimX, (op).grid_y = p_->gridDimY, (op).grid_z = p_->gridDimZ;        \
        (op).block_x = p_->blockDimX, (op).block_y = p_->blockDimY, (op).block_z = p_->blockDimZ;  \
        (op).shared_bytes = p_->sharedMemBytes;                                                    \
        (op).params_length = (work).kernel->param_bytes;                                           \
    } while (0)

/* What is kept of a kernel node, for who asks. */
static CUresult keep(struct rrto_object *node, const CUDA_KERNEL_NODE_PARAMS_v1 *p,
                     const void *other, const struct kernel_work *work)
{
    struct rrto_node *kept = node->data;
    CUresult result = rrto_node_keep(kept, p, other, work->kernel, work->packed);
    if (!result)
        kept->unset = work->unset;
    return result;
}

static CUresult add_kernel(CUgraphNode *out, CUgraph graph, const CUgraphNode *dependencies,
                           size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other)
{
    struct adding adding;
    struct kernel_work work;
    CUresult result = prepare(p, other, 1, &work);
    if (!result)
        result = start(&adding, out, graph, dependencies, count, KERNEL);
    if (!result) {
        struct rrto_op_graph_add_kernel_node op = {0};
        op.graph = adding.graph->name;
        op.node = adding.node->name;
        op.dependencies_length = (uint32_t)count;
        FILL_LAUNCH(op, work);
        result = keep(adding.node, p, other, &work);
        if (!result)
            result = rrto_emit_graph_add_kernel_node(&op, adding.names, work.packed, NULL);
        result = finish(&adding, result, out);
    }
    release(&work);
    return result;
}

CUresult rrto_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    return add_kernel(phGraphNode, hGraph, dependencies, numDependencies, nodeParams, NULL);
}

/* The second version only has more members after those of the first. */
static const CUDA_KERNEL_NODE_PARAMS_v1 *first_version(const CUDA_KERNEL_NODE_PARAMS *p)
{
    _Static_assert(offsetof(CUDA_KERNEL_NODE_PARAMS, kern) == sizeof(CUDA_KERNEL_NODE_PARAMS_v1),
                   "layout of kernel node parameters");
    return (const CUDA_KERNEL_NODE_PARAMS_v1 *)(const void *)p;
}

CUresult rrto_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                      const CUgraphNode *dependencies, size_t numDependencies,
                                      const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return add_kernel(phGraphNode, hGraph, dependencies, numDependencies,
                      first_version(nodeParams), nodeParams ? nodeParams->kern : NULL);
}

struct straight {
    uint64_t dst, src, bytes;
};

/* A copy node is one piece, from device to device. */
static CUresult read_copy(const CUDA_MEMCPY3D *c, struct straight *out)
{
    if (!c)
        return CUDA_INVALID_VALUE;
    int from = c->srcMemoryType, to = c->dstMemoryType;
    if ((from != RRTO_MEMORY_DEVICE && from != RRTO_MEMORY_UNIFIED) ||
        (to != RRTO_MEMORY_DEVICE && to != RRTO_MEMORY_UNIFIED) || c->Height > 1 || c->Depth > 1)
        return rrto_refuse(CUDA_NOT_SUPPORTED,
                           "copy node of a graph: other than one row from device to device");
    if (!c->WidthInBytes || c->srcY || c->srcZ || c->dstY || c->dstZ)
        return CUDA_INVALID_VALUE;
    *out = (struct straight){c->dstDevice + c->dstXInBytes, c->srcDevice + c->srcXInBytes,
                             c->WidthInBytes};
    CUresult result = rrto_range_check(out->dst, out->bytes);
    return result ? result : rrto_range_check(out->src, out->bytes);
}

CUresult rrto_cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct adding adding;
    struct straight copy;
    (void)ctx;
    CUresult result = read_copy(copyParams, &copy);
    if (!result)
        result = start(&adding, phGraphNode, hGraph, dependencies, numDependencies, MEMCPY);
    if (result)
        return result;
    ((struct rrto_node *)adding.node->data)->copy = *copyParams;
    struct rrto_op_graph_add_memcpy_node op = {adding.graph->name, adding.node->name, copy.dst,
                                               copy.src, copy.bytes, (uint32_t)numDependencies};
    return finish(&adding, rrto_emit_graph_add_memcpy_node(&op, adding.names, NULL), phGraphNode);
}

static CUresult check_fill(const CUDA_MEMSET_NODE_PARAMS *p)
{
    if (!p || (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4))
        return CUDA_INVALID_VALUE;
    return rrto_check_fill(p->dst, p->pitch, p->elementSize, p->width, p->height);
}

CUresult rrto_cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    struct adding adding;
    (void)ctx;
    CUresult result = check_fill(memsetParams);
    if (!result)
        result = start(&adding, phGraphNode, hGraph, dependencies, numDependencies, MEMSET);
    if (result)
        return result;
    const CUDA_MEMSET_NODE_PARAMS *p = memsetParams;
    ((struct rrto_node *)adding.node->data)->fill = *p;
    struct rrto_op_graph_add_memset_node op = {
        adding.graph->name, adding.node->name, p->dst,         p->pitch,
        p->width,           p->height,         p->value,       p->elementSize,
        (uint32_t)numDependencies};
    return finish(&adding, rrto_emit_graph_add_memset_node(&op, adding.names, NULL), phGraphNode);
}

CUresult rrto_cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies)
{
    struct adding adding;
    CUresult result = start(&adding, phGraphNode, hGraph, dependencies, numDependencies, EMPTY);
    if (result)
        return result;
    struct rrto_op_graph_add_empty_node op = {adding.graph->name, adding.node->name,
                                              (uint32_t)numDependencies};
    return finish(&adding, rrto_emit_graph_add_empty_node(&op, adding.names, NULL), phGraphNode);
}

/* ---- changing nodes ---- */

static CUresult node_of(CUgraphNode handle, int kind, struct rrto_object **out)
{
    *out = rrto_find(RRTO_NODE, handle);
    if (!*out)
        return CUDA_INVALID_HANDLE;
    return (*out)->number == kind ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

static CUresult set_kernel(CUgraphNode handle, const CUDA_KERNEL_NODE_PARAMS_v1 *p,
                           const void *other)
{
    struct rrto_object *node, *graph;
    struct kernel_work work;
    CUresult result = node_of(handle, KERNEL, &node);
    if (result)
        return result;
    graph = rrto_find(RRTO_GRAPH, node->owner);
    result = graph ? prepare(p, other, 1, &work) : CUDA_INVALID_HANDLE;
    if (!graph)
        return result;
    if (!result) {
        struct rrto_op_graph_kernel_node_set op = {0};
        op.graph = graph->name;
        op.node = node->name;
        FILL_LAUNCH(op, work);
        result = keep(node, p, other, &work);
        if (!result)
            result = rrto_emit_graph_kernel_node_set(&op, work.packed, NULL);
    }
    release(&work);
    return result;
}

CUresult rrto_cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                         const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    return set_kernel(hNode, nodeParams, NULL);
}

CUresult rrto_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                            const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return set_kernel(hNode, first_version(nodeParams), nodeParams ? nodeParams->kern : NULL);
}

/* ---- executable graphs ---- */

CUresult rrto_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                          unsigned long long flags)
{
    enum { AUTO_FREE = 1, UPLOAD = 2, USE_NODE_PRIORITY = 8 }; /* 4: launch from the device */
    struct rrto_object *graph = rrto_find(RRTO_GRAPH, hGraph);
    if (!phGraphExec)
        return CUDA_INVALID_VALUE;
    if (!graph)
        return CUDA_INVALID_HANDLE;
    if (flags & ~(unsigned long long)(AUTO_FREE | UPLOAD | USE_NODE_PRIORITY))
        return flags & ~15ull ? CUDA_INVALID_VALUE
                              : rrto_refuse(CUDA_NOT_SUPPORTED,
                                            "cuGraphInstantiate: launch from the device (flag 4)");
    struct rrto_object *node;
    for (uint32_t slot = 0; (node = rrto_next(RRTO_NODE, &slot));)
        if (node->owner == (void *)hGraph && ((struct rrto_node *)node->data)->unset)
            return CUDA_INVALID_VALUE; /* a kernel node without blocks or threads */
    struct rrto_object *exec = rrto_new(RRTO_EXEC);
    if (!exec)
        return CUDA_OUT_OF_MEMORY;
    exec->owner = hGraph;
    exec->flags = (uint32_t)flags;
    struct rrto_op_graph_instantiate op = {exec->name, graph->name};
    CUresult result = rrto_emit_graph_instantiate(&op, NULL);
    if (result)
        rrto_drop(RRTO_EXEC, exec);
    else
        *phGraphExec = exec->handle;
    return result;
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
    struct rrto_object *exec = rrto_find(RRTO_EXEC, hGraphExec);
    if (!exec)
        return CUDA_INVALID_HANDLE;
    struct rrto_op_graph_exec_destroy op = {exec->name};
    CUresult result = rrto_emit_graph_exec_destroy(&op, NULL);
    rrto_drop(RRTO_EXEC, exec);
    return result;
}

static CUresult member(CUgraphExec hGraphExec, CUgraphNode hNode, int kind, uint64_t *exec_name,
                       uint64_t *node_name)
{
    struct rrto_object *exec = rrto_find(RRTO_EXEC, hGraphExec), *node;
    if (!exec)
        return CUDA_INVALID_HANDLE;
    CUresult result = node_of(hNode, kind, &node);
    if (result)
        return result;
    if (node->owner != exec->owner)
        return CUDA_INVALID_VALUE;
    *exec_name = exec->name;
    *node_name = node->name;
    return CUDA_SUCCESS;
}

static CUresult set_exec_kernel(CUgraphExec exec, CUgraphNode node,
                                const CUDA_KERNEL_NODE_PARAMS_v1 *p, const void *other)
{
    struct kernel_work work;
    struct rrto_op_graph_exec_kernel_node_set op = {0};
    CUresult result = member(exec, node, KERNEL, &op.graph_exec, &op.node);
    if (result)
        return result;
    result = prepare(p, other, 0, &work);
    if (!result) {
        FILL_LAUNCH(op, work);
        result = rrto_emit_graph_exec_kernel_node_set(&op, work.packed, NULL);
    }
    release(&work);
    return result;
}

CUresult rrto_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    return set_exec_kernel(hGraphExec, hNode, nodeParams, NULL);
}

CUresult rrto_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    return set_exec_kernel(hGraphExec, hNode, first_version(nodeParams),
                           nodeParams ? nodeParams->kern : NULL);
}

CUresult rrto_cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct straight copy;
    struct rrto_op_graph_exec_memcpy_node_set op = {0};
    (void)ctx;
    CUresult result = member(hGraphExec, hNode, MEMCPY, &op.graph_exec, &op.node);
    if (!result)
        result = read_copy(copyParams, &copy);
    if (result)
        return result;
    op.dst = copy.dst;
    op.src = copy.src;
    op.size = copy.bytes;
    return rrto_emit_graph_exec_memcpy_node_set(&op, NULL);
}

CUresult rrto_cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                             const CUDA_MEMSET_NODE_PARAMS *memsetParams,
                                             CUcontext ctx)
{
    const CUDA_MEMSET_NODE_PARAMS *p = memsetParams;
    struct rrto_op_graph_exec_memset_node_set op = {0};
    (void)ctx;
    CUresult result = member(hGraphExec, hNode, MEMSET, &op.graph_exec, &op.node);
    if (!result)
        result = check_fill(p);
    if (result)
        return result;
    op.dst = p->dst, op.pitch = p->pitch, op.width = p->width, op.height = p->height;
    op.value = p->value, op.element_bytes = p->elementSize;
    return rrto_emit_graph_exec_memset_node_set(&op, NULL);
}

CUresult rrto_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    uint64_t name;
    CUresult result = rrto_name_stream(hStream, &name);
    return result ? result : rrto_name_graph_exec(hGraph, &name); /* the server has it already */
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
