"""Call logs as files, readable without the session.

Layout: magic `RRTOLOG1`, u32 length of a JSON header, the header, then the header's `blocks` one
after another, each compressed with zlib. Numbers are little endian. Blocks:

| block | content |
|---|---|
| templates | per distinct call: u16 code, u16 0, u32 payload length, u32 body length, body |
| first_seen | u64 per distinct call: position where it was first seen |
| exact | u32 per call: number of its distinct call |
| threads | u32 per call |
| breaks | (u64 position, u64 index) where call numbers jump |
| allocations | (u64 base, u64 bytes) live after the last call |
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.record.log import CallLog
from rrto_ros.wire.format import TABLE_HASH

MAGIC = b"RRTOLOG1"
MAX_CALLS = 1 << 28
MAX_BLOCK_BYTES = 1 << 32
_HEAD = struct.Struct("<8sI")
_TEMPLATE = struct.Struct("<HHII")
_BLOCKS = ("templates", "first_seen", "exact", "threads", "breaks", "allocations")


def dump(log: CallLog, path: str | os.PathLike[str]) -> int:
    """Write what the log keeps; an existing file is replaced at once or not at all.

    Returns:
        Bytes of the file.

    Raises:
        ConfigError: The file cannot be written.
    """
    exact = np.frombuffer(log.exact, np.int32) if len(log) else np.zeros(0, np.int32)
    numbers, dense = np.unique(exact, return_inverse=True)
    templates = bytearray()
    seen = np.zeros(len(numbers), "<u8")
    for i, number in enumerate(numbers.tolist()):
        t = log.templates[number]
        templates += _TEMPLATE.pack(t.code, 0, t.payload_bytes, len(t.body)) + t.body
        seen[i] = log.templates.first_seen(number)
    data = {
        "templates": bytes(templates),
        "first_seen": seen.tobytes(),
        "exact": dense.astype("<u4").tobytes(),
        "threads": np.array(log.threads, "<u4").tobytes(),
        "breaks": np.array(log.breaks, "<u8").tobytes(),
        "allocations": np.array(list(log.allocations), "<u8").tobytes(),
    }
    packed = {name: zlib.compress(data[name], 1) for name in _BLOCKS}
    header = {
        "table": TABLE_HASH.hex(),
        "base": log.base,
        "calls": len(log),
        "session": log.session,
        "blocks": [[name, len(packed[name]), len(data[name])] for name in _BLOCKS],
    }
    text = json.dumps(header).encode()
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(_HEAD.pack(MAGIC, len(text)))
            file.write(text)
            for name in _BLOCKS:
                file.write(packed[name])
            size = file.tell()
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"call log {target} cannot be written: {error}") from error
    return size


def load(path: str | os.PathLike[str]) -> CallLog:
    """Read a dumped log.

    Raises:
        ConfigError: The file cannot be read.
        ProtocolError: It is not a call log, is damaged, or is of another table of operations.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"call log {path} cannot be read: {error}") from error
    try:
        return _parse(content)
    except ProtocolError as error:
        raise ProtocolError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error) as error:
        raise ProtocolError(f"{path} is a damaged call log: {error}") from error


def is_log(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like a call log."""
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _parse(content: bytes) -> CallLog:
    if len(content) < _HEAD.size or not content.startswith(MAGIC):
        raise ProtocolError("it is not a call log")
    _, length = _HEAD.unpack_from(content)
    header: dict[str, Any] = json.loads(content[_HEAD.size : _HEAD.size + length])
    if header["table"] != TABLE_HASH.hex():
        raise ProtocolError("the log is of another table of operations; record it again")
    calls, base = int(header["calls"]), int(header["base"])
    if not (0 <= calls <= MAX_CALLS and base >= 0):
        raise ProtocolError(f"a log of {calls} calls from {base} cannot be")
    blocks = _blocks(content, _HEAD.size + length, header["blocks"])
    session = {str(k): str(v) for k, v in header["session"].items()}
    log = CallLog(max_calls=max(calls, 16), memory_limit_bytes=1 << 40, session=session)
    count = _templates(log, blocks)
    exact = np.frombuffer(blocks["exact"], "<u4")
    threads = np.frombuffer(blocks["threads"], "<u4")
    if len(exact) != calls or len(threads) != calls or (calls and int(exact.max()) >= count):
        raise ProtocolError("the calls do not fit the header")
    breaks = np.frombuffer(blocks["breaks"], "<u8").reshape(-1, 2).tolist()
    log.restore(
        base=base,
        exact=exact.astype(np.int32),
        threads=threads.astype(np.uint32),
        breaks=[(int(p), int(i)) for p, i in breaks],
        allocations=[
            (int(b), int(s))
            for b, s in np.frombuffer(blocks["allocations"], "<u8").reshape(-1, 2).tolist()
        ],
    )
    return log


def _blocks(content: bytes, offset: int, listed: list[list[Any]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, packed, size in listed:
        if not (0 <= packed <= len(content) - offset and 0 <= size <= MAX_BLOCK_BYTES):
            raise ProtocolError(f"block {name!r} goes past the end of the file")
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(content[offset : offset + packed], size + 1)
        if len(data) != size or not unpacker.eof:
            raise ProtocolError(f"block {name!r} has not the {size} bytes that the header names")
        found[str(name)] = data
        offset += packed
    return found


def _templates(log: CallLog, blocks: dict[str, bytes]) -> int:
    data, offset = blocks["templates"], 0
    seen = np.frombuffer(blocks["first_seen"], "<u8").tolist()
    count = 0
    while offset < len(data):
        code, _, payload, length = _TEMPLATE.unpack_from(data, offset)
        offset += _TEMPLATE.size
        if length > len(data) - offset or code not in log.templates.tables:
            raise ProtocolError(f"template {count} is damaged")
        key = struct.pack("<I", payload) + data[offset : offset + length]
        if key in log.templates.tables[code]:
            raise ProtocolError(f"template {count} is there twice")
        log.templates.add(code, key, int(seen[count]))
        offset += length
        count += 1
    return count
