"""The session's modules: loading as sent; what the robot learns of kernels and variables."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass, field
from typing import Any

from rrto_ros.api.info import GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu import symbols
from rrto_ros.devices.gpu.allocations import Allocations, merged
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.images import is_binary
from rrto_ros.devices.linked import PTX, LinkInput, link_inputs
from rrto_ros.errors import CudaError, PtxError

_LOG_BYTES = 8192
_MOST_PARAMETERS = 4096
_LAST_ATTRIBUTE = 15
_COMPILER_SAYS = frozenset(
    {
        CUresult.INVALID_PTX,
        CUresult.UNSUPPORTED_PTX_VERSION,
        CUresult.INVALID_IMAGE,
        CUresult.INVALID_SOURCE,
        CUresult.NO_BINARY_FOR_GPU,
    }
)


@dataclass
class LoadedModule:
    """One module of the session.

    Attributes:
        handle: CUmodule.
        functions: CUfunction of each kernel.
        kernels: What the robot knows of each kernel.
        variables: First addresses of its variables.
        changes: Counts changes of function attributes.
    """

    handle: Any
    functions: list[Any]
    kernels: tuple[KernelInfo, ...]
    variables: list[int] = field(default_factory=list)
    changes: int = 0


class Modules:
    """Modules by the robot's name.

    Args:
        driver: With a current context.
        allocations: Learns where variables lie.
    """

    def __init__(self, driver: Driver, allocations: Allocations) -> None:
        self._driver = driver
        self._allocations = allocations
        self._modules: dict[int, LoadedModule] = {}
        self._attributes = [
            attribute
            for attribute in driver.module.CUfunction_attribute
            if 0 <= int(attribute) <= _LAST_ATTRIBUTE
        ]

    def __len__(self) -> int:
        return len(self._modules)

    def get(self, name: int) -> LoadedModule:
        """The module (INVALID_HANDLE if there is none)."""
        found = self._modules.get(name)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"module {name} is unknown")
        return found

    def kernel(self, name: int, kernel: int) -> tuple[LoadedModule, Any, KernelInfo]:
        """Module, CUfunction and description of a kernel (INVALID_HANDLE if there is none)."""
        found = self.get(name)
        if not 0 <= kernel < len(found.functions):
            raise CudaError(CUresult.INVALID_HANDLE, f"module {name} has no kernel {kernel}")
        return found, found.functions[kernel], found.kernels[kernel]

    def load(self, name: int, image: bytes) -> ModuleInfo:
        """Load PTX text, a cubin or a fatbin.

        Raises:
            PtxError: The driver refused the image; the text holds its compiler's words.
            CudaError: Another error of the driver.
        """
        if name in self._modules:
            raise CudaError(CUresult.INVALID_HANDLE, f"module {name} exists already")
        handle = self._load_image(image)
        try:
            loaded = self._describe(handle, image)
            variables = self._variables(handle, image)
            # Machine code may have several names for one place.
            for start, size in merged((v.address, v.bytes) for v in variables):
                self._allocations.add_fixed(start, size)
                loaded.variables.append(start)
        except CudaError:
            self._driver.call_anyway("cuModuleUnload", handle)
            raise
        self._modules[name] = loaded
        return ModuleInfo(loaded.kernels, tuple(variables))

    def unload(self, name: int) -> None:
        """Unload a module, none of whose kernels may be running."""
        loaded = self.get(name)
        for address in loaded.variables:
            self._allocations.remove_fixed(address)
        del self._modules[name]
        self._driver.call("cuModuleUnload", loaded.handle)

    def set_attribute(self, name: int, kernel: int, attribute: int, value: int) -> None:
        """Set what may be set of a kernel (dynamic shared bytes, carve-out)."""
        loaded, function, _ = self.kernel(name, kernel)
        kinds = self._driver.module.CUfunction_attribute
        try:
            wanted = kinds(attribute)
        except ValueError:
            raise CudaError(
                CUresult.INVALID_VALUE, f"function attribute {attribute} is unknown"
            ) from None
        self._driver.call("cuFuncSetAttribute", function, wanted, value)
        loaded.changes += 1

    def close(self) -> None:
        for loaded in self._modules.values():
            self._driver.call_anyway("cuModuleUnload", loaded.handle)
        self._modules.clear()

    def _load_image(self, image: bytes) -> Any:
        inputs = link_inputs(image)
        if inputs is not None:
            return self._load_linked(inputs)
        data = image if is_binary(image) else image.rstrip(b"\0") + b"\0"
        log = bytearray(_LOG_BYTES)
        options = self._driver.module.CUjit_option
        try:
            return self._driver.call(
                "cuModuleLoadDataEx", data, 2,
                [options.CU_JIT_ERROR_LOG_BUFFER, options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES],
                [log, _LOG_BYTES],
            )  # fmt: skip
        except CudaError as error:
            if error.result not in _COMPILER_SAYS:
                raise
            raise _said(error, log) from None

    def _load_linked(self, inputs: tuple[LinkInput, ...]) -> Any:
        """Link with the driver's linker, and load what it makes."""
        call = self._driver.call
        log = bytearray(_LOG_BYTES)
        options = self._driver.module.CUjit_option
        kinds = self._driver.module.CUjitInputType
        state = call(
            "cuLinkCreate", 2,
            [options.CU_JIT_ERROR_LOG_BUFFER, options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES],
            [log, _LOG_BYTES],
        )  # fmt: skip
        try:
            for one in inputs:
                data = one.data + b"\0" if one.kind == PTX else one.data
                call(
                    "cuLinkAddData",
                    state,
                    kinds(one.kind),
                    data,
                    len(data),
                    one.name.encode(),
                    0,
                    [],
                    [],
                )
            # Symbols that are missing make it answer UNKNOWN, which ends no context here.
            code, *linked = self._driver.call_anyway("cuLinkComplete", state)
            if code == CUresult.UNKNOWN:
                raise CudaError(CUresult.INVALID_SOURCE, "cuLinkComplete")
            if code:
                raise self._driver.error(code, "cuLinkComplete")
            cubin = ctypes.string_at(int(linked[0]), int(linked[1]))
            return call("cuModuleLoadDataEx", cubin, 0, [], [])
        except CudaError as error:
            if error.result not in _COMPILER_SAYS:
                raise
            raise _said(error, log) from None
        except ValueError as error:  # a kind of input that cuda-python does not know
            raise CudaError(CUresult.INVALID_IMAGE, f"the linked image: {error}") from None
        finally:
            self._driver.call_anyway("cuLinkDestroy", state)

    def _describe(self, handle: Any, image: bytes) -> LoadedModule:
        """The module's kernels: in the order of the PTX text, further ones by name."""
        call = self._driver.call
        count = int(call("cuModuleGetFunctionCount", handle))
        listed = list(call("cuModuleEnumerateFunctions", count, handle) or ()) if count else []
        by_name = {
            bytes(call("cuFuncGetName", function)).decode("utf-8", "replace"): function
            for function in listed
        }
        order = [name for name in symbols.kernel_order(image) if name in by_name]
        order += sorted(by_name.keys() - set(order))
        return LoadedModule(
            handle,
            [by_name[name] for name in order],
            tuple(self._kernel(name, by_name[name]) for name in order),
        )

    def _kernel(self, name: str, function: Any) -> KernelInfo:
        params: list[tuple[int, int]] = []
        while len(params) < _MOST_PARAMETERS:
            code, *where = self._driver.call_anyway("cuFuncGetParamInfo", function, len(params))
            if code:
                if code != CUresult.INVALID_VALUE:
                    raise self._driver.error(code, "cuFuncGetParamInfo")
                break
            params.append((int(where[0]), int(where[1])))
        attributes: dict[int, int] = {}
        for attribute in self._attributes:
            code, *value = self._driver.call_anyway("cuFuncGetAttribute", attribute, function)
            if code == CUresult.SUCCESS:
                attributes[int(attribute)] = int(value[0])
        return KernelInfo(name, tuple(params), attributes)

    def _variables(self, handle: Any, image: bytes) -> list[GlobalInfo]:
        out: list[GlobalInfo] = []
        for name in symbols.variable_names(image):
            with contextlib.suppress(UnicodeEncodeError):
                code, *where = self._driver.call_anyway("cuModuleGetGlobal", handle, name.encode())
                if code == CUresult.SUCCESS and int(where[1]):
                    out.append(GlobalInfo(name, int(where[0]), int(where[1])))
        return out


def _said(error: CudaError, log: bytearray) -> PtxError:
    """The error with the words of the driver's compiler."""
    said = bytes(log).split(b"\0", 1)[0].decode("utf-8", "replace").strip()
    return PtxError(f"{error.detail}{': ' if said else ''}{said}", error.result)
