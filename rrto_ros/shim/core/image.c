/* How long a module image is, by what it begins with: PTX text, a fatbin (wrapped or not), ELF. */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { WRAPPER_MAGIC = 0x466243B1 };
#define FATBIN_MAGIC 0xBA55ED50u

struct wrapper {
    uint32_t magic, version;
    const void *data;
    const void *prelinked; /* version 2: NULL-terminated array of fatbins */
};

static size_t fatbin_bytes(const unsigned char *at)
{
    uint16_t header;
    uint64_t body;
    memcpy(&header, at + 6, 2);
    memcpy(&body, at + 8, 8);
    return header < 16 || body > (uint64_t)1 << 32 ? 0 : header + (size_t)body;
}

static size_t farther(size_t end, uint64_t offset, uint64_t bytes)
{
    uint64_t there = offset + bytes;
    return there > end && there >= offset && there < (uint64_t)1 << 40 ? (size_t)there : end;
}

static size_t elf_bytes(const unsigned char *at)
{
    Elf64_Ehdr head;
    memcpy(&head, at, sizeof head);
    if (head.e_ident[EI_CLASS] != ELFCLASS64)
        return 0;
    size_t end = sizeof head;
    for (unsigned i = 0; i < head.e_shnum && head.e_shentsize == sizeof(Elf64_Shdr); i++) {
        Elf64_Shdr section;
        memcpy(&section, at + head.e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type != SHT_NOBITS)
            end = farther(end, section.sh_offset, section.sh_size);
    }
    for (unsigned i = 0; i < head.e_phnum && head.e_phentsize == sizeof(Elf64_Phdr); i++) {
        Elf64_Phdr segment;
        memcpy(&segment, at + head.e_phoff + i * sizeof segment, sizeof segment);
        end = farther(end, segment.p_offset, segment.p_filesz);
    }
    end = farther(end, head.e_shoff, (uint64_t)head.e_shnum * head.e_shentsize);
    return farther(end, head.e_phoff, (uint64_t)head.e_phnum * head.e_phentsize);
}

static CUresult invalid(const char *why)
{
    return rrto_refuse(CUDA_INVALID_IMAGE, "image: CUDA_ERROR_INVALID_IMAGE: %s", why);
}

CUresult rrto_image_of(const void *at, struct rrto_image *out)
{
    uint32_t magic = 0;
    *out = (struct rrto_image){.data = at};
    if (!at)
        return CUDA_INVALID_VALUE;
    const unsigned char *bytes = at;
    /* Text may be shorter than a magic number: look no farther than its end. */
    size_t seen = 0;
    while (seen < 4 && (bytes[seen] || seen == 3))
        seen++;
    if (seen == 4)
        memcpy(&magic, at, 4);
    if (magic == WRAPPER_MAGIC) {
        struct wrapper wrap;
        memcpy(&wrap, at, sizeof wrap);
        const void *inner = wrap.data;
        if (wrap.version == 2 && wrap.prelinked) {
            const void *first;
            memcpy(&first, wrap.prelinked, sizeof first);
            inner = first ? first : inner;
        }
        if (!inner)
            return invalid("a fatbin's wrapper without a fatbin");
        memcpy(&magic, inner, 4);
        if (magic != FATBIN_MAGIC)
            return invalid("a fatbin's wrapper without a fatbin");
        out->data = inner;
    }
    if (magic == FATBIN_MAGIC)
        out->bytes = fatbin_bytes(out->data);
    else if (seen == 4 && !memcmp(at, ELFMAG, SELFMAG))
        out->bytes = elf_bytes(at);
    else
        out->bytes = strlen(at);
    return out->bytes && out->bytes < UINT32_MAX ? CUDA_SUCCESS : invalid("empty or damaged");
}

CUresult rrto_image_of_file(const char *path, struct rrto_image *out)
{
    *out = (struct rrto_image){0};
    FILE *file = path ? fopen(path, "rbe") : NULL;
    if (!path)
        return CUDA_INVALID_VALUE;
    if (!file)
        return CUDA_FILE_NOT_FOUND;
    long bytes = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    rewind(file);
    char *text = bytes > 0 && bytes < UINT32_MAX ? malloc((size_t)bytes + 1) : NULL;
    size_t got = text ? fread(text, 1, (size_t)bytes, file) : 0;
    fclose(file);
    if (!text || got != (size_t)bytes) {
        free(text);
        return text || bytes <= 0 ? invalid("an empty file or one that cannot be read")
                                  : CUDA_OUT_OF_MEMORY;
    }
    text[got] = 0;
    *out = (struct rrto_image){.data = text, .bytes = got, .owned = text};
    return CUDA_SUCCESS;
}
