/* Plans: checks their canonical bytes (docs/wire_format.md, "Plans") and lays them out for comparing.
 * Nothing here but the hash of a call is on the way of one. */
#include <stdlib.h>
#include <string.h>

#include "match.h"

enum {
    HEAD = 48,
    CALL = 12,
    VARYING = 12,
    MAX_CALLS = 32768,
    MAX_BYTES = 16 << 20,
    MAX_VARYING = 4096
};
#define MAGIC 0x50545252u
#define VERSION 1u

void rrto_plan_free(struct rrto_plan *plan)
{
    if (!plan)
        return;
    free(plan->calls);
    free(plan->varying);
    free(plan->buckets);
    free(plan->bytes);
    free(plan);
}

static int read_calls(struct rrto_plan *plan, size_t *at)
{
    for (uint32_t k = 0; k < plan->count; k++) {
        struct rrto_plan_call *call = &plan->calls[k];
        uint16_t words[2];
        if (plan->size - *at < CALL)
            return -1;
        memcpy(words, plan->bytes + *at, 4);
        call->op = words[0];
        call->payload_bytes = rrto_u32_at(plan->bytes + *at + 4);
        call->body_bytes = rrto_u32_at(plan->bytes + *at + 8);
        *at += CALL;
        if (!call->op || words[1] || call->body_bytes % 8 || call->body_bytes > plan->size - *at)
            return -1;
        if (call->payload_bytes > UINT32_MAX - 16 - MAX_BYTES)
            return -1;
        call->body = plan->bytes + *at;
        call->adds = 8 + (uint32_t)rrto_pad8(call->payload_bytes);
        *at += call->body_bytes;
    }
    return 0;
}

/* Ranges ascend, are whole words of the bodies, and are zero in the plan. */
static int read_varying(struct rrto_plan *plan, uint32_t count, size_t at)
{
    uint32_t last_call = 0, last_end = 0;
    for (uint32_t i = 0; i < count; i++, at += VARYING) {
        uint32_t k = rrto_u32_at(plan->bytes + at), offset = rrto_u32_at(plan->bytes + at + 4);
        uint32_t size = rrto_u32_at(plan->bytes + at + 8);
        if (k >= plan->count || k < last_call || offset < RRTO_HEADER)
            return -1;
        struct rrto_plan_call *call = &plan->calls[k];
        uint32_t start = offset - RRTO_HEADER;
        if ((k == last_call && start < last_end) || start % 8 || !size || size % 8 ||
            start > call->body_bytes || size > call->body_bytes - start)
            return -1;
        for (uint32_t b = start; b < start + size; b++)
            if (call->body[b])
                return -1;
        if (!call->ranges++)
            call->varying = i;
        call->words += size / 8;
        call->adds += size;
        if (call->words > RRTO_MOST_WORDS)
            return -1;
        plan->varying[i] = (struct rrto_varying){start, start + size};
        if (call->body_bytes > plan->scratch_bytes)
            plan->scratch_bytes = call->body_bytes;
        last_call = k;
        last_end = start + size;
    }
    return 0;
}

/* ---- where each call is ---- */

static uint32_t mix(uint32_t hash, const unsigned char *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, data + at, bytes - at < 8 ? bytes - at : 8);
        word = (word ^ hash) * 0x9e3779b97f4a7c15u;
        hash = (uint32_t)(word >> 32);
    }
    return hash;
}

uint32_t rrto_plan_hash(const struct rrto_record *record)
{
    uint32_t hash = mix(record->op ^ record->payload_bytes << 8, record->fixed, record->fixed_bytes);
    for (int i = 0; i < 2; i++)
        hash = mix(hash, record->content[i].data, record->content[i].bytes);
    return hash;
}

/* Calls with varying words are not among them: they are known where they are expected. */
static int make_buckets(struct rrto_plan *plan)
{
    uint32_t buckets = 1;
    while (buckets < plan->count)
        buckets *= 2;
    plan->bucket_mask = buckets - 1;
    if (!(plan->buckets = calloc(buckets, sizeof *plan->buckets)))
        return -1;
    for (uint32_t k = plan->count; k--;) { /* so that a bucket begins with the first of them */
        struct rrto_plan_call *call = &plan->calls[k];
        if (call->ranges)
            continue;
        struct rrto_record record = {.op = call->op, .fixed = call->body,
                                     .fixed_bytes = call->body_bytes,
                                     .payload_bytes = call->payload_bytes};
        call->hash = rrto_plan_hash(&record);
        call->next = plan->buckets[call->hash & plan->bucket_mask];
        plan->buckets[call->hash & plan->bucket_mask] = k + 1;
    }
    return 0;
}

struct rrto_plan *rrto_plan_read(uint32_t number, unsigned char *bytes, size_t size)
{
    static const unsigned char table[32] = RRTO_TABLE_HASH;
    struct rrto_plan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        free(bytes);
        return NULL;
    }
    plan->number = number;
    plan->bytes = bytes;
    plan->size = size;
    if (size < HEAD || rrto_u32_at(bytes) != MAGIC || rrto_u32_at(bytes + 4) != VERSION ||
        memcmp(bytes + 8, table, sizeof table))
        goto refused;
    plan->count = rrto_u32_at(bytes + 40);
    uint32_t varying = rrto_u32_at(bytes + 44);
    if (!plan->count || plan->count > MAX_CALLS || varying > MAX_VARYING)
        goto refused;
    size_t at = HEAD;
    plan->calls = calloc(plan->count, sizeof *plan->calls);
    plan->varying = calloc(varying + 1, sizeof *plan->varying);
    if (!plan->calls || !plan->varying || read_calls(plan, &at) ||
        plan->size - at != (size_t)varying * VARYING || read_varying(plan, varying, at) || make_buckets(plan))
        goto refused;
    return plan;
refused:
    rrto_plan_free(plan);
    return NULL;
}

/* How many first calls two plans have in common. */
uint32_t rrto_plan_shared(const struct rrto_plan *a, const struct rrto_plan *b)
{
    uint32_t k = 0, most = a->count < b->count ? a->count : b->count;
    for (; k < most; k++) {
        const struct rrto_plan_call *x = &a->calls[k], *y = &b->calls[k];
        if (x->op != y->op || x->payload_bytes != y->payload_bytes ||
            x->body_bytes != y->body_bytes || x->ranges != y->ranges ||
            memcmp(x->body, y->body, x->body_bytes) ||
            (x->ranges && memcmp(a->varying + x->varying, b->varying + y->varying,
                                 x->ranges * sizeof *a->varying)))
            break;
    }
    return k;
}
