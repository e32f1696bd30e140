/* Functions: what a program asks and sets of a kernel, answered from its module's table, which is
 * there once the server has the module. */
#include "module.h"

#include <string.h>

struct rrto_kernel *rrto_kernel_of(const void *function)
{
    struct rrto_object *object = rrto_find(RRTO_FUNCTION, function);
    return object ? object->data : NULL;
}

int rrto_kernel_attribute(const struct rrto_kernel *kernel, int id)
{
    if (id == 8)
        return atomic_load(&((struct rrto_kernel *)(uintptr_t)kernel)->dynamic_limit);
    if (id >= RRTO_SETTABLE && id < RRTO_SETTABLE_END)
        return atomic_load(&((struct rrto_kernel *)(uintptr_t)kernel)->settable[id]);
    return rrto_kernel_told(kernel, id);
}

int rrto_kernel_told(const struct rrto_kernel *kernel, int id)
{
    for (uint32_t i = 0; i < kernel->attribute_count; i++)
        if (kernel->attributes[i].id == id)
            return kernel->attributes[i].value;
    return id == 9 ? -1 : 0; /* the preferred carve-out has no value by default */
}

CUresult rrto_cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    struct rrto_kernel *kernel;
    if (!pi || attrib < 0 || attrib > 15)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_use(hfunc, &kernel);
    if (result)
        return result;
    *pi = rrto_kernel_attribute(kernel, attrib);
    return CUDA_SUCCESS;
}

CUresult rrto_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    enum { MAX_DYNAMIC_SHARED = 8, CARVEOUT = 9, CLUSTER_WIDTH = 11, CLUSTER_DEPTH = 13,
           NON_PORTABLE = 14, SCHEDULING = 15 };
    struct rrto_kernel *kernel;
    CUresult result = rrto_use(hfunc, &kernel);
    if (result)
        return result;
    if (attrib == MAX_DYNAMIC_SHARED) {
        int most = rrto_attribute(97); /* shared bytes per block, opt-in */
        if (!most)
            most = rrto_attribute(8) ? rrto_attribute(8) : 49152;
        if (value < 0 || value > most - kernel->static_shared)
            return CUDA_INVALID_VALUE;
        atomic_store(&kernel->dynamic_limit, value);
    } else if (attrib == CARVEOUT) {
        if (value < -1 || value > 100)
            return CUDA_INVALID_VALUE;
        atomic_store(&kernel->settable[attrib], value);
    } else if (attrib >= CLUSTER_WIDTH && attrib <= CLUSTER_DEPTH) {
        if (value > 1)
            return rrto_refuse(CUDA_NOT_SUPPORTED, "cuFuncSetAttribute: clusters (attribute %d)",
                               attrib);
        if (value < 0)
            return CUDA_INVALID_VALUE;
        atomic_store(&kernel->settable[attrib], value);
        return CUDA_SUCCESS;
    } else if (attrib == NON_PORTABLE || attrib == SCHEDULING) {
        /* What clusters of more than one block may do: there are none. */
        if (value < 0 || value > attrib - NON_PORTABLE + 1)
            return CUDA_INVALID_VALUE;
        atomic_store(&kernel->settable[attrib], value);
        return CUDA_SUCCESS;
    } else {
        return CUDA_INVALID_VALUE;
    }
    struct rrto_op_function_set_attribute op = {kernel->module, kernel->index, attrib, value};
    return rrto_emit_function_set_attribute(&op, NULL);
}

CUresult rrto_cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    if (!rrto_kernel_of(hfunc))
        return CUDA_INVALID_HANDLE;
    return config >= 0 && config <= 3 ? CUDA_SUCCESS : CUDA_INVALID_VALUE; /* a preference */
}

CUresult rrto_cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    if (!rrto_kernel_of(hfunc))
        return CUDA_INVALID_HANDLE;
    return config >= 0 && config <= 2 ? CUDA_SUCCESS : CUDA_INVALID_VALUE; /* a preference */
}

CUresult rrto_cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    struct rrto_kernel *kernel = rrto_kernel_of(hfunc);
    if (!hmod)
        return CUDA_INVALID_VALUE;
    if (!kernel)
        return CUDA_INVALID_HANDLE;
    *hmod = kernel->owner->handle;
    return CUDA_SUCCESS;
}

CUresult rrto_cuFuncGetName(const char **name, CUfunction hfunc)
{
    struct rrto_kernel *kernel = rrto_kernel_of(hfunc);
    if (!name || !hfunc)
        return CUDA_INVALID_VALUE;
    if (!kernel)
        return CUDA_INVALID_HANDLE;
    *name = kernel->name;
    return CUDA_SUCCESS;
}

CUresult rrto_cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset,
                                 size_t *paramSize)
{
    struct rrto_kernel *kernel;
    CUresult result = rrto_use(func, &kernel);
    if (result)
        return result;
    if (!paramOffset || paramIndex >= kernel->param_count)
        return CUDA_INVALID_VALUE;
    *paramOffset = kernel->params[paramIndex].offset;
    if (paramSize)
        *paramSize = kernel->params[paramIndex].size;
    return CUDA_SUCCESS;
}

CUresult rrto_cuFuncGetParamCount(CUfunction func, size_t *paramCount)
{
    struct rrto_kernel *kernel;
    if (!paramCount)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_use(func, &kernel);
    if (!result)
        *paramCount = kernel->param_count;
    return result;
}

CUresult rrto_cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    struct rrto_kernel *kernel = rrto_kernel_of(function);
    if (!state)
        return CUDA_INVALID_VALUE;
    if (!kernel)
        return CUDA_INVALID_HANDLE;
    *state = atomic_load(&kernel->there);
    return CUDA_SUCCESS;
}

CUresult rrto_cuFuncLoad(CUfunction function)
{
    struct rrto_kernel *kernel;
    return rrto_use(function, &kernel);
}
