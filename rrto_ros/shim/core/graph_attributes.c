/* Attributes of kernel nodes: they read back as they were set. One says what the server does (a
 * cooperative launch); the others advise. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

enum { COOPERATE = 2, ATTRIBUTES = 17 };

struct rrto_attributes {
    CUlaunchAttributeValue value[ATTRIBUTES];
};

struct rrto_attributes *rrto_attributes_clone(const struct rrto_attributes *from)
{
    struct rrto_attributes *made = calloc(1, sizeof *made);
    if (made && from)
        *made = *from;
    return made;
}

CUresult rrto_cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                            CUkernelNodeAttrValue *value_out)
{
    struct rrto_node *node;
    if (!value_out || attr < 0 || attr >= ATTRIBUTES)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_node_of_kind(hNode, RRTO_KERNEL_NODE, &node);
    if (result)
        return result;
    memset(value_out, 0, sizeof *value_out);
    if (node->work.attributes)
        *value_out = node->work.attributes->value[attr];
    if (attr == COOPERATE)
        value_out->number = node->work.cooperative;
    return CUDA_SUCCESS;
}

CUresult rrto_attributes_set(struct rrto_work *work, int id, const CUlaunchAttributeValue *value)
{
    if (id < 0 || id >= ATTRIBUTES)
        return CUDA_INVALID_VALUE;
    if (!work->attributes && !(work->attributes = rrto_attributes_clone(NULL)))
        return CUDA_OUT_OF_MEMORY;
    work->attributes->value[id] = *value;
    return CUDA_SUCCESS;
}

/* A cooperative kernel is launched by the shim: nodes of the server's graphs are none. */
static void cooperate(struct rrto_work *work, int cooperative)
{
    work->cooperative = work->on_robot = cooperative;
}

CUresult rrto_cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                            const CUkernelNodeAttrValue *value)
{
    struct rrto_node *node;
    uint32_t flags = 0;
    if (!value || attr < 0 || attr >= ATTRIBUTES)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_node_of_kind(hNode, RRTO_KERNEL_NODE, &node);
    if (!result)
        result = rrto_check_launch_attribute("cuGraphKernelNodeSetAttribute", attr, value, &flags);
    if (!result)
        result = rrto_attributes_set(&node->work, attr, value);
    if (!result && attr == COOPERATE)
        cooperate(&node->work, flags & RRTO_COOPERATIVE);
    return result;
}

CUresult rrto_cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    struct rrto_node *to, *from;
    CUresult result = rrto_node_of_kind(dst, RRTO_KERNEL_NODE, &to);
    if (!result)
        result = rrto_node_of_kind(src, RRTO_KERNEL_NODE, &from);
    if (result || to == from)
        return result;
    struct rrto_attributes *made = rrto_attributes_clone(from->work.attributes);
    if (!made)
        return CUDA_OUT_OF_MEMORY;
    free(to->work.attributes);
    to->work.attributes = made;
    cooperate(&to->work, from->work.cooperative);
    return CUDA_SUCCESS;
}
