"""The operations that cross the wire: the single description of every call record.

A driver call of the program (`table.py`) becomes at most one kind of operation here. From this
list come the C emitters of the shim, the Python codec and the hash by which both sides know that
they speak the same table. docs/wire_format.md describes the record that surrounds the fields.

Field types: u8 u16 u32 u64 i32 f32 are packed little endian at their natural alignment, in the
order given. `u64[]` and `bytes` are variable: the fixed part holds their u32 length (items, or
bytes), and their content follows the fixed part in order, each aligned to 8. `payload` is the
bulk data of the record; it is last, at most one, and may be replaced by a blob reference.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Op:
    """One wire operation.

    Attributes:
        code: Number on the wire, never reused.
        name: Snake-case name; the executor calls the device by it.
        fields: (name, type) pairs in wire order.
        reply: "none" (asynchronous), "status" (CUresult only) or "bytes" (CUresult and data).
    """

    code: int
    name: str
    fields: tuple[tuple[str, str], ...]
    reply: str = "none"


def _op(code: int, name: str, fields: str, reply: str = "none") -> Op:
    pairs = tuple((f.split(":")[0], f.split(":")[1]) for f in fields.split())
    return Op(code, name, pairs, reply)


_LAUNCH = (
    "module:u64 kernel:u32 flags:u32 grid_x:u32 grid_y:u32 grid_z:u32 block_x:u32 block_y:u32 "
    "block_z:u32 shared_bytes:u32"
)
_MEMSET = "dst:u64 pitch:u64 width:u64 height:u64 value:u32 element_bytes:u32"

OPS: tuple[Op, ...] = (
    _op(1, "module_load", "module:u64 payload:payload", "bytes"),
    _op(2, "module_unload", "module:u64"),
    _op(3, "function_set_attribute", "module:u64 kernel:u32 attribute:i32 value:i32"),
    _op(10, "mem_alloc", "address:u64 size:u64 stream:u64"),
    _op(11, "mem_free", "address:u64 stream:u64"),
    _op(12, "memcpy_htod", "dst:u64 stream:u64 payload:payload"),
    _op(13, "memcpy_dtoh", "src:u64 size:u64 stream:u64", "bytes"),
    _op(14, "memcpy_dtod", "dst:u64 src:u64 size:u64 stream:u64"),
    _op(15, "memset", f"{_MEMSET} stream:u64"),
    _op(20, "launch", f"{_LAUNCH} stream:u64 params:bytes"),
    _op(21, "ctx_synchronize", "context:u64", "status"),
    _op(30, "stream_create", "stream:u64 flags:u32 priority:i32"),
    _op(31, "stream_destroy", "stream:u64"),
    _op(32, "stream_synchronize", "stream:u64", "status"),
    _op(33, "stream_query", "stream:u64", "status"),
    _op(34, "stream_wait_event", "stream:u64 event:u64 flags:u32"),
    _op(40, "event_create", "event:u64 flags:u32"),
    _op(41, "event_destroy", "event:u64"),
    _op(42, "event_record", "event:u64 stream:u64"),
    _op(43, "event_synchronize", "event:u64", "status"),
    _op(44, "event_query", "event:u64", "status"),
    _op(45, "event_elapsed_ms", "start:u64 end:u64", "bytes"),
    _op(50, "graph_create", "graph:u64"),
    _op(51, "graph_destroy", "graph:u64"),
    _op(
        52,
        "graph_add_kernel_node",
        f"graph:u64 node:u64 {_LAUNCH} dependencies:u64[] params:bytes",
    ),
    _op(
        53,
        "graph_add_memcpy_node",
        "graph:u64 node:u64 dst:u64 src:u64 size:u64 dependencies:u64[]",
    ),
    _op(54, "graph_add_memset_node", f"graph:u64 node:u64 {_MEMSET} dependencies:u64[]"),
    _op(55, "graph_add_empty_node", "graph:u64 node:u64 dependencies:u64[]"),
    _op(56, "graph_kernel_node_set", f"graph:u64 node:u64 {_LAUNCH} params:bytes"),
    _op(60, "graph_instantiate", "graph_exec:u64 graph:u64"),
    _op(61, "graph_exec_destroy", "graph_exec:u64"),
    _op(62, "graph_exec_kernel_node_set", f"graph_exec:u64 node:u64 {_LAUNCH} params:bytes"),
    _op(63, "graph_exec_memcpy_node_set", "graph_exec:u64 node:u64 dst:u64 src:u64 size:u64"),
    _op(64, "graph_exec_memset_node_set", f"graph_exec:u64 node:u64 {_MEMSET}"),
    _op(65, "graph_launch", "graph_exec:u64 stream:u64"),
)
"""Every wire operation, by ascending code."""
