"""Module images made for tests: fatbins of any entries, and machine code with a symbol table.

The machine code is nobody's: an ELF file with the sections by which kernels, their parameters and
variables are found, and filler where code would be.
"""

import struct
from dataclasses import dataclass, field

ONLY_THIS, FAMILY = 0x100000, 0x200000
LZ4, ZSTD = 0x2000, 0x8000
_SECTION, _SYMBOL = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name, and (offset, size) of each parameter in bytes."""

    name: str
    params: tuple = ((0, 8), (8, 4), (12, 4))
    registers: int = 24
    shared: int = 0
    threads: int = 0


@dataclass
class _Elf:
    body: bytearray = field(default_factory=lambda: bytearray(64))
    names: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    sections: list = field(default_factory=lambda: [bytes(64)])

    def add(self, name, data, kind=1, link=0, info=0, size=None):
        self.body += bytes(-len(self.body) % 8)
        at = len(self.body)
        self.body += data
        self.sections.append(
            _SECTION.pack(len(self.names), kind, 0, 0, at, len(data) if size is None else size,
                          link, info, 8, 0)
        )  # fmt: skip
        self.names += name.encode() + b"\0"
        return len(self.sections) - 1


def cubin(architecture, kernels, variables=(), filler=0, seed=1, code=None):
    """Machine code for an architecture (sm_XX), as CUDA 13 lays it out.

    Args:
        architecture: For example 89.
        kernels: `Kernel` or names.
        variables: (name, bytes) each.
        filler: Bytes of it in each kernel, which do not compress.
        seed: Of the filler.
        code: Makes the filler of a size and a seed, if it is to be something else.
    """
    kernels = [Kernel(k) if isinstance(k, str) else k for k in kernels]
    elf, strings, symbols = _Elf(), bytearray(b"\0"), bytearray(24)
    numbers, details = bytearray(), []
    for kernel in kernels:
        number = len(symbols) // 24
        text = elf.add(f".text.{kernel.name}", (code or noise)(filler, seed + number))
        symbols += _SYMBOL.pack(len(strings), 0x12, 0x10, text, 0, filler)
        strings += kernel.name.encode() + b"\0"
        numbers += struct.pack("<BBHII", 4, 0x2F, 8, number, kernel.registers)
        info = struct.pack("<BBH", 3, 0x1B, 0xFF)
        for ordinal, (offset, size) in enumerate(kernel.params):
            info += struct.pack("<BBHIHHI", 4, 0x17, 12, 0, ordinal, offset, size << 18)
        if kernel.threads:
            info += struct.pack("<BBHIII", 4, 0x05, 12, kernel.threads, 1, 1)
        details.append((kernel, info))
        if kernel.shared:
            elf.add(f".nv.shared.{kernel.name}", b"", kind=8, size=kernel.shared)
    home = elf.add(".nv.global", b"", kind=8, size=sum(size for _, size in variables))
    for name, size in variables:
        symbols += _SYMBOL.pack(len(strings), 0x11, 0, home, 0, size)
        strings += name.encode() + b"\0"
    elf.add(".nv.info", bytes(numbers), kind=0x70000000)
    for kernel, info in details:
        elf.add(f".nv.info.{kernel.name}", info, kind=0x70000000)
    texts = elf.add(".strtab", bytes(strings), kind=3)
    elf.add(".symtab", bytes(symbols), kind=2, link=texts)
    elf.names += b".shstrtab\0"
    own = len(elf.names) - 10
    at = len(elf.body)
    body = elf.body + elf.names
    elf.sections.append(_SECTION.pack(own, 3, 0, 0, at, len(elf.names), 0, 0, 1, 0))
    body += bytes(-len(body) % 8)
    head = b"\x7fELF\2\1\1\x41\x08" + bytes(7)
    body[:64] = head + struct.pack(
        "<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, len(body), 0x06000004 | architecture << 8,
        64, 0, 0, 64, len(elf.sections), len(elf.sections) - 1,
    )  # fmt: skip
    return bytes(body + b"".join(elf.sections))


def noise(size, seed=1):
    """Bytes that do not compress and are the same every time."""
    import random

    return random.Random(seed).randbytes(size)


def entry(kind, payload, flags=0, raw=0, compressed=0, arch=0):
    """An entry of a fatbin as it is: kind 1 is PTX, 2 is machine code."""
    padded = payload + bytes(-len(payload) % 8)
    head = struct.pack("<HHIQI", kind, 0x101, 64, len(padded), compressed)
    head += struct.pack("<IHHI", 0, 0, 8, arch)
    head += bytes(40 - len(head)) + struct.pack("<QQQ", flags, 0, raw)
    assert len(head) == 64
    return head + padded


def machine(architecture, kernels=("k",), flags=0, pack="", **how):
    """An entry with machine code, packed by "zstd" or "lz4" if wanted."""
    return _packed(2, cubin(architecture, kernels, **how), flags, pack, architecture)


def ptx(architecture, text, flags=0, pack=""):
    """An entry with PTX."""
    return _packed(1, text, flags, pack, architecture)


def _packed(kind, data, flags, pack, architecture):
    if not pack:
        return entry(kind, data, flags, arch=architecture)
    if pack == "zstd":
        import importlib
        import sys

        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        less, bit = importlib.import_module(name).compress(data), ZSTD
    else:
        import lz4.block

        less, bit = lz4.block.compress(data, store_size=False), LZ4
    return entry(kind, less, flags | bit, len(data), len(less), architecture)


def fatbin(*entries):
    """A fatbin of these entries."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
