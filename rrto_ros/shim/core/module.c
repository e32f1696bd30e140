/* Modules: loading an image, and the table of kernels and variables that the server answers with.
 * What a program asks about a kernel (function.c) is answered from that table. */
#include "linked.h"
#include "module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the module description ---- */

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

static char *take_name(struct reader *from, size_t bytes, char **names)
{
    const unsigned char *at = take(from, bytes);
    char *name = *names;
    if (from->broken)
        return name;
    memcpy(name, at, bytes);
    name[bytes] = 0;
    *names += bytes + 1;
    return name;
}

static void read_kernel(struct reader *from, struct rrto_kernel *kernel, char **names)
{
    uint16_t lengths[2];
    uint32_t count;
    const unsigned char *head = take(from, 8);
    memcpy(lengths, head, 4);
    memcpy(&count, head + 4, 4);
    kernel->name = take_name(from, lengths[0], names);
    size_t param_bytes = (size_t)lengths[1] * 8, attribute_bytes = (size_t)count * 8;
    if (from->broken || param_bytes + attribute_bytes > (size_t)(from->end - from->at)) {
        from->broken = 1;
        return;
    }
    kernel->params = malloc(param_bytes + attribute_bytes + 1);
    if (!kernel->params) {
        from->broken = 1;
        return;
    }
    kernel->attributes = (struct rrto_pair *)(kernel->params + lengths[1]);
    kernel->param_count = lengths[1];
    kernel->attribute_count = count;
    memcpy(kernel->params, take(from, param_bytes), param_bytes);
    memcpy(kernel->attributes, take(from, attribute_bytes), attribute_bytes);
    for (unsigned i = 0; i < lengths[1]; i++) {
        const struct rrto_param *p = &kernel->params[i];
        if (p->offset > 65536 || p->size > 65536)
            from->broken = 1;
        else if (p->offset + p->size > kernel->param_bytes)
            kernel->param_bytes = p->offset + p->size;
    }
}

static void destroy(struct rrto_module *module)
{
    for (uint32_t i = 0; i < module->kernel_count; i++) {
        if (module->kernels[i].function)
            rrto_drop(RRTO_FUNCTION, module->kernels[i].function);
        free(module->kernels[i].params);
    }
    free(module->kernels);
    free(module->globals);
    free(module->names);
    free(module);
}

static struct rrto_module *read_module(const unsigned char *data, size_t bytes,
                                       struct rrto_object *owner)
{
    struct reader from = {data, data + bytes, 0};
    uint32_t counts[2];
    memcpy(counts, take(&from, 8), 8);
    struct rrto_module *module = calloc(1, sizeof *module);
    if (!module || from.broken || counts[0] > bytes / 8 || counts[1] > bytes / 24) {
        free(module);
        return NULL;
    }
    module->kernels = calloc(counts[0] + 1, sizeof *module->kernels);
    module->globals = calloc(counts[1] + 1, sizeof *module->globals);
    module->names = malloc(bytes + counts[0] + counts[1] + 1);
    char *names = module->names;
    if (!module->kernels || !module->globals || !names) {
        destroy(module);
        return NULL;
    }
    for (uint32_t i = 0; i < counts[0] && !from.broken; i++) {
        struct rrto_kernel *kernel = &module->kernels[i];
        module->kernel_count = i + 1;
        read_kernel(&from, kernel, &names);
        kernel->module = owner->name;
        kernel->owner = owner;
        kernel->index = i;
        kernel->max_threads = rrto_kernel_attribute(kernel, 0);
        kernel->static_shared = rrto_kernel_attribute(kernel, 1);
        int shared = rrto_attribute(8);
        shared = (shared ? shared : 49152) - kernel->static_shared;
        atomic_store(&kernel->dynamic_limit, shared > 0 ? shared : 0);
        for (int id = RRTO_SETTABLE; id < RRTO_SETTABLE_END; id++)
            atomic_store(&kernel->settable[id], rrto_kernel_attribute(kernel, id));
        kernel->function = rrto_new(RRTO_FUNCTION);
        if (!kernel->function)
            from.broken = 1;
        else
            kernel->function->data = kernel;
    }
    for (uint32_t i = 0; i < counts[1] && !from.broken; i++) {
        struct rrto_global *global = &module->globals[i];
        uint16_t length;
        const unsigned char *head = take(&from, 24);
        memcpy(&length, head, 2);
        memcpy(&global->address, head + 8, 8);
        memcpy(&global->bytes, head + 16, 8);
        global->name = take_name(&from, length, &names);
        module->global_count = i + 1;
    }
    if (from.broken) {
        destroy(module);
        return NULL;
    }
    return module;
}

/* CU_JIT_MAX_REGISTERS, of the load or of the link that made the image. A virtual device can do
 * with any number; a GPU's compiler says itself how many it took. */
static void limit_registers(unsigned limit, struct rrto_module *module)
{
    enum { NUM_REGS = 4 };
    if (!limit || rrto_session.kind == RRTO_GPU)
        return;
    for (uint32_t i = 0; i < module->kernel_count; i++)
        for (uint32_t k = 0; k < module->kernels[i].attribute_count; k++) {
            struct rrto_pair *pair = &module->kernels[i].attributes[k];
            if (pair->id == NUM_REGS && pair->value > (int)limit)
                pair->value = (int)limit;
        }
}

/* With CU_JIT_LOG_VERBOSE: what each kernel needs. */
static void tell(const struct rrto_jit *jit, const struct rrto_module *module)
{
    enum { LINE = 160 };
    size_t room = (size_t)module->kernel_count * LINE + 1, used = 0;
    char *text = rrto_jit_wants_info(jit) ? calloc(1, room) : NULL;
    for (uint32_t i = 0; text && i < module->kernel_count; i++) {
        const struct rrto_kernel *k = &module->kernels[i];
        int wrote = snprintf(text + used, LINE, "info    : %.80s: %d registers, %d bytes smem\n",
                             k->name, rrto_kernel_attribute(k, 4), k->static_shared);
        used += wrote > 0 && wrote < LINE ? (size_t)wrote : 0;
    }
    rrto_jit_info(jit, text ? text : "");
    free(text);
}

/* An error's text without the call and the result that stand before it. */
static const char *compilers_words(const char *text)
{
    const char *end = strncmp(text, "module_load #", 13) ? NULL : strstr(text, "): ");
    return end ? end + 3 : text;
}

CUresult rrto_load(const struct rrto_image *image, const struct rrto_jit *jit,
                   struct rrto_object **out)
{
    uint64_t began = jit->count ? rrto_jit_clock() : 0;
    struct rrto_object *object = rrto_new(RRTO_MODULE);
    struct rrto_wait wait = {.grow = 1};
    if (!object)
        return CUDA_OUT_OF_MEMORY;
    struct rrto_op_module_load op = {object->name};
    int status = rrto_emit_module_load(&op, image->data, (uint32_t)image->bytes, &wait);
    if (status) {
        char *text = wait.data;
        if (text)
            text[wait.got] = 0;
        rrto_jit_log(jit, text ? compilers_words(text) : "the module could not be loaded");
        rrto_jit_info(jit, "");
        if (text && wait.got)
            rrto_say("module load failed: %s", text);
        const char *name = rrto_error_name(status);
        if (text && wait.got && !atomic_load(&rrto_session.error)) /* else the session is lost */
            rrto_refuse(status, "image: %s: %s", name ? name : "error", text);
    } else {
        object->data = read_module(wait.data, wait.got, object);
        if (!object->data) {
            rrto_say("the server's description of a module is damaged");
            status = CUDA_UNKNOWN;
        }
    }
    free(wait.data);
    if (jit->count)
        rrto_jit_time(jit, rrto_jit_clock() - began);
    if (status) {
        rrto_drop(RRTO_MODULE, object);
        return status;
    }
    rrto_jit_log(jit, "");
    object->owner = rrto_current();
    struct rrto_module *module = object->data;
    limit_registers(rrto_linked_registers(image->data, image->bytes), module);
    limit_registers(rrto_jit_registers(jit), module);
    tell(jit, module);
    for (uint32_t i = 0; i < module->global_count; i++)
        rrto_range_globals(object, module->globals[i].address, module->globals[i].bytes);
    *out = object;
    return CUDA_SUCCESS;
}

CUresult rrto_unload(struct rrto_object *object)
{
    struct rrto_op_module_unload op = {object->name};
    struct rrto_module *module = object->data;
    rrto_range_forget(object);
    CUresult result = rrto_emit_module_unload(&op, NULL);
    rrto_drop(RRTO_MODULE, object);
    destroy(module);
    return result;
}

struct rrto_kernel *rrto_module_kernel(const struct rrto_object *object, const char *name)
{
    const struct rrto_module *module = object->data;
    for (uint32_t i = 0; i < module->kernel_count; i++)
        if (!strcmp(module->kernels[i].name, name))
            return &module->kernels[i];
    return NULL;
}

const struct rrto_global *rrto_module_global(const struct rrto_object *object, const char *name)
{
    const struct rrto_module *module = object->data;
    for (uint32_t i = 0; i < module->global_count; i++)
        if (!strcmp(module->globals[i].name, name))
            return &module->globals[i];
    return NULL;
}

/* ---- the calls ---- */

static CUresult load_into(CUmodule *out, const struct rrto_image *image, const struct rrto_jit *jit)
{
    struct rrto_object *object;
    CUresult result = rrto_load(image, jit, &object);
    if (!result)
        *out = object->handle;
    return result;
}

CUresult rrto_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                 CUjit_option *options, void **optionValues)
{
    struct rrto_image what;
    struct rrto_jit jit = {.count = numOptions, .options = options, .values = optionValues};
    if (!module || (numOptions && (!options || !optionValues)))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_image_of(image, &what);
    return result ? result : load_into(module, &what, &jit);
}

CUresult rrto_cuModuleLoadData(CUmodule *module, const void *image)
{
    return rrto_cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

CUresult rrto_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    return rrto_cuModuleLoadDataEx(module, fatCubin, 0, NULL, NULL);
}

CUresult rrto_cuModuleLoad(CUmodule *module, const char *fname)
{
    struct rrto_image what;
    struct rrto_jit jit = {.count = 0};
    CUresult result = module ? rrto_image_of_file(fname, &what) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    result = load_into(module, &what, &jit);
    free(what.owned);
    return result;
}

CUresult rrto_cuModuleUnload(CUmodule hmod)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, hmod);
    if (!object)
        return CUDA_INVALID_HANDLE;
    return object->number ? CUDA_NOT_PERMITTED : rrto_unload(object);
}

CUresult rrto_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, hmod);
    if (!hfunc || !name)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_kernel *kernel = rrto_module_kernel(object, name);
    if (!kernel)
        return CUDA_NOT_FOUND;
    *hfunc = kernel->function->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, mod);
    if (!count)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    *count = ((struct rrto_module *)object->data)->kernel_count;
    return CUDA_SUCCESS;
}

CUresult rrto_cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions,
                                         CUmodule mod)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, mod);
    if (!functions)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_module *module = object->data;
    for (unsigned i = 0; i < numFunctions && i < module->kernel_count; i++)
        functions[i] = module->kernels[i].function->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                                   const char *name)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, hmod);
    if (!name)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    const struct rrto_global *global = rrto_module_global(object, name);
    if (!global)
        return CUDA_NOT_FOUND;
    if (dptr)
        *dptr = global->address;
    if (bytes)
        *bytes = global->bytes;
    return CUDA_SUCCESS;
}
