"""The operations that cross the wire: what a call record holds, and what an operation means.

A driver call of the program (`table.py`) becomes at most one kind of operation here. From this
list come the C emitters of the shim, the Python codec and the hash by which both sides know that
they speak the same table. docs/wire_format.md describes the record that surrounds the fields.

Field types: u8 u16 u32 u64 i32 f32 are packed little endian at their natural alignment, in the
order given. `u64[]` and `bytes` are variable: the fixed part holds their u32 length (items, or
bytes), and their content follows the fixed part in order, each aligned to 8. `payload` is the
bulk data of the record; it is last, at most one, and may be replaced by a blob reference.

Whoever wants to know what an operation does (the search, the rollback, who depends on whom) asks
its meaning here and not its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Kind(IntEnum):
    """What an operation is in the course of an inference."""

    WORK = 0
    """Computes on the device: launches, device copies."""
    OPEN = 1
    """Prepares work: fills, event records, graph arguments."""
    INPUT = 2
    """Brings data from the program."""
    SYNC = 3
    """The program can observe its result."""
    CLOSE = 4
    """Gives a resource back."""
    SETUP = 5
    """Makes a resource: start-up noise when it is not part of every inference."""
    POLL = 6
    """A query; how often it is repeated depends on timing only."""


class Work(Enum):
    """What runs on the device, when the operation does or when the node that it describes does."""

    NONE = "nothing"
    LAUNCH = "a kernel"
    COPY = "a copy inside the device"
    FILL = "a fill"
    GRAPH = "the nodes of a graph"


class Effect(Enum):
    """What a call changes of the things that are followed: memory, modules and graphs."""

    NONE = "nothing"
    ALLOCATE = "memory comes"
    FREE = "memory goes"
    TEXTURE_MAKE = "kernels may read a range by a number that is no address"
    TEXTURE_DROP = "they may not any more"
    ACCESS = "mapped memory may be used, or no longer"
    UNMAP = "mapped memory goes"
    LOAD = "a module comes"
    UNLOAD = "a module goes"
    GRAPH_MAKE = "an empty graph comes"
    GRAPH_DROP = "a graph goes"
    GRAPH_NODE = "a graph has a node, or another one"
    EXEC_MAKE = "an executable comes, with the nodes of its graph"
    EXEC_DROP = "an executable goes"
    EXEC_NODE = "a node of an executable is another one"


GRAPH_EFFECTS = frozenset(
    (Effect.GRAPH_MAKE, Effect.GRAPH_DROP, Effect.GRAPH_NODE, Effect.EXEC_MAKE, Effect.EXEC_DROP,
     Effect.EXEC_NODE)
)  # fmt: skip
MEMORY_EFFECTS = frozenset(
    (Effect.ALLOCATE, Effect.FREE, Effect.ACCESS, Effect.UNMAP, Effect.TEXTURE_MAKE,
     Effect.TEXTURE_DROP)
)  # fmt: skip
READ_WRITE = 3
"""Flags of an access to mapped memory: reading and writing; 1 is reading, 0 none."""
SURFACE = 4
"""Flag of a texture that kernels write, too."""
PAYLOAD, ROWS = "payload", "rows"
"""Instead of a field with a range's bytes: those of the payload; rows with a pitch (fills)."""


@dataclass(frozen=True)
class Op:
    """One wire operation.

    Attributes:
        code: Number on the wire, never reused.
        name: Snake-case name; the executor calls the device by it.
        fields: (name, type) pairs in wire order.
        reply: "none" (asynchronous), "status" (CUresult only) or "bytes" (CUresult and data).
        kind: What it is in the course of an inference.
        work: What runs on the device.
        effect: What it changes of what is followed.
        reads: Fields of the range that it reads for certain: address, and bytes.
        writes: Of the range that it writes; a launch has neither (its arguments are looked at).
        sets: Things other than memory that it sets: what, and the field that names it.
        needs: Things other than memory that it uses.
    """

    code: int
    name: str
    fields: tuple[tuple[str, str], ...]
    reply: str = "none"
    kind: Kind = Kind.OPEN
    work: Work = Work.NONE
    effect: Effect = Effect.NONE
    reads: tuple[str, str] | None = None
    writes: tuple[str, str] | None = None
    sets: tuple[tuple[str, str], ...] = ()
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def brings_memory(self) -> bool:
        """It brings device memory to the program."""
        return self.kind is Kind.SYNC and self.reads is not None

    @property
    def keeps_busy(self) -> bool:
        """It makes the device work; a stretch of calls that ends after some must not wait."""
        return self.only_writes or self.brings_memory

    @property
    def only_reads(self) -> bool:
        """It changes nothing: it may be executed before the program calls it, and again."""
        return self.kind in (Kind.SYNC, Kind.POLL)

    @property
    def only_writes(self) -> bool:
        """It changes memory and nothing else: executed speculatively, it can be rolled back."""
        return self.work is not Work.NONE and self.effect is Effect.NONE


def _op(code: int, name: str, fields: str, kind: Kind, **meaning: object) -> Op:
    pairs = tuple((f.split(":")[0], f.split(":")[1]) for f in fields.split())
    return Op(code, name, pairs, kind=kind, **meaning)  # type: ignore[arg-type]


_LAUNCH = (
    "module:u64 kernel:u32 flags:u32 grid_x:u32 grid_y:u32 grid_z:u32 block_x:u32 block_y:u32 "
    "block_z:u32 shared_bytes:u32"
)
_COPY = "dst:u64 src:u64 size:u64"
_FILL = "dst:u64 pitch:u64 width:u64 height:u64 value:u32 element_bytes:u32"
_NODE, _EXEC = "graph:u64 node:u64", "graph_exec:u64 node:u64"
_COPIES = {"work": Work.COPY, "reads": ("src", "size"), "writes": ("dst", "size")}
_FILLS = {"work": Work.FILL, "writes": ("dst", ROWS)}
_NODES = {"effect": Effect.GRAPH_NODE}
_EXECS = {"effect": Effect.EXEC_NODE, "sets": (("graph", "graph_exec"),)}
_EVENT = (("event", "event"),)
_TEXTURE = (
    "texture:u64 address:u64 size:u64 width:u64 height:u64 depth:u64 pitch:u64 kind:u32 "
    "format:u32 channels:u32 filter:u32 flags:u32 mode_x:u32 mode_y:u32 mode_z:u32 "
    "border_r:f32 border_g:f32 border_b:f32 border_a:f32"
)

OPS: tuple[Op, ...] = (
    _op(1, "module_load", "module:u64 payload:payload", Kind.SETUP, reply="bytes",
        effect=Effect.LOAD),
    _op(2, "module_unload", "module:u64", Kind.CLOSE, effect=Effect.UNLOAD),
    _op(3, "function_set_attribute", "module:u64 kernel:u32 attribute:i32 value:i32", Kind.SETUP),
    # Of an image that is too large for one record; module_load brings its last piece.
    _op(4, "module_piece", "module:u64 payload:payload", Kind.SETUP),
    # Before the first use of a kernel of which module_load told nothing but name and parameters.
    _op(5, "kernel_load", "module:u64 kernel:u32", Kind.SETUP, reply="bytes"),
    # Fresh memory has no content: whoever reads it depends on nothing before.
    _op(10, "mem_alloc", "address:u64 size:u64 stream:u64", Kind.SETUP, effect=Effect.ALLOCATE,
        writes=("address", "size")),
    _op(11, "mem_free", "address:u64 stream:u64", Kind.CLOSE, effect=Effect.FREE),
    _op(12, "memcpy_htod", "dst:u64 stream:u64 payload:payload", Kind.INPUT,
        writes=("dst", PAYLOAD)),
    _op(13, "memcpy_dtoh", "src:u64 size:u64 stream:u64", Kind.SYNC, reply="bytes",
        reads=("src", "size")),
    _op(14, "memcpy_dtod", f"{_COPY} stream:u64", Kind.WORK, **_COPIES),
    _op(15, "memset", f"{_FILL} stream:u64", Kind.OPEN, **_FILLS),
    # Mapped memory keeps what it held, wherever it was mapped before.
    _op(16, "mem_create", "handle:u64 size:u64", Kind.SETUP),
    _op(17, "mem_release", "handle:u64", Kind.CLOSE),
    _op(18, "mem_map", "address:u64 size:u64 handle:u64", Kind.SETUP),
    _op(19, "mem_unmap", "address:u64 size:u64", Kind.CLOSE, effect=Effect.UNMAP),
    _op(20, "launch", f"{_LAUNCH} stream:u64 params:bytes", Kind.WORK, work=Work.LAUNCH),
    _op(21, "ctx_synchronize", "context:u64", Kind.SYNC, reply="status"),
    _op(22, "mem_access", "address:u64 size:u64 flags:u32", Kind.SETUP, effect=Effect.ACCESS),
    # The result is the number by which kernels know the texture.
    _op(23, "texture_create", _TEXTURE, Kind.SETUP, reply="bytes", effect=Effect.TEXTURE_MAKE),
    _op(24, "texture_destroy", "texture:u64", Kind.CLOSE, effect=Effect.TEXTURE_DROP),
    _op(30, "stream_create", "stream:u64 flags:u32 priority:i32", Kind.SETUP),
    _op(31, "stream_destroy", "stream:u64", Kind.CLOSE),
    _op(32, "stream_synchronize", "stream:u64", Kind.SYNC, reply="status"),
    _op(33, "stream_query", "stream:u64", Kind.POLL, reply="status"),
    _op(34, "stream_wait_event", "stream:u64 event:u64 flags:u32", Kind.OPEN, needs=_EVENT),
    _op(40, "event_create", "event:u64 flags:u32", Kind.SETUP),
    _op(41, "event_destroy", "event:u64", Kind.CLOSE),
    _op(42, "event_record", "event:u64 stream:u64", Kind.OPEN, sets=_EVENT),
    _op(43, "event_synchronize", "event:u64", Kind.SYNC, reply="status", needs=_EVENT),
    _op(44, "event_query", "event:u64", Kind.POLL, reply="status", needs=_EVENT),
    _op(45, "event_elapsed_ms", "start:u64 end:u64", Kind.SYNC, reply="bytes",
        needs=(("event", "start"), ("event", "end"))),
    _op(50, "graph_create", "graph:u64", Kind.SETUP, effect=Effect.GRAPH_MAKE),
    _op(51, "graph_destroy", "graph:u64", Kind.CLOSE, effect=Effect.GRAPH_DROP),
    _op(52, "graph_add_kernel_node", f"{_NODE} {_LAUNCH} dependencies:u64[] params:bytes",
        Kind.SETUP, work=Work.LAUNCH, **_NODES),
    _op(53, "graph_add_memcpy_node", f"{_NODE} {_COPY} dependencies:u64[]", Kind.SETUP,
        **_COPIES, **_NODES),
    _op(54, "graph_add_memset_node", f"{_NODE} {_FILL} dependencies:u64[]", Kind.SETUP,
        **_FILLS, **_NODES),
    _op(55, "graph_add_empty_node", f"{_NODE} dependencies:u64[]", Kind.SETUP, **_NODES),
    # 56 changed a node of a graph; graphs that are not instantiated are the shim's alone.
    _op(60, "graph_instantiate", "graph_exec:u64 graph:u64", Kind.SETUP, effect=Effect.EXEC_MAKE),
    _op(61, "graph_exec_destroy", "graph_exec:u64", Kind.CLOSE, effect=Effect.EXEC_DROP),
    _op(62, "graph_exec_kernel_node_set", f"{_EXEC} {_LAUNCH} params:bytes", Kind.OPEN,
        work=Work.LAUNCH, **_EXECS),
    _op(63, "graph_exec_memcpy_node_set", f"{_EXEC} {_COPY}", Kind.OPEN, **_COPIES, **_EXECS),
    _op(64, "graph_exec_memset_node_set", f"{_EXEC} {_FILL}", Kind.OPEN, **_FILLS, **_EXECS),
    _op(65, "graph_launch", "graph_exec:u64 stream:u64", Kind.WORK, work=Work.GRAPH,
        needs=(("graph", "graph_exec"),)),
)  # fmt: skip
"""Every wire operation, by ascending code."""
_QUANTISED = (("address", "u64"), ("elements", "u64"), ("kind", "u32"), ("bits", "u32"))
CONTROL: tuple[Op, ...] = (
    Op(0xFF00, "blob_data", (("payload", "payload"),)),
    Op(0xFF01, "plan_define", (("plan", "u32"), ("digest", "bytes"), ("payload", "payload"))),
    Op(0xFF02, "plan_ref",
       (("plan", "u32"), ("first", "u32"), ("count", "u32"), ("marks", "u64[]"),
        ("words", "u64[]"), ("speculative", "u32"), ("payload", "payload"))),
    Op(0xFF03, "plan_taken", (("plan", "u32"), ("state", "u32"))),
    Op(0xFF04, "results_wanted", ()),
    Op(0xFF05, "checkpoint", (("number", "u32"),)),
    Op(0xFF06, "memory_restore", (("address", "u64"), ("payload", "payload"))),
    Op(0xFF07, "profile", (("number", "u32"), ("calls", "u32"), ("first", "u64"))),
    Op(0xFF08, "quantised_read", _QUANTISED, reply="bytes"),
    Op(0xFF09, "quantised_write", (*_QUANTISED, ("payload", "payload"))),
)  # fmt: skip
"""Records among the calls that are no calls of the program, by ascending code.

- blob_data: the content of a blob that the server asked for; it has the index of the call.
- plan_define: a plan, and the number by which references name it.
- plan_ref: stands for `count` calls of a plan, from its call `first` on (docs/wire_format.md).
- plan_taken: from the shim to recorder_replayer: a plan is installed, removed or refused.
- results_wanted: from the shim to recorder_replayer: what the calls so far leave in host memory is
  wanted. These two never leave the robot.
- checkpoint: recorder_replayer wants what changed in device memory since the last checkpoint.
- memory_restore: memory as a checkpoint had it, after the calls that made the memory; its payload
  may be a reference to the content of an upload, and it has the index of that call then, else 0.
- profile: recorder_replayer wants to know what `calls` calls from index `first` on cost and touch;
  with no calls, that what was found so far is told.
- quantised_read, quantised_write: floats in memory are told, or become what the payload says, in a
  few bits each; in mode partition, between calls, with an index of their own.
"""
