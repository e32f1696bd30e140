/* The walk over the recorder's plans: a call that equals the expected one (operation, payload
 * length, every byte of its fields but the varying words) becomes part of the open reference and
 * costs no record. What a reference means, and when it leaves, is in docs/wire_format.md ("Plans in
 * the shim"); why nothing can go wrong by it in docs/recorder_replayer.md.
 *
 * All of this is under the producer lock of ring.c, and nothing on the way of a call allocates. */
#include <stdlib.h>
#include <string.h>

#include "cursor.h"

enum {
    MOST_MARKS = 4096,
    MOST_CALLS = 32768,
    BUFFERED = 2048,      /* payloads up to here wait for the next flush, larger ones leave at once */
    BUFFER = 64 << 10,
    FLUSH_US = 300,
    SLOWER = 32,          /* the longest pause between flushes, in first ones */
    CLOCK_EVERY = 8
};

/* A walk's place. The plans are there as long as none was dropped since. */
struct lane {
    struct rrto_plan *plan, *begun; /* the one that it began in, of which `plan` is a variant */
    uint32_t position, epoch;
    int astray; /* the last call was none of the plan's */
};

static struct rrto_plan *plans[RRTO_MAX_PLANS + 1]; /* by number */
static uint32_t plan_count, apart, epoch;
static uint64_t entries, flush_ns = FLUSH_US * 1000u;
/* When the open reference leaves by itself: every time that one did, the next has twice as long,
 * until the program waits. The recorder has as much to send on as it got, and a walk of any length
 * costs it few references. */
static uint64_t pace_ns = FLUSH_US * 1000u;
static struct lane session_lane;
static _Thread_local struct lane thread_lane;
static unsigned char *scratch;
static size_t scratch_bytes;

static struct {
    struct rrto_plan *plan;
    uint32_t first, next, thread, marks, words, payload;
    uint64_t index, since;
    int work;
} now_open;
_Atomic uint32_t rrto_walk_open;
static uint64_t marks[MOST_MARKS], words[RRTO_MOST_WORDS];
static unsigned char payload[BUFFER];

static uint32_t count_open(void)
{
    return atomic_load_explicit(&rrto_walk_open, memory_order_relaxed);
}

static void set_open(uint32_t count)
{
    atomic_store_explicit(&rrto_walk_open, count, memory_order_relaxed);
}

/* ---- comparing ---- */

static inline uint64_t word_at(const unsigned char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Whether data, padded with zeros, is what the body has. Word by word: bodies are short. */
static inline int same(const unsigned char *body, const unsigned char *data, size_t bytes)
{
    size_t at = 0;
    for (; at + 8 <= bytes; at += 8)
        if (word_at(body + at) != word_at(data + at))
            return 0;
    if (at == bytes)
        return 1;
    uint64_t last = 0;
    memcpy(&last, data + at, bytes - at);
    return last == word_at(body + at);
}

/* The same for a call with varying words. Its body is in the scratch buffer afterwards. */
static int same_but_varying(const struct rrto_plan *plan, const struct rrto_plan_call *call,
                            const struct rrto_record *record)
{
    unsigned char *end = rrto_put(scratch, record->fixed, record->fixed_bytes);
    end = rrto_put(end, record->content[0].data, record->content[0].bytes);
    rrto_put(end, record->content[1].data, record->content[1].bytes);
    const struct rrto_varying *range = plan->varying + call->varying;
    uint32_t at = 0;
    for (unsigned i = 0; i < call->ranges; i++, range++) {
        if (!same(call->body + at, scratch + at, range->start - at))
            return 0;
        at = range->end;
    }
    return same(call->body + at, scratch + at, call->body_bytes - at);
}

static inline int equals(const struct rrto_plan *plan, uint32_t position,
                         const struct rrto_record *record)
{
    const struct rrto_plan_call *call = &plan->calls[position];
    if (call->op != record->op || call->payload_bytes != record->payload_bytes)
        return 0;
    const struct rrto_content *content = record->content;
    size_t fixed = rrto_pad8(record->fixed_bytes), first = rrto_pad8(content[0].bytes);
    if (fixed + first + rrto_pad8(content[1].bytes) != call->body_bytes)
        return 0;
    if (call->ranges)
        return same_but_varying(plan, call, record);
    return same(call->body, record->fixed, record->fixed_bytes) &&
           same(call->body + fixed, content[0].data, content[0].bytes) &&
           same(call->body + fixed + first, content[1].data, content[1].bytes);
}

/* Whether a walk rather goes on in this plan: in the one that was left early less often since a walk
 * last reached its end, then in the one that was entered last. */
static int likelier(const struct rrto_plan *plan, const struct rrto_plan *than)
{
    if (than && plan->misses != than->misses)
        return plan->misses < than->misses;
    return !than || plan->used > than->used;
}

static struct rrto_plan *enter(struct lane *lane, struct rrto_plan *plan, uint32_t at)
{
    plan->used = ++entries;
    *lane = (struct lane){plan, at ? lane->begun : plan, at, epoch, 0};
    return plan;
}

/* The likeliest plan that begins with this call; NULL: none. */
static struct rrto_plan *first(const struct rrto_record *record)
{
    struct rrto_plan *best = NULL;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++)
        if (plans[n] && likelier(plans[n], best) && equals(plans[n], 0, record))
            best = plans[n];
    return best;
}

/* The same, and the lane's own plan is left for it if it is not at its end. */
static struct rrto_plan *begun(const struct lane *lane, const struct rrto_record *record)
{
    struct rrto_plan *best = first(record), *plan = lane->plan;
    if (!best || !plan || !lane->position || lane->position >= plan->count)
        return best;
    plan->misses++;
    if (lane->begun != plan)
        lane->begun->misses++;
    return first(record); /* what had failed less than that */
}

/* A plan with the same calls as the lane's own up to here, and this one next; NULL: none. */
static struct rrto_plan *variant(const struct lane *lane, const struct rrto_record *record)
{
    struct rrto_plan *best = NULL;
    uint32_t at = lane->position;
    for (uint32_t n = 1; lane->plan && at && n <= RRTO_MAX_PLANS; n++) {
        struct rrto_plan *other = plans[n];
        if (other && other != lane->plan && at < other->count && lane->plan->shared[n] >= at &&
            likelier(other, best) && equals(other, at, record))
            best = other;
    }
    return best;
}

/* The plan whose next call this is. NULL: none, and the lane stays where it is. */
static struct rrto_plan *seek(struct lane *lane, const struct rrto_record *record)
{
    struct rrto_plan *plan = lane->plan, *other;
    /* After calls that were none of the plan's, another inference is likelier than that it goes on
     * with one that equals the first of an inference. */
    if (lane->astray && (other = begun(lane, record)))
        return enter(lane, other, 0);
    if (plan && lane->position < plan->count && equals(plan, lane->position, record))
        return plan;
    if ((other = variant(lane, record)))
        return enter(lane, other, lane->position);
    if (!lane->astray && (other = begun(lane, record)))
        return enter(lane, other, 0);
    lane->astray = lane->position != 0;
    return NULL;
}

/* ---- the open reference ---- */

static uint64_t open_bytes(void)
{
    return RRTO_HEADER + sizeof(struct rrto_op_plan_ref) +
           8 * ((uint64_t)now_open.marks + now_open.words) + now_open.payload;
}

int rrto_walk_flush(const struct rrto_record *last)
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
    int result = RRTO_WALK_TOOK;
    set_open(count + 1);
    if (flags)
        marks[now_open.marks++] = count | (uint64_t)flags << 32;
    if (call->ranges) {
        const struct rrto_varying *range = plan->varying + call->varying;
        for (unsigned i = 0; i < call->ranges; i++, range++) {
            memcpy(words + now_open.words, scratch + range->start, range->end - range->start);
            now_open.words += (range->end - range->start) / 8;
        }
    }
    now_open.work |= rrto_keeps_busy(call->op);
    if (call->payload_bytes > BUFFERED)
        return result | RRTO_WALK_FLUSH | RRTO_WALK_URGENT;
    if (call->payload_bytes)
        now_open.payload = (uint32_t)(rrto_put(payload + now_open.payload, record->payload,
                                               call->payload_bytes) -
                                      payload);
    if (flags & RRTO_WAITED)
        pace_ns = flush_ns;
    if (flags & RRTO_WAITED || (position + 1 == plan->count && now_open.work))
        return result | RRTO_WALK_FLUSH;
    if (count % CLOCK_EVERY == CLOCK_EVERY - 1 && now_open.work &&
        rrto_now_ns() - now_open.since > pace_ns) {
        pace_ns = pace_ns < SLOWER * flush_ns ? 2 * pace_ns : pace_ns;
        result |= RRTO_WALK_FLUSH;
    }
    return result;
}

/* End the open reference and begin one with this call. */
static int begin(struct rrto_plan *plan, uint32_t position, uint32_t thread, uint64_t index)
{
    int status = rrto_walk_flush(NULL);
    now_open.plan = plan;
    now_open.next = now_open.first = position;
    now_open.thread = thread;
    now_open.index = index;
    now_open.since = rrto_now_ns();
    now_open.marks = now_open.words = now_open.payload = 0;
    now_open.work = 0;
    return status;
}

int rrto_walk(const struct rrto_record *record, int flags, uint64_t index, int *status)
{
    if (!plan_count || rrto_mode() != RRTO_MODE_REPLAY) {
        *status = rrto_walk_flush(NULL);
        return 0;
    }
    struct lane *lane = apart ? &thread_lane : &session_lane;
    if (lane->epoch != epoch)
        *lane = (struct lane){.epoch = epoch};
    struct rrto_plan *plan = lane->plan;
    if (!plan || lane->astray || lane->position >= plan->count ||
        !equals(plan, lane->position, record))
        plan = seek(lane, record);
    uint64_t most = rrto_session.call_bytes / 2;
    uint32_t position = lane->position;
    const struct rrto_plan_call *call = plan ? &plan->calls[position] : NULL;
    if (!call || RRTO_HEADER + sizeof(struct rrto_op_plan_ref) + (uint64_t)call->adds > most) {
        *status = rrto_walk_flush(NULL);
        return 0;
    }
    uint32_t count = count_open(), thread = rrto_thread_number();
    if (!count || now_open.plan != plan || now_open.next != position ||
        now_open.thread != thread || count >= MOST_CALLS || now_open.marks >= MOST_MARKS ||
        now_open.words + call->words > RRTO_MOST_WORDS || now_open.payload + BUFFERED > BUFFER ||
        open_bytes() + call->adds > most) {
        if ((*status = begin(plan, position, thread, index)))
            return 0;
        count = 0;
    }
    lane->position = now_open.next = position + 1;
    lane->astray = 0;
    if (lane->position == plan->count)
        plan->misses = 0;
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

static void drop(uint32_t number)
{
    rrto_plan_free(plans[number]);
    plans[number] = NULL;
    epoch++; /* no lane may stand in it */
    plan_count--;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++)
        if (plans[n])
            plans[n]->shared[number] = 0;
}

static int install(struct rrto_plan *plan)
{
    if (!plan || plans[plan->number])
        return -1;
    if (plan->scratch_bytes > scratch_bytes) {
        unsigned char *larger = realloc(scratch, plan->scratch_bytes);
        if (!larger)
            return -1;
        scratch = larger;
        scratch_bytes = plan->scratch_bytes;
    }
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++)
        if (plans[n])
            plan->shared[n] = plans[n]->shared[plan->number] = rrto_plan_shared(plan, plans[n]);
    plan->used = ++entries;
    plans[plan->number] = plan;
    plan_count++;
    return 0;
}

void rrto_walk_news(struct rrto_news *news)
{
    rrto_walk_flush(NULL); /* its number may mean another plan from here on */
    while (news) {
        struct rrto_news *next = news->next;
        uint32_t number = news->number;
        if (news->kind == RRTO_NEWS_SETTINGS) {
            apart = news->apart;
            flush_ns = (news->flush_us ? news->flush_us : FLUSH_US) * (uint64_t)1000;
            pace_ns = flush_ns;
            session_lane = (struct lane){.epoch = epoch};
        } else if (news->kind == RRTO_NEWS_PLAN) {
            int refused = install(news->plan);
            if (refused)
                rrto_plan_free(news->plan);
            tell(number, refused ? RRTO_PLAN_REFUSED : RRTO_PLAN_INSTALLED);
        } else if (number <= RRTO_MAX_PLANS) {
            if (plans[number])
                drop(number);
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
