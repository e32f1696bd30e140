/* What the parts of the shim share. Each section is owned by the file named there. */
#ifndef RRTO_SHIM_H
#define RRTO_SHIM_H
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_structs.h"
#include "driver_api.h"
#include "ops.h"

/* Record flags (docs/wire_format.md). */
#define RRTO_WAITED 1
#define RRTO_REPLY 2

/* ---- session.c: connection, start, errors, counters ---- */
enum rrto_counter { RRTO_WAITS = 4, RRTO_WAIT_NS = 5, RRTO_LAST_WAIT_NS = 6 };

enum rrto_device { RRTO_CPU = 1, RRTO_GPU = 2, RRTO_NULL = 3 };

struct rrto_pair {
    int32_t id, value;
};

struct rrto_session {
    _Atomic int ready;  /* connected: everything below is set */
    _Atomic int started; /* cuInit succeeded */
    _Atomic int forked; /* this process is the child of a connected one */
    _Atomic int error;  /* sticky CUresult, 0: none */
    _Atomic int dead;   /* the recorder is gone: this CUresult for ever */
    unsigned char *shm, *calls, *replies;
    uint64_t call_bytes, reply_bytes; /* ring sizes, powers of two */
    int socket_fd, call_fd, reply_fd, memory_fd;
    int driver_version, major, minor;
    int kind; /* of device: enum rrto_device */
    uint64_t total_bytes, arena_base, arena_bytes;
    unsigned char uuid[16];
    char name[256];
    struct rrto_pair *attributes;
    uint32_t attribute_count;
};
extern struct rrto_session rrto_session;

CUresult rrto_connect(void); /* idempotent */
void rrto_fail(int status, const char *why) __attribute__((cold));
void rrto_die(int status, const char *why) __attribute__((cold));
void rrto_say(const char *format, ...) __attribute__((cold, format(printf, 1, 2)));
const char *rrto_error_name(int status);

extern _Atomic(uint64_t *) rrto_counters;
extern _Atomic(uint32_t *) rrto_export_calls;

static inline void rrto_add(unsigned counter, uint64_t value)
{
    uint64_t *at = atomic_load_explicit(&rrto_counters, memory_order_relaxed) + counter;
    atomic_fetch_add_explicit((_Atomic uint64_t *)at, value, memory_order_relaxed);
}

/* Of which class the call is, the recorder knows from the export. */
static inline void rrto_count(unsigned number)
{
    uint32_t *at = atomic_load_explicit(&rrto_export_calls, memory_order_relaxed) + number;
    atomic_fetch_add_explicit((_Atomic uint32_t *)at, 1, memory_order_relaxed);
}
CUresult rrto_unsupported(unsigned number, const char *name);

/* ---- refused.c ---- */
/* Names what is refused in the session's report; gives `result`. */
CUresult rrto_refuse(CUresult result, const char *format, ...)
    __attribute__((cold, format(printf, 2, 3)));
void rrto_refused_into(unsigned char *shm); /* NULL: back into this process */

/* ---- visible.c ---- */
int rrto_visible(const unsigned char *uuid); /* NULL, while unknown: as far as numbers say */

/* ---- ring.c: records to the recorder, results from it ---- */
struct rrto_content {
    const void *data;
    size_t bytes;
};

struct rrto_record {
    uint16_t op, flags;
    const void *fixed;
    size_t fixed_bytes;
    struct rrto_content content[2];
    const void *payload;
    uint32_t payload_bytes;
};

/* Where a reply goes. `data` with `room` bytes, or a buffer that is allocated (`grow`). */
struct rrto_wait {
    void *data;
    size_t room, got;
    int grow;  /* allocate `data` as large as the reply; the caller frees it */
    int later; /* do not wait now: the reply is collected by rrto_collect, or deferred */
    int foreign; /* `data` is in memory that the program registered */
    int status, done;
    uint64_t index;
    uint64_t object, place;     /* of `data`, as in struct rrto_host */
    struct rrto_wait *next;     /* in the table of expected replies */
    struct rrto_wait *deferred; /* in the list of copies that run on */
};

int rrto_submit(struct rrto_record *record, struct rrto_wait *wait);
int rrto_collect(struct rrto_wait *wait); /* wait for one reply */
int rrto_mode(void);
size_t rrto_call_piece(void);  /* largest payload of one record, bytes */
size_t rrto_reply_piece(void); /* largest reply to ask for, bytes */

/* ---- landing.c: copies to host memory that still have to land ---- */
extern _Atomic uint32_t rrto_landing;     /* how many */
void rrto_defer(struct rrto_wait *wait);  /* hand over a heap-allocated `later` wait */
int rrto_finish_deferred(void);           /* wait for every one */
CUresult rrto_settle_now(const void *at, size_t bytes);
void rrto_landing_in_child(void);

/* Whether any has to. If not, who asks sees what the threads that received the last ones wrote. */
static inline int rrto_lands(void)
{
    return atomic_load_explicit(&rrto_landing, memory_order_acquire) != 0;
}

/* Before the shim reads or writes host memory: what was queued into it lands first. */
static inline CUresult rrto_settle(const void *at, size_t bytes)
{
    if (!rrto_lands() || !bytes)
        return CUDA_SUCCESS;
    return rrto_settle_now(at, bytes);
}

/* ---- objects.c: handles ---- */
enum rrto_kind {
    RRTO_CONTEXT = 1,
    RRTO_STREAM,
    RRTO_EVENT,
    RRTO_MODULE,
    RRTO_FUNCTION,
    RRTO_LIBRARY,
    RRTO_GRAPH,
    RRTO_NODE,
    RRTO_EXEC,
    RRTO_POOL,
    RRTO_LINK,
    RRTO_MEMORY,
    RRTO_SEGMENT,
    RRTO_USER_OBJECT,
    RRTO_ARRAY,
    RRTO_TEXTURE,
    RRTO_KINDS
};

struct rrto_object {
    _Atomic uint32_t state; /* generation * 2 + live */
    uint32_t slot;
    void *handle;
    uint64_t name;    /* on the wire */
    void *owner;      /* context, or the module, library or graph it belongs to */
    uint32_t flags;
    int32_t number;
    void *data;
    struct rrto_object *free_next;
};

struct rrto_object *rrto_new(enum rrto_kind kind);      /* NULL: out of memory */
void rrto_drop(enum rrto_kind kind, struct rrto_object *object);
struct rrto_object *rrto_find(enum rrto_kind kind, const void *handle);
struct rrto_object *rrto_next(enum rrto_kind kind, uint32_t *slot); /* live ones, by name */

/* ---- context.c ---- */
enum { RRTO_CONTEXTS = 256 };
CUresult rrto_need_init(void);
CUresult rrto_need_context(void);
CUresult rrto_need_session(void);
CUresult rrto_need_operator(void);
CUcontext rrto_current(void);
void rrto_enter_callbacks(void); /* this thread runs the program's host functions */
int rrto_in_callback(void);
void rrto_context_start(void); /* makes the primary context's object */
CUresult rrto_context_of(CUcontext ctx, struct rrto_object **out); /* NULL, -1: the current one */
CUcontext rrto_primary(CUdevice dev); /* NULL: there is no such device */

/* ---- storage.c ---- */
void rrto_storage_ends(CUcontext ctx); /* has everything given back */

/* ---- validity.c ---- */
void rrto_validity_digest(const void *message, size_t bytes, unsigned char *digest);

/* ---- ranges.c: device memory ---- */
struct rrto_range {
    uint64_t address, bytes;  /* what the program asked for */
    uint64_t reserved;        /* bytes taken from the arena, 0: a module's variable */
    void *context, *pool, *module;
    uint64_t id;
    int sync_memops; /* a pointer attribute that the program set */
    struct rrto_object *memory; /* what is mapped there (virtual.c), NULL: it was allocated */
    int access; /* of a mapping: 0 none, 1 read, 3 read and write */
};

enum { RRTO_MAP_GRANULE = 2 << 20 };

void rrto_arena_start(void);
int rrto_keep_free(uint64_t base, uint64_t bytes);
CUresult rrto_range_alloc(uint64_t bytes, void *context, void *pool, uint64_t *address);
CUresult rrto_range_take(uint64_t address, uint64_t *reserved);
void rrto_range_return(uint64_t address, uint64_t reserved);
int rrto_range_first_of(void *context, struct rrto_range *out);
int rrto_range_find(uint64_t address, struct rrto_range *out);
int rrto_range_sync_memops(uint64_t address, int value); /* 0: there is no such range */
CUresult rrto_range_check(uint64_t address, uint64_t bytes); /* it may be read */
CUresult rrto_range_check_write(uint64_t address, uint64_t bytes);
CUresult rrto_arena_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *address);
void rrto_arena_unreserve(uint64_t address, uint64_t bytes);
CUresult rrto_range_budget(int64_t bytes); /* of memory that has no address; negative: it is freed */
CUresult rrto_range_map(uint64_t address, uint64_t bytes, struct rrto_object *memory);
void rrto_range_unmap(uint64_t address);
void rrto_range_access(uint64_t address, uint64_t bytes, int access);
int rrto_range_pieces(uint64_t address, uint64_t bytes); /* is something mapped there? */
int rrto_range_whole_pieces(uint64_t address, uint64_t bytes); /* mappings and nothing else? */
void rrto_range_globals(void *module, uint64_t address, uint64_t bytes);
void rrto_range_forget(void *module);
uint64_t rrto_range_used(void *pool, uint64_t *high); /* pool NULL: all */
void rrto_range_reset_high(void *pool);
void rrto_range_forget_pool(void *pool);
CUresult rrto_fill_bytes(uint64_t dst, size_t pitch, unsigned unit, size_t width, size_t height,
                         size_t *bytes);

CUresult rrto_memory_release(CUdeviceptr address, uint64_t stream); /* memory.c */

/* ---- copy.c ---- */
int rrto_is_device(CUdeviceptr at);
int rrto_is_page_locked(CUdeviceptr at, size_t bytes);
CUresult rrto_copy(CUdeviceptr dst, CUdeviceptr src, size_t bytes, uint64_t stream); /* by address */

/* ---- rows.c: copies of rows and planes ---- */
struct rrto_side {
    CUdeviceptr base; /* of the first byte; host addresses as well */
    size_t pitch, plane;
};
CUresult rrto_copy_rows(const struct rrto_side *to, const struct rrto_side *from, size_t width,
                        size_t height, size_t depth, uint64_t stream);

/* ---- arrays.c ---- */
struct rrto_array {
    CUdeviceptr address; /* its memory: rows with a pitch */
    size_t width, height, depth, pitch; /* elements, rows, planes (0 as in the descriptor), bytes */
    size_t element; /* bytes */
    int format;
    unsigned channels, flags;
};
size_t rrto_element_bytes(int format, unsigned channels); /* 0: there is no such element */
const struct rrto_array *rrto_array_of(CUarray array); /* NULL: it is none */
/* The part of an array from byte `x` of row `y` of plane `z` on, of so many bytes, rows and planes. */
CUresult rrto_array_side(CUarray array, size_t x, size_t y, size_t z, size_t width, size_t height,
                         size_t depth, struct rrto_side *out);

/* ---- host.c: page-locked memory ---- */
#define RRTO_ANY_OBJECT UINT64_MAX

/* What is known of host memory. Two addresses mean one byte if their objects and places are equal,
 * or maybe if one is of any object; object 0 is nowhere else. */
struct rrto_host {
    uintptr_t address, base; /* base 0: not page-locked */
    size_t bytes;            /* of the whole range from base on */
    uint64_t object, place;  /* of `address` */
    int registered;
};

void rrto_host_of(const void *at, size_t bytes, struct rrto_host *out);
int rrto_host_pinned(const void *at, size_t bytes, struct rrto_host *out); /* all of it */
int rrto_host_find(const void *at, uintptr_t *base, size_t *bytes);

/* ---- threads.c ---- */
int rrto_start_thread(void *(*run)(void *), size_t stack); /* detached; 0: as usual; gives errno */

/* ---- device.c ---- */
int rrto_attribute(int id);

/* ---- module.c, function.c, image.c ---- */
struct rrto_param {
    uint32_t offset, size;
};

enum { RRTO_SETTABLE = 9, RRTO_SETTABLE_END = 16 };

struct rrto_kernel {
    uint64_t module; /* name on the wire */
    uint32_t index;
    char *name;
    struct rrto_param *params;
    uint32_t param_count, param_bytes;
    struct rrto_pair *attributes;
    uint32_t attribute_count;
    int max_threads, static_shared;
    _Atomic int dynamic_limit; /* dynamic shared bytes that a launch may ask for */
    _Atomic int settable[RRTO_SETTABLE_END]; /* attributes that read back as they were set */
    struct rrto_object *function, *owner;
    int unread;      /* the server has its module, and looks at it when it is first used */
    CUresult failed; /* what came of that */
    _Atomic int there; /* the server has it: everything above is known, not the name alone */
};

struct rrto_kernel *rrto_kernel_of(const void *function); /* NULL: not a function */
/* The function's kernel, which the server has from then on: lazy loading happens here. */
CUresult rrto_use(const void *function, struct rrto_kernel **out);
struct rrto_image {
    const void *data;
    size_t bytes;
    char *owned; /* to free */
    int stays;   /* the program does not change or free it before it unloads it */
};
CUresult rrto_image_of(const void *at, struct rrto_image *out);
CUresult rrto_image_of_file(const char *path, struct rrto_image *out);
int rrto_kernel_attribute(const struct rrto_kernel *kernel, int id);
int rrto_kernel_told(const struct rrto_kernel *kernel, int id); /* what the server said of it */

/* ---- host_calls.c ---- */
extern _Atomic int rrto_host_calls; /* host functions in streams that have not returned */
CUresult rrto_wait_for_host_calls(void) __attribute__((cold));
/* Before the shim itself does a stream's work on host memory, which makes no record that would wait:
 * host functions have returned and what was queued into the memory has landed. */
CUresult rrto_claim(const void *at, size_t bytes);
/* Has the thread of host functions call one, after those that are in streams by now. */
CUresult rrto_call_later(CUhostFn fn, void *data);

/* ---- stream.c ---- */
/* For calls that are executed: fails for a stream that is being captured. */
CUresult rrto_name_stream(CUstream stream, uint64_t *name);
CUresult rrto_name_event(CUevent event, uint64_t *name);

/* ---- capture.c ---- */
extern _Atomic uint32_t rrto_captures; /* sequences of calls that are being captured */
static inline int rrto_capturing(void)
{
    return __builtin_expect(atomic_load_explicit(&rrto_captures, memory_order_relaxed) != 0, 0);
}
CUresult rrto_capture_forbid(CUstream stream) __attribute__((cold));
CUresult rrto_capture_unsafe(void) __attribute__((cold));
CUresult rrto_capture_legacy(void) __attribute__((cold));
CUresult rrto_capture_everywhere(void) __attribute__((cold));

/* What may not be called while something is captured: by a thread that may break a sequence, with
 * the legacy stream beside a blocking one, and at all. */
static inline CUresult rrto_no_unsafe(void)
{
    return rrto_capturing() ? rrto_capture_unsafe() : CUDA_SUCCESS;
}
static inline CUresult rrto_no_legacy(void)
{
    return rrto_capturing() ? rrto_capture_legacy() : CUDA_SUCCESS;
}
static inline CUresult rrto_no_capture(void)
{
    return rrto_capturing() ? rrto_capture_everywhere() : CUDA_SUCCESS;
}

/* The default stream of exports whose default is a stream for each thread. */
static inline CUstream rrto_per_thread(CUstream stream)
{
    return stream ? stream : (CUstream)(uintptr_t)2;
}

/* ---- occupancy.c ---- */
uint64_t rrto_blocks_at_once(const struct rrto_kernel *kernel, uint64_t threads, size_t shared);

/* ---- launch.c ---- */
enum { RRTO_COOPERATIVE = 1 }; /* of a launch's flags */

struct rrto_geometry {
    unsigned grid[3], block[3], shared;
};
CUresult rrto_check_launch(const struct rrto_kernel *kernel, const struct rrto_geometry *at);
CUresult rrto_pack(const struct rrto_kernel *kernel, void **params, void **extra,
                   unsigned char *small, size_t small_bytes, unsigned char **packed);
/* Whether a launch, or a graph's kernel node, may have an attribute. */
CUresult rrto_check_launch_attribute(const char *call, int id, const CUlaunchAttributeValue *value,
                                     uint32_t *flags);

#endif
