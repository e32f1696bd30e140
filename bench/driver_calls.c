/* Times driver calls of whatever libcuda.so.1 the loader finds, as a C program sees them.
 *
 *   driver_calls local|launch|inference|round_trip|upload REPEATS [BYTES]
 *
 * Prints one JSON line per measurement: nanoseconds per call, median, p10, p99 and mean. Results are
 * checked where there are any (not on a device that computes nothing): exit 4 if they are wrong.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*fn)();

static void *cuda;

static fn get(const char *name) {
  fn found = (fn)dlsym(cuda, name);
  if (!found) {
    fprintf(stderr, "libcuda.so.1 has no %s\n", name);
    exit(2);
  }
  return found;
}

static void check(int result, const char *what) {
  if (result) {
    fprintf(stderr, "%s: CUresult %d\n", what, result);
    exit(3);
  }
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const char *name, double *ns, long count) {
  double sum = 0;
  for (long i = 0; i < count; i++) sum += ns[i];
  qsort(ns, (size_t)count, sizeof *ns, ascending);
  long p99 = (count * 99) / 100;
  if (p99 >= count) p99 = count - 1;
  printf("{\"name\": \"%s\", \"median_ns\": %.1f, \"p10_ns\": %.1f, \"p99_ns\": %.1f, "
         "\"mean_ns\": %.1f, \"samples\": %ld}\n",
         name, ns[count / 2], ns[count / 10], ns[p99], sum / (double)count, count);
  fflush(stdout);
}

static const char PTX[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry add_one(.param .u64 data, .param .u32 value)\n{\n"
    ".reg .b64 %d; .reg .b32 %r<3>;\n"
    "ld.param.u64 %d, [data];\nld.param.u32 %r0, [value];\n"
    "cvta.to.global.u64 %d, %d;\nld.global.u32 %r1, [%d];\nadd.u32 %r2, %r1, %r0;\n"
    "st.global.u32 [%d], %r2;\nret;\n}\n";

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  long repeats = argc > 2 ? atol(argv[2]) : 0;
  size_t bytes = argc > 3 ? (size_t)atol(argv[3]) : 600000;
  if (repeats < 1) {
    fprintf(stderr, "usage: driver_calls local|launch|inference|round_trip|upload REPEATS [BYTES]\n");
    return 2;
  }
  cuda = dlopen("libcuda.so.1", RTLD_NOW);
  if (!cuda) {
    fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  int device, real = 0;
  void *context, *module, *function;
  char name[256] = "";
  check(get("cuInit")(0), "cuInit");
  check(get("cuDeviceGet")(&device, 0), "cuDeviceGet");
  check(get("cuDeviceGetName")(name, (int)sizeof name, device), "cuDeviceGetName");
  real = strstr(name, "null") == NULL && strstr(name, "NULL") == NULL;
  check(get("cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
  check(get("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
  check(get("cuModuleLoadData")(&module, PTX), "cuModuleLoadData");
  check(get("cuModuleGetFunction")(&function, module, "add_one"), "cuModuleGetFunction");
  int (*alloc)(uint64_t *, size_t) = (int (*)(uint64_t *, size_t))get("cuMemAlloc_v2");
  int (*htod)(uint64_t, const void *, size_t) =
      (int (*)(uint64_t, const void *, size_t))get("cuMemcpyHtoD_v2");
  int (*dtoh)(void *, uint64_t, size_t) = (int (*)(void *, uint64_t, size_t))get("cuMemcpyDtoH_v2");
  int (*sync)(void) = (int (*)(void))get("cuCtxSynchronize");
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                void *, void **, void **) =
      (int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
               void *, void **, void **))get("cuLaunchKernel");
  uint64_t data;
  uint32_t zero = 0, one = 1, wanted = 0, got = 0;
  void *params[2] = {&data, &one};
  check(alloc(&data, bytes < 64 ? 64 : bytes), "cuMemAlloc");
  check(htod(data, &zero, 4), "cuMemcpyHtoD");
  check(sync(), "cuCtxSynchronize");
  double *ns = malloc((size_t)repeats * sizeof *ns);
  if (!ns) return 2;

  if (!strcmp(what, "local")) {
    /* A clock read costs about as much as the call: time them by the thousand. */
    int (*get_current)(void **) = (int (*)(void **))get("cuCtxGetCurrent");
    int (*attribute)(int *, int, int) = (int (*)(int *, int, int))get("cuDeviceGetAttribute");
    for (long i = 0; i < repeats; i++) {
      double start = now_ns();
      for (int k = 0; k < 1000; k++) check(get_current(&context), "cuCtxGetCurrent");
      ns[i] = (now_ns() - start) / 1000;
    }
    report("cuCtxGetCurrent", ns, repeats);
    for (long i = 0; i < repeats; i++) {
      int value, start_id = (int)(i % 10) + 1;
      double start = now_ns();
      for (int k = 0; k < 1000; k++) check(attribute(&value, start_id, device), "attribute");
      ns[i] = (now_ns() - start) / 1000;
    }
    report("cuDeviceGetAttribute", ns, repeats);
  } else if (!strcmp(what, "launch")) {
    /* 200 launches as an inference makes them, then a synchronisation that is not timed. */
    for (long i = 0; i < repeats; i++) {
      double start = now_ns();
      for (int k = 0; k < 200; k++)
        check(launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), "cuLaunchKernel");
      ns[i] = (now_ns() - start) / 200;
      wanted += 200;
      check(sync(), "cuCtxSynchronize");
    }
    report("cuLaunchKernel", ns, repeats);
  } else if (!strcmp(what, "inference")) {
    /* Input, 200 launches, output; only the launches are timed. */
    for (long i = 0; i < repeats; i++) {
      wanted = (uint32_t)i;
      check(htod(data, &wanted, 4), "cuMemcpyHtoD");
      double start = now_ns();
      for (int k = 0; k < 200; k++)
        check(launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), "cuLaunchKernel");
      ns[i] = (now_ns() - start) / 200;
      wanted += 200;
      check(dtoh(&got, data, 4), "cuMemcpyDtoH");
      if (real && got != wanted) {
        fprintf(stderr, "the counter is %u, want %u\n", got, wanted);
        return 4;
      }
    }
    report("cuLaunchKernel", ns, repeats);
  } else if (!strcmp(what, "round_trip")) {
    for (long i = 0; i < repeats + 10; i++) {
      double start = now_ns();
      check(launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), "cuLaunchKernel");
      if (i >= 10) ns[i - 10] = now_ns() - start;
      wanted++;
    }
    report("rpc cuLaunchKernel", ns, repeats);
    for (long i = 0; i < repeats; i++) {
      uint32_t word;
      double start = now_ns();
      check(dtoh(&word, data, 4), "cuMemcpyDtoH");
      ns[i] = now_ns() - start;
    }
    report("cuMemcpyDtoH of 4 bytes", ns, repeats);
  } else if (!strcmp(what, "upload")) {
    unsigned char *host = malloc(bytes), answer[400];
    if (!host) return 2;
    memset(host, 7, bytes);
    for (long i = 0; i < repeats + 10; i++) {
      /* A new content each time, as a camera gives. */
      for (size_t at = 0; at + 8 <= bytes; at += 4096) memcpy(host + at, &i, sizeof i);
      double start = now_ns();
      check(htod(data, host, bytes), "cuMemcpyHtoD");
      check(dtoh(answer, data, sizeof answer), "cuMemcpyDtoH");
      if (i >= 10) ns[i - 10] = now_ns() - start;
      if (real && memcmp(answer, host, sizeof answer)) {
        fprintf(stderr, "wrong bytes came back\n");
        return 4;
      }
    }
    report("upload and small answer", ns, repeats);
    return 0;
  } else {
    fprintf(stderr, "unknown measurement %s\n", what);
    return 2;
  }
  check(dtoh(&got, data, 4), "cuMemcpyDtoH");
  if (real && got != wanted) {
    fprintf(stderr, "the counter is %u, want %u\n", got, wanted);
    return 4;
  }
  return 0;
}
