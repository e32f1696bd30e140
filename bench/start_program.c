/* Prints two times of CLOCK_MONOTONIC, in ns, with cuInit between them, and its result. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void)
{
    long long begin = now();
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
    int (*init)(unsigned) = NULL;
    if (cuda)
        *(void **)&init = dlsym(cuda, "cuInit");
    int result = init ? init(0) : -1;
    printf("%lld %lld %d\n", begin, now(), result);
    return result != 0;
}
