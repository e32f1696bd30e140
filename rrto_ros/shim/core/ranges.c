/* Device memory as the program sees it: the arena's free and used ranges, mappings of memory in
 * reserved ranges, and module variables.
 *
 * Addresses are given by best fit, lowest address first, at 512 bytes, so the same program gets
 * the same addresses at every start. Both lists are arrays sorted by address.
 *
 * Over 400 lines: whatever uses addresses up gives them back to the same two lists. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { GRANULE = 512 };

struct gap {
    uint64_t address, bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rrto_range *ranges;
static size_t range_count, range_room;
static struct gap *gaps;
static size_t gap_count, gap_room;
static uint64_t used, high, next_id = 1;
static struct pool_use {
    void *pool;
    uint64_t used, high;
    int gone; /* destroyed; what was allocated from it lives on */
} *pools;
static size_t pool_count, pool_room;

static int grow(void **array, size_t *room, size_t count, size_t item)
{
    if (count < *room)
        return 0;
    size_t wanted = *room ? *room * 2 : 256;
    void *larger = realloc(*array, wanted * item);
    if (!larger)
        return -1;
    *array = larger;
    *room = wanted;
    return 0;
}

void rrto_arena_start(void)
{
    range_count = 0;
    if (grow((void **)&gaps, &gap_room, 0, sizeof *gaps))
        return;
    gaps[0] = (struct gap){rrto_session.arena_base, rrto_session.arena_bytes & ~(uint64_t)(GRANULE - 1)};
    gap_count = 1;
}

/* Index of the last range that begins at or below the address, or -1. */
static ptrdiff_t below(uint64_t address)
{
    size_t low = 0, end = range_count;
    while (low < end) {
        size_t middle = (low + end) / 2;
        if (ranges[middle].address <= address)
            low = middle + 1;
        else
            end = middle;
    }
    return (ptrdiff_t)low - 1;
}

static int insert(const struct rrto_range *range)
{
    if (grow((void **)&ranges, &range_room, range_count, sizeof *ranges))
        return -1;
    size_t at = (size_t)(below(range->address) + 1);
    memmove(ranges + at + 1, ranges + at, (range_count - at) * sizeof *ranges);
    ranges[at] = *range;
    range_count++;
    return 0;
}

static void erase(size_t at)
{
    range_count--;
    memmove(ranges + at, ranges + at + 1, (range_count - at) * sizeof *ranges);
}

/* Under the lock. NULL: nothing was allocated from it. */
static struct pool_use *pool_use(void *pool)
{
    for (size_t i = 0; pool && i < pool_count; i++)
        if (pools[i].pool == pool)
            return &pools[i];
    return NULL;
}

static int pool_add(void *pool, int64_t bytes)
{
    struct pool_use *use = pool_use(pool);
    if (!pool)
        return 0;
    if (!use) {
        if (grow((void **)&pools, &pool_room, pool_count, sizeof *pools))
            return -1;
        use = &pools[pool_count++];
        *use = (struct pool_use){.pool = pool};
    }
    use->used += (uint64_t)bytes;
    if (use->used > use->high)
        use->high = use->used;
    if (use->gone && !use->used)
        *use = pools[--pool_count];
    return 0;
}

void rrto_range_forget_pool(void *pool)
{
    pthread_mutex_lock(&lock);
    struct pool_use *use = pool_use(pool);
    if (use && use->used)
        use->gone = 1;
    else if (use)
        *use = pools[--pool_count];
    pthread_mutex_unlock(&lock);
}

CUresult rrto_range_alloc(uint64_t bytes, void *context, void *pool, uint64_t *address)
{
    uint64_t wanted = (bytes + GRANULE - 1) & ~(uint64_t)(GRANULE - 1);
    CUresult result = CUDA_OUT_OF_MEMORY;
    if (!bytes)
        return CUDA_INVALID_VALUE;
    if (wanted < bytes)
        return CUDA_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    size_t best = gap_count;
    if (wanted <= rrto_session.total_bytes - used)
        for (size_t i = 0; i < gap_count; i++)
            if (gaps[i].bytes >= wanted && (best == gap_count || gaps[i].bytes < gaps[best].bytes))
                best = i;
    if (best < gap_count) {
        struct rrto_range range = {.address = gaps[best].address, .bytes = bytes,
                                   .reserved = wanted, .context = context, .pool = pool,
                                   .id = next_id};
        if (!pool_add(pool, (int64_t)wanted) && !insert(&range)) {
            next_id++;
            gaps[best].address += wanted;
            gaps[best].bytes -= wanted;
            if (!gaps[best].bytes) {
                gap_count--;
                memmove(gaps + best, gaps + best + 1, (gap_count - best) * sizeof *gaps);
            }
            used += wanted;
            if (used > high)
                high = used;
            *address = range.address;
            result = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static void give_back(uint64_t address, uint64_t bytes)
{
    size_t at = 0;
    while (at < gap_count && gaps[at].address < address)
        at++;
    int left = at > 0 && gaps[at - 1].address + gaps[at - 1].bytes == address;
    int right = at < gap_count && address + bytes == gaps[at].address;
    if (left && right) {
        gaps[at - 1].bytes += bytes + gaps[at].bytes;
        gap_count--;
        memmove(gaps + at, gaps + at + 1, (gap_count - at) * sizeof *gaps);
    } else if (left) {
        gaps[at - 1].bytes += bytes;
    } else if (right) {
        gaps[at].address = address;
        gaps[at].bytes += bytes;
    } else if (!grow((void **)&gaps, &gap_room, gap_count, sizeof *gaps)) {
        memmove(gaps + at + 1, gaps + at, (gap_count - at) * sizeof *gaps);
        gaps[at] = (struct gap){address, bytes};
        gap_count++;
    }
}

/* Takes the allocation out, but its place is not given to another before rrto_range_return: the
 * record that frees it must come before the record that allocates there again. */
CUresult rrto_range_take(uint64_t address, uint64_t *reserved)
{
    CUresult result = CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    ptrdiff_t at = below(address);
    if (at >= 0 && ranges[at].address == address && ranges[at].reserved) {
        *reserved = ranges[at].reserved;
        pool_add(ranges[at].pool, -(int64_t)*reserved);
        erase((size_t)at);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

void rrto_range_return(uint64_t address, uint64_t reserved)
{
    pthread_mutex_lock(&lock);
    give_back(address, reserved);
    used -= reserved;
    pthread_mutex_unlock(&lock);
}

int rrto_range_first_of(void *context, struct rrto_range *out)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < range_count && !found; i++)
        if (ranges[i].context == context && ranges[i].reserved) {
            *out = ranges[i];
            found = 1;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

int rrto_range_find(uint64_t address, struct rrto_range *out)
{
    pthread_mutex_lock(&lock);
    ptrdiff_t at = below(address);
    int found = at >= 0 && address - ranges[at].address < ranges[at].bytes;
    if (found)
        *out = ranges[at];
    pthread_mutex_unlock(&lock);
    return found;
}

int rrto_range_sync_memops(uint64_t address, int value)
{
    pthread_mutex_lock(&lock);
    ptrdiff_t at = below(address);
    int found = at >= 0 && address - ranges[at].address < ranges[at].bytes;
    if (found)
        ranges[at].sync_memops = value;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Memory that is mapped piece by piece is used across the pieces. */
static CUresult check(uint64_t address, uint64_t bytes, int access)
{
    if (!bytes)
        return CUDA_SUCCESS;
    int fits = 0;
    pthread_mutex_lock(&lock);
    for (ptrdiff_t at = below(address); at >= 0; at++) {
        const struct rrto_range *range = &ranges[at];
        uint64_t place = address - range->address;
        if (address < range->address || place >= range->bytes ||
            (range->memory && (range->access & access) != access))
            break;
        fits = bytes <= range->bytes - place;
        if (fits || !range->memory || at + 1 == (ptrdiff_t)range_count || !range[1].memory)
            break;
        address += range->bytes - place;
        bytes -= range->bytes - place;
    }
    pthread_mutex_unlock(&lock);
    return fits ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

CUresult rrto_range_check(uint64_t address, uint64_t bytes)
{
    return check(address, bytes, 1);
}

CUresult rrto_range_check_write(uint64_t address, uint64_t bytes)
{
    return check(address, bytes, 3);
}

/* ---- reserved ranges and what is mapped there ---- */

/* From the arena's end, away from allocations; `alignment` is a power of two. */
CUresult rrto_arena_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *address)
{
    CUresult result = CUDA_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    for (int hinted = hint && hint % alignment == 0; hinted >= 0 && result; hinted--)
        for (size_t i = gap_count; i-- > 0 && result;) {
            uint64_t first = gaps[i].address, end = first + gaps[i].bytes;
            if (gaps[i].bytes < bytes)
                continue;
            uint64_t at = hinted ? hint : (end - bytes) & ~(alignment - 1);
            if (at < first || at > end - bytes)
                continue;
            if (at > first && at + bytes < end) { /* two gaps are left */
                if (grow((void **)&gaps, &gap_room, gap_count, sizeof *gaps))
                    break;
                memmove(gaps + i + 1, gaps + i, (gap_count - i) * sizeof *gaps);
                gap_count++;
                gaps[i].bytes = at - first;
                gaps[i + 1] = (struct gap){at + bytes, end - at - bytes};
            } else if (at > first) {
                gaps[i].bytes = at - first;
            } else if (at + bytes < end) {
                gaps[i] = (struct gap){at + bytes, end - at - bytes};
            } else {
                gap_count--;
                memmove(gaps + i, gaps + i + 1, (gap_count - i) * sizeof *gaps);
            }
            *address = at;
            result = CUDA_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

void rrto_arena_unreserve(uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    give_back(address, bytes);
    pthread_mutex_unlock(&lock);
}

CUresult rrto_range_budget(int64_t bytes)
{
    pthread_mutex_lock(&lock);
    int fits = bytes < 0 || (uint64_t)bytes <= rrto_session.total_bytes - used;
    if (fits)
        used += (uint64_t)bytes;
    if (used > high)
        high = used;
    pthread_mutex_unlock(&lock);
    return fits ? CUDA_SUCCESS : CUDA_OUT_OF_MEMORY;
}

/* INVALID_VALUE where something is mapped already. The range is reserved: nothing else is there. */
CUresult rrto_range_map(uint64_t address, uint64_t bytes, struct rrto_object *memory)
{
    struct rrto_range piece = {.address = address, .bytes = bytes, .memory = memory};
    CUresult result = CUDA_INVALID_VALUE;
    if (rrto_range_pieces(address, bytes))
        return result;
    pthread_mutex_lock(&lock);
    piece.id = next_id;
    result = insert(&piece) ? CUDA_OUT_OF_MEMORY : CUDA_SUCCESS;
    next_id += !result;
    pthread_mutex_unlock(&lock);
    return result;
}

void rrto_range_unmap(uint64_t address)
{
    pthread_mutex_lock(&lock);
    ptrdiff_t at = below(address);
    if (at >= 0 && ranges[at].address == address && ranges[at].memory)
        erase((size_t)at);
    pthread_mutex_unlock(&lock);
}

void rrto_range_access(uint64_t address, uint64_t bytes, int access)
{
    pthread_mutex_lock(&lock);
    for (ptrdiff_t at = below(address);
         at >= 0 && at < (ptrdiff_t)range_count && ranges[at].address < address + bytes; at++)
        ranges[at].access = access;
    pthread_mutex_unlock(&lock);
}

int rrto_range_pieces(uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    ptrdiff_t last = below(address + bytes - 1);
    int found = last >= 0 && ranges[last].address + ranges[last].bytes > address;
    pthread_mutex_unlock(&lock);
    return found;
}

int rrto_range_whole_pieces(uint64_t address, uint64_t bytes)
{
    uint64_t end;
    if (__builtin_add_overflow(address, bytes, &end))
        return 0;
    pthread_mutex_lock(&lock);
    ptrdiff_t at = below(address);
    while (at >= 0 && at < (ptrdiff_t)range_count && address < end &&
           ranges[at].address == address && ranges[at].memory)
        address += ranges[at++].bytes;
    pthread_mutex_unlock(&lock);
    return address == end;
}

void rrto_range_globals(void *module, uint64_t address, uint64_t bytes)
{
    struct rrto_range range = {.address = address, .bytes = bytes, .module = module};
    pthread_mutex_lock(&lock);
    range.id = next_id++;
    insert(&range);
    pthread_mutex_unlock(&lock);
}

void rrto_range_forget(void *module)
{
    pthread_mutex_lock(&lock);
    for (size_t i = range_count; i-- > 0;)
        if (ranges[i].module == module && !ranges[i].reserved)
            erase(i);
    pthread_mutex_unlock(&lock);
}

uint64_t rrto_range_used(void *pool, uint64_t *highest)
{
    uint64_t now = 0, top = 0;
    pthread_mutex_lock(&lock);
    if (!pool) {
        now = used;
        top = high;
    }
    struct pool_use *use = pool_use(pool);
    if (use) {
        now = use->used;
        top = use->high;
    }
    pthread_mutex_unlock(&lock);
    if (highest)
        *highest = top;
    return now;
}

void rrto_range_reset_high(void *pool)
{
    pthread_mutex_lock(&lock);
    struct pool_use *use = pool_use(pool);
    if (use)
        use->high = use->used;
    pthread_mutex_unlock(&lock);
}

/* Bytes from the first to the last that a fill writes. */
CUresult rrto_fill_bytes(uint64_t dst, size_t pitch, unsigned unit, size_t width, size_t height,
                         size_t *bytes)
{
    size_t row;
    *bytes = 0;
    if (!width || !height)
        return CUDA_SUCCESS;
    if (dst % unit || __builtin_mul_overflow(width, (size_t)unit, &row))
        return CUDA_INVALID_VALUE;
    if (height > 1 && (pitch < row || pitch % unit))
        return CUDA_INVALID_VALUE;
    if (__builtin_mul_overflow(height > 1 ? pitch : 0, height - 1, bytes) ||
        __builtin_add_overflow(*bytes, row, bytes))
        return CUDA_INVALID_VALUE;
    return CUDA_SUCCESS;
}
