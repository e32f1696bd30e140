"""The table of supported instructions: opcode -> the function that emits it."""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.devices.cpu.codegen.emitter import FORMS, Emitter, unsupported
from rrto_ros.devices.cpu.ptx import ast

EmitFunction = Callable[[Emitter, ast.Instr], None]

_TABLE: dict[str, EmitFunction] = {}


def emits(*ops: str, forms: str) -> Callable[[EmitFunction], EmitFunction]:
    """Registers an emitter for opcodes; `forms` says in words which forms it covers."""

    def register(function: EmitFunction) -> EmitFunction:
        for op in ops:
            _TABLE[op] = function
            FORMS[op] = forms
        return function

    return register


def emit(e: Emitter, instr: ast.Instr) -> None:
    """Emits one instruction.

    Raises:
        PtxError: The instruction or this form of it is not supported.
    """
    function = _TABLE.get(instr.op)
    if function is None:
        raise unsupported(instr)
    e.instr = instr
    e.mask = None
    if instr.guard is not None:
        e.mask = e.predicate(instr.guard, instr.guard_negated)
    target = instr.args[0] if instr.args else None
    e.first = isinstance(target, ast.Reg) and target.name in e.affine
    try:
        function(e, instr)
    except (IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise unsupported(
            instr, f"its {len(instr.args)} operands are not those of a form that is known"
        ) from error
    if e.first and isinstance(target, ast.Reg) and target.name in e.roots:
        e.put_root(target.name, instr)
    e.mask = None
    e.first = False


def supported_instructions() -> dict[str, str]:
    """Opcode -> the forms that are supported, in alphabetical order."""
    return dict(sorted(FORMS.items()))
