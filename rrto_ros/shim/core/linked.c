/* The image that stands for a link: an ELF file whose sections are the inputs, named
 * .rrto.<kind>.<name>. libcuda.so.1 and the stand-in for nvJitLink write it. */
#include "linked.h"

#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INPUTS = 4096, MOST_NAME = 1024, MACHINE = 190, ALIGNMENT = 16 };
static const char prefix[] = ".rrto.";
static const char strings_name[] = ".shstrtab";

static size_t aligned(size_t at)
{
    return (at + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

static int append(struct rrto_inputs *to, int kind, const char *name, size_t name_bytes,
                  const void *data, size_t bytes)
{
    if (to->count >= MOST_INPUTS || bytes >= UINT32_MAX)
        return -2;
    struct rrto_input *each = realloc(to->each, (to->count + 1) * sizeof *each);
    if (!each)
        return -1;
    to->each = each;
    name_bytes = name_bytes > MOST_NAME ? MOST_NAME : name_bytes;
    struct rrto_input new = {kind, malloc(name_bytes + 1), malloc(bytes + 1), bytes};
    if (!new.name || !new.data) {
        free(new.name);
        free(new.data);
        return -1;
    }
    memcpy(new.name, name, name_bytes);
    new.name[name_bytes] = 0;
    memcpy(new.data, data, bytes);
    new.data[bytes] = 0;
    each[to->count++] = new;
    return 0;
}

/* The section table of an ELF file for CUDA, with its names; NULL if it is none. */
static const char *sections_of(const char *data, size_t bytes, Elf64_Ehdr *head, Elf64_Shdr *names)
{
    if (bytes < sizeof *head || memcmp(data, ELFMAG, SELFMAG))
        return NULL;
    memcpy(head, data, sizeof *head);
    size_t table = (size_t)head->e_shnum * sizeof *names;
    if (head->e_machine != MACHINE || head->e_shentsize != sizeof *names ||
        head->e_shoff > bytes || table > bytes - head->e_shoff ||
        head->e_shstrndx >= head->e_shnum)
        return NULL;
    memcpy(names, data + head->e_shoff + head->e_shstrndx * sizeof *names, sizeof *names);
    if (names->sh_offset > bytes || names->sh_size > bytes - names->sh_offset ||
        !names->sh_size || data[names->sh_offset + names->sh_size - 1])
        return NULL;
    return data + head->e_shoff;
}

/* The inputs in an image (to may be NULL): how many, or an error. */
static int each_input(const char *data, size_t bytes, struct rrto_inputs *to)
{
    Elf64_Ehdr head;
    Elf64_Shdr names, section;
    const char *table = sections_of(data, bytes, &head, &names);
    int found = 0;
    for (unsigned i = 0; table && i < head.e_shnum; i++) {
        memcpy(&section, table + i * sizeof section, sizeof section);
        if (section.sh_name >= names.sh_size)
            continue;
        const char *name = data + names.sh_offset + section.sh_name;
        size_t length = strlen(name), skipped = sizeof prefix + 1;
        if (length < skipped || strncmp(name, prefix, sizeof prefix - 1) ||
            name[sizeof prefix - 1] < '0' || name[sizeof prefix - 1] > '9' ||
            name[sizeof prefix] != '.')
            continue;
        if (section.sh_offset > bytes || section.sh_size > bytes - section.sh_offset)
            return -2;
        found++;
        int bad = !to ? 0
                      : append(to, name[sizeof prefix - 1] - '0', name + skipped,
                               length - skipped, data + section.sh_offset, section.sh_size);
        if (bad)
            return bad;
    }
    return found;
}

int rrto_is_linked(const void *data, size_t bytes)
{
    return each_input(data, bytes, NULL) > 0;
}

unsigned rrto_linked_registers(const void *data, size_t bytes)
{
    Elf64_Ehdr head;
    if (!rrto_is_linked(data, bytes))
        return 0;
    memcpy(&head, data, sizeof head);
    return head.e_flags;
}

int rrto_inputs_add(struct rrto_inputs *to, int kind, const char *name, const void *data,
                    size_t bytes)
{
    name = name && *name ? name : "<input>";
    if (!rrto_is_linked(data, bytes))
        return append(to, kind, name, strlen(name), data, bytes);
    int found = each_input(data, bytes, to);
    return found < 0 ? found : 0;
}

char *rrto_inputs_image(const struct rrto_inputs *inputs, unsigned registers, size_t *bytes)
{
    unsigned count = inputs->count + 2;
    size_t names = 1 + sizeof strings_name, at = sizeof(Elf64_Ehdr);
    for (unsigned i = 0; i < inputs->count; i++) {
        names += sizeof prefix + 2 + strlen(inputs->each[i].name);
        at = aligned(at) + inputs->each[i].bytes + 1;
    }
    size_t texts = at, table = aligned(texts + names);
    *bytes = table + count * sizeof(Elf64_Shdr);
    char *image = calloc(1, *bytes);
    if (!image)
        return NULL;
    Elf64_Ehdr head = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC, .e_machine = MACHINE, .e_version = EV_CURRENT, .e_shoff = table,
        .e_flags = registers, .e_ehsize = sizeof head, .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = (Elf64_Half)count,
        .e_shstrndx = (Elf64_Half)(count - 1)};
    memcpy(image, &head, sizeof head);
    size_t name = 1;
    memcpy(image + texts + name, strings_name, sizeof strings_name);
    Elf64_Shdr strings = {.sh_name = (Elf64_Word)name, .sh_type = SHT_STRTAB, .sh_offset = texts,
                          .sh_size = names, .sh_addralign = 1};
    memcpy(image + table + (count - 1) * sizeof strings, &strings, sizeof strings);
    name += sizeof strings_name;
    at = sizeof head;
    for (unsigned i = 0; i < inputs->count; i++) {
        const struct rrto_input *one = &inputs->each[i];
        at = aligned(at);
        memcpy(image + at, one->data, one->bytes);
        Elf64_Shdr section = {.sh_name = (Elf64_Word)name, .sh_type = SHT_PROGBITS,
                              .sh_offset = at, .sh_size = one->bytes, .sh_addralign = ALIGNMENT};
        memcpy(image + table + (i + 1) * sizeof section, &section, sizeof section);
        name += (size_t)sprintf(image + texts + name, "%s%d.%s", prefix, one->kind, one->name) + 1;
        at += one->bytes + 1;
    }
    return image;
}

void rrto_inputs_free(struct rrto_inputs *inputs)
{
    for (unsigned i = 0; i < inputs->count; i++) {
        free(inputs->each[i].name);
        free(inputs->each[i].data);
    }
    free(inputs->each);
    *inputs = (struct rrto_inputs){0};
}
