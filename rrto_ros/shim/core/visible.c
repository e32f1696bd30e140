/* CUDA_VISIBLE_DEVICES: whether the program may see the session's device, which is number 0.
 *
 * The rules are the programming guide's, and what programs that read the variable themselves know of
 * the driver: entries are numbers, or GPU-<beginning of the UUID>; the list ends at the first entry
 * that names no device; an entry that names one again leaves no device at all; numbers and UUIDs do
 * not mix. A list without a device, also an empty one, hides the device. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shim.h"

static const char *past_blanks(const char *at)
{
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

/* Whether the entry at `at` names device 0; numbers are read as strtol reads them. */
static int is_zero(const char *at)
{
    char *end;
    long number = strtol(at, &end, 10);
    return end != at && !number;
}

/* Whether "GPU-..." at `at` begins the UUID as nvidia-smi writes it, up to the entry's end. */
static int begins(const char *at, const unsigned char *uuid)
{
    char mine[41] = "GPU-";
    size_t length = strcspn(at, ",");
    for (int i = 0, put = 4; i < 16; i++) {
        static const char digits[] = "0123456789abcdef";
        if (i == 4 || i == 6 || i == 8 || i == 10)
            mine[put++] = '-';
        mine[put++] = digits[uuid[i] >> 4];
        mine[put++] = digits[uuid[i] & 15];
    }
    while (length && isspace((unsigned char)at[length - 1]))
        length--;
    return length < sizeof mine && !strncasecmp(at, mine, length);
}

int rrto_visible(const unsigned char *uuid)
{
    const char *at = getenv("CUDA_VISIBLE_DEVICES");
    int seen = 0, by_uuid;
    if (!at)
        return 1;
    at = past_blanks(at);
    by_uuid = !strncmp(at, "GPU-", 4);
    if (by_uuid && !uuid)
        return 1;
    for (;;) {
        if (by_uuid ? strncmp(at, "GPU-", 4) || !begins(at, uuid) : !is_zero(at))
            return seen;
        if (seen)
            return 0; /* named twice */
        seen = 1;
        at = strchr(at, ',');
        if (!at)
            return seen;
        at = past_blanks(at + 1);
    }
}
