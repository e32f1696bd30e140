/* Plans as they come from the recorder: owns their pieces until they are whole, checks the bytes
 * (docs/wire_format.md, "Plans" and "Plans in the shim") and lays them out for comparing. Nothing
 * here is on the way of a call. */
#include <stdlib.h>
#include <string.h>

#include "cursor.h"

enum {
    CONTROL = 16, /* u32 number, total bytes, offset, zero */
    HEAD = 48,
    CALL = 12,
    VARYING = 12,
    MAX_CALLS = 32768,
    MAX_BYTES = 16 << 20,
    MAX_VARYING = 4096
};
#define MAGIC 0x50545252u
#define VERSION 1u

static struct {
    uint32_t number;
    size_t total, got;
    unsigned char *bytes;
} coming;

static uint32_t u32_at(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

void rrto_plan_free(struct rrto_plan *plan)
{
    if (!plan)
        return;
    free(plan->calls);
    free(plan->varying);
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
        call->payload_bytes = u32_at(plan->bytes + *at + 4);
        call->body_bytes = u32_at(plan->bytes + *at + 8);
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
        uint32_t k = u32_at(plan->bytes + at), offset = u32_at(plan->bytes + at + 4);
        uint32_t size = u32_at(plan->bytes + at + 8);
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

/* A plan of these canonical bytes, which it takes over; NULL if they are none. */
static struct rrto_plan *compile(uint32_t number, unsigned char *bytes, size_t size)
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
    if (size < HEAD || u32_at(bytes) != MAGIC || u32_at(bytes + 4) != VERSION ||
        memcmp(bytes + 8, table, sizeof table))
        goto refused;
    plan->count = u32_at(bytes + 40);
    uint32_t varying = u32_at(bytes + 44);
    if (!plan->count || plan->count > MAX_CALLS || varying > MAX_VARYING)
        goto refused;
    size_t at = HEAD;
    plan->calls = calloc(plan->count, sizeof *plan->calls);
    plan->varying = calloc(varying + 1, sizeof *plan->varying);
    if (!plan->calls || !plan->varying || read_calls(plan, &at) ||
        plan->size - at != (size_t)varying * VARYING || read_varying(plan, varying, at))
        goto refused;
    return plan;
refused:
    rrto_plan_free(plan);
    return NULL;
}

/* Take a piece; 1 if the plan is whole, 0 if more is to come, -1 if the pieces do not fit. */
static int take_piece(const unsigned char *data, size_t bytes)
{
    uint32_t number = u32_at(data), total = u32_at(data + 4), offset = u32_at(data + 8);
    size_t part = bytes - CONTROL;
    if (!offset) {
        free(coming.bytes);
        coming.bytes = total && total <= MAX_BYTES ? malloc(total) : NULL;
        coming.number = number;
        coming.total = total;
        coming.got = 0;
    }
    if (!coming.bytes || number != coming.number || total != coming.total ||
        offset != coming.got || part > coming.total - coming.got) {
        free(coming.bytes);
        coming.bytes = NULL;
        /* The pieces that follow are of the plan that was refused already. */
        return offset && number == coming.number ? 0 : -1;
    }
    memcpy(coming.bytes + offset, data + CONTROL, part);
    coming.got += part;
    return coming.got == coming.total;
}

struct rrto_news *rrto_news_read(uint32_t kind, const unsigned char *data, size_t bytes)
{
    if (bytes < CONTROL)
        return NULL;
    struct rrto_news news = {.kind = kind, .number = u32_at(data)};
    if (kind == RRTO_NEWS_PLAN) {
        int whole = take_piece(data, bytes);
        if (!whole)
            return NULL;
        if (whole > 0) {
            unsigned char *all = coming.bytes;
            coming.bytes = NULL;
            if (news.number && news.number <= RRTO_MAX_PLANS)
                news.plan = compile(news.number, all, coming.total);
            else
                free(all);
        }
    } else if (kind == RRTO_NEWS_SETTINGS) {
        news.apart = u32_at(data + 4);
        news.flush_us = u32_at(data + 8);
    } else if (kind != RRTO_NEWS_REMOVE) {
        return NULL;
    }
    struct rrto_news *out = malloc(sizeof *out);
    if (out)
        *out = news;
    else
        rrto_plan_free(news.plan);
    return out;
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
