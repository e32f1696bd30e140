"""The one walk over an operand that puts other registers and symbols into it."""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.devices.cpu.ptx import ast


def _same_reg(reg: ast.Reg) -> ast.Reg:
    return reg


def _same_sym(sym: ast.Sym) -> ast.Sym:
    return sym


def renamed(
    operand: ast.Operand,
    *,
    reg: Callable[[ast.Reg], ast.Reg] = _same_reg,
    sym: Callable[[ast.Sym], ast.Sym] = _same_sym,
) -> ast.Operand:
    """An operand whose registers and symbols are what `reg` and `sym` give for them."""
    match operand:
        case ast.Reg():
            return reg(operand)
        case ast.Sym():
            return sym(operand)
        case ast.Not(inner):
            return ast.Not(reg(inner))
        case ast.Addr(ast.Reg() as base, offset):
            return ast.Addr(reg(base), offset)
        case ast.Addr(ast.Sym() as base, offset):
            return ast.Addr(sym(base), offset)
        case ast.Vec(items):
            return ast.Vec(tuple(renamed(item, reg=reg, sym=sym) for item in items))
        case ast.Pair(first, second):
            return ast.Pair(renamed(first, reg=reg, sym=sym), renamed(second, reg=reg, sym=sym))
        case _:
            return operand
