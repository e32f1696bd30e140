/* The images in a fatbin, and which of them the session's device needs: only these leave the robot.
 *
 * CUDA takes machine code of the device's major version and of a minor one that is not above its
 * own, else the newest PTX that is not above. An entry says its architecture as a number and, from
 * CUDA 13 on, that it is for this architecture (`a`) or its family (`f`) alone. Where that leaves a
 * doubt, the next best is sent too: the device's driver decides, and never misses what it would
 * have found in the whole. */
#include "fatbin.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linked.h"

#define FATBIN_MAGIC 0xBA55ED50u
enum { KIND_PTX = 1, KIND_ELF = 2, ENTRY_HEADER = 64, CUDA_MACHINE = 190, ABI_WITH_SHIFT = 8 };
enum { ONLY_THIS = 0x100000, FAMILY = 0x200000 }; /* in an entry's flags */

struct entry {
    const unsigned char *at;
    unsigned kind, architecture;
    size_t header, bytes; /* bytes: of the padded content */
    uint64_t flags;
};

/* Verdicts, from worst to best. */
enum fit { UNFIT, DOUBTFUL, FITS };

struct found {
    unsigned best;  /* highest architecture that fits for certain */
    int certain, any; /* entries that fit; that may */
};

/* The next entry: 1, 0 at the end, -1 if the fatbin is damaged. */
static int next_entry(const unsigned char **at, const unsigned char *end, struct entry *out)
{
    uint16_t kind;
    uint32_t header, architecture;
    uint64_t bytes, flags;
    size_t left = (size_t)(end - *at);
    if (!left)
        return 0;
    if (left < ENTRY_HEADER)
        return -1;
    memcpy(&kind, *at, 2);
    memcpy(&header, *at + 4, 4);
    memcpy(&bytes, *at + 8, 8);
    memcpy(&architecture, *at + 28, 4);
    memcpy(&flags, *at + 40, 8);
    if (header < ENTRY_HEADER || header > left || bytes > left - header)
        return -1;
    *out = (struct entry){*at, kind, architecture, header, (size_t)bytes, flags};
    *at += header + bytes;
    return 1;
}

static unsigned own(void)
{
    return (unsigned)(rrto_session.major * 10 + rrto_session.minor);
}

/* Boards of the robot kind, whose machine code others of their major version do not run. */
static int is_tegra(unsigned architecture)
{
    static const unsigned tegra[] = {53, 62, 72, 87, 101, 110};
    for (size_t i = 0; i < sizeof tegra / sizeof *tegra; i++)
        if (tegra[i] == architecture)
            return 1;
    return 0;
}

static enum fit fit_of(unsigned kind, unsigned architecture, uint64_t flags)
{
    unsigned device = own();
    if (!architecture)
        return DOUBTFUL;
    if (architecture > device || (flags & ONLY_THIS && architecture != device))
        return UNFIT;
    int family = kind == KIND_ELF || flags & FAMILY;
    if (family && architecture / 10 != device / 10)
        return UNFIT;
    if (architecture == device)
        return FITS;
    if (kind == KIND_ELF && is_tegra(architecture))
        return DOUBTFUL;
    /* sm_90 may be sm_90a where the compiler is too old to say so. */
    return architecture >= 90 && !(flags & FAMILY) ? DOUBTFUL : FITS;
}

static int runs_machine_code(void)
{
    return rrto_session.kind == RRTO_GPU || rrto_session.kind == RRTO_NULL;
}

static void look(unsigned kind, const struct entry *entry, struct found *found)
{
    enum fit fit = entry->kind == kind ? fit_of(kind, entry->architecture, entry->flags) : UNFIT;
    found->any += fit != UNFIT;
    if (fit == FITS) {
        found->certain++;
        if (entry->architecture > found->best)
            found->best = entry->architecture;
    }
}

static int wanted(const struct entry *entry, const struct found *found)
{
    enum fit fit = fit_of(entry->kind, entry->architecture, entry->flags);
    return fit != UNFIT && (!entry->architecture || entry->architecture >= found->best);
}

/* "sm_75, sm_80", or "PTX 75" for PTX: what there is, for people. */
static void list(const unsigned char *at, const unsigned char *end, char *text, size_t room)
{
    size_t used = 0;
    struct entry entry;
    while (next_entry(&at, end, &entry) > 0 && used < room) {
        if (entry.kind != KIND_ELF && entry.kind != KIND_PTX)
            continue;
        int wrote = snprintf(text + used, room - used, "%s%s%u%s", used ? ", " : "",
                             entry.kind == KIND_ELF ? "sm_" : "PTX ", entry.architecture,
                             entry.flags & ONLY_THIS ? "a" : entry.flags & FAMILY ? "f" : "");
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

static CUresult none_fits(const char *holds, struct rrto_choice *out)
{
    snprintf(out->why, sizeof out->why, "it holds %.150s; the device is sm_%u",
             *holds ? holds : "no image", own());
    return CUDA_NO_BINARY_FOR_GPU;
}

/* A fatbin with the entries that are kept; those that are not, but are still to be named, without
 * their content. */
static CUresult reduce(const struct rrto_image *image, size_t head, const struct found *elf,
                       const struct found *ptx, int named, struct rrto_choice *out)
{
    const unsigned char *at = (const unsigned char *)image->data + head;
    const unsigned char *end = (const unsigned char *)image->data + image->bytes;
    unsigned char *copy = malloc(image->bytes), *to = copy + head;
    struct entry entry;
    if (!copy)
        return CUDA_OUT_OF_MEMORY;
    memcpy(copy, image->data, head);
    while (next_entry(&at, end, &entry) > 0) {
        int machine = entry.kind == KIND_ELF, text = entry.kind == KIND_PTX;
        int whole = (machine && elf && wanted(&entry, elf)) || (text && ptx && wanted(&entry, ptx));
        /* PTX that may yet fit by what its text says is opened by who refuses it. */
        if (named && text && entry.architecture <= own())
            whole = 1;
        if (!whole && !(named && (machine || text)))
            continue;
        memcpy(to, entry.at, entry.header);
        if (whole) {
            memcpy(to + entry.header, entry.at + entry.header, entry.bytes);
        } else {
            memset(to + 8, 0, 12); /* bytes of the content, padded and packed */
            entry.bytes = 0;
        }
        to += entry.header + entry.bytes;
    }
    size_t bytes = (size_t)(to - copy);
    if (bytes == image->bytes) { /* all of it */
        free(copy);
        return CUDA_SUCCESS;
    }
    uint64_t body = bytes - head;
    memcpy(copy + 8, &body, 8);
    unsigned char *less = realloc(copy, bytes);
    copy = less ? less : copy;
    out->image = (struct rrto_image){.data = copy, .bytes = bytes, .owned = (char *)copy};
    return CUDA_SUCCESS;
}

static CUresult choose_of_fatbin(const struct rrto_image *image, struct rrto_choice *out)
{
    const unsigned char *data = image->data, *end = data + image->bytes;
    uint16_t head;
    memcpy(&head, data + 6, 2);
    struct found elf = {0}, ptx = {0};
    int entries = 0, others = 0, more;
    struct entry entry;
    const unsigned char *at = data + head;
    while ((more = next_entry(&at, end, &entry)) > 0) {
        entries++;
        others += entry.kind != KIND_ELF && entry.kind != KIND_PTX;
        look(KIND_ELF, &entry, &elf);
        look(KIND_PTX, &entry, &ptx);
    }
    if (more < 0)
        return CUDA_SUCCESS; /* the server says what is wrong with it */
    if (!runs_machine_code())
        return reduce(image, head, NULL, &ptx, !ptx.any, out);
    if (!elf.certain && others)
        return CUDA_SUCCESS; /* what only a driver knows */
    if (!elf.any && !ptx.any) {
        char text[160] = "";
        list(data + head, end, text, sizeof text);
        return none_fits(text, out);
    }
    out->machine_code = elf.any > 0;
    return reduce(image, head, elf.any ? &elf : NULL, elf.certain ? NULL : &ptx, 0, out);
}

static CUresult choose_of_elf(const struct rrto_image *image, struct rrto_choice *out)
{
    Elf64_Ehdr head;
    if (image->bytes < sizeof head)
        return CUDA_SUCCESS;
    memcpy(&head, image->data, sizeof head);
    if (head.e_machine != CUDA_MACHINE || head.e_type != ET_EXEC ||
        rrto_is_linked(image->data, image->bytes))
        return CUDA_SUCCESS;
    if (!runs_machine_code()) {
        out->image.bytes = sizeof head; /* enough to be refused by its architecture */
        return CUDA_SUCCESS;
    }
    int shifted = head.e_ident[EI_ABIVERSION] >= ABI_WITH_SHIFT;
    unsigned architecture = (shifted ? head.e_flags >> 8 : head.e_flags) & 0xFF;
    if (fit_of(KIND_ELF, architecture, 0) == UNFIT) {
        char text[16];
        snprintf(text, sizeof text, "sm_%u", architecture);
        return none_fits(text, out);
    }
    out->machine_code = 1;
    return CUDA_SUCCESS;
}

CUresult rrto_choose(const struct rrto_image *image, struct rrto_choice *out)
{
    uint32_t magic = 0;
    *out = (struct rrto_choice){.image = {.data = image->data, .bytes = image->bytes}};
    if (image->bytes < 16 || !rrto_session.kind)
        return CUDA_SUCCESS;
    memcpy(&magic, image->data, 4);
    if (magic == FATBIN_MAGIC)
        return choose_of_fatbin(image, out);
    return memcmp(image->data, ELFMAG, SELFMAG) ? CUDA_SUCCESS : choose_of_elf(image, out);
}
