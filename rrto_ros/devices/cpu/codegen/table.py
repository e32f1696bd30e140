"""The table of supported instructions: opcode -> the function that emits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rrto_ros.errors import PtxError

if TYPE_CHECKING:
    from rrto_ros.devices.cpu.codegen.emitter import Emitter
    from rrto_ros.devices.cpu.ptx import ast

EmitFunction = Callable[["Emitter", "ast.Instr"], None]

_TABLE: dict[str, EmitFunction] = {}
_FORMS: dict[str, str] = {}


def emits(*ops: str, forms: str) -> Callable[[EmitFunction], EmitFunction]:
    """Registers an emitter for opcodes; `forms` says in words which forms it covers."""

    def register(function: EmitFunction) -> EmitFunction:
        for op in ops:
            _TABLE[op] = function
            _FORMS[op] = forms
        return function

    return register


def emitter_for(op: str) -> EmitFunction | None:
    """The emitter of an opcode, or None if it is not supported."""
    return _TABLE.get(op)


def supported_instructions() -> dict[str, str]:
    """Opcode -> the forms that are supported, in alphabetical order."""
    return dict(sorted(_FORMS.items()))


def unsupported(instr: ast.Instr, why: str = "") -> PtxError:
    """The error for an instruction that no emitter covers."""
    detail = f" ({why})" if why else ""
    return PtxError(f"line {instr.line}: instruction {instr.text} is not supported{detail}")
