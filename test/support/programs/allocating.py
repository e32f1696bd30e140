"""Allocates half of its device memory, and after a line of its input a quarter and a half.

    allocating.py MEBIBYTES

Prints "fits" for the quarter, and "does not" if the half is answered with OUT_OF_MEMORY.
"""

import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from support import cuda_ctypes as cuda

MIB = 1 << 20
OUT_OF_MEMORY = 2


def main():
    limit = int(sys.argv[1])
    cuda.start()
    address = cuda.out("cuMemAlloc_v2", limit // 2 * MIB)
    cuda.ok("cuMemsetD8_v2", address, 6, limit // 2 * MIB)
    assert cuda.read(address, 1) == bytes([6])
    sys.stdin.readline()
    address = cuda.out("cuMemAlloc_v2", limit // 4 * MIB)
    cuda.ok("cuMemsetD8_v2", address, 7, limit // 4 * MIB)
    assert cuda.read(address, 1) == bytes([7])
    print("fits")
    result = cuda.call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), limit // 2 * MIB)
    print("does not" if result == OUT_OF_MEMORY else result)


if __name__ == "__main__":
    main()
