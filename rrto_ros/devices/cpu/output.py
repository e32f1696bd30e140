"""What kernels print: formats it as it is called, orders it, and keeps it until somebody asks.

A kernel's call of vprintf or __assertfail comes here from native code, on whichever thread runs
its block. CUDA's buffer holds 1 MiB and loses the oldest; so does this one.
"""

from __future__ import annotations

import ctypes
import re
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

BUFFER_BYTES = 1 << 20
"""Output that is kept until it is taken."""
PRINT, ASSERT = 0, 1
"""What a kernel calls."""
_CALLED = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 9)
_GRID_WORD = 6
"""Where the launch context has the number of blocks along x, y, z."""
_CONVERSION = re.compile(
    rb"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?"
    rb"(?P<length>hh|h|ll|l|j|z|t|L)?(?P<kind>[diouxXcsfFeEgGaAp%n])"
)
_LONG = frozenset((b"l", b"ll", b"j", b"z", b"t"))
_libc = ctypes.CDLL(None)
_libc.strnlen.argtypes, _libc.strnlen.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_size_t


class KernelMemory:
    """What kernels point to.

    Args:
        contained: The address that a kernel gave, or one that faults if it is not the session's.
    """

    def __init__(self, contained: Callable[[int], int]) -> None:
        self._contained = contained

    def text(self, address: int) -> bytes:
        """The text at an address, at most as much as is kept (ValueError for address 0)."""
        if not address:
            raise ValueError("no text")
        place = self._contained(address)
        return ctypes.string_at(place, _libc.strnlen(place, BUFFER_BYTES))

    def read(self, address: int, size: int) -> bytes:
        """Some bytes."""
        return ctypes.string_at(self._contained(address), size)


class KernelOutput:
    """The output of one device's kernels. Thread-safe.

    Args:
        contained: The address that a kernel gave, or one that faults if it is not the session's.

    Attributes:
        address: Of the function that kernels call.
        lost: Bytes that did not fit.
    """

    def __init__(self, contained: Callable[[int], int]) -> None:
        self._lock = threading.Lock()
        self._memory = KernelMemory(contained)
        self._lines: list[tuple[int, int, bytes, bool]] = []
        self._launch: tuple[int, int] = (0, 0)
        self._kept: deque[tuple[bytes, bool]] = deque()
        self._bytes = 0
        self._number = 0
        self._one = True
        self.lost = 0
        self._callback = _CALLED(self._called)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def begins(self, *, one: bool) -> None:
        """Launches begin: one, or several after each other with a context each."""
        self._number += 1
        self._one = one

    def take(self) -> tuple[bytes, bytes]:
        """What was printed, and what assertions said, since the last time.

        Each launch's lines are in the order of its threads.
        """
        if not (self._lines or self._kept):
            return b"", b""
        with self._lock:
            self._close()
            printed, errors = (
                b"".join(text for text, error in self._kept if error == wanted)
                for wanted in (False, True)
            )
            self._kept.clear()
            self._bytes = 0
            return printed, errors

    def _close(self) -> None:
        """The launch that printed last is over."""
        self._lines.sort(key=lambda line: line[:2])
        self._kept.extend(line[2:] for line in self._lines)
        self._lines.clear()
        while self._bytes > BUFFER_BYTES:
            size = len(self._kept.popleft()[0])
            self._bytes -= size
            self.lost += size

    def _called(
        self,
        what: int,
        a: int,
        b: int,
        c: int,
        d: int,
        block: int,
        thread: int,
        shape: int,
        context: int,
    ) -> int:
        count = 0
        try:
            if what == ASSERT:
                where = shape & 0xFFFF, shape >> 16 & 0xFFFF, shape >> 32
                said, file, name = (self._memory.text(at) if at else b"?" for at in (a, b, d))
                at = _place(block, _grid(context)), _place(thread, where)
                text = _failed(said, file, name, c, *at)
            else:
                text, count = formatted(self._memory.text(a), b, self._memory)
        except Exception as error:
            text = f"<printf of a kernel: {error}>\n".encode()
        launch = (self._number, 0 if self._one else context)
        with self._lock:
            if launch != self._launch:
                self._close()
                self._launch = launch
            self._lines.append((block, thread, text, what == ASSERT))
            self._bytes += len(text)
            if self._bytes > 2 * BUFFER_BYTES:
                self._close()
        return count


def formatted(pattern: bytes, arguments: int, memory: KernelMemory) -> tuple[bytes, int]:
    """What printf makes of a pattern and the packed arguments at an address, and their number.

    No more is made than is kept.
    """
    parts: list[bytes] = []
    end, count, at, made = 0, 0, arguments, 0

    def word(size: int, kind: str) -> Any:
        nonlocal at, count
        at += -at % size
        value = struct.unpack(f"<{kind}", memory.read(at, size))[0]
        at += size
        count += 1
        return value

    for found in _CONVERSION.finditer(pattern):
        parts.append(pattern[end : found.start()])
        end = found.end()
        kind = found["kind"]
        if kind == b"%":
            parts.append(b"%")
            continue
        spec = b"%" + found["flags"]
        for name, before in (("width", b""), ("precision", b".")):
            value = found[name]
            if value is not None:
                number = word(4, "i") if value == b"*" else int(value or b"0")
                limited = min(max(number, -BUFFER_BYTES), BUFFER_BYTES)
                spec += before + str(limited).encode()
        parts.append(_converted(kind, spec, found["length"], word, memory))
        made += len(parts[-1])
        if made > BUFFER_BYTES:
            break
    parts.append(pattern[end:])
    return b"".join(parts)[:BUFFER_BYTES], count


def _converted(
    kind: bytes,
    spec: bytes,
    length: bytes | None,
    word: Callable[[int, str], Any],
    memory: KernelMemory,
) -> bytes:
    """One argument as its conversion says; `word` reads one of a size and struct kind."""
    if kind in b"fFeEgG":
        return bytes((spec + kind) % word(8, "d"))
    if kind in b"aA":
        text = float(word(8, "d")).hex().encode()
        return (spec + b"s") % (text.upper() if kind == b"A" else text)
    if kind == b"s":
        address = word(8, "Q")
        return (spec + b"s") % (memory.text(address) if address else b"(null)")
    if kind == b"p":
        return (spec + b"s") % f"{word(8, 'Q'):#x}".encode()
    if kind == b"n":
        word(8, "Q")
        return b""
    if kind == b"c":
        return bytes((spec + b"c") % (word(4, "i") & 255))
    size, signed = (8, "q") if length in _LONG else (4, "i")
    value = word(size, signed if kind in b"di" else signed.upper())
    bits = {b"h": 16, b"hh": 8}.get(length or b"", 0)
    if bits:
        value &= (1 << bits) - 1
        if kind in b"di" and value >> bits - 1:
            value -= 1 << bits
    if kind == b"o" and b"#" in spec and value:
        return (spec.replace(b"#", b"") + b"s") % f"0{value:o}".encode()
    return bytes((spec + (b"d" if kind in b"diu" else kind)) % value)


def _failed(
    message: bytes,
    file: bytes,
    function: bytes,
    line: int,
    block: tuple[int, int, int],
    thread: tuple[int, int, int],
) -> bytes:
    """The driver's words for an assertion that does not hold."""
    return b"%s:%d: %s: block: [%d,%d,%d], thread: [%d,%d,%d] Assertion `%s` failed.\n" % (
        file, line & 0xFFFFFFFF, function, *block, *thread, message)  # fmt: skip


def _grid(context: int) -> tuple[int, int, int]:
    words = (ctypes.c_int64 * 3).from_address(context + 8 * _GRID_WORD)
    return words[0], words[1], words[2]


def _place(number: int, size: tuple[int, int, int]) -> tuple[int, int, int]:
    x, y = max(size[0], 1), max(size[1], 1)
    return number % x, number // x % y, number // (x * y)
