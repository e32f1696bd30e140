"""Inlines calls of .func functions, with their registers, variables and labels renamed.

Functions that call themselves, directly or through others, and those that are called through
registers are left to `passes/recursion`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from rrto_ros.devices.cpu.passes.pointers import (
    BAD_POINTER,
    addressed,
    calls_through_register,
    fits,
    function_addresses,
    taken,
)
from rrto_ros.devices.cpu.passes.recursion import Outlined, Stack, components
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.renaming import renamed
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType
from rrto_ros.errors import PtxError

_SERVICES = {"vprintf": 2, "__assertfail": 4}
"""Functions of the driver, and how many of their arguments matter."""
_LINE = 2
"""Which argument of __assertfail is the number of a line, 32 bits."""
MAX_INSTRUCTIONS = 2_000_000
_MAX_DEPTH = 64
_NEXT = "Build the program with a loop or a switch in its place, or use the device gpu"


class _Inliner:
    def __init__(self, kernel: ast.Function, module: ast.Module) -> None:
        self.kernel = kernel
        self.module = module
        self.regs: dict[str, PtxType] = dict(kernel.regs)
        self.variables: list[ast.Var] = list(kernel.variables)
        self.tables = dict(kernel.tables)
        self.code: list[ast.Instr | ast.Label] = []
        self.count = 0
        self.cycles = components(kernel, module)
        self.addresses = function_addresses(module.functions)
        self.outlined: dict[str, Outlined] = {}
        self.own = self.variables
        """Variables that each thread, or each activation of a function, has."""

    def whole(self) -> ast.Function:
        """The kernel without calls."""
        self.expand(self.kernel.body or (), (self.kernel.name,))
        code = self.code
        done = 0
        while done < len(self.outlined):  # a copy may need others
            self._outline(list(self.outlined.values())[done])
            done += 1
        if self.outlined:
            stack = Stack(self.kernel.name, self.regs, self.tables, self.outlined)
            code, variable = stack.lower(code)
            self.variables.append(variable)
        return replace(
            self.kernel,
            regs=self.regs,
            variables=tuple(self.variables),
            tables=self.tables,
            body=tuple(code),
        )

    def _outline(self, copy: Outlined) -> None:
        """The code of a copy."""
        function = copy.function
        rename = _Renamer(function, copy.suffix)
        for var in (*function.params, *function.returns):
            rename.names[var.name] = var.name + copy.suffix
        self.code, self.own = copy.code, copy.variables
        self._body(function, rename, copy.suffix, ())

    def expand(self, body: tuple[ast.Instr | ast.Label, ...], stack: tuple[str, ...]) -> None:
        for item in body:
            if isinstance(item, ast.Instr) and item.op == "call":
                if calls_through_register(item):
                    self._choose(item, stack)
                else:
                    self._call(item, stack)
            elif isinstance(item, ast.Instr) and any(n in self.addresses for n in taken(item)):
                self.code.append(self._with_addresses(item))
            else:
                self.code.append(item)
            if len(self.code) > MAX_INSTRUCTIONS:
                raise PtxError(f"{self.kernel.name}: too large after inlining its calls")

    def _with_addresses(self, instr: ast.Instr) -> ast.Instr:
        """An instruction with numbers for the functions whose addresses it takes."""
        return replace(
            instr,
            args=tuple(
                ast.Imm(self.addresses[a.name] + a.offset)
                if isinstance(a, ast.Sym) and a.name in self.addresses
                else a
                for a in instr.args
            ),
        )

    def _choose(self, call: ast.Instr, stack: tuple[str, ...]) -> None:
        """A call through a register: of the function whose address it holds."""
        before = tuple(itertools.takewhile(lambda a: isinstance(a, ast.Vec), call.args))
        target, *rest = call.args[len(before) :]
        passed = rest[0] if rest and isinstance(rest[0], ast.Vec) else ast.Vec(())
        returns = before[0].items if before and isinstance(before[0], ast.Vec) else ()
        sizes = {v.name: v.size for v in (*self.variables, *self.own)}
        self.count += 1
        done, suffix = f"$chosen{self.count}", self.count
        if call.guard is not None:
            self.code.append(
                ast.Instr(
                    "bra", (), (ast.Sym(done),), call.guard, not call.guard_negated, call.line
                )
            )
        other = ast.Reg(f"$other{suffix}")
        self.regs[other.name] = TYPES["pred"]
        for number, name in enumerate(addressed(self.module)):
            if not fits(self.module.functions[name], passed.items, returns, sizes):
                continue
            next_ = f"{done}n{number}"
            self.code += [
                ast.Instr(
                    "setp",
                    ("ne", "u64"),
                    (other, target, ast.Imm(self.addresses[name])),
                    line=call.line,
                ),
                ast.Instr("bra", (), (ast.Sym(next_),), other, line=call.line),
            ]
            self._call(
                ast.Instr("call", call.mods, (*before, ast.Sym(name), passed), line=call.line),
                stack,
            )
            self.code += [ast.Instr("bra", (), (ast.Sym(done),), line=call.line), ast.Label(next_)]
        self.code += [ast.Instr("trap", (BAD_POINTER,), (), line=call.line), ast.Label(done)]

    def _call(self, call: ast.Instr, stack: tuple[str, ...]) -> None:
        args = list(call.args)
        returns: tuple[ast.Operand, ...] = ()
        if args and isinstance(args[0], ast.Vec):
            first = args.pop(0)
            assert isinstance(first, ast.Vec)
            returns = first.items
        target = args.pop(0) if args else None
        if not isinstance(target, ast.Sym):
            raise PtxError(
                f"line {call.line}: instruction {call.text} names no function and no "
                f"register ({self.kernel.name})"
            )
        passed = args[0].items if args and isinstance(args[0], ast.Vec) else ()
        function = self.module.functions.get(target.name)
        if target.name in _SERVICES and (function is None or function.body is None):
            self._service(call, target.name, returns, passed)
            return
        if function is not None and function.is_entry:
            raise PtxError(
                f"line {call.line}: instruction {call.text}: {target.name} is a "
                f"kernel, which only a launch starts ({self.kernel.name})"
            )
        if function is None or function.body is None:
            raise PtxError(
                f"line {call.line}: call of {target.name} is not supported "
                f"({self.kernel.name}): the module does not define it"
            )
        if len(stack) > _MAX_DEPTH:
            raise PtxError(
                f"line {call.line}: instruction {call.text}: {target.name} is called "
                f"by functions that are inlined more than {_MAX_DEPTH} deep "
                f"({self.kernel.name}). {_NEXT}"
            )
        if not function.returns:
            returns = ()  # another module declared a result, which nobody writes
        if len(passed) != len(function.params) or len(returns) != len(function.returns):
            raise PtxError(
                f"line {call.line}: call of {target.name} with the wrong number of arguments"
            )
        self.count += 1
        suffix = f"$c{self.count}"
        rename = _Renamer(function, suffix)
        skip = f"$skip{suffix}"
        if call.guard is not None:
            self.code.append(
                ast.Instr(
                    "bra", (), (ast.Sym(skip),), call.guard, not call.guard_negated, call.line
                )
            )
        if target.name in self.cycles:
            self._leave(call, function, returns, passed)
            self.code.append(ast.Label(skip))
            return
        for names, values in ((function.params, passed), (function.returns, returns)):
            for var, value in zip(names, values, strict=True):
                self._bind(var, value, rename)
        self._bind_registers(function.params, passed, rename, call, into=True)
        self._body(function, rename, suffix, stack)
        self._bind_registers(function.returns, returns, rename, call, into=False)
        if call.guard is not None:
            self.code.append(ast.Label(skip))

    def _body(
        self, function: ast.Function, rename: _Renamer, suffix: str, stack: tuple[str, ...]
    ) -> None:
        """The code of a function under its new names, with what it declares."""
        for name, kind in function.regs.items():
            self.regs[rename.names.get(name, name)] = kind
        for var in function.variables:
            if var.space in ("shared", "global", "const"):
                # One for all calls of the function, and no other function's.
                name = f"{var.name}$f${function.name}"
                rename.names[var.name] = name
                if all(known.name != name for known in self.variables):
                    self.variables.append(replace(var, name=name))
            else:
                self.own.append(replace(var, name=rename.names[var.name]))
        for table, labels in function.tables.items():
            self.tables[table + suffix] = tuple(label + suffix for label in labels)
        self.expand(rename.body(function.body or ()), (*stack, function.name))
        self.code.append(ast.Label(rename.end))

    def _leave(
        self,
        call: ast.Instr,
        function: ast.Function,
        returns: tuple[ast.Operand, ...],
        passed: tuple[ast.Operand, ...],
    ) -> None:
        """A call of a function that calls itself, for `passes/recursion`."""
        name = function.name
        if name not in self.outlined:
            self.outlined[name] = Outlined(function, f"$o{len(self.outlined)}", self.cycles[name])
        self.code.append(
            ast.Instr(
                "call", (), (ast.Vec(returns), ast.Sym(name), ast.Vec(passed)), line=call.line
            )
        )

    def _service(
        self,
        call: ast.Instr,
        name: str,
        returns: tuple[ast.Operand, ...],
        passed: tuple[ast.Operand, ...],
    ) -> None:
        """A call of the driver becomes an instruction on registers."""
        if len(passed) < _SERVICES[name] or not all(
            isinstance(a, ast.Sym) for a in (*passed, *returns)
        ):
            raise PtxError(f"line {call.line}: call of {name} with the wrong arguments")
        self.count += 1
        registers = []
        for k, value in enumerate(passed[: _SERVICES[name]]):
            assert isinstance(value, ast.Sym)
            register = ast.Reg(f"$s{self.count}_{k}")
            self.regs[register.name] = TYPES["b64"]
            registers.append(register)
            kind = "u32" if name == "__assertfail" and k == _LINE else "u64"
            self.code.append(
                ast.Instr("ld", ("param", kind), (register, ast.Addr(value)), line=call.line)
            )
        skip = f"$skip$s{self.count}"
        if call.guard is not None:
            self.code.append(
                ast.Instr(
                    "bra", (), (ast.Sym(skip),), call.guard, not call.guard_negated, call.line
                )
            )
        if name == "vprintf":
            result = ast.Reg(f"$s{self.count}")
            self.regs[result.name] = TYPES["b32"]
            self.code.append(ast.Instr("vprintf", (), (result, *registers), line=call.line))
            for value in returns:
                assert isinstance(value, ast.Sym)
                self.code.append(
                    ast.Instr("st", ("param", "b32"), (ast.Addr(value), result), line=call.line)
                )
        else:
            self.code.append(ast.Instr("assertfail", (), tuple(registers), line=call.line))
            self.code.append(ast.Instr("exit", (), (), line=call.line))
        if call.guard is not None:
            self.code.append(ast.Label(skip))

    def _bind(self, var: ast.Var, value: ast.Operand, rename: _Renamer) -> None:
        """A .param formal and its actual are the same buffer."""
        if var.space == "param":
            if not isinstance(value, ast.Sym):
                raise PtxError(f"{self.kernel.name}: argument {var.name} must be a variable")
            rename.names[var.name] = value.name

    def _bind_registers(
        self,
        formals: tuple[ast.Var, ...],
        actuals: tuple[ast.Operand, ...],
        rename: _Renamer,
        call: ast.Instr,
        *,
        into: bool,
    ) -> None:
        for var, value in zip(formals, actuals, strict=True):
            if var.space != "reg":
                continue
            kind = "pred" if var.type.kind == "pred" else f"b{var.type.bits}"
            mods: tuple[str, ...] = (kind,)
            inner: ast.Operand
            if (size := var.size // var.type.bytes) > 1:
                mods = (f"v{size}", kind)
                inner = ast.Vec(
                    tuple(
                        ast.Reg(rename.names[f"{var.name}.{element}"]) for element in "xyzw"[:size]
                    )
                )
            else:
                inner = ast.Reg(rename.names[var.name])
            pair = (inner, value) if into else (value, inner)
            self.code.append(ast.Instr("mov", mods, pair, line=call.line))


class _Renamer:
    """Gives a function body fresh names; `ret` becomes a jump behind it."""

    def __init__(self, function: ast.Function, suffix: str) -> None:
        self.suffix = suffix
        self.end = f"$end{suffix}"
        self.names = {n: n + suffix for n in function.regs}
        self.names.update({v.name: v.name + suffix for v in function.variables})
        self.labels = {i.name for i in function.body or () if isinstance(i, ast.Label)}
        self.labels.update(function.tables)

    def body(self, items: tuple[ast.Instr | ast.Label, ...]) -> tuple[ast.Instr | ast.Label, ...]:
        return tuple(
            ast.Label(i.name + self.suffix) if isinstance(i, ast.Label) else self._instr(i)
            for i in items
        )

    def _instr(self, instr: ast.Instr) -> ast.Instr:
        guard = instr.guard and self._reg(instr.guard)
        if instr.op == "ret":
            return ast.Instr(
                "bra", (), (ast.Sym(self.end),), guard, instr.guard_negated, instr.line
            )
        return replace(instr, guard=guard, args=tuple(self.operand(a) for a in instr.args))

    def operand(self, operand: ast.Operand) -> ast.Operand:
        return renamed(operand, reg=self._reg, sym=self._sym)

    def _reg(self, reg: ast.Reg) -> ast.Reg:
        return ast.Reg(self.names.get(reg.name, reg.name))

    def _sym(self, sym: ast.Sym) -> ast.Sym:
        if sym.name in self.labels:
            return ast.Sym(sym.name + self.suffix)
        return replace(sym, name=self.names.get(sym.name, sym.name))


def _unshadowed(kernel: ast.Function, module: ast.Module) -> ast.Function:
    """The kernel with those of its names renamed that hide the module's from what it calls."""
    outside = {v.name for v in module.variables}
    own = {v.name for v in (*kernel.variables, *kernel.params)} & outside
    if not own:
        return kernel
    names = {name: f"{name}$k" for name in own}

    def sym(symbol: ast.Sym) -> ast.Sym:
        return replace(symbol, name=names.get(symbol.name, symbol.name))

    variables, params = (
        tuple(replace(v, name=names.get(v.name, v.name)) for v in some)
        for some in (kernel.variables, kernel.params)
    )
    body = tuple(
        replace(code, args=tuple(renamed(a, sym=sym) for a in code.args))
        if isinstance(code, ast.Instr)
        else code
        for code in kernel.body or ()
    )
    return replace(kernel, variables=variables, params=params, body=body)


def inline_calls(kernel: ast.Function, module: ast.Module) -> ast.Function:
    """The kernel with every call replaced by the body of the function it names.

    Raises:
        PtxError: A function that the module does not define
            (malloc and free of a kernel, which a real driver has).
    """
    body = kernel.body or ()
    if not any(
        isinstance(i, ast.Instr)
        and (i.op == "call" or any(n in module.functions for n in taken(i)))
        for i in body
    ):
        return kernel
    kernel = _unshadowed(kernel, module)
    return _Inliner(kernel, module).whole()
