/* Copies to host memory that the program did not wait for: which still have to land, who must wait
 * for them, and who sees to it that they land while the program makes no call.
 *
 * A host range is read or written by the shim only after what was queued into it has landed
 * (rrto_settle). That is what stream order asks for, and where CUDA leaves the order open it is one
 * of the orders. Nothing is looked at while nothing is to land.
 *
 * A program may look at its memory instead of calling: a thread of the shim (the courier) makes
 * what is queued leave and brings in the results, in order, whenever for a moment nobody else did.
 * It is started by the first copy that is queued and sleeps while there is none; RRTO_COURIER=0 is
 * for programs that want no thread but their own. */
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum { PAUSE_NS = 500000, STACK = 256 << 10 };

_Atomic uint32_t rrto_landing;

/* Under the reply lock: */
static struct rrto_wait *first, *last; /* by ascending index */
static int courier_sleeps;
static pthread_cond_t courier_news = PTHREAD_COND_INITIALIZER;

/* Let go of what landed. A copy that failed is the session's error: nobody else will say so. */
static void purge(void)
{
    while (first && first->done) {
        struct rrto_wait *done = first;
        first = done->deferred;
        if (!first)
            last = NULL;
        if (done->status && !atomic_load_explicit(&S.error, memory_order_relaxed))
            rrto_fail(done->status, "a copy to page-locked memory failed");
        free(done);
        atomic_fetch_sub_explicit(&rrto_landing, 1, memory_order_release);
    }
}

static int landed(void *arg)
{
    purge();
    return !first || first->index >= *(uint64_t *)arg;
}

void rrto_await_landing(uint64_t limit)
{
    if (rrto_lands())
        rrto_wait_until(landed, &limit);
}

/* ---- the courier ---- */

static void pause_for(long ns)
{
    struct timespec nap = {0, ns};
    nanosleep(&nap, NULL);
}

static void *courier(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "rrto-courier");
    for (;;) {
        pthread_mutex_lock(&rrto_reply_lock);
        purge();
        while (!first) {
            courier_sleeps = 1;
            pthread_cond_wait(&courier_news, &rrto_reply_lock);
            courier_sleeps = 0;
        }
        pthread_mutex_unlock(&rrto_reply_lock);
        /* Usually the program waits for it at once; then it must not find another one leading. */
        pause_for(PAUSE_NS);
        if (atomic_load(&S.dead))
            return NULL;
        pthread_mutex_lock(&rrto_reply_lock);
        purge();
        uint64_t limit = last ? last->index + 1 : 0;
        pthread_mutex_unlock(&rrto_reply_lock);
        if (limit && !rrto_led()) {
            rrto_want_results();
            rrto_wait_until(landed, &limit);
        }
    }
}

static void start_courier(void)
{
    const char *wish = getenv("RRTO_COURIER");
    if (wish && !strcmp(wish, "0"))
        return;
    int failed = rrto_start_thread(courier, STACK);
    if (failed)
        rrto_say("no thread could be started (%s): results in page-locked memory appear only with "
                 "the next CUDA call",
                 strerror(failed));
}

void rrto_defer(struct rrto_wait *wait)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_mutex_lock(&rrto_reply_lock);
    struct rrto_wait **at = &first;
    if (last && last->index < wait->index)
        at = &last->deferred;
    while (*at && (*at)->index < wait->index) /* threads may hand over out of order */
        at = &(*at)->deferred;
    wait->deferred = *at;
    *at = wait;
    if (!wait->deferred)
        last = wait;
    atomic_fetch_add_explicit(&rrto_landing, 1, memory_order_relaxed);
    if (wait->done)
        purge(); /* in mode rpc always */
    int there = first != NULL;
    if (there && courier_sleeps)
        pthread_cond_signal(&courier_news);
    pthread_mutex_unlock(&rrto_reply_lock);
    if (there)
        pthread_once(&once, start_courier);
}

/* ---- who must wait ---- */

static int apart(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b ? b - a >= a_bytes : a - b >= b_bytes;
}

/* Whether a copy lands in what is about to be read or written, maybe by another address of it. */
static int touches(const struct rrto_wait *wait, const struct rrto_host *at, size_t bytes)
{
    if (wait->done)
        return 0;
    if (!apart((uintptr_t)wait->data, wait->room, at->address, bytes))
        return 1;
    if (!wait->object || at->object == 0)
        return 0;
    if (wait->object == RRTO_ANY_OBJECT || at->object == RRTO_ANY_OBJECT)
        return 1;
    return wait->object == at->object && !apart(wait->place, wait->room, at->place, bytes);
}

CUresult rrto_settle_now(const void *at, size_t bytes)
{
    struct rrto_host host;
    uint64_t limit = 0;
    rrto_host_of(at, bytes, &host);
    pthread_mutex_lock(&rrto_reply_lock);
    purge();
    for (struct rrto_wait *wait = first; wait; wait = wait->deferred)
        if (touches(wait, &host, bytes))
            limit = wait->index + 1;
    pthread_mutex_unlock(&rrto_reply_lock);
    if (!limit)
        return CUDA_SUCCESS;
    uint64_t start = rrto_now_ns();
    rrto_want_results();
    int status = rrto_wait_until(landed, &limit);
    rrto_count_wait(start);
    return status ? status : atomic_load_explicit(&S.error, memory_order_relaxed);
}

int rrto_finish_deferred(void)
{
    uint64_t limit = UINT64_MAX;
    if (!rrto_lands())
        return 0;
    rrto_want_results();
    return rrto_wait_until(landed, &limit);
}

/* In the child of a connected process, which has neither this list's results nor the courier. */
void rrto_landing_in_child(void)
{
    first = last = NULL;
    atomic_store(&rrto_landing, 0);
}
