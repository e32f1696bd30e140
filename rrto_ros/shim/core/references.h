/* What ring.c, news.c and references.c share: what the recorder tells, and references to its plans. */
#ifndef RRTO_REFERENCES_H
#define RRTO_REFERENCES_H
#include "match.h"

enum {
    RRTO_MODE_RPC = 0,
    RRTO_MODE_REPLAY = 2,
    /* What a PLAN_TAKEN record tells the recorder. */
    RRTO_PLAN_INSTALLED = 1,
    RRTO_PLAN_REMOVED = 2,
    RRTO_PLAN_REFUSED = 3
};

/* ---- news.c ---- */
struct rrto_news {
    uint32_t kind, number, apart, flush_us;
    struct rrto_plan *plan; /* NULL where it was refused */
    struct rrto_news *next;
};
enum { RRTO_NEWS_PLAN = 1, RRTO_NEWS_REMOVE = 2, RRTO_NEWS_SETTINGS = 3 };

/* Only the leader of the reply ring calls it. NULL: not complete yet, or no memory. */
struct rrto_news *rrto_news_read(uint32_t kind, const unsigned char *data, size_t bytes);

/* ---- references.c: everything below holds the producer lock of ring.c ---- */
enum { RRTO_REFER_TOOK = 1, RRTO_REFER_FLUSH = 2, RRTO_REFER_URGENT = 4 };

void rrto_refer_news(struct rrto_news *news); /* takes them over */
int rrto_refer(const struct rrto_record *record, int flags, uint64_t index, int *status);
int rrto_refer_flush(const struct rrto_record *last); /* its payload, if any, is not copied yet */
extern _Atomic uint32_t rrto_referred;                /* calls in the open reference */

/* ---- ring.c, for references.c ---- */
unsigned char *rrto_reserve(uint64_t size, int *status); /* room for one record, or NULL */
void rrto_publish(uint64_t size);
uint64_t rrto_now_ns(void);
uint32_t rrto_thread_number(void);
int rrto_flush_open(void); /* the open reference, if there is one; takes the lock itself */

#endif
