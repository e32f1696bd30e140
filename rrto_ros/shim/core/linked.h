/* The image that stands for a link: its inputs in one ELF file (devices/linked.py reads it). */
#ifndef RRTO_LINKED_H
#define RRTO_LINKED_H
#include <stddef.h>

enum { RRTO_INPUT_CUBIN, RRTO_INPUT_PTX, RRTO_INPUT_FATBINARY, RRTO_INPUT_OBJECT,
       RRTO_INPUT_LIBRARY };

struct rrto_input {
    int kind; /* as in CUjitInputType */
    char *name;
    char *data;
    size_t bytes;
};

struct rrto_inputs {
    struct rrto_input *each;
    unsigned count;
};

/* Copies an input; one that is such an image itself gives all of its own. 0, or -1: no memory,
 * -2: too many or too large. */
int rrto_inputs_add(struct rrto_inputs *to, int kind, const char *name, const void *data,
                    size_t bytes);
/* The image, allocated; NULL: no memory. `registers`: as many as a kernel may have, 0: any. */
char *rrto_inputs_image(const struct rrto_inputs *inputs, unsigned registers, size_t *bytes);
void rrto_inputs_free(struct rrto_inputs *inputs);
/* The `registers` of such an image. */
unsigned rrto_linked_registers(const void *data, size_t bytes);
/* Whether data is such an image. */
int rrto_is_linked(const void *data, size_t bytes);

#endif
