/* The part of an executable graph that is the server's: segments, each a graph there. */
#include "graph.h"

#include <stdlib.h>

/* A copy inside the device is one piece if its rows touch, else a piece for each row. */
struct rows {
    uint64_t to, from, bytes;
    size_t to_pitch, from_pitch, to_plane, from_plane;
    uint32_t height, count;
};

static void rows_of(const CUDA_MEMCPY3D *c, struct rows *out)
{
    size_t width = c->WidthInBytes, height = c->Height, depth = c->Depth;
    *out = (struct rows){.bytes = width, .height = (uint32_t)height};
    out->to_pitch = c->dstPitch ? c->dstPitch : width;
    out->from_pitch = c->srcPitch ? c->srcPitch : width;
    out->to_plane = out->to_pitch * (c->dstHeight ? c->dstHeight : height);
    out->from_plane = out->from_pitch * (c->srcHeight ? c->srcHeight : height);
    out->to = c->dstDevice + c->dstZ * out->to_plane + c->dstY * out->to_pitch + c->dstXInBytes;
    out->from =
        c->srcDevice + c->srcZ * out->from_plane + c->srcY * out->from_pitch + c->srcXInBytes;
    int touch = height == 1 || (out->to_pitch == width && out->from_pitch == width);
    int planes = depth == 1 || (out->to_plane == width * height && out->from_plane == width * height);
    if (touch) {
        out->bytes = width * height * (planes ? depth : 1);
        out->height = 1;
    }
    out->count = (uint32_t)((touch ? 1 : height) * (touch && planes ? 1 : depth));
}

static struct straight {
    uint64_t dst, src;
} row_of(const struct rows *rows, uint32_t i)
{
    uint64_t z = i / rows->height, y = i % rows->height;
    return (struct straight){rows->to + z * rows->to_plane + y * rows->to_pitch,
                             rows->from + z * rows->from_plane + y * rows->from_pitch};
}

struct writing {
    const struct rrto_order *order;
    uint64_t graph;
    uint32_t segment, next; /* name of the next node */
    uint64_t *waits;
};

static uint32_t list_waits(struct writing *w, const struct rrto_atom *atom)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < atom->count; i++) {
        const struct rrto_node *other = w->order->atoms[atom->waits[i]].node;
        if (other->segment == w->segment)
            w->waits[count++] = other->first + other->pieces - 1;
    }
    return count;
}

static CUresult write_empty(struct writing *w, uint32_t count)
{
    struct rrto_op_graph_add_empty_node op = {w->graph, w->next++, count};
    return rrto_emit_graph_add_empty_node(&op, w->waits, NULL);
}

static CUresult write_copy(struct writing *w, struct rrto_node *node, uint32_t count)
{
    struct rows rows;
    CUresult result = CUDA_SUCCESS;
    rows_of(&node->work.copy, &rows);
    for (uint32_t i = 0; i < rows.count && !result; i++) {
        struct straight at = row_of(&rows, i);
        struct rrto_op_graph_add_memcpy_node op = {w->graph, w->next++,  at.dst,
                                                   at.src,   rows.bytes, count};
        result = rrto_emit_graph_add_memcpy_node(&op, w->waits, NULL);
    }
    node->pieces = rows.count;
    if (rows.count == 1 || result)
        return result;
    uint64_t *all = malloc(rows.count * sizeof *all), *waits = w->waits;
    if (!all)
        return CUDA_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < rows.count; i++)
        all[i] = node->first + i;
    w->waits = all;
    result = write_empty(w, rows.count); /* whoever waits for the copy waits for this */
    w->waits = waits;
    free(all);
    node->pieces++;
    return result;
}

static CUresult write_node(struct writing *w, const struct rrto_atom *atom)
{
    struct rrto_node *node = atom->node;
    const struct rrto_work *work = &node->work;
    uint32_t count = list_waits(w, atom);
    node->segment = w->segment;
    node->first = w->next;
    node->pieces = 1;
    if (node->disabled)
        return write_empty(w, count);
    if (work->kind == RRTO_KERNEL_NODE) {
        struct rrto_op_graph_add_kernel_node op = {.graph = w->graph, .node = w->next++};
        const struct rrto_kernel *kernel = rrto_work_kernel_of(work);
        if (!kernel)
            return CUDA_INVALID_HANDLE;
        op.dependencies_length = count;
        RRTO_FILL_LAUNCH(op, work, kernel);
        return rrto_emit_graph_add_kernel_node(&op, w->waits, rrto_work_arguments(work), NULL);
    }
    if (work->kind == RRTO_MEMCPY_NODE)
        return write_copy(w, node, count);
    if (work->kind == RRTO_MEMSET_NODE) {
        const CUDA_MEMSET_NODE_PARAMS *p = &work->fill;
        struct rrto_op_graph_add_memset_node op = {
            w->graph, w->next++, p->dst, p->pitch, p->width, p->height, p->value, p->elementSize,
            count};
        return rrto_emit_graph_add_memset_node(&op, w->waits, NULL);
    }
    return write_empty(w, count);
}

static int does_nothing(const struct rrto_order *order, uint32_t from, uint32_t to)
{
    for (; from < to; from++) {
        const struct rrto_node *node = order->atoms[order->sorted[from]].node;
        if (!node->disabled && node->work.kind != RRTO_EMPTY_NODE &&
            node->work.kind != RRTO_CHILD_NODE)
            return 0;
    }
    return 1;
}

static CUresult write_segment(struct rrto_exec *exec, struct writing *w, uint32_t from, uint32_t to)
{
    struct rrto_object *segment = rrto_new(RRTO_SEGMENT);
    if (!segment)
        return CUDA_OUT_OF_MEMORY;
    w->graph = segment->name;
    w->segment++;
    w->next = 1;
    struct rrto_op_graph_create create = {segment->name};
    struct rrto_op_graph_instantiate make = {segment->name, segment->name};
    struct rrto_op_graph_destroy destroy = {segment->name};
    CUresult result = rrto_emit_graph_create(&create, NULL);
    if (!result) {
        for (; from < to && !result; from++)
            result = write_node(w, &w->order->atoms[w->order->sorted[from]]);
        if (!result)
            result = rrto_emit_graph_instantiate(&make, NULL);
        CUresult dropped = rrto_emit_graph_destroy(&destroy, NULL);
        if (!result)
            result = dropped;
    }
    if (result)
        rrto_drop(RRTO_SEGMENT, segment);
    else
        exec->steps[exec->count++].segment = segment;
    return result;
}

CUresult rrto_segments_destroy(struct rrto_exec *exec)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = exec->count; i-- > 0;)
        if (exec->steps[i].segment) {
            struct rrto_op_graph_exec_destroy op = {exec->steps[i].segment->name};
            CUresult dropped = rrto_emit_graph_exec_destroy(&op, NULL);
            rrto_drop(RRTO_SEGMENT, exec->steps[i].segment);
            if (!result)
                result = dropped;
        }
    free(exec->steps);
    exec->steps = NULL;
    exec->count = 0;
    return result;
}

CUresult rrto_segments_write(struct rrto_exec *exec)
{
    struct rrto_order order;
    struct writing w = {.order = &order};
    CUresult result = rrto_order_of(exec->graph, &order);
    exec->steps = result ? NULL : calloc(order.step_count + 1, sizeof *exec->steps);
    w.waits = malloc((order.count + 1) * sizeof *w.waits);
    if (!result && (!exec->steps || !w.waits))
        result = CUDA_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < order.count && !result; i++)
        order.atoms[i].node->segment = 0;
    for (uint32_t i = 0; i < order.step_count && !result; i++) {
        uint32_t from = order.steps[i], to = order.steps[i + 1];
        struct rrto_atom *atom = &order.atoms[order.sorted[from]];
        if (atom->node->work.on_robot)
            exec->steps[exec->count++].node = atom->node;
        else if (!does_nothing(&order, from, to))
            result = write_segment(exec, &w, from, to);
    }
    free(w.waits);
    rrto_order_free(&order);
    if (result)
        rrto_segments_destroy(exec);
    return result;
}

/* ---- what changes ---- */

/* To the server, which has the node in a segment. */
CUresult rrto_segments_send(struct rrto_exec *exec, const struct rrto_node *node)
{
    const struct rrto_work *work = &node->work;
    uint64_t name = 0;
    for (size_t i = 0, segment = 0; i < exec->count && !name; i++)
        if (exec->steps[i].segment && ++segment == node->segment)
            name = exec->steps[i].segment->name;
    if (work->kind == RRTO_KERNEL_NODE) {
        struct rrto_op_graph_exec_kernel_node_set op = {.graph_exec = name, .node = node->first};
        const struct rrto_kernel *kernel = rrto_work_kernel_of(work);
        if (!kernel)
            return CUDA_INVALID_HANDLE;
        RRTO_FILL_LAUNCH(op, work, kernel);
        return rrto_emit_graph_exec_kernel_node_set(&op, rrto_work_arguments(work), NULL);
    }
    if (work->kind == RRTO_MEMCPY_NODE) {
        struct rows rows;
        CUresult result = CUDA_SUCCESS;
        rows_of(&work->copy, &rows);
        if (rows.count != node->pieces - (node->pieces > 1))
            exec->stale = 1; /* it has other pieces now */
        for (uint32_t i = 0; i < rows.count && !result && !exec->stale; i++) {
            struct straight at = row_of(&rows, i);
            struct rrto_op_graph_exec_memcpy_node_set op = {name, node->first + i, at.dst, at.src,
                                                            rows.bytes};
            result = rrto_emit_graph_exec_memcpy_node_set(&op, NULL);
        }
        return result;
    }
    const CUDA_MEMSET_NODE_PARAMS *p = &work->fill;
    struct rrto_op_graph_exec_memset_node_set op = {name,     node->first, p->dst,   p->pitch,
                                                    p->width, p->height,   p->value, p->elementSize};
    return rrto_emit_graph_exec_memset_node_set(&op, NULL);
}

