"""Whether a launch's arguments and geometry alone decide what its kernel touches, from the PTX.

Every register gets marks of what its value may be made of. Where stores and loads go is then
worked out for each launch (extents.py).

The answer holds for any content of memory: which addresses a launch reads and writes, and that it
ends, must be decided by its arguments and geometry alone. So a kernel is not known if something
that was read from memory decides an address (of any space, read or written), whether memory is
accessed or threads wait for each other, or how often a loop runs. What is read may choose between
values: what is between a branch that depends on it and where its ways meet again changes
registers only, and these then depend on it, too. A store needs an address that is made of a
parameter, or of a variable of the block or thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from rrto_ros.devices.cpu.outline import Outline, open_outline
from rrto_ros.devices.cpu.passes.cfg import destinations
from rrto_ros.devices.cpu.passes.inline import inline_calls
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.linked import ptx_source
from rrto_ros.errors import PtxError
from rrto_ros.execution.kernels.extents import KernelExtents
from rrto_ros.execution.kernels.flow import OWN_SPACES, STORES, stores

Writers = Mapping[str, "KernelExtents | None"]

_DATA = -1
"""Decided by what is in memory, or by something else that arguments do not decide."""
_OWN = -2
"""The address of a variable of the block or thread."""
_VARIABLE = -3
"""The address of a variable of the module, or of a function."""
_PARAMETER = -4
"""An argument of the launch."""
_NAMES = """
abs neg add sub addc subc and cnot not or xor activemask bar barrier bfe bfi brev clz popc
bfind bmsk bra brx ret exit copysign testp cos ex2 lg2 sin tanh cvt cvta div dp2a dp4a fence
membar fma mad mad24 mul24 madc isspacep lop3 match max min mma mov mul prmt rcp rsqrt sqrt
redux rem sad selp set setp shf shfl shl shr slct trap vote nop nanosleep prefetch prefetchu
pmevent brkpt griddepcontrol applypriority
"""
_HARMLESS = frozenset(_NAMES.split())
_READS = frozenset(("ld", "ldu"))
_WAITS = frozenset(("bar", "barrier", "shfl", "vote", "match", "redux", "mma", "activemask"))
"""Threads wait for each other, or what they get depends on who is there."""
_ENDS_BADLY = frozenset(("trap", "brkpt"))
_CARRY = frozenset(("addc", "subc", "madc"))
_CC = "%carry flag"
_DECIDED = frozenset(("tid", "ntid", "ctaid", "nctaid", "laneid", "lanemask_eq", "lanemask_lt",
                      "lanemask_le", "lanemask_gt", "lanemask_ge", "nwarpid",
                      "dynamic_smem_size", "total_smem_size"))  # fmt: skip
"""Special registers that are the same whenever a launch is."""
Marks = frozenset[int]
_NONE: Marks = frozenset()


class ModuleWriters:
    """Of each kernel of a module: where a launch of it stores, found when it is first asked for.

    Of a small module all kernels are looked at then, of a large one those that are asked for.

    Args:
        image: The module as the program loaded it.
        compute_capability: Of the device, to choose among several PTX texts.
    """

    def __init__(self, image: bytes, compute_capability: tuple[int, int]) -> None:
        self._outline: Outline | None = None
        self._names: frozenset[str] = frozenset()
        # The device may know more than can be read; here it is not known.
        with contextlib.suppress(Exception):
            self._outline = open_outline(ptx_source(image, compute_capability))
            self._names = frozenset(entry.name for entry in self._outline.module.entries)
        self._told: set[str] = set()

    def found(self, kernel: str) -> Writers:
        """What is known because of a question for a kernel, and was not told before."""
        if self._outline is None or kernel not in self._names:
            return {}
        asked = {kernel} if self._outline.deferred else self._names
        new = asked - self._told
        self._told |= new
        found = {name: _writer(name, self._outline) for name in new}
        if self._told == self._names:
            self._outline = None  # and its text
        return found

    def all(self) -> Writers:
        """The same for every kernel."""
        found: dict[str, KernelExtents | None] = {}
        for name in self._names:
            found.update(self.found(name))
        return found


def kernel_writes(image: bytes, compute_capability: tuple[int, int]) -> Writers:
    """Of each kernel of a module: where a launch of it stores.

    Returns:
        Kernel name -> its stores; None where what it touches depends on more than its arguments
        and geometry. Empty for machine code.
    """
    return ModuleWriters(image, compute_capability).all()


def _writer(kernel: str, outline: Outline) -> KernelExtents | None:
    try:
        module = outline.reached(kernel)
        inlined = inline_calls(module.functions[kernel], module)
        variables = {v.name: v.size for v in module.variables}
        return KernelExtents(inlined, variables) if _Finder(inlined).decided() else None
    except (PtxError, IndexError, KeyError, ValueError, AttributeError, TypeError):
        return None  # not understood, so not known


class _Finder:
    """One kernel."""

    def __init__(self, kernel: ast.Function) -> None:
        self._params = {v.name for v in kernel.params}
        self._own = {v.name for v in kernel.variables if v.space in OWN_SPACES}
        # Where arguments and results of device functions are: like registers.
        self._passed = {v.name for v in kernel.variables if v.space == "param"}
        self._predicates = {name for name, kind in kernel.regs.items() if kind.name == "pred"}
        self._marks: dict[str, Marks] = {}
        self._body = kernel.body or ()
        self._code = [i for i in self._body if isinstance(i, ast.Instr)]
        self._labels = {item.name: at for at, item in enumerate(self._body)
                        if isinstance(item, ast.Label)}  # fmt: skip
        self._maybe: set[int] = set()
        """Positions of what is executed or not as something that was read decides."""

    def decided(self) -> bool:
        """Whether nothing but arguments and geometry decides what is touched, and how long."""
        known = _HARMLESS | _READS | STORES
        if any(instr.op not in known for instr in self._code):
            return False
        while True:
            self._follow()
            before = len(self._maybe)
            if not self._branches():
                return False
            if len(self._maybe) == before:
                break
        if any(self._fateful(self._body[at]) for at in self._maybe):
            return False
        for instr in self._code:
            if not self._accesses(instr):
                continue
            marks = self._of(self._base(instr))
            if _DATA in marks:
                return False
            # Not the module's variables, and not by constants alone.
            if stores(instr) and (_VARIABLE in marks or not marks & {_PARAMETER, _OWN}):
                return False
        return True

    def _accesses(self, instr: ast.Instr) -> bool:
        """Whether it accesses more than what is passed to the kernel or a function."""
        if instr.op not in _READS and instr.op not in STORES:
            return False
        base = self._base(instr)
        return not (
            isinstance(base, ast.Sym) and (base.name in self._params or base.name in self._passed)
        )

    def _follow(self) -> None:
        """Find what every register is made of."""
        changed = True
        while changed:
            changed = False
            for at, instr in enumerate(self._body):
                if not isinstance(instr, ast.Instr):
                    continue
                made = self._made(instr)
                if at in self._maybe:
                    made |= {_DATA}
                for name in self._targets(instr):
                    new = made & {_DATA} if name in self._predicates else made
                    before = self._marks.get(name, _NONE)
                    if not new <= before:
                        self._marks[name] = before | new
                        changed = True

    def _targets(self, instr: ast.Instr) -> list[str]:
        """Registers, and what is like them, that an instruction changes."""
        targets = destinations(instr)
        if "cc" in instr.mods:
            targets.append(_CC)
        if instr.op == "st":
            base = self._base(instr)
            if isinstance(base, ast.Sym) and base.name in self._passed:
                targets.append(base.name)
        return targets

    def _base(self, instr: ast.Instr) -> ast.Operand:
        return next(arg.base for arg in instr.args if isinstance(arg, ast.Addr))

    def _made(self, instr: ast.Instr) -> Marks:
        """What the results of an instruction are made of."""
        if instr.op in _READS:
            made = self._read(instr)
        elif instr.op in ("atom", "activemask"):
            made = frozenset((_DATA,))
        else:
            made = _NONE.union(*(self._of(arg) for arg in instr.args[1:]))
        if instr.op in _CARRY:
            made |= self._marks.get(_CC, _NONE)
        if instr.guard is not None:
            made |= self._of(instr.guard) & {_DATA}
        return made

    def _read(self, instr: ast.Instr) -> Marks:
        base = self._base(instr)
        if isinstance(base, ast.Sym):
            if base.name in self._passed:
                return self._marks.get(base.name, _NONE)
            if base.name in self._params:
                return frozenset((_PARAMETER,))
        return frozenset((_DATA,))

    def _branches(self) -> bool:
        """Find what is executed or not as data decides; False where that is not understood."""
        for at, item in enumerate(self._body):
            if not isinstance(item, ast.Instr):
                continue
            data = item.guard is not None and _DATA in self._of(item.guard)
            if item.op == "brx" and (data or _DATA in self._of(item.args[0])):
                return False
            if not data:
                continue
            self._maybe.add(at)
            if item.op == "bra":
                end = self._meets(at)
                if end is None:
                    return False
                self._maybe.update(range(at, end))
            elif item.op in ("ret", "exit"):
                self._maybe.update(range(at, len(self._body)))
        return True

    def _meets(self, at: int) -> int | None:
        """Where the ways meet again behind the branch at a position; None for a loop."""
        end = at + 1
        while at < end:
            item = self._body[at]
            at += 1
            if not isinstance(item, ast.Instr) or item.op not in ("bra", "brx", "ret", "exit"):
                continue
            if item.op in ("ret", "exit"):
                end = len(self._body)
                continue
            target = item.args[0]
            if item.op == "brx" or not isinstance(target, ast.Sym):
                return None
            to = self._labels.get(target.name, -1)
            if to < at:
                return None
            end = max(end, to)
        return end

    def _fateful(self, item: ast.Instr | ast.Label) -> bool:
        """Whether it matters beyond a thread's registers that something is executed."""
        return isinstance(item, ast.Instr) and (
            self._accesses(item) or item.op in _WAITS or item.op in _ENDS_BADLY
        )

    def _of(self, arg: ast.Operand) -> Marks:
        if isinstance(arg, ast.Reg):
            return self._marks.get(arg.name, _NONE)
        if isinstance(arg, ast.Not):
            return self._marks.get(arg.reg.name, _NONE)
        if isinstance(arg, ast.Sym):
            return frozenset((_OWN if arg.name in self._own else _VARIABLE,))
        if isinstance(arg, ast.Special):
            decided = arg.name.split(".")[0] in _DECIDED
            return _NONE if decided else frozenset((_DATA,))
        if isinstance(arg, ast.Vec):
            return _NONE.union(*(self._of(item) for item in arg.items))
        if isinstance(arg, ast.Pair):
            return self._of(arg.first) | self._of(arg.second)
        if isinstance(arg, ast.Addr):
            return self._of(arg.base)
        return _NONE
