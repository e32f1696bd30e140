"""Functions that are called through registers: what their addresses are, and who may be meant.

An address is a number that no memory has. A call through a register becomes a choice among the
functions whose address the module takes and whose parameters and results are those of the call.
"""

from __future__ import annotations

from collections.abc import Mapping

from rrto_ros.devices.cpu.ptx import ast

BAD_POINTER = "$pointer"
"""What is behind the name of the trap of a thread that calls what is no function."""
_STEP = 16


def function_addresses(functions: Mapping[str, ast.Function]) -> dict[str, int]:
    """Function -> the number that stands for its address; never 0."""
    return {
        name: _STEP * (k + 1)
        for k, (name, function) in enumerate(functions.items())
        if not function.is_entry
    }


def calls_through_register(instr: ast.Instr) -> bool:
    """Whether an instruction calls the function whose address is in a register."""
    if instr.op != "call":
        return False
    first = next((a for a in instr.args if not isinstance(a, ast.Vec)), None)
    return isinstance(first, ast.Reg)


def taken(instr: ast.Instr) -> list[str]:
    """Names in an instruction that may be functions whose address it takes."""
    if instr.op in ("bra", "brx", "call"):
        return []
    return [a.name for a in instr.args if isinstance(a, ast.Sym)]


def addressed(module: ast.Module) -> tuple[str, ...]:
    """Functions with a body whose address code or initial values take, as the module has them."""
    names = {
        symbol.name
        for var in module.variables
        for item in var.init or ()
        if (symbol := item.symbol if isinstance(item, ast.SymByte) else item)
        and isinstance(symbol, ast.Sym)
    }
    for function in module.functions.values():
        for item in function.body or ():
            if isinstance(item, ast.Instr):
                names.update(taken(item))
    return tuple(
        name
        for name, function in module.functions.items()
        if name in names and function.body is not None and not function.is_entry
    )


def fits(
    function: ast.Function,
    passed: tuple[ast.Operand, ...],
    returns: tuple[ast.Operand, ...],
    sizes: Mapping[str, int],
) -> bool:
    """Whether a call with these arguments and results may be of a function."""
    pairs = ((function.params, passed), (function.returns, returns))
    return all(len(formals) == len(actuals) for formals, actuals in pairs) and all(
        (formal.space == "param") == isinstance(actual, ast.Sym)
        and (not isinstance(actual, ast.Sym) or sizes.get(actual.name) in (None, formal.size))
        for formals, actuals in pairs
        for formal, actual in zip(formals, actuals, strict=True)
    )
