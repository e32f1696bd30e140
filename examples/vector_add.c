/* Add two vectors with the CUDA driver API in plain C, and compare with the CPU, exactly.
 *
 * Needs no CUDA toolkit: the few prototypes are declared here, the kernel is PTX text.
 *
 *     gcc -std=c11 -O2 -Wall -Wextra -Werror vector_add.c -o vector_add -lcuda
 *
 * libcuda comes with the GPU's driver; where the linker does not find it, name its folder with -L,
 * or link with -l:libcuda.so.1. Usage: vector_add [--help] [ELEMENTS]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef unsigned long long CUdeviceptr;

CUresult cuInit(unsigned int flags);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceGetName(char *name, int length, CUdevice device);
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuModuleLoadData(CUmodule *module, const void *image);
CUresult cuModuleUnload(CUmodule module);
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name);
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes);
CUresult cuMemFree_v2(CUdeviceptr address);
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned int value, size_t count);
CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                        unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                        unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                        void **parameters, void **extra);
CUresult cuCtxSynchronize(void);
CUresult cuGetErrorName(CUresult error, const char **name);

enum { BLOCK = 256 };

static const char PTX[] =
    ".version 7.0\n"
    ".target sm_75\n"
    ".address_size 64\n"
    ".visible .entry vector_add(\n"
    "    .param .u64 a_param, .param .u64 b_param, .param .u64 out_param,\n"
    "    .param .u32 count_param)\n"
    "{\n"
    "    .reg .pred %p<2>;\n"
    "    .reg .f32 %f<4>;\n"
    "    .reg .b32 %r<6>;\n"
    "    .reg .b64 %rd<11>;\n"
    "    ld.param.u64 %rd1, [a_param];\n"
    "    ld.param.u64 %rd2, [b_param];\n"
    "    ld.param.u64 %rd3, [out_param];\n"
    "    ld.param.u32 %r2, [count_param];\n"
    "    mov.u32 %r3, %ctaid.x;\n"
    "    mov.u32 %r4, %ntid.x;\n"
    "    mov.u32 %r5, %tid.x;\n"
    "    mad.lo.s32 %r1, %r3, %r4, %r5;\n"
    "    setp.ge.u32 %p1, %r1, %r2;\n"
    "    @%p1 bra $done;\n"
    "    cvta.to.global.u64 %rd4, %rd1;\n"
    "    cvta.to.global.u64 %rd5, %rd2;\n"
    "    cvta.to.global.u64 %rd6, %rd3;\n"
    "    mul.wide.u32 %rd7, %r1, 4;\n"
    "    add.s64 %rd8, %rd4, %rd7;\n"
    "    add.s64 %rd9, %rd5, %rd7;\n"
    "    add.s64 %rd10, %rd6, %rd7;\n"
    "    ld.global.f32 %f1, [%rd8];\n"
    "    ld.global.f32 %f2, [%rd9];\n"
    "    add.rn.f32 %f3, %f1, %f2;\n"
    "    st.global.f32 [%rd10], %f3;\n"
    "$done:\n"
    "    ret;\n"
    "}\n";

static void check(CUresult result, const char *call)
{
    if (result == 0)
        return;
    const char *name = NULL;
    if (cuGetErrorName(result, &name) != 0 || name == NULL)
        name = "unknown error";
    fprintf(stderr, "%s: %s (%d)\n", call, name, result);
    exit(1);
}
#define CHECK(call) check((call), #call)

static float *make_floats(size_t count, uint32_t state)
{
    float *values = malloc(count * sizeof *values);
    if (values == NULL) {
        fprintf(stderr, "no memory for %zu floats\n", count);
        exit(1);
    }
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) / 65536.0f - 128.0f;
    }
    return values;
}

int main(int argc, char **argv)
{
    unsigned int count = 100003;
    if (argc > 1) {
        char *end = NULL;
        unsigned long given = strtoul(argv[1], &end, 10);
        if (argc > 2 || *end != '\0' || given < 1 || given > 100000000ul) {
            int help = strcmp(argv[1], "--help") == 0;
            fprintf(help ? stdout : stderr,
                    "usage: %s [--help] [ELEMENTS]   1 to 100000000, default 100003\n", argv[0]);
            return help ? 0 : 2;
        }
        count = (unsigned int)given;
    }
    size_t bytes = count * sizeof(float);
    float *a = make_floats(count, 1), *b = make_floats(count, 2), *out = make_floats(count, 3);

    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction function;
    CUdeviceptr a_device, b_device, out_device;
    char name[256] = "";
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDeviceGetName(name, sizeof name, device));
    printf("device 0: %s\n", name);
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, PTX));
    CHECK(cuModuleGetFunction(&function, module, "vector_add"));
    CHECK(cuMemAlloc_v2(&a_device, bytes));
    CHECK(cuMemAlloc_v2(&b_device, bytes));
    CHECK(cuMemAlloc_v2(&out_device, bytes));
    CHECK(cuMemcpyHtoD_v2(a_device, a, bytes));
    CHECK(cuMemcpyHtoD_v2(b_device, b, bytes));
    CHECK(cuMemsetD32_v2(out_device, 0x7fc00000u, count)); /* NaN */

    void *parameters[] = {&a_device, &b_device, &out_device, &count};
    CHECK(cuLaunchKernel(function, (count + BLOCK - 1) / BLOCK, 1, 1, BLOCK, 1, 1, 0, NULL,
                         parameters, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH_v2(out, out_device, bytes));

    unsigned int wrong = 0;
    for (unsigned int i = 0; i < count; i++)
        wrong += !(out[i] == a[i] + b[i]);
    printf("vector add, %u float32: %u elements differ from the CPU (want 0)\n", count, wrong);

    CHECK(cuMemFree_v2(a_device));
    CHECK(cuMemFree_v2(b_device));
    CHECK(cuMemFree_v2(out_device));
    CHECK(cuModuleUnload(module));
    CHECK(cuDevicePrimaryCtxRelease_v2(device));
    free(a);
    free(b);
    free(out);
    return wrong == 0 ? 0 : 1;
}
