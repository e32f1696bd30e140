"""Syntax tree of a PTX module: plain frozen data, no behaviour."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from rrto_ros.devices.cpu.ptx.types import PtxType


@dataclass(frozen=True)
class Reg:
    """A register, named uniquely in its function (inner scopes are renamed)."""

    name: str


@dataclass(frozen=True)
class Imm:
    """An integer immediate."""

    value: int


@dataclass(frozen=True)
class FloatImm:
    """A floating-point immediate, as the bits of a binary32 or binary64."""

    bits: int
    width: int


@dataclass(frozen=True)
class Sym:
    """The address of a variable or function plus a byte offset; `generic` if so written."""

    name: str
    offset: int = 0
    generic: bool = False


@dataclass(frozen=True)
class SymByte:
    """One byte of an address, 0 the lowest; only in initial values: 0xFF00(name) is byte 1."""

    symbol: Sym
    index: int


@dataclass(frozen=True)
class Numbers:
    """Many elements of an initial value: integers, or the bits of floating-point numbers.

    Attributes:
        values: `q` or `Q` items.
        width: 0 for integers, 32 or 64 for floating-point numbers.
    """

    values: array[int]
    width: int

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Special:
    """A special register such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Addr:
    """A memory operand [base + offset]."""

    base: Reg | Sym | Imm
    offset: int = 0


@dataclass(frozen=True)
class Not:
    """A negated predicate operand !%p."""

    reg: Reg


@dataclass(frozen=True)
class Vec:
    """A vector operand {a, b, ...}, or an argument list (a, b, ...)."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """Two destinations %p|%q."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Sink:
    """The operand _ : a result nobody wants."""


Operand = Reg | Imm | FloatImm | Sym | Special | Addr | Not | Vec | Pair | Sink


@dataclass(frozen=True)
class Instr:
    """One instruction.

    Attributes:
        op: Text before the first dot.
        mods: The dotted parts after it, without dots.
        args: Operands in order.
        guard: Register of @p, or None.
        guard_negated: Whether it is @!p.
        line: 1-based line in the text.
    """

    op: str
    mods: tuple[str, ...]
    args: tuple[Operand, ...]
    guard: Reg | None = None
    guard_negated: bool = False
    line: int = 0

    @property
    def text(self) -> str:
        """The opcode as written, for messages."""
        return ".".join((self.op, *self.mods))


@dataclass(frozen=True)
class Label:
    """A branch target."""

    name: str


Initial = Imm | FloatImm | Sym | SymByte | Numbers
"""One element of a variable's initial value, or a row of them."""


@dataclass(frozen=True)
class Var:
    """A variable.

    Attributes:
        space: State space.
        type: Element type.
        name: Unique in its scope.
        align: Bytes.
        size: Bytes; 0 for an unsized extern array.
        init: Flattened initial elements, gaps filled with 0, or None; long rows of numbers in one.
        external: Declared .extern.
        linkage: "visible", "weak" or "common" as declared; "" for its module alone.
    """

    space: str
    type: PtxType
    name: str
    align: int
    size: int
    init: tuple[Initial, ...] | None = None
    external: bool = False
    linkage: str = ""


@dataclass(frozen=True)
class Function:
    """An .entry or .func.

    Attributes:
        name: As written (mangled).
        is_entry: True for .entry.
        params: Parameters in order.
        returns: Return parameters of a .func.
        regs: Register name -> type.
        variables: Variables declared inside (shared, local, param buffers of calls).
        body: Instructions and labels; None for a declaration.
        maxntid: From .maxntid, padded to three, or None.
        reqntid: From .reqntid, padded to three, or None.
        tables: .branchtargets lists by their label.
        linkage: As of a variable.
        maxnreg: From .maxnreg, registers that a kernel may have, or None.
    """

    name: str
    is_entry: bool
    params: tuple[Var, ...] = ()
    returns: tuple[Var, ...] = ()
    regs: dict[str, PtxType] = field(default_factory=dict)
    variables: tuple[Var, ...] = ()
    body: tuple[Instr | Label, ...] | None = None
    maxntid: tuple[int, int, int] | None = None
    reqntid: tuple[int, int, int] | None = None
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    linkage: str = ""
    maxnreg: int | None = None


@dataclass(frozen=True)
class Module:
    """A whole PTX text."""

    version: tuple[int, int]
    target: str
    variables: tuple[Var, ...]
    functions: dict[str, Function]

    @property
    def entries(self) -> tuple[Function, ...]:
        """Kernels in the order of the text."""
        return tuple(f for f in self.functions.values() if f.is_entry and f.body is not None)
