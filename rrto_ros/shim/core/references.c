/* References to the recorder's plans: a call that match.c finds in one becomes part of the open
 * reference and costs no record. What a reference means, and when it leaves, is in
 * docs/wire_format.md ("Plans in the shim"); why nothing can go wrong by it in
 * docs/replay.md.
 *
 * All of this is under the producer lock of ring.c, and nothing on the way of a call allocates. */
#include <stdlib.h>
#include <string.h>

#include "references.h"

enum {
    MOST_MARKS = 4096,
    MOST_CALLS = 32768,
    BUFFERED = 2048,      /* payloads up to here wait for the next flush, larger ones leave at once */
    BUFFER = 64 << 10,
    FLUSH_US = 300,
    SLOWER = 32,          /* the longest pause between flushes, in first ones */
    CLOCK_EVERY = 8
};

static struct rrto_matcher matcher;
static uint64_t flush_ns = FLUSH_US * 1000u;
/* When the open reference leaves by itself: every time that one did, the next has twice as long,
 * until the program waits. The recorder has as much to send on as it got, and a plan of any length
 * costs it few references. */
static uint64_t pace_ns = FLUSH_US * 1000u;

static struct {
    struct rrto_plan *plan;
    uint32_t first, next, thread, marks, words, payload;
    uint64_t index, since;
    int work;
} now_open;
_Atomic uint32_t rrto_referred;
static uint64_t marks[MOST_MARKS], words[RRTO_MOST_WORDS];
static unsigned char payload[BUFFER];

static uint32_t count_open(void)
{
    return atomic_load_explicit(&rrto_referred, memory_order_relaxed);
}

static void set_open(uint32_t count)
{
    atomic_store_explicit(&rrto_referred, count, memory_order_relaxed);
}

/* ---- the open reference ---- */

static uint64_t open_bytes(void)
{
    return RRTO_HEADER + sizeof(struct rrto_op_plan_ref) +
           8 * ((uint64_t)now_open.marks + now_open.words) + now_open.payload;
}

int rrto_refer_flush(const struct rrto_record *last)
{
    int status = 0;
    uint32_t count = count_open();
    if (!count)
        return 0;
    set_open(0);
    uint32_t tail = last ? last->payload_bytes : 0;
    uint32_t bytes = now_open.payload + (uint32_t)rrto_pad8(tail);
    uint64_t size = open_bytes() + rrto_pad8(tail), index = now_open.index;
    unsigned char *at = rrto_reserve(size, &status);
    if (!at)
        return status;
    uint32_t head[6] = {(uint32_t)size, RRTO_OP_PLAN_REF, (uint32_t)index,
                        (uint32_t)(index >> 32), now_open.thread, bytes};
    struct rrto_op_plan_ref ref = {.plan = now_open.plan->number, .first = now_open.first,
                                   .count = count, .marks_length = now_open.marks,
                                   .words_length = now_open.words};
    at = rrto_put(at, head, sizeof head);
    at = rrto_put(at, &ref, sizeof ref);
    at = rrto_put(at, marks, 8 * (size_t)now_open.marks);
    at = rrto_put(at, words, 8 * (size_t)now_open.words);
    at = rrto_put(at, payload, now_open.payload);
    if (tail)
        rrto_put(at, last->payload, tail);
    rrto_publish(size);
    return 0;
}

/* Append a call that was compared; its varying words are in the scratch buffer. */
static inline int append(const struct rrto_plan *plan, uint32_t position, uint32_t count,
                         const struct rrto_record *record, int flags)
{
    const struct rrto_plan_call *call = &plan->calls[position];
    int result = RRTO_REFER_TOOK;
    set_open(count + 1);
    if (flags)
        marks[now_open.marks++] = count | (uint64_t)flags << 32;
    if (call->ranges) {
        const struct rrto_varying *range = plan->varying + call->varying;
        for (unsigned i = 0; i < call->ranges; i++, range++) {
            memcpy(words + now_open.words, matcher.scratch + range->start, range->end - range->start);
            now_open.words += (range->end - range->start) / 8;
        }
    }
    now_open.work |= rrto_keeps_busy(call->op);
    if (call->payload_bytes > BUFFERED)
        return result | RRTO_REFER_FLUSH | RRTO_REFER_URGENT;
    if (call->payload_bytes)
        now_open.payload = (uint32_t)(rrto_put(payload + now_open.payload, record->payload,
                                               call->payload_bytes) -
                                      payload);
    if (flags & RRTO_WAITED)
        pace_ns = flush_ns;
    if (flags & RRTO_WAITED || (position + 1 == plan->count && now_open.work))
        return result | RRTO_REFER_FLUSH;
    if (count % CLOCK_EVERY == CLOCK_EVERY - 1 && now_open.work &&
        rrto_now_ns() - now_open.since > pace_ns) {
        pace_ns = pace_ns < SLOWER * flush_ns ? 2 * pace_ns : pace_ns;
        result |= RRTO_REFER_FLUSH;
    }
    return result;
}

/* End the open reference and begin one with this call. */
static int begin(struct rrto_plan *plan, uint32_t position, uint32_t thread, uint64_t index)
{
    int status = rrto_refer_flush(NULL);
    now_open.plan = plan;
    now_open.next = now_open.first = position;
    now_open.thread = thread;
    now_open.index = index;
    now_open.since = rrto_now_ns();
    now_open.marks = now_open.words = now_open.payload = 0;
    now_open.work = 0;
    return status;
}

int rrto_refer(const struct rrto_record *record, int flags, uint64_t index, int *status)
{
    if (!matcher.plan_count || rrto_mode() != RRTO_MODE_REPLAY) {
        *status = rrto_refer_flush(NULL);
        return 0;
    }
    uint32_t thread = rrto_thread_number();
    struct rrto_lane *lane = rrto_match_lane(&matcher, thread);
    struct rrto_plan *plan = rrto_match(&matcher, lane, record);
    uint64_t most = rrto_session.call_bytes / 2;
    uint32_t position = lane->position;
    const struct rrto_plan_call *call = plan ? &plan->calls[position] : NULL;
    if (!call || RRTO_HEADER + sizeof(struct rrto_op_plan_ref) + (uint64_t)call->adds > most) {
        *status = rrto_refer_flush(NULL);
        return 0;
    }
    uint32_t count = count_open();
    if (!count || now_open.plan != plan || now_open.next != position ||
        now_open.thread != thread || count >= MOST_CALLS || now_open.marks >= MOST_MARKS ||
        now_open.words + call->words > RRTO_MOST_WORDS || now_open.payload + BUFFERED > BUFFER ||
        open_bytes() + call->adds > most) {
        if ((*status = begin(plan, position, thread, index)))
            return 0;
        count = 0;
    }
    now_open.next = position + 1;
    rrto_match_took(&matcher, lane, 1);
    return append(plan, position, count, record, flags);
}

/* ---- plans come and go ---- */

static void tell(uint32_t number, uint32_t what)
{
    int status;
    struct {
        uint32_t head[6];
        struct rrto_op_plan_taken taken;
    } record = {{sizeof record, RRTO_OP_PLAN_TAKEN}, {.plan = number, .state = what}};
    unsigned char *at = rrto_reserve(sizeof record, &status);
    if (!at)
        return; /* the recorder is gone */
    rrto_put(at, &record, sizeof record);
    rrto_publish(sizeof record);
}

void rrto_refer_news(struct rrto_news *news)
{
    rrto_refer_flush(NULL); /* its number may mean another plan from here on */
    while (news) {
        struct rrto_news *next = news->next;
        uint32_t number = news->number;
        if (news->kind == RRTO_NEWS_SETTINGS) {
            matcher.apart = news->apart;
            flush_ns = (news->flush_us ? news->flush_us : FLUSH_US) * (uint64_t)1000;
            pace_ns = flush_ns;
            rrto_match_reset(&matcher);
        } else if (news->kind == RRTO_NEWS_PLAN) {
            int refused = !news->plan || rrto_match_add(&matcher, news->plan);
            if (refused)
                rrto_plan_free(news->plan);
            tell(number, refused ? RRTO_PLAN_REFUSED : RRTO_PLAN_INSTALLED);
        } else if (number <= RRTO_MAX_PLANS) {
            if (matcher.plans[number])
                rrto_match_drop(&matcher, number);
            tell(number, RRTO_PLAN_REMOVED);
        }
        free(news);
        news = next;
    }
}

/* "Last words": what the program called before it ended belongs to the session. */
__attribute__((destructor)) static void at_exit(void)
{
    if (count_open() && !atomic_load(&rrto_session.forked))
        rrto_flush_open();
}
