"""Recursive-descent parser: PTX text to the syntax tree.

Accepts PTX ISO 1.0 to 9.x as compilers write it. Debug and tuning directives are skipped. Every
loop consumes tokens, so any input ends in a module or in PtxError.

Over 400 lines: one grammar, from the module down to a type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.initial import initial_values
from rrto_ros.devices.cpu.ptx.lexer import tokenize
from rrto_ros.devices.cpu.ptx.operands import parse_operand, parse_texture, signed_offset
from rrto_ros.devices.cpu.ptx.scope import Scope
from rrto_ros.devices.cpu.ptx.types import SPACES, TYPES, PtxType
from rrto_ros.errors import PtxError

MAX_VARIABLE_BYTES = 1 << 32
MAX_VECTOR_REGISTERS = 1 << 14
MAX_ALIGNMENT = 1 << 19
"""Of a variable; shared, local and module memory begin at a multiple of it."""
_LINKAGE = {"visible", "weak", "extern", "common"}
_SKIP_TO_SEMICOLON = {"pragma", "callprototype"}
_SKIP_LINE = {"file", "loc"}
_PLACED = ("tex", "suld", "sust")
"""Instructions with a texture or surface, and a place in it, in brackets."""
_SELECTOR = re.compile(r"\.(b[0-7]{1,4}|h[0-3]{1,2})")
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
            *_LINKAGE,
            *_SKIP_TO_SEMICOLON,
            *_SKIP_LINE,
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


class _ModuleParser:
    def __init__(self, cursor: Cursor) -> None:
        self.at = cursor
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
            elif name in _SKIP_LINE:
                at.skip_line()
            elif name in _SKIP_TO_SEMICOLON:
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
        while at.peek().text[1:] in _LINKAGE:
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
        while at.peek().text not in ("{", ";"):
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
        body = _BodyParser(at, name, params, returns)
        body.block()
        self.variables += body.statics
        return ast.Function(
            name,
            is_entry,
            params,
            returns,
            body.scope.registers,
            tuple(body.scope.variables),
            tuple(body.code),
            sizes.get("maxntid"),
            sizes.get("reqntid"),
            body.tables,
            maxnreg=sizes["maxnreg"][0] if "maxnreg" in sizes else None,
        )

    def _parameters(self) -> tuple[ast.Var, ...]:
        at = self.at
        at.expect("(")
        result: list[ast.Var] = []
        while not at.accept(")"):
            result += parse_variables(at, False, lambda name: name, single=True)
            at.accept(",")
        return tuple(result)


class _BodyParser:
    """Statements of one function body, with nested scopes."""

    def __init__(
        self, at: Cursor, name: str, params: tuple[ast.Var, ...], returns: tuple[ast.Var, ...]
    ) -> None:
        self.at = at
        self.name = name
        self.statics: list[ast.Var] = []
        self.scope = Scope()
        for var in (*params, *returns):
            if var.space == "reg" and var.size > var.type.bytes:
                self.scope.declare_vector(var.name, var.size // var.type.bytes, var.type)
            elif var.space == "reg":
                self.scope.declare_register(var.name, var.type)
        self.code: list[ast.Instr | ast.Label] = []
        self.tables: dict[str, tuple[str, ...]] = {}

    def block(self) -> None:
        """Statements up to the brace that closes the body (nesting is iterative)."""
        at = self.at
        at.expect("{")
        depth = 1
        while depth:
            token = at.peek()
            if token.text == "{":
                at.next()
                self.scope.push()
                depth += 1
            elif token.text == "}":
                at.next()
                depth -= 1
                if depth:
                    self.scope.pop()
            elif token.text == ";":
                at.next()
            elif token.kind == "dot":
                self._directive(token.text[1:])
            elif token.kind == "id" and at.peek(1).text == ":":
                self._label()
            else:
                self.code.append(self._instruction())

    def _label(self) -> None:
        at = self.at
        name = at.next().text
        at.expect(":")
        following = at.peek().text if not at.done else ""
        if following == ".branchtargets":
            at.next()
            targets = [self.scope.label(at.identifier())]
            while at.accept(","):
                targets.append(self.scope.label(at.identifier()))
            at.expect(";")
            self.tables[name] = tuple(targets)
        elif following in (".callprototype", ".calltargets"):
            at.skip_past(";")
        else:
            self.code.append(ast.Label(name))

    def _directive(self, name: str) -> None:
        at = self.at
        if name == "reg":
            self._registers()
        elif name in _SKIP_LINE:
            at.skip_line()
        elif name in _SKIP_TO_SEMICOLON:
            at.skip_past(";")
        elif name == "section":
            at.skip_past("}")
        elif name in SPACES or name in _LINKAGE:
            external = False
            while at.peek().text[1:] in _LINKAGE:
                external |= at.next().text == ".extern"
            if at.peek().text in (".global", ".const"):
                self.statics += parse_variables(
                    at, external, lambda n: self.scope.static_name(n, self.name)
                )
                return
            for var in parse_variables(at, external, self.scope.new_name):
                self.scope.variables.append(var)
        else:
            raise at.error(f"unknown directive .{name}")

    def _registers(self) -> None:
        at = self.at
        at.expect(".reg")
        vector = 1
        if at.peek().text in (".v2", ".v4"):
            vector = int(at.next().text[2:])
        kind = parse_type(at)
        while True:
            name = at.identifier()
            if at.accept("<"):
                count = at.integer()
                at.expect(">")
                if vector == 1:
                    self.scope.declare_range(name, count, kind)
                elif count > MAX_VECTOR_REGISTERS:
                    raise at.error(
                        f"{count} vector registers {name}, at most {MAX_VECTOR_REGISTERS} are read"
                    )
                else:
                    for index in range(count):
                        self.scope.declare_vector(f"{name}{index}", vector, kind)
            elif vector > 1:
                self.scope.declare_vector(name, vector, kind)
            else:
                self.scope.declare_register(name, kind)
            if not at.accept(","):
                break
        at.expect(";")

    def _instruction(self) -> ast.Instr:
        at = self.at
        guard, negated = None, False
        line = at.peek().line
        if at.accept("@"):
            negated = at.accept("!")
            operand = self.scope.resolve(at.identifier())
            if not isinstance(operand, ast.Reg):
                raise at.error("a guard must be a predicate register")
            guard = operand
        op = at.identifier()
        mods: list[str] = []
        while at.peek().kind == "dot":
            mods.append(at.next().text[1:])
        args: list[ast.Operand] = []
        try:
            while not at.accept(";"):
                if args:
                    at.expect(",")
                if op in _PLACED and at.peek().text == "[":
                    args += parse_texture(at, self.scope)
                    continue
                operand = self._moved(parse_operand(at, self.scope), line)
                if isinstance(operand, ast.Reg) and _SELECTOR.fullmatch(at.peek().text):
                    # Parts of a register, in video instructions: "1:b0" is byte 0 of operand 1.
                    mods.append(f"{len(args)}:{at.next().text[1:]}")
                args.append(operand)
        except PtxError as error:
            text = ".".join((op, *mods))
            raise PtxError(f"{error.detail} (in instruction {text})") from error
        return ast.Instr(op, tuple(mods), tuple(args), guard, negated, line)

    def _moved(self, operand: ast.Operand, line: int) -> ast.Operand:
        """`register + number` as an operand, which assemblers take: the sum, computed before."""
        if not isinstance(operand, ast.Reg) or self.at.peek().text not in ("+", "-"):
            return operand
        kind = self.scope.registers[operand.name]
        if kind.is_float or kind.bits not in (16, 32, 64):
            raise self.at.error(f"a number cannot be added to a register of type .{kind.name}")
        total = self.scope.temporary(kind)
        by = ast.Imm(signed_offset(self.at))
        self.code.append(ast.Instr("add", (f"u{kind.bits}",), (total, operand, by), line=line))
        return total


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
                count = len(init)
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
