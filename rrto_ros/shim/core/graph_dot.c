/* A graph as a picture: its nodes and edges in the language of Graphviz. */
#include <stdio.h>

#include "graph.h"

enum {
    VERBOSE = 1 << 0,
    KERNELS = 1 << 2,
    COPIES = 1 << 3,
    FILLS = 1 << 4,
    HOSTS = 1 << 5,
    EVENTS = 1 << 6,
    HANDLES = 1 << 10,
    KNOWN = (1 << 18) - 1
};

static const char *const kinds[] = {"KERNEL",      "MEMCPY", "MEMSET",     "HOST",
                                    "CHILD_GRAPH", "EMPTY",  "WAIT_EVENT", "EVENT_RECORD"};

/* Names of kernels and files may hold what ends a string. */
static void quote(FILE *file, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', file);
        fputc(*text, file);
    }
}

static char side(int type)
{
    return type == RRTO_MEMORY_HOST ? 'H' : type == RRTO_MEMORY_DEVICE ? 'D' : 'U';
}

static void describe(FILE *file, const struct rrto_node *node, unsigned flags)
{
    const struct rrto_work *work = &node->work;
    const CUDA_KERNEL_NODE_PARAMS *k = &work->kernel;
    const CUDA_MEMCPY3D *c = &work->copy;
    const CUDA_MEMSET_NODE_PARAMS *f = &work->fill;
    const struct rrto_kernel *kernel;
    fprintf(file, "\\n%s", kinds[work->kind]);
    switch (work->kind) {
    case RRTO_KERNEL_NODE:
        kernel = rrto_work_kernel_of(work);
        fputs("\\n", file);
        quote(file, kernel && kernel->name ? kernel->name : "?");
        if (flags & KERNELS)
            fprintf(file, "\\ngrid (%u, %u, %u) block (%u, %u, %u) shared %u", k->gridDimX,
                    k->gridDimY, k->gridDimZ, k->blockDimX, k->blockDimY, k->blockDimZ,
                    k->sharedMemBytes);
        if (flags & HANDLES)
            fprintf(file, "\\nfunction %p", k->func ? (void *)k->func : (void *)k->kern);
        break;
    case RRTO_MEMCPY_NODE:
        fprintf(file, "\\n%cto%c", side(c->srcMemoryType), side(c->dstMemoryType));
        if (flags & COPIES)
            fprintf(file, "\\n%zu x %zu x %zu bytes", c->WidthInBytes, c->Height, c->Depth);
        break;
    case RRTO_MEMSET_NODE:
        if (flags & FILLS)
            fprintf(file, "\\n%#llx value %#x\\n%zu x %zu of %u bytes, pitch %zu",
                    (unsigned long long)f->dst, f->value, f->width, f->height, f->elementSize,
                    f->pitch);
        break;
    case RRTO_HOST_NODE:
        if (flags & HOSTS)
            fprintf(file, "\\nfunction %#zx data %p", (size_t)(uintptr_t)work->host.fn,
                    work->host.userData);
        break;
    case RRTO_WAIT_NODE:
    case RRTO_RECORD_NODE:
        if (flags & EVENTS)
            fprintf(file, "\\nevent %p", (void *)work->event);
        break;
    default:
        break;
    }
    if (flags & HANDLES)
        fprintf(file, "\\nhandle %p", node->object->handle);
}

static void draw(FILE *file, const struct rrto_graph *graph, unsigned flags)
{
    fprintf(file, "subgraph cluster_%u {\nlabel=\"graph_%u\" graph[style=\"dashed\"];\n", graph->id,
            graph->id);
    for (const struct rrto_node *node = graph->first; node; node = node->next) {
        fprintf(file, "\"graph_%u_node_%u\"[shape=\"rectangle\" label=\"%u", graph->id, node->id,
                node->id);
        describe(file, node, flags);
        fputs("\"];\n", file);
        if (node->work.child)
            draw(file, node->work.child, flags);
    }
    for (const struct rrto_node *node = graph->first; node; node = node->next)
        for (size_t i = 0; i < node->count; i++)
            fprintf(file, "\"graph_%u_node_%u\" -> \"graph_%u_node_%u\";\n", graph->id,
                    node->dependencies[i]->id, graph->id, node->id);
    fputs("}\n", file);
}

CUresult rrto_cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags)
{
    struct rrto_graph *graph;
    CUresult result = path && !(flags & ~(unsigned)KNOWN) ? rrto_graph_of(hGraph, &graph)
                                                         : CUDA_INVALID_VALUE;
    if (result)
        return result;
    FILE *file = fopen(path, "we");
    if (!file)
        return CUDA_OPERATING_SYSTEM;
    fputs("digraph dot {\n", file);
    draw(file, graph, flags & VERBOSE ? KNOWN : flags);
    fputs("}\n", file);
    int bad = ferror(file);
    return fclose(file) || bad ? CUDA_OPERATING_SYSTEM : CUDA_SUCCESS;
}
