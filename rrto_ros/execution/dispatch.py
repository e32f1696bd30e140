"""From a decoded call record to the device's method: owns the argument mapping of every operation.

Most operations have the fields of the device method of the same name, in its order; the few that
do not have a small function here. A handler returns the data of the result (empty for none) or
raises what the device raised.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from rrto_ros.api.info import ModuleInfo
from rrto_ros.api.ops import OPS
from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Device, Launch, MemcpyNode, MemsetNode
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import CudaError
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.descriptions import pack_module_info
from rrto_ros.wire.format import Buffer

Handler = Callable[[CallRecord], Buffer]
"""Executes one record on the device it is bound to."""
Prepared = Callable[[], Buffer]
"""Executes one call that is always the same."""

LAUNCH_COOPERATIVE = 1
"""Bit of a launch's `flags`: every block must be resident at once."""
MOST_PIECES_BYTES = 2 << 30
_F32 = struct.Struct("<f")
_U64 = struct.Struct("<Q")
_NOTHING = b""
_TEXTURE = tuple(f.name for f in fields(Texture) if f.name != "border")


def launch_of(values: tuple[Any, ...], params: Buffer) -> Launch:
    """The launch whose ten wire fields begin `values`."""
    module, kernel, flags, gx, gy, gz, bx, by, bz, shared = values[:10]
    cooperative = bool(flags & LAUNCH_COOPERATIVE)
    return Launch(module, kernel, (gx, gy, gz), (bx, by, bz), shared, bytes(params), cooperative)


def fill_of(values: tuple[Any, ...]) -> MemsetNode:
    """The fill whose six wire fields begin `values`."""
    dst, pitch, width, height, value, element_bytes = values[:6]
    return MemsetNode(dst, pitch, value, element_bytes, width, height)


def texture_of(values: tuple[Any, ...]) -> Texture:
    """The texture whose eighteen wire fields are `values`."""
    named: dict[str, Any] = dict(zip(_TEXTURE, values[:14], strict=True))
    return Texture(**named, border=values[14:18])


Loaded = Callable[[int, ModuleInfo, bytes], None]
"""Takes a module's handle, what is in it, and its image."""


def bind(device: Device, loaded: Loaded) -> dict[int, Handler]:
    """Return the handler of every operation, by code, for `device`.

    Args:
        device: The session's device.
        loaded: Told of each module that was loaded.
    """
    special = _special(device, loaded)
    return {op.code: special.get(op.name) or _plain(getattr(device, op.name)) for op in OPS}


def read_memory(device: Device, address: int, size: int, stream: int = 0) -> Buffer:
    """Bytes of device memory, without another copy of them.

    Raises:
        CudaError: As the device says.
    """
    data = device.memcpy_dtoh(address, size, stream)
    return data if isinstance(data, bytes) else memoryview(data).cast("B")


def prepare(device: Device, handlers: dict[int, Handler], record: CallRecord) -> Prepared:
    """What executes a record without payload again and again, its arguments made once."""
    handler = handlers[record.op.code]
    if record.op.name != "launch":
        return partial(handler, record)
    launch, stream = launch_of(record.values, record.values[11]), record.values[10]
    method = device.launch

    def run() -> Buffer:
        method(launch, stream)
        return _NOTHING

    return run


def _plain(method: Callable[..., None]) -> Handler:
    def call(record: CallRecord) -> Buffer:
        method(*record.values)
        return _NOTHING

    return call


def _query(method: Callable[[int], bool]) -> Handler:
    def call(record: CallRecord) -> Buffer:
        if not method(record.values[0]):
            raise CudaError(CUresult.NOT_READY)
        return _NOTHING

    return call


def _special(device: Device, loaded: Loaded) -> dict[str, Handler]:
    """The operations whose fields are not the device method's arguments."""
    pieces: dict[int, bytearray] = {}

    def module_piece(record: CallRecord) -> Buffer:
        image = pieces.setdefault(record.values[0], bytearray())
        size = sum(map(len, pieces.values())) + len(record.payload or b"")
        if size > MOST_PIECES_BYTES:
            pieces.clear()
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"images of {size} bytes in pieces, at most {MOST_PIECES_BYTES} are kept",
            )
        image += record.payload or b""
        return _NOTHING

    def module_load(record: CallRecord) -> Buffer:
        image = bytes(record.payload or b"")
        if before := pieces.pop(record.values[0], None):
            image = bytes(before + image)
            # Whoever looks at the record next finds the whole image in it.
            record.payload = memoryview(image)
        info = device.module_load(record.values[0], image)
        loaded(record.values[0], info, image)
        return pack_module_info(info)

    def kernel_load(record: CallRecord) -> Buffer:
        return pack_module_info(ModuleInfo((device.kernel_load(*record.values),)))

    def memcpy_htod(record: CallRecord) -> Buffer:
        dst, stream = record.values
        device.memcpy_htod(dst, record.payload or b"", stream)
        return _NOTHING

    def memcpy_dtoh(record: CallRecord) -> Buffer:
        src, size, stream = record.values
        if size > device.info.arena_bytes:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"copy of {size} bytes to the host, the arena has {device.info.arena_bytes}",
            )
        return read_memory(device, src, size, stream)

    def memset(record: CallRecord) -> Buffer:
        device.memset(fill_of(record.values), record.values[6])
        return _NOTHING

    def texture_create(record: CallRecord) -> Buffer:
        texture, *what = record.values
        return _U64.pack(device.texture_create(texture, texture_of(tuple(what))))

    def launch(record: CallRecord) -> Buffer:
        values = record.values
        device.launch(launch_of(values, values[11]), values[10])
        return _NOTHING

    def ctx_synchronize(record: CallRecord) -> Buffer:  # noqa: ARG001 one context per session
        device.ctx_synchronize()
        return _NOTHING

    def event_elapsed_ms(record: CallRecord) -> Buffer:
        return _F32.pack(device.event_elapsed_ms(*record.values))

    return {
        "module_piece": module_piece,
        "module_load": module_load,
        "kernel_load": kernel_load,
        "memcpy_htod": memcpy_htod,
        "memcpy_dtoh": memcpy_dtoh,
        "memset": memset,
        "texture_create": texture_create,
        "launch": launch,
        "ctx_synchronize": ctx_synchronize,
        "stream_query": _query(device.stream_query),
        "event_query": _query(device.event_query),
        "event_elapsed_ms": event_elapsed_ms,
        **_graph_nodes(device),
    }


def _graph_nodes(device: Device) -> dict[str, Handler]:
    """Operations that add a node to a graph or change one of an executable graph."""

    def add_kernel(record: CallRecord) -> Buffer:
        graph, node, *work = record.values
        device.graph_add_node(graph, node, work[10], launch_of(tuple(work), work[11]))
        return _NOTHING

    def add_memcpy(record: CallRecord) -> Buffer:
        graph, node, dst, src, size, dependencies = record.values
        device.graph_add_node(graph, node, dependencies, MemcpyNode(dst, src, size))
        return _NOTHING

    def add_memset(record: CallRecord) -> Buffer:
        graph, node, *work = record.values
        device.graph_add_node(graph, node, work[6], fill_of(tuple(work)))
        return _NOTHING

    def add_empty(record: CallRecord) -> Buffer:
        graph, node, dependencies = record.values
        device.graph_add_node(graph, node, dependencies, None)
        return _NOTHING

    def exec_set_kernel(record: CallRecord) -> Buffer:
        graph, node, *work = record.values
        device.graph_exec_node_set(graph, node, launch_of(tuple(work), work[10]))
        return _NOTHING

    def exec_set_memcpy(record: CallRecord) -> Buffer:
        graph, node, dst, src, size = record.values
        device.graph_exec_node_set(graph, node, MemcpyNode(dst, src, size))
        return _NOTHING

    def exec_set_memset(record: CallRecord) -> Buffer:
        graph, node, *work = record.values
        device.graph_exec_node_set(graph, node, fill_of(tuple(work)))
        return _NOTHING

    return {
        "graph_add_kernel_node": add_kernel,
        "graph_add_memcpy_node": add_memcpy,
        "graph_add_memset_node": add_memset,
        "graph_add_empty_node": add_empty,
        "graph_exec_kernel_node_set": exec_set_kernel,
        "graph_exec_memcpy_node_set": exec_set_memcpy,
        "graph_exec_memset_node_set": exec_set_memset,
    }
