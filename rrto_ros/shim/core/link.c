/* cuLink: inputs are collected here and linked where they are loaded. Completing a link loads its
 * image once and unloads it, so that what is missing or does not fit is said now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linked.h"
#include "module.h"

struct image {
    struct image *before;
    char *data;
};

struct link {
    struct rrto_inputs inputs;
    struct image *images; /* what the program was given; valid until the link is destroyed */
    struct rrto_jit jit;
    CUjit_option *options;
    void **values; /* as they were: only those that are written may be looked at later */
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

CUresult rrto_cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues,
                              CUlinkState *stateOut)
{
    if (!stateOut || (numOptions && (!options || !optionValues)))
        return CUDA_INVALID_VALUE;
    struct rrto_object *object = rrto_new(RRTO_LINK);
    struct link *link = calloc(1, sizeof *link);
    CUjit_option *copy = malloc(numOptions * sizeof *copy + 1);
    void **values = malloc(numOptions * sizeof *values + 1);
    if (!object || !link || !copy || !values) {
        if (object)
            rrto_drop(RRTO_LINK, object);
        free(link);
        free(copy);
        free(values);
        return CUDA_OUT_OF_MEMORY;
    }
    if (numOptions)
        memcpy(copy, options, numOptions * sizeof *copy);
    if (numOptions)
        memcpy(values, optionValues, numOptions * sizeof *values);
    link->options = copy;
    link->values = values;
    link->jit = (struct rrto_jit){numOptions, copy, optionValues, values};
    link->began = rrto_jit_clock();
    rrto_jit_room(&link->jit, link->room, 0);
    object->data = link;
    *stateOut = object->handle;
    return CUDA_SUCCESS;
}

static CUresult add_input(struct link *link, int type, const char *name, const void *data,
                          size_t bytes)
{
    if (!data || !bytes || type < RRTO_INPUT_CUBIN || type > RRTO_INPUT_LIBRARY + 1)
        return CUDA_INVALID_VALUE;
    if (type > RRTO_INPUT_LIBRARY) {
        link_says(link, "error   : NVVM input cannot be linked\n", "");
        return rrto_refuse(CUDA_NOT_SUPPORTED, "cuLinkAddData: NVVM input (type %d)", type);
    }
    if (type == RRTO_INPUT_PTX)
        bytes = strnlen(data, bytes);
    int bad = bytes ? rrto_inputs_add(&link->inputs, type, name, data, bytes) : -2;
    if (bad == -1)
        return CUDA_OUT_OF_MEMORY;
    if (bad)
        return rrto_refuse(CUDA_INVALID_IMAGE, "cuLinkAddData: an input of %zu bytes (as number "
                           "%u) is empty, damaged or one too many", bytes, link->inputs.count);
    return CUDA_SUCCESS;
}

CUresult rrto_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
                               const char *name, unsigned int numOptions, CUjit_option *options,
                               void **optionValues)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    (void)numOptions, (void)options, (void)optionValues;
    return object ? add_input(object->data, type, name, data, size) : CUDA_INVALID_HANDLE;
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
    const char *name = strrchr(path, '/');
    result = add_input(object->data, type, name ? name + 1 : path, image.data, image.bytes);
    free(image.owned);
    return result;
}

CUresult rrto_cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state), *loaded;
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct link *link = object->data;
    if (!cubinOut || !link->inputs.count)
        return CUDA_INVALID_VALUE;
    struct image *image = malloc(sizeof *image);
    size_t bytes;
    char *data = rrto_inputs_image(&link->inputs, rrto_jit_registers(&link->jit), &bytes);
    if (!image || !data || bytes >= UINT32_MAX) {
        free(image);
        free(data);
        return CUDA_OUT_OF_MEMORY;
    }
    *image = (struct image){link->images, data};
    rrto_jit_room(&link->jit, link->room, 1);
    struct rrto_image what = {.data = data, .bytes = bytes};
    CUresult result = rrto_load(&what, &link->jit, &loaded);
    if (!result)
        result = rrto_unload(loaded);
    else if (result == CUDA_INVALID_SOURCE)
        result = CUDA_UNKNOWN; /* as a driver has it where symbols are missing or do not fit */
    if (result) {
        free(image);
        free(data);
        return result;
    }
    link->images = image;
    char info[64];
    snprintf(info, sizeof info, "info    : %u inputs, %zu bytes\n", link->inputs.count, bytes);
    link_says(link, "", info);
    *cubinOut = data;
    if (sizeOut)
        *sizeOut = bytes;
    return CUDA_SUCCESS;
}

CUresult rrto_cuLinkDestroy(CUlinkState state)
{
    struct rrto_object *object = rrto_find(RRTO_LINK, state);
    if (!object)
        return CUDA_INVALID_HANDLE;
    struct link *link = object->data;
    rrto_drop(RRTO_LINK, object);
    while (link->images) {
        struct image *image = link->images;
        link->images = image->before;
        free(image->data);
        free(image);
    }
    rrto_inputs_free(&link->inputs);
    free(link->options);
    free(link->values);
    free(link);
    return CUDA_SUCCESS;
}
