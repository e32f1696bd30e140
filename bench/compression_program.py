"""The program of `compression`: uploads a camera's frames and reads four bytes after each.

    python bench/compression_program.py KIND [VIDEO]

KIND is what becomes of a frame of 416 x 416 before it is uploaded: `uint8`, `planes` or
`interleaved` (floats, normalised as networks want them). A line "COUNT" on standard input uploads
so many; a JSON line says how long each took.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

from rrto_ros.demo.frame_sources import DEFAULT_PICTURE, PanAndZoom, open_source

SIDE, FRAMES = 416, 60
MEAN, SPREAD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))


def frames(kind: str, path: Path | None) -> Iterator[bytes]:
    """Frames without end, as they are uploaded."""
    source = open_source(str(path)) if path is not None else PanAndZoom(DEFAULT_PICTURE, FRAMES)
    made = []
    for number, frame in enumerate(source.frames()):
        if number == FRAMES:
            break
        picture = cv2.resize(frame, (SIDE, SIDE))
        if kind != "uint8":
            picture = (picture.astype(np.float32) / 255 - MEAN) / SPREAD
        if kind == "planes":
            picture = picture.transpose(2, 0, 1)
        made.append(np.ascontiguousarray(picture).tobytes())
    return cycle(made)


def main() -> None:
    inputs = frames(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        if status := getattr(cuda, name)(*arguments):
            raise SystemExit(f"{name}: CUresult {status}")

    context, memory, out = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.create_string_buffer(4)
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    first = next(inputs)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(len(first)))
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            content = next(inputs)
            started = time.perf_counter()
            call("cuMemcpyHtoD_v2", memory, content, ctypes.c_size_t(len(content)))
            call("cuMemcpyDtoH_v2", out, memory, ctypes.c_size_t(4))
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": seconds, "cpu_s": 0.0}), flush=True)


if __name__ == "__main__":
    main()
