"""A PTX module whose functions are read when a kernel needs them.

A small text is read whole when it is opened, so that what is wrong anywhere in it is said then. Of
a large one (libraries ship hundreds of kernels in a text, and a program launches a few) only the
declarations are, as with CUDA's own lazy loading; what is wrong in a function is said when a
kernel that reaches it is first used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rrto_ros.devices.cpu.passes.pointers import calls_through_register
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.bodies import Body
from rrto_ros.devices.cpu.ptx.body import body_in
from rrto_ros.devices.cpu.ptx.linking import read_module
from rrto_ros.devices.cpu.ptx.parser import parse_declarations
from rrto_ros.devices.linked import PtxInput

LARGE_TEXT = 256 << 10
"""Characters from which on a text's functions are read when they are needed."""
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)


class Outline:
    """What a module declares, and the way to its functions.

    Args:
        module: Whole, or with nothing in the functions of `bodies`.
        bodies: Function -> its body in the text, where functions are read later.
        text: That they are in.

    Attributes:
        read: Functions that were read.
    """

    def __init__(
        self, module: ast.Module, bodies: Mapping[str, Body] | None = None, text: str = ""
    ) -> None:
        self.module = module
        self._bodies = dict(bodies or {})
        self._text = text
        defined = [f for f in module.functions.values() if f.body is not None]
        self.read = sum(f.name not in self._bodies or self._bodies[f.name].static for f in defined)
        self._functions: dict[str, ast.Function] = {}
        self._mentioned: dict[str, frozenset[str]] = {}
        self._callable = frozenset(f.name for f in defined if not f.is_entry)
        self._declared = {
            name: replace(f, body=None) if f.body is not None else f
            for name, f in module.functions.items()
        }

    @property
    def deferred(self) -> bool:
        """Whether functions are read later."""
        return bool(self._bodies)

    def reached(self, kernel: str) -> ast.Module:
        """The module with the kernel and what it may call read; the rest is declared.

        Raises:
            PtxError: One of these functions uses unknown syntax (the line is named).
        """
        if not self.deferred:
            return self.module
        names = self._closure([kernel])
        if any(self._calls_any(name) for name in names):
            # Whose address is taken may be called, and any function may take it.
            takers = (name for name in self._bodies if self._mentions(name))
            names = self._closure([*names, *self._callable, *takers])
        read = {name: self._function(name) for name in names}
        return replace(self.module, functions={**self._declared, **read})

    def _closure(self, names: Iterable[str]) -> set[str]:
        """Functions, and those that are named in them, and so on."""
        found: set[str] = set()
        rest = list(names)
        while rest:
            name = rest.pop()
            if name not in found:
                found.add(name)
                rest += self._mentions(name)
        return found

    def _mentions(self, name: str) -> frozenset[str]:
        """Functions of the module whose names stand in the body of one."""
        if not self._callable:
            return self._callable
        found = self._mentioned.get(name)
        if found is None:
            body = self._bodies[name]
            words = _NAME.findall(self._text, body.start, body.end)
            found = self._mentioned[name] = self._callable.intersection(words)
        return found

    def _calls_any(self, name: str) -> bool:
        body = self._function(name).body or ()
        return any(isinstance(i, ast.Instr) and calls_through_register(i) for i in body)

    def _function(self, name: str) -> ast.Function:
        head, body = self.module.functions[name], self._bodies[name]
        if body.static:
            return head
        found = self._functions.get(name)
        if found is None:
            found, _ = body_in(self._text, body, head)
            self._functions[name] = found
            self.read += 1
        return found


def open_outline(source: str | Sequence[PtxInput]) -> Outline:
    """The outline of a PTX text, or of a link of several, which is always read whole.

    Raises:
        PtxError: The text is not PTX or the texts do not fit together; of a large text, what
            `parse_declarations` says.
    """
    if isinstance(source, str) and len(source) > LARGE_TEXT:
        found = parse_declarations(source)
        return Outline(found.module, found.bodies, source)
    return Outline(read_module(source))
