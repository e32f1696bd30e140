"""What a session host and its worker process say to each other: owns the messages and their bytes.

The host opens the session, hands over batches and closes; the worker says that it is started, how
making its device went, and then what it executed. `Statistics` are for people: whatever the other
end acts on has a message of its own.

A message is a frame on a socket between two processes of one installation: u32 kind (the place in
`KINDS`), u32 zero, u64 bytes of the body, body.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.errors import ProtocolError
from rrto_ros.text import printable
from rrto_ros.wire.descriptions import pack_device_info, unpack_device_info
from rrto_ros.wire.format import Buffer

HEADER = struct.Struct("<IIQ")
MAX_BODY_BYTES = 1 << 30
MAX_WORDS_BYTES = 1 << 20
"""Of a message without records. A worker may be somebody else's, once it has executed a kernel."""
MAX_TEXT = 4000
_NUMBERS = struct.Struct("<QQQ")
Counters = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Open:
    """Host to worker: make this device for the session.

    Attributes:
        device: Its kind.
        settings: What it is made with.
        kernels: Whether the host keeps compiled kernels for it.
        blobs: Whether the host keeps uploads for it.
    """

    device: str
    settings: DeviceSettings
    kernels: bool = False
    blobs: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Host to worker: execute these call records."""

    records: Buffer


@dataclass(frozen=True, slots=True)
class Close:
    """Host to worker: the session is over."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker to host: started, with the device's modules imported.

    Attributes:
        confined: By what it is confined, in words.
    """

    confined: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to host: the device is made."""

    info: DeviceInfo


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker to host: the device cannot be made."""

    text: str


@dataclass(frozen=True, slots=True)
class Results:
    """Worker to host: how far it is.

    Attributes:
        records: Result records, may be empty.
        executed_call: Index of the last call that was executed or skipped.
        batches_done: Batches executed to their end.
        last_reply: Index of the last call that has a result record.
    """

    records: Buffer
    executed_call: int
    batches_done: int
    last_reply: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """Worker to host: a batch was no call log, so calls may be missing; said once."""

    text: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """Worker to host: counters of executor, device and blob store, for people."""

    executor: Counters = field(default_factory=dict)
    device: Counters = field(default_factory=dict)
    blobs: Counters = field(default_factory=dict)


Message = Open | Batch | Close | Hello | Ready | Failed | Results | Malformed | Statistics
KINDS = (Open, Batch, Close, Hello, Ready, Failed, Results, Malformed, Statistics)
_NUMBER_OF = {kind: number for number, kind in enumerate(KINDS)}


def encode(message: Message) -> tuple[bytes, Buffer]:
    """A message's bytes in two parts, so that records are not copied."""
    head = b""
    body: Buffer = b""
    match message:
        case Batch(records):
            body = records
        case Results(records, executed, done, last_reply):
            body = records
            head = _NUMBERS.pack(executed, done, last_reply)
        case Ready(info):
            body = pack_device_info(info, bytes(16))
        case Failed(text) | Malformed(text) | Hello(text):
            body = text.encode()
        case Open() | Statistics():
            body = json.dumps(asdict(message), default=str).encode()
    size = len(head) + len(body)
    return HEADER.pack(_NUMBER_OF[type(message)], 0, size) + head, body


def decode(number: int, body: memoryview) -> Message:
    """The message that a frame holds; records of it are a view of `body`.

    Raises:
        ProtocolError: No host or worker sends this.
    """
    kind = KINDS[number] if number < len(KINDS) else None
    if kind is not Batch and kind is not Results and len(body) > MAX_WORDS_BYTES:
        raise ProtocolError(f"frame {number} of {len(body)} bytes, at most {MAX_WORDS_BYTES}")
    try:
        if kind is Batch:
            return Batch(body)
        if kind is Results:
            return Results(body[_NUMBERS.size :], *_NUMBERS.unpack_from(body))
        if kind is Ready:
            return Ready(unpack_device_info(bytes(body))[0])
        if kind is Failed or kind is Malformed or kind is Hello:
            return kind(printable(bytes(body).decode(errors="replace"), MAX_TEXT))
        if kind is Statistics:
            return Statistics(**{n: _counters(c) for n, c in json.loads(bytes(body)).items()})
        if kind is Open:
            return _open(bytes(body))
    except (
        ProtocolError, struct.error, ValueError, KeyError, TypeError, AttributeError,
        RecursionError,
    ) as error:  # fmt: skip
        raise ProtocolError(f"frame {number} of {len(body)} bytes: {error}") from error
    if kind is Close and not len(body):
        return kind()
    raise ProtocolError(f"frame {number} of {len(body)} bytes, which no worker or host sends")


def _counters(found: Any) -> Counters:
    """Counters as they are shown: names and plain values."""
    return {
        printable(name, MAX_TEXT): value
        if isinstance(value, (int, float))
        else printable(str(value), MAX_TEXT)
        for name, value in found.items()
    }


def _open(body: bytes) -> Open:
    values = json.loads(body)
    settings = values["settings"]
    capability, cache = settings["compute_capability"], settings["cache_directory"]
    settings["compute_capability"] = None if capability is None else tuple(capability)
    settings["cache_directory"] = None if cache is None else Path(cache)
    return Open(
        values["device"],
        DeviceSettings(**settings),
        bool(values["kernels"]),
        bool(values["blobs"]),
    )
