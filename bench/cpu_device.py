"""The virtual CUDA device: a tiled matrix product, and two models beside onnxruntime.

python bench/cpu_device.py                         # the product, NanoDet
python bench/cpu_device.py --models FOLDER         # every .onnx file of a folder
python bench/cpu_device.py --smoke --json out.json

A frame is timed in the interposed program, so transport and scheduling are in it. tinygrad's own
CPU backend (it needs clang) runs the same program without a driver, onnxruntime the same model in
the same process. A first frame is mostly tinygrad writing its kernels, on its own backend too.
Targets: 25 GFLOP/s on one core, 1.0 s for a frame of NanoDet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, machine
from stack import Stack

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import RrtoError

PROGRAM = HERE / "onnx_model.py"
NANODET = HERE.parent / "rrto_ros" / "data" / "nanodet_416_fp16.onnx"
TILE, ROWS = 32, 4
GFLOPS_TARGET, FRAME_TARGET_MS = 25.0, 1000.0


def gemm_listing() -> str:
    """PTX of C = A @ B for n x n floats: tiles in shared memory, ROWS results per thread."""
    step = TILE // ROWS
    lines = [
        ".version 7.5",
        ".target sm_75",
        ".address_size 64",
        ".visible .entry gemm(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)",
        "{",
        f".shared .align 16 .b8 As[{TILE * TILE * 4}];",
        f".shared .align 16 .b8 Bs[{TILE * TILE * 4}];",
        ".reg .pred %p; .reg .b32 %r<30>; .reg .f32 %f<10>, %a<400>, %b<40>;",
        ".reg .b64 %rd<12>, %x<9>, %y<9>;",
        "ld.param.u64 %rd1, [pa]; ld.param.u64 %rd2, [pb]; ld.param.u64 %rd3, [pc];",
        "ld.param.u32 %r1, [pn]; mov.u32 %r2, %tid.x; mov.u32 %r3, %tid.y;",
        "mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y;",
        f"mad.lo.s32 %r6, %r5, {TILE}, %r3; mad.lo.s32 %r7, %r4, {TILE}, %r2;",
        "mad.lo.s32 %r8, %r6, %r1, %r2; mul.wide.s32 %rd4, %r8, 4; add.s64 %x0, %rd1, %rd4;",
        "mad.lo.s32 %r9, %r3, %r1, %r7; mul.wide.s32 %rd6, %r9, 4; add.s64 %y0, %rd2, %rd6;",
        f"mul.lo.s32 %r10, %r1, {step}; mul.wide.s32 %rd8, %r10, 4;",
        f"mul.lo.s32 %r11, %r1, {TILE}; mul.wide.s32 %rd9, %r11, 4;",
        "mov.u32 %r12, As; mov.u32 %r13, Bs;",
        f"shl.b32 %r14, %r3, {(4 * TILE).bit_length() - 1}; shl.b32 %r15, %r2, 2;",
        "add.s32 %r16, %r12, %r14; add.s32 %r17, %r16, %r15;",
        "add.s32 %r18, %r13, %r15; add.s32 %r19, %r18, %r14; mov.u32 %r20, 0;",
        *(f"mov.f32 %f{i}, 0f00000000;" for i in range(ROWS)),
        "LOOP:",
    ]
    for i in range(ROWS):
        if i:
            lines.append(f"add.s64 %x{i}, %x{i - 1}, %rd8; add.s64 %y{i}, %y{i - 1}, %rd8;")
        offset = i * step * TILE * 4
        lines.append(f"ld.global.f32 %b0, [%x{i}]; st.shared.f32 [%r17+{offset}], %b0;")
        lines.append(f"ld.global.f32 %b0, [%y{i}]; st.shared.f32 [%r19+{offset}], %b0;")
    lines.append("bar.sync 0;")
    for k in range(TILE):
        lines.append(f"ld.shared.f32 %b{k}, [%r18+{4 * TILE * k}];")
        for i in range(ROWS):
            at, value = 4 * k + i * step * TILE * 4, f"%a{k * ROWS + i}"
            lines.append(f"ld.shared.f32 {value}, [%r16+{at}];")
            lines.append(f"fma.rn.f32 %f{i}, {value}, %b{k}, %f{i};")
    lines += [
        f"bar.sync 0; add.s64 %x0, %x0, {4 * TILE}; add.s64 %y0, %y0, %rd9;",
        f"add.s32 %r20, %r20, {TILE}; setp.lt.s32 %p, %r20, %r1; @%p bra LOOP;",
        "mad.lo.s32 %r21, %r6, %r1, %r7; mul.wide.s32 %rd10, %r21, 4;",
        "add.s64 %rd11, %rd3, %rd10;",
        *(f"st.global.f32 [%rd11], %f{i}; add.s64 %rd11, %rd11, %rd8;" for i in range(ROWS)),
        "ret;",
        "}",
    ]
    return "\n".join(lines)


def gemm(n: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of the listing on one core; the best and the median round."""
    device = CpuDevice(threads=1, cache_bytes=0)
    try:
        device.module_load(1, gemm_listing().encode())
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
        size = -(-a.nbytes // 512) * 512
        places = [device.info.arena_base + i * size for i in range(3)]
        for place in places:
            device.mem_alloc(place, a.nbytes, 0)
        device.memcpy_htod(places[0], a.tobytes(), 0)
        device.memcpy_htod(places[1], b.tobytes(), 0)
        params = b"".join(p.to_bytes(8, "little") for p in places) + n.to_bytes(4, "little")
        launch = Launch(1, 0, (n // TILE, n // TILE, 1), (TILE, TILE // ROWS, 1), 0, params)
        device.launch(launch, 0)
        rates = []
        for _ in range(rounds):
            started = time.perf_counter()
            device.launch(launch, 0)
            rates.append(2 * n**3 / (time.perf_counter() - started) / 1e9)
        got = np.frombuffer(bytes(device.memcpy_dtoh(places[2], a.nbytes, 0)), np.float32)
        error = float(np.abs(got.reshape(n, n) - a @ b).max())
        if error > 1e-3 * n:
            raise SystemExit(f"the product is wrong by {error}")
        return {
            "n": n,
            "gflops": float(np.median(rates)),
            "gflops_best": max(rates),
            "target_gflops": GFLOPS_TARGET,
        }
    finally:
        device.close()


def alone(model: Path, frames: int, backend: str) -> dict[str, Any]:
    """The program on a device of tinygrad's own, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(model), "--frames", str(frames)],
        env={**os.environ, "DEV": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"missing": (done.stderr or done.stdout).strip()[-300:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def model_rows(stack: Stack, model: Path, frames: int) -> dict[str, Any]:
    """One model: interposed on the virtual device, cold and with a warm cache; the others."""
    command = [sys.executable, str(PROGRAM), str(model), "--frames", str(frames)]
    cold, warm = (stack.run(command, 600.0, DEV="CUDA:PTX")[-1] for _ in range(2))
    row: dict[str, Any] = {
        "model": model.name,
        "frame_ms": warm["frame_ms"],
        "first_cold_ms": cold["first_ms"],
        "first_warm_ms": warm["first_ms"],
        "onnxruntime_ms": warm["onnxruntime_ms"],
        "ratio_to_onnxruntime": warm["ratio"],
        "worst_difference": warm["worst"],
    }
    if "nanodet" in model.name:
        row["target_frame_ms"] = FRAME_TARGET_MS
    if shutil.which("clang") is None:
        row["tinygrad_cpu"] = "clang is not installed"
        return row
    own = alone(model, frames, "CPU")
    if "missing" in own:
        row["tinygrad_cpu"] = own["missing"]
        return row
    row["tinygrad_cpu_ms"] = own["frame_ms"]
    row["tinygrad_cpu_first_ms"] = own["first_ms"]
    row["ratio_to_tinygrad_cpu"] = warm["frame_ms"] / own["frame_ms"]
    return row


def show(report: Mapping[str, Any]) -> None:
    product = report["gemm"]
    good = "" if product["gflops"] >= GFLOPS_TARGET else "  missed"
    print(
        f"tiled GEMM, n = {product['n']}, one core: {product['gflops']:.1f} GFLOP/s "
        f"(best {product['gflops_best']:.1f}; target {GFLOPS_TARGET:g}){good}"
    )
    for row in report["models"]:
        print(
            f"{row['model']}: frame {row['frame_ms']:.0f} ms"
            + (f" (target {row['target_frame_ms']:.0f})" if "target_frame_ms" in row else "")
            + f", onnxruntime {row['onnxruntime_ms']:.0f} ms, ratio "
            f"{row['ratio_to_onnxruntime']:.1f}; first frame {row['first_cold_ms'] / 1e3:.1f} s "
            f"cold, {row['first_warm_ms'] / 1e3:.1f} s with a warm cache"
        )
        if "tinygrad_cpu_ms" in row:
            print(
                f"    tinygrad's CPU backend {row['tinygrad_cpu_ms']:.0f} ms, ratio "
                f"{row['ratio_to_tinygrad_cpu']:.2f}; its first frame "
                f"{row['tinygrad_cpu_first_ms'] / 1e3:.1f} s"
            )
        else:
            print(f"    tinygrad's CPU backend: {row['tinygrad_cpu']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the product only, few rounds")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--models", type=Path, help="folder of ONNX files instead of NanoDet")
    options = parser.parse_args()
    report: dict[str, Any] = {"on": machine(), "smoke": options.smoke, "models": []}
    report["gemm"] = gemm(128 if options.smoke else 544, 3 if options.smoke else 15)
    code = 0
    if not options.smoke:
        found = sorted(options.models.glob("*.onnx")) if options.models else [NANODET]
        stack = Stack("cpu", "batched")
        try:
            for model in found:
                report["models"].append(model_rows(stack, model, 10))
        except RrtoError as error:
            print(error, file=sys.stderr)
            code = 1
        finally:
            stack.close()
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
