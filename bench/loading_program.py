"""The program of `loading.py`: loads every image of a folder, uses a kernel of some of them.

    loading_program.py FOLDER NUMBER...

A JSON line says what the start took, from cuInit to the first result; a line on standard input
ends the program. Like a framework, it hands over every image and asks for every kernel by name.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import time
from pathlib import Path


def ok(result: int, name: str) -> None:
    if result:
        raise SystemExit(f"{name} returned {result}")


def main() -> None:
    images = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
    wanted = {int(word) for word in sys.argv[2:]}
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        ok(getattr(cuda, name)(*arguments), name)

    began = time.monotonic()
    call("cuInit", 0)
    session = time.monotonic()
    context, library, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    address = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(4096))
    value = ctypes.create_string_buffer(struct.pack("<Q", address.value))
    given = (ctypes.c_void_p * 1)(ctypes.addressof(value))
    kernels = []
    for image in images:
        call("cuLibraryLoadData", ctypes.byref(library), image, 0, 0, 0, 0, 0, 0)
        call("cuLibraryGetKernel", ctypes.byref(kernel), library, b"k0")
        kernels.append(ctypes.c_void_p(kernel.value))
    loaded = time.monotonic()
    for number in sorted(wanted):
        call("cuLaunchKernel", kernels[number], 1, 1, 1, 32, 1, 1, 0, None, given, None)
    call("cuMemcpyDtoH_v2", ctypes.create_string_buffer(4096), address, ctypes.c_size_t(4096))
    end = time.monotonic()
    print(json.dumps({"session_s": session - began, "loaded_s": loaded - session,
                      "first_result_s": end - session}), flush=True)  # fmt: skip
    sys.stdin.readline()


if __name__ == "__main__":
    main()
