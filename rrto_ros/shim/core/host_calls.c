/* Host functions in streams. cuLaunchHostFunc and cuStreamAddCallback wait for the stream's earlier
 * work, hand the function to a thread of the shim and return; whatever the program asks of the
 * device afterwards waits until the function has returned. All calls of a session have one order,
 * so this is an order that CUDA allows; only a function that waits for its program to queue more
 * work first, which CUDA would let it, never returns. */
#include <stdlib.h>
#include <time.h>

#include "capture.h"

enum { PATIENCE_S = 10 };

struct task {
    struct task *next;
    CUhostFn fn;
    CUstreamCallback callback; /* instead of fn */
    CUstream stream;
    CUresult status;
    void *data;
};

_Atomic int rrto_host_calls;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t done; /* made with the thread, for a clock that nobody sets */
static struct task *first, **last = &first;
static int running;

static void *run(void *unused);

static int start(void)
{
    static int made;
    pthread_condattr_t kind;
    if (!made) {
        pthread_condattr_init(&kind);
        pthread_condattr_setclock(&kind, CLOCK_MONOTONIC);
        made = !pthread_cond_init(&done, &kind);
        pthread_condattr_destroy(&kind);
    }
    return made && !rrto_start_thread(run, 0);
}

static void *run(void *unused)
{
    (void)unused;
    rrto_enter_callbacks();
    pthread_mutex_lock(&lock);
    for (;;) {
        struct task *task = first;
        if (!task) {
            pthread_cond_wait(&work, &lock);
            continue;
        }
        first = task->next;
        if (!first)
            last = &first;
        pthread_mutex_unlock(&lock);
        if (task->callback)
            task->callback(task->stream, task->status, task->data);
        else
            task->fn(task->data);
        free(task);
        pthread_mutex_lock(&lock);
        atomic_fetch_sub(&rrto_host_calls, 1);
        pthread_cond_broadcast(&done);
    }
    return NULL;
}

static CUresult enqueue(const struct task *wanted)
{
    struct task *task = malloc(sizeof *task);
    if (!task)
        return CUDA_OUT_OF_MEMORY;
    *task = *wanted;
    pthread_mutex_lock(&lock);
    running = running || start();
    if (!running) {
        pthread_mutex_unlock(&lock);
        free(task);
        return CUDA_OPERATING_SYSTEM;
    }
    *last = task;
    last = &task->next;
    atomic_fetch_add(&rrto_host_calls, 1);
    pthread_cond_signal(&work);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult rrto_wait_for_host_calls(void)
{
    static int told;
    if (rrto_in_callback())
        return CUDA_NOT_PERMITTED;
    pthread_mutex_lock(&lock);
    while (atomic_load(&rrto_host_calls)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += PATIENCE_S;
        if (pthread_cond_timedwait(&done, &lock, &until) && atomic_load(&rrto_host_calls) && !told) {
            told = 1;
            rrto_say("a host function in a stream runs for more than %d s, and calls after it "
                     "wait for it; it must not wait for them",
                     PATIENCE_S);
        }
    }
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult rrto_claim(const void *at, size_t bytes)
{
    CUresult result = CUDA_SUCCESS;
    if (bytes && atomic_load(&rrto_host_calls))
        result = rrto_wait_for_host_calls();
    return result ? result : rrto_settle(at, bytes);
}

CUresult rrto_call_later(CUhostFn fn, void *data)
{
    return enqueue(&(struct task){.fn = fn, .data = data});
}

static CUresult capture(CUstream stream, CUhostFn fn, void *data)
{
    struct rrto_work work;
    return rrto_capture_work(stream, rrto_work_host(fn, data, 0, &work), &work);
}

CUresult rrto_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    struct task task = {.fn = fn, .data = userData};
    RRTO_CAPTURE(hStream, capture(hStream, fn, userData));
    if (!fn)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_cuStreamSynchronize(hStream);
    return result ? result : enqueue(&task);
}

CUresult rrto_cuLaunchHostFunc_v2(CUstream hStream, CUhostFn fn, void *userData,
                                  unsigned int syncMode)
{
    enum { SPIN = 1 }; /* how the thread waits: an advice */
    return syncMode > SPIN ? CUDA_INVALID_VALUE : rrto_cuLaunchHostFunc(hStream, fn, userData);
}

/* Unlike a host function, a callback is called after an error too, and told of it. */
CUresult rrto_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
                                  unsigned int flags)
{
    struct task task = {.callback = callback, .stream = hStream, .data = userData};
    uint64_t name;
    if (!callback || flags)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_name_stream(hStream, &name);
    if (result)
        return result;
    task.status = rrto_cuStreamSynchronize(hStream);
    return enqueue(&task);
}
