"""Recursive-descent parser of a module: PTX text to the syntax tree.

Accepts PTX ISO 1.0 to 9.x as compilers write it. Debug and tuning directives are skipped. Every
loop consumes tokens, so any input ends in a module or in PtxError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.bodies import Body, find_bodies
from rrto_ros.devices.cpu.ptx.body import (
    LINKAGE,
    SKIP_LINE,
    SKIP_TO_SEMICOLON,
    body_in,
    read_body,
)
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.lexer import Token, tokenize
from rrto_ros.devices.cpu.ptx.types import SPACES
from rrto_ros.devices.cpu.ptx.variables import parse_variables
from rrto_ros.errors import PtxError

_UNREAD = "body"
"""Kind of the token that stands for a body that is read later."""
_GEOMETRY = {
    "maxntid",
    "reqntid",
    "minnctapersm",
    "maxnctapersm",
    "maxnreg",
    "reqnctapercluster",
    "maxclusterrank",
}
_FLAGS = {
    "noreturn",
    "explicitcluster",
    "blocksareclusters",
    "unique",
    "abi_preserve",
    "abi_preserve_control",
}
DIRECTIVES = tuple(
    sorted(
        {
            "version",
            "target",
            "address_size",
            "entry",
            "func",
            "reg",
            "section",
            "align",
            "alias",
            "branchtargets",
            *(SPACES - {"reg"}),
            *LINKAGE,
            *SKIP_TO_SEMICOLON,
            *SKIP_LINE,
            *_GEOMETRY,
            *_FLAGS,
        }
    )
)
"""Every directive that is read, for the support page."""


def parse_module(text: str) -> ast.Module:
    """The syntax tree of a PTX text.

    Raises:
        PtxError: The text is not PTX, is cut short, or uses unknown syntax (the line is named).
    """
    return _ModuleParser(Cursor(tokenize(text.rstrip("\0")))).module()


@dataclass(frozen=True)
class Declarations:
    """What a PTX text says outside of the bodies of its functions.

    Attributes:
        module: With nothing in the functions whose bodies were not read.
        bodies: Function -> its body in the text; those that are `static` were read.
    """

    module: ast.Module
    bodies: Mapping[str, Body]


def parse_declarations(text: str) -> Declarations:
    """The syntax tree of a PTX text but for the bodies of functions.

    Those that declare variables of the module are read: a program may ask for these.

    Raises:
        PtxError: As for `parse_module`; of what is wrong in a body only that its braces do not
            fit together, or that a character is none of PTX's.
    """
    text = text.rstrip("\0")
    bodies = find_bodies(text)
    tokens: list[Token] = []
    position, line = 0, 1
    for body in bodies:
        tokens += tokenize(text, position, body.start, line)
        tokens.append(Token(_UNREAD, "{}", body.line))
        position = body.end
        line = body.line + text.count("\n", body.start, body.end)
    tokens += tokenize(text, position, None, line)
    parser = _ModuleParser(Cursor(tokens), text, bodies)
    module = parser.module()
    return Declarations(module, parser.bodies)


class _ModuleParser:
    def __init__(self, cursor: Cursor, text: str = "", bodies: Sequence[Body] = ()) -> None:
        self.at = cursor
        self.text = text
        self.rest = iter(bodies)
        self.bodies: dict[str, Body] = {}
        self.variables: list[ast.Var] = []
        self.functions: dict[str, ast.Function] = {}
        self.aliases: list[tuple[str, str]] = []

    def module(self) -> ast.Module:
        at = self.at
        at.expect(".version")
        number = re.fullmatch(r"(\d+)\.(\d+)", at.next().text)
        if number is None:
            raise at.error("want .version and a number like 8.0")
        if not 1 <= int(number[1]) <= 9:
            raise PtxError(
                f"PTX version {number[0]}: 1.0 to 9.x are read", CUresult.UNSUPPORTED_PTX_VERSION
            )
        version = (int(number[1]), int(number[2]))
        target = ""
        while not at.done:
            token = at.peek()
            name = token.text[1:]
            if token.text == ".target":
                at.next()
                target = at.next().text
                while at.accept(","):
                    at.next()
            elif token.text == ".address_size":
                at.next()
                if at.integer() != 64:
                    raise at.error("only 64-bit addresses are supported")
            elif name in SKIP_LINE:
                at.skip_line()
            elif name in SKIP_TO_SEMICOLON:
                at.skip_past(";")
            elif name == "alias":
                self._alias()
            elif name == "section":
                at.skip_past("{")
                at.skip_past("}")
            elif token.text == ";":
                at.next()
            elif token.kind == "dot":
                self._declaration()
            else:
                raise at.error(f"unexpected {token.text!r} at module level")
        if not self.functions and not self.variables and not target:
            raise PtxError("the PTX text ends before it declares anything (cut short?)")
        self._resolve_aliases()
        self._drop_declarations()
        return ast.Module(version, target, tuple(self.variables), self.functions)

    def _declaration(self) -> None:
        at = self.at
        external, linkage = False, ""
        while at.peek().text[1:] in LINKAGE:
            found = at.next().text[1:]
            external |= found == "extern"
            linkage = linkage if found == "extern" else found
        word = at.peek().text[1:]
        if word in ("entry", "func"):
            at.next()
            function = self._function(is_entry=word == "entry")
            known = self.functions.get(function.name)
            linkage = linkage or (known.linkage if known is not None else "")
            function = replace(function, linkage=linkage)
            if known is not None and known.body is not None and function.body is not None:
                raise at.error(f"{function.name} is defined twice")
            if known is None or known.body is None:
                self.functions[function.name] = function
        elif word in SPACES:
            self.variables += [
                replace(v, linkage=linkage)
                for v in parse_variables(at, external, lambda name: name)
            ]
        else:
            raise at.error(f"unknown directive .{word}")

    def _alias(self) -> None:
        at = self.at
        at.next()
        name = at.identifier()
        at.expect(",")
        self.aliases.append((name, at.identifier()))
        at.expect(";")

    def _resolve_aliases(self) -> None:
        for name, target in self.aliases:
            declared, defined = self.functions.get(name), self.functions.get(target)
            if declared is None or declared.is_entry or declared.body is not None:
                raise PtxError(f".alias {name}, {target}: {name} must be a declared function")
            if defined is None or defined.is_entry or defined.body is None:
                raise PtxError(f".alias {name}, {target}: {target} must be a defined function")
            self.functions[name] = replace(defined, name=name, linkage=declared.linkage)
            if target in self.bodies:
                self.bodies[name] = self.bodies[target]

    def _drop_declarations(self) -> None:
        """Of a variable that is declared and defined, the definition stays."""
        defined = [v.name for v in self.variables if not v.external]
        if len(set(defined)) < len(defined):
            twice = next(name for name in defined if defined.count(name) > 1)
            raise PtxError(f"variable {twice} is defined twice")
        kept = {v.name: v for v in self.variables if v.external}
        kept.update((v.name, v) for v in self.variables if not v.external)
        self.variables = list(kept.values()) if len(kept) < len(self.variables) else self.variables

    def _function(self, *, is_entry: bool) -> ast.Function:
        at = self.at
        returns: tuple[ast.Var, ...] = ()
        while at.peek().text[1:] in _FLAGS:
            at.next()
        if at.peek().text == "(":
            returns = self._parameters()
        name = at.identifier()
        params = self._parameters() if at.peek().text == "(" else ()
        sizes: dict[str, tuple[int, int, int]] = {}
        while at.peek().text not in ("{", ";") and at.peek().kind != _UNREAD:
            directive = at.next().text[1:]
            if directive in _GEOMETRY:
                numbers = [at.integer()]
                while at.accept(","):
                    numbers.append(at.integer())
                sizes[directive] = (*numbers, 1, 1, 1)[:3]  # type: ignore[assignment]
            elif directive == "pragma":
                at.skip_past(";")
            elif directive not in _FLAGS:
                raise at.error(f"unknown function directive .{directive}")
        if at.accept(";"):
            return ast.Function(name, is_entry, params, returns)
        head = ast.Function(
            name,
            is_entry,
            params,
            returns,
            body=(),
            maxntid=sizes.get("maxntid"),
            reqntid=sizes.get("reqntid"),
            maxnreg=sizes["maxnreg"][0] if "maxnreg" in sizes else None,
        )
        return self._body(head)

    def _body(self, head: ast.Function) -> ast.Function:
        at = self.at
        if at.peek().kind == _UNREAD:
            at.next()
            body = self.bodies[head.name] = next(self.rest)
            if not body.static:
                return head
            function, statics = body_in(self.text, body, head)
        else:
            function, statics = read_body(at, head)
        self.variables += statics
        return function

    def _parameters(self) -> tuple[ast.Var, ...]:
        at = self.at
        at.expect("(")
        result: list[ast.Var] = []
        while not at.accept(")"):
            result += parse_variables(at, False, lambda name: name, single=True)
            at.accept(",")
        return tuple(result)
