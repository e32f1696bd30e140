"""Functions that are not inlined: one copy of each in the kernel, activations on a stack.

They are those that call themselves and those that are called through registers.

`passes/inline` inlines every other function and leaves calls of these as `call`. Here each becomes
a jump to the function's copy and back. A thread's stack lies in its local memory, so what follows
is a kernel without calls like any other: barriers and warp exchanges inside work as they do
elsewhere, and threads may be at different depths.

An activation has a frame: where it returns to, its parameters and results, its own variables, and
room for the registers that a call inside may change and that are needed behind it.

Over 400 lines: calls, returns and what is saved around them all depend on the frame's layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from rrto_ros.devices.cpu.passes.cfg import build_blocks, destinations, live_in
from rrto_ros.devices.cpu.passes.layout import STACK, align_up
from rrto_ros.devices.cpu.passes.pointers import addressed, calls_through_register
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType
from rrto_ros.errors import PtxError

STACK_BYTES = 256 << 10
"""Of one thread. A GPU's is 1 KiB unless the program sets another limit."""
_FRAME = ast.Reg("$frame")
"""Where the frame of the running activation begins."""
_NEXT = ast.Reg("$next")
_FULL = "$full"
STACK_FULL = "$stack"
"""What is behind the name of the trap of a thread whose stack is full."""
_HEADER = 16
Code = list[ast.Instr | ast.Label]


@dataclass
class Outlined:
    """The copy of a function that calls itself.

    Attributes:
        function: As the module has it.
        suffix: What its names have behind them in the copy.
        component: Number of the functions that call each other.
        code: Other functions inlined; `ret` is a jump to the label at its end.
        variables: Variables of each activation, with the names of the copy.
    """

    function: ast.Function
    suffix: str
    component: int
    code: Code = field(default_factory=list)
    variables: list[ast.Var] = field(default_factory=list)

    def parts(self, var: ast.Var) -> list[tuple[ast.Reg, int, PtxType]]:
        """The registers of a parameter or result in registers, with offset and type."""
        count = var.size // var.type.bytes
        names = [var.name] if count < 2 else [f"{var.name}.{e}" for e in "xyzw"[:count]]
        kind = var.type if var.type.kind == "pred" else TYPES[f"b{var.type.bits}"]
        return [(ast.Reg(name + self.suffix), 8 * at, kind) for at, name in enumerate(names)]


def components(kernel: ast.Function, module: ast.Module) -> dict[str, int]:
    """Functions that a kernel may call and that are not inlined -> number of their cycle.

    Functions with the same number call each other (Tarjan's algorithm, without recursion).
    """
    pointed: list[str] = []

    def called(function: ast.Function) -> Iterator[str]:
        names, through_register = _called(function, module)
        if through_register and not pointed:
            pointed.extend(addressed(module))
        return iter([*names, *(pointed if through_register else ())])

    index: dict[str, int] = {kernel.name: 0}
    low = {kernel.name: 0}
    stack, on_stack = [kernel.name], {kernel.name}
    result: dict[str, int] = {}
    work = [(kernel.name, called(kernel))]
    calls_itself = set()
    while work:
        name, rest = work[-1]
        callee = next(rest, None)
        if callee is None:
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[name])
            if low[name] == index[name]:
                at = stack.index(name)
                members = stack[at:]
                del stack[at:]
                on_stack.difference_update(members)
                if len(members) > 1 or name in calls_itself:
                    result.update(dict.fromkeys(members, index[name]))
            continue
        if callee == name:
            calls_itself.add(name)
        if callee not in index:
            index[callee] = low[callee] = len(index)
            stack.append(callee)
            on_stack.add(callee)
            work.append((callee, called(module.functions[callee])))
        elif callee in on_stack:
            low[name] = min(low[name], index[callee])
    for name in pointed:
        result.setdefault(name, index[name])
    return result


def _called(function: ast.Function, module: ast.Module) -> tuple[list[str], bool]:
    """Functions that one calls by name, and whether it also calls through registers."""
    names: dict[str, None] = {}
    through_register = False
    for item in function.body or ():
        if isinstance(item, ast.Instr) and item.op == "call":
            if calls_through_register(item):
                through_register = True
                continue
            target = next((a for a in item.args if isinstance(a, ast.Sym)), None)
            known = module.functions.get(target.name) if target is not None else None
            if known is not None and known.body is not None and not known.is_entry:
                names[known.name] = None
    return list(names), through_register


@dataclass
class _Frame:
    """A function's frame and code.

    Attributes:
        entry: Label of its start.
        places: Names of parameters, results and variables -> offset.
        slots: Registers that are kept -> offset.
        size: With all of them, a multiple of the stack's alignment.
        code: From taking its parameters to giving its results, calls and variables as they were.
        kept: Call in the code -> registers to keep for what is behind it.
        sites: Labels behind the calls of the function; a frame holds the number of one.
    """

    copy: Outlined
    entry: str
    places: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    size: int = _HEADER
    code: Code = field(default_factory=list)
    kept: dict[int, list[str]] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)

    def room(self, size: int, align: int) -> int:
        """The offset of so many bytes more."""
        start = align_up(self.size, max(align, 8))
        self.size = start + size
        return start


class Stack:
    """Puts the copies of functions behind a kernel's code.

    Args:
        kernel: Its name, for messages.
        regs: Registers of the kernel and of all copies; gets what is needed besides.
        tables: Branch tables; gets those of the returns.
        outlined: The copies by the functions' names.
    """

    def __init__(
        self,
        kernel: str,
        regs: dict[str, PtxType],
        tables: dict[str, tuple[str, ...]],
        outlined: Mapping[str, Outlined],
    ) -> None:
        self.kernel = kernel
        self.regs = regs
        self.tables = tables
        self.outlined = outlined
        self._count = 0
        self._align = max(
            [
                _HEADER,
                *(
                    v.align
                    for c in outlined.values()
                    for v in (*c.function.params, *c.function.returns, *c.variables)
                ),
            ]
        )
        self._frames: dict[str, _Frame] = {}
        for number, (name, copy) in enumerate(outlined.items()):
            self._frames[name] = self._frame(copy, f"$enter{number}")

    def lower(self, kernel: Code) -> tuple[Code, ast.Var]:
        """The whole code, and the variable that is a thread's stack."""
        self.regs.update({_FRAME.name: TYPES["u64"], _NEXT.name: TYPES["u64"]})
        result: Code = [ast.Instr("mov", ("u64",), (_FRAME, ast.Sym(STACK)))]
        result += self._lowered(kernel, None)
        result.append(ast.Instr("ret", (), ()))
        for frame in self._frames.values():
            back = self.temporary(TYPES["b32"])
            result += [
                ast.Label(frame.entry),
                *self._lowered(frame.code, frame),
                ast.Instr("ld", ("local", "b32"), (back, ast.Addr(_FRAME))),
                ast.Instr("brx", ("idx",), (back, ast.Sym(f"{frame.entry}$back"))),
            ]
        for frame in self._frames.values():
            self.tables[f"{frame.entry}$back"] = tuple(frame.sites) or (_FULL,)
        result += [ast.Label(_FULL), ast.Instr("trap", (STACK_FULL,), ())]
        return result, ast.Var("local", TYPES["b8"], STACK, self._align, STACK_BYTES)

    def _frame(self, copy: Outlined, entry: str) -> _Frame:
        frame = _Frame(copy, entry)
        function = copy.function
        for var in (*function.params, *function.returns):
            size = var.size if var.space == "param" else 8 * len(copy.parts(var))
            frame.places[var.name + copy.suffix] = frame.room(size, var.align)
        for var in copy.variables:
            frame.places[var.name] = frame.room(var.size, var.align)
        for var in function.params:
            if var.space == "reg":
                place = frame.places[var.name + copy.suffix]
                for register, offset, kind in copy.parts(var):
                    frame.code += self._load(register, kind, _FRAME, place + offset)
        frame.code += copy.code
        for var in function.returns:
            if var.space == "reg":
                place = frame.places[var.name + copy.suffix]
                for register, offset, kind in copy.parts(var):
                    frame.code += self._store(register, kind, _FRAME, place + offset)
        frame.kept = self._kept(copy, frame.code)
        for name in dict.fromkeys(n for names in frame.kept.values() for n in names):
            size = max(self.regs[name].bytes, 4)
            frame.slots[name] = frame.room(size, size)
        frame.size = align_up(frame.size, self._align)
        return frame

    def _kept(self, copy: Outlined, code: Code) -> dict[int, list[str]]:
        """Call (its position) -> registers that it may change and that are needed behind it.

        Functions of other cycles, and the kernel, have registers of their own.
        """
        blocks = build_blocks(
            ast.Function(
                copy.function.name, False, regs=self.regs, body=tuple(code), tables=self.tables
            )
        )
        live = live_in(blocks)
        behind = {
            id(b.instrs[-1]): live[b.targets[0]]
            for b in blocks
            if b.instrs and b.instrs[-1].op == "call"
        }
        return {
            at: sorted(behind[id(item)] - {_FRAME.name, *destinations(item)})
            for at, item in enumerate(code)
            if isinstance(item, ast.Instr)
            and item.op == "call"
            and self.outlined[_target(item)].component == copy.component
        }

    # the code of the kernel or of a copy, with calls and variables where they are now
    def _lowered(self, code: Code, frame: _Frame | None) -> Code:
        result: Code = []
        for at, item in enumerate(code):
            if isinstance(item, ast.Label):
                result.append(item)
            elif item.op == "call":
                result += self._call(item, frame, frame.kept.get(at, []) if frame else [])
            else:
                result += self._placed(item, frame)
        return result

    def _call(self, call: ast.Instr, frame: _Frame | None, kept: Iterable[str]) -> Code:
        returns, _, passed = call.args
        assert isinstance(returns, ast.Vec)
        assert isinstance(passed, ast.Vec)
        called = self._frames[_target(call)]
        own = frame.size if frame is not None else 0
        back = f"{called.entry}$site{len(called.sites)}"
        over, last = self.temporary(TYPES["pred"]), self.temporary(TYPES["u64"])
        code: Code = [
            ast.Instr("add", ("u64",), (_NEXT, _FRAME, ast.Imm(own))),
            ast.Instr("mov", ("u64",), (last, ast.Sym(STACK, STACK_BYTES - called.size))),
            ast.Instr("setp", ("gt", "u64"), (over, _NEXT, last)),
            ast.Instr("bra", (), (ast.Sym(_FULL),), over),
        ]
        for var, value in zip(called.copy.function.params, passed.items, strict=True):
            code += self._pass(called, var, value, frame, call, into=True)
        for name in kept:
            assert frame is not None
            code += self._store(ast.Reg(name), self.regs[name], _FRAME, frame.slots[name])
        code += [
            ast.Instr("st", ("local", "b32"), (ast.Addr(_NEXT), ast.Imm(len(called.sites)))),
            ast.Instr("mov", ("u64",), (_FRAME, _NEXT)),
            ast.Instr("bra", (), (ast.Sym(called.entry),)),
            ast.Label(back),
            ast.Instr("mov", ("u64",), (_NEXT, _FRAME)),
            ast.Instr("sub", ("u64",), (_FRAME, _FRAME, ast.Imm(own))),
        ]
        called.sites.append(back)
        for name in kept:
            assert frame is not None
            code += self._load(ast.Reg(name), self.regs[name], _FRAME, frame.slots[name])
        for var, value in zip(called.copy.function.returns, returns.items, strict=True):
            code += self._pass(called, var, value, frame, call, into=False)
        return code

    def _pass(
        self,
        called: _Frame,
        var: ast.Var,
        value: ast.Operand,
        frame: _Frame | None,
        call: ast.Instr,
        *,
        into: bool,
    ) -> Code:
        """A parameter into the called function's frame, or a result out of it."""
        place = called.places[var.name + called.copy.suffix]
        code: Code = []
        if var.space == "param":
            if not isinstance(value, ast.Sym):
                raise PtxError(
                    f"line {call.line}: {self.kernel}: argument {var.name} must be a variable"
                )
            for offset, size in _words(var.size, var.align):
                kind = TYPES[f"b{8 * size}"]
                held = self.temporary(TYPES["b32"] if size < 4 else kind)
                here, there = ast.Addr(value, offset), ast.Addr(_NEXT, place + offset)
                passing = (
                    ast.Instr("ld", ("param", kind.name), (held, here)),
                    ast.Instr("st", ("local", kind.name), (there, held)),
                )
                giving = (
                    ast.Instr("ld", ("local", kind.name), (held, there)),
                    ast.Instr("st", ("param", kind.name), (here, held)),
                )
                for instr in passing if into else giving:
                    code += self._placed(instr, frame)
            return code
        values = value.items if isinstance(value, ast.Vec) else (value,)
        for (_, offset, kind), one in zip(called.copy.parts(var), values, strict=True):
            if isinstance(one, ast.Sink):
                continue
            held = self.temporary(kind)
            if into:
                code += self._placed(ast.Instr("mov", (kind.name,), (held, one)), frame)
                code += self._store(held, kind, _NEXT, place + offset)
            else:
                code += self._load(held, kind, _NEXT, place + offset)
                code.append(ast.Instr("mov", (kind.name,), (one, held)))
        return code

    def _placed(self, instr: ast.Instr, frame: _Frame | None) -> Code:
        """An instruction with the variables of the activation where its frame has them."""
        if frame is None:
            return [instr]
        before: Code = []
        places, found = frame.places, False
        args = []
        for arg in instr.args:
            if (
                isinstance(arg, ast.Addr)
                and isinstance(arg.base, ast.Sym)
                and (arg.base.name in places)
            ):
                found = True
                arg = ast.Addr(_FRAME, places[arg.base.name] + arg.base.offset + arg.offset)
            elif isinstance(arg, ast.Sym) and arg.name in places and instr.op != "bra":
                held = self.temporary(TYPES["u64"])
                before.append(
                    ast.Instr(
                        "add",
                        ("u64",),
                        (held, _FRAME, ast.Imm(places[arg.name] + arg.offset)),
                        line=instr.line,
                    )
                )
                arg = held
            args.append(arg)
        mods = tuple("local" if found and m.split("::")[0] == "param" else m for m in instr.mods)
        return [*before, replace(instr, args=tuple(args), mods=mods)]

    # pieces of code
    def temporary(self, kind: PtxType) -> ast.Reg:
        """A register that nothing else uses."""
        self._count += 1
        register = ast.Reg(f"$k{self._count}")
        self.regs[register.name] = kind
        return register

    def _store(self, register: ast.Reg, kind: PtxType, base: ast.Reg, offset: int) -> Code:
        """A register into a frame."""
        at = ast.Addr(base, offset)
        if kind.kind != "pred":
            return [ast.Instr("st", ("local", f"b{kind.bits}"), (at, register))]
        held = self.temporary(TYPES["b32"])
        return [
            ast.Instr("selp", ("b32",), (held, ast.Imm(1), ast.Imm(0), register)),
            ast.Instr("st", ("local", "b32"), (at, held)),
        ]

    def _load(self, register: ast.Reg, kind: PtxType, base: ast.Reg, offset: int) -> Code:
        """A register out of a frame."""
        at = ast.Addr(base, offset)
        if kind.kind != "pred":
            return [ast.Instr("ld", ("local", f"b{kind.bits}"), (register, at))]
        held = self.temporary(TYPES["b32"])
        return [
            ast.Instr("ld", ("local", "b32"), (held, at)),
            ast.Instr("setp", ("ne", "u32"), (register, held, ast.Imm(0))),
        ]


def _target(call: ast.Instr) -> str:
    target = call.args[1]
    assert isinstance(target, ast.Sym)
    return target.name


def _words(size: int, align: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the loads that read a variable whole, each aligned."""
    offset = 0
    while offset < size:
        width = min(8, max(align, 1))
        while width > size - offset or offset % width:
            width //= 2
        yield offset, width
        offset += width
