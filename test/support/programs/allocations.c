/* Inferences of 200 launches through libcuda.so.1; prints how often each allocated memory while it
 * launched: `allocations ROUNDS`. Its malloc is everybody's in the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
static volatile long allocations;

void *malloc(size_t bytes) {
  allocations++;
  return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
  allocations++;
  return __libc_calloc(count, bytes);
}

void *realloc(void *at, size_t bytes) {
  allocations++;
  return __libc_realloc(at, bytes);
}

static const char PTX[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                          ".visible .entry nothing(.param .u64 p)\n{\nret;\n}\n";

static void *cuda;

static void ok(int result, const char *what) {
  if (result) {
    fprintf(stderr, "%s: %d\n", what, result);
    exit(1);
  }
}

static int (*get(const char *name))() { return (int (*)())dlsym(cuda, name); }

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 1;
  void *context, *module, *function;
  uint64_t data;
  uint32_t value = 0;
  void *params[1] = {&data};
  if (!(cuda = dlopen("libcuda.so.1", RTLD_NOW))) return 2;
  ok(get("cuInit")(0), "cuInit");
  ok(get("cuCtxCreate_v2")(&context, 0, 0), "cuCtxCreate");
  ok(get("cuModuleLoadData")(&module, PTX), "cuModuleLoadData");
  ok(get("cuModuleGetFunction")(&function, module, "nothing"), "cuModuleGetFunction");
  int (*alloc)(uint64_t *, size_t) = (int (*)(uint64_t *, size_t))get("cuMemAlloc_v2");
  int (*htod)(uint64_t, const void *, size_t) =
      (int (*)(uint64_t, const void *, size_t))get("cuMemcpyHtoD_v2");
  int (*dtoh)(void *, uint64_t, size_t) = (int (*)(void *, uint64_t, size_t))get("cuMemcpyDtoH_v2");
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                void *, void **, void **) =
      (int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
               void *, void **, void **))get("cuLaunchKernel");
  ok(alloc(&data, 64), "cuMemAlloc");
  for (int i = 0; i < rounds; i++) {
    long before = allocations;
    ok(htod(data, &value, 4), "cuMemcpyHtoD");
    for (unsigned k = 0; k < 200; k++)
      ok(launch(function, 1 + k, 1, 1, 1, 1, 1, 0, NULL, params, NULL), "cuLaunchKernel");
    ok(dtoh(&value, data, 4), "cuMemcpyDtoH");
    printf("%ld ", allocations - before);
    before = allocations;
  }
  printf("\n%ld\n", allocations);
  return 0;
}
