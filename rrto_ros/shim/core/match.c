/* Matching calls with plans: owns the rule for where a lane goes on. A call that equals the expected
 * one (match.h) is that one. Any other is looked for in variants of the plan, at the start of plans,
 * then further on in them; what is nowhere is none of a plan's. A wrong guess costs bytes, never
 * correctness: only what was compared is called a plan's. Nothing on the way of a call allocates. */
#include <stdlib.h>
#include <string.h>

#include "match.h"

static void note(struct rrto_matcher *m, uint32_t kind, const struct rrto_plan *plan,
                 uint32_t value)
{
    if (m->event_count < m->event_room)
        m->events[m->event_count++] = (struct rrto_event){kind, plan ? plan->number : 0, value};
}

/* The same for a call with varying words. Its body is in the scratch buffer afterwards. */
int rrto_same_but_varying(struct rrto_matcher *m, const struct rrto_plan *plan,
                          const struct rrto_plan_call *call, const struct rrto_record *record)
{
    unsigned char *end = rrto_put(m->scratch, record->fixed, record->fixed_bytes);
    end = rrto_put(end, record->content[0].data, record->content[0].bytes);
    rrto_put(end, record->content[1].data, record->content[1].bytes);
    const struct rrto_varying *range = plan->varying + call->varying;
    uint32_t at = 0;
    for (unsigned i = 0; i < call->ranges; i++, range++) {
        if (!rrto_same(call->body + at, m->scratch + at, range->start - at))
            return 0;
        at = range->end;
    }
    return rrto_same(call->body + at, m->scratch + at, call->body_bytes - at);
}

/* ---- where a lane goes on ---- */

/* Whether a lane rather goes on in this plan: in the one that was left early less often since it was
 * last followed to its end, so that a new one is tried at once and none stays where another fits
 * better; then in the one that was entered last. */
static int likelier(const struct rrto_plan *plan, const struct rrto_plan *than)
{
    if (than && plan->misses != than->misses)
        return plan->misses < than->misses;
    return !than || plan->used > than->used;
}

/* The program left the plan; calls of no plan that follow each other count once. */
static void diverge(struct rrto_matcher *m, struct rrto_lane *lane)
{
    if (!lane->diverged)
        note(m, RRTO_DIVERGED, lane->plan, lane->position);
    lane->diverged = 1;
}

static void complete(struct rrto_matcher *m, struct rrto_plan *plan, uint32_t before)
{
    plan->start_up = 0;
    plan->misses = 0;
    note(m, RRTO_COMPLETED, plan, before);
}

static void fail(struct rrto_matcher *m, struct rrto_plan *plan, uint32_t made)
{
    plan->misses++;
    note(m, RRTO_FAILED, plan, made);
}

/* The plan that is over where a lane stands in a longer one; NULL: none. */
static struct rrto_plan *whole(const struct rrto_matcher *m, const struct rrto_lane *lane)
{
    if (!lane->plan || lane->missing)
        return NULL;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++) {
        struct rrto_plan *other = m->plans[n];
        if (other && other->active && other->count == lane->position &&
            other->shared[lane->plan->number] >= lane->position)
            return other;
    }
    return NULL;
}

/* Another plan begins, and the lane's was not followed to its end. */
static void left(struct rrto_matcher *m, struct rrto_lane *lane)
{
    struct rrto_plan *over = whole(m, lane);
    if (over) {
        lane->plan->misses++;
        complete(m, over, 1);
        return;
    }
    m->stray = 1;
    diverge(m, lane);
    fail(m, lane->plan, lane->position > lane->missing ? lane->position - lane->missing : 0);
    if (lane->begun && lane->begun != lane->plan)
        lane->begun->misses++;
}

/* The likeliest plan that begins with this call; NULL: none. */
static struct rrto_plan *first(struct rrto_matcher *m, const struct rrto_record *record)
{
    struct rrto_plan *best = NULL;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++) {
        struct rrto_plan *other = m->plans[n];
        if (other && other->active && likelier(other, best) && rrto_equals(m, other, 0, record))
            best = other;
    }
    return best;
}

/* The same, and the lane's own plan is left for it. */
static struct rrto_plan *begun(struct rrto_matcher *m, struct rrto_lane *lane,
                               const struct rrto_record *record)
{
    struct rrto_plan *best = first(m, record);
    if (!best)
        return NULL;
    if (lane->plan && lane->position < lane->plan->count) {
        left(m, lane);
        best = first(m, record); /* what had failed less than that */
    }
    best->used = ++m->entries;
    note(m, RRTO_BEGUN, best, 0);
    rrto_lane_stand(lane, best, 0);
    return best;
}

/* A plan with the same calls as the lane's own up to here, and this one next; NULL: none. */
static struct rrto_plan *variant(struct rrto_matcher *m, struct rrto_lane *lane,
                                 const struct rrto_record *record)
{
    struct rrto_plan *best = NULL;
    uint32_t at = lane->position;
    for (uint32_t n = 1; lane->plan && at && n <= RRTO_MAX_PLANS; n++) {
        struct rrto_plan *other = m->plans[n];
        if (other && other->active && other != lane->plan && at < other->count &&
            other->shared[lane->plan->number] >= at && likelier(other, best) &&
            rrto_equals(m, other, at, record))
            best = other;
    }
    if (best) {
        best->used = ++m->entries;
        lane->plan = best;
        note(m, RRTO_ENTERED, best, at);
    }
    return best;
}

/* The first place of this call in a plan; its count: none. Not of calls with varying words. */
static uint32_t place(struct rrto_matcher *m, const struct rrto_plan *plan, uint32_t hash,
                      const struct rrto_record *record)
{
    for (uint32_t k = plan->buckets[hash & plan->bucket_mask]; k; k = plan->calls[k - 1].next)
        if (plan->calls[k - 1].hash == hash && rrto_equals(m, plan, k - 1, record))
            return k - 1;
    return plan->count;
}

/* The lane goes on at a call of a plan, and leaves out those before it. */
static void skip_to(struct rrto_lane *lane, struct rrto_plan *plan, uint32_t at)
{
    int on = plan == lane->plan && at > lane->position;
    lane->missing = on ? lane->missing + at - lane->position : at;
    lane->plan = plan;
}

/* A place of the call further on in the lane's own plan, or in another; NULL: it is nowhere. */
static struct rrto_plan *elsewhere(struct rrto_matcher *m, struct rrto_lane *lane,
                                   const struct rrto_record *record)
{
    uint32_t hash = rrto_plan_hash(record), at = 0, found;
    struct rrto_plan *best = NULL;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++) {
        struct rrto_plan *other = m->plans[n];
        if (!other || !other->active || (other != lane->plan && !likelier(other, best)) ||
            (found = place(m, other, hash, record)) == other->count)
            continue;
        best = other;
        at = found;
        if (other == lane->plan)
            break;
    }
    if (!best)
        return NULL;
    if (best != lane->plan && lane->plan && lane->position < lane->plan->count)
        left(m, lane);
    skip_to(lane, best, at);
    lane->position = at;
    return best;
}

struct rrto_plan *rrto_match_seek(struct rrto_matcher *m, struct rrto_lane *lane,
                                  const struct rrto_record *record)
{
    struct rrto_plan *plan = lane->plan, *other;
    int diverged = lane->diverged;
    if (!m->plan_count && !(plan && plan->start_up)) {
        m->stray = 1;
        return NULL;
    }
    if (diverged) {
        int fits = plan && lane->position < plan->count && rrto_equals(m, plan, lane->position, record);
        /* Another inference is likelier than that this one goes on with a call that equals the
         * first of an inference; a start has many such calls. */
        if (!(fits && plan->start_up) && (other = begun(m, lane, record)))
            return other;
        if (fits)
            return plan;
    }
    if ((other = variant(m, lane, record)))
        return other;
    if (!diverged && (other = begun(m, lane, record)))
        return other;
    m->stray = 1;
    if (plan && lane->position < plan->count && !whole(m, lane))
        diverge(m, lane);
    return elsewhere(m, lane, record);
}

void rrto_match_over(struct rrto_matcher *m, struct rrto_lane *lane)
{
    struct rrto_plan *plan = lane->plan;
    if (!lane->missing) {
        complete(m, plan, 0);
    } else {
        plan->misses += lane->begun == plan; /* else another one did not fit */
        note(m, RRTO_FAILED, plan, plan->count > lane->missing ? plan->count - lane->missing : 0);
    }
}

static int inside(const struct rrto_lane *lane)
{
    return lane->plan && lane->position && lane->position < lane->plan->count;
}

int rrto_match_parted(const struct rrto_matcher *m)
{
    for (uint32_t i = 0; i < m->lane_count; i++)
        if (inside(&m->lanes[i]))
            return 0;
    return 1;
}

static void go(struct rrto_matcher *m, struct rrto_lane *lane, struct rrto_plan *plan,
               uint32_t at)
{
    struct rrto_plan *old = lane->plan;
    if (old && at && at == lane->position && plan->shared[old->number] >= at) {
        plan->used = ++m->entries;
        note(m, RRTO_ENTERED, plan, at);
        lane->plan = plan;
        return;
    }
    if (inside(lane)) {
        if (!at) {
            left(m, lane);
        } else if (!whole(m, lane)) {
            m->stray = 1;
            diverge(m, lane);
        }
    }
    if (!at) {
        plan->used = ++m->entries;
        note(m, RRTO_BEGUN, plan, 0);
        rrto_lane_stand(lane, plan, 0);
        return;
    }
    m->stray = 1;
    skip_to(lane, plan, at);
}

void rrto_match_follow(struct rrto_matcher *m, struct rrto_lane *lane, struct rrto_plan *plan,
                       uint32_t first_call, uint32_t calls)
{
    if (lane->plan != plan || lane->position != first_call || !first_call)
        go(m, lane, plan, first_call);
    lane->position = first_call;
    rrto_match_took(m, lane, calls);
    if (!plan->active)
        rrto_lane_stand(lane, NULL, 0); /* it was put to rest, and who matched did not know yet */
}
