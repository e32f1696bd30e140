"""ONNX Runtime: the demonstration's detector by its CUDA provider, compared with its CPU provider.

In a loop with copies from and to NumPy, with results that stay on the device, and as a CUDA graph.
Its kernels are machine code, so that a device without a GPU has no results; then the calls alone
are tried. The arguments choose cases by name.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from agree import Cases, absent

MODEL = Path(__file__).resolve().parents[2] / "rrto_ros" / "data" / "nanodet_416_fp16.onnx"
ROUNDS = 50
LIBRARIES = ("libcudart.so.*", "libcublasLt.so.*", "libcublas.so.*", "libcurand.so.*",
             "libcufft.so.*", "libcudnn.so.*", "libnvrtc.so.*")  # fmt: skip


def load_libraries():
    """What the CUDA provider is linked with, from where pip put it."""
    for pattern in LIBRARIES:
        for folder in map(Path, sys.path):
            for library in sorted(folder.glob(f"nvidia/*/lib/{pattern}")):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


try:
    import numpy as np
    import onnxruntime
except ImportError as error:
    absent(error, "onnxruntime-gpu")
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    absent(ImportError("this ONNX Runtime has no CUDA provider"), "onnxruntime-gpu")


def device_has_results():
    """Whether the device computes, which its name says."""
    cuda, name = ctypes.CDLL("libcuda.so.1"), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGetName(name, 256, 0):
        raise SystemExit("there is no CUDA device")
    return b"no results" not in name.value


def picture(number):
    return np.random.default_rng(number).standard_normal((1, 3, 416, 416)).astype(np.float32)


def session(**options):
    """The model on the device; it fails where the provider does not start."""
    made = onnxruntime.InferenceSession(
        MODEL, providers=[("CUDAExecutionProvider", {"device_id": 0, **options})]
    )
    if made.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("the CUDA provider did not start; it says why on stderr")
    return made


def right(pictures=ROUNDS):
    """What the CPU makes of the last picture."""
    reference = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    return flat(reference.run(None, {"x": picture(pictures - 1)}))


def flat(outputs):
    return np.concatenate([one.ravel() for one in outputs])


def inference():
    """The loop of a robot: a picture there, the results back, again and again."""
    model = session()
    for number in range(ROUNDS):
        outputs = model.run(None, {"x": picture(number)})
    return flat(outputs), right()


def bound(**options):
    """Inputs and outputs that stay where they are on the device."""
    model = session(**options)
    binding = model.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(picture(0), "cuda", 0)
    binding.bind_ortvalue_input("x", x)
    outputs = [
        onnxruntime.OrtValue.ortvalue_from_shape_and_type(one.shape, np.float32, "cuda", 0)
        for one in model.get_outputs()
    ]
    for one, place in zip(model.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(one.name, place)
    for number in range(ROUNDS):
        x.update_inplace(picture(number))
        model.run_with_iobinding(binding)
        found = [one.numpy() for one in outputs]
    return flat(found), right()


CASES = {
    "inference x 50": inference,
    "bound outputs x 50": bound,
    "CUDA graph x 50": lambda: bound(enable_cuda_graph="1"),
}


def main():
    load_libraries()
    cases = Cases("ONNX Runtime", onnxruntime.__version__, "its CPU provider",
                  results=device_has_results())  # fmt: skip
    for name in sys.argv[1:] or CASES:
        cases.check(name, CASES[name], 2e-2)
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
