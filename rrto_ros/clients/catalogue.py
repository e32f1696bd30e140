"""The CUDA programs and libraries that are known by name: owns the table of facts about them.

What can be seen in an installation (versions, architectures, the CUDA runtime) is not here but
looked at: `clients.libraries`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rrto_ros.api.runtime_tables import VALIDITY_VARIABLE

RUNTIME_VARIABLE = VALIDITY_VARIABLE
RUNTIME_OPTION = "--cuda-runtime"
"""What lets a program on the CUDA runtime start, in the environment and of `rrto run`."""


class Kernels(Enum):
    """Where a program's kernels come from, which decides whether a device of PTX can run them."""

    MADE = "compiled while it runs, to PTX"
    INSIDE = "inside its libraries"
    OWN = "what the program brings"


@dataclass(frozen=True)
class Client:
    """A CUDA program or library that users install.

    Attributes:
        name: As people call it.
        distributions: Names of packages, normalised, any of which has it. One that ends with `*`
            stands for all that begin so.
        module: The folder that it is imported from, looked into where a package lists no files.
        kernels: Where its kernels come from.
        runtime: Whether it computes by the CUDA runtime.
        needs: Packages without which it cannot compute: what for, any of these (as above).
        files: Any of these must be there, with or without a GPU, or the program takes none.
        spoilers: Packages with an assembler that it prefers to the one that keeps the PTX.
        cpu: What to set so that it makes PTX, for a device that executes PTX; variable -> value.
        cpu_note: What else holds on such a device.
        builds: There are builds without CUDA, which have no CUDA in their libraries.
    """

    name: str
    distributions: tuple[str, ...]
    module: str
    kernels: Kernels
    runtime: bool
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    files: tuple[str, ...] = ()
    spoilers: tuple[str, ...] = ()
    cpu: tuple[tuple[str, str], ...] = ()
    cpu_note: str = ""
    builds: bool = False


_NVRTC = ("NVRTC, its compiler", ("nvidia-cuda-nvrtc*", "nvidia-cuda-nvcc*"))

_XLA = " ".join(
    f"--xla_gpu_{flag}"
    for flag in (
        "enable_libnvptxcompiler=false",
        "enable_libnvjitlink=false",
        "autotune_level=0",
        "enable_command_buffer=",
        "enable_cublaslt=false",
        "cublas_fallback=false",
        "triton_gemm_any=true",
    )
)
"""The assembler on the PATH, which keeps the PTX; products by its own kernels, not cuBLAS's."""

CLIENTS = (
    Client(
        "cuda-python",
        ("cuda-bindings", "cuda-python"),
        "cuda/bindings",
        Kernels.OWN,
        runtime=False,
        cpu_note="cuda.bindings.runtime is the CUDA runtime and needs its switch",
    ),
    Client(
        "cuda.core",
        ("cuda-core",),
        "cuda/core",
        Kernels.OWN,
        runtime=False,
        needs=(("its bindings", ("cuda-bindings",)),),
    ),
    Client(
        "numba-cuda",
        ("numba-cuda",),
        "numba_cuda",
        Kernels.MADE,
        runtime=False,
        needs=(("NVVM, its compiler", ("nvidia-nvvm*", "nvidia-cuda-nvcc*")),),
    ),
    Client("tinygrad", ("tinygrad",), "tinygrad", Kernels.MADE, runtime=False,
           cpu=(("DEV", "CUDA:PTX"),)),
    Client(
        "Triton",
        ("triton", "pytorch-triton", "triton-nightly"),
        "triton",
        Kernels.MADE,
        runtime=False,
        cpu_note="its ptxas is replaced by one that keeps the PTX",
    ),
    Client(
        "Warp",
        ("warp-lang",),
        "warp",
        Kernels.MADE,
        runtime=True,
        cpu_note="its own library holds PTX; its kernels are made by NVRTC inside it",
    ),
    Client(
        "CuPy",
        ("cupy", "cupy-cuda*"),
        "cupy",
        Kernels.MADE,
        runtime=True,
        needs=(_NVRTC,),
        cpu=(("CUPY_COMPILE_WITH_PTX", "1"), ("CUPY_ACCELERATORS", "")),
        cpu_note="what it calls of cuBLAS, cuFFT and the like is those libraries' machine code",
    ),
    Client(
        "JAX",
        ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-cuda12-pjrt", "jax-cuda13-pjrt"),
        "jax_plugins",
        Kernels.MADE,
        runtime=True,
        needs=(("JAX itself", ("jaxlib",)), ("cuDNN, which XLA starts", ("nvidia-cudnn*",))),
        files=("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"),
        spoilers=("nvidia-cuda-nvcc*",),
        cpu=(("XLA_FLAGS", _XLA), ("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")),
        cpu_note="convolutions are cuDNN's machine code, and end the process",
    ),
    Client(
        "TensorFlow",
        ("tensorflow", "tf-nightly", "tensorflow-gpu"),
        "tensorflow",
        Kernels.INSIDE,
        runtime=True,
        cpu=(("XLA_FLAGS", _XLA),),
        cpu_note="convolutions are cuDNN's machine code, and end the process; products are "
        "cuBLAS's, unless XLA compiles them (jit_compile=True)",
        builds=True,
    ),
    Client("PyTorch", ("torch",), "torch", Kernels.INSIDE, runtime=True, builds=True),
    Client("ONNX Runtime GPU", ("onnxruntime-gpu", "ort-nightly-gpu"), "onnxruntime",
           Kernels.INSIDE, runtime=True),
    Client("OpenCV with CUDA", ("opencv-*",), "cv2", Kernels.INSIDE, runtime=True, builds=True),
)  # fmt: skip
"""In the order in which they are listed."""

LIBRARIES = ("nvidia-*",)
"""Packages of NVIDIA's own libraries (cuBLAS, cuDNN, NVRTC, ...), which programs load."""


def normalised(name: str) -> str:
    """A package's name as package indexes compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a normalised package name is one of those meant."""
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
    )
