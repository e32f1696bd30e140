/* Ends the process where its interpreter stands still: a thread that needs none of Python's locks.
 * In the recorder's library, which nodes load by ctypes; not in libcuda. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RRTO_PUBLIC __attribute__((visibility("default")))

enum { TICK_MS = 100, MAX_LINE = 512 };

static _Atomic uint32_t beats, limit_ms;
static char line[MAX_LINE];
static size_t line_bytes;

RRTO_PUBLIC int rrto_watch(uint32_t milliseconds, const char *text);
RRTO_PUBLIC void rrto_beat(void);

/* Time is counted in ticks: while the whole process is stopped, or has no processor, none passes. */
static void *watch(void *unused)
{
    const struct timespec tick = {0, TICK_MS * 1000000L};
    uint32_t seen = atomic_load(&beats), silent = 0;
    for (;;) {
        nanosleep(&tick, NULL);
        uint32_t limit = atomic_load(&limit_ms), now = atomic_load(&beats);
        if (!limit || now != seen) {
            seen = now;
            silent = 0;
            continue;
        }
        silent += TICK_MS;
        if (silent < limit)
            continue;
        ssize_t ignored = write(STDERR_FILENO, line, line_bytes);
        (void)ignored;
        abort();
    }
    return unused;
}

/* From now on the process is aborted after so many milliseconds without a beat, with `text` on its
 * error output; 0 ends the watch. Returns 0, or an error number. One thread calls this. */
int rrto_watch(uint32_t milliseconds, const char *text)
{
    static int started;
    atomic_store(&limit_ms, 0);
    line_bytes = strnlen(text, MAX_LINE);
    memcpy(line, text, line_bytes);
    if (milliseconds && !started) {
        pthread_t thread;
        sigset_t all, before;
        sigfillset(&all);
        /* Signals are for threads that know what to do. */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int error = pthread_create(&thread, NULL, watch, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (error)
            return error;
        pthread_detach(thread);
        started = 1;
    }
    atomic_fetch_add(&beats, 1);
    atomic_store(&limit_ms, milliseconds);
    return 0;
}

void rrto_beat(void)
{
    atomic_fetch_add(&beats, 1);
}
