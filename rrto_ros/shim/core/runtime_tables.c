/* The tables of functions that NVIDIA's CUDA runtime library asks for (api/runtime_tables.py): which
 * one a UUID means, and what their plain slots do. Context-local storage is in storage.c, the
 * runtime's validity check in validity.c. */
#include <string.h>

#include "runtime_tables.h"
#include "shim.h"

CUresult rrto_cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
    if (!ppExportTable || !pExportTableId)
        return CUDA_INVALID_VALUE;
    *ppExportTable = NULL;
    const unsigned char *id = pExportTableId->bytes;
    const char *name = "unknown";
    for (size_t i = 0; i < RRTO_TABLES; i++) {
        if (memcmp(rrto_tables[i].id, id, 16))
            continue;
        if (rrto_tables[i].words) {
            *ppExportTable = rrto_tables[i].words;
            return CUDA_SUCCESS;
        }
        name = rrto_tables[i].name;
    }
    /* Never made up: a program that needs another one is told so, and the report names it. */
    return rrto_refuse(CUDA_INVALID_VALUE,
                       "cuGetExportTable: %02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
                       "%02x%02x%02x%02x%02x%02x (%s)",
                       id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10],
                       id[11], id[12], id[13], id[14], id[15], name);
}

void rrto_table_nothing(void)
{
}

CUresult rrto_table_load_compilers(void)
{
    return CUDA_SUCCESS; /* the server's device has its own */
}

CUresult rrto_table_primary_context(CUcontext *pctx, CUdevice dev)
{
    if (!pctx)
        return CUDA_INVALID_VALUE;
    *pctx = rrto_primary(dev);
    return *pctx ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}

CUresult rrto_table_load_module(CUmodule *module, const void *image)
{
    return rrto_cuModuleLoadData(module, image);
}

CUresult rrto_table_load_module_with(CUmodule *module, const void *image, void *more, void *most,
                                     unsigned int flags)
{
    if (more || most || flags)
        return rrto_refuse(CUDA_NOT_SUPPORTED, "table CUDART_INTERFACE: a module with options");
    return rrto_cuModuleLoadData(module, image);
}

CUresult rrto_table_load_image_with(const void *image, CUmodule *module, void *more, void *most,
                                    unsigned int flags)
{
    return rrto_table_load_module_with(module, image, more, most, flags);
}

/* Where tools say what they want to be called for: none does. The caller may write into them. */
static void give(void **buffer, size_t *count, void *entries, size_t room)
{
    if (buffer)
        *buffer = entries;
    if (count)
        *count = room;
}

void rrto_table_hooks(void **buffer, size_t *count)
{
    static uint64_t entries[1024];
    give(buffer, count, entries, sizeof entries / sizeof *entries);
}

void rrto_table_more_hooks(void **buffer, size_t *count)
{
    static uint64_t entries[14];
    give(buffer, count, entries, sizeof entries / sizeof *entries);
}

CUresult rrto_table_current_context(CUcontext *pctx)
{
    return rrto_cuCtxGetCurrent(pctx);
}

CUresult rrto_table_context_check(CUcontext ctx, unsigned int *flags, const void **more)
{
    (void)ctx, (void)more; /* left as it was, which drivers do with nothing to tell */
    if (!flags)
        return CUDA_INVALID_VALUE;
    *flags = 0;
    return CUDA_SUCCESS;
}

unsigned int rrto_table_check_flags(void)
{
    return 0;
}

CUresult rrto_table_context_id(CUcontext ctx, unsigned long long *ctxId)
{
    return rrto_cuCtxGetId(ctx, ctxId);
}

CUresult rrto_table_stream_id(CUcontext ctx, CUstream stream, unsigned long long *streamId)
{
    struct rrto_object *context;
    CUresult result = stream && streamId ? rrto_context_of(ctx, &context) : CUDA_INVALID_VALUE;
    return result ? result : rrto_cuStreamGetId(stream, streamId);
}

CUresult rrto_table_stream_meant(CUcontext ctx, CUstream stream, CUstream *pstream, int per_thread)
{
    struct rrto_object *context;
    unsigned long long id;
    CUresult result = pstream ? rrto_context_of(ctx, &context) : CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_cuStreamGetId(stream, &id);
    if (!result)
        *pstream = stream ? stream : (CUstream)(uintptr_t)(per_thread ? 2 : 1);
    return result;
}
