"""LLVM IR text builder: typed values that are one scalar or one value per lane.

The emitters write each instruction once; whether it becomes a scalar or a vector operation
follows from its operands. No arithmetic carries nsw, nuw or fast-math flags.
"""

from __future__ import annotations

from typing import NamedTuple


class Val(NamedTuple):
    """An IR value: its text, scalar element type, and whether it holds one value per lane."""

    text: str
    type: str
    vec: bool = False

    @property
    def bits(self) -> int:
        """Width of one element."""
        return WIDTH.get(self.type) or int(self.type[1:])

    @property
    def is_constant(self) -> bool:
        return not self.text.startswith("%")


WIDTH = {"half": 16, "float": 32, "double": 64, "ptr": 64}
_FLOATS = frozenset({"half", "float", "double"})
_FLOAT_STEMS = frozenset(
    f"llvm.{name}"
    for name in ("fma", "sqrt", "copysign", "rint", "roundeven", "floor", "ceil", "trunc", "fabs")
)
_INTEGER_STEMS = frozenset(
    f"llvm.{name}"
    for name in (
        "ctpop",
        "ctlz",
        "cttz",
        "bitreverse",
        "smin",
        "smax",
        "umin",
        "umax",
        "fshl",
        "fshr",
        "usub.sat",
    )
)
_SUFFIX = {"half": "f16", "float": "f32", "double": "f64", "ptr": "p0"}


def const(value: int, type_: str) -> Val:
    """An integer constant of an integer type."""
    bits = int(type_[1:])
    value &= (1 << bits) - 1
    if bits == 1:
        return Val("true" if value else "false", "i1")
    return Val(str(value), type_)


class Builder:
    """Collects lines of one function. `lanes` is the number of threads done at once."""

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.starts: list[str] = []
        self.declared: dict[str, str] = {}
        self._count = 0

    # text
    def name(self, stem: str = "t") -> str:
        self._count += 1
        return f"%{stem}{self._count}"

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def new_label(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    # types
    def ty(self, scalar: str, vec: bool) -> str:
        """The LLVM spelling of a scalar or per-lane type."""
        return f"<{self.lanes} x {scalar}>" if vec else scalar

    def of(self, value: Val) -> str:
        return self.ty(value.type, value.vec)

    def suffix(self, scalar: str, vec: bool) -> str:
        """The overload suffix of an intrinsic."""
        stem = _SUFFIX.get(scalar, scalar)
        return f"v{self.lanes}{stem}" if vec else stem

    def arg(self, value: Val) -> str:
        """'type text' for a call."""
        return f"{self.of(value)} {value.text}"

    # lanes
    def widen(self, value: Val) -> Val:
        """One value per lane, copied from a scalar where needed."""
        if value.vec or self.lanes == 1:
            return value
        if value.is_constant:
            return Val(f"splat ({value.type} {value.text})", value.type, True)
        one = self.name()
        vector = self.ty(value.type, True)
        self.line(f"{one} = insertelement {vector} poison, {value.type} {value.text}, i32 0")
        out = self.name()
        self.line(
            f"{out} = shufflevector {vector} {one}, {vector} poison, "
            f"<{self.lanes} x i32> zeroinitializer"
        )
        return Val(out, value.type, True)

    def unify(self, *values: Val) -> list[Val]:
        """All values widened if any of them is."""
        if any(v.vec for v in values):
            return [self.widen(v) for v in values]
        return list(values)

    def lane(self, value: Val, index: int) -> Val:
        """The value of one lane."""
        if not value.vec:
            return value
        out = self.name()
        self.line(f"{out} = extractelement {self.of(value)} {value.text}, i32 {index}")
        return Val(out, value.type)

    def from_lanes(self, values: list[Val]) -> Val:
        """One vector from a scalar per lane."""
        kind = values[0].type
        vector = self.ty(kind, True)
        text = "poison"
        for index, value in enumerate(values):
            out = self.name()
            self.line(f"{out} = insertelement {vector} {text}, {kind} {value.text}, i32 {index}")
            text = out
        return Val(text, kind, True)

    # operations
    def binary(self, op: str, a: Val, b: Val) -> Val:
        """An arithmetic or logical LLVM instruction."""
        if a.type != b.type or op.startswith("f") != (a.type in _FLOATS):
            raise ValueError(f"{op} of {a.type} and {b.type}")
        a, b = self.unify(a, b)
        out = self.name()
        self.line(f"{out} = {op} {self.of(a)} {a.text}, {b.text}")
        return Val(out, a.type, a.vec)

    def unary(self, op: str, a: Val) -> Val:
        if op.startswith("f") != (a.type in _FLOATS):
            raise ValueError(f"{op} of {a.type}")
        out = self.name()
        self.line(f"{out} = {op} {self.of(a)} {a.text}")
        return Val(out, a.type, a.vec)

    def compare(self, op: str, a: Val, b: Val) -> Val:
        """`op` includes the predicate, for example "icmp slt"."""
        if a.type != b.type or op.startswith("f") != (a.type in _FLOATS):
            raise ValueError(f"{op} of {a.type} and {b.type}")
        a, b = self.unify(a, b)
        out = self.name()
        self.line(f"{out} = {op} {self.of(a)} {a.text}, {b.text}")
        return Val(out, "i1", a.vec)

    def cast(self, op: str, a: Val, type_: str) -> Val:
        """A conversion instruction; nothing when the type is already right."""
        if a.type == type_:
            return a
        out = self.name()
        self.line(f"{out} = {op} {self.of(a)} {a.text} to {self.ty(type_, a.vec)}")
        return Val(out, type_, a.vec)

    def resize(self, a: Val, type_: str, signed: bool) -> Val:
        """Truncates or extends an integer."""
        have, want = a.bits, int(type_[1:])
        if have == want:
            return a
        if a.is_constant and not a.vec:
            value = 1 if a.text == "true" else 0 if a.text == "false" else int(a.text)
            if signed and value >> (have - 1) & 1:
                value -= 1 << have
            return const(value, type_)
        return self.cast("trunc" if have > want else "sext" if signed else "zext", a, type_)

    def bitcast(self, a: Val, type_: str) -> Val:
        return self.cast("bitcast", a, type_)

    def as_int(self, a: Val) -> Val:
        """The bits of a value as an integer."""
        return a if a.type.startswith("i") else self.bitcast(a, f"i{a.bits}")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        if a.type != b.type or condition.type != "i1":
            raise ValueError(f"select of {a.type} and {b.type} by {condition.type}")
        a, b = self.unify(a, b)
        if condition.vec and not a.vec:
            a, b = self.widen(a), self.widen(b)
        out = self.name()
        kind = self.of(a)
        self.line(f"{out} = select {self.arg(condition)}, {kind} {a.text}, {kind} {b.text}")
        return Val(out, a.type, a.vec)

    def intrinsic(self, stem: str, *args: Val, tail: str = "", result: str | None = None) -> Val:
        """An LLVM intrinsic overloaded on its first argument, for example "llvm.fma"."""
        unified = self.unify(*args)
        first = unified[0]
        if (
            any(v.type != first.type for v in unified)
            or (stem in _FLOAT_STEMS and first.type not in _FLOATS)
            or (stem in _INTEGER_STEMS and first.type in _FLOATS)
        ):
            raise ValueError(f"{stem} of {', '.join(v.type for v in unified)}")
        out_type = result or first.type
        kind = self.ty(out_type, first.vec)
        name = f"{stem}.{self.suffix(first.type, first.vec)}"
        types = [self.of(v) for v in unified]
        call_args = [self.arg(v) for v in unified]
        if tail:
            types.append(tail.split()[0])
            call_args.append(tail)
        self.declared[name] = f"declare {kind} @{name}({', '.join(types)})"
        out = self.name()
        self.line(f"{out} = call {kind} @{name}({', '.join(call_args)})")
        return Val(out, out_type, first.vec)

    def freeze(self, a: Val) -> Val:
        """The value, or any other one if LLVM knows none."""
        out = self.name()
        self.line(f"{out} = freeze {self.arg(a)}")
        return Val(out, a.type, a.vec)

    def alloca(self, type_: str, align: int = 0) -> str:
        """A stack slot, placed at the start of the function."""
        out = self.name("slot")
        self.allocas.append(f"  {out} = alloca {type_}" + (f", align {align}" if align else ""))
        return out
