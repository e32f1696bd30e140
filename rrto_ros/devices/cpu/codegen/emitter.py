"""What every instruction emitter uses: registers, operands, guards and addresses.

Over 400 lines: it is all that the emitters of instructions know of the kernel around them.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping

from rrto_ros.devices.cpu.codegen.builder import Builder, Val, const
from rrto_ros.devices.cpu.codegen.containment import FAR, NEAR, contained
from rrto_ros.devices.cpu.passes.affine import Affine
from rrto_ros.devices.cpu.passes.layout import KernelLayout
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType
from rrto_ros.errors import PtxError

B8, U16, U32, U64 = TYPES["b8"], TYPES["u16"], TYPES["u32"], TYPES["u64"]
S32, B16, B32, B64, PRED = TYPES["s32"], TYPES["b16"], TYPES["b32"], TYPES["b64"], TYPES["pred"]

SPECIAL_REGISTERS = (
    "tid.{x,y,z}",
    "ntid.{x,y,z}",
    "ctaid.{x,y,z}",
    "nctaid.{x,y,z}",
    "laneid",
    "warpid",
    "nwarpid",
    "lanemask_{eq,lt,le,gt,ge}",
    "smid",
    "nsmid",
    "gridid",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "dynamic_smem_size",
    "total_smem_size",
    "envreg{1,2}",
    "is_explicit_cluster",
    "cluster_ctaid.x",
)
"""What special_value knows, as the support page names it."""


FORMS: dict[str, str] = {}
"""Opcode -> the forms that are supported, in words; `table.emits` fills it."""


def unsupported(instr: ast.Instr, why: str = "") -> PtxError:
    """The error for an instruction, or a form of it, that no emitter covers."""
    detail = f" ({why})" if why else ""
    known = f"; of {instr.op} there are: {FORMS[instr.op]}" if instr.op in FORMS else ""
    return PtxError(
        f"line {instr.line}: instruction {instr.text} is not supported{detail}{known}. "
        "docs/ptx_support.md lists what is; build the program for another form, or use the "
        "device gpu"
    )


class Emitter:
    """Emits the instructions of one region for one number of lanes.

    Attributes:
        b: The IR builder.
        slots: Register -> (stack slot, LLVM element type, one value per lane).
        affine: Registers whose slot holds the first lane's value, which gives all others.
        roots: Those of them that were widened -> slot with the first lane's value before.
        safe: Registers that address memory -> slot of the pointer that an access may use.
        moved: Instruction -> the register of which it moves the address a little.
        mask: Guard of the current instruction, or None.
        first: Whether an affine register is set now, so that values are those of lane 0.
        special: Special register -> value in the current thread loop.
        first_special: The same for lane 0, where that differs.
        local: Pointer(s) to the local memory of the thread(s).
        kernel_params: Names of the kernel's own parameters.
        threads: Threads of a block.
        region: Number of the region.
        arrivals: Barrier -> slot that counts bar.arrive, where barriers take part of a block.
        arrived: Array of these counts, where registers say which barrier; else "".
        memcheck: Whether every access is looked up first.
        param_bytes: Size of the kernel's own parameters.
    """

    def __init__(
        self,
        builder: Builder,
        layout: KernelLayout,
        slots: Mapping[str, tuple[str, str, bool]],
        affine: Mapping[str, Affine],
        roots: Mapping[str, str],
    ) -> None:
        self.b = builder
        self.layout = layout
        self.slots = slots
        self.affine = affine
        self.roots = roots
        self.safe: Mapping[str, str] = {}
        self.moved: Mapping[ast.Instr, str] = {}
        self.mask: Val | None = None
        self.first = False
        self.special: dict[str, Val] = {}
        self.first_special: dict[str, Val] = {}
        self.local: Val = Val("null", "ptr")
        self.kernel_params: frozenset[str] = frozenset()
        self.threads = 1
        self.memcheck = False
        self.region = 0
        self.arrivals: dict[int, str] = {}
        self.arrived = ""
        self.param_bytes = 0
        self.instr = ast.Instr("nop", (), ())
        self._known: dict[str, Val] = {}
        self._spread: dict[str, Val] = {}
        self._looked_at: set[tuple[str, int, int]] = set()
        self._contained: dict[str, Val] = {}
        self._safe: dict[str, Val] = {}

    # flow
    def begin_block(self, label: str) -> None:
        """Starts a basic block of the program: nothing is known about registers."""
        self.b.label(label)
        self._known.clear()
        self._spread.clear()
        self._looked_at.clear()
        self._contained.clear()
        self._safe.clear()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Code on a path of its own: what it loads is not known behind it."""
        known, spread, first = dict(self._known), dict(self._spread), self.first
        looked_at, inside = set(self._looked_at), dict(self._contained)
        safe = dict(self._safe)
        yield
        self._known, self._spread, self.first = known, spread, first
        self._looked_at, self._contained, self._safe = looked_at, inside, safe

    def predicate(self, reg: ast.Reg, negated: bool) -> Val:
        value = self.read(reg, PRED)
        return self.b.binary("xor", value, const(1, "i1")) if negated else value

    def is_predicate(self, name: str) -> bool:
        return self._slot(name)[1] == "i1"

    # registers
    def get(self, name: str) -> Val:
        """The value of a register in its own type."""
        if name in self.affine and not self.first:
            return self._all_lanes(name)
        return self._stored(name)

    def _all_lanes(self, name: str) -> Val:
        """An affine register in every lane."""
        known = self._spread.get(name)
        if known is not None:
            return known
        b, affine = self.b, self.affine[name]
        value = self._stored(name)
        if affine.exact:
            if affine.stride:
                value = b.binary("add", value, self._steps(affine.stride, value.type))
        else:
            root = self.root(name)
            end = b.binary("add", root, self._steps(affine.root, "i32"))
            moved = b.binary(
                "sub", b.resize(end, "i64", affine.signed), b.resize(root, "i64", affine.signed)
            )
            value = b.binary("add", value, b.binary("mul", moved, const(affine.factor, "i64")))
        self._spread[name] = value
        return value

    def _steps(self, step: int, type_: str, first: int = 0) -> Val:
        steps = [const(first + i * step, type_).text for i in range(self.b.lanes)]
        items = ", ".join(f"{type_} {text}" for text in steps)
        return Val(f"<{items}>", type_, True)

    def root(self, name: str) -> Val:
        """What lane 0 held before it was widened."""
        out = self.b.name("root")
        self.b.line(f"{out} = load i32, ptr {self.roots[name]}")
        return Val(out, "i32")

    def put_root(self, name: str, instr: ast.Instr) -> None:
        value = None
        for operand in instr.args[1:]:
            if isinstance(operand, ast.Special) and operand.name in ("tid.x", "laneid"):
                value = self.special_value(operand.name)
            elif isinstance(operand, ast.Reg) and operand.name in self.affine:
                known = self.affine[operand.name]
                if not known.exact:
                    value = self.root(operand.name)
                elif known.stride and self._slot(operand.name)[1] == "i32":
                    value = self._stored(operand.name)
            if value is not None:
                break
        if value is None:
            raise AssertionError(f"{name} was widened from nothing")
        if self.mask is not None:
            value = self.b.select(self.mask, value, self.root(name))
        self.b.line(f"store i32 {value.text}, ptr {self.roots[name]}")

    def _stored(self, name: str) -> Val:
        """What a register's slot holds."""
        known = self._known.get(name)
        if known is None:
            slot, kind, vec = self._slot(name)
            text = self.b.name("r")
            self.b.line(f"{text} = load {self.b.ty(kind, vec)}, ptr {slot}")
            known = self._known[name] = Val(text, kind, vec)
        return known

    def put(self, name: str, value: Val) -> None:
        """Sets a register; the value already has its type."""
        slot, kind, vec = self._slot(name)
        if value.type != kind:
            raise PtxError(
                f"line {self.instr.line}: {self.instr.text} writes {value.type} "
                f"to {name}, which holds {kind}"
            )
        if name in self.safe:
            self._put_safe(name, value, vec)
        if self.mask is not None:
            value = self.b.select(self.mask, value, self._stored(name))
        if vec:
            value = self.b.widen(value)
        elif value.vec:
            raise AssertionError(f"{name} differs between lanes but was taken for uniform")
        self.b.line(f"store {self.b.arg(value)}, ptr {slot}")
        self._known[name] = value
        self._spread.pop(name, None)

    def _put_safe(self, name: str, value: Val, vec: bool) -> None:
        """Sets the safe pointer of a register that is set to a value."""
        base = self.moved.get(self.instr)
        start = self._safe_pointer(base) if base is not None and base != name else None
        if start is not None and base is not None:
            # LLVM finds what was added; it is no more than the pass has found.
            pointer = self.offset(start, self.b.binary("sub", value, self.get(base)))
        else:
            pointer = contained(self.b, value)
        if self.mask is not None:
            pointer = self.b.select(self.mask, pointer, self._stored_safe(name))
        if vec:
            pointer = self.b.widen(pointer)
        self.b.line(f"store {self.b.arg(pointer)}, ptr {self.safe[name]}")
        self._safe[name] = pointer

    def _stored_safe(self, name: str) -> Val:
        """What the slot of a register's safe pointer holds."""
        known = self._safe.get(name)
        if known is None:
            text, vec = self.b.name("p"), self._slot(name)[2]
            self.b.line(f"{text} = load {self.b.ty('ptr', vec)}, ptr {self.safe[name]}")
            known = self._safe[name] = Val(text, "ptr", vec)
        return known

    def _safe_pointer(self, name: str, more: int = 0) -> Val | None:
        """The safe pointer of a register, moved by a constant; None where lanes are far apart."""
        near = self._stored_safe(name)
        affine = None if self.first else self.affine.get(name)
        if affine is None or (affine.exact and not affine.stride):
            return self.offset(near, const(more, "i64")) if more else near
        # What holds for the first lane holds for the others.
        if affine.exact:
            if abs(affine.stride) * (self.b.lanes - 1) > FAR:
                return None
            return self.offset(near, self._steps(affine.stride, "i64", more))
        if abs(affine.factor) << 32 > FAR:
            return None
        apart = self.b.binary("sub", self.get(name), self._stored(name))
        return self.offset(self.offset(near, const(more, "i64")) if more else near, apart)

    def _slot(self, name: str) -> tuple[str, str, bool]:
        found = self.slots.get(name)
        if found is None:
            raise PtxError(f"line {self.instr.line}: register {name} is not declared")
        return found

    def write(self, operand: ast.Operand, value: Val, kind: PtxType) -> None:
        """Writes a result of PTX type `kind` to a register, extending or truncating it."""
        if isinstance(operand, ast.Sink):
            return
        if not isinstance(operand, ast.Reg):
            raise unsupported(self.instr, "the destination must be a register")
        _, slot_type, _ = self._slot(operand.name)
        if slot_type != value.type:
            if slot_type == "i1" or value.type == "i1":
                raise unsupported(self.instr, f"{operand.name} does not fit the result")
            value = self.b.as_int(value)
            bits = Val("", slot_type).bits
            value = self.b.resize(value, f"i{bits}", kind.signed)
            value = self.b.bitcast(value, slot_type)
        self.put(operand.name, value)

    # operands
    def read(self, operand: ast.Operand, kind: PtxType) -> Val:
        """An operand as a value of PTX type `kind` (its LLVM type is kind.llvm)."""
        match operand:
            case ast.Reg(name):
                return self._convert(self.get(name), kind)
            case ast.Imm(value):
                return self._immediate(value, kind)
            case ast.FloatImm():
                return float_constant(operand, kind)
            case ast.Special(name):
                return self._convert(self.special_value(name), kind)
            case ast.Sym():
                return self._convert(self.symbol_address(operand), kind)
            case ast.Not(reg) if kind is PRED:
                return self.predicate(reg, True)
            case _:
                raise unsupported(self.instr, "unexpected kind of operand")

    def _convert(self, value: Val, kind: PtxType) -> Val:
        if value.type == kind.llvm:
            return value
        if value.type == "i1" or kind.llvm == "i1":
            raise unsupported(self.instr, "a predicate and a number are mixed")
        value = self.b.as_int(value)
        value = self.b.resize(value, kind.llvm_int, kind.signed)
        return self.b.bitcast(value, kind.llvm)

    def _immediate(self, value: int, kind: PtxType) -> Val:
        if kind.kind == "f" and kind.bits > 16:
            bits = struct.unpack("<Q", struct.pack("<d", float(value)))[0]
            return float_constant(ast.FloatImm(bits, 64), kind)
        if kind.name == "f16":
            return Val(f"0xH{value & 0xFFFF:04X}", "half")
        return const(value, kind.llvm)

    def special_value(self, name: str) -> Val:
        value = self._special(name)
        if value is not None:
            return value
        if name in (
            "clock",
            "clock64",
            "clock_hi",
            "globaltimer",
            "globaltimer_lo",
            "globaltimer_hi",
        ):
            return self._clock(name)
        if name == "laneid":
            return self.b.binary("and", self._linear(), const(31, "i32"))
        if name == "warpid":
            return self.b.binary("lshr", self._linear(), const(5, "i32"))
        if name.startswith("lanemask_"):
            return self._lanemask(name[9:])
        raise PtxError(f"line {self.instr.line}: special register %{name} is not supported")

    def _special(self, name: str) -> Val | None:
        if self.first and name in self.first_special:
            return self.first_special[name]
        return self.special.get(name)

    def _linear(self) -> Val:
        return self.first_special["linear"] if self.first else self.special["linear"]

    def _clock(self, name: str) -> Val:
        out = self.b.name()
        self.b.declared["cycles"] = "declare i64 @llvm.readcyclecounter()"
        self.b.line(f"{out} = call i64 @llvm.readcyclecounter()")
        value = Val(out, "i64")
        if name.endswith("_hi"):
            value = self.b.binary("lshr", value, const(32, "i64"))
        if name in ("clock64", "globaltimer"):
            return value
        return self.b.cast("trunc", value, "i32")

    def _lanemask(self, which: str) -> Val:
        one = self.b.binary("shl", const(1, "i32"), self.special_value("laneid"))
        below = self.b.binary("sub", one, const(1, "i32"))
        ones = const(-1, "i32")
        match which:
            case "eq":
                return one
            case "lt":
                return below
            case "le":
                return self.b.binary("or", below, one)
            case "ge":
                return self.b.binary("xor", below, ones)
            case "gt":
                return self.b.binary("xor", self.b.binary("or", below, one), ones)
        raise PtxError(f"special register %lanemask_{which} is not supported")

    # addresses
    def symbol_address(self, symbol: ast.Sym) -> Val:
        """The address of a variable: its offset for shared memory, else a real address."""
        placed = self.layout.symbols.get(symbol.name)
        if placed is None:
            raise PtxError(f"line {self.instr.line}: {symbol.name} is not declared")
        if placed.var.space == "shared" and not symbol.generic:
            return const(placed.offset + symbol.offset, "i64")
        return self.b.cast("ptrtoint", self._symbol_pointer(symbol), "i64")

    def _symbol_pointer(self, symbol: ast.Sym) -> Val:
        placed = self.layout.symbols.get(symbol.name)
        if placed is None:
            raise PtxError(f"line {self.instr.line}: {symbol.name} is not declared")
        base = {
            "param": Val("%params", "ptr"),
            "shared": Val("%shared", "ptr"),
            "global": Val("%globals", "ptr"),
            "const": Val("%globals", "ptr"),
        }.get(placed.var.space, self.local)
        if placed.var.space == "param" and not self._is_kernel_param(symbol.name):
            base = self.local
        distance = placed.offset + symbol.offset
        pointer = self.offset(base, const(distance, "i64"))
        if -NEAR <= distance <= NEAR or self.memcheck:
            return pointer
        return self.contained(self.b.cast("ptrtoint", pointer, "i64"))

    def on_stack(self, operand: ast.Operand) -> bool:
        """Whether an address is that of a variable which LLVM may keep in registers."""
        base = operand.base if isinstance(operand, ast.Addr) else None
        if not self.layout.stacked or not isinstance(base, ast.Sym):
            return False
        placed = self.layout.symbols.get(base.name)
        return placed is not None and (
            placed.var.space == "local"
            or (placed.var.space == "param" and not self._is_kernel_param(base.name))
        )

    def _is_kernel_param(self, name: str) -> bool:
        return name in self.kernel_params

    def offset(self, pointer: Val, bytes_: Val) -> Val:
        """A pointer moved by a number of bytes."""
        vec = pointer.vec or bytes_.vec
        out = self.b.name("p")
        self.b.line(f"{out} = getelementptr i8, {self.b.arg(pointer)}, {self.b.arg(bytes_)}")
        return Val(out, "ptr", vec)

    def contained(self, address: Val) -> Val:
        """The pointer of an address in the session's memory, else one that faults.

        The pointer may be moved by `NEAR` bytes.
        """
        known = self._contained.get(address.text)
        if known is None:
            known = self._contained[address.text] = contained(self.b, address)
        return known

    def pointer(self, operand: ast.Operand, space: str) -> Val:
        """Where a memory operand points in a state space ("" is generic).

        It lies in the session's memory, or an access to it faults; with `memcheck` it is what the
        program says, and `checked` looks it up.
        """
        if not isinstance(operand, ast.Addr):
            raise unsupported(self.instr, "expected an address in brackets")
        base = operand.base
        if isinstance(base, ast.Sym):
            return self._symbol_pointer(
                ast.Sym(base.name, base.offset + operand.offset, base.generic)
            )
        if space == "shared":
            return self.offset(Val("%shared", "ptr"), self._shared_offset(operand))
        if self.memcheck:
            return self.b.cast("inttoptr", self._address(operand, space), "ptr")
        if not -NEAR <= operand.offset <= NEAR:
            return self.contained(self._address(operand, space))
        if isinstance(base, ast.Reg) and base.name in self.safe:
            pointer = self._safe_pointer(base.name, operand.offset)
            if pointer is not None:
                return pointer
        near = self.contained(self._address(ast.Addr(base), space))
        return self.offset(near, const(operand.offset, "i64")) if operand.offset else near

    def _address(self, operand: ast.Addr, space: str) -> Val:
        """A generic address: a register or number, and a constant."""
        assert not isinstance(operand.base, ast.Sym)
        if space == "const" and isinstance(operand.base, ast.Imm):
            raise unsupported(self.instr, "absolute constant addresses")
        base = self.read(operand.base, U64)
        return self.b.binary("add", base, const(operand.offset, "i64")) if operand.offset else base

    def _shared_offset(self, operand: ast.Addr) -> Val:
        """An offset in shared memory: 32 bits, whatever holds it, so that none leads far."""
        b, base = self.b, operand.base
        assert not isinstance(base, ast.Sym)
        if isinstance(base, ast.Reg) and self._slot(base.name)[1] == "i32":
            value = self.get(base.name)
        elif self.memcheck:
            return self._address(operand, "shared")
        else:
            value = b.resize(self.read(base, U64), "i32", False)
        # These addresses wrap: a register may hold "minus something", and the first of
        # neighbouring lanes may lie before the others' memory if it is masked out.
        return b.resize(b.binary("add", value, const(operand.offset, "i32")), "i64", True)

    def row(self, operand: ast.Operand, space: str, span: int) -> tuple[Val, Val | None] | None:
        """Where lane 0 accesses memory, if the lanes access it side by side.

        Args:
            operand: The memory operand.
            space: Its state space.
            span: Bytes that each lane accesses.

        Returns:
            The pointer, and a condition that must hold for it (None: it always does); or None if
            the lanes access places that are not side by side.
        """
        if not isinstance(operand, ast.Addr) or not isinstance(operand.base, ast.Reg):
            return None
        name = operand.base.name
        affine = self.affine.get(name)
        if (
            affine is None
            or affine.stride != span
            or (self._slot(name)[1] != "i64" and space != "shared")
        ):
            return None
        saved, self.first = self.first, True
        pointer = self.pointer(operand, space)
        self.first = saved
        if affine.exact:
            return pointer, None
        b = self.b
        root, distance = self.root(name), affine.root * (b.lanes - 1)
        end = b.binary("add", root, const(distance, "i32"))
        moved = b.binary(
            "sub", b.resize(end, "i64", affine.signed), b.resize(root, "i64", affine.signed)
        )
        return pointer, b.compare("icmp eq", moved, const(distance, "i64"))

    def look_at_alignment(self, operand: ast.Operand, space: str, size: int) -> None:
        """Notes an access of `size` bytes that is not at a multiple of them.

        The access happens all the same: the launch fails at its end, and what it wrote is lost
        with the context, as on a GPU. So this costs one `or`, and less where addresses move by
        multiples of the size.
        """
        if self.memcheck or size < 2 or space == "param" or not isinstance(operand, ast.Addr):
            return
        first = self.first
        if isinstance(operand.base, ast.Sym):
            placed = self.layout.symbols.get(operand.base.name)
            if (
                placed is None
                or placed.var.space == "param"
                or not (placed.var.align % size or (operand.base.offset + operand.offset) % size)
            ):
                return
        elif isinstance(operand.base, ast.Reg):
            affine = self.affine.get(operand.base.name)
            self.first = affine is not None and affine.stride % size == 0
            key = (self.get(operand.base.name).text, operand.offset % size, size)
            if key in self._looked_at:
                self.first = first
                return
            if self.mask is None:
                self._looked_at.add(key)
        if isinstance(operand.base, ast.Sym):
            address = self.b.cast("ptrtoint", self.pointer(operand, space), "i64")
        elif space == "shared":
            address = self._shared_offset(operand)  # shared memory begins at a multiple
        else:
            # Of the number LLVM sees better than of the pointer that its low bits do not change.
            address = self._address(operand, space)
        self.first = first
        self.note_alignment(address, size)

    def note_alignment(self, address: Val, size: int) -> Val:
        """Notes an address that is no multiple of `size`; returns whether it is one."""
        b = self.b
        low = b.binary("and", address, const(size - 1, "i64"))
        good = b.compare("icmp eq", low, const(0, "i64"))
        if address.vec:
            odd = b.binary("xor", good, const(1, "i1"))
            if self.mask is not None:
                odd = b.binary("and", odd, self.mask)
            bits = self.lane_bits(odd)
        elif self.mask is None:
            bits = low
        else:
            some = self.mask
            if some.vec:
                some = b.compare("icmp ne", self.lane_bits(some), const(0, "i64"))
            bits = b.select(some, low, const(0, "i64"))
        seen, out = b.name("odd"), b.name("odd")
        b.line(f"{seen} = load i64, ptr %odd")
        b.line(f"{out} = or i64 {seen}, {bits.text}")
        b.line(f"store i64 {out}, ptr %odd")
        return good

    def lane_bits(self, mask: Val) -> Val:
        """One bit for each lane."""
        b = self.b
        out = b.name("bits")
        b.line(f"{out} = bitcast {b.arg(mask)} to i{b.lanes}")
        return b.resize(Val(out, f"i{b.lanes}"), "i64", False)

    # guards
    def when(self, condition: Val | None, action: Callable[[], None]) -> None:
        """Runs code that has side effects under a scalar condition."""
        if condition is None:
            action()
            return
        then, after = self.b.new_label("then"), self.b.new_label("after")
        self.b.line(f"br i1 {condition.text}, label %{then}, label %{after}")
        self.b.label(then)
        with self.aside():
            action()
        self.b.line(f"br label %{after}")
        self.b.label(after)


def float_constant(immediate: ast.FloatImm, kind: PtxType) -> Val:
    """A floating-point literal in the type that the instruction wants."""
    if not kind.is_float or kind.kind == "bf":
        return const(immediate.bits, kind.llvm)
    bits, width = immediate.bits, immediate.width
    if kind.bits == 64 and width == 64:
        return Val(f"0x{bits:016X}", "double")
    if width == 64:
        number = struct.unpack("<d", struct.pack("<Q", bits))[0]
        bits = struct.unpack("<I", struct.pack("<f", number))[0]
    if kind.bits == 32:
        return Val(f"0x{widen_bits(bits):016X}", "float")
    if kind.bits == 64:
        return Val(f"0x{widen_bits(bits):016X}", "double")
    return Val(f"0xH{bits & 0xFFFF:04X}", "half")


def widen_bits(bits: int) -> int:
    """Bits of a binary32 as the bits of the equal binary64, as LLVM writes float literals."""
    exponent, fraction = bits >> 23 & 0xFF, bits & 0x7FFFFF
    sign = bits >> 31 << 63
    if exponent == 0xFF:
        return sign | 0x7FF << 52 | fraction << 29
    number = struct.unpack("<f", struct.pack("<I", bits))[0]
    return int(struct.unpack("<Q", struct.pack("<d", number))[0])
