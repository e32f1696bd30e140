"""LLVM: IR text to object code (a pure function), and object code to a callable address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from rrto_ros.errors import PtxError


@dataclass(frozen=True)
class Target:
    """The machine that code is made for.

    Attributes:
        cpu: LLVM's name of the processor.
        features: LLVM feature string.
        lanes: 32-bit lanes of its widest vectors.
        llvm_version: For example "22.1.0".
    """

    cpu: str
    features: str
    lanes: int
    llvm_version: str


@lru_cache(maxsize=1)
def host_target() -> Target:
    """The processor of this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx2") else 4
    version = ".".join(str(part) for part in llvm.llvm_version_info)
    return Target(llvm.get_host_cpu_name(), features.flatten(), lanes, version)


def _machine(target: Target, level: int) -> Any:
    host_target()
    found = llvm.Target.from_default_triple()
    return found.create_target_machine(
        cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="default"
    )


def compile_object(ir: str, target: Target, level: int = 2, *, vectorise: bool = True) -> bytes:
    """Optimises LLVM IR text and returns object code.

    Args:
        ir: The text of a module.
        target: What to compile for.
        level: How hard LLVM tries, 0 to 3.
        vectorise: Whether it may form vectors; without, it has had fewer crashes.

    Raises:
        PtxError: LLVM refuses the text, which is a mistake of the code generator.
    """
    machine = _machine(target, level)
    try:
        module = llvm.parse_assembly(ir)
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise PtxError(f"the generated code is not valid: {error}") from error
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = vectorise
    options.loop_unrolling = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


class LoadedCode:
    """Object code in memory; freed with this object."""

    def __init__(self, code: bytes, symbol: str) -> None:
        host_target()
        machine = _machine(host_target(), 2)
        empty = llvm.parse_assembly("")
        self._engine: Any = llvm.create_mcjit_compiler(empty, machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(symbol)
        if not self.address:
            raise PtxError(f"compiled code holds no function {symbol}")
