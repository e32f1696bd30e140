/* Modules: when an image goes to the server, and what a program finds in it.
 *
 * Machine code is loaded lazily, as CUDA does it: the server gets the image when the first of its
 * kernels or variables is used. A program that only asks for kernels by name is answered from the
 * image's own symbol table where that can be read here. Everything that is compiled (PTX, links)
 * is sent at once, so that its errors come where CUDA gives them. Of a large PTX text the device
 * reads a kernel when it is first used: so its errors come then, like those of machine code.
 *
 * Over 400 lines: every way into a module has to ask whether its image is there yet. */
#include "module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fatbin.h"
#include "linked.h"

/* CU_JIT_MAX_REGISTERS, of the load or of the link that made the image. A virtual device can do
 * with any number; a GPU's compiler says itself how many it took. */
static void limit_registers(unsigned limit, struct rrto_kernel *kernel)
{
    enum { NUM_REGS = 4 };
    if (!limit || rrto_session.kind == RRTO_GPU)
        return;
    for (uint32_t k = 0; k < kernel->attribute_count; k++) {
        struct rrto_pair *pair = &kernel->attributes[k];
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
        const struct rrto_kernel *k = module->kernels[i];
        if (k->unread)
            continue;
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
    int named = !strncmp(text, "module_load #", 13) || !strncmp(text, "kernel_load #", 13);
    const char *end = named ? strstr(text, "): ") : NULL;
    return end ? end + 3 : text;
}

static CUresult refused(int status, const char *what, const char *text, const struct rrto_jit *jit)
{
    const char *name = rrto_error_name(status);
    rrto_jit_log(jit, compilers_words(text));
    rrto_jit_info(jit, "");
    rrto_say("%s load failed: %s", what, text);
    return rrto_refuse(status, "image: %s: %s", name ? name : "error", text);
}

/* The record of the load, after those of the pieces that do not fit into one with it. */
static int emit(uint64_t name, const struct rrto_image *image, struct rrto_wait *wait)
{
    const char *data = image->data;
    size_t left = image->bytes, piece = rrto_call_piece();
    if (left > rrto_session.call_bytes / 2 - 256)
        for (; left > piece; data += piece, left -= piece) {
            struct rrto_op_module_piece op = {name};
            CUresult result = rrto_emit_module_piece(&op, data, (uint32_t)piece, NULL);
            if (result)
                return result;
        }
    struct rrto_op_module_load op = {name};
    return rrto_emit_module_load(&op, data, (uint32_t)left, wait);
}

/* Sends an image; the module gets what the server says of it. */
static CUresult send(struct rrto_object *object, const struct rrto_image *image,
                     const struct rrto_jit *jit)
{
    struct rrto_wait wait = {.grow = 1};
    struct rrto_module *module = object->data;
    int status = emit(object->name, image, &wait);
    char *text = wait.data;
    if (status && text)
        text[wait.got] = 0;
    if (status && text && wait.got && !atomic_load(&rrto_session.error)) {
        refused(status, "module", text, jit);
        module->failed = status == CUDA_OUT_OF_MEMORY ? CUDA_SUCCESS : (CUresult)status;
    } else if (status) {
        rrto_jit_log(jit, text ? compilers_words(text) : "the module could not be loaded");
        rrto_jit_info(jit, "");
        if (text && wait.got) /* else the session is lost */
            rrto_say("module load failed: %s", text);
    } else {
        atomic_store(&module->loaded, 1);
        if (rrto_module_read(object, wait.data, wait.got)) {
            rrto_say("the server's description of a module is damaged");
            module->failed = status = CUDA_UNKNOWN;
        }
    }
    free(wait.data);
    if (status)
        return status;
    unsigned linked = rrto_linked_registers(image->data, image->bytes);
    module->registers = rrto_jit_registers(jit);
    if (linked && (!module->registers || linked < module->registers))
        module->registers = linked;
    for (uint32_t i = 0; i < module->global_count; i++)
        rrto_range_globals(object, module->globals[i].address, module->globals[i].bytes);
    for (uint32_t i = 0; i < module->kernel_count; i++)
        if (module->kernels[i]->params) {
            limit_registers(module->registers, module->kernels[i]);
            atomic_store_explicit(&module->kernels[i]->there, 1, memory_order_release);
        }
    return CUDA_SUCCESS;
}

/* A kernel that the server has not looked at yet; its module's lock is held. */
static CUresult need_kernel(const struct rrto_module *module, struct rrto_kernel *kernel,
                            const struct rrto_jit *jit)
{
    struct rrto_wait wait = {.grow = 1};
    struct rrto_op_kernel_load op = {kernel->module, kernel->index};
    if (!kernel->unread || kernel->failed || atomic_load(&kernel->there))
        return kernel->failed;
    int status = rrto_emit_kernel_load(&op, &wait);
    char *text = wait.data;
    if (status && text && wait.got && !atomic_load(&rrto_session.error)) {
        text[wait.got] = 0;
        refused(status, "kernel", text, jit);
        kernel->failed = status == CUDA_OUT_OF_MEMORY ? CUDA_SUCCESS : (CUresult)status;
    } else if (!status && rrto_kernel_read(kernel, wait.data, wait.got)) {
        rrto_say("the server's description of a kernel is damaged");
        kernel->failed = status = CUDA_UNKNOWN;
    }
    free(wait.data);
    if (!status) {
        limit_registers(module->registers, kernel);
        atomic_store_explicit(&kernel->there, 1, memory_order_release);
    }
    return status;
}

/* Without lazy loading every kernel is looked at when its module is loaded. */
static CUresult need_kernels(const struct rrto_module *module, const struct rrto_jit *jit)
{
    CUresult status = CUDA_SUCCESS;
    for (uint32_t i = 0; i < module->kernel_count && !status; i++)
        status = need_kernel(module, module->kernels[i], jit);
    return status;
}

int rrto_loads_lazily(void)
{
    const char *mode = getenv("CUDA_MODULE_LOADING");
    return !mode || strcmp(mode, "EAGER");
}

/* Keeps an image of machine code for later: itself if the program says that it stays. */
static CUresult keep(struct rrto_module *module, const struct rrto_image *image,
                     struct rrto_choice *choice)
{
    if (image->stays) {
        free(choice->image.owned);
        module->source = *image;
        module->source.owned = NULL;
        return CUDA_SUCCESS;
    }
    module->source = choice->image;
    if (choice->image.owned)
        return CUDA_SUCCESS;
    char *copy = malloc(choice->image.bytes);
    if (!copy)
        return CUDA_OUT_OF_MEMORY;
    memcpy(copy, choice->image.data, choice->image.bytes);
    module->source = (struct rrto_image){.data = copy, .bytes = choice->image.bytes, .owned = copy};
    return CUDA_SUCCESS;
}

CUresult rrto_load(const struct rrto_image *image, const struct rrto_jit *jit,
                   struct rrto_object **out)
{
    uint64_t began = jit->count ? rrto_jit_clock() : 0;
    struct rrto_object *object = rrto_new(RRTO_MODULE);
    struct rrto_module *module = object ? calloc(1, sizeof *module) : NULL;
    struct rrto_choice choice;
    if (!module) {
        if (object)
            rrto_drop(RRTO_MODULE, object);
        return CUDA_OUT_OF_MEMORY;
    }
    pthread_mutex_init(&module->lock, NULL);
    object->data = module;
    CUresult status = rrto_choose(image, &choice);
    if (status) {
        if (choice.why[0])
            refused(status, "module", choice.why, jit);
    } else if (choice.machine_code && rrto_loads_lazily()) {
        status = keep(module, image, &choice);
        rrto_jit_info(jit, "");
    } else {
        status = send(object, &choice.image, jit);
        if (!status && !rrto_loads_lazily())
            status = need_kernels(module, jit);
        if (!status)
            tell(jit, module);
        free(choice.image.owned);
    }
    if (jit->count)
        rrto_jit_time(jit, rrto_jit_clock() - began);
    if (status) {
        rrto_unload(object);
        return status;
    }
    rrto_jit_log(jit, "");
    object->owner = rrto_current();
    *out = object;
    return CUDA_SUCCESS;
}

/* The server has the module when this succeeds; the module's lock is held. What the server said of
 * the image stays true; other failures may pass. */
static CUresult need(struct rrto_object *object)
{
    static const struct rrto_jit none;
    struct rrto_module *module = object->data;
    struct rrto_choice choice;
    if (atomic_load(&module->loaded) || module->failed)
        return module->failed;
    CUresult status = rrto_choose(&module->source, &choice);
    if (!status)
        status = send(object, &choice.image, &none);
    if (choice.image.owned)
        free(choice.image.owned);
    if (!status) {
        free(module->source.owned);
        module->source = (struct rrto_image){0};
    }
    return status;
}

/* A name of a kernel in machine code that was not sent yet. */
static int name_kernel(void *arg, const char *name)
{
    struct rrto_object *object = arg;
    return rrto_kernel_new(object->data, object, name, strlen(name)) ? 0 : -1;
}

/* The module's kernels have their names when this succeeds; the module's lock is held. */
static CUresult need_names(struct rrto_object *object)
{
    struct rrto_module *module = object->data;
    struct rrto_choice choice;
    if (atomic_load(&module->loaded) || module->named || module->failed)
        return module->failed;
    if (!rrto_choose(&module->source, &choice)) {
        int found = rrto_image_kernels(&choice.image, name_kernel, object);
        free(choice.image.owned);
        module->named = module->kernel_count > 0;
        if (found >= 0) {
            module->named = 1;
            return CUDA_SUCCESS;
        }
    }
    return need(object); /* what cannot be read here, the server reads */
}

CUresult rrto_use(const void *function, struct rrto_kernel **out)
{
    struct rrto_kernel *kernel = *out = rrto_kernel_of(function);
    if (!kernel)
        return CUDA_INVALID_HANDLE;
    if (__builtin_expect(atomic_load_explicit(&kernel->there, memory_order_acquire), 1))
        return CUDA_SUCCESS;
    static const struct rrto_jit none;
    struct rrto_module *module = kernel->owner->data;
    pthread_mutex_lock(&module->lock);
    CUresult result = need(kernel->owner);
    if (!result)
        result = need_kernel(module, kernel, &none);
    pthread_mutex_unlock(&module->lock);
    return result || atomic_load(&kernel->there) ? result : CUDA_NOT_FOUND;
}

CUresult rrto_unload(struct rrto_object *object)
{
    struct rrto_op_module_unload op = {object->name};
    struct rrto_module *module = object->data;
    rrto_range_forget(object);
    CUresult result = CUDA_SUCCESS;
    if (atomic_load(&module->loaded))
        result = rrto_emit_module_unload(&op, NULL);
    rrto_drop(RRTO_MODULE, object);
    rrto_module_free(module);
    return result;
}

CUresult rrto_module_kernel(struct rrto_object *object, const char *name, struct rrto_kernel **out)
{
    struct rrto_module *module = object->data;
    pthread_mutex_lock(&module->lock);
    CUresult result = need_names(object);
    *out = result ? NULL : rrto_kernel_named(module, name, strlen(name), 0);
    pthread_mutex_unlock(&module->lock);
    return result || *out ? result : CUDA_NOT_FOUND;
}

static CUresult global_of(struct rrto_object *object, const char *name,
                          const struct rrto_global **out)
{
    struct rrto_module *module = object->data;
    pthread_mutex_lock(&module->lock);
    CUresult result = need(object);
    pthread_mutex_unlock(&module->lock);
    *out = NULL;
    for (uint32_t i = 0; !result && i < module->global_count && !*out; i++)
        if (!strcmp(module->globals[i].name, name))
            *out = &module->globals[i];
    return result || *out ? result : CUDA_NOT_FOUND;
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
    struct rrto_kernel *kernel;
    CUresult result = rrto_module_kernel(object, name, &kernel);
    if (!result)
        *hfunc = kernel->function->handle;
    return result;
}

CUresult rrto_cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, mod);
    if (!count)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_module *module = object->data;
    pthread_mutex_lock(&module->lock);
    CUresult result = need_names(object);
    if (!result)
        *count = module->kernel_count;
    pthread_mutex_unlock(&module->lock);
    return result;
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
    pthread_mutex_lock(&module->lock);
    CUresult result = need_names(object);
    for (unsigned i = 0; !result && i < numFunctions && i < module->kernel_count; i++)
        functions[i] = module->kernels[i]->function->handle;
    pthread_mutex_unlock(&module->lock);
    return result;
}

CUresult rrto_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
                                   const char *name)
{
    struct rrto_object *object = rrto_find(RRTO_MODULE, hmod);
    if (!name)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    const struct rrto_global *global;
    CUresult result = global_of(object, name, &global);
    if (result)
        return result;
    if (dptr)
        *dptr = global->address;
    if (bytes)
        *bytes = global->bytes;
    return CUDA_SUCCESS;
}
