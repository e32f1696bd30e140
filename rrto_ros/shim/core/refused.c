/* What a program asked for and did not get, by name and with its count: the recorder reads it from
 * the ring's header (docs/wire_format.md). Calls that are not supported at all are counted by
 * export; here are uses of supported ones. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ring_layout.h"
#include "shim.h"

enum { TEXT = REFUSAL_BYTES - 4, UNSUPPORTED = 3 };

struct refusal {
    _Atomic uint32_t count; /* 0: the entry is free */
    char text[TEXT];
};
_Static_assert(sizeof(struct refusal) == 128, "layout of the refusals");
_Static_assert(REFUSALS + MOST_REFUSALS * sizeof(struct refusal) == CALLS_PER_EXPORT,
               "they end where calls are counted");

static struct refusal early[MOST_REFUSALS], *table = early;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void count(const char *text, uint32_t times)
{
    struct refusal *at = table, *last = table + MOST_REFUSALS - 1;
    while (at < last && atomic_load(&at->count) && strncmp(at->text, text, TEXT - 1))
        at++;
    if (!atomic_load(&at->count)) {
        if (at == last)
            text = "others";
        snprintf(at->text, TEXT, "%s", text); /* there before its count is */
    }
    atomic_fetch_add_explicit(&at->count, times, memory_order_release);
}

CUresult rrto_refuse(CUresult result, const char *format, ...)
{
    char text[TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    rrto_add(UNSUPPORTED, 1);
    pthread_mutex_lock(&lock);
    count(text, 1);
    pthread_mutex_unlock(&lock);
    return result;
}

void rrto_refused_into(unsigned char *shm)
{
    if (!shm) /* in a child: another thread of the parent may have held it */
        lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    table = shm ? (struct refusal *)(void *)(shm + REFUSALS) : early;
    for (int i = 0; shm && i < MOST_REFUSALS && atomic_load(&early[i].count); i++)
        count(early[i].text, atomic_load(&early[i].count));
    memset(early, 0, sizeof early);
    pthread_mutex_unlock(&lock);
}
