"""Programs that load images: `loading_cases.py NAME IMAGE ...`; they print what they got as JSON.

Between two steps they synchronise, so that a test sees in the calls what each step cost.
"""

import ctypes
import json
import random
import struct
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import LIB, call, launch, ok, out, params, start

IMAGE = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b""
PRESERVED = 1


def mark():
    ok("cuCtxSynchronize")


def tried(name, *arguments):
    """(result, value) of a call that gives one."""
    value = ctypes.c_uint64()
    return call(name, ctypes.byref(value), *arguments), value.value


def load(image=None):
    """Load an image; gives result and handle. The program's copy of it is gone afterwards."""
    buffer = ctypes.create_string_buffer(IMAGE if image is None else image)
    found = tried("cuModuleLoadData", buffer)
    ctypes.memset(buffer, 0xEE, len(buffer))
    return found


def arguments():
    return params(*(struct.pack("<Q", 0), struct.pack("<f", 1.0), struct.pack("<I", 0)))


def is_loaded(function):
    state = ctypes.c_int(-1)
    ok("cuFuncIsLoaded", ctypes.byref(state), function)
    return state.value


def result_only():
    """Only loads."""
    start()
    result, module = load()
    if not result:
        mark()
        ok("cuModuleUnload", module)
    print(json.dumps({"result": result, "mode": out("cuModuleGetLoadingMode", kind=ctypes.c_int)}))


def names():
    """Asks for everything that needs names alone, then for more."""
    start()
    _, module = load()
    mark()
    count = out("cuModuleGetFunctionCount", module, kind=ctypes.c_uint)
    handles = (ctypes.c_uint64 * count)()
    ok("cuModuleEnumerateFunctions", handles, count, module)
    listed = []
    for handle in handles:
        name = ctypes.c_char_p()
        ok("cuFuncGetName", ctypes.byref(name), handle)
        listed.append(name.value.decode())
    by_name = [tried("cuModuleGetFunction", module, name.encode()) for name in listed]
    missing = tried("cuModuleGetFunction", module, b"none such")[0]
    owner = out("cuFuncGetModule", handles[0]) == module
    before = is_loaded(handles[0])
    mark()
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    layouts = []
    for handle in handles:
        layout = []
        both = (ctypes.byref(offset), ctypes.byref(size))
        while not call("cuFuncGetParamInfo", handle, len(layout), *both):
            layout.append([offset.value, size.value])
        layouts.append(layout)
    attributes = [
        [out("cuFuncGetAttribute", a, handle, kind=ctypes.c_int) for a in (0, 1, 4)]
        for handle in handles
    ]
    print(json.dumps({"listed": listed, "found": [[r, h == v] for (r, v), h in
                      zip(by_name, handles, strict=True)], "missing": missing, "owner": owner,
                      "loaded": [before, is_loaded(handles[0])], "layouts": layouts,
                      "attributes": attributes}))  # fmt: skip


def used():
    """Takes one kernel, launches it twice."""
    start()
    result, module = load()
    mark()
    found, function = tried("cuModuleGetFunction", module, sys.argv[3].encode())
    mark()
    launched = [found or launch(function, arguments()) for _ in range(2)]
    mark()
    unloaded = call("cuModuleUnload", module)
    print(json.dumps({"results": [result, found, *launched, unloaded]}))


def variable():
    """Asks where a variable lies."""
    start()
    _, module = load()
    mark()
    where, size = ctypes.c_uint64(), ctypes.c_size_t()
    both = (ctypes.byref(where), ctypes.byref(size))
    missing = call("cuModuleGetGlobal_v2", *both, module, b"none such")
    found = call("cuModuleGetGlobal_v2", *both, module, b"table")
    ok("cuMemsetD8_v2", where.value, 0, size.value)
    print(json.dumps({"results": [missing, found], "size": size.value}))


def threads():
    """Many threads use a kernel at once."""
    context = start()
    _, module = load()
    function = out("cuModuleGetFunction", module, b"k")
    results = []
    together = threading.Barrier(8)

    def use():
        ok("cuCtxSetCurrent", context)
        together.wait()
        results.append(launch(function, arguments()))

    running = [threading.Thread(target=use) for _ in range(8)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    mark()
    print(json.dumps({"results": results}))


def node():
    """A kernel in a graph is the first that is used."""
    start()
    _, module = load()
    function = out("cuModuleGetFunction", module, b"k")
    mark()
    graph = out("cuGraphCreate", 0)
    kept = arguments()
    node_params = struct.pack("<Q7IxxxxQQ", function, 1, 1, 1, 1, 1, 1, 0,
                              ctypes.addressof(kept), 0)  # fmt: skip
    added = tried("cuGraphAddKernelNode", graph, 0, 0, ctypes.create_string_buffer(node_params))
    print(json.dumps({"results": [added[0]]}))


def contexts():
    """A context goes with modules of which one was used; a library's stays."""
    start()
    buffer = ctypes.create_string_buffer(IMAGE)
    options = (ctypes.c_int * 1)(PRESERVED)
    values = (ctypes.c_void_p * 1)(1)
    library = out("cuLibraryLoadData", buffer, 0, 0, 0, options, values, ctypes.c_uint(1))
    kernel = out("cuLibraryGetKernel", library, b"k")
    context = out("cuCtxCreate_v2", 0, 0)
    first, second = load()[1], load()[1]
    function = out("cuModuleGetFunction", second, b"k")
    launched = launch(function, arguments())
    mark()
    ok("cuCtxDestroy_v2", context)
    gone = [tried("cuModuleGetFunction", each, b"k")[0] for each in (first, second)]
    mark()
    again = launch(kernel, arguments())
    ok("cuLibraryUnload", library)
    print(json.dumps({"results": [launched, *gone, again]}))


def libraries():
    """Loads one library after the other from a folder's images and launches a kernel of some."""
    start()
    wanted = {int(word) for word in sys.argv[4:]}
    folder, results = Path(sys.argv[3]), []
    for number, path in enumerate(sorted(folder.iterdir())):
        image = ctypes.create_string_buffer(path.read_bytes())
        library = out("cuLibraryLoadData", image, 0, 0, 0, 0, 0, 0)
        kernel = out("cuLibraryGetKernel", library, b"k")
        if number in wanted:
            results.append(launch(kernel, arguments()))
    mark()
    print(json.dumps({"results": results}))


def tries():
    """Uses a kernel until it cannot be loaded for good, then unloads its module."""
    start()
    _, module = load()
    function = out("cuModuleGetFunction", module, b"k")
    results = [call("cuFuncLoad", function) for _ in range(3)]
    print(json.dumps({"results": [*results, call("cuModuleUnload", module)]}))


def damaged():
    """Loads images with wrong bytes, all but the length, and asks them for their kernels."""
    pick, results = random.Random(5), {}
    start()
    for _ in range(int(sys.argv[3])):
        image = bytearray(IMAGE)
        for _ in range(pick.randint(1, 3)):
            image[pick.randrange(16, len(image))] ^= pick.choice((0xFF, 1, 0x80))
        result, module = load(bytes(image))
        results[result] = results.get(result, 0) + 1
        if not result:
            call("cuModuleGetFunctionCount", ctypes.byref(ctypes.c_uint()), module)
            tried("cuModuleGetFunction", module, b"k")
            ok("cuModuleUnload", module)
    print(json.dumps(results))


def replayed():
    """Inferences that repeat; from the tenth on they use a second module."""
    start()
    functions = [out("cuModuleGetFunction", load()[1], b"k") for _ in range(2)]
    address = out("cuMemAlloc_v2", 4096)
    data = ctypes.create_string_buffer(4096)
    for number in range(40):
        ok("cuMemcpyHtoD_v2", address, bytes([number]) * 4096, 4096)
        for function in functions[: 1 if number < 10 else 2]:
            assert launch(function, arguments()) == 0
        ok("cuMemcpyDtoH_v2", data, address, 4096)
    for library in range(2):
        print(json.dumps({"loaded": is_loaded(functions[library])}))


if __name__ == "__main__":
    assert LIB
    {name: value for name, value in globals().items() if callable(value)}[sys.argv[1]]()
