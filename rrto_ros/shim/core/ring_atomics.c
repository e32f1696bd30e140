/* Atomic access to the shared-memory ring for the recorder, which is Python (loaded by ctypes).
 * A library of its own, so that the recorder never loads a libcuda that is this package's shim. */
#include <stdatomic.h>
#include <stdint.h>

#define RRTO_PUBLIC __attribute__((visibility("default")))

RRTO_PUBLIC uint64_t rrto_load_u64(const void *at);
RRTO_PUBLIC void rrto_store_u64(void *at, uint64_t value);
RRTO_PUBLIC uint32_t rrto_load_u32(const void *at);
RRTO_PUBLIC void rrto_store_u32(void *at, uint32_t value);
RRTO_PUBLIC uint32_t rrto_exchange_sleep(void *flag, uint32_t value);

/* Load with acquire: what was written before the matching store is seen. */
uint64_t rrto_load_u64(const void *at)
{
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire);
}

/* Store with release: publishes everything written before. */
void rrto_store_u64(void *at, uint64_t value)
{
    atomic_store_explicit((_Atomic uint64_t *)at, value, memory_order_release);
}

uint32_t rrto_load_u32(const void *at)
{
    return atomic_load_explicit((const _Atomic uint32_t *)at, memory_order_acquire);
}

void rrto_store_u32(void *at, uint32_t value)
{
    atomic_store_explicit((_Atomic uint32_t *)at, value, memory_order_release);
}

/* Set a sleep or wait flag and fence fully, so that a load of the other side's position after it
 * cannot be older than the flag. Returns the flag's former value. */
uint32_t rrto_exchange_sleep(void *flag, uint32_t value)
{
    uint32_t old = atomic_exchange_explicit((_Atomic uint32_t *)flag, value, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    return old;
}
