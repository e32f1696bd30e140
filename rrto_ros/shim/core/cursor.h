/* What ring.c, plans.c and cursor.c share: plans of this session and the walk over them. */
#ifndef RRTO_CURSOR_H
#define RRTO_CURSOR_H
#include "shim.h"

enum {
    RRTO_MAX_PLANS = 64,
    RRTO_HEADER = 24,
    RRTO_MODE_RPC = 0,
    RRTO_MODE_REPLAY = 2,
    /* What a PLAN_TAKEN record tells the recorder. */
    RRTO_PLAN_INSTALLED = 1,
    RRTO_PLAN_REMOVED = 2,
    RRTO_PLAN_REFUSED = 3,
    RRTO_MOST_WORDS = 8192 /* varying words of one reference */
};

static inline size_t rrto_pad8(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

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
};

struct rrto_plan {
    uint32_t number, count;
    uint32_t scratch_bytes; /* longest body with varying words */
    uint32_t misses;        /* walks that left it early since one reached its end */
    uint64_t used;          /* when a walk entered it last */
    struct rrto_plan_call *calls;
    struct rrto_varying *varying;
    unsigned char *bytes; /* the canonical bytes; bodies point into them */
    size_t size;
    uint32_t shared[RRTO_MAX_PLANS + 1]; /* first calls in common with the plan of a number */
};

/* ---- plans.c: from the recorder's messages to plans ---- */
struct rrto_news {
    uint32_t kind, number, apart, flush_us;
    struct rrto_plan *plan; /* NULL where it was refused */
    struct rrto_news *next;
};
enum { RRTO_NEWS_PLAN = 1, RRTO_NEWS_REMOVE = 2, RRTO_NEWS_SETTINGS = 3 };

/* Only the leader of the reply ring calls it. NULL: not complete yet, or no memory. */
struct rrto_news *rrto_news_read(uint32_t kind, const unsigned char *data, size_t bytes);
void rrto_plan_free(struct rrto_plan *plan);
uint32_t rrto_plan_shared(const struct rrto_plan *a, const struct rrto_plan *b);

/* ---- cursor.c: everything below holds the producer lock of ring.c ---- */
enum { RRTO_WALK_TOOK = 1, RRTO_WALK_FLUSH = 2, RRTO_WALK_URGENT = 4 };

void rrto_walk_news(struct rrto_news *news); /* takes them over */
int rrto_walk(const struct rrto_record *record, int flags, uint64_t index, int *status);
int rrto_walk_flush(const struct rrto_record *last); /* its payload, if any, is not copied yet */
extern _Atomic uint32_t rrto_walk_open;              /* calls in the open reference */

/* ---- ring.c, for cursor.c ---- */
unsigned char *rrto_reserve(uint64_t size, int *status); /* room for one record, or NULL */
void rrto_publish(uint64_t size);
unsigned char *rrto_put(unsigned char *at, const void *data, size_t bytes);
uint64_t rrto_now_ns(void);
uint32_t rrto_thread_number(void);
int rrto_flush_open(void); /* the open reference, if there is one; takes the lock itself */

#endif
