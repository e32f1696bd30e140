"""Initial values of variables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.operands import parse_operand

MAX_ELEMENTS = 1 << 22
"""Of an initial value, gaps included."""


def initial_values(at: Cursor, sizes: Sequence[int]) -> list[ast.Initial]:
    """What follows the = of a variable, as elements in a row; what a group leaves out is 0.

    Args:
        at: Behind the =.
        sizes: Of the array, outermost first; 0 where the values say it.
    """
    if at.accept("{"):
        return _group(at, sizes)
    return [_value(at)]


def _group(at: Cursor, sizes: Sequence[int]) -> list[ast.Initial]:
    inner = math.prod(sizes[1:])
    items: list[ast.Initial] = []
    while not at.accept("}"):
        if at.accept("{"):
            if len(sizes) < 2 or not inner or len(items) % inner:
                raise at.error("a group of initial values does not fit the array")
            part = _group(at, sizes[1:])
            if len(items) + inner > MAX_ELEMENTS:
                raise at.error(f"more than {MAX_ELEMENTS} initial values")
            items += part
            items += [ast.Imm(0)] * (inner - len(part))
        else:
            items.append(_value(at))
        if len(items) > (math.prod(sizes) if sizes and sizes[0] else MAX_ELEMENTS):
            raise at.error("more initial values than elements")
        if at.peek().text != "}":
            at.expect(",")
    return items


def _value(at: Cursor) -> ast.Initial:
    if at.peek().kind == "num" and at.peek(1).text == "(":
        return _byte(at)
    operand = parse_operand(at, None)
    if not isinstance(operand, ast.Imm | ast.FloatImm | ast.Sym):
        raise at.error("an initialiser must be a number or an address")
    return operand


def _byte(at: Cursor) -> ast.SymByte:
    """0xFF00(name), 0xFF00(generic(name) + 4): one byte of an address."""
    mask = at.integer()
    index = max(0, mask.bit_length() - 8) // 8
    at.expect("(")
    symbol = parse_operand(at, None)
    at.expect(")")
    if mask != 0xFF << 8 * index or index > 7 or not isinstance(symbol, ast.Sym):
        raise at.error("an initialiser must be a number, an address or one byte of an address")
    return ast.SymByte(symbol, index)
