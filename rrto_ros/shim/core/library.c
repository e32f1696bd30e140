/* Libraries and their kernels (CUDA 12): a library is a module that no context owns, and a kernel
 * handle is the function's. Linking gives PTX back as the image. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

static CUresult load_library(CUlibrary *out, const struct rrto_image *image,
                             const struct rrto_jit *jit)
{
    struct rrto_object *object, *library = rrto_new(RRTO_LIBRARY);
    if (!library)
        return CUDA_OUT_OF_MEMORY;
    CUresult result = rrto_load(image, jit, &object);
    if (result) {
        rrto_drop(RRTO_LIBRARY, library);
        return result;
    }
    object->owner = library->handle;
    object->number = 1;
    library->data = object;
    *out = library->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                                void **jitOptionsValues, unsigned int numJitOptions,
                                CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                unsigned int numLibraryOptions)
{
    struct rrto_image image;
    struct rrto_jit jit = {numJitOptions, jitOptions, jitOptionsValues};
    (void)libraryOptions, (void)libraryOptionValues, (void)numLibraryOptions; /* hints */
    if (!library || (numJitOptions && (!jitOptions || !jitOptionsValues)))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_image_of(code, &image);
    return result ? result : load_library(library, &image, &jit);
}

CUresult rrto_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                    CUjit_option *jitOptions, void **jitOptionsValues,
                                    unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                                    void **libraryOptionValues, unsigned int numLibraryOptions)
{
    struct rrto_image image;
    struct rrto_jit jit = {numJitOptions, jitOptions, jitOptionsValues};
    (void)libraryOptions, (void)libraryOptionValues, (void)numLibraryOptions;
    if (!library || (numJitOptions && (!jitOptions || !jitOptionsValues)))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_image_of_file(fileName, &image);
    if (result)
        return result;
    result = load_library(library, &image, &jit);
    free(image.owned);
    return result;
}

CUresult rrto_cuLibraryUnload(CUlibrary library)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, library);
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_unload(object->data);
    rrto_drop(RRTO_LIBRARY, object);
    return result;
}

CUresult rrto_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, library);
    if (!pKernel || !name)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct rrto_kernel *kernel = rrto_module_kernel(object->data, name);
    if (!kernel)
        return CUDA_NOT_FOUND;
    *pKernel = kernel->function->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, lib);
    if (!object)
        return CUDA_INVALID_HANDLE;
    return rrto_cuModuleGetFunctionCount(count, ((struct rrto_object *)object->data)->handle);
}

CUresult rrto_cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, lib);
    if (!object)
        return CUDA_INVALID_HANDLE;
    return rrto_cuModuleEnumerateFunctions((CUfunction *)kernels, numKernels,
                                           ((struct rrto_object *)object->data)->handle);
}

CUresult rrto_cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, library);
    if (!pMod)
        return CUDA_INVALID_VALUE;
    if (!object)
        return CUDA_INVALID_HANDLE;
    *pMod = ((struct rrto_object *)object->data)->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                 const char *name)
{
    struct rrto_object *object = rrto_find(RRTO_LIBRARY, library);
    if (!object)
        return CUDA_INVALID_HANDLE;
    return rrto_cuModuleGetGlobal_v2(dptr, bytes, ((struct rrto_object *)object->data)->handle,
                                     name);
}

CUresult rrto_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                  const char *name)
{
    (void)dptr, (void)bytes;
    if (!name)
        return CUDA_INVALID_VALUE;
    return rrto_find(RRTO_LIBRARY, library) ? CUDA_NOT_FOUND : CUDA_INVALID_HANDLE;
}

/* ---- kernels: the same handle as the function ---- */

CUresult rrto_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    if (!pFunc)
        return CUDA_INVALID_VALUE;
    if (!rrto_kernel_of(kernel))
        return CUDA_INVALID_HANDLE;
    *pFunc = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

CUresult rrto_cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
    struct rrto_kernel *found = rrto_kernel_of(kernel);
    if (!pLib)
        return CUDA_INVALID_VALUE;
    if (!found || !found->owner->number)
        return CUDA_INVALID_HANDLE;
    *pLib = found->owner->owner;
    return CUDA_SUCCESS;
}

CUresult rrto_cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel,
                                   CUdevice dev)
{
    return dev ? CUDA_INVALID_DEVICE : rrto_cuFuncGetAttribute(pi, attrib, (CUfunction)kernel);
}

CUresult rrto_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                                   CUdevice dev)
{
    return dev ? CUDA_INVALID_DEVICE : rrto_cuFuncSetAttribute((CUfunction)kernel, attrib, val);
}

CUresult rrto_cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
    return dev ? CUDA_INVALID_DEVICE : rrto_cuFuncSetCacheConfig((CUfunction)kernel, config);
}

CUresult rrto_cuKernelGetName(const char **name, CUkernel hfunc)
{
    return rrto_cuFuncGetName(name, (CUfunction)hfunc);
}

CUresult rrto_cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset,
                                   size_t *paramSize)
{
    return rrto_cuFuncGetParamInfo((CUfunction)kernel, paramIndex, paramOffset, paramSize);
}

CUresult rrto_cuKernelGetParamCount(CUkernel kernel, size_t *paramCount)
{
    return rrto_cuFuncGetParamCount((CUfunction)kernel, paramCount);
}

/* ---- linking ---- */

struct link {
    char *text;
    size_t bytes;
    struct rrto_jit jit;
    CUjit_option *options;
    int inputs;
    unsigned count;
    uint64_t began;
    void *room[2]; /* sizes of the logs */
};

/* What the program's logs say after a step of linking, and how long it took so far. */
static void link_says(struct link *link, const char *error, const char *info)
{
    rrto_jit_room(&link->jit, link->room, 1);
    rrto_jit_log(&link->jit, error);
    rrto_jit_info(&link->jit, info);
    rrto_jit_time(&link->jit, rrto_jit_clock() - link->began);
}

enum { INPUT_CUBIN = 0, INPUT_PTX = 1, INPUT_FATBINARY = 2 };

CUresult rrto_cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues,
                              CUlinkState *stateOut)
{
    if (!stateOut || (numOptions && (!options || !optionValues)))
        return CUDA_INVALID_VALUE;
    struct rrto_object *object = rrto_new(RRTO_LINK);
    struct link *link = calloc(1, sizeof *link);
    CUjit_option *copy = malloc(numOptions * sizeof *copy + 1);
    if (!object || !link || !copy) {
        free(link);
        free(copy);
        return CUDA_OUT_OF_MEMORY;
    }
    if (numOptions)
        memcpy(copy, options, numOptions * sizeof *copy);
    link->options = copy;
    link->jit = (struct rrto_jit){numOptions, copy, optionValues};
    link->began = rrto_jit_clock();
    rrto_jit_room(&link->jit, link->room, 0);
    object->data = link;
    *stateOut = object->handle;
    return CUDA_SUCCESS;
}

static CUresult add_input(struct link *link, int type, const void *data, size_t bytes)
{
    static const char mark[] = "\n//RRTO-LINK\n";
    if (!data || !bytes)
        return CUDA_INVALID_VALUE;
    if (type == INPUT_PTX)
        bytes = strnlen(data, bytes);
    else if ((type != INPUT_CUBIN && type != INPUT_FATBINARY) || link->inputs) {
        /* Machine code is passed on as it is, but only PTX can be joined. */
        link_says(link, "only PTX can be linked over the network", "");
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuLinkAddData: input of type %d", type);
    }
    if (link->inputs && link->inputs != 1 + INPUT_PTX)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuLinkAddData: PTX beside machine code");
    size_t gap = link->bytes ? sizeof mark - 1 : 0;
    char *text = realloc(link->text, link->bytes + gap + bytes + 1);
    if (!text)
        return CUDA_OUT_OF_MEMORY;
    memcpy(text + link->bytes, mark, gap);
    memcpy(text + link->bytes + gap, data, bytes);
    link->text = text;
    link->bytes += gap + bytes;
    text[link->bytes] = 0;
    link->inputs = 1 + type;
    link->count++;
    return CUDA_SUCCESS;
}

CUresult rrto_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
                               const char *name, unsigned int numOptions, CUjit_option *options,
                               void **optionValues)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    (void)name, (void)numOptions, (void)options, (void)optionValues;
    return object ? add_input(object->data, type, data, size) : CUDA_INVALID_HANDLE;
}

CUresult rrto_cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path,
                               unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    struct rrto_image image;
    (void)numOptions, (void)options, (void)optionValues;
    if (!object)
        return CUDA_INVALID_HANDLE;
    CUresult result = rrto_image_of_file(path, &image);
    if (result)
        return result;
    result = add_input(object->data, type, image.data, image.bytes);
    free(image.owned);
    return result;
}

CUresult rrto_cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct link *link = object->data;
    if (!cubinOut || !link->text)
        return CUDA_INVALID_VALUE;
    char info[64];
    snprintf(info, sizeof info, "info    : %u inputs, %zu bytes\n", link->count, link->bytes);
    link_says(link, "", info);
    *cubinOut = link->text;
    if (sizeOut)
        *sizeOut = link->bytes + (link->inputs == 1 + INPUT_PTX); /* text: its NUL as well */
    return CUDA_SUCCESS;
}

CUresult rrto_cuLinkDestroy(CUlinkState state)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct link *link = object->data;
    rrto_drop(RRTO_LINK, object);
    free(link->options);
    free(link->text);
    free(link);
    return CUDA_SUCCESS;
}
