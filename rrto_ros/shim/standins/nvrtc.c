/* Gives PTX where a program asks NVRTC for machine code. With a real architecture (sm_XX) NVRTC
 * makes both, and a device that executes PTX can use the PTX alone: nvrtcGetCUBIN gives it in the
 * form of a linked image, which loads and links as a cubin does. Options, errors, warnings and what
 * ptxas says in the log are NVRTC's own.
 *
 * This is no libnvrtc. It is preloaded, and stands between the program and those two functions
 * alone: dlsym hands ours out in their place, and who was linked with -lnvrtc finds ours first.
 * So programs find, load and ask for their own NVRTC, of whatever version and in whatever way they
 * look for it, have all its other functions, and those without NVRTC see none. A library in
 * NVRTC's place would have to be in every program before it looks, be of one version, and know every
 * function. */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linked.h"

#define EXPORT __attribute__((visibility("default")))
#if defined __has_attribute
#if __has_attribute(musttail)
#define TAIL __attribute__((musttail))
#endif
#endif
#ifndef TAIL
#define TAIL
#endif

enum { OK, OUT_OF_MEMORY, INTERNAL_ERROR = 11, MOST_LIBRARIES = 8 };
typedef void *lookup(void *restrict handle, const char *restrict name);
typedef int size_of(void *program, size_t *bytes);
typedef int text_of(void *program, char *text);

/* A real NVRTC. It is never unloaded: programs keep what points into it. */
struct library {
    const void *base;
    size_of *cubin_bytes, *ptx_bytes;
    text_of *cubin, *ptx;
};

static const char cubin_name[] = "nvrtcGetCUBIN", bytes_name[] = "nvrtcGetCUBINSize";

/* The PTX as an image: OK with NULL where there is none. */
static int image_of(const struct library *nvrtc, void *program, char **image, size_t *bytes)
{
    size_t size = 0;
    struct rrto_inputs inputs = {0};
    *image = NULL;
    int result = nvrtc->ptx_bytes(program, &size);
    if (result || size <= 1)
        return result;
    char *text = malloc(size);
    if (!text)
        return OUT_OF_MEMORY;
    result = nvrtc->ptx(program, text);
    if (!result) {
        if (!rrto_inputs_add(&inputs, RRTO_INPUT_PTX, "NVRTC", text, strnlen(text, size)))
            *image = rrto_inputs_image(&inputs, 0, bytes);
        result = *image ? OK : OUT_OF_MEMORY;
        rrto_inputs_free(&inputs);
    }
    free(text);
    return result;
}

static int cubin_bytes(const struct library *nvrtc, void *program, size_t *bytes)
{
    char *image;
    int result = nvrtc->cubin_bytes(program, bytes);
    if (result || !bytes || !*bytes)
        return result;
    result = image_of(nvrtc, program, &image, bytes);
    free(image);
    return result;
}

static int cubin(const struct library *nvrtc, void *program, char *out)
{
    char *image;
    size_t bytes = 0;
    if (nvrtc->cubin_bytes(program, &bytes) || !bytes || !out)
        return nvrtc->cubin(program, out);
    int result = image_of(nvrtc, program, &image, &bytes);
    if (result)
        return result;
    if (!image)
        return nvrtc->cubin(program, out);
    memcpy(out, image, bytes);
    free(image);
    return OK;
}

/* A function has no place for which library it belongs to, so each library has functions. */
static struct library libraries[MOST_LIBRARIES];
#define PAIR(n) \
    static int bytes_##n(void *program, size_t *bytes) \
    { \
        return cubin_bytes(&libraries[n], program, bytes); \
    } \
    static int cubin_##n(void *program, char *out) \
    { \
        return cubin(&libraries[n], program, out); \
    }
PAIR(0) PAIR(1) PAIR(2) PAIR(3) PAIR(4) PAIR(5) PAIR(6) PAIR(7)
static size_of *const sizes[] = {bytes_0, bytes_1, bytes_2, bytes_3,
                                 bytes_4, bytes_5, bytes_6, bytes_7};
static text_of *const texts[] = {cubin_0, cubin_1, cubin_2, cubin_3,
                                 cubin_4, cubin_5, cubin_6, cubin_7};
_Static_assert(sizeof sizes / sizeof *sizes == MOST_LIBRARIES, "one each");

EXPORT int nvrtcGetCUBINSize(void *program, size_t *bytes);
EXPORT int nvrtcGetCUBIN(void *program, char *out);
EXPORT void *dlsym(void *restrict handle, const char *restrict name);

/* The dlsym that comes after ours. */
static lookup *next_dlsym(void)
{
    static _Atomic(lookup *) known;
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
    lookup *found = atomic_load(&known);
    for (unsigned i = 0; !found && i < sizeof versions / sizeof *versions; i++)
        found = (lookup *)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    if (!found) {
        fputs("rrto: the C library has no dlsym of a known version; run the program with "
              "RRTO_STAND_INS=0\n", stderr);
        abort();
    }
    atomic_store(&known, found);
    return found;
}

static int ours(const void *function)
{
    return function == (void *)nvrtcGetCUBIN || function == (void *)nvrtcGetCUBINSize;
}

/* The library that holds a function, by number; -1 if it is not as NVRTC is, or one too many. */
static int number_of(const void *function)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int count;
    Dl_info where;
    if (!function || ours(function) || !dladdr(function, &where))
        return -1;
    void *handle = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle)
        return -1;
    lookup *find = next_dlsym();
    struct library new = {where.dli_fbase, (size_of *)find(handle, bytes_name),
                          (size_of *)find(handle, "nvrtcGetPTXSize"),
                          (text_of *)find(handle, cubin_name),
                          (text_of *)find(handle, "nvrtcGetPTX")};
    if (!new.cubin_bytes || !new.ptx_bytes || !new.cubin || !new.ptx)
        return -1;
    /* Nothing in here waits for the linker: who holds its lock may be waiting for this one. */
    pthread_mutex_lock(&lock);
    int at = 0;
    while (at < count && libraries[at].base != new.base)
        at++;
    if (at == count && count < MOST_LIBRARIES)
        libraries[count++] = new;
    pthread_mutex_unlock(&lock);
    return at < MOST_LIBRARIES ? at : -1;
}

static int loaded_nvrtc(struct dl_phdr_info *info, size_t size, void *out)
{
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash ? slash + 1 : info->dlpi_name;
    (void)size;
    if (strncmp(name, "libnvrtc.", 9))
        return 0;
    *(char **)out = strdup(info->dlpi_name);
    return 1;
}

/* The real function that code at `caller` means without naming a library. */
static void *meant_by(const void *caller, const char *name)
{
    Dl_info where;
    lookup *find = next_dlsym();
    void *found = NULL;
    /* That of the library that it was linked with, which it may have for itself; */
    void *handle = dladdr(caller, &where) ? dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (handle) {
        found = find(handle, name);
        dlclose(handle);
    }
    /* that of the whole program; */
    if (!found || ours(found))
        found = find(RTLD_NEXT, name);
    /* or the one that was loaded. */
    char *path = NULL;
    if (!found && dl_iterate_phdr(loaded_nvrtc, &path) && path) {
        handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        found = handle ? find(handle, name) : NULL;
    }
    free(path);
    return found;
}

static void *stand_in(void *handle, const char *name, const void *caller)
{
    void *found = next_dlsym()(handle, name);
    if (ours(found))
        found = meant_by(caller, name);
    int number = number_of(found);
    if (number < 0)
        return found;
    return strcmp(name, bytes_name) ? (void *)texts[number] : (void *)sizes[number];
}

/* RTLD_NEXT and RTLD_DEFAULT go by who calls, so this must be a jump and not a call. */
void *dlsym(void *restrict handle, const char *restrict name)
{
    if (handle != RTLD_NEXT && (!strcmp(name, cubin_name) || !strcmp(name, bytes_name)))
        return stand_in(handle, name, __builtin_return_address(0));
    TAIL return next_dlsym()(handle, name);
}

static int missing(const char *name)
{
    fprintf(stderr, "rrto: %s was called and no libnvrtc is loaded\n", name);
    return INTERNAL_ERROR;
}

int nvrtcGetCUBINSize(void *program, size_t *bytes)
{
    size_of *real = (size_of *)meant_by(__builtin_return_address(0), bytes_name);
    int number = number_of((void *)real);
    if (number >= 0)
        return sizes[number](program, bytes);
    return real ? real(program, bytes) : missing(bytes_name);
}

int nvrtcGetCUBIN(void *program, char *out)
{
    text_of *real = (text_of *)meant_by(__builtin_return_address(0), cubin_name);
    int number = number_of((void *)real);
    if (number >= 0)
        return texts[number](program, out);
    return real ? real(program, out) : missing(cubin_name);
}
