/* Loaded modules, as module.c makes them and library.c and link.c use them. */
#ifndef RRTO_MODULE_H
#define RRTO_MODULE_H
#include "shim.h"

struct rrto_global {
    char *name;
    uint64_t address, bytes;
};

struct rrto_module {
    struct rrto_kernel *kernels;
    uint32_t kernel_count;
    struct rrto_global *globals;
    uint32_t global_count;
    char *names; /* every name, one after another */
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
struct rrto_kernel *rrto_module_kernel(const struct rrto_object *module, const char *name);
const struct rrto_global *rrto_module_global(const struct rrto_object *module, const char *name);
/* ---- jit.c ---- */
void rrto_jit_log(const struct rrto_jit *jit, const char *error);
void rrto_jit_info(const struct rrto_jit *jit, const char *info); /* if it shall be verbose */
int rrto_jit_wants_info(const struct rrto_jit *jit);
void rrto_jit_room(const struct rrto_jit *jit, void *room[2], int restore);
unsigned rrto_jit_registers(const struct rrto_jit *jit); /* most per kernel, 0: any */
uint64_t rrto_jit_clock(void);
void rrto_jit_time(const struct rrto_jit *jit, uint64_t nanoseconds);

#endif
