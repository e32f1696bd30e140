"""Writes the shim's tables for the CUDA runtime library from `api.runtime_tables`."""

from __future__ import annotations

from rrto_ros.api.runtime_tables import (
    TABLES,
    VALIDITY_FIXED,
    VALIDITY_KEY,
    VALIDITY_REFUSED,
    VALIDITY_VARIABLE,
    Slot,
    Table,
)
from rrto_ros.shim.emit_c import MARK, NEEDS


def _served() -> list[Table]:
    return [table for table in TABLES if table.words]


def _head(slot: Slot, name: str) -> str:
    arguments = ", ".join(f"{kind} {argument}" for kind, argument in slot.arguments) or "void"
    return f"{slot.returns} {name}({arguments})"


def _digits(count: int) -> list[int]:
    """The first digits of pi, 3 included, by Machin's formula in whole numbers."""
    unity = 10 ** (count + 10)

    def arctan_of_one_over(x: int) -> int:
        total, power, n = 0, unity // x, 1
        while power:
            total += power // n if n % 4 == 1 else -(power // n)
            power, n = power // (x * x), n + 2
        return total

    pi = 4 * (4 * arctan_of_one_over(5) - arctan_of_one_over(239))
    return [int(digit) for digit in str(pi)[:count]]


def md2_table() -> bytes:
    """The permutation of RFC 1319 ("constructed from the digits of pi"): a shuffle by them."""
    digits = iter(_digits(1000))

    def below(n: int) -> int:
        while True:
            number, range_of = next(digits), 10
            while range_of < n:
                number, range_of = number * 10 + next(digits), range_of * 10
            if number < range_of // n * n:
                return number % n

    out = bytearray(range(256))
    for last in range(1, 256):
        other = below(last + 1)
        out[last], out[other] = out[other], out[last]
    return bytes(out)


def _bytes(data: bytes, name: str) -> list[str]:
    lines = [f"const unsigned char {name}[{len(data)}] = {{"]
    lines += [
        "    " + ", ".join(f"0x{byte:02x}" for byte in data[at : at + 12]) + ","
        for at in range(0, len(data), 12)
    ]
    return [*lines, "};", ""]


def tables_header() -> str:
    """runtime_tables.h: the tables, and the functions of shim/core/ that are in them."""
    heads = {slot.does: _head(slot, f"rrto_table_{slot.does}") for t in TABLES for slot in t.slots}
    fixed = ", ".join(f"{{{d}, {{{a:#x}ull, {b:#x}ull}}}}" for d, (a, b) in VALIDITY_FIXED.items())
    return "\n".join([
        f"/* {MARK} */",
        "#ifndef RRTO_RUNTIME_TABLES_H",
        "#define RRTO_RUNTIME_TABLES_H",
        '#include "cuda_types.h"',
        "",
        "typedef void (*rrto_storage_end)(CUcontext ctx, void *key, void *value);",
        "",
        "union rrto_word {",
        "    uint64_t bytes;",
        "    void (*function)(void);",
        "};",
        '_Static_assert(sizeof(union rrto_word) == 8, "a word");',
        "",
        "struct rrto_table {",
        "    unsigned char id[16];",
        "    const char *name;",
        "    const union rrto_word *words; /* NULL: known, and not served */",
        "};",
        f"enum {{ RRTO_TABLES = {len(TABLES)} }};",
        "extern const struct rrto_table rrto_tables[RRTO_TABLES];",
        *(f"extern const union rrto_word rrto_words_{t.name}[{t.words}];" for t in _served()),
        "",
        *(f"{head};" for head in heads.values()),
        "",
        f'#define RRTO_VALIDITY_VARIABLE "{VALIDITY_VARIABLE}"',
        f'#define RRTO_VALIDITY_REFUSED "{VALIDITY_REFUSED}"',
        f"#define RRTO_VALIDITY_FIXED {fixed}",
        f"extern const unsigned char rrto_validity_key[{len(VALIDITY_KEY)}];",
        "extern const unsigned char rrto_md2_table[256]; /* of RFC 1319 */",
        "",
        "#endif",
        "",
    ])  # fmt: skip


def _slot(table: Table, slot: Slot) -> list[str]:
    """The function in a word: what is checked before, then the core's."""
    check = NEEDS[slot.needs] if slot.returns == "CUresult" else ""
    passed = ", ".join(name for _, name in slot.arguments)
    call = f"rrto_table_{slot.does}({passed});"
    lines = [f"static {_head(slot, f'{table.name}_{slot.number}')}", "{"]
    if check:
        lines += [f"    CUresult result = {check};", "    if (result)", "        return result;"]
    return [*lines, f"    {'' if slot.returns == 'void' else 'return '}{call}", "}", ""]


def tables_source() -> str:
    """runtime_tables.c: every table, with a function for every word of it."""
    lines = [
        f"/* {MARK}",
        " * The tables that NVIDIA's CUDA runtime library asks a driver for. */",
        '#include "runtime_tables.h"',
        '#include "shim.h"',
        "",
        "#define REFUSED(table, slot)                                                          \\",
        "    static CUresult table##_##slot(void)                                              \\",
        "    {                                                                                 \\",
        '        return rrto_refuse(CUDA_NOT_SUPPORTED, "table " #table " slot " #slot);       \\',
        "    }",
        "",
    ]
    for table in _served():
        described = {slot.number: slot for slot in table.slots}
        for number in table.functions():
            if number in described:
                lines += _slot(table, described[number])
            else:
                lines.append(f"REFUSED({table.name}, {number})")
        lines += ["", f"const union rrto_word rrto_words_{table.name}[{table.words}] = {{"]
        if table.sized:
            lines.append(f"    {{.bytes = {8 * table.words}}},")
        lines += [
            f"    {{.function = (void (*)(void)){table.name}_{number}}},"
            for number in table.functions()
        ]
        lines += ["};", ""]
    lines.append("const struct rrto_table rrto_tables[RRTO_TABLES] = {")
    for table in TABLES:
        text = "".join(f"\\x{byte:02x}" for byte in table.id_bytes)
        words = f"rrto_words_{table.name}" if table.words else "NULL"
        lines.append(f'    {{"{text}", "{table.name}", {words}}},')
    lines += ["};", ""]
    lines += _bytes(VALIDITY_KEY, "rrto_validity_key") + _bytes(md2_table(), "rrto_md2_table")
    return "\n".join(lines)


def tables_document() -> list[str]:
    """Lines of docs/driver_calls.md."""
    lines = [
        "",
        "## Tables of the CUDA runtime library",
        "",
        "What `cuGetExportTable` gives. Any other slot of these returns",
        "`CUDA_ERROR_NOT_SUPPORTED`, any other table `CUDA_ERROR_INVALID_VALUE`; both are counted",
        "by name. [cuda_runtime.md](cuda_runtime.md) has more.",
        "",
        "| table | words | slot | what it does |",
        "|---|---|---|---|",
    ]
    for table in TABLES:
        if not table.words:
            lines.append(f"| {table.name} | | | not served |")
        lines += [
            f"| {table.name} | {table.words} | {slot.number} | {slot.text} |"
            for slot in table.slots
        ]
    return lines
