"""What a kernel may write, from its PTX: the launch arguments that its stores go through.

Every register gets the set of parameter words that its value may be made of. A store (st, red,
atom) through an address that is made of parameters, indices and constants writes what these
parameters point to. An address that was itself read from memory, of a module's variable, or that
an instruction unknown here may have made, can point anywhere: then it is not known what the kernel
writes. The order of the instructions is not looked at, so the answer is never too small.

An address made of a parameter and an index is taken to lie in the allocation that the parameter
points into; a kernel that leaves it is wrong in plain execution, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from rrto_ros.devices.cpu.passes.cfg import destinations
from rrto_ros.devices.cpu.passes.inline import inline_calls
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.parser import parse_module
from rrto_ros.devices.images import ptx_text
from rrto_ros.errors import PtxError

Words = tuple[int, ...]
"""Offsets of 8-byte words in a launch's packed arguments."""

_UNKNOWN = -1
"""A value that may be any address."""
_LOADED = -2
"""Less than 8 bytes out of memory: an index, unless two of them are joined."""
_OWN = -3
"""The address of a variable of the block or thread."""
_OWN_SPACES = frozenset(("shared", "local", "param"))
_NAMES = """
abs neg add sub addc subc and cnot not or xor activemask bar barrier bfe bfi brev clz popc
bfind bmsk bra brx ret exit copysign testp cos ex2 lg2 sin tanh cvt cvta div dp2a dp4a fence
membar fma mad mad24 mul24 madc isspacep lop3 match max min mma mov mul prmt rcp rsqrt sqrt
redux rem sad selp set setp shf shfl shl shr slct trap vote nop nanosleep prefetch prefetchu
pmevent brkpt griddepcontrol applypriority
"""
_HARMLESS = frozenset(_NAMES.split())
_SMALL_SHIFT = 16
Marks = frozenset[int]
_NONE: Marks = frozenset()
_ANY: Marks = frozenset((_UNKNOWN,))


def kernel_writes(image: bytes, compute_capability: tuple[int, int]) -> Mapping[str, Words | None]:
    """For each kernel of a module: argument words that it may write through.

    Args:
        image: The module as the program loaded it.
        compute_capability: Of the device, to choose among several PTX texts.

    Returns:
        Kernel name -> words, ascending; None where it is not known. Empty for machine code.
    """
    try:
        module = parse_module(ptx_text(image, compute_capability))
    except Exception:
        return {}  # the device may know more; here it is not known
    return {kernel.name: _writes(kernel, module) for kernel in module.entries}


def _writes(kernel: ast.Function, module: ast.Module) -> Words | None:
    try:
        return _Finder(inline_calls(kernel, module)).writes()
    except (PtxError, IndexError, KeyError, ValueError, AttributeError, TypeError):
        return None  # not understood, so not known


class _Finder:
    """One kernel."""

    def __init__(self, kernel: ast.Function) -> None:
        self._params: dict[str, int] = {}
        at = 0
        for var in kernel.params:
            at += -at % max(1, var.align)
            self._params[var.name] = at
            at += var.size
        self._own = {v.name for v in kernel.variables if v.space in _OWN_SPACES}
        self._wide = {name for name, kind in kernel.regs.items() if kind.bytes == 8}
        self._predicates = {name for name, kind in kernel.regs.items() if kind.name == "pred"}
        self._marks: dict[str, Marks] = {}
        self._code = [i for i in kernel.body or () if isinstance(i, ast.Instr)]

    def writes(self) -> Words | None:
        code = self._code
        if any(i.op not in _HARMLESS and i.op not in ("ld", "ldu", "st", "red", "atom")
               for i in code):  # fmt: skip
            return None
        changed = True
        while changed:
            changed = False
            for instr in code:
                made = self._made(instr)
                if made:
                    for name in destinations(instr):
                        if name in self._predicates:
                            continue
                        before = self._marks.get(name, _NONE)
                        if not made <= before:
                            self._marks[name] = before | made
                            changed = True
        found: set[int] = set()
        for instr in code:
            if instr.op in ("st", "red", "atom") and not _OWN_SPACES & set(instr.mods):
                marks = self._address(instr)
                if _UNKNOWN in marks:
                    return None
                words = {m for m in marks if m >= 0}
                if not words and _OWN not in marks:
                    return None  # of constants alone
                found |= words
        return tuple(sorted(found))

    def _address(self, instr: ast.Instr) -> Marks:
        for arg in instr.args:
            if isinstance(arg, ast.Addr):
                return self._of(arg.base)
        return _ANY

    def _made(self, instr: ast.Instr) -> Marks:
        """What the results of an instruction are made of."""
        if instr.op in ("ld", "ldu"):
            return self._read(instr)
        if instr.op == "atom":
            return _ANY if _width(instr) >= 8 else frozenset((_LOADED,))
        sources = instr.args[1:] if instr.op not in ("st", "red") else ()
        made = _NONE.union(*(self._of(arg) for arg in sources))
        if _LOADED in made and self._joins(instr):
            return _ANY
        return made

    def _joins(self, instr: ast.Instr) -> bool:
        """Whether it may make an address of two halves."""
        if not any(name in self._wide for name in destinations(instr)):
            return False
        if instr.op == "mov":
            return any(isinstance(arg, ast.Vec) for arg in instr.args[1:])
        if instr.op == "shl":
            by = instr.args[-1]
            return not isinstance(by, ast.Imm) or by.value > _SMALL_SHIFT
        if instr.op in ("mul", "mad", "fma", "madc"):
            return any(isinstance(a, ast.Imm) and abs(a.value) >= 1 << 31 for a in instr.args)
        return instr.op in ("bfi", "prmt", "shf")

    def _read(self, instr: ast.Instr) -> Marks:
        address = next((arg for arg in instr.args if isinstance(arg, ast.Addr)), None)
        base = address.base if address is not None else None
        if address is not None and isinstance(base, ast.Sym) and base.name in self._params:
            start = self._params[base.name] + base.offset + address.offset
            count = len(destinations(instr)) * _width(instr)
            return frozenset(range(start & ~7, max(start + count, start + 1), 8))
        if _width(instr) >= 8:
            return _ANY
        return frozenset((_LOADED,))

    def _of(self, arg: ast.Operand) -> Marks:
        if isinstance(arg, ast.Reg):
            return self._marks.get(arg.name, _NONE)
        if isinstance(arg, ast.Sym):
            # A module's own variable may be in any space.
            return frozenset((_OWN,)) if arg.name in self._own else _ANY
        if isinstance(arg, ast.Vec):
            return _NONE.union(*(self._of(item) for item in arg.items))
        if isinstance(arg, ast.Pair):
            return self._of(arg.first) | self._of(arg.second)
        if isinstance(arg, ast.Addr):
            return self._of(arg.base)
        return _NONE


def _width(instr: ast.Instr) -> int:
    """Bytes of one element that it reads or writes; 8 if it does not say."""
    for mod in reversed(instr.mods):
        if mod[1:].isdigit() and mod[0] in "usbf" and mod[:1] != "v":
            return int(mod[1:]) // 8
    return 8

