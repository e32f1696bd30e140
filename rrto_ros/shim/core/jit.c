/* Options of a load or a link: the logs that are asked for, the time, the limits. */
#include "module.h"

#include <string.h>
#include <time.h>

enum { MAX_REGISTERS = 0, WALL_TIME = 2, INFO = 3, INFO_BYTES = 4, ERROR = 5, ERROR_BYTES = 6, VERBOSE = 12 };

/* The last value of an option. */
static void **option_of(const struct rrto_jit *jit, int option)
{
    void **found = NULL;
    for (unsigned i = 0; jit->options && jit->values && i < jit->count; i++)
        if (jit->options[i] == option)
            found = &jit->values[i];
    return found;
}

/* What the program said. */
static void *input_of(const struct rrto_jit *jit, int option)
{
    void **at = option_of(jit, option);
    return !at ? NULL : jit->inputs ? jit->inputs[at - jit->values] : *at;
}

static void write_log(const struct rrto_jit *jit, int option, const char *text)
{
    char *buffer = input_of(jit, option);
    void **size = option_of(jit, option + 1);
    size_t room = size ? (size_t)(uintptr_t)*size & 0xFFFFFFFFu : 0, bytes = strlen(text);
    if (!size)
        return;
    if (!buffer || !room)
        bytes = 0;
    else if (bytes >= room)
        bytes = room - 1;
    if (buffer && room) {
        memcpy(buffer, text, bytes);
        buffer[bytes] = 0;
    }
    *size = (void *)(uintptr_t)bytes; /* what was written, as CUDA says */
}

void rrto_jit_log(const struct rrto_jit *jit, const char *error)
{
    write_log(jit, ERROR, error);
}

/* A log's size is replaced by what was written: a link that writes more than once keeps it. */
void rrto_jit_room(const struct rrto_jit *jit, void *room[2], int restore)
{
    void **info = option_of(jit, INFO_BYTES), **error = option_of(jit, ERROR_BYTES);
    if (info)
        *(restore ? info : &room[0]) = *(restore ? &room[0] : info);
    if (error)
        *(restore ? error : &room[1]) = *(restore ? &room[1] : error);
}

void rrto_jit_info(const struct rrto_jit *jit, const char *info)
{
    write_log(jit, INFO, input_of(jit, VERBOSE) ? info : "");
}

uint64_t rrto_jit_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void rrto_jit_time(const struct rrto_jit *jit, uint64_t nanoseconds)
{
    void **place = option_of(jit, WALL_TIME);
    float milliseconds = (float)nanoseconds / 1e6f;
    if (place)
        memcpy(place, &milliseconds, sizeof milliseconds);
}

unsigned rrto_jit_registers(const struct rrto_jit *jit)
{
    return (unsigned)((uintptr_t)input_of(jit, MAX_REGISTERS) & 0xFFFF);
}

int rrto_jit_wants_info(const struct rrto_jit *jit)
{
    return option_of(jit, INFO) != NULL;
}
