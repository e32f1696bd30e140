"""Body of a function: statements to instructions and labels, with what they declare."""

from __future__ import annotations

import re
from dataclasses import replace

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.bodies import Body
from rrto_ros.devices.cpu.ptx.cursor import Cursor
from rrto_ros.devices.cpu.ptx.lexer import tokenize
from rrto_ros.devices.cpu.ptx.operands import parse_operand, parse_texture, signed_offset
from rrto_ros.devices.cpu.ptx.scope import Scope
from rrto_ros.devices.cpu.ptx.types import SPACES
from rrto_ros.devices.cpu.ptx.variables import parse_type, parse_variables
from rrto_ros.errors import PtxError

MAX_VECTOR_REGISTERS = 1 << 14
LINKAGE = frozenset({"visible", "weak", "extern", "common"})
SKIP_TO_SEMICOLON = frozenset({"pragma", "callprototype"})
SKIP_LINE = frozenset({"file", "loc"})
_PLACED = ("tex", "suld", "sust")
"""Instructions with a texture or surface, and a place in it, in brackets."""
_SELECTOR = re.compile(r"\.(b[0-7]{1,4}|h[0-3]{1,2})")


def read_body(at: Cursor, head: ast.Function) -> tuple[ast.Function, list[ast.Var]]:
    """The function whose body begins at the cursor, and the module's variables in it."""
    body = _BodyParser(at, head.name, head.params, head.returns)
    body.block()
    function = replace(
        head,
        regs=body.scope.registers,
        variables=tuple(body.scope.variables),
        body=tuple(body.code),
        tables=body.tables,
    )
    return function, body.statics


def body_in(text: str, body: Body, head: ast.Function) -> tuple[ast.Function, list[ast.Var]]:
    """The same for a body whose place in a text is known.

    Raises:
        PtxError: It uses unknown syntax (the line is named).
    """
    return read_body(Cursor(tokenize(text, body.start, body.end, body.line)), head)


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
        elif name in SKIP_LINE:
            at.skip_line()
        elif name in SKIP_TO_SEMICOLON:
            at.skip_past(";")
        elif name == "section":
            at.skip_past("}")
        elif name in SPACES or name in LINKAGE:
            external = False
            while at.peek().text[1:] in LINKAGE:
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
