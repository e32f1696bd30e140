"""Bytes of the handshake and of the descriptions: HELLO, WELCOME, device and module information.

Owns the layouts of docs/wire_format.md that are not call or result records. Lengths are bounded
before anything is allocated; what does not fit raises `ProtocolError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rrto_ros.api.info import DeviceInfo, GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import PROTOCOL_VERSION, TABLE_HASH, Buffer

MAGIC = 0x4F545252
HELLO = struct.Struct("<II32sIHH")
WELCOME = struct.Struct("<IIII")
_DEVICE = struct.Struct("<IiiIQQQ16s16sII")
_KERNEL = struct.Struct("<HHI")
_GLOBAL = struct.Struct("<HHIQQ")
_PAIR = struct.Struct("<ii")
_PARAM = struct.Struct("<II")
_KINDS = ("", "cpu", "gpu", "null")
MAX_TEXT_BYTES = 4096
MAX_INFO_BYTES = 65536


@dataclass(frozen=True)
class Hello:
    """What a program says when it connects."""

    pid: int
    program: str
    label: str
    version: int = PROTOCOL_VERSION
    table_hash: bytes = TABLE_HASH


@dataclass(frozen=True)
class Welcome:
    """How the recorder answers: a CUresult, a reason if it is not 0, a device description."""

    status: int
    text: str = ""
    info: bytes = b""


def _text(data: Buffer, what: str) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{what} is not UTF-8: {bytes(data[:40])!r}") from error


def pack_hello(hello: Hello) -> bytes:
    """HELLO; program and label are cut to 65,535 bytes."""
    program, label = hello.program.encode()[:65535], hello.label.encode()[:65535]
    head = HELLO.pack(MAGIC, hello.version, hello.table_hash, hello.pid, len(program), len(label))
    return head + program + label


def hello_bytes(head: Buffer) -> int:
    """Size of the whole HELLO whose first `HELLO.size` bytes are `head`.

    Raises:
        ProtocolError: Wrong magic or too short.
    """
    if len(head) < HELLO.size:
        raise ProtocolError(f"HELLO has {len(head)} bytes, at least {HELLO.size} wanted")
    magic, _, _, _, program, label = HELLO.unpack_from(head)
    if magic != MAGIC:
        raise ProtocolError(f"HELLO begins with 0x{magic:08x}, not with RRTO")
    return HELLO.size + int(program) + int(label)


def unpack_hello(data: Buffer) -> Hello:
    """Decode HELLO. Version and table hash are returned, not judged.

    Raises:
        ProtocolError: Wrong magic or size, or text that is not UTF-8.
    """
    if hello_bytes(data) != len(data):
        raise ProtocolError(f"HELLO of {hello_bytes(data)} bytes came as {len(data)}")
    _, version, table, pid, program, label = HELLO.unpack_from(data)
    at = HELLO.size
    return Hello(
        pid,
        _text(data[at : at + program], "program name"),
        _text(data[at + program : at + program + label], "label"),
        version,
        table,
    )


def pack_welcome(welcome: Welcome) -> bytes:
    """WELCOME; the text is cut to `MAX_TEXT_BYTES`."""
    text = welcome.text.encode()[:MAX_TEXT_BYTES]
    return WELCOME.pack(MAGIC, welcome.status, len(text), len(welcome.info)) + text + welcome.info


def unpack_welcome(data: Buffer) -> Welcome:
    """Decode WELCOME.

    Raises:
        ProtocolError: Wrong magic or size, or text that is not UTF-8.
    """
    if len(data) < WELCOME.size:
        raise ProtocolError(f"WELCOME has {len(data)} bytes, at least {WELCOME.size} wanted")
    magic, status, text, info = WELCOME.unpack_from(data)
    if magic != MAGIC or WELCOME.size + text + info != len(data):
        raise ProtocolError(f"WELCOME of {len(data)} bytes has a wrong magic or wrong lengths")
    at = WELCOME.size
    reason = _text(bytes(data[at : at + text]), "reason")
    return Welcome(status, reason, bytes(data[at + text :]))


def pack_device_info(info: DeviceInfo, session: bytes) -> bytes:
    """A device description with the session id (16 bytes) that the server gave.

    Raises:
        ProtocolError: uuid or session have not 16 bytes, the name is too long, or a value is out
            of range.
    """
    name = info.name.encode()
    if len(info.uuid) != 16 or len(session) != 16 or len(name) > 255:
        raise ProtocolError(
            f"device description: uuid {len(info.uuid)} and session {len(session)} bytes (16 "
            f"wanted), name {len(name)} bytes (255 at most)"
        )
    kind = _KINDS.index(info.kind) if info.kind in _KINDS else 0
    major, minor = info.compute_capability
    try:
        head = _DEVICE.pack(
            info.driver_version,
            major,
            minor,
            len(info.attributes),
            info.total_bytes,
            info.arena_base,
            info.arena_bytes,
            info.uuid,
            session,
            len(name),
            kind,
        )
        pairs = b"".join(_PAIR.pack(key, value) for key, value in sorted(info.attributes.items()))
    except struct.error as error:
        raise ProtocolError(f"device description: {error}") from error
    return head + name + bytes(-len(name) % 8) + pairs


def unpack_device_info(data: Buffer) -> tuple[DeviceInfo, bytes]:
    """Decode a device description.

    Returns:
        The description and the session id (16 bytes).

    Raises:
        ProtocolError: Its size does not match its content.
    """
    if not _DEVICE.size <= len(data) <= MAX_INFO_BYTES:
        raise ProtocolError(
            f"device description of {len(data)} bytes ({_DEVICE.size} to {MAX_INFO_BYTES} wanted)"
        )
    version, major, minor, count, total, base, size, uuid, session, name_bytes, kind = (
        _DEVICE.unpack_from(data)
    )
    at = _DEVICE.size + name_bytes + -name_bytes % 8
    if name_bytes > 255 or kind >= len(_KINDS) or at + count * _PAIR.size != len(data):
        raise ProtocolError(
            f"device description of {len(data)} bytes: name of {name_bytes} bytes, kind {kind}, "
            f"{count} attributes do not fit"
        )
    name = _text(bytes(data[_DEVICE.size : _DEVICE.size + name_bytes]), "device name")
    attributes = dict(_PAIR.iter_unpack(bytes(data[at:])))
    info = DeviceInfo(
        _KINDS[kind], name, uuid, (major, minor), version, total, base, size, attributes
    )
    return info, session


def pack_module_info(info: ModuleInfo) -> bytes:
    """A module description: the data that answers `module_load`.

    Raises:
        ProtocolError: A name is too long or a value out of range.
    """
    parts = [struct.pack("<II", len(info.kernels), len(info.globals))]
    try:
        for kernel in info.kernels:
            name = kernel.name.encode()
            parts.append(_KERNEL.pack(len(name), len(kernel.params), len(kernel.attributes)))
            parts.append(name)
            parts.extend(_PARAM.pack(offset, size) for offset, size in kernel.params)
            parts.extend(_PAIR.pack(*pair) for pair in sorted(kernel.attributes.items()))
        for variable in info.globals:
            name = variable.name.encode()
            parts.append(_GLOBAL.pack(len(name), 0, 0, variable.address, variable.bytes))
            parts.append(name)
    except struct.error as error:
        raise ProtocolError(f"module description: {error}") from error
    return b"".join(parts)


class _Reader:
    """Reads structs and bytes one after another, never past the end."""

    def __init__(self, data: Buffer, what: str) -> None:
        self.data = bytes(data)
        self.what = what
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ProtocolError(
                f"{self.what} of {len(self.data)} bytes ends inside an item at byte {self.at}"
            )
        self.at += size
        return self.data[self.at - size : self.at]


def unpack_module_info(data: Buffer) -> ModuleInfo:
    """Decode a module description.

    Raises:
        ProtocolError: It ends early, or bytes are left over.
    """
    reader = _Reader(data, "module description")
    kernels, variables = struct.unpack("<II", reader.take(8))
    if kernels * _KERNEL.size + variables * _GLOBAL.size > len(reader.data):
        raise ProtocolError(
            f"module description of {len(reader.data)} bytes cannot hold {kernels} kernels and "
            f"{variables} variables"
        )
    found: list[KernelInfo] = []
    for _ in range(kernels):
        name_bytes, params, attributes = _KERNEL.unpack(reader.take(_KERNEL.size))
        name = _text(reader.take(name_bytes), "kernel name")
        layout = tuple(_PARAM.iter_unpack(reader.take(params * _PARAM.size)))
        pairs = dict(_PAIR.iter_unpack(reader.take(attributes * _PAIR.size)))
        found.append(KernelInfo(name, layout, pairs))
    globals_: list[GlobalInfo] = []
    for _ in range(variables):
        name_bytes, _, _, address, size = _GLOBAL.unpack(reader.take(_GLOBAL.size))
        name = _text(reader.take(name_bytes), "variable name")
        globals_.append(GlobalInfo(name, address, size))
    if reader.at != len(reader.data):
        raise ProtocolError(
            f"module description: {len(reader.data) - reader.at} bytes left over at {reader.at}"
        )
    return ModuleInfo(tuple(found), tuple(globals_))
