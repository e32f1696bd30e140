/* The lanes and plans of a matcher: owns which there are, and that no lane stands in a plan which is
 * no longer matched. */
#include <stdlib.h>
#include <string.h>

#include "match.h"

struct rrto_lane *rrto_match_lane_of(struct rrto_matcher *m, uint32_t thread)
{
    if (!m->apart)
        thread = 0;
    uint32_t slot = thread * 0x9e3779b1u >> 21;
    for (; m->slots[slot]; slot = (slot + 1) % (2 * RRTO_MAX_LANES))
        if (m->lanes[m->slots[slot] - 1].thread == thread)
            return &m->lanes[m->slots[slot] - 1];
    if (m->lane_count == RRTO_MAX_LANES) {
        rrto_match_reset(m);
        slot = thread * 0x9e3779b1u >> 21;
    }
    struct rrto_lane *lane = &m->lanes[m->lane_count++];
    *lane = (struct rrto_lane){.thread = thread};
    m->slots[slot] = (uint16_t)m->lane_count;
    return lane;
}

void rrto_match_reset(struct rrto_matcher *m)
{
    if (m->lane_count)
        memset(m->slots, 0, sizeof m->slots);
    m->lane_count = 0;
}

int rrto_match_add(struct rrto_matcher *m, struct rrto_plan *plan)
{
    if (!plan->number || plan->number > RRTO_MAX_PLANS || m->plans[plan->number])
        return -1;
    if (plan->scratch_bytes > m->scratch_bytes) {
        unsigned char *larger = realloc(m->scratch, plan->scratch_bytes);
        if (!larger)
            return -1;
        m->scratch = larger;
        m->scratch_bytes = plan->scratch_bytes;
    }
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++)
        if (m->plans[n] && !plan->start_up)
            plan->shared[n] = m->plans[n]->shared[plan->number] =
                rrto_plan_shared(plan, m->plans[n]);
    m->plans[plan->number] = plan;
    rrto_match_set_active(m, plan->number, !plan->start_up);
    return 0;
}

void rrto_match_set_active(struct rrto_matcher *m, uint32_t number, int active)
{
    struct rrto_plan *plan = m->plans[number];
    if (active && !plan->active)
        plan->used = ++m->entries;
    m->plan_count += (uint32_t)active - (uint32_t)plan->active;
    plan->active = active;
    /* No lane may stand in a plan whose number may come to mean another. */
    for (uint32_t i = 0; !active && i < m->lane_count; i++) {
        if (m->lanes[i].plan == plan)
            rrto_lane_stand(&m->lanes[i], NULL, 0);
        if (m->lanes[i].begun == plan)
            m->lanes[i].begun = m->lanes[i].plan;
    }
}

void rrto_match_drop(struct rrto_matcher *m, uint32_t number)
{
    rrto_match_set_active(m, number, 0);
    rrto_plan_free(m->plans[number]);
    m->plans[number] = NULL;
    for (uint32_t n = 1; n <= RRTO_MAX_PLANS; n++)
        if (m->plans[n])
            m->plans[n]->shared[number] = 0;
}
