/* Libraries and their kernels (CUDA 12): a library is a module that no context owns, and a kernel
 * handle is the function's. */
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

/* CU_LIBRARY_BINARY_IS_PRESERVED; the other options are hints. */
static int is_preserved(const CUlibraryOption *options, void *const *values, unsigned count)
{
    enum { PRESERVED = 1 };
    int found = 0;
    for (unsigned i = 0; options && values && i < count; i++)
        if (options[i] == PRESERVED)
            found = ((uintptr_t)values[i] & 0xFFFFFFFFu) != 0;
    return found;
}

CUresult rrto_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                                void **jitOptionsValues, unsigned int numJitOptions,
                                CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                unsigned int numLibraryOptions)
{
    struct rrto_image image;
    struct rrto_jit jit = {.count = numJitOptions, .options = jitOptions, .values = jitOptionsValues};
    if (!library || (numJitOptions && (!jitOptions || !jitOptionsValues)))
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_image_of(code, &image);
    image.stays = is_preserved(libraryOptions, libraryOptionValues, numLibraryOptions);
    return result ? result : load_library(library, &image, &jit);
}

CUresult rrto_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                    CUjit_option *jitOptions, void **jitOptionsValues,
                                    unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                                    void **libraryOptionValues, unsigned int numLibraryOptions)
{
    struct rrto_image image;
    struct rrto_jit jit = {.count = numJitOptions, .options = jitOptions, .values = jitOptionsValues};
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
    struct rrto_kernel *kernel;
    CUresult result = rrto_module_kernel(object->data, name, &kernel);
    if (!result)
        *pKernel = kernel->function->handle;
    return result;
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
