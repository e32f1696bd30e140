/* The check by which NVIDIA's CUDA runtime library finds out whether it has a driver that it takes:
 * a message digest over the driver's version, the caller, its tables and its devices. It is only
 * answered where the user asked for that (docs/cuda_runtime.md); else it is refused by name, with
 * one line that says what to set.
 *
 * The digest is HMAC (RFC 2104) with MD2 (RFC 1319). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ring_layout.h"
#include "runtime_tables.h"
#include "shim.h"

enum { BLOCK = 16, ROUNDS = 18, INNER = 0x36, OUTER = 0x5C };

/* cudaErrorSoftwareValidityNotEstablished: the runtime hands on what it gets here. */
enum { NOT_ESTABLISHED = 103 };

#define S rrto_session

struct md2 {
    unsigned char state[3 * BLOCK], sum[BLOCK], block[BLOCK];
    size_t filled;
};

static void absorb(struct md2 *md2)
{
    unsigned char last = md2->sum[BLOCK - 1];
    for (int i = 0; i < BLOCK; i++) {
        md2->state[BLOCK + i] = md2->block[i];
        md2->state[2 * BLOCK + i] = md2->state[i] ^ md2->block[i];
        last = md2->sum[i] ^= rrto_md2_table[md2->block[i] ^ last];
    }
    unsigned t = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 3 * BLOCK; i++)
            t = md2->state[i] ^= rrto_md2_table[t];
        t = (t + round) & 0xFF;
    }
    md2->filled = 0;
}

static void add(struct md2 *md2, const void *data, size_t bytes)
{
    const unsigned char *at = data;
    while (bytes--) {
        md2->block[md2->filled++] = *at++;
        if (md2->filled == BLOCK)
            absorb(md2);
    }
}

static void finish(struct md2 *md2, unsigned char *digest)
{
    unsigned char padding[BLOCK], sum[BLOCK];
    size_t missing = BLOCK - md2->filled;
    memset(padding, (int)missing, missing);
    add(md2, padding, missing);
    memcpy(sum, md2->sum, BLOCK);
    add(md2, sum, BLOCK);
    memcpy(digest, md2->state, BLOCK);
}

static void begin(struct md2 *md2, unsigned char pad)
{
    unsigned char key[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        key[i] = rrto_validity_key[i] ^ pad;
    memset(md2, 0, sizeof *md2);
    add(md2, key, BLOCK);
}

void rrto_validity_digest(const void *message, size_t bytes, unsigned char *digest)
{
    struct md2 md2;
    begin(&md2, INNER);
    add(&md2, message, bytes);
    finish(&md2, digest);
    begin(&md2, OUTER);
    add(&md2, digest, BLOCK);
    finish(&md2, digest);
}

/* What the answer is over, without gaps. */
struct question {
    uint32_t driver_version, version, process, thread;
    uint64_t runtime_table, own_table, function, seconds;
    unsigned char uuid[16];
    int32_t pci[3]; /* domain, bus and number of the one device */
};
enum { QUESTION = 76 };
_Static_assert(offsetof(struct question, pci) + 12 == QUESTION, "layout of the question");

/* What the program's environment says, else what the recorder's parameter does. */
static int allowed(void)
{
    const char *given = getenv(RRTO_VALIDITY_VARIABLE);
    if (given && *given)
        return strcmp(given, "0") != 0;
    const void *flag = S.shm + CUDA_RUNTIME;
    return atomic_load((const _Atomic uint32_t *)flag) == 1;
}

static CUresult refused(void)
{
    static _Atomic int told;
    if (!atomic_exchange(&told, 1))
        rrto_say("this program uses NVIDIA's CUDA runtime library, which asks whether the driver is "
                 "NVIDIA's; the question was refused, and its calls fail with "
                 "cudaErrorSoftwareValidityNotEstablished (103). To have it answered in NVIDIA's "
                 "driver's place use `rrto run --cuda-runtime`, set " RRTO_VALIDITY_VARIABLE "=1 for "
                 "the program, or cuda_runtime:=true at the recorder's start. That is for you to "
                 "decide: NVIDIA's licence terms apply (docs/cuda_runtime.md)");
    return rrto_refuse(NOT_ESTABLISHED, RRTO_VALIDITY_REFUSED);
}

CUresult rrto_table_validity(unsigned int version, unsigned long long seconds,
                             unsigned long long *answer)
{
    static const struct {
        unsigned digit;
        unsigned long long answer[2];
    } fixed[] = {RRTO_VALIDITY_FIXED};
    enum { PCI_BUS = 33, PCI_DEVICE = 34, PCI_DOMAIN = 50 };
    struct question message = {0};
    if (!answer)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_connect();
    if (result)
        return result;
    if (!allowed())
        return refused();
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (version % 10 == fixed[i].digit) {
            memcpy(answer, fixed[i].answer, sizeof fixed[i].answer);
            return CUDA_SUCCESS;
        }
    message.driver_version = (uint32_t)S.driver_version;
    message.version = version;
    message.process = (uint32_t)getpid();
    message.thread = (uint32_t)(uintptr_t)pthread_self();
    message.runtime_table = (uint64_t)(uintptr_t)rrto_words_CUDART_INTERFACE;
    message.own_table = (uint64_t)(uintptr_t)rrto_words_INTEGRITY_CHECK;
    message.function = (uint64_t)(uintptr_t)rrto_words_INTEGRITY_CHECK[1].function;
    message.seconds = seconds;
    memcpy(message.uuid, S.uuid, sizeof message.uuid);
    message.pci[0] = rrto_attribute(PCI_DOMAIN);
    message.pci[1] = rrto_attribute(PCI_BUS);
    message.pci[2] = rrto_attribute(PCI_DEVICE);
    unsigned char digest[BLOCK];
    rrto_validity_digest(&message, QUESTION, digest);
    memcpy(answer, digest, BLOCK);
    return CUDA_SUCCESS;
}
