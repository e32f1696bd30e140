/* Loaded modules, as module.c makes them and library.c and link.c use them. */
#ifndef RRTO_MODULE_H
#define RRTO_MODULE_H
#include "shim.h"

struct rrto_global {
    char *name;
    uint64_t address, bytes;
};

/* `loaded`, kernels and variables change under the lock, until the server has the module. */
struct rrto_module {
    pthread_mutex_t lock;
    _Atomic int loaded; /* the server has it */
    int named;          /* kernels have names, maybe no more than that */
    CUresult failed;    /* the server does not take it */
    unsigned registers; /* most per kernel that the program wants, 0: any */
    struct rrto_image source; /* until it is loaded */
    struct rrto_kernel **kernels;
    uint32_t kernel_count, kernel_room;
    struct rrto_global *globals;
    uint32_t global_count;
};

struct rrto_jit {
    unsigned count;
    const CUjit_option *options;
    void **values;        /* the program's, where results go */
    void *const *inputs; /* what they were, where the program's may be gone; NULL: values */
};

CUresult rrto_load(const struct rrto_image *image, const struct rrto_jit *jit,
                   struct rrto_object **out);
CUresult rrto_unload(struct rrto_object *module);
CUresult rrto_module_kernel(struct rrto_object *module, const char *name, struct rrto_kernel **out);
int rrto_loads_lazily(void); /* CUDA_MODULE_LOADING */
/* ---- module_info.c ---- */
int rrto_module_read(struct rrto_object *owner, const unsigned char *data, size_t bytes);
int rrto_kernel_read(struct rrto_kernel *kernel, const unsigned char *data, size_t bytes);
struct rrto_kernel *rrto_kernel_new(struct rrto_module *module, struct rrto_object *owner,
                                    const char *name, size_t bytes);
/* By name; `hint`: where it probably is. */
struct rrto_kernel *rrto_kernel_named(const struct rrto_module *module, const char *name,
                                      size_t bytes, uint32_t hint);
void rrto_module_free(struct rrto_module *module); /* and its kernels' handles */
/* ---- cubin.c ---- */
/* Calls `each` for each kernel of machine code, by name; how many, or -1: it cannot be told here. */
int rrto_image_kernels(const struct rrto_image *image, int (*each)(void *arg, const char *name),
                       void *arg);
/* ---- jit.c ---- */
void rrto_jit_log(const struct rrto_jit *jit, const char *error);
void rrto_jit_info(const struct rrto_jit *jit, const char *info); /* if it shall be verbose */
int rrto_jit_wants_info(const struct rrto_jit *jit);
void rrto_jit_room(const struct rrto_jit *jit, void *room[2], int restore);
unsigned rrto_jit_registers(const struct rrto_jit *jit); /* most per kernel, 0: any */
uint64_t rrto_jit_clock(void);
void rrto_jit_time(const struct rrto_jit *jit, uint64_t nanoseconds);

#endif
