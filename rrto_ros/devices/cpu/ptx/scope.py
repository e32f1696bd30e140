"""Names inside one function: registers, local variables and nested scopes.

A name declared in an inner scope gets a unique suffix, so later passes see flat names.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType
from rrto_ros.errors import PtxError

MAX_REGISTERS = 1 << 20


class Scope:
    """The scope stack of a function body."""

    def __init__(self) -> None:
        self.registers: dict[str, PtxType] = {}
        self.variables: list[ast.Var] = []
        self._levels: list[dict[str, str]] = [{}]
        self._ranges: list[dict[str, tuple[int, PtxType, str]]] = [{}]
        self._count = 0
        self._memo: dict[str, ast.Operand] = {}
        self._vectors: dict[str, ast.Vec] = {}

    def push(self) -> None:
        self._levels.append({})
        self._ranges.append({})
        self._memo = {}

    def pop(self) -> None:
        self._levels.pop()
        self._ranges.pop()
        self._memo = {}

    def _suffix(self) -> str:
        if len(self._levels) == 1:
            return ""
        self._count += 1
        return f"$s{self._count}"

    def new_name(self, name: str) -> str:
        """The unique name of a variable declared in the current scope."""
        unique = name + self._suffix()
        self._levels[-1][name] = unique
        self._memo = {}
        return unique

    def static_name(self, name: str, function: str) -> str:
        """The name that a variable of the module has which is declared in a function."""
        unique = self._levels[-1][name] = f"{self.new_name(name)}$g${function}"
        return unique

    def label(self, name: str) -> str:
        """Labels are not renamed: compilers keep them unique in a function."""
        return name

    def declare_register(self, name: str, kind: PtxType) -> None:
        unique = self.new_name(name)
        self.registers[unique] = kind

    def declare_vector(self, name: str, size: int, kind: PtxType) -> None:
        """Declares name.x, name.y ... and the name, which stands for all of them."""
        for element in "xyzw"[:size]:
            self.declare_register(f"{name}.{element}", kind)
        items = tuple(self.resolve(f"{name}.{element}") for element in "xyzw"[:size])
        self._vectors[self.new_name(name)] = ast.Vec(items)

    def temporary(self, kind: PtxType) -> ast.Reg:
        """A register that the text does not name."""
        self._count += 1
        name = f"%$t{self._count}"
        self.registers[name] = kind
        return ast.Reg(name)

    def declare_range(self, prefix: str, count: int, kind: PtxType) -> None:
        """Declares prefix0 ... prefix(count-1); each comes into being when it is used."""
        if count > MAX_REGISTERS:
            raise PtxError(f"{count} registers {prefix}, at most {MAX_REGISTERS} are read")
        self._ranges[-1][prefix] = (count, kind, self._suffix())
        self._memo = {}

    def resolve(self, name: str) -> ast.Operand:
        """What a name means here: a register, a special register or a symbol."""
        found = self._memo.get(name)
        if found is None:
            found = self._memo[name] = self._resolve(name)
        return found

    def _resolve(self, name: str) -> ast.Operand:
        for level in range(len(self._levels) - 1, -1, -1):
            unique = self._levels[level].get(name)
            if unique in self._vectors:
                return self._vectors[unique]
            if unique is not None:
                return ast.Reg(unique) if unique in self.registers else ast.Sym(unique)
            ranges = self._ranges[level]
            cut = len(name)
            while ranges and cut > 1 and name[cut - 1].isdigit():
                cut -= 1
                declared = ranges.get(name[:cut])
                if declared and int(name[cut:]) < declared[0]:
                    unique = name + declared[2]
                    self.registers[unique] = declared[1]
                    return ast.Reg(unique)
        if name.startswith("%"):
            return ast.Special(name[1:])
        if name == "_":
            return ast.Sink()
        return ast.Sym(name)
