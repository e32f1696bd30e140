/* The call ring to the recorder (docs/wire_format.md): one record per call that no plan has.
 *
 * One producer lock orders matching with the plans, reserve, copy and publish, so the ring has one
 * producer at a time and a call's number is its place. Lock order: producer, then reply. Nothing
 * here waits without also watching the recorder's sign of life. */
#include <string.h>
#include <time.h>

#include "ring.h"

enum { PIECE = 4 << 20 };

/* The producer's lock: one exchange and one store where nobody else calls, half of a mutex. Who
 * finds it taken sleeps shortly, because its holder may be waiting for room. */
static _Atomic int producer;
static uint64_t next_index = 1;

static void __attribute__((cold, noinline)) lock_when_free(void)
{
    enum { TURNS = 100, NAP_NS = 20000 };
    struct timespec nap = {0, NAP_NS};
    for (unsigned turn = 0;; turn++) {
        if (!atomic_load_explicit(&producer, memory_order_relaxed) &&
            !atomic_exchange_explicit(&producer, 1, memory_order_acquire))
            return;
        if (turn >= TURNS)
            nanosleep(&nap, NULL);
    }
}

static inline void lock_producer(void)
{
    if (atomic_exchange_explicit(&producer, 1, memory_order_acquire))
        lock_when_free();
}

static inline void unlock_producer(void)
{
    atomic_store_explicit(&producer, 0, memory_order_release);
}

uint32_t rrto_thread_number(void)
{
    static _Atomic uint32_t count;
    static _Thread_local uint32_t mine;
    if (!mine)
        mine = atomic_fetch_add(&count, 1) + 1;
    return mine;
}

int rrto_mode(void)
{
    return (int)atomic_load_explicit(U32(MODE), memory_order_relaxed);
}

static size_t piece_of(uint64_t ring)
{
    return ring / 4 < PIECE ? (size_t)(ring / 4) : PIECE;
}

size_t rrto_call_piece(void)
{
    return piece_of(S.call_bytes) - 256;
}

size_t rrto_reply_piece(void)
{
    return piece_of(S.reply_bytes) - 256;
}

struct room {
    uint64_t head, size;
};

static int fits(const struct room *room)
{
    uint64_t tail = atomic_load_explicit(U64(CALL_TAIL), memory_order_acquire);
    return room->head + room->size - tail <= S.call_bytes;
}

/* Where there is no room yet, the flag is up again each time: the recorder takes it down when it
 * has made some, which may not be enough. */
static int has_room(void *arg)
{
    if (fits(arg))
        return 1;
    atomic_store_explicit(U32(PRODUCER_WAITING), 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return fits(arg);
}

static void wake(uint64_t head, int waited)
{
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t sleeping = atomic_load_explicit(U32(CONSUMER_SLEEPING), memory_order_relaxed);
    if (!sleeping)
        return;
    uint64_t used = head - atomic_load_explicit(U64(CALL_TAIL), memory_order_relaxed);
    if (sleeping == 1 || waited || used > S.call_bytes / 2) {
        /* One wake-up per sleep: whoever takes the flag down writes the eventfd. */
        if (atomic_compare_exchange_strong(U32(CONSUMER_SLEEPING), &sleeping, 0))
            rrto_signal(S.call_fd);
    }
}

static int make_room(uint64_t head, uint64_t size)
{
    struct room room = {head, size};
    if (fits(&room))
        return 0;
    wake(head, 1);
    int status = rrto_wait_until(has_room, &room);
    atomic_store_explicit(U32(PRODUCER_WAITING), 0, memory_order_relaxed);
    return status;
}

unsigned char *rrto_reserve(uint64_t size, int *status)
{
    uint64_t head = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    uint64_t left = S.call_bytes - (head & (S.call_bytes - 1));
    uint64_t padding = left < size ? left : 0;
    if ((*status = make_room(head, padding + size)))
        return NULL;
    if (padding) {
        uint32_t words[2] = {(uint32_t)padding, 0};
        memcpy(S.calls + (head & (S.call_bytes - 1)), words, 8);
        head += padding;
        atomic_store_explicit(U64(CALL_HEAD), head, memory_order_release);
    }
    return S.calls + (head & (S.call_bytes - 1));
}

void rrto_publish(uint64_t size)
{
    uint64_t head = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    atomic_store_explicit(U64(CALL_HEAD), head + size, memory_order_release);
}

/* The record itself, not published yet: its size goes to *written. */
static int write_literal(const struct rrto_record *record, int flags, uint64_t index,
                         uint64_t *written)
{
    int status;
    uint64_t size = HEADER + rrto_pad8(record->fixed_bytes) + rrto_pad8(record->content[0].bytes) +
                    rrto_pad8(record->content[1].bytes) + rrto_pad8(record->payload_bytes);
    if (size > S.call_bytes / 2) {
        rrto_say("a call of %llu bytes does not fit into the ring of %llu; raise the recorder's "
                 "ring size",
                 (unsigned long long)size, (unsigned long long)S.call_bytes);
        return CUDA_OUT_OF_MEMORY;
    }
    *written = size;
    unsigned char *at = rrto_reserve(size, &status);
    if (!at)
        return status;
    uint32_t header[6] = {(uint32_t)size, record->op | (uint32_t)flags << 16, (uint32_t)index,
                          (uint32_t)(index >> 32), rrto_thread_number(), record->payload_bytes};
    memcpy(at, header, HEADER);
    at = rrto_put(at + HEADER, record->fixed, record->fixed_bytes);
    at = rrto_put(at, record->content[0].data, record->content[0].bytes);
    at = rrto_put(at, record->content[1].data, record->content[1].bytes);
    rrto_put(at, record->payload, record->payload_bytes);
    return 0;
}

int rrto_flush_open(void)
{
    if (!atomic_load_explicit(&rrto_referred, memory_order_relaxed))
        return 0;
    lock_producer();
    int status = rrto_refer_flush(NULL);
    uint64_t head = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    unlock_producer();
    wake(head, 0);
    return status;
}

void rrto_want_results(void)
{
    int status;
    uint32_t record[6] = {sizeof record, RRTO_OP_RESULTS_WANTED};
    lock_producer();
    rrto_refer_flush(NULL);
    unsigned char *at = rrto_reserve(sizeof record, &status);
    if (at) {
        rrto_put(at, record, sizeof record);
        rrto_publish(sizeof record);
    }
    uint64_t head = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    unlock_producer();
    wake(head, 1);
}

int rrto_submit(struct rrto_record *record, struct rrto_wait *wait)
{
    int status = atomic_load_explicit(&S.dead, memory_order_relaxed);
    if (status)
        return status;
    if (atomic_load_explicit(&rrto_host_calls, memory_order_acquire) &&
        (status = rrto_wait_for_host_calls()))
        return status;
    rrto_glance();
    struct rrto_wait own;
    int flags = record->flags;
    int now = (flags & RRTO_REPLY && !(wait && wait->later)) || rrto_mode() == RRTO_MODE_RPC;
    if (now)
        flags |= RRTO_WAITED | RRTO_REPLY;
    if (flags & RRTO_REPLY && !wait) {
        own = (struct rrto_wait){0};
        wait = &own;
    }
    int replies = wait && flags & RRTO_REPLY;
    lock_producer();
    uint64_t before = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    if (atomic_load_explicit(&rrto_news_there, memory_order_relaxed))
        rrto_take_news();
    uint64_t size = 0;
    int taken = rrto_refer(record, flags, next_index, &status);
    if (!status && !taken)
        status = write_literal(record, flags, next_index, &size);
    if (status) {
        unlock_producer();
        return status;
    }
    uint64_t index = next_index++;
    if (replies)
        rrto_expect(wait, index);
    if (taken & RRTO_REFER_FLUSH)
        status = rrto_refer_flush(taken & RRTO_REFER_URGENT ? record : NULL);
    else if (!taken)
        rrto_publish(size);
    uint64_t head = atomic_load_explicit(U64(CALL_HEAD), memory_order_relaxed);
    unlock_producer();
    if (head != before)
        wake(head, now || taken & RRTO_REFER_URGENT);
    if (now)
        return rrto_collect(wait);
    return status ? status : atomic_load_explicit(&S.error, memory_order_relaxed);
}
