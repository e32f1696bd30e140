/* The kernels of machine code by name, from its symbol table, so that a program can ask for them
 * before the server has the image. In the order of their names, which is the server's too. */
#include <dlfcn.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

#define FATBIN_MAGIC 0xBA55ED50u
enum { FATBIN_HEADER = 16, ENTRY_HEADER = 64, KIND_ELF = 2, MOST_NAMES = 1 << 20 };
enum { LZ4 = 0x2000, ZSTD = 0x8000, ENTRY_SYMBOL = 0x10 };
static const uint64_t most_unpacked = (uint64_t)1 << 30;

/* ---- unpacking, by the libraries that the robot's system has ---- */

typedef size_t zstd_decompress(void *to, size_t room, const void *from, size_t bytes);
typedef int lz4_decompress(const char *from, char *to, int bytes, int room);

static void *entry_of(const char *library, const char *name)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL); /* stays open: it is needed again */
    return handle ? dlsym(handle, name) : NULL;
}

static int unpack(uint64_t flags, const char *from, size_t bytes, char *to, size_t room)
{
    if (flags & ZSTD) {
        void *found = entry_of("libzstd.so.1", "ZSTD_decompress");
        zstd_decompress *decompress;
        memcpy(&decompress, &found, sizeof found);
        return found && decompress(to, room, from, bytes) == room ? 0 : -1;
    }
    void *found = entry_of("liblz4.so.1", "LZ4_decompress_safe");
    lz4_decompress *decompress;
    memcpy(&decompress, &found, sizeof found);
    return found && decompress(from, to, (int)bytes, (int)room) == (int)room ? 0 : -1;
}

/* The one ELF file of a fatbin; `owned` is to be freed. -1: there are several, or it cannot be
 * unpacked here. */
static int only_elf(const struct rrto_image *image, struct rrto_image *out)
{
    uint16_t head, kind;
    uint32_t header, packed;
    uint64_t body, bytes, flags, raw;
    const unsigned char *at = image->data;
    memcpy(&head, at + 6, 2);
    memcpy(&body, at + 8, 8);
    if (head < FATBIN_HEADER || head + body > image->bytes || body < ENTRY_HEADER)
        return -1;
    at += head;
    memcpy(&kind, at, 2);
    memcpy(&header, at + 4, 4);
    memcpy(&bytes, at + 8, 8);
    memcpy(&packed, at + 16, 4);
    memcpy(&flags, at + 40, 8);
    memcpy(&raw, at + 56, 8);
    if (kind != KIND_ELF || header < ENTRY_HEADER || header > body || bytes != body - header ||
        packed > bytes)
        return -1;
    *out = (struct rrto_image){.data = at + header, .bytes = bytes};
    if (!(flags & (LZ4 | ZSTD)))
        return 0;
    if (!raw || raw > most_unpacked || !(out->owned = malloc(raw)))
        return -1;
    if (unpack(flags, out->data, packed, out->owned, raw)) {
        free(out->owned);
        return -1;
    }
    out->data = out->owned;
    out->bytes = raw;
    return 0;
}

/* ---- the symbol table ---- */

struct table {
    const char *symbols, *strings;
    size_t count, string_bytes;
};

static int inside(const Elf64_Shdr *section, size_t bytes)
{
    return section->sh_offset <= bytes && section->sh_size <= bytes - section->sh_offset;
}

/* 0, or -1: there is none, or it is damaged. */
static int table_of(const struct rrto_image *elf, struct table *out)
{
    Elf64_Ehdr head;
    Elf64_Shdr section, strings;
    const char *data = elf->data;
    if (elf->bytes < sizeof head || memcmp(data, ELFMAG, SELFMAG))
        return -1;
    memcpy(&head, data, sizeof head);
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof section ||
        head.e_shoff > elf->bytes ||
        (size_t)head.e_shnum * sizeof section > elf->bytes - head.e_shoff)
        return -1;
    for (unsigned i = 0; i < head.e_shnum; i++) {
        memcpy(&section, data + head.e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type != SHT_SYMTAB)
            continue;
        if (section.sh_link >= head.e_shnum || !inside(&section, elf->bytes))
            return -1;
        memcpy(&strings, data + head.e_shoff + section.sh_link * sizeof strings, sizeof strings);
        if (!inside(&strings, elf->bytes) || !strings.sh_size ||
            data[strings.sh_offset + strings.sh_size - 1])
            return -1;
        *out = (struct table){data + section.sh_offset, data + strings.sh_offset,
                              section.sh_size / sizeof(Elf64_Sym), strings.sh_size};
        return 0;
    }
    return -1;
}

static int by_name(const void *a, const void *b)
{
    const char *const *first = a, *const *second = b;
    return strcmp(*first, *second);
}

static int each_kernel(const struct table *table, int (*each)(void *, const char *), void *arg)
{
    const char **names = NULL;
    size_t count = 0, room = 0;
    for (size_t i = 0; i < table->count && count < MOST_NAMES; i++) {
        Elf64_Sym symbol;
        memcpy(&symbol, table->symbols + i * sizeof symbol, sizeof symbol);
        if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || !(symbol.st_other & ENTRY_SYMBOL) ||
            symbol.st_name >= table->string_bytes)
            continue;
        if (count == room) {
            room = room ? 2 * room : 64;
            const char **more = realloc(names, room * sizeof *names);
            if (!more) {
                free(names);
                return -1;
            }
            names = more;
        }
        names[count++] = table->strings + symbol.st_name;
    }
    if (count)
        qsort(names, count, sizeof *names, by_name);
    int bad = 0;
    for (size_t i = 0; i < count && !bad; i++)
        if (!i || strcmp(names[i], names[i - 1]))
            bad = each(arg, names[i]);
    free(names);
    return bad ? -1 : (int)count;
}

int rrto_image_kernels(const struct rrto_image *image, int (*each)(void *arg, const char *name),
                       void *arg)
{
    uint32_t magic = 0;
    struct rrto_image elf = {.data = image->data, .bytes = image->bytes};
    struct table table;
    if (image->bytes < FATBIN_HEADER)
        return -1;
    memcpy(&magic, image->data, 4);
    if (magic == FATBIN_MAGIC && only_elf(image, &elf))
        return -1;
    int found = table_of(&elf, &table) ? -1 : each_kernel(&table, each, arg);
    free(elf.owned);
    return found;
}
