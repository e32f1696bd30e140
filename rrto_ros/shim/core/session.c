/* The connection to recorder_replayer: start, device description, errors, counters, fork.
 *
 * Over 400 lines: the start of a session is one story, from the socket's path to the mapped rings. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "references.h"
#include "procs.h"
#include "ring_layout.h"

enum {
    CONNECT_TIMEOUT_MS = 12000, /* longer than the recorder looks for a server */
    MAGIC = 0x4F545252,
    VERSION = 1,
    DEVICE_HEAD = 80,
    MAX_TEXT = 4096,
    MAX_INFO = 65536,
    MAX_NAME = 512,
    HIGHEST_DOMAIN = 232,
    HUNG_UP = -2
};

struct rrto_session rrto_session = {
    .socket_fd = -1, .call_fd = -1, .reply_fd = -1, .memory_fd = -1};

static uint64_t early_counters[8];
static uint32_t early_calls[1024];
_Atomic(uint64_t *) rrto_counters = early_counters;
_Atomic(uint32_t *) rrto_export_calls = early_calls;
_Static_assert(RRTO_EXPORTS <= 1024, "the header has room for 1024 exports");

static pthread_mutex_t connect_lock = PTHREAD_MUTEX_INITIALIZER;
static int complained;

#define S rrto_session

void rrto_say(const char *format, ...)
{
    char text[1024] = "rrto: ";
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text + 6, sizeof text - 7, format, args);
    va_end(args);
    size_t bytes = 6 + (length < 0 ? 0 : (size_t)length);
    if (bytes > sizeof text - 1)
        bytes = sizeof text - 1;
    text[bytes++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, text, bytes);
    (void)ignored;
}

const char *rrto_error_name(int status)
{
    unsigned low = 0, high = rrto_error_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (rrto_errors[middle].number < status)
            low = middle + 1;
        else
            high = middle;
    }
    return low < rrto_error_count && rrto_errors[low].number == status ? rrto_errors[low].name : NULL;
}

/* An error that stays: later operators return it. The first one is told. */
void rrto_fail(int status, const char *why)
{
    int none = 0;
    if (atomic_compare_exchange_strong(&S.error, &none, status)) {
        const char *name = rrto_error_name(status);
        rrto_say("%s; CUDA calls now return %s (%d)", why, name ? name : "an unknown error", status);
    }
}

void rrto_die(int status, const char *why)
{
    int none = 0;
    rrto_fail(status, why);
    atomic_compare_exchange_strong(&S.dead, &none, status);
}

CUresult rrto_unsupported(unsigned number, const char *name)
{
    (void)name;
    rrto_count(number);
    return CUDA_NOT_SUPPORTED;
}

/* ---- bytes over the socket, within the deadline ---- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int await(int fd, short events, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - now_ms();
        if (left <= 0)
            return -1;
        struct pollfd one = {.fd = fd, .events = events};
        int got = poll(&one, 1, (int)left);
        if (got > 0)
            return 0;
        if (got < 0 && errno != EINTR)
            return -1;
    }
}

static int send_all(int fd, const unsigned char *data, size_t bytes, int64_t deadline)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            data += sent;
            bytes -= (size_t)sent;
        } else if (errno != EAGAIN && errno != EINTR) {
            return -1;
        } else if (await(fd, POLLOUT, deadline)) {
            return -1;
        }
    }
    return 0;
}

/* Receive exactly `bytes`; file descriptors that come along go to fds (3, -1 where none).
 * Returns 0, HUNG_UP where the other side closed, else -1. */
static int receive_all(int fd, unsigned char *data, size_t bytes, int *fds, int64_t deadline)
{
    while (bytes) {
        if (await(fd, POLLIN, deadline))
            return -1;
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(3 * sizeof(int))];
        } control;
        struct iovec part = {data, bytes};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got <= 0)
            return got == 0 || errno == ECONNRESET ? HUNG_UP : -1;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                continue;
            size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < count; i++) {
                int passed;
                memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof passed);
                if (i < 3 && fds[i] < 0)
                    fds[i] = passed;
                else
                    close(passed);
            }
        }
        data += got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* ---- HELLO and WELCOME ---- */

/* The ROS domain, as ROS reads it: unset or empty is 0. */
static int domain_number(const char *text)
{
    char *end;
    if (!text || !*text)
        return 0;
    unsigned long number = strtoul(text, &end, 10);
    return *end || *text < '0' || *text > '9' || number > HIGHEST_DOMAIN ? -1 : (int)number;
}

/* The recorder computes the same (robot/ring_socket.py). */
static int socket_path(char *path, size_t bytes, int domain)
{
    const char *given = getenv("RRTO_SOCKET"), *run = getenv("XDG_RUNTIME_DIR");
    const char *robot = getenv("RRTO_ROBOT");
    int length;
    if (given && *given) {
        length = snprintf(path, bytes, "%s", given);
    } else {
        length = snprintf(path, bytes, "%s/rrto-%u/%d-", run && *run ? run : "/tmp",
                          (unsigned)getuid(), domain);
        if (length < 0 || (size_t)length >= bytes)
            return -1;
        char *name = path + length;
        bytes -= (size_t)length;
        length = snprintf(name, bytes, "%s.sock", robot && *robot ? robot : "robot");
        for (char *at = name; *at; at++)
            if (*at == '/')
                *at = '.';
    }
    return length < 0 || (size_t)length >= bytes ? -1 : 0;
}

/* Whether the recorder is this user's: a folder in /tmp may be someone else's. */
static int own_recorder(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) && bytes == sizeof peer &&
           peer.uid == getuid();
}

static size_t program_name(char *text, size_t bytes)
{
    size_t got = 0;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, bytes);
        got = n > 0 ? (size_t)n : 0;
        close(fd);
    }
    while (got && !text[got - 1])
        got--;
    for (size_t i = 0; i < got; i++)
        if ((unsigned char)text[i] < ' ' || (unsigned char)text[i] > '~')
            text[i] = text[i] ? '?' : ' ';
    return got;
}

static int say_hello(int fd, int64_t deadline)
{
    static const unsigned char table[32] = RRTO_TABLE_HASH;
    unsigned char hello[48 + 4 + 2 * MAX_NAME];
    const char *label = getenv("RRTO_LABEL");
    size_t label_bytes = label ? strnlen(label, MAX_NAME) : 0;
    uint32_t words[2] = {MAGIC, VERSION};
    uint32_t pid = (uint32_t)getpid();
    memcpy(hello, words, 8);
    memcpy(hello + 8, table, 32);
    memcpy(hello + 40, &pid, 4);
    size_t name_bytes = program_name((char *)hello + 48, MAX_NAME);
    uint16_t lengths[2] = {(uint16_t)name_bytes, (uint16_t)label_bytes};
    memcpy(hello + 44, lengths, 4);
    if (label_bytes)
        memcpy(hello + 48 + name_bytes, label, label_bytes);
    return send_all(fd, hello, 48 + name_bytes + label_bytes, deadline);
}

static int read_device(const unsigned char *info, size_t bytes)
{
    uint32_t words[4], name[2];
    uint64_t sizes[3];
    if (bytes < DEVICE_HEAD + 8)
        return -1;
    memcpy(words, info, 16);
    memcpy(sizes, info + 16, 24);
    memcpy(name, info + 72, 8);
    size_t at = DEVICE_HEAD + ((size_t)name[0] + 7) / 8 * 8;
    if (name[0] > 255 || words[3] > 4096 || at + (size_t)words[3] * 8 != bytes)
        return -1;
    S.driver_version = (int)words[0];
    S.kind = (int)name[1];
    S.major = (int)words[1];
    S.minor = (int)words[2];
    S.total_bytes = sizes[0];
    S.arena_base = sizes[1];
    S.arena_bytes = sizes[2];
    memcpy(S.uuid, info + 40, 16);
    memcpy(S.name, info + DEVICE_HEAD, name[0]);
    S.name[name[0]] = 0;
    free(S.attributes);
    S.attributes = malloc((size_t)words[3] * 8 + 1);
    if (!S.attributes || S.arena_base + S.arena_bytes < S.arena_base)
        return -1;
    memcpy(S.attributes, info + at, (size_t)words[3] * 8);
    S.attribute_count = words[3];
    return 0;
}

static int power_of_two(uint64_t value)
{
    return value >= 4096 && !(value & (value - 1)) && value <= (uint64_t)1 << 40;
}

static int map_rings(const int *fds)
{
    struct stat about;
    uint32_t words[2];
    uint64_t sizes[2];
    if (fds[0] < 0 || fds[1] < 0 || fds[2] < 0 || fstat(fds[0], &about) || about.st_size < RINGS)
        return -1;
    size_t bytes = (size_t)about.st_size;
    unsigned char *shm = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    if (shm == MAP_FAILED)
        return -1;
    memcpy(words, shm, 8);
    memcpy(sizes, shm + 8, 16);
    if (words[0] != MAGIC || words[1] != VERSION || !power_of_two(sizes[0]) ||
        !power_of_two(sizes[1]) || RINGS + sizes[0] + sizes[1] > bytes) {
        munmap(shm, bytes);
        return -1;
    }
    fcntl(fds[1], F_SETFL, fcntl(fds[1], F_GETFL) | O_NONBLOCK);
    fcntl(fds[2], F_SETFL, fcntl(fds[2], F_GETFL) | O_NONBLOCK);
    S.shm = shm;
    S.call_bytes = sizes[0];
    S.reply_bytes = sizes[1];
    S.calls = shm + RINGS;
    S.replies = S.calls + sizes[0];
    S.call_fd = fds[1];
    S.reply_fd = fds[2];
    S.memory_fd = fds[0];
    return 0;
}

/* The first counts were taken before there was a recorder: bring them along. */
static void move_counters(void)
{
    uint64_t *counters = (uint64_t *)(void *)(S.shm + COUNTERS);
    uint32_t *calls = (uint32_t *)(void *)(S.shm + CALLS_PER_EXPORT);
    for (unsigned i = 0; i < 8; i++)
        atomic_fetch_add((_Atomic uint64_t *)&counters[i], early_counters[i]);
    for (unsigned i = 0; i < RRTO_EXPORTS; i++)
        atomic_fetch_add((_Atomic uint32_t *)&calls[i], early_calls[i]);
    atomic_store(&rrto_counters, counters);
    atomic_store(&rrto_export_calls, calls);
    rrto_refused_into(S.shm);
}

/* A session belongs to its process. A child of one that has not called cuInit yet may open its own. */
static void in_child(void)
{
    if (!atomic_load(&S.ready) || atomic_load(&S.forked))
        return;
    rrto_landing_in_child();
    close(S.socket_fd); /* else the session would outlive its process */
    close(S.call_fd);
    close(S.reply_fd);
    close(S.memory_fd);
    memset(early_counters, 0, sizeof early_counters);
    memset(early_calls, 0, sizeof early_calls);
    atomic_store(&rrto_counters, early_counters);
    atomic_store(&rrto_export_calls, early_calls);
    rrto_refused_into(NULL);
    if (!atomic_load(&S.started)) {
        atomic_store(&S.ready, 0);
        return;
    }
    atomic_store(&S.forked, 1);
    atomic_store(&rrto_referred, 0); /* the parent's, and the parent sends it */
}

static CUresult refuse(int status, const char *format, const char *a, const char *b)
{
    if (!complained) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        char text[900];
        snprintf(text, sizeof text, format, a, b);
#pragma GCC diagnostic pop
        rrto_say("%s", text);
        complained = 1;
    }
    return status;
}

static CUresult hidden(void)
{
    return refuse(CUDA_NO_DEVICE, "CUDA_VISIBLE_DEVICES=%s hides the device, which is number 0%s",
                  getenv("CUDA_VISIBLE_DEVICES"), "");
}

static CUresult open_session(int fd, const char *path, int64_t deadline)
{
    unsigned char head[16];
    uint32_t words[4];
    int fds[3] = {-1, -1, -1};
    static unsigned char body[MAX_TEXT + MAX_INFO + 1];
    CUresult status = CUDA_SYSTEM_NOT_READY;

    /* Who is sent away before it said anything finds the reason all the same. */
    int got = say_hello(fd, deadline);
    if (!got || errno == EPIPE || errno == ECONNRESET)
        got = receive_all(fd, head, sizeof head, fds, deadline);
    if (got) {
        refuse(status,
               got == HUNG_UP ? "recorder_replayer at %s hung up before it answered%s; it ended, or "
                                "its log says why"
                              : "recorder_replayer at %s did not answer in time%s; look at its log",
               path, "");
        goto failed;
    }
    memcpy(words, head, 16);
    if (words[0] != MAGIC || words[2] > MAX_TEXT || words[3] > MAX_INFO ||
        receive_all(fd, body, words[2] + words[3], fds, deadline)) {
        refuse(status, "%s is not a recorder_replayer of this version%s; check RRTO_SOCKET", path, "");
        goto failed;
    }
    if (words[1]) {
        char text[MAX_TEXT + 1];
        memcpy(text, body, words[2]);
        text[words[2]] = 0;
        const char *name = rrto_error_name((int)words[1]);
        status = (int)words[1];
        refuse(status, "no session: %.800s (%s); look at rrto status", text, name ? name : "error");
        goto failed;
    }
    int readable = !read_device(body + words[2], words[3]);
    if (readable && !rrto_visible(S.uuid)) {
        status = hidden();
        goto failed;
    }
    if (readable && rrto_keep_free(S.arena_base, S.arena_bytes)) {
        status = CUDA_OPERATING_SYSTEM;
        refuse(status, "memory of the program lies where the device's addresses are%s; start it "
               "without what places memory there (a sanitizer, a runtime with a heap of its own)%s",
               "", "");
        goto failed;
    }
    if (!readable || map_rings(fds)) {
        refuse(status, "%s sent a session this shim cannot use%s; are both of one version?", path,
               "");
        goto failed;
    }
    return CUDA_SUCCESS;
failed:
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return status;
}

static CUresult connect_once(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *given = getenv("RRTO_CONNECT_TIMEOUT_MS");
    int64_t timeout = given && *given ? atol(given) : CONNECT_TIMEOUT_MS;
    int64_t deadline = now_ms() + (timeout > 0 ? timeout : CONNECT_TIMEOUT_MS);
    if (!rrto_visible(NULL))
        return hidden(); /* nothing is opened for a program that shall not see it */
    const char *path = getenv("RRTO_SOCKET");
    int domain = path && *path ? 0 : domain_number(getenv("ROS_DOMAIN_ID"));
    if (domain < 0)
        return refuse(CUDA_SYSTEM_NOT_READY, "ROS_DOMAIN_ID is \"%s\", want a number, 0 to 232%s",
                      getenv("ROS_DOMAIN_ID"), "");
    if (socket_path(address.sun_path, sizeof address.sun_path, domain))
        return refuse(CUDA_SYSTEM_NOT_READY, "the socket's path is too long%s%s; set RRTO_SOCKET",
                      "", "");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return refuse(CUDA_OPERATING_SYSTEM, "no socket: %s%s", strerror(errno), "");
    struct timeval limit = {(time_t)(timeout / 1000), (timeout % 1000) * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        refuse(CUDA_SYSTEM_NOT_READY,
               "no recorder_replayer at %s (%s); start it, run the program by rrto run, or check "
               "RRTO_ROBOT and ROS_DOMAIN_ID",
               address.sun_path, strerror(errno));
        close(fd);
        return CUDA_SYSTEM_NOT_READY;
    }
    if (!own_recorder(fd)) {
        refuse(CUDA_SYSTEM_NOT_READY,
               "%s belongs to another user%s; set RRTO_SOCKET or XDG_RUNTIME_DIR for the recorder "
               "and for the program",
               address.sun_path, "");
        close(fd);
        return CUDA_SYSTEM_NOT_READY;
    }
    CUresult status = open_session(fd, address.sun_path, deadline);
    if (status) {
        close(fd);
        return status;
    }
    S.socket_fd = fd;
    rrto_arena_start();
    rrto_context_start();
    move_counters();
    static int watched;
    if (!watched)
        pthread_atfork(NULL, NULL, in_child);
    watched = 1;
    atomic_store_explicit(&S.ready, 1, memory_order_release);
    return CUDA_SUCCESS;
}

CUresult rrto_connect(void)
{
    if (atomic_load_explicit(&S.forked, memory_order_relaxed))
        return CUDA_NOT_INITIALIZED;
    if (atomic_load_explicit(&S.ready, memory_order_acquire))
        return CUDA_SUCCESS;
    pthread_mutex_lock(&connect_lock);
    CUresult status = atomic_load(&S.ready) ? CUDA_SUCCESS : connect_once();
    pthread_mutex_unlock(&connect_lock);
    return status;
}

CUresult rrto_cuInit(unsigned int Flags)
{
    CUresult result = Flags ? CUDA_INVALID_VALUE : rrto_connect();
    if (!result)
        atomic_store_explicit(&S.started, 1, memory_order_release);
    return result;
}
