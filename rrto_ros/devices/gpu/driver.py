"""`cuda.bindings.driver` behind one object: owns its import, its errors and the poisoned state.

Every function of the bindings returns a tuple that begins with a CUresult. Here the rest of it is
returned, and a result that is not CUDA_SUCCESS is raised. After an error that ends a CUDA context
the driver answers everything with that error; the object remembers it and asks no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rrto_ros.api.results import BREAKS_CONTEXT, CUresult
from rrto_ros.errors import CudaError, UnavailableError

OLDEST_DRIVER = 12040
"""cuModuleEnumerateFunctions and cuFuncGetParamInfo came with CUDA 12.4."""
_NEXT = "or use device 'cpu' (real results on the host's cores, slower)"
_NO_RESULT = re.compile(r"(\d+) is not a valid CUresult")


def load() -> Any:
    """The module `cuda.bindings.driver`.

    Raises:
        UnavailableError: cuda-python is not installed, or too old to have it.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise UnavailableError(
            f"device 'gpu' needs the Python package cuda-python, 12.6 or later ({error}): "
            f"pip install 'rrto_ros[gpu]', {_NEXT}"
        ) from None
    return driver


class Driver:
    """The driver API with errors raised.

    Args:
        module: `cuda.bindings.driver`, or what stands in for it.

    Attributes:
        module: That module; its types make handles and structures.
        poisoned: The error that ended the context, None while it is sound.
        calls: How many driver calls were made through `call`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.poisoned: CudaError | None = None
        self.calls = 0

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; return what follows the CUresult: nothing, one value or a tuple.

        Raises:
            CudaError: The driver refused, or the context ended before.
        """
        self.check_sound()
        self.calls += 1
        result = self.call_anyway(name, *arguments)
        if result[0]:
            raise self.error(result[0], name)
        values = result[1:]
        return values[0] if len(values) == 1 else (values or None)

    def call_anyway(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """The whole answer of a function, whatever the context's state: (CUresult number, ...).

        Raises:
            CudaError: NOT_SUPPORTED if this driver does not have the function.
        """
        try:
            result = getattr(self.module, name)(*arguments)
        except (KeyError, ValueError) as error:
            return (unknown_result(error),)
        except (AttributeError, RuntimeError) as error:
            # The bindings look functions up in libcuda when they are first called.
            if isinstance(error, RuntimeError) and "not found" not in str(error).lower():
                raise
            raise CudaError(
                CUresult.NOT_SUPPORTED, f"{name} is not in this driver or cuda-python ({error})"
            ) from None
        return (int(result[0]), *result[1:])

    def ready(self, name: str, handle: Any) -> bool:
        """The answer of a query: False for CUDA_ERROR_NOT_READY.

        Raises:
            CudaError: Any other error.
        """
        self.check_sound()
        code: int = self.call_anyway(name, handle)[0]
        if code in (CUresult.SUCCESS, CUresult.NOT_READY):
            return code == CUresult.SUCCESS
        raise self.error(code, name)

    def function(self, name: str) -> Callable[..., tuple[Any, ...]]:
        """A function itself, for callers that look at its CUresult and at `unknown_result`."""
        function: Callable[..., tuple[Any, ...]] = getattr(self.module, name)
        return function

    def error(self, code: int, what: str) -> CudaError:
        """The exception for a CUresult; notes if the context ended with it."""
        text = self.describe(code)
        try:
            result = CUresult(code)
        except ValueError:
            result = CUresult.UNKNOWN  # a number that programs of today do not know either
        made = CudaError(result, f"{what}: {text}")
        if code in BREAKS_CONTEXT and self.poisoned is None:
            self.poisoned = made
        return made

    def check_sound(self) -> None:
        """Raise the error that ended the context, if one did."""
        if self.poisoned is not None:
            raise CudaError(self.poisoned.result, self.poisoned.detail)

    def describe(self, code: int) -> str:
        """Name and explanation of a CUresult, as the driver has them."""
        try:
            result = self.module.CUresult(code)
            name, said = self.module.cuGetErrorName(result), self.module.cuGetErrorString(result)
        except (ValueError, RuntimeError, TypeError):
            return f"CUresult {code}"
        texts = [answer[1].decode(errors="replace") for answer in (name, said) if answer[1]]
        return " - ".join(texts) or f"CUresult {code}"


def unknown_result(error: KeyError | ValueError) -> int:
    """The CUresult number that a driver gave and these bindings, being older, have no name for.

    Depending on their version they raise a KeyError or a ValueError in its place.

    Raises:
        KeyError, ValueError: It is another error.
    """
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    found = _NO_RESULT.match(str(error))
    if found is None:
        raise error
    return int(found[1])


def check_available(module: Any = None) -> str:
    """Say whether there is a GPU that can be used; return its name.

    Args:
        module: Stand-in for `cuda.bindings.driver`.

    Raises:
        UnavailableError: There is none; the text says what to do.
    """
    driver = Driver(load() if module is None else module)
    try:
        driver.call("cuInit", 0)
        count = int(driver.call("cuDeviceGetCount"))
    except CudaError as error:
        raise UnavailableError(
            f"device 'gpu': the NVIDIA driver finds no GPU that it can use ({error.detail}). See "
            f"that `nvidia-smi` lists one and that CUDA_VISIBLE_DEVICES does not hide it, {_NEXT}"
        ) from None
    except Exception as error:
        # What the bindings raise without libcuda.so.1 differs between their versions.
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(
            f"device 'gpu': the NVIDIA driver (libcuda.so.1) cannot be loaded ({text}). Install "
            f"it so that `nvidia-smi` works, {_NEXT}"
        ) from None
    if count < 1:
        raise UnavailableError(
            "device 'gpu': this machine has no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it; "
            f"see `nvidia-smi`, {_NEXT}"
        )
    version = int(driver.call("cuDriverGetVersion"))
    if version < OLDEST_DRIVER:
        raise UnavailableError(
            f"device 'gpu': the NVIDIA driver is for CUDA {_dotted(version)}, "
            f"{_dotted(OLDEST_DRIVER)} (release 550) or later is needed; update it, {_NEXT}"
        )
    raw: bytes = driver.call("cuDeviceGetName", 256, driver.call("cuDeviceGet", 0))
    return raw.split(b"\0")[0].decode(errors="replace")


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
