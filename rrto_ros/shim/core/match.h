/* match.c, lanes.c and plans.c: which plan's next call a call is. The shim and the recorder (by
 * librrto_recorder.so) use the same; none of them knows rings or references. */
#ifndef RRTO_MATCH_H
#define RRTO_MATCH_H
#include <string.h>

#include "shim.h"

enum { RRTO_MAX_PLANS = 64, RRTO_MAX_LANES = 1024, RRTO_HEADER = 24 };
enum { RRTO_MOST_WORDS = 8192 /* varying words of one reference */ };

static inline size_t rrto_pad8(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

/* Copy and pad with zeros to 8; returns what is after it. */
static inline unsigned char *rrto_put(unsigned char *at, const void *data, size_t bytes)
{
    if (!bytes)
        return at;
    memcpy(at, data, bytes);
    size_t padded = rrto_pad8(bytes);
    memset(at + bytes, 0, padded - bytes);
    return at + padded;
}

static inline uint32_t rrto_u32_at(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* ---- plans.c ---- */

/* A range of varying words in a call's body, bytes. */
struct rrto_varying {
    uint32_t start, end;
};

struct rrto_plan_call {
    const unsigned char *body;
    uint32_t body_bytes, payload_bytes;
    uint32_t varying; /* its first range in the plan's table */
    uint16_t ranges;  /* how many */
    uint16_t op;
    uint32_t words; /* 8-byte words in them */
    uint32_t adds;  /* most bytes that it adds to a reference */
    uint32_t hash;  /* of op, payload's length and body */
    uint32_t next;  /* 1 + the next call of its bucket, 0: none */
};

struct rrto_plan {
    uint32_t number, count;
    uint32_t scratch_bytes; /* longest body with varying words */
    int active;             /* whether a lane may begin in it */
    int start_up;           /* what the program does once, before it repeats itself */
    uint32_t misses;        /* times that it was left early since one reached its end */
    uint64_t used;          /* when a lane entered it last */
    struct rrto_plan_call *calls;
    struct rrto_varying *varying;
    uint32_t *buckets; /* 1 + the first call of a hash, 0: none; bucket_mask + 1 of them */
    uint32_t bucket_mask;
    unsigned char *bytes; /* the canonical bytes; bodies point into them */
    size_t size;
    uint32_t shared[RRTO_MAX_PLANS + 1]; /* first calls in common with the plan of a number */
};

/* A plan of these canonical bytes, which it takes over; NULL if they are none. */
struct rrto_plan *rrto_plan_read(uint32_t number, unsigned char *bytes, size_t size);
void rrto_plan_free(struct rrto_plan *plan);
uint32_t rrto_plan_shared(const struct rrto_plan *a, const struct rrto_plan *b);
uint32_t rrto_plan_hash(const struct rrto_record *record);

/* ---- match.c and lanes.c: not thread-safe ---- */

/* Where the session, or one thread of it, stands: the plan, and the call that is expected next. */
struct rrto_lane {
    struct rrto_plan *plan, *begun; /* the one that it began in, of which `plan` is a variant */
    uint32_t thread, position;
    uint32_t missing; /* calls of the plan that were left out */
    int diverged;     /* the last call was none of the plan's */
};

/* Before a call of this plan; NULL: in none. */
static inline void rrto_lane_stand(struct rrto_lane *lane, struct rrto_plan *plan, uint32_t position)
{
    *lane = (struct rrto_lane){plan, plan, lane->thread, position, 0, 0};
}

/* What happened on the way, for the recorder's counts and its choice of plans. */
enum {
    RRTO_BEGUN = 1,   /* of a plan */
    RRTO_ENTERED,     /* it goes on in a variant */
    RRTO_COMPLETED,   /* a plan was followed to its end; value 1: by the call before this one */
    RRTO_FAILED,      /* a plan was left early, or had gaps; value: calls of it that were made */
    RRTO_DIVERGED     /* the program left a plan */
};

struct rrto_event {
    uint32_t kind, plan, value;
};

struct rrto_matcher {
    struct rrto_plan *plans[RRTO_MAX_PLANS + 1]; /* by number */
    uint32_t plan_count;                         /* active ones */
    uint32_t apart;                              /* each thread has a lane of its own */
    uint64_t entries;
    unsigned char *scratch; /* the body of a call with varying words that was compared last */
    size_t scratch_bytes;
    uint32_t lane_count;
    struct rrto_lane lanes[RRTO_MAX_LANES];
    uint16_t slots[2 * RRTO_MAX_LANES]; /* by hash of the thread: 1 + its lane, 0: none */
    int stray;                          /* a call was not the one that its lane expected */
    struct rrto_event *events;          /* NULL: nobody wants them */
    uint32_t event_count, event_room;
};

/* Take over a plan, active unless it is what a program does once; -1: no room for it. */
int rrto_match_add(struct rrto_matcher *m, struct rrto_plan *plan);
void rrto_match_drop(struct rrto_matcher *m, uint32_t number);
void rrto_match_set_active(struct rrto_matcher *m, uint32_t number, int active);
void rrto_match_reset(struct rrto_matcher *m); /* forget where the lanes stand */
struct rrto_lane *rrto_match_lane_of(struct rrto_matcher *m, uint32_t thread);

/* What follows is on the way of every replayed call, and inline for that. */
static inline struct rrto_lane *rrto_match_lane(struct rrto_matcher *m, uint32_t thread)
{
    int one = !m->apart && m->lane_count && !m->lanes[0].thread;
    return one ? &m->lanes[0] : rrto_match_lane_of(m, thread);
}

static inline uint64_t rrto_word_at(const unsigned char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Whether data, padded with zeros, is what the body has. Word by word: bodies are short. */
static inline int rrto_same(const unsigned char *body, const unsigned char *data, size_t bytes)
{
    size_t at = 0;
    for (; at + 8 <= bytes; at += 8)
        if (rrto_word_at(body + at) != rrto_word_at(data + at))
            return 0;
    if (at == bytes)
        return 1;
    uint64_t last = 0;
    memcpy(&last, data + at, bytes - at);
    return last == rrto_word_at(body + at);
}

int rrto_same_but_varying(struct rrto_matcher *m, const struct rrto_plan *plan,
                          const struct rrto_plan_call *call, const struct rrto_record *record);

/* Whether a call is the plan's: operation, payload length, every byte but the varying words. */
static inline int rrto_equals(struct rrto_matcher *m, const struct rrto_plan *plan,
                              uint32_t position, const struct rrto_record *record)
{
    const struct rrto_plan_call *call = &plan->calls[position];
    if (call->op != record->op || call->payload_bytes != record->payload_bytes)
        return 0;
    const struct rrto_content *content = record->content;
    size_t fixed = rrto_pad8(record->fixed_bytes), first = rrto_pad8(content[0].bytes);
    if (fixed + first + rrto_pad8(content[1].bytes) != call->body_bytes)
        return 0;
    if (call->ranges)
        return rrto_same_but_varying(m, plan, call, record);
    return rrto_same(call->body, record->fixed, record->fixed_bytes) &&
           rrto_same(call->body + fixed, content[0].data, content[0].bytes) &&
           rrto_same(call->body + fixed + first, content[1].data, content[1].bytes);
}

struct rrto_plan *rrto_match_seek(struct rrto_matcher *m, struct rrto_lane *lane,
                                  const struct rrto_record *record) __attribute__((cold));
void rrto_match_over(struct rrto_matcher *m, struct rrto_lane *lane); /* a plan's end is reached */

/* The plan whose next call this is, and the lane stands before it. NULL: none, and the lane stays
 * where it is. */
static inline struct rrto_plan *rrto_match(struct rrto_matcher *m, struct rrto_lane *lane,
                                           const struct rrto_record *record)
{
    struct rrto_plan *plan = lane->plan;
    if (!plan || lane->diverged || lane->position >= plan->count ||
        !rrto_equals(m, plan, lane->position, record))
        return rrto_match_seek(m, lane, record);
    return plan;
}

/* The lane goes on after calls of its plan. */
static inline void rrto_match_took(struct rrto_matcher *m, struct rrto_lane *lane, uint32_t calls)
{
    lane->position += calls;
    lane->diverged = 0;
    if (lane->position >= lane->plan->count)
        rrto_match_over(m, lane);
}

/* Somebody else matched these calls: the lane goes there. */
void rrto_match_follow(struct rrto_matcher *m, struct rrto_lane *lane, struct rrto_plan *plan,
                       uint32_t first, uint32_t calls);
int rrto_match_parted(const struct rrto_matcher *m); /* no lane is in the middle of a plan */

#endif
