"""Variables and types as a PTX text declares them, in a module, a parameter list or a body."""

from __future__ import annotations

import math
from collections.abc import Callable

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.initial import count as count_values
from rrto_ros.devices.cpu.ptx.initial import initial_values
from rrto_ros.devices.cpu.ptx.types import SPACES, TYPES, PtxType

MAX_VARIABLE_BYTES = 1 << 32
MAX_ALIGNMENT = 1 << 19
"""Of a variable; shared, local and module memory begin at a multiple of it."""


def parse_type(at: Cursor) -> PtxType:
    """A type such as .f32 at the cursor."""
    token = at.next()
    if token.kind != "dot" or token.text[1:] not in TYPES:
        raise at.error(f"unknown type {token.text!r}")
    return TYPES[token.text[1:]]


def parse_variables(
    at: Cursor, external: bool, rename: Callable[[str], str], *, single: bool = False
) -> list[ast.Var]:
    """Variables declared at the cursor, from the state space to the semicolon (or name)."""
    space = at.next().text[1:]
    if space not in SPACES:
        raise at.error(f"unknown state space .{space}")
    align, vector = 0, 1
    kind: PtxType | None = None
    is_pointer = False
    while at.peek().kind == "dot":
        word = at.peek().text[1:]
        if word == "align":
            at.next()
            number = at.integer()
            # Behind .ptr it is the alignment of what the parameter points to.
            align = align if is_pointer else number
        elif word in ("v2", "v4", "v8"):
            at.next()
            vector = int(word[1:])
        elif word in TYPES:
            kind = parse_type(at)
        elif word in ("ptr", "global", "const", "shared", "local", "attribute"):
            at.next()
            is_pointer |= word == "ptr"
            if word == "attribute":
                at.skip_past(")")
        else:
            raise at.error(f"unknown attribute .{word} of a variable")
    if kind is None:
        raise at.error("a variable needs a type")
    result = []
    while True:
        name = rename(at.identifier())
        sizes, unsized = [vector] if vector > 1 else [], False
        while at.accept("["):
            if at.accept("]"):
                unsized = True
            else:
                sizes.insert(len(sizes) - (vector > 1), at.integer())
                at.expect("]")
        count = math.prod(sizes)
        init = None
        if at.accept("="):
            if space not in ("global", "const"):
                raise at.error(f"variable {name}: .{space} memory has no initial values")
            init = tuple(initial_values(at, [0, *sizes] if unsized else sizes))
            if unsized:
                count = count_values(init)
                unsized = False
        size = 0 if unsized else count * kind.bytes
        if size > MAX_VARIABLE_BYTES or align & (align - 1) or align > MAX_ALIGNMENT:
            raise at.error(f"variable {name}: size {size} or alignment {align} is out of range")
        result.append(
            ast.Var(space, kind, name, align or kind.bytes * vector, size, init, external)
        )
        if single or not at.accept(","):
            break
    if not single:
        at.expect(";")
    return result
