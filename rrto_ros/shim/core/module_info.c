/* What the server says of a module that it has loaded: its kernels and variables
 * (docs/wire_format.md). Kernels that were named before get the rest of what there is to know. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_PARAM_BYTES = 32764 };

struct reader {
    const unsigned char *at, *end;
    int broken;
};

static const unsigned char *take(struct reader *from, size_t bytes)
{
    static const unsigned char zeros[64];
    const unsigned char *at = from->at;
    if (from->broken || (size_t)(from->end - from->at) < bytes) {
        from->broken = 1;
        return bytes <= sizeof zeros ? zeros : NULL;
    }
    from->at += bytes;
    return at;
}

static int is_named(const struct rrto_kernel *kernel, const char *name, size_t bytes)
{
    return !strncmp(kernel->name, name, bytes) && !kernel->name[bytes];
}

struct rrto_kernel *rrto_kernel_named(const struct rrto_module *module, const char *name,
                                      size_t bytes, uint32_t hint)
{
    if (hint < module->kernel_count && is_named(module->kernels[hint], name, bytes))
        return module->kernels[hint];
    for (uint32_t i = 0; i < module->kernel_count; i++)
        if (is_named(module->kernels[i], name, bytes))
            return module->kernels[i];
    return NULL;
}

struct rrto_kernel *rrto_kernel_new(struct rrto_module *module, struct rrto_object *owner,
                                    const char *name, size_t bytes)
{
    if (module->kernel_count == module->kernel_room) {
        uint32_t room = module->kernel_room ? 2 * module->kernel_room : 16;
        struct rrto_kernel **more = realloc(module->kernels, room * sizeof *more);
        if (!more)
            return NULL;
        module->kernels = more;
        module->kernel_room = room;
    }
    struct rrto_kernel *kernel = calloc(1, sizeof *kernel + bytes + 1);
    struct rrto_object *function = kernel ? rrto_new(RRTO_FUNCTION) : NULL;
    if (!function) {
        free(kernel);
        return NULL;
    }
    kernel->name = (char *)(kernel + 1);
    memcpy(kernel->name, name, bytes);
    kernel->module = owner->name;
    kernel->owner = owner;
    kernel->function = function;
    module->kernels[module->kernel_count++] = kernel;
    function->data = kernel;
    return kernel;
}

/* Parameters and attributes. */
static void fill(struct reader *from, struct rrto_kernel *kernel, uint32_t index, uint16_t params,
                 uint32_t attributes)
{
    size_t param_bytes = (size_t)params * 8, attribute_bytes = (size_t)attributes * 8;
    if (from->broken || kernel->params ||
        param_bytes + attribute_bytes > (size_t)(from->end - from->at) ||
        !(kernel->params = malloc(param_bytes + attribute_bytes + 1))) {
        from->broken = 1;
        return;
    }
    kernel->index = index;
    kernel->attributes = (struct rrto_pair *)(kernel->params + params);
    kernel->param_count = params;
    kernel->attribute_count = attributes;
    memcpy(kernel->params, take(from, param_bytes), param_bytes);
    memcpy(kernel->attributes, take(from, attribute_bytes), attribute_bytes);
    for (unsigned i = 0; i < params; i++) {
        const struct rrto_param *p = &kernel->params[i];
        /* As much as CUDA passes: more would be read from beside the program's arguments. */
        if (p->offset > MOST_PARAM_BYTES || p->size > MOST_PARAM_BYTES - p->offset)
            from->broken = 1;
        else if (p->offset + p->size > kernel->param_bytes)
            kernel->param_bytes = p->offset + p->size;
    }
    kernel->max_threads = rrto_kernel_told(kernel, 0);
    kernel->static_shared = rrto_kernel_told(kernel, 1);
    int whole = rrto_attribute(8);
    int64_t shared = (int64_t)(whole ? whole : 49152) - kernel->static_shared;
    if (kernel->max_threads < 0 || kernel->static_shared < 0)
        from->broken = 1;
    atomic_store(&kernel->dynamic_limit, shared > 0 ? (int)shared : 0);
    for (int id = RRTO_SETTABLE; id < RRTO_SETTABLE_END; id++)
        atomic_store(&kernel->settable[id], rrto_kernel_told(kernel, id));
}

static void read_kernel(struct reader *from, struct rrto_module *module, struct rrto_object *owner,
                        uint32_t index)
{
    uint16_t lengths[2];
    uint32_t attributes;
    const unsigned char *head = take(from, 8);
    memcpy(lengths, head, 4);
    memcpy(&attributes, head + 4, 4);
    const char *name = (const char *)take(from, lengths[0]);
    if (from->broken)
        return;
    struct rrto_kernel *kernel =
        module->named ? rrto_kernel_named(module, name, lengths[0], index) : NULL;
    if (!kernel)
        kernel = rrto_kernel_new(module, owner, name, lengths[0]);
    if (!kernel) {
        from->broken = 1;
    } else if (attributes) {
        fill(from, kernel, index, lengths[1], attributes);
    } else {
        take(from, (size_t)lengths[1] * 8);
        kernel->index = index;
        kernel->unread = 1;
    }
}

int rrto_kernel_read(struct rrto_kernel *kernel, const unsigned char *data, size_t bytes)
{
    struct reader from = {data, data + bytes, 0};
    uint32_t counts[2], attributes;
    uint16_t lengths[2];
    memcpy(counts, take(&from, 8), 8);
    const unsigned char *head = take(&from, 8);
    memcpy(lengths, head, 4);
    memcpy(&attributes, head + 4, 4);
    const char *name = (const char *)take(&from, lengths[0]);
    if (from.broken || counts[0] != 1 || counts[1] || !attributes ||
        !is_named(kernel, name, lengths[0]))
        return -1;
    fill(&from, kernel, kernel->index, lengths[1], attributes);
    return from.broken || from.at != from.end ? -1 : 0;
}

static void read_global(struct reader *from, struct rrto_module *module)
{
    struct rrto_global *global = &module->globals[module->global_count];
    uint16_t length;
    const unsigned char *head = take(from, 24);
    memcpy(&length, head, 2);
    memcpy(&global->address, head + 8, 8);
    memcpy(&global->bytes, head + 16, 8);
    const unsigned char *name = take(from, length);
    if (from->broken || !(global->name = malloc((size_t)length + 1))) {
        from->broken = 1;
        return;
    }
    memcpy(global->name, name, length);
    global->name[length] = 0;
    module->global_count++;
}

int rrto_module_read(struct rrto_object *owner, const unsigned char *data, size_t bytes)
{
    struct rrto_module *module = owner->data;
    struct reader from = {data, data + bytes, 0};
    uint32_t counts[2];
    memcpy(counts, take(&from, 8), 8);
    if (from.broken || counts[0] > bytes / 8 || counts[1] > bytes / 24 ||
        !(module->globals = calloc(counts[1] + 1, sizeof *module->globals)))
        return -1;
    for (uint32_t i = 0; i < counts[0] && !from.broken; i++)
        read_kernel(&from, module, owner, i);
    for (uint32_t i = 0; i < counts[1] && !from.broken; i++)
        read_global(&from, module);
    return from.broken ? -1 : 0;
}

void rrto_module_free(struct rrto_module *module)
{
    for (uint32_t i = 0; i < module->kernel_count; i++) {
        rrto_drop(RRTO_FUNCTION, module->kernels[i]->function);
        free(module->kernels[i]->params);
        free(module->kernels[i]);
    }
    for (uint32_t i = 0; i < module->global_count; i++)
        free(module->globals[i].name);
    free(module->kernels);
    free(module->globals);
    free(module->source.owned);
    pthread_mutex_destroy(&module->lock);
    free(module);
}
