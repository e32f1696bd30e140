/* A program as nvcc makes them: it uses the CUDA runtime library alone, linked with whichever copy
 * the test names, and has its kernel in a fatbin that is registered before main.
 *
 *     runtime_program FATBIN PTX          every step; a line for each, exit code 1 at the first wrong
 *     runtime_program FATBIN PTX alloc    only an allocation; prints its error's number and name
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Error;
typedef struct {
    unsigned x, y, z;
} Dim3;
enum { TO_DEVICE = 1, TO_HOST = 2, COUNT = 1000, BYTES = COUNT * 4, PROPERTIES = 4096 };

Error cudaDriverGetVersion(int *);
Error cudaRuntimeGetVersion(int *);
Error cudaGetDeviceCount(int *);
Error cudaGetDeviceProperties(void *, int);
Error cudaGetDeviceProperties_v2(void *, int) __attribute__((weak));
Error cudaDeviceGetAttribute(int *, int, int);
Error cudaMalloc(void **, size_t);
Error cudaFree(void *);
Error cudaMallocHost(void **, size_t);
Error cudaFreeHost(void *);
Error cudaMemcpy(void *, const void *, size_t, int);
Error cudaMemcpyAsync(void *, const void *, size_t, int, void *);
Error cudaMemset(void *, int, size_t);
Error cudaMemGetInfo(size_t *, size_t *);
Error cudaStreamCreate(void **);
Error cudaStreamCreateWithFlags(void **, unsigned);
Error cudaStreamDestroy(void *);
Error cudaStreamSynchronize(void *);
Error cudaStreamWaitEvent(void *, void *, unsigned);
Error cudaEventCreate(void **);
Error cudaEventDestroy(void *);
Error cudaEventRecord(void *, void *);
Error cudaEventSynchronize(void *);
Error cudaEventElapsedTime(float *, void *, void *);
Error cudaEventQuery(void *);
Error cudaFuncGetAttributes(void *, const void *);
Error cudaLaunchKernel(const void *, Dim3, Dim3, void **, size_t, void *);
Error cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, int);
Error cudaMemcpyFromSymbol(void *, const void *, size_t, size_t, int);
Error cudaDeviceSynchronize(void);
Error cudaDeviceReset(void);
Error cudaGetLastError(void);
const char *cudaGetErrorName(Error);
Error cudaLibraryLoadData(void **, const void *, void *, void *, unsigned, void *, void *, unsigned)
    __attribute__((weak));
Error cudaLibraryGetKernel(void **, void *, const char *) __attribute__((weak));
Error cudaLibraryUnload(void *) __attribute__((weak));

void **__cudaRegisterFatBinary(void *);
void __cudaRegisterFatBinaryEnd(void **);
void __cudaUnregisterFatBinary(void **);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, Dim3 *,
                            Dim3 *, int *);
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int);

static void check(Error error, const char *what)
{
    if (error) {
        printf("%s: %d %s\n", what, error, cudaGetErrorName(error));
        exit(1);
    }
    printf("%s\n", what);
    fflush(stdout);
}

static void want(int right, const char *what)
{
    if (!right) {
        printf("%s: wrong\n", what);
        exit(1);
    }
    printf("%s\n", what);
    fflush(stdout);
}

#define DO(call) check(call, #call)
#define WANT(truth) want(truth, #truth)

static char *whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        exit(2);
    size_t bytes = (size_t)ftell(file);
    char *text = calloc(1, bytes + 1);
    rewind(file);
    if (!text || fread(text, 1, bytes, file) != bytes)
        exit(2);
    fclose(file);
    return text;
}

/* What nvcc writes for `__global__ void scale(float *, float, unsigned)` and a `__device__` array:
 * the host's addresses stand for the device's. */
static void scale(void)
{
}
static float offset[4];

static int scaled(const float *from, const float *to, float factor)
{
    for (int i = 0; i < COUNT; i++)
        if (to[i] != from[i] * factor)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    struct {
        int magic, version;
        const void *data;
        void *more;
    } wrapper = {0x466243b1, 1, NULL, NULL};
    if (argc < 3)
        return 2;
    wrapper.data = whole(argv[1]);
    char *ptx = whole(argv[2]);
    void **fatbin = __cudaRegisterFatBinary(&wrapper);
    __cudaRegisterFunction(fatbin, (const char *)scale, "scale", "scale", -1, NULL, NULL, NULL, NULL,
                           NULL);
    __cudaRegisterVar(fatbin, (char *)offset, "offset", "offset", 0, sizeof offset, 0, 0);
    __cudaRegisterFatBinaryEnd(fatbin);

    void *device = NULL;
    if (argc > 3) {
        Error error = cudaMalloc(&device, BYTES);
        printf("%d %s\n", error, cudaGetErrorName(error));
        return 0;
    }

    int driver = 0, runtime = 0, count = 0, major = 0;
    DO(cudaDriverGetVersion(&driver));
    DO(cudaRuntimeGetVersion(&runtime));
    printf("driver %d, runtime %d\n", driver, runtime);
    DO(cudaGetDeviceCount(&count));
    WANT(count == 1);
    static union {
        char name[PROPERTIES]; /* the first field; total memory lies at 288 */
        size_t words[PROPERTIES / 8];
    } properties;
    if (cudaGetDeviceProperties_v2)
        DO(cudaGetDeviceProperties_v2(&properties, 0));
    else
        DO(cudaGetDeviceProperties(&properties, 0));
    size_t free_bytes = 0, total = 0;
    DO(cudaMemGetInfo(&free_bytes, &total));
    WANT(strlen(properties.name) > 0);
    WANT(properties.words[288 / 8] == total);
    DO(cudaDeviceGetAttribute(&major, 75, 0));
    WANT(major >= 7);

    float *from, *to;
    DO(cudaMallocHost((void **)&from, BYTES));
    DO(cudaMallocHost((void **)&to, BYTES));
    for (int i = 0; i < COUNT; i++)
        from[i] = (float)i;
    DO(cudaMalloc(&device, BYTES));
    DO(cudaMemcpy(device, from, BYTES, TO_DEVICE));
    DO(cudaMemcpy(to, device, BYTES, TO_HOST));
    WANT(!memcmp(from, to, BYTES));
    DO(cudaMemset(device, 0x3F, BYTES));
    DO(cudaMemcpy(to, device, BYTES, TO_HOST));
    WANT(((unsigned char *)to)[BYTES - 1] == 0x3F);

    void *stream, *other, *begin, *end;
    float ms = -1, factor = 2.5f;
    unsigned number = COUNT;
    void *arguments[] = {&device, &factor, &number};
    Dim3 grid = {(COUNT + 127) / 128, 1, 1}, block = {128, 1, 1};
    DO(cudaStreamCreate(&stream));
    DO(cudaStreamCreateWithFlags(&other, 1));
    DO(cudaEventCreate(&begin));
    DO(cudaEventCreate(&end));
    DO(cudaEventRecord(begin, stream));
    DO(cudaMemcpyAsync(device, from, BYTES, TO_DEVICE, stream));
    DO(cudaLaunchKernel((const void *)scale, grid, block, arguments, 0, stream));
    DO(cudaEventRecord(end, stream));
    DO(cudaStreamWaitEvent(other, end, 0));
    DO(cudaMemcpyAsync(to, device, BYTES, TO_HOST, other));
    DO(cudaStreamSynchronize(other));
    WANT(scaled(from, to, 2.5f));
    DO(cudaEventSynchronize(end));
    DO(cudaEventQuery(end));
    DO(cudaEventElapsedTime(&ms, begin, end));
    WANT(ms >= 0);

    static int attributes[64];
    DO(cudaFuncGetAttributes(attributes, (const void *)scale));
    float wanted[4] = {5, 6, 7, 8}, got[4] = {0};
    DO(cudaMemcpyFromSymbol(got, offset, sizeof got, 0, TO_HOST));
    WANT(got[0] == 1 && got[3] == 4);
    DO(cudaMemcpyToSymbol(offset, wanted, sizeof wanted, 0, TO_DEVICE));
    DO(cudaMemcpyFromSymbol(got, offset, sizeof got, 0, TO_HOST));
    WANT(!memcmp(wanted, got, sizeof got));

    if (cudaLibraryLoadData) {
        void *library, *kernel;
        factor = 4;
        DO(cudaLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0));
        DO(cudaLibraryGetKernel(&kernel, library, "scale"));
        DO(cudaMemcpy(device, from, BYTES, TO_DEVICE));
        DO(cudaLaunchKernel(kernel, grid, block, arguments, 0, NULL));
        DO(cudaMemcpy(to, device, BYTES, TO_HOST));
        WANT(scaled(from, to, 4));
        DO(cudaLibraryUnload(library));
    }
    /* A wrong call is an error of the runtime, and leaves the rest as it was. */
    block.x = 4096;
    Error wrong = cudaLaunchKernel((const void *)scale, grid, block, arguments, 0, NULL);
    WANT(wrong == 9 || wrong == 1); /* invalid configuration; CUDA 13.5 leaves it to the driver */
    WANT(cudaGetLastError() == wrong);
    block.x = 128;

    DO(cudaEventDestroy(begin));
    DO(cudaEventDestroy(end));
    DO(cudaStreamDestroy(stream));
    DO(cudaStreamDestroy(other));
    DO(cudaFreeHost(to));
    DO(cudaFree(device));
    DO(cudaDeviceSynchronize());
    DO(cudaDeviceReset());
    /* All over again: the context is new, and the kernel is loaded once more. */
    factor = 3;
    DO(cudaMalloc(&device, BYTES));
    to = malloc(BYTES);
    for (int i = 0; i < COUNT; i++)
        to[i] = (float)i;
    DO(cudaMemcpy(device, to, BYTES, TO_DEVICE));
    DO(cudaLaunchKernel((const void *)scale, grid, block, arguments, 0, NULL));
    DO(cudaMemcpy(to, device, BYTES, TO_HOST));
    WANT(to[0] == 0 && to[1] == 3 && to[COUNT - 1] == 3 * (COUNT - 1));
    DO(cudaFree(device));
    __cudaUnregisterFatBinary(fatbin);
    printf("done\n");
    return 0;
}
