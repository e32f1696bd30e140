/* What ring.c (calls to the recorder) and replies.c (results from it) share. */
#ifndef RRTO_RING_H
#define RRTO_RING_H
#include "references.h"
#include "ring_layout.h"

enum { HEADER = RRTO_HEADER };

#define S rrto_session
#define U64(offset) ((_Atomic uint64_t *)(S.shm + (offset)))
#define U32(offset) ((_Atomic uint32_t *)(S.shm + (offset)))

/* ---- ring.c ---- */
void rrto_want_results(void); /* what the calls so far leave in host memory is wanted now */

/* ---- replies.c ---- */
extern pthread_mutex_t rrto_reply_lock;
int rrto_led(void); /* whether a thread reads replies now */
void rrto_count_wait(uint64_t since_ns);
void rrto_signal(int fd);
void rrto_glance(void); /* read replies that came without anybody waiting */
void rrto_expect(struct rrto_wait *wait, uint64_t index);
/* Wait until `ready(arg)`, which is asked under the reply lock. Returns 0, or why it cannot be. */
int rrto_wait_until(int (*ready)(void *), void *arg);
extern _Atomic int rrto_news_there; /* the recorder said something about plans */
void rrto_take_news(void);

/* ---- landing.c ---- */
void rrto_await_landing(uint64_t limit); /* until copies of calls before this one have landed */

#endif
