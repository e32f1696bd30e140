"""Programs that use the tables of the CUDA runtime library: `runtime_tables.py NAME` runs one."""

import ctypes
import json
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import PTX, call, function, ok, out, start, wants

from rrto_ros.api.runtime_tables import TABLES

NAMED = {table.name: table for table in TABLES}
CURRENT = 2**64 - 1
END = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
INVALID_VALUE, INVALID_CONTEXT, INVALID_HANDLE, NOT_SUPPORTED = 1, 201, 400, 801
VALIDITY_NOT_ESTABLISHED = 103


def words(name):
    """The words of a table, as numbers."""
    table = NAMED[name]
    found = ctypes.c_void_p()
    ok("cuGetExportTable", ctypes.byref(found), table.id_bytes)
    return (ctypes.c_uint64 * table.words).from_address(found.value)


def slot(name, number, returns=ctypes.c_int):
    """A function of a table; integers go as 64-bit words."""
    made = ctypes.CFUNCTYPE(returns)(words(name)[number])

    def run(*arguments):
        return made(*(ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments))

    return run


def served():
    """Every word: the size, what is described, and refusals by name for the rest."""
    refused = {}
    start()
    for table in TABLES:
        if not table.words:
            continue
        found = words(table.name)
        if table.sized:
            wants(found[0], 8 * table.words, f"size of {table.name}")
        wants(len({found[n] for n in table.functions()}), len(table.functions()), "functions")
        for number in set(table.functions()) - {s.number for s in table.slots}:
            wants(slot(table.name, number)(), NOT_SUPPORTED, f"{table.name} {number}")
            refused[f"table {table.name} slot {number}"] = 1
    print(json.dumps(refused))


def plain():
    """The slots that need no more than a context."""
    primary, value, number = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64(7)
    get = slot("CUDART_INTERFACE", 2)
    wants(get(ctypes.byref(primary), 0), 3, "before cuInit")
    own = start()
    wants(get(ctypes.byref(primary), 0), 0, "the primary context")
    wants(get(ctypes.byref(primary), 1), 101, "of a device that there is not")
    wants(get(None, 0), INVALID_VALUE, "to nowhere")
    ok("cuDevicePrimaryCtxGetState", 0, ctypes.byref(number), ctypes.byref(value))
    wants(value.value & 0xFFFFFFFF, 0, "active: it is not retained")
    wants(get(ctypes.byref(primary), 0), 0, "the primary context")
    wants(out("cuDevicePrimaryCtxRetain", 0), primary.value, "the one that is retained")
    wants(slot("TOOLS_TLS", 2)(ctypes.byref(value)), 0, "current context")
    wants(value.value, own, "it")
    ids = ctypes.c_uint64(), ctypes.c_uint64()
    for context in (own, primary.value, 0):
        wants(slot("TOOLS_CONTEXT", 4)(context, ctypes.byref(ids[0])), 0, "context's id")
        ok("cuCtxGetId", context, ctypes.byref(ids[1]))
        wants(ids[0].value, ids[1].value, "as cuCtxGetId")
    meant, id_of = slot("TOOLS_CONTEXT", 51), slot("TOOLS_CONTEXT", 39)
    stream = out("cuStreamCreate", 0)
    for given, per_thread, wanted in ((0, 0, 1), (0, 1, 2), (1, 1, 1), (2, 0, 2),
                                      (stream, 0, stream)):  # fmt: skip
        wants(meant(own, ctypes.c_uint64(given), ctypes.byref(value), per_thread), 0, "a stream")
        wants(value.value, wanted, "the one that is meant")
        wants(id_of(own, value, ctypes.byref(ids[0])), 0, "stream's id")
        ok("cuStreamGetId", value, ctypes.byref(ids[1]))
        wants(ids[0].value, ids[1].value, "as cuStreamGetId")
    bad = ctypes.c_uint64(stream + 16)
    wants(meant(own, bad, ctypes.byref(value), 0), INVALID_HANDLE, "no stream")
    wants(id_of(own, bad, ctypes.byref(ids[0])), INVALID_HANDLE, "no stream's id")
    wants(meant(own, bad, None, 0), INVALID_VALUE, "to nowhere")
    wants(id_of(own, None, ctypes.byref(ids[0])), INVALID_VALUE, "no private stream")
    wants(meant(bad, stream, ctypes.byref(value), 0), INVALID_CONTEXT, "no context")
    flags = ctypes.c_uint32(9)
    wants(slot("CONTEXT_CHECKS", 2)(own, ctypes.byref(flags), None), 0, "context check")
    wants(flags.value, 0, "its flags")
    wants(slot("CONTEXT_CHECKS", 3, ctypes.c_uint)(), 0, "check")
    for number, entries in ((2, 1024), (6, 14)):
        size = ctypes.c_size_t()
        slot("TOOLS_RUNTIME_CALLBACK_HOOKS", number, None)(ctypes.byref(value), ctypes.byref(size))
        wants(size.value, entries, "entries")
        place = (ctypes.c_uint64 * entries).from_address(value.value)
        wants(bytes(place), bytes(8 * entries), "the buffer")
        place[entries - 1] = 5
    wants(slot("CUDART_INTERFACE", 12)(), 0, "compilers")
    for name, nothing in (("TOOLS_RUNTIME_CALLBACK_HOOKS", (1, 4)), ("CUDART_INTERFACE", (7,))):
        for each in nothing:
            slot(name, each, None)()


def modules():
    """The three ways to load a module, which all end where cuModuleLoadData does."""
    start()
    module = ctypes.c_uint64()
    wants(slot("CUDART_INTERFACE", 1)(ctypes.byref(module), PTX), 0, "slot 1")
    function(module.value)
    wants(slot("CUDART_INTERFACE", 6)(ctypes.byref(module), PTX, None, None, 0), 0, "slot 6")
    function(module.value)
    wants(slot("CUDART_INTERFACE", 8)(PTX, ctypes.byref(module), None, None, 0), 0, "slot 8")
    function(module.value)
    option = ctypes.c_uint64()
    wants(slot("CUDART_INTERFACE", 6)(ctypes.byref(module), PTX, ctypes.byref(option), None, 0),
          NOT_SUPPORTED, "options")  # fmt: skip
    wants(slot("CUDART_INTERFACE", 8)(PTX, ctypes.byref(module), None, None, 1),
          NOT_SUPPORTED, "flags")  # fmt: skip
    wants(slot("CUDART_INTERFACE", 1)(None, PTX), INVALID_VALUE, "to nowhere")


class Storage:
    """Context-local storage."""

    def __init__(self):
        self._put, self._delete, self._get = (slot("CONTEXT_LOCAL_STORAGE", n) for n in range(3))

    def put(self, context, key, value, end=None):
        return self._put(context, key, value, end)

    def delete(self, context, key):
        return self._delete(context, key)

    def get(self, context, key):
        """The value, or the error."""
        value = ctypes.c_uint64()
        result = self._get(ctypes.byref(value), context, key)
        return ("error", result) if result else value.value


def storage():
    """Keys of contexts: kept apart, replaced, deleted, and many of them."""
    kept = Storage()
    wants(kept.put(0, 8, 1), 3, "before cuInit")
    start()
    ok("cuCtxPopCurrent_v2", None)
    wants(kept.put(0, 8, 1), INVALID_CONTEXT, "no context is current")
    wants(kept.get(CURRENT, 8), ("error", INVALID_CONTEXT), "no context is current")
    first, second = out("cuCtxCreate_v2", 0, 0), out("cuCtxCreate_v2", 0, 0)
    wants(kept.get(first, 8), ("error", INVALID_HANDLE), "a miss")
    wants(kept.delete(first, 8), INVALID_HANDLE, "nothing to delete")
    wants(kept.put(12345, 8, 1), INVALID_CONTEXT, "no context")
    wants(kept.put(first, 8, 1), 0, "put")
    wants(kept.put(second, 8, 2), 0, "put")
    wants((kept.get(first, 8), kept.get(second, 8)), (1, 2), "of each its own")
    wants((kept.get(0, 8), kept.get(CURRENT, 8)), (2, 2), "of the current one")
    wants(kept.put(0, 8, 3), 0, "put again")
    wants((kept.get(first, 8), kept.get(second, 8)), (1, 3), "replaced")
    wants(kept.put(CURRENT, 0, 4), 0, "the key 0 is one like others")
    wants(kept.get(second, 0), 4, "its value")
    wants(kept.delete(0, 8), 0, "delete")
    wants(kept.get(second, 8), ("error", INVALID_HANDLE), "deleted")
    keys = [n * 64 for n in range(1, 3000)]
    for key in keys:
        wants(kept.put(first, key, key + 1), 0, "many")
    gone = set(keys[::3])
    for key in gone:
        wants(kept.delete(first, key), 0, "some go")
    for key in keys:
        wanted = ("error", INVALID_HANDLE) if key in gone else key + 1
        wants(kept.get(first, key), wanted, f"key {key}")


def ends():
    """What is kept is given back once when its context ends, however that ends."""
    kept, told = Storage(), []

    @END
    def end(context, key, value):
        told.append((context, key, value))
        # Outside of the lock: an end may look, delete what would be given back, and put.
        if key == 16:
            wants(kept.get(context, 16), ("error", INVALID_HANDLE), "it is out already")
            wants(kept.delete(context, 24), 0, "another is not given back any more")
            wants(kept.put(context, 32, 5, end), 0, "put while it ends")
            ok("cuMemFree_v2", memory)

    ok("cuInit", 0)
    context = out("cuCtxCreate_v2", 0, 0)
    memory = out("cuMemAlloc_v2", 64)
    wants(kept.put(context, 16, 2, end), 0, "put")
    wants(kept.put(context, 24, 3), 0, "without an end")
    wants(kept.put(context, 40, 4, end), 0, "put")
    wants(kept.put(context, 40, 6, end), 0, "replaced: the old value's end is not called")
    wants(kept.put(context, 48, 7, end), 0, "put")
    wants(kept.delete(context, 48), 0, "deleted: its end is not called")
    ok("cuCtxDestroy_v2", context)
    wants(sorted(told), [(context, 16, 2), (context, 32, 5), (context, 40, 6)], "ends")
    told.clear()
    again = out("cuCtxCreate_v2", 0, 0)
    wants(kept.get(again, 16), ("error", INVALID_HANDLE), "a new one starts empty")
    wants(kept.get(context, 16), ("error", INVALID_CONTEXT), "the old one is gone")
    primary = out("cuDevicePrimaryCtxRetain", 0)
    for finish in ("cuDevicePrimaryCtxReset_v2", "cuDevicePrimaryCtxRelease_v2"):
        wants(kept.put(primary, 56, 1, end), 0, "put")
        ok(finish, 0)
        wants(told, [(primary, 56, 1)], finish)
        told.clear()
        wants(kept.get(primary, 56), ("error", INVALID_HANDLE), "it is gone")
        out("cuDevicePrimaryCtxRetain", 0)


def endless():
    """An end that puts itself again does not hold the program for ever."""
    kept, calls = Storage(), []

    @END
    def end(context, key, value):
        calls.append(key)
        kept.put(context, key + 8, value, end)

    ok("cuInit", 0)
    context = out("cuCtxCreate_v2", 0, 0)
    kept.put(context, 8, 1, end)
    ok("cuCtxDestroy_v2", context)
    wants(1000 < len(calls) < 2000, True, f"{len(calls)} ends")


def threads():
    """Threads use the storage of one context at once, each with its keys."""
    context, kept, wrong = start(), Storage(), []

    def work(number):
        for turn in range(300):
            key = (turn * 8 + number) * 16
            wrong.append(kept.put(context, key, key + turn))
            wrong.append(kept.get(context, key) != key + turn)
            if turn % 2:
                wrong.append(kept.delete(context, key))

    running = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    wants(set(map(int, wrong)), {0}, "what went wrong")


def refused_check():
    """The validity check without the user's consent: refused, the answer's place left alone."""
    answer = (ctypes.c_uint64 * 2)(1, 2)
    check = slot("INTEGRITY_CHECK", 1)
    wants(call("cuInit", 0), 0, "cuInit")
    for _ in range(2):
        wants(check(13002, 1, answer), VALIDITY_NOT_ESTABLISHED, "the check")
    wants(check(13002, 1, None), INVALID_VALUE, "to nowhere")
    wants(list(answer), [1, 2], "the answer")


def check():
    """The validity check's answers, with what they are over."""
    check = slot("INTEGRITY_CHECK", 1)
    ok("cuInit", 0)
    answers = {}
    for version, seconds in ((13002, 5), (13002, 6), (13003, 5), (12080, 5), (12081, 5)):
        answer = (ctypes.c_uint64 * 2)()
        wants(check(version, seconds, answer), 0, "the check")
        answers[f"{version} {seconds}"] = bytes(answer).hex()
    driver = ctypes.c_int()
    ok("cuDriverGetVersion", ctypes.byref(driver))
    uuid = ctypes.create_string_buffer(16)
    ok("cuDeviceGetUuid_v2", uuid, 0)
    pci = []
    for attribute in (50, 33, 34):
        value = ctypes.c_int()
        ok("cuDeviceGetAttribute", ctypes.byref(value), attribute, 0)
        pci.append(value.value)
    print(json.dumps({
        "answers": answers, "driver": driver.value, "uuid": uuid.raw.hex(), "pci": pci,
        "process": os.getpid(), "thread": threading.get_ident() & 0xFFFFFFFF,
        "tables": [ctypes.addressof(words(n)) for n in ("CUDART_INTERFACE", "INTEGRITY_CHECK")],
        "function": words("INTEGRITY_CHECK")[1],
    }))  # fmt: skip


if __name__ == "__main__":
    globals()[sys.argv[1]]()
