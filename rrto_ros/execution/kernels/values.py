"""What a kernel's instructions make of their operands, for all threads of a launch at once.

Every register is a sum of multiples of symbols (forms.py), or may hold anything. Comparisons
become conditions: facts that hold where the predicate is true, and where it is false.

The module is long because every instruction works on the same registers, symbols and bounds; apart
from them each is a few lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rrto_ros.devices.cpu.passes.cfg import destinations
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES
from rrto_ros.execution.kernels.flow import Flow, elements
from rrto_ros.execution.kernels.forms import UNBOUNDED, Bounds, Facts, Form, Range, Symbol

Span = tuple[int, int]
"""First address and the address after the last."""
_COMPARE = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_NOT = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
_ZERO = Form(0)
_LANES = 32
EFFORT = 200_000
"""Instructions followed and bounds looked at for one launch: about half a second at most."""
EFFORT_FOR_LOADS = 20 * EFFORT
"""A kernel has many more loads, and no program waits for what is found of them."""


class Unknown(Exception):  # noqa: N818 no error: the answer is that it is not known
    """It is not known where an access goes."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Blocks in the grid and threads in a block."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is known if a predicate is true, and if it is false."""

    true: Facts = ()
    false: Facts = ()


OPEN = Condition()


@dataclass(slots=True)
class State:
    """Registers and facts at one place."""

    forms: dict[str, Form] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    facts: Facts = ()

    def copy(self) -> State:
        return State(dict(self.forms), dict(self.conditions), self.facts)


class Values:
    """Of one launch.

    Args:
        flow: The kernel's.
        params: The packed arguments.
        geometry: The launch's.

    Attributes:
        fixed: Least and greatest value of the symbols that stand for the same value all the time.
        ranges: Of all symbols, as far as they were met since `begin`.
        bounds: Of forms.
        limits: Numbers of rounds after which comparisons may end a loop.
        spans: Where the accesses that the flow follows go, since `begin`, and which go there.
        variables: Variables of the module that they reach.
    """

    def __init__(self, flow: Flow, params: bytes, geometry: Geometry) -> None:
        self._flow = flow
        self._arguments = params
        self._specials: dict[str, Form] = {"laneid": Form(0, ((("laneid",), 1),))}
        self.fixed: dict[Symbol, Range] = {("laneid",): (0, _LANES - 1)}
        for axis, grid, block in zip("xyz", geometry.grid, geometry.block, strict=True):
            for name, count in (("tid", block), ("ctaid", grid)):
                symbol = (f"{name}.{axis}",)
                self.fixed[symbol] = (0, count - 1)
                form = Form(0, ((symbol, 1),)) if count > 1 else _ZERO
                self._specials[f"{name}.{axis}"] = form
                self._specials[f"n{name}.{axis}"] = Form(count)
        self.ranges: dict[Symbol, Range] = {}
        self.bounds = Bounds(self.ranges, EFFORT_FOR_LOADS if flow.loads else EFFORT)
        self.limits: dict[Symbol, set[int]] = {}
        self.spans: dict[Span, set[int]] = {}
        self.variables: set[str] = set()
        # An index is often widened before it is compared, and used where it was found good.
        self._widened: dict[Symbol, tuple[Form, int, bool]] = {}

    def begin(self) -> None:
        """The kernel is followed from its beginning."""
        self.ranges.clear()
        self.ranges.update(self.fixed)
        self.spans.clear()
        self.variables.clear()
        self._widened.clear()

    def joined_facts(self, facts: Facts, more: Facts) -> Facts:
        """Facts, and those of a condition that help."""
        return facts + tuple(f for f in self._sharpened(more, facts) if f not in facts)

    def _sharpened(self, more: Facts, facts: Facts) -> list[Form]:
        """Facts; a form that is not 0 (marked by its difference) becomes one where that helps."""
        out: list[Form] = []
        for form in more:
            if not form.terms or form.terms[0][0] != ("not 0",):
                out.append(form)
                continue
            difference = Form(form.const, form.terms[1:])
            low, high = self.bounds.of(difference, facts)
            if high == 0:
                out.append(Form(difference.const + 1, difference.terms))
            if low == 0:
                negative = difference.times(-1)
                out.append(Form(negative.const + 1, negative.terms))
        return out

    def wide(self, name: str) -> int:
        """Bits of a register."""
        return self._flow.bits.get(name, 64)

    def symbol(self, symbol: Symbol, span: Range, bits: int) -> Form:
        """A symbol within bounds, or any number of so many bits."""
        low, high = span
        if low == high:
            return Form(low)
        least, greatest = full(bits)
        if high - low > greatest - least:
            low, high = least, greatest
        self.ranges[symbol] = (low, high)
        return Form(0, ((symbol, 1),))

    def _any(self, number: int, name: str) -> Form:
        bits = self.wide(name)
        return self.symbol(("any", number, name), full(bits), bits)

    def _exact(self, form: Form, bits: int, facts: Facts, *, signed: bool) -> Form | None:
        """The very number that a type sees; None if it may wrap."""
        least = -(1 << bits - 1) if signed else 0
        low, high = self.bounds.plain(form)
        shift = (low - least) >> bits << bits
        if high - shift >= least + (1 << bits):
            low, high = self.bounds.of(form, facts)
            shift = (low - least) >> bits << bits
            if high - shift >= least + (1 << bits):
                return None
        return Form(form.const - shift, form.terms) if shift else form

    def _value(self, operand: ast.Operand, state: State) -> Form | None:
        match operand:
            case ast.Reg(name):
                return state.forms.get(name)
            case ast.Imm(value):
                return Form(value)
            case ast.Special(name):
                return self._specials.get(name)
            case ast.Sym(name, offset) if name in self._flow.own:
                symbol: Symbol = ("own", name)
                self.ranges[symbol] = (0, 1 << 62)
                return Form(offset, ((symbol, 1),))
            case ast.Sym(name, offset) if name in self._flow.variables:
                symbol = ("variable", name)
                self.ranges[symbol] = (0, 1 << 62)
                return Form(offset, ((symbol, 1),))
        return None

    def _typed(self, operand: ast.Operand, kind: str, state: State) -> tuple[Form, Range] | None:
        """An operand as an instruction's type reads it, and its bounds."""
        form = self._value(operand, state)
        if form is None or kind not in TYPES or TYPES[kind].is_float:
            return None
        signed = TYPES[kind].signed
        exact = self._exact(form, TYPES[kind].bits, state.facts, signed=signed)
        return None if exact is None else (exact, self.bounds.of(exact, state.facts))

    # ---- instructions

    def step(self, number: int, instr: ast.Instr, state: State) -> None:
        """Follow one instruction.

        Raises:
            Unknown: It is an access that is followed, and where it goes is not known.
            TooMuchError: The kernel is too intricate.
        """
        self.bounds.spend()
        if self._flow.followed(instr):
            self._access(number, instr, state)
        slot = self._flow.slot(instr)
        if slot is not None and instr.op == "st":
            self._pass(slot, instr, state)
        names = destinations(instr)
        if not names:
            return
        if instr.op in ("setp", "and", "or", "xor", "not", "mov") and any(
            n in self._flow.predicates for n in names
        ):
            self._predicate(instr, names, state)
            return
        for name in names:
            if name in self._flow.predicates:
                state.conditions[name] = OPEN
        if len(names) == 1 and isinstance(instr.args[0], ast.Reg):
            form = self._made(number, instr, names[0], state)
            if form is None:
                form = self._any(number, names[0])
            forms = [form]
        elif instr.op in ("ld", "ldu") and (read := self._loaded(instr, len(names))) is not None:
            forms = read
        else:
            forms = [self._any(number, name) for name in names]
        for name, form in zip(names, forms, strict=True):
            before = state.forms.get(name)
            if instr.guard is not None and before != form:
                # One of two.
                if before is None:
                    form = self._any(number, name)
                else:
                    one, other = (self.bounds.of(f, state.facts) for f in (before, form))
                    span = min(one[0], other[0]), max(one[1], other[1])
                    form = self.symbol(("either", number, name), span, self.wide(name))
            state.forms[name] = form

    def _pass(self, slot: tuple[str, int, int], instr: ast.Instr, state: State) -> None:
        """Something is written where a device function finds it."""
        name, start, size = slot
        for other in [n for n in state.forms if n.startswith(f"{name}@")]:
            first, length = map(int, other.split("@")[1].split(":"))
            if first < start + size and start < first + length:
                del state.forms[other]
        form = self._value(instr.args[-1], state)
        if form is not None and instr.guard is None and elements(instr) == 1:
            state.forms[f"{name}@{start}:{size}"] = form

    def _access(self, number: int, instr: ast.Instr, state: State) -> None:
        address = next((a for a in instr.args if isinstance(a, ast.Addr)), None)
        if address is None:
            raise Unknown
        facts = state.facts
        if instr.guard is not None:
            condition = state.conditions.get(instr.guard.name, OPEN)
            more = condition.false if instr.guard_negated else condition.true
            facts = self.joined_facts(facts, more)
            if not self.bounds.possible(facts):
                return
        form = self._value(address.base, state)
        if form is None:
            raise Unknown
        named = [s for s, _ in form.terms if s[0] in ("own", "variable")]
        form = Form(form.const + address.offset, form.terms)
        size = _bytes(instr)
        if named:
            kind, name = named[0][0], str(named[0][1])
            offset = form.plus(Form(0, ((named[0], 1),)), -1)
            low, high = self.bounds.of(offset, facts)
            length = (self._flow.own if kind == "own" else self._flow.variables)[name]
            if low < 0 or high + size > length or len(named) > 1 or offset.coefficient(named[0]):
                raise Unknown
            if kind == "variable":
                self.variables.add(name)
            return
        exact = self._exact(self._narrowed(form, facts), 64, facts, signed=False)
        if exact is None:
            raise Unknown
        low, high = self.bounds.of(exact, facts)
        if low <= high:
            self.spans.setdefault((low, high + size), set()).add(number)

    def _narrowed(self, form: Form, facts: Facts) -> Form:
        """A form with numbers that were widened, where the facts say now that none had wrapped."""
        for symbol, coefficient in form.terms:
            if symbol in self._widened:
                narrow, bits, signed = self._widened[symbol]
                exact = self._exact(narrow, bits, facts, signed=signed)
                if exact is not None:
                    without = form.plus(Form(0, ((symbol, 1),)), -coefficient)
                    return self._narrowed(without.plus(exact, coefficient), facts)
        return form

    def _predicate(self, instr: ast.Instr, names: list[str], state: State) -> None:
        conditions = state.conditions
        made = OPEN
        if instr.op == "setp":
            made = self._compared(instr, state)
        elif instr.op == "not":
            of = self._condition(instr.args[1], state)
            made = Condition(of.false, of.true)
        elif instr.op == "mov":
            made = self._condition(instr.args[1], state)
        elif instr.op in ("and", "or"):
            one, other = (self._condition(a, state) for a in instr.args[1:3])
            if instr.op == "and":
                made = Condition(one.true + other.true)
            else:
                made = Condition((), one.false + other.false)
        # The second one of two is not followed.
        single = isinstance(instr.args[0], ast.Reg) and instr.guard is None
        for name in names:
            conditions[name] = made if single else OPEN

    def _condition(self, operand: ast.Operand, state: State) -> Condition:
        if isinstance(operand, ast.Not):
            of = state.conditions.get(operand.reg.name, OPEN)
            return Condition(of.false, of.true)
        if isinstance(operand, ast.Reg):
            return state.conditions.get(operand.name, OPEN)
        return OPEN

    def _compared(self, instr: ast.Instr, state: State) -> Condition:
        how = _COMPARE.get(instr.mods[0], instr.mods[0])
        kind = instr.mods[-1]
        if how not in _NOT or kind not in TYPES or TYPES[kind].is_float:
            return OPEN
        unread = [self._value(a, state) for a in instr.args[1:3]]
        if unread[0] is None or unread[1] is None:
            return OPEN
        self._limit(unread[0].plus(unread[1], -1), state.facts)
        one, other = (self._typed(a, kind, state) for a in instr.args[1:3])
        made = OPEN
        if one is not None and other is not None:
            made = Condition(_facts(how, one[0], other[0]), _facts(_NOT[how], one[0], other[0]))
        elif other is not None and kind[0] in "ub" and other[0].constant:
            made = self._below(how, unread[0], other[0], TYPES[kind].bits, state)
        boolean = next((m for m in instr.mods[1:-1] if m in ("and", "or", "xor")), None)
        if boolean is None:
            return made
        third = self._condition(instr.args[3], state)
        if boolean == "and":
            return Condition(made.true + third.true)
        return Condition((), made.false + third.false) if boolean == "or" else OPEN

    def _below(self, how: str, form: Form, limit: Form, bits: int, state: State) -> Condition:
        """An unsigned comparison says of a signed number that it is not negative."""
        exact = self._exact(form, bits, state.facts, signed=True)
        if exact is None or not 0 <= limit.const < 1 << bits - 1:
            return OPEN
        facts = (*_facts("ge", exact, _ZERO), *_facts("le" if how in ("le", "gt") else "lt",
                                                       exact, limit))  # fmt: skip
        if how in ("lt", "le"):
            return Condition(facts)
        return Condition((), facts) if how in ("ge", "gt") else OPEN

    def _limit(self, difference: Form, facts: Facts) -> None:
        """Note how often a loop may go round where two numbers are compared."""
        for symbol, coefficient in difference.terms:
            if symbol[0] != "round":
                continue
            rest = difference.plus(Form(0, ((symbol, 1),)), -coefficient)
            low, high = self.bounds.of(rest, facts)
            for end in (low, high):
                rounds = -end // coefficient
                if 0 <= rounds < UNBOUNDED:
                    self.limits.setdefault(symbol, set()).update(
                        n for n in range(rounds - 1, rounds + 3) if n >= 0
                    )

    def _loaded(self, instr: ast.Instr, count: int) -> list[Form] | None:
        """What is read of the arguments; None of other memory."""
        address = next((a for a in instr.args if isinstance(a, ast.Addr)), None)
        base = address.base if address is not None else None
        kind = TYPES.get(instr.mods[-1])
        if address is None or not isinstance(base, ast.Sym) or kind is None:
            return None
        start = self._flow.params.get(base.name)
        if start is None or kind.is_float:
            return None
        start += base.offset + address.offset
        end = start + count * kind.bytes
        if start < 0 or end > len(self._arguments):
            return None
        return [
            Form(int.from_bytes(self._arguments[at : at + kind.bytes], "little",
                                signed=kind.signed))
            for at in range(start, end, kind.bytes)
        ]  # fmt: skip

    def _made(self, number: int, instr: ast.Instr, name: str, state: State) -> Form | None:
        """What an instruction gives; None if that may be anything."""
        op, mods, args = instr.op, instr.mods, instr.args
        slot = self._flow.slot(instr)
        if slot is not None:
            passed = state.forms.get("{}@{}:{}".format(*slot))
            return passed if self.wide(name) == 8 * slot[2] else None
        if op in ("ld", "ldu"):
            found = self._loaded(instr, 1)
            if found is not None:
                return found[0]
            kind = TYPES.get(mods[-1])
            if kind is not None and kind.bits < self.wide(name) and not kind.is_float:
                span = _all(kind.bits, signed=kind.signed)
                return self.symbol(("any", number, name), span, self.wide(name))
            return None
        kind_name = mods[-1] if mods else ""
        kind = TYPES.get(kind_name)
        if (
            kind is None
            or kind.is_float
            or kind.kind in ("x2", "i2")
            or "sat" in mods
            or ("cc" in mods)
        ):
            return None
        if op == "mov" and isinstance(args[1], ast.Vec):
            return self._paired(args[1], kind.bits, state)
        if op in ("mov", "cvta"):
            return self._value(args[1], state) if kind.bits == self.wide(name) else None
        if op == "cvt":
            into = TYPES.get(mods[-2]) if len(mods) > 1 else None
            if into is None or into.is_float:
                return None
            if into.bits <= kind.bits and into.bits == self.wide(name):
                return self._value(args[1], state)
            if self.wide(name) != into.bits:
                return None
            read = self._typed(args[1], kind_name, state)
            if read is not None:
                return read[0]
            made = ("any", number, name)
            narrow = self._value(args[1], state)
            if narrow is not None:
                self._widened[made] = narrow, kind.bits, kind.signed
            return self.symbol(made, _all(kind.bits, signed=kind.signed), into.bits)
        if op in ("add", "sub") and kind.bits == self.wide(name):
            one, other = (self._value(a, state) for a in args[1:3])
            if one is None or other is None:
                return None
            return one.plus(other, 1 if op == "add" else -1)
        if op in ("mul", "mad"):
            return self._product(number, instr, name, kind_name, state)
        if op == "neg":
            value = self._value(args[1], state)
            return None if value is None else value.times(-1)
        if op == "shl":
            one, by = (self._value(a, state) for a in args[1:3])
            if one is None or by is None or not by.constant or not 0 <= by.const < kind.bits:
                return None
            return one.times(1 << by.const)
        if op == "selp":
            return self._hull(number, name, args[1:3], state)
        return self._computed(number, op, name, kind_name, args, state)

    def _paired(self, halves: ast.Vec, bits: int, state: State) -> Form | None:
        """Two registers as one."""
        if bits != 64 or len(halves.items) != 2:
            return None
        low, high = (self._typed(half, "u32", state) for half in halves.items)
        return None if low is None or high is None else low[0].plus(high[0], 1 << 32)

    def _product(
        self, number: int, instr: ast.Instr, name: str, kind: str, state: State
    ) -> Form | None:
        args, mods = instr.args, instr.mods
        wide = "wide" in mods
        if self.wide(name) != TYPES[kind].bits * (2 if wide else 1):
            return None
        if wide or "hi" in mods:
            read = [self._typed(a, kind, state) for a in args[1:3]]
            if read[0] is None or read[1] is None:
                return None
            one, other = read[0][0], read[1][0]
        else:
            values = [self._value(a, state) for a in args[1:3]]
            if values[0] is None or values[1] is None:
                return None
            one, other = values[0], values[1]
        if other.constant:
            made = one.times(other.const)
        elif one.constant:
            made = other.times(one.const)
        else:
            ranges = [self.bounds.of(f, state.facts) for f in (one, other)]
            corners = [a * b for a in ranges[0] for b in ranges[1]]
            span = min(corners), max(corners)
            made = self.symbol(("product", number, name), span, 128)
        if "hi" in mods:
            low, high = self.bounds.of(made, state.facts)
            bits = TYPES[kind].bits
            made = self.symbol(("high", number, name), (low >> bits, high >> bits), bits)
        if instr.op == "mad":
            added = self._value(args[3], state)
            if added is None:
                return None
            made = made.plus(added)
        return made

    def _hull(
        self, number: int, name: str, args: Sequence[ast.Operand], state: State
    ) -> Form | None:
        forms = [self._value(a, state) for a in args]
        if any(f is None for f in forms):
            return None
        if forms[0] == forms[1]:
            return forms[0]
        ranges = [self.bounds.of(f, state.facts) for f in forms if f is not None]
        span = min(r[0] for r in ranges), max(r[1] for r in ranges)
        return self.symbol(("either", number, name), span, self.wide(name))

    def _computed(
        self, number: int, op: str, name: str, kind: str, args: Sequence[ast.Operand],
        state: State,
    ) -> Form | None:  # fmt: skip
        """What is not linear: bounds of it."""
        if len(args) != 3:
            return None
        read = [self._typed(a, kind, state) for a in args[1:3]]
        if op == "and":
            # Bits of either one are more than none and at most all of it.
            known = [r for r in read if r is not None and r[1][0] >= 0]
            if not known:
                return None
            high = min(r[1][1] for r in known)
            other = read[1]
            if len(known) == 2 and other is not None and other[0].constant:
                mask = other[0].const
                if mask & (mask + 1) == 0 and read[0] is not None and read[0][1][1] <= mask:
                    return read[0][0]
            return self.symbol(("and", number, name), (0, high), self.wide(name))
        if read[0] is None or read[1] is None:
            return None
        (one, (low, high)), (other_form, (least, greatest)) = read[0], read[1]
        made: Range | None = None
        if op == "shr" and least == greatest and 0 <= least < TYPES[kind].bits:
            made = low >> least, high >> least
        elif op in ("min", "max"):
            pick = min if op == "min" else max
            if (high <= least) if op == "min" else (low >= greatest):
                return one
            made = pick(low, least), pick(high, greatest)
        elif op == "div" and low >= 0 and least > 0:
            made = low // greatest, high // least
        elif op == "rem" and low >= 0 and least > 0:
            if high < least:
                return one
            made = 0, min(high, greatest - 1)
        elif op in ("or", "xor") and low >= 0 and least >= 0:
            for a, b, most in ((one, other_form, greatest), (other_form, one, high)):
                step = 1 << most.bit_length()
                if a.const % step == 0 and all(c % step == 0 for _, c in a.terms):
                    return a.plus(b)
            made = 0, (1 << max(high, greatest).bit_length()) - 1
        return None if made is None else self.symbol((op, number, name), made, self.wide(name))


def full(bits: int) -> Range:
    """Every number of so many bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _all(bits: int, *, signed: bool) -> Range:
    """Every number of a type."""
    return full(bits) if signed else (0, (1 << bits) - 1)


def _facts(how: str, one: Form, other: Form) -> Facts:
    """Forms that are at most 0 if a comparison holds."""
    less, more = one.plus(other, -1), other.plus(one, -1)
    if how == "lt":
        return (Form(less.const + 1, less.terms),)
    if how == "le":
        return (less,)
    if how == "gt":
        return (Form(more.const + 1, more.terms),)
    if how == "ge":
        return (more,)
    if how == "eq":
        return less, more
    return (Form(less.const, ((("not 0",), 1), *less.terms)),)


def _bytes(instr: ast.Instr) -> int:
    """Bytes that an access moves."""
    kind = TYPES.get(instr.mods[-1])
    if kind is None:
        raise Unknown
    return kind.bytes * elements(instr)
