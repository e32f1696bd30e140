/* libnvidia-ml.so.1 on a machine without NVIDIA's driver. Programs (XLA, and with it JAX) take a
 * machine on which NVML does not start for one without a GPU. This one starts and has no sensors:
 * its other functions are not there, as in an old version of it, so that nobody reads made-up
 * numbers. The GPU is another machine's, and the offload server reports its sensors. */
#include <stdatomic.h>
#include <stddef.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, FUNCTION_NOT_FOUND = 13 };

#define EXPORT __attribute__((visibility("default")))

static atomic_uint users;

EXPORT int nvmlInitWithFlags(unsigned int flags);
EXPORT int nvmlInit_v2(void);
EXPORT int nvmlInit(void);
EXPORT int nvmlShutdown(void);
EXPORT const char *nvmlErrorString(int result);

int nvmlInitWithFlags(unsigned int flags)
{
    if (flags & ~3u) /* NO_GPUS, NO_ATTACH */
        return INVALID_ARGUMENT;
    atomic_fetch_add(&users, 1);
    return SUCCESS;
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    unsigned int now = atomic_load(&users);
    while (now && !atomic_compare_exchange_weak(&users, &now, now - 1))
        ;
    return now ? SUCCESS : UNINITIALIZED;
}

const char *nvmlErrorString(int result)
{
    static const struct {
        int result;
        const char *text;
    } texts[] = {
        {SUCCESS, "Success"},
        {UNINITIALIZED, "Uninitialized"},
        {INVALID_ARGUMENT, "Invalid Argument"},
        {FUNCTION_NOT_FOUND, "Function Not Found"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].result == result)
            return texts[i].text;
    return "Unknown Error";
}
