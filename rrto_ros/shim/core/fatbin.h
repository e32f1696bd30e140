/* Which part of a module image the session's device needs (devices/images.py reads the same). */
#ifndef RRTO_FATBIN_H
#define RRTO_FATBIN_H
#include "shim.h"

struct rrto_choice {
    struct rrto_image image; /* what goes to the server; `owned` is to be freed */
    int machine_code;        /* nothing is compiled: the server can have it later */
    char why[256];           /* of an error, one line */
};

/* The images of a fatbin that the device may choose from, the whole image where that cannot be
 * told here; NO_BINARY_FOR_GPU where there is none for it. `image` must live as long as the choice. */
CUresult rrto_choose(const struct rrto_image *image, struct rrto_choice *out);

#endif
