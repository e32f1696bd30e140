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
struct rrto_lane *rrto_match_lane(struct rrto_matcher *m, uint32_t thread);

/* The plan whose next call this is, and the lane stands before it. NULL: none, and the lane stays
 * where it is. */
struct rrto_plan *rrto_match(struct rrto_matcher *m, struct rrto_lane *lane,
                             const struct rrto_record *record);
/* The lane goes on after calls of its plan. */
void rrto_match_took(struct rrto_matcher *m, struct rrto_lane *lane, uint32_t calls);
/* Somebody else matched these calls: the lane goes there. */
void rrto_match_follow(struct rrto_matcher *m, struct rrto_lane *lane, struct rrto_plan *plan,
                       uint32_t first, uint32_t calls);
int rrto_match_parted(const struct rrto_matcher *m); /* no lane is in the middle of a plan */

#endif
