/* The reply ring from the recorder (docs/wire_format.md): results, and news about plans.
 *
 * Replies are read by whichever waiting thread leads: it reads records, copies their data to where
 * the caller wants it, and wakes the others. Nothing here waits without also watching the
 * recorder's sign of life. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum { STICKY = 1, CONTROL = 4, PRINTED = 32, ERRORS = 64, BUCKETS = 1024 };
#define PADDING 0xFFFFFFFFu

pthread_mutex_t rrto_reply_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t reply_news = PTHREAD_COND_INITIALIZER;
static int leading;
static struct rrto_wait *expected[BUCKETS];
static uint64_t quiet_since;
static uint32_t alive_seen;

/* What the recorder said about plans; taken up by the next call. */
static struct rrto_news *news_first, **news_last = &news_first;
_Atomic int rrto_news_there;

uint64_t rrto_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void rrto_signal(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void expect(struct rrto_wait *wait)
{
    struct rrto_wait **bucket = &expected[wait->index % BUCKETS];
    wait->next = *bucket;
    *bucket = wait;
}

void rrto_expect(struct rrto_wait *wait, uint64_t index)
{
    wait->index = index;
    pthread_mutex_lock(&rrto_reply_lock);
    expect(wait);
    pthread_mutex_unlock(&rrto_reply_lock);
}

static struct rrto_wait *take_expected(uint64_t index)
{
    struct rrto_wait **at = &expected[index % BUCKETS];
    while (*at && (*at)->index != index)
        at = &(*at)->next;
    struct rrto_wait *found = *at;
    if (found)
        *at = found->next;
    return found;
}

/* Memory of the program's own may be gone by now, though it promised that it stays: then the kernel
 * says so, where a plain copy would end the program. */
static void put(const struct rrto_wait *wait, const unsigned char *data, size_t bytes)
{
    static _Atomic int said;
    size_t done = 0;
    if (!wait->foreign) {
        memcpy(wait->data, data, bytes);
        return;
    }
    while (done < bytes) {
        ssize_t got = pread(S.memory_fd, (char *)wait->data + done, bytes - done,
                            (off_t)(data + done - S.shm));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    if (done < bytes && !atomic_exchange(&said, 1))
        rrto_say("registered memory at %p was unmapped before a copy into it had landed; the copy "
                 "is lost",
                 wait->data);
}

static void deliver(uint64_t index, int status, const unsigned char *data, size_t bytes)
{
    pthread_mutex_lock(&rrto_reply_lock);
    struct rrto_wait *wait = take_expected(index);
    pthread_mutex_unlock(&rrto_reply_lock);
    if (!wait)
        return;
    /* The wait is out of the table and not done: only this thread touches it now. */
    if (wait->grow) {
        wait->data = malloc(bytes + 1);
        if (!wait->data && !status)
            status = CUDA_OUT_OF_MEMORY;
        wait->room = wait->data ? bytes : 0;
    }
    if (!status && !wait->grow && bytes != wait->room)
        status = CUDA_UNKNOWN; /* an answer of the wrong size must not pass for one */
    if (wait->data && (wait->grow || !status) && bytes)
        put(wait, data, bytes < wait->room ? bytes : wait->room);
    pthread_mutex_lock(&rrto_reply_lock);
    wait->got = bytes;
    wait->status = status;
    wait->done = 1;
    pthread_mutex_unlock(&rrto_reply_lock);
}

static void add_news(struct rrto_news *news)
{
    if (!news)
        return;
    pthread_mutex_lock(&rrto_reply_lock);
    *news_last = news;
    news_last = &news->next;
    atomic_store_explicit(&rrto_news_there, 1, memory_order_relaxed);
    pthread_mutex_unlock(&rrto_reply_lock);
}

void rrto_take_news(void)
{
    pthread_mutex_lock(&rrto_reply_lock);
    struct rrto_news *news = news_first;
    news_first = NULL;
    news_last = &news_first;
    atomic_store_explicit(&rrto_news_there, 0, memory_order_relaxed);
    pthread_mutex_unlock(&rrto_reply_lock);
    rrto_refer_news(news);
}

/* Read every reply that is there. Only the leader calls it. Returns how many records it read. */
static unsigned drain(void)
{
    uint64_t tail = atomic_load_explicit(U64(REPLY_TAIL), memory_order_relaxed);
    unsigned count = 0;
    for (;;) {
        uint64_t head = atomic_load_explicit(U64(REPLY_HEAD), memory_order_acquire);
        if (head == tail)
            break;
        uint64_t at = tail & (S.reply_bytes - 1), there = head - tail;
        const unsigned char *record = S.replies + at;
        uint32_t size, status, payload, flags;
        uint64_t index;
        memcpy(&size, record, 4);
        memcpy(&status, record + 4, 4);
        int padding = status == PADDING;
        if (there > S.reply_bytes || size % 8 || size < (padding ? 8u : (unsigned)HEADER) ||
            size > there || size > S.reply_bytes - at) {
            rrto_die(CUDA_UNKNOWN, "the recorder's reply ring is damaged");
            break;
        }
        if (!padding) {
            memcpy(&index, record + 8, 8);
            memcpy(&payload, record + 16, 4);
            memcpy(&flags, record + 20, 4);
            if (payload > size - HEADER) {
                rrto_die(CUDA_UNKNOWN, "the recorder's reply ring is damaged");
                break;
            }
            if (flags & CONTROL) {
                add_news(rrto_news_read(status, record + HEADER, payload));
                goto next;
            }
            if (flags & PRINTED) { /* by kernels, before what is waited for */
                FILE *to = flags & ERRORS ? stderr : stdout;
                fwrite(record + HEADER, 1, payload, to);
                fflush(to);
                goto next;
            }
            if (flags & STICKY && status) {
                char text[512];
                size_t bytes = payload < sizeof text - 1 ? payload : sizeof text - 1;
                memcpy(text, record + HEADER, bytes);
                text[bytes] = 0;
                char line[640];
                snprintf(line, sizeof line, "call #%llu failed: %s", (unsigned long long)index,
                         bytes ? text : rrto_error_name((int)status));
                rrto_fail((int)status, line);
            }
            deliver(index, (int)status, record + HEADER, payload);
            count++;
        }
    next:
        tail += size;
        atomic_store_explicit(U64(REPLY_TAIL), tail, memory_order_release);
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(U32(REPLY_WAITING), memory_order_relaxed))
        rrto_signal(S.call_fd);
    return count;
}

static void still_alive(void)
{
    quiet_since = rrto_now_ns();
    alive_seen = atomic_load_explicit(U32(ALIVE), memory_order_relaxed);
}

/* One step of the leader: read what is there, or sleep until something may have come. */
static void lead(void)
{
    if (drain()) {
        still_alive();
        return;
    }
    int state = (int)atomic_load_explicit(U32(STATE), memory_order_acquire);
    if (state) {
        rrto_die(state, "the recorder ended the session");
        return;
    }
    uint32_t limit_ms = atomic_load_explicit(U32(WAIT_TIMEOUT_MS), memory_order_relaxed);
    if (!limit_ms)
        limit_ms = 10000;
    if (alive_seen != atomic_load_explicit(U32(ALIVE), memory_order_relaxed))
        still_alive();
    uint64_t quiet_ms = (rrto_now_ns() - quiet_since) / 1000000u;
    if (quiet_ms >= limit_ms) {
        rrto_die(CUDA_DEVICE_UNAVAILABLE, "no sign of life from recorder_replayer or its server "
                                          "within the wait timeout; look at rrto status");
        return;
    }
    struct pollfd fds[2] = {{.fd = S.reply_fd, .events = POLLIN},
                            {.fd = S.socket_fd, .events = POLLIN | POLLRDHUP}};
    if (poll(fds, 2, (int)(limit_ms - quiet_ms)) <= 0)
        return;
    if (fds[0].revents & POLLIN) {
        uint64_t count;
        ssize_t ignored = read(S.reply_fd, &count, sizeof count);
        (void)ignored;
    }
    if (fds[1].revents) {
        char byte;
        ssize_t got = recv(S.socket_fd, &byte, 1, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            drain();
            rrto_die(CUDA_DEVICE_UNAVAILABLE,
                     "recorder_replayer closed the session or is gone; start it again and "
                     "restart this program");
        }
    }
}

int rrto_wait_until(int (*ready)(void *), void *arg)
{
    int status = 0;
    pthread_mutex_lock(&rrto_reply_lock);
    int first = 1;
    while (!ready(arg)) {
        status = atomic_load(&S.dead);
        if (status)
            break;
        if (leading) {
            pthread_cond_wait(&reply_news, &rrto_reply_lock);
            continue;
        }
        leading = 1;
        pthread_mutex_unlock(&rrto_reply_lock);
        if (first)
            still_alive();
        first = 0;
        lead();
        pthread_mutex_lock(&rrto_reply_lock);
        leading = 0;
        pthread_cond_broadcast(&reply_news);
    }
    pthread_mutex_unlock(&rrto_reply_lock);
    return status;
}

int rrto_led(void)
{
    pthread_mutex_lock(&rrto_reply_lock);
    int led = leading;
    pthread_mutex_unlock(&rrto_reply_lock);
    return led;
}

/* Read replies that came without anybody waiting: errors of asynchronous calls. */
void rrto_glance(void)
{
    if (atomic_load_explicit(U64(REPLY_HEAD), memory_order_relaxed) ==
        atomic_load_explicit(U64(REPLY_TAIL), memory_order_relaxed))
        return;
    pthread_mutex_lock(&rrto_reply_lock);
    if (!leading) {
        leading = 1;
        pthread_mutex_unlock(&rrto_reply_lock);
        drain();
        pthread_mutex_lock(&rrto_reply_lock);
        leading = 0;
        pthread_cond_broadcast(&reply_news);
    }
    pthread_mutex_unlock(&rrto_reply_lock);
}

static int is_done(void *arg)
{
    return ((struct rrto_wait *)arg)->done;
}

static int forget(struct rrto_wait *wait, int status)
{
    pthread_mutex_lock(&rrto_reply_lock);
    if (!wait->done && take_expected(wait->index)) {
        wait->status = status;
        wait->done = 1;
    }
    while (!wait->done) /* a leader is just delivering it */
        pthread_cond_wait(&reply_news, &rrto_reply_lock);
    status = wait->status;
    pthread_mutex_unlock(&rrto_reply_lock);
    return status;
}

void rrto_count_wait(uint64_t since_ns)
{
    uint64_t took = rrto_now_ns() - since_ns;
    rrto_add(RRTO_WAITS, 1);
    rrto_add(RRTO_WAIT_NS, took);
    atomic_store_explicit((_Atomic uint64_t *)(S.shm + 576 + 8 * RRTO_LAST_WAIT_NS), took,
                          memory_order_relaxed);
}

int rrto_collect(struct rrto_wait *wait)
{
    uint64_t start = rrto_now_ns();
    rrto_flush_open();
    int status = rrto_wait_until(is_done, wait);
    if (status)
        return forget(wait, status);
    rrto_await_landing(wait->index);
    rrto_count_wait(start);
    return wait->status;
}
