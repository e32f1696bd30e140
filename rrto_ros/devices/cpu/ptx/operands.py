"""Operands: registers, immediates, addresses, vectors and argument lists."""

from __future__ import annotations

import struct

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.scope import Scope

_MAX_ITEMS = 4096


def parse_operand(at: Cursor, scope: Scope | None) -> ast.Operand:
    """The operand at the cursor; names mean what `scope` says (symbols without a scope)."""
    token = at.peek()
    if token.text in ("{", "("):
        return _list(at, scope, "}" if token.text == "{" else ")")
    if token.text == "[":
        return _address(at, scope)
    if token.text == "!":
        at.next()
        inner = _name(at, scope)
        if not isinstance(inner, ast.Reg):
            raise at.error("! needs a predicate register")
        return ast.Not(inner)
    if token.kind == "num" or token.text in ("-", "+", "~"):
        return _number(at)
    if token.kind == "id":
        operand = _name(at, scope)
        if isinstance(operand, ast.Sym):
            return _symbol(at, operand)
        if at.accept("|"):
            return ast.Pair(operand, _name(at, scope))
        return operand
    raise at.error(f"expected an operand, got {token.text!r}")


def parse_texture(at: Cursor, scope: Scope | None) -> tuple[ast.Operand, ast.Operand]:
    """`[texture, coordinates]` as the two operands that it holds."""
    at.expect("[")
    texture = _name(at, scope)
    at.expect(",")
    place = parse_operand(at, scope)
    if at.accept(","):
        raise at.error("a texture with a sampler beside it is not supported")
    at.expect("]")
    return texture, place


def _list(at: Cursor, scope: Scope | None, close: str) -> ast.Vec:
    at.next()
    items: list[ast.Operand] = []
    while not at.accept(close):
        if items:
            at.expect(",")
        if at.peek().text in ("{", "("):
            raise at.error("lists do not nest")
        item = parse_operand(at, scope)
        if isinstance(item, ast.Vec) and close == "}":
            raise at.error("a vector register cannot be an element of a vector")
        items.append(item)
        if len(items) > _MAX_ITEMS:
            raise at.error("too many items in a list")
    return ast.Vec(tuple(items))


def _name(at: Cursor, scope: Scope | None) -> ast.Operand:
    name = at.identifier()
    if name == "WARP_SZ":
        return ast.Imm(32)
    following = at.peek()
    if following.kind == "dot" and following.text in (".x", ".y", ".z", ".w"):
        at.next()
        name += following.text
    return scope.resolve(name) if scope is not None else ast.Sym(name)


def _symbol(at: Cursor, symbol: ast.Sym) -> ast.Sym:
    name, generic = symbol.name, False
    if name == "generic" and at.accept("("):
        name, generic = at.identifier(), True
        offset = signed_offset(at)
        at.expect(")")
        return ast.Sym(name, offset + signed_offset(at), True)
    offset = 0
    if at.accept("["):
        offset = at.integer()
        at.expect("]")
    return ast.Sym(name, offset + signed_offset(at), generic)


def signed_offset(at: Cursor) -> int:
    """The sum of `+ number` and `- number` at the cursor; 0 if there are none."""
    total = 0
    while at.peek().text in ("+", "-"):
        sign = -1 if at.next().text == "-" else 1
        if at.accept("-"):
            sign = -sign
        total += sign * at.integer()
    return total


def _address(at: Cursor, scope: Scope | None) -> ast.Addr:
    at.expect("[")
    if at.peek().kind == "num":
        base: ast.Operand = ast.Imm(at.integer())
    else:
        base = _name(at, scope)
        if isinstance(base, ast.Sym) and at.accept("["):
            base = ast.Sym(base.name, at.integer())
            at.expect("]")
    if not isinstance(base, ast.Reg | ast.Sym | ast.Imm):
        raise at.error("an address starts with a register, a variable or a number")
    offset = signed_offset(at)
    at.expect("]")
    return ast.Addr(base, offset)


def _number(at: Cursor) -> ast.Imm | ast.FloatImm:
    negative = inverted = False
    while at.peek().text in ("-", "+", "~"):
        sign = at.next().text
        negative ^= sign == "-"
        inverted ^= sign == "~"
    if at.peek().kind != "num":
        raise at.error(f"expected a number, got {at.peek().text!r}")
    text = at.peek().text
    lead = text[:2].lower()
    if lead in ("0f", "0d"):
        at.next()
        bits, width = int("0x" + text[2:], 0), 32 if lead == "0f" else 64
        return ast.FloatImm(bits ^ (1 << (width - 1)) if negative else bits, width)
    if lead != "0x" and ("." in text or "e" in text or "E" in text):
        at.next()
        value = -float(text) if negative else float(text)
        return ast.FloatImm(struct.unpack("<Q", struct.pack("<d", value))[0], 64)
    integer = at.integer()
    integer = -integer if negative else integer
    return ast.Imm(~integer if inverted else integer)
