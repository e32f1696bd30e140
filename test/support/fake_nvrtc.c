/* As much of NVRTC as its stand-in uses, and one function more. A program is a number that says
 * what comes of it; MAJOR is in all that it gives. */
#include <stddef.h>
#include <string.h>

enum { BOTH, PTX_ALONE, CUBIN_ALONE, NOT_COMPILED, PTX_FAILS };
#define TEXT(major) TEXT_OF(major)
#define TEXT_OF(major) ".version 8.0\n.target sm_90\n.address_size 64\n// of NVRTC " #major "\n"
static const char ptx[] = TEXT(MAJOR), cubin[] = "machine code";

int nvrtcVersion(int *major, int *minor)
{
    *major = MAJOR;
    *minor = 0;
    return 0;
}

int nvrtcGetPTXSize(const int *program, size_t *bytes)
{
    *bytes = *program == CUBIN_ALONE ? 1 : sizeof ptx;
    return *program == PTX_FAILS ? 7 : 0;
}

int nvrtcGetPTX(const int *program, char *out)
{
    memcpy(out, *program == CUBIN_ALONE ? "" : ptx, *program == CUBIN_ALONE ? 1 : sizeof ptx);
    return 0;
}

int nvrtcGetCUBINSize(const int *program, size_t *bytes)
{
    *bytes = *program == PTX_ALONE ? 0 : sizeof cubin;
    return *program == NOT_COMPILED ? 5 : 0;
}

int nvrtcGetCUBIN(const int *program, char *out)
{
    memcpy(out, cubin, *program == PTX_ALONE ? 0 : sizeof cubin);
    return *program == NOT_COMPILED ? 5 : 0;
}
