/* A libcuda.so.1 that only writes down, in C, what the bindings hand it: memory management by
 * address, textures, event record nodes in graphs, and a result that no binding has a name for.
 * The structures are those of cuda.h. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int CUresult;
struct location {
    int type, id;
};
struct properties {
    int type, handles;
    struct location location;
    void *meta;
    unsigned char flags[8];
};
struct access {
    struct location location;
    int flags;
};

static char text[1 << 16];
static size_t used;
#define LOG(...) (used += (size_t)snprintf(text + used, sizeof text - used, __VA_ARGS__))

const char *written(void) { return text; }

static CUresult init(unsigned flags) { return flags ? 1 : 0; }

static CUresult version(int *out)
{
    *out = 13000;
    return 0;
}

static CUresult device_get(int *out, int ordinal)
{
    *out = ordinal;
    return 0;
}

static CUresult granularity(size_t *out, const struct properties *p, int option)
{
    LOG("granularity type=%d handles=%d location=%d,%d option=%d\n", p->type, p->handles,
        p->location.type, p->location.id, option);
    *out = 2 << 20;
    return 0;
}

static CUresult reserve(uint64_t *out, size_t size, size_t align, uint64_t at, uint64_t flags)
{
    LOG("reserve size=%zx align=%zx at=%llx flags=%llx\n", size, align, (unsigned long long)at,
        (unsigned long long)flags);
    *out = at;
    return 0;
}

static CUresult create(uint64_t *out, size_t size, const struct properties *p, uint64_t flags)
{
    static uint64_t next = 0x70;
    *out = ++next;
    LOG("create %llx size=%zx type=%d location=%d,%d flags=%llx\n", (unsigned long long)*out, size,
        p->type, p->location.type, p->location.id, (unsigned long long)flags);
    return 0;
}

static CUresult map(uint64_t at, size_t size, size_t offset, uint64_t handle, uint64_t flags)
{
    LOG("map at=%llx size=%zx offset=%zx handle=%llx flags=%llx\n", (unsigned long long)at, size,
        offset, (unsigned long long)handle, (unsigned long long)flags);
    return 0;
}

static CUresult set_access(uint64_t at, size_t size, const struct access *a, size_t count)
{
    LOG("access at=%llx size=%zx location=%d,%d flags=%d count=%zu\n", (unsigned long long)at, size,
        a->location.type, a->location.id, a->flags, count);
    return 0;
}

static CUresult unmap(uint64_t at, size_t size)
{
    LOG("unmap at=%llx size=%zx\n", (unsigned long long)at, size);
    return 0;
}

static CUresult release(uint64_t handle)
{
    LOG("release %llx\n", (unsigned long long)handle);
    return 0;
}

static CUresult address_free(uint64_t at, size_t size)
{
    LOG("free at=%llx size=%zx\n", (unsigned long long)at, size);
    return 0;
}

static CUresult record_node(void **out, void *graph, void *const *waits, size_t count, void *event)
{
    LOG("record graph=%zx count=%zu", (size_t)graph, count);
    for (size_t i = 0; i < count; i++)
        LOG(" %zx", (size_t)waits[i]);
    LOG(" event=%zx\n", (size_t)event);
    *out = (void *)0x99;
    return 0;
}

struct resource {
    int type;
    union {
        struct {
            uint64_t at;
            int format;
            unsigned channels;
            size_t sizes[3]; /* bytes; or width, height, pitch */
        };
        int reserved[32];
    };
    unsigned flags;
};
struct sampling {
    int modes[3], filter;
    unsigned flags, rest[5];
    float border[4];
    int reserved[12];
};

static CUresult texture(uint64_t *out, const struct resource *r, const struct sampling *s,
                        const void *view)
{
    *out = 0x55;
    LOG("texture type=%d at=%llx format=%x channels=%u sizes=%zu,%zu,%zu modes=%d,%d filter=%d "
        "flags=%u border=%g,%g,%g,%g view=%d\n",
        r->type, (unsigned long long)r->at, (unsigned)r->format, r->channels, r->sizes[0],
        r->sizes[1], r->sizes[2], s->modes[0], s->modes[1], s->filter, s->flags,
        (double)s->border[0], (double)s->border[1], (double)s->border[2], (double)s->border[3],
        view != NULL);
    return 0;
}

static CUresult texture_destroy(uint64_t texture_)
{
    LOG("texture gone %llx\n", (unsigned long long)texture_);
    return 0;
}

static CUresult nameless(void *stream)
{
    (void)stream;
    return 4242;
}

CUresult cuGetProcAddress_v2(const char *name, void **out, int version_, uint64_t flags, int *status)
{
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuInit", (void *)init},
        {"cuDriverGetVersion", (void *)version},
        {"cuDeviceGet", (void *)device_get},
        {"cuMemGetAllocationGranularity", (void *)granularity},
        {"cuMemAddressReserve", (void *)reserve},
        {"cuMemCreate", (void *)create},
        {"cuMemMap", (void *)map},
        {"cuMemSetAccess", (void *)set_access},
        {"cuMemUnmap", (void *)unmap},
        {"cuTexObjectCreate", (void *)texture},
        {"cuTexObjectDestroy", (void *)texture_destroy},
        {"cuMemRelease", (void *)release},
        {"cuMemAddressFree", (void *)address_free},
        {"cuGraphAddEventRecordNode", (void *)record_node},
        {"cuStreamQuery", (void *)nameless},
        {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
    };
    (void)version_, (void)flags;
    *out = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name))
            *out = known[i].function;
    if (status)
        *status = *out ? 0 : 1;
    return *out ? 0 : 500;
}

CUresult cuGetProcAddress(const char *name, void **out, int version_, uint64_t flags)
{
    return cuGetProcAddress_v2(name, out, version_, flags, NULL);
}
