"""Which memory a call may write and read: follows a session's memory, modules and graphs.

A copy or fill names its ranges. Where a launch stores and loads follows from its kernel, arguments
and geometry (kernels/extents.py); stores must lie in allocations. A graph has the accesses of its
nodes. Where writes are not known the answer is None, and the call must not be executed before the
program makes it.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from rrto_ros.api.info import ModuleInfo
from rrto_ros.api.ops import GRAPH_EFFECTS, MEMORY_EFFECTS, OPS, Effect, Op, Work
from rrto_ros.execution.kernels.element_types import UNKNOWN
from rrto_ros.execution.kernels.extents import Geometry, KernelExtents, Span
from rrto_ros.execution.kernels.writes import ModuleWriters, Writers
from rrto_ros.wire.accesses import Range, Typed, fill_bytes, merged, named
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.graph_nodes import GraphNodes

MAX_EXTENTS = 1 << 14
"""Launches of which it is kept where they store."""
MAX_IMAGE_BYTES = 64 << 20
"""Images kept in all until it is known what their kernels write."""
_WORD = struct.Struct("<Q")
_FOLLOWED = GRAPH_EFFECTS | MEMORY_EFFECTS | {Effect.UNLOAD}
FOLLOWED = frozenset(op.code for op in OPS if op.effect in _FOLLOWED)
"""Operations that `followed` must be told of."""
Layout = tuple[int, int]
"""See `AccessRanges.layout`."""
Node = tuple[Op, dict[str, Any]]
"""The operation that described a node, with its fields."""
_Key = tuple[int, int, bytes, Geometry]
"""Load of a module, kernel, arguments and geometry."""
_Load = tuple[int, int]
"""A module's handle and which load of it, from 1 on."""
_GONE = 0
"""Instead of a load: the module was unloaded."""


class AccessRanges:
    """One session's. Not thread-safe.

    Args:
        compute_capability: Of the device.
        beside: Kernels are looked at in a thread of its own, and unknown until then.
    """

    def __init__(self, compute_capability: tuple[int, int], *, beside: bool = False) -> None:
        self._capability = compute_capability
        self._beside = beside
        self._asked: queue.SimpleQueue[tuple[_Load, str, bytes | None] | None] | None = None
        self._found: queue.SimpleQueue[tuple[_Load, Writers]] = queue.SimpleQueue()
        self._loads: dict[int, int] = {}
        self._memory = Allocations()
        self._names: dict[int, tuple[str, ...]] = {}
        self._globals: dict[int, dict[str, Range]] = {}
        self._images: OrderedDict[int, bytes] = OrderedDict()
        self._images_bytes = 0
        self._writers: dict[int, ModuleWriters] = {}
        self._kernels: dict[int, dict[str, KernelExtents | None]] = {}
        self._wanted: dict[int, set[str]] = {}
        self._nodes: GraphNodes[Node] = GraphNodes()
        self._extents: dict[_Key, tuple[Span, ...] | None] = {}
        self._loads_of: dict[_Key, tuple[Range, ...] | None] = {}
        self._digests: dict[int, dict[int, int]] = {}
        self._graphs = 0
        self._changes = 0
        self._learnt = 0
        self._layout: Layout = (0, 0)

    @property
    def memory(self) -> Allocations:
        """The session's live memory."""
        return self._memory

    @property
    def code(self) -> tuple[int, int]:
        """What graphs are like, and which modules were loaded: `layout` without memory."""
        return self._graphs, self._changes

    @property
    def layout(self) -> Layout:
        """What memory and graphs are like, and which modules were loaded.

        While it is the same, a call of the program touches the same memory.
        """
        signature = self._memory.signature ^ self._graphs
        if self._layout != (signature, self._changes):
            self._layout = signature, self._changes
        return self._layout

    @property
    def learnt(self) -> int:
        """Counts what was found of modules.

        While it and the layout are the same, `writes` and `reads` give the same for the same call.
        """
        while not self._found.empty():
            (module, load), kernels = self._found.get()
            # Its handle may mean another module by now.
            if self._loads.get(module) == load:
                self._kernels.setdefault(module, {}).update(kernels)
                self._learnt += 1
        return self._learnt

    def holds(self, start: int, size: int) -> bool:
        """Whether bytes lie in one allocation."""
        return self._inside(start, size) is not None

    def loaded(self, module: int, info: ModuleInfo, image: bytes) -> None:
        """A module was loaded."""
        self._changes += 1
        self._unload(module)
        self._loads[module] = self._changes
        self._names[module] = tuple(kernel.name for kernel in info.kernels)
        # A program may hand the address of a module's variable to a kernel.
        self._globals[module] = {
            g.name: (g.address, g.address + g.bytes) for g in info.globals if g.bytes
        }
        for variable in info.globals:
            if variable.bytes:
                self._memory.add(variable.address, variable.bytes)
        if len(image) > MAX_IMAGE_BYTES:
            return
        self._images[module] = image
        self._images_bytes += len(image)
        while self._images_bytes > MAX_IMAGE_BYTES:
            # Its kernels stay unknown.
            self._images_bytes -= len(self._images.popitem(last=False)[1])

    def followed(self, record: CallRecord) -> None:
        """A call of `FOLLOWED` was executed."""
        op, f = record.op, record.fields()
        if self._memory.follow(op.effect, f):
            return
        if op.effect is Effect.UNLOAD:
            self._changes += 1
            self._unload(f["module"])
            return
        self._nodes.apply(op.effect, f, lambda: (op, _plain(f)))
        if "graph_exec" in f:
            self._instantiated(f["graph_exec"], f.get("node"))

    def _instantiated(self, graph_exec: int, changed: int | None) -> None:
        """An executable came or went, or a node of it changed."""
        digests = self._digests.setdefault(graph_exec, {})
        for node in [changed] if changed is not None else list(digests):
            self._graphs ^= digests.pop(node, 0)
        if changed is not None:
            work = self._nodes.one(graph_exec, changed)
            works = [] if work is None else [work]
        else:
            works = list(self._nodes.of(graph_exec) or ())
        for op, fields in works:
            text = repr((graph_exec, op.work.name, fields)).encode()
            digest = int.from_bytes(blake2b(text, digest_size=16).digest(), "little")
            digests[fields["node"]] = digest
            self._graphs ^= digest
        if not digests:
            del self._digests[graph_exec]

    def writes(self, record: CallRecord) -> tuple[Range, ...] | None:
        """Ranges that a call of `templates.WRITES` may write; None if that is not known."""
        return self._each(record, self.node_writes)

    def reads(self, record: CallRecord) -> tuple[Range, ...] | None:
        """Ranges that a call may read; None if that is not known.

        More than it reads may be in them, and more than memory is: only what memory there is
        counts.
        """
        return self._each(record, self.node_reads)

    def nodes(self, record: CallRecord) -> tuple[Node, ...] | None:
        """What a launched graph does, each node after those that it depends on; None: unknown."""
        found = self._nodes.of(record.fields()["graph_exec"])
        return None if found is None else tuple(found)

    def _each(
        self,
        record: CallRecord,
        ranges_of: Callable[[Op, dict[str, Any]], tuple[Range, ...] | None],
    ) -> tuple[Range, ...] | None:
        """Of a call, or of all nodes of the graph that it launches."""
        f = record.fields()
        if record.op.work is not Work.GRAPH:
            return ranges_of(record.op, f)
        nodes = self._nodes.of(f["graph_exec"])
        if nodes is None:
            return None
        out: set[Range] = set()
        for op, fields in nodes:
            ranges = ranges_of(op, fields)
            if ranges is None:
                return None
            out.update(ranges)
        return tuple(sorted(out))

    def node_writes(self, op: Op, f: dict[str, Any]) -> tuple[Range, ...] | None:
        """What `writes` says, of a node."""
        return self._work(op.work, f)

    def node_reads(self, op: Op, f: dict[str, Any]) -> tuple[Range, ...] | None:
        """What `reads` says, of a node."""
        if op.work is not Work.LAUNCH:
            return named(op, f, 0).reads
        known = self._kernel(f)
        if known is None:
            return None
        kernel, key = known
        if key not in self._loads_of:
            if len(self._loads_of) >= MAX_EXTENTS:
                self._loads_of.clear()
            found = kernel.loads(key[2], key[3])
            variables = self._globals.get(f["module"], {})
            if found is None or not variables.keys() >= set(found.variables):
                self._loads_of[key] = None
            else:
                spans = [*found.spans, *(variables[name] for name in found.variables)]
                self._loads_of[key] = tuple(merged(spans))
        return self._loads_of[key]

    def typed(self, record: CallRecord) -> Typed | None:
        """Which elements a call of work may access, all nodes of a graph together; None: unknown.

        Nothing of it is kept: who asks, asks once for a plan.
        """
        nodes: tuple[Node, ...] | None = ((record.op, record.fields()),)
        if record.op.work is Work.GRAPH:
            nodes = self.nodes(record)
        if nodes is None:
            return None
        found = [self._node_typed(op, f) for op, f in nodes]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return Typed(
            tuple(span for one in known for span in one.reads),
            tuple(span for one in known for span in one.writes),
        )

    def _node_typed(self, op: Op, f: dict[str, Any]) -> Typed | None:
        if op.work is not Work.LAUNCH:
            # What it moves may be anything.
            spans = named(op, f, 0)
            return Typed(
                tuple((*span, UNKNOWN) for span in spans.reads),
                tuple((*span, UNKNOWN) for span in spans.writes),
            )
        known = self._kernel(f)
        if known is None:
            return None
        kernel, key = known
        return kernel.typed(key[2], key[3])

    def _work(self, work: Work, f: dict[str, Any]) -> tuple[Range, ...] | None:
        if work is Work.LAUNCH:
            return self._launch(f)
        if work is Work.COPY:
            return self._inside(f["dst"], f["size"])
        if work is Work.FILL:
            return self._inside(f["dst"], fill_bytes(f))
        return ()

    def _inside(self, start: int, size: int) -> tuple[Range, ...] | None:
        """A range that was named; it must lie in an allocation, else the call fails."""
        if size <= 0:
            return ()
        found = self._memory.find(start)
        if found is None or start + size > found[0] + found[1]:
            return None
        return ((start, start + size),)

    def _launch(self, f: dict[str, Any]) -> tuple[Range, ...] | None:
        known = self._kernel(f)
        if known is None:
            return None
        kernel, key = known
        if key not in self._extents:
            if len(self._extents) >= MAX_EXTENTS:
                self._extents.clear()
            self._extents[key] = kernel.of(key[2], key[3])
        spans = self._extents[key]
        if spans is None or not all(self.holds(start, end - start) for start, end in spans):
            return None
        return tuple(merged(spans))

    def _kernel(self, f: dict[str, Any]) -> tuple[KernelExtents, _Key] | None:
        """A launch's kernel, and what its accesses depend on; None if the kernel is not known."""
        names = self._names.get(f["module"], ())
        if f["kernel"] >= len(names):
            return None
        kernel = self._analysed(f["module"], names[f["kernel"]])
        if kernel is None:
            return None
        grid, block = (tuple(f[f"{what}_{axis}"] for axis in "xyz") for what in ("grid", "block"))
        return kernel, (
            self._loads[f["module"]], f["kernel"], bytes(f["params"]), Geometry(grid, block)
        )  # fmt: skip

    def _analysed(self, module: int, name: str) -> KernelExtents | None:
        """Where a kernel stores; None if that is not known, or not yet."""
        wanted = self._wanted.setdefault(module, set())
        if name not in wanted:
            wanted.add(name)
            self._look_at(module, name)
        return self._kernels.get(module, {}).get(name)

    def _look_at(self, module: int, name: str) -> None:
        image = self._images.pop(module, None)
        if image is not None:
            self._images_bytes -= len(image)
        if self._beside:
            if self._asked is None:
                self._asked = queue.SimpleQueue()
                threading.Thread(target=self._look, name="kernel-writes", daemon=True).start()
            self._asked.put(((module, self._loads[module]), name, image))
            return
        if image is not None:
            self._writers[module] = ModuleWriters(image, self._capability)
        if module in self._writers:
            self._kernels.setdefault(module, {}).update(self._writers[module].found(name))

    def _look(self) -> None:
        assert self._asked is not None
        writers: dict[int, tuple[int, ModuleWriters]] = {}
        while (asked := self._asked.get()) is not None:
            (module, load), name, image = asked
            if image is not None:
                writers[module] = load, ModuleWriters(image, self._capability)
            elif load == _GONE:
                writers.pop(module, None)
            known = writers.get(module)
            found = known[1].found(name) if known is not None and known[0] == load else {}
            if found:
                self._found.put(((module, load), found))

    def _unload(self, module: int) -> None:
        self._names.pop(module, None)
        self._loads.pop(module, None)
        for address, _ in self._globals.pop(module, {}).values():
            self._memory.remove(address)
        self._kernels.pop(module, None)
        self._writers.pop(module, None)
        self._wanted.pop(module, None)
        if self._asked is not None:
            self._asked.put(((module, _GONE), "", None))
        image = self._images.pop(module, None)
        if image is not None:
            self._images_bytes -= len(image)

    def close(self) -> None:
        """Kernels are looked at no more; does not wait for the thread that does."""
        if self._asked is not None:
            self._asked.put(None)

    def statistics(self) -> dict[str, int]:
        """Modules whose kernels were looked at, and kernels of which it is known."""
        kernels = [kernel for known in self._kernels.values() for kernel in known.values()]
        return {
            "analysed_kernels": len(kernels),
            "kernels_known": sum(kernel is not None for kernel in kernels),
        }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """What a node does, in values that outlive the message they came in."""
    return {
        n: bytes(v) if isinstance(v, memoryview) else v
        for n, v in fields.items() if n not in ("graph", "graph_exec", "dependencies")
    }  # fmt: skip
