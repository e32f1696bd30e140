/* What the recorder tells the shim in control records: owns the pieces of a plan until they are
 * whole (docs/wire_format.md, "Plans in the shim"). */
#include <stdlib.h>
#include <string.h>

#include "references.h"

enum {
    CONTROL = 16, /* u32 number, total bytes, offset, zero */
    MAX_BYTES = 16 << 20
};

static struct {
    uint32_t number;
    size_t total, got;
    unsigned char *bytes;
} coming;

/* Take a piece; 1 if the plan is whole, 0 if more is to come, -1 if the pieces do not fit. */
static int take_piece(const unsigned char *data, size_t bytes)
{
    uint32_t number = rrto_u32_at(data), total = rrto_u32_at(data + 4), offset = rrto_u32_at(data + 8);
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
    struct rrto_news news = {.kind = kind, .number = rrto_u32_at(data)};
    if (kind == RRTO_NEWS_PLAN) {
        int whole = take_piece(data, bytes);
        if (!whole)
            return NULL;
        if (whole > 0) {
            unsigned char *all = coming.bytes;
            coming.bytes = NULL;
            if (news.number && news.number <= RRTO_MAX_PLANS)
                news.plan = rrto_plan_read(news.number, all, coming.total);
            else
                free(all);
        }
    } else if (kind == RRTO_NEWS_SETTINGS) {
        news.apart = rrto_u32_at(data + 4);
        news.flush_us = rrto_u32_at(data + 8);
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
