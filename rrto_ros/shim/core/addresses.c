/* The device's addresses, kept free in the program.
 *
 * cuMemcpy, cuPointerGetAttribute and unified addressing tell host from device by address alone. The
 * device's addresses belong to another process on another machine, so nothing would keep the program's
 * own memory from getting the same ones. A reservation without access does, as the genuine driver's
 * does, and a device pointer that the program reads by mistake faults as it would there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shim.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Where Linux places what a program maps, on x86-64 and aarch64 with 48 bits. */
#define MAPPINGS 0x7E0000000000ull

static void *reserved;
static size_t reserved_bytes;

/* -1 if memory of the program lies there. What cannot be reserved for another reason (the range is
 * beyond this processor's addresses, or a limit on memory forbids it) stays unreserved; so does what a
 * device got among the addresses that a program's own mappings have, because its usual ones were taken:
 * something of the program lies in so large a range almost always, and the session would never start. */
int rrto_keep_free(uint64_t base, uint64_t bytes)
{
    if (reserved_bytes) { /* a session of the process that this one was forked from */
        munmap(reserved, reserved_bytes);
        reserved_bytes = 0;
    }
    /* A device in the program's own process, as in measurements, has its memory there. */
    const char *wish = getenv("RRTO_KEEP_FREE");
    if (wish && !strcmp(wish, "0"))
        return 0;
    if (!bytes || (size_t)bytes != bytes || (uintptr_t)base != base || base % 4096)
        return 0;
#ifdef __SANITIZE_THREAD__
    return 0; /* its runtime gives a program no memory there, and ends one that maps there itself */
#endif
    void *wanted = (void *)(uintptr_t)base;
    void *got = mmap(wanted, (size_t)bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED)
        return errno == EEXIST && base < MAPPINGS ? -1 : 0;
    if (got != wanted) { /* kernels before 4.17 take the flag for a hint */
        munmap(got, (size_t)bytes);
        return base < MAPPINGS ? -1 : 0;
    }
    reserved = got;
    reserved_bytes = (size_t)bytes;
    return 0;
}
