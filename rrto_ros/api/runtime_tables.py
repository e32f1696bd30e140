"""The tables of functions that NVIDIA's CUDA runtime library asks a driver for by a number.

`cuGetExportTable` gives a table of 8-byte words for a UUID. No header declares them; ids, names
and slots are those that public sources name. From here come the shim's tables
(`rrto_ros.shim.emit_tables`) and the list in docs/driver_calls.md. A slot that is not described is
a function that refuses by name; a table that is not described is refused itself.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

Arguments = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Slot:
    """A function of a table.

    Attributes:
        number: Of its word.
        does: Name of what the shim has for it: `rrto_table_<does>` in shim/core/.
        arguments: (C type, name) of each.
        text: What it does, for the docs.
        returns: C type.
        needs: What is checked before, as in `api.table`; only where a CUresult is returned.
    """

    number: int
    does: str
    arguments: Arguments
    text: str
    returns: str = "CUresult"
    needs: str = "init"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        id: UUID, as text.
        name: In public sources.
        words: How many; 0 for one that is known and not served.
        slots: The described ones.
        sized: Whether word 0 is the table's size in bytes, and no function.
    """

    id: str
    name: str
    words: int = 0
    slots: tuple[Slot, ...] = ()
    sized: bool = True

    @property
    def id_bytes(self) -> bytes:
        """The 16 bytes that a program hands over."""
        return uuid.UUID(self.id).bytes

    def functions(self) -> range:
        """Numbers of the words that are functions."""
        return range(int(self.sized), self.words)


_BUFFER: Arguments = (("void**", "buffer"), ("size_t*", "count"))
_IN_CONTEXT: Arguments = (("CUcontext", "ctx"), ("void*", "key"))

TABLES: tuple[Table, ...] = (
    Table("6bd5fb6c-5bf4-e74a-8987-d93912fd9df9", "CUDART_INTERFACE", 13, (
        Slot(1, "load_module", (("CUmodule*", "module"), ("const void*", "image")),
             "loads a module", needs="operator"),
        Slot(2, "primary_context", (("CUcontext*", "pctx"), ("CUdevice", "dev")),
             "handle of the primary context, which is neither retained nor made current"),
        Slot(6, "load_module_with",
             (("CUmodule*", "module"), ("const void*", "image"), ("void*", "more"),
              ("void*", "most"), ("unsigned int", "flags")),
             "loads a module; with further arguments it is refused", needs="operator"),
        Slot(7, "nothing", (), "nothing", returns="void"),
        Slot(8, "load_image_with",
             (("const void*", "image"), ("CUmodule*", "module"), ("void*", "more"),
              ("void*", "most"), ("unsigned int", "flags")),
             "as slot 6", needs="operator"),
        Slot(12, "load_compilers", (),
             "nothing: the compilers of PTX are where the device is", needs="none"),
    )),
    Table("a094798c-2e74-2e74-93f2-0800200c0a66", "TOOLS_RUNTIME_CALLBACK_HOOKS", 7, (
        Slot(1, "nothing", (), "nothing", returns="void"),
        Slot(2, "hooks", _BUFFER, "1024 entries, all zero: no tool listens", "void"),
        Slot(4, "nothing", (), "nothing", returns="void"),
        Slot(6, "more_hooks", _BUFFER, "14 entries, all zero", "void"),
    )),
    Table("42d85a81-23f6-cb47-8298-f6e78a3aecdc", "TOOLS_TLS", 4, (
        Slot(2, "current_context", (("CUcontext*", "pctx"),), "as cuCtxGetCurrent"),
    )),
    Table("c693336e-1121-df11-a8c3-68f355d89593", "CONTEXT_LOCAL_STORAGE", 4, (
        Slot(0, "storage_put",
             (*_IN_CONTEXT, ("void*", "value"), ("rrto_storage_end", "end")),
             "keeps a value under a key of a context (NULL, -1: the current one); `end` is called "
             "when the context ends"),
        Slot(1, "storage_delete", _IN_CONTEXT, "forgets it; `end` is not called"),
        Slot(2, "storage_get", (("void**", "value"), *_IN_CONTEXT),
             "the value; CUDA_ERROR_INVALID_HANDLE if there is none"),
    ), sized=False),
    Table("263e8860-7cd2-6143-92f6-bbd5006dfa7e", "CONTEXT_CHECKS", 4, (
        Slot(2, "context_check",
             (("CUcontext", "ctx"), ("unsigned int*", "flags"), ("const void**", "more")),
             "flags 0: there is nothing to tell"),
        Slot(3, "check_flags", (), "0", returns="unsigned int"),
    )),
    Table("d4082055-bde6-704b-8d34-ba123c66e1f2", "INTEGRITY_CHECK", 3, (
        Slot(1, "validity",
             (("unsigned int", "version"), ("unsigned long long", "seconds"),
              ("unsigned long long*", "answer")),
             "whether this is a driver that the runtime takes; answered where the user asked for "
             "it (docs/cuda_runtime.md), else refused", needs="none"),
    )),
    Table("21318c60-9714-3248-8ca6-41ff7324c8f2", "TOOLS_CONTEXT", 95, (
        Slot(4, "context_id", (("CUcontext", "ctx"), ("unsigned long long*", "ctxId")),
             "as cuCtxGetId"),
        Slot(39, "stream_id",
             (("CUcontext", "ctx"), ("CUstream", "stream"), ("unsigned long long*", "streamId")),
             "as cuStreamGetId, of what slot 51 gave"),
        Slot(51, "stream_meant",
             (("CUcontext", "ctx"), ("CUstream", "stream"), ("CUstream*", "pstream"),
              ("int", "per_thread")),
             "the stream that a handle means: NULL is CU_STREAM_PER_THREAD if `per_thread`, else "
             "CU_STREAM_LEGACY"),
    )),
    Table("195bcbf4-d67d-024a-acc5-1d29cea631ae", "HEAP_ACCESS"),
    Table("b10541e1-f7c7-c74a-9f64-f223be99f1e2", "DEVICE_EXTENDED_RT"),
    Table("0ca50b8c-1004-929a-89a7-d0df10e77286", "CTX_CREATE_BYPASS"),
)  # fmt: skip

VALIDITY_VARIABLE = "RRTO_CUDA_RUNTIME"
"""In a program's environment. 1: the validity check is answered; 0: not; else as the recorder."""
VALIDITY_REFUSED = "CUDA runtime: validity check of the driver"
"""How the report names the check where it was not answered."""
VALIDITY_KEY = bytes.fromhex("146addae53a9a752aa0841360bf55a9f")
"""The answer is a message digest (HMAC with MD2) under this key, as public sources have it."""
VALIDITY_FIXED = {
    0: (0x3341181C03CB675C, 0x8ED383AA1F4CD1E8),
    1: (0x1841181C03CB675C, 0x8ED383AA1F4CD1E8),
}
"""Versions of the check, by their last digit, whose answer is always the same."""
