/* Stands in for nvJitLink where the device executes PTX. nvJitLink makes machine code, which such a
 * device cannot run. Without nvJitLinkVersion this is, for cuda.core and numba-cuda, a library that
 * is too old: they link with the driver's cuLink instead, which the device does from PTX. Whoever
 * calls the functions all the same is refused, and told why. */
#include <stdatomic.h>
#include <stdio.h>

enum { NVJITLINK_ERROR_INTERNAL = 6 };

static int refuse(void)
{
    static atomic_int said;
    if (!atomic_exchange(&said, 1))
        fputs("rrto: nvJitLink makes machine code, and device cpu executes PTX: link with cuLink* "
              "(RRTO_STAND_INS=0 leaves the program its own nvJitLink)\n", stderr);
    return NVJITLINK_ERROR_INTERNAL;
}

#define ONE(name) __attribute__((visibility("default"))) int name(void); \
    int name(void) { return refuse(); }
#define MINORS(name, major) ONE(name##_##major##_0) ONE(name##_##major##_1) \
    ONE(name##_##major##_2) ONE(name##_##major##_3) ONE(name##_##major##_4) \
    ONE(name##_##major##_5) ONE(name##_##major##_6) ONE(name##_##major##_7) \
    ONE(name##_##major##_8) ONE(name##_##major##_9)
#define EACH(name) ONE(nvJitLink##name) MINORS(__nvJitLink##name, 12) MINORS(__nvJitLink##name, 13)

EACH(Create)
EACH(Destroy)
EACH(AddData)
EACH(AddFile)
EACH(Complete)
EACH(GetLinkedCubinSize)
EACH(GetLinkedCubin)
EACH(GetLinkedPtxSize)
EACH(GetLinkedPtx)
EACH(GetLinkedLTOIRSize)
EACH(GetLinkedLTOIR)
EACH(GetErrorLogSize)
EACH(GetErrorLog)
EACH(GetInfoLogSize)
EACH(GetInfoLog)
