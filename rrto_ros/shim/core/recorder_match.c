/* Matching for the recorder, which is Python (loaded by ctypes): owns how records out of the call
 * ring become places in plans, many at a time. In librrto_recorder.so only. */
#include <stdlib.h>
#include <string.h>

#include "match.h"

#define RRTO_PUBLIC __attribute__((visibility("default")))

enum {
    ROOM = 4096,
    EVENT_ROOM = 1024,
    MOST_EVENTS = 8, /* of one call */
    PROGRAM_FLAGS = RRTO_WAITED | RRTO_REPLY
};

/* A call record, and where it was found. */
struct rrto_matched {
    uint32_t offset, size;
    uint16_t op, flags;
    uint32_t thread;
    uint64_t index;
    uint32_t payload;  /* bytes, without padding */
    uint32_t fields;   /* where they end, from the record's start */
    uint32_t plan;     /* number, 0: none */
    uint32_t position; /* of the call in it */
    uint32_t events;   /* how many there are up to here */
    uint32_t zero;
};
_Static_assert(sizeof(struct rrto_matched) == 48, "layout of rrto_matched");

/* What the last call of rrto_rm_feed or rrto_rm_follow came to. It belongs to who asks:
 * robot/matcher.py has the same. */
struct rrto_told {
    uint32_t count, events; /* how many of each */
    uint32_t inside;        /* a lane is in the middle of a plan */
    uint32_t stray;         /* a call was not the one that its lane expected */
    uint32_t lanes, zero;
    struct rrto_matched matched[ROOM];
    struct rrto_event event[EVENT_ROOM];
};

struct rrto_recorder_match {
    struct rrto_matcher matcher;
    struct rrto_told *told;
    unsigned char is_call[256];
};

RRTO_PUBLIC struct rrto_recorder_match *rrto_rm_new(const unsigned char is_call[256],
                                                    struct rrto_told *told);
RRTO_PUBLIC void rrto_rm_free(struct rrto_recorder_match *m);
RRTO_PUBLIC int rrto_rm_add(struct rrto_recorder_match *m, uint32_t number, const void *bytes,
                            size_t size, int start_up);
RRTO_PUBLIC void rrto_rm_drop(struct rrto_recorder_match *m, uint32_t number);
RRTO_PUBLIC void rrto_rm_set_active(struct rrto_recorder_match *m, uint32_t number, int active);
RRTO_PUBLIC void rrto_rm_set_apart(struct rrto_recorder_match *m, int apart);
RRTO_PUBLIC uint32_t rrto_rm_shared(const struct rrto_recorder_match *m, uint32_t a, uint32_t b);
RRTO_PUBLIC uint32_t rrto_rm_standing(struct rrto_recorder_match *m, uint32_t thread);
RRTO_PUBLIC size_t rrto_rm_feed(struct rrto_recorder_match *m, const unsigned char *data, size_t at,
                                size_t limit);
RRTO_PUBLIC void rrto_rm_follow(struct rrto_recorder_match *m, uint32_t thread, uint32_t plan,
                                uint32_t first, uint32_t calls);

struct rrto_recorder_match *rrto_rm_new(const unsigned char is_call[256], struct rrto_told *told)
{
    struct rrto_recorder_match *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    memcpy(m->is_call, is_call, sizeof m->is_call);
    m->told = told;
    m->matcher.events = told->event;
    return m;
}

void rrto_rm_free(struct rrto_recorder_match *m)
{
    for (uint32_t n = 1; m && n <= RRTO_MAX_PLANS; n++)
        rrto_plan_free(m->matcher.plans[n]);
    if (m)
        free(m->matcher.scratch);
    free(m);
}

/* 0, or -1: the bytes are no plan, the number is taken, or there is no memory. With `start_up` the
 * session stands at its beginning. */
int rrto_rm_add(struct rrto_recorder_match *m, uint32_t number, const void *bytes, size_t size,
                int start_up)
{
    unsigned char *own = size ? malloc(size) : NULL;
    if (!own)
        return -1;
    memcpy(own, bytes, size);
    struct rrto_plan *plan = rrto_plan_read(number, own, size);
    if (!plan)
        return -1;
    plan->start_up = start_up;
    if (rrto_match_add(&m->matcher, plan)) {
        rrto_plan_free(plan);
        return -1;
    }
    if (start_up) {
        struct rrto_lane *lane = rrto_match_lane(&m->matcher, 0);
        *lane = (struct rrto_lane){.plan = plan, .begun = plan};
    }
    return 0;
}

void rrto_rm_drop(struct rrto_recorder_match *m, uint32_t number)
{
    rrto_match_drop(&m->matcher, number);
}

void rrto_rm_set_active(struct rrto_recorder_match *m, uint32_t number, int active)
{
    rrto_match_set_active(&m->matcher, number, active);
}

/* Forgets where the lanes stand. */
void rrto_rm_set_apart(struct rrto_recorder_match *m, int apart)
{
    m->matcher.apart = (uint32_t)apart;
    rrto_match_reset(&m->matcher);
}

uint32_t rrto_rm_shared(const struct rrto_recorder_match *m, uint32_t a, uint32_t b)
{
    return m->matcher.plans[a] ? m->matcher.plans[a]->shared[b] : 0;
}

/* The number of the plan in which a lane stands, 0: in none. */
uint32_t rrto_rm_standing(struct rrto_recorder_match *m, uint32_t thread)
{
    struct rrto_plan *plan = rrto_match_lane(&m->matcher, thread)->plan;
    return plan ? plan->number : 0;
}

static void tell(struct rrto_recorder_match *m, uint32_t count)
{
    struct rrto_matcher *matcher = &m->matcher;
    m->told->count = count;
    m->told->events = matcher->event_count;
    m->told->inside = !rrto_match_parted(matcher);
    m->told->stray = (uint32_t)matcher->stray;
    m->told->lanes = matcher->lane_count;
    matcher->stray = 0;
    matcher->event_count = matcher->event_room = 0;
}

/* Match call records until one is none, or is not whole, or there is no room for what it becomes.
 * Returns the offset up to which it came. */
size_t rrto_rm_feed(struct rrto_recorder_match *m, const unsigned char *data, size_t at,
                    size_t limit)
{
    struct rrto_matcher *matcher = &m->matcher;
    uint32_t done = 0;
    matcher->event_room = EVENT_ROOM;
    while (done < ROOM && limit - at >= RRTO_HEADER &&
           matcher->event_count + MOST_EVENTS <= EVENT_ROOM) {
        struct rrto_matched one = {.offset = (uint32_t)at};
        memcpy(&one.size, data + at, 4);
        memcpy(&one.op, data + at + 4, 2);
        memcpy(&one.flags, data + at + 6, 2);
        memcpy(&one.index, data + at + 8, 8);
        memcpy(&one.thread, data + at + 16, 4);
        memcpy(&one.payload, data + at + 20, 4);
        if (one.size < RRTO_HEADER || one.size % 8 || one.size > limit - at || one.op > 255 ||
            !m->is_call[one.op] || one.flags & ~PROGRAM_FLAGS ||
            rrto_pad8(one.payload) > one.size - RRTO_HEADER)
            break;
        one.fields = one.size - (uint32_t)rrto_pad8(one.payload);
        struct rrto_record record = {.op = one.op, .fixed = data + at + RRTO_HEADER,
                                     .fixed_bytes = one.fields - RRTO_HEADER,
                                     .payload_bytes = one.payload};
        struct rrto_lane *lane = rrto_match_lane(matcher, one.thread);
        struct rrto_plan *plan = rrto_match(matcher, lane, &record);
        if (plan) {
            one.plan = plan->number;
            one.position = lane->position;
            rrto_match_took(matcher, lane, 1);
        }
        one.events = matcher->event_count;
        m->told->matched[done++] = one;
        at += one.size;
    }
    tell(m, done);
    return at;
}

/* The shim matched these calls. */
void rrto_rm_follow(struct rrto_recorder_match *m, uint32_t thread, uint32_t plan, uint32_t first,
                    uint32_t calls)
{
    struct rrto_matcher *matcher = &m->matcher;
    matcher->event_room = EVENT_ROOM;
    rrto_match_follow(matcher, rrto_match_lane(matcher, thread), matcher->plans[plan], first,
                      calls);
    tell(m, 0);
}
