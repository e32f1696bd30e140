"""Loads modules whose descriptions lie, and asks for all that is said of them.

`shim_hostile_server.py loads COUNT` prints how often each result came.
"""

import collections
import ctypes
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import PTX, call, ok, params, start


def loads():
    start()
    results = collections.Counter()
    value, number, size = ctypes.c_uint64(), ctypes.c_uint32(), ctypes.c_uint64()
    words = (ctypes.c_uint64 * 64)()
    # As long as an argument can be: a server says how long it is.
    arguments = params(*[bytes(32764)] * 4096)
    for _ in range(int(sys.argv[2])):
        module = ctypes.c_uint64()
        result = call("cuModuleLoadData", ctypes.byref(module), PTX)
        results[result] += 1
        if result:
            continue
        call("cuModuleGetFunctionCount", ctypes.byref(number), module)
        call("cuModuleEnumerateFunctions", words, min(number.value, 64), module)
        for name in (b"scale", b"limited", b"", b"x" * 70000):
            call("cuModuleGetGlobal_v2", ctypes.byref(value), ctypes.byref(size), module, name)
            if call("cuModuleGetFunction", ctypes.byref(value), module, name):
                continue
            kernel = value.value
            for attribute in range(18):
                call("cuFuncGetAttribute", ctypes.byref(number), attribute, kernel)
            for place in (0, 1, 31, 65535, (1 << 64) - 1):
                call("cuFuncGetParamInfo", kernel, place, words, ctypes.byref(words, 8))
            call("cuOccupancyMaxActiveBlocksPerMultiprocessor", words, kernel, 64, 0)
            call("cuOccupancyMaxPotentialBlockSize", ctypes.byref(number), words, kernel, 0, 0, 0)
            call("cuOccupancyAvailableDynamicSMemPerBlock", words, kernel, 1, 64)
            results[call("cuLaunchKernel", kernel, 1, 1, 1, 32, 1, 1, 0, 0, arguments, 0)] += 1
        ok("cuModuleUnload", module)
    print(json.dumps({str(key): count for key, count in results.items()}))


{"loads": loads}[sys.argv[1]]()
