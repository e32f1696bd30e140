"""Initial values of variables."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.lexer import Row, tokenize
from rrto_ros.devices.cpu.ptx.operands import parse_operand

MAX_ELEMENTS = 1 << 22
"""Of an initial value, gaps included."""
_PART = 1 << 16
"""Characters of a row that are looked at at once."""
_FLOATS = {"0f": (32, 10), "0d": (64, 18)}
"""How a number begins whose bits are written down -> its width, and its length in characters."""


def initial_values(at: Cursor, sizes: Sequence[int]) -> list[ast.Initial]:
    """What follows the = of a variable, as elements in a row; what a group leaves out is 0.

    Args:
        at: Behind the =.
        sizes: Of the array, outermost first; 0 where the values say it.
    """
    if (row := at.row()) is not None:
        return _row(at, row, sizes)
    if at.accept("{"):
        return _group(at, sizes)
    return [_value(at)]


def count(items: Sequence[ast.Initial]) -> int:
    """How many elements there are."""
    return sum(len(item) if isinstance(item, ast.Numbers) else 1 for item in items)


def _group(at: Cursor, sizes: Sequence[int]) -> list[ast.Initial]:
    inner = math.prod(sizes[1:])
    most = math.prod(sizes) if sizes and sizes[0] else MAX_ELEMENTS
    items: list[ast.Initial] = []
    filled = 0
    while not at.accept("}"):
        if (row := at.row()) is not None or at.accept("{"):
            if len(sizes) < 2 or not inner or filled % inner:
                raise at.error("a group of initial values does not fit the array")
            part = _row(at, row, sizes[1:]) if row is not None else _group(at, sizes[1:])
            if filled + inner > MAX_ELEMENTS:
                raise at.error(f"more than {MAX_ELEMENTS} initial values")
            items += part
            items += [ast.Imm(0)] * (inner - count(part))
            filled += inner
        else:
            items.append(_value(at))
            filled += 1
        if filled > most:
            raise at.error("more initial values than elements")
        if at.peek().text != "}":
            at.expect(",")
    return items


def _row(at: Cursor, row: Row, sizes: Sequence[int]) -> list[ast.Initial]:
    """A whole group that is a long row of numbers."""
    found = _numbers(row.content)
    if found is None:
        # Numbers of several kinds, or what is none: word by word, with the line of what is wrong.
        return _group(Cursor(tokenize(row.content + "}", line=row.line, rows=False)), sizes)
    if len(found) > (math.prod(sizes) if sizes and sizes[0] else MAX_ELEMENTS):
        raise at.error("more initial values than elements")
    return [found]


def _numbers(text: str) -> ast.Numbers | None:
    """A row of integers, or of floating-point numbers of one width; None if it is no such row."""
    text = text.strip().removesuffix(",")
    width, length = _FLOATS.get(text[:2].lower(), (0, 0))
    for code in "Q" if width else "qQ":
        try:
            values = array(code)
            start = 0
            while start < len(text):
                end = text.find(",", start + _PART)
                end = len(text) if end < 0 else end
                parts = text[start:end].split(",")
                values.extend(_bits(parts, length) if width else _integers(parts))
                start = end + 1
        except OverflowError:
            continue
        except ValueError:
            return None
        return ast.Numbers(values, width)
    return None


def _integers(parts: list[str]) -> list[int]:
    return [int(part.rstrip().removesuffix("U"), 0) for part in parts]


def _bits(parts: list[str], length: int) -> list[int]:
    out = []
    for part in parts:
        text = part.strip()
        if len(text) != length or text[:2].lower() not in _FLOATS:
            raise ValueError(text)
        out.append(int("0x" + text[2:], 0))
    return out


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
