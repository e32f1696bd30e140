"""Links PTX modules into one: what one declares, another defines.

Visible, weak and common symbols and kernels are one each in the whole; any other name belongs to
its module and is renamed where another module has it too. What is wrong is said in the words of
NVIDIA's linker, all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.parser import parse_module
from rrto_ros.devices.cpu.ptx.renaming import renamed
from rrto_ros.devices.linked import PtxInput
from rrto_ros.errors import PtxError

SERVICES = frozenset({"vprintf", "malloc", "free", "__assertfail"})
"""Functions that a driver has: defined in no module."""
_MOST_ERRORS = 20
_RANKS = {"common": 1, "weak": 2}
_STRONG = 3
Symbol = ast.Function | ast.Var


@dataclass(frozen=True)
class _Known:
    """A symbol of the whole: its definition (or declaration) so far, and which module has it."""

    symbol: Symbol
    module: int


def read_module(source: str | Sequence[PtxInput]) -> ast.Module:
    """The module that a PTX text, or a link of several, is.

    Raises:
        PtxError: INVALID_PTX, with the input's name, where a text is wrong; INVALID_SOURCE where
            they do not fit together.
    """
    if isinstance(source, str):
        return parse_module(source)
    modules = []
    for one in source:
        try:
            modules.append((one.name, parse_module(one.text)))
        except PtxError as error:
            raise PtxError(f"{one.name}: {error.detail}", error.result) from error
    return link(modules)


def link(modules: Sequence[tuple[str, ast.Module]]) -> ast.Module:
    """One module out of several, given with their names.

    Raises:
        PtxError: Symbols are missing, defined twice or of different sizes or prototypes.
    """
    if not modules:
        raise PtxError("a link without inputs", CUresult.INVALID_IMAGE)
    return _Link(modules).result()


class _Link:
    def __init__(self, modules: Sequence[tuple[str, ast.Module]]) -> None:
        self.modules = modules
        self.errors: list[str] = []
        self.known: dict[str, _Known] = {}

    def result(self) -> ast.Module:
        for index, (_, module) in enumerate(self.modules):
            for symbol in _symbols(module):
                if not _is_local(symbol):
                    self._meet(symbol, index)
        parts = self._renamed()
        self._look_for_missing(parts)
        if self.errors:
            shown = self.errors[:_MOST_ERRORS]
            raise PtxError("\n".join(f"error   : {e}" for e in shown), CUresult.INVALID_SOURCE)
        functions: dict[str, ast.Function] = {}
        variables: dict[str, ast.Var] = {}
        for part in parts:
            for symbol in _symbols(part):
                kept = symbol if _is_local(symbol) else self._chosen(symbol.name, parts)
                if isinstance(kept, ast.Function):
                    functions.setdefault(kept.name, kept)
                else:
                    variables.setdefault(kept.name, kept)
        newest = max((m for _, m in self.modules), key=lambda m: m.version)
        return ast.Module(newest.version, newest.target, tuple(variables.values()), functions)

    def _chosen(self, name: str, parts: Sequence[ast.Module]) -> Symbol:
        """The symbol that the whole has for a name, with what it names renamed."""
        known = self.known[name]
        part = parts[known.module]
        if isinstance(known.symbol, ast.Function):
            return part.functions[name]
        renamed = next(v for v in part.variables if v.name == name)
        return replace(known.symbol, init=renamed.init)

    # ---- one symbol of the whole ----

    def _meet(self, new: Symbol, module: int) -> None:
        known = self.known.get(new.name)
        if known is None:
            self.known[new.name] = _Known(new, module)
            return
        old = known.symbol
        where, first = self.modules[module][0], self.modules[known.module][0]
        wrong = _differ(old, new)
        old_rank, new_rank = _rank(old), _rank(new)
        if wrong:
            self.errors.append(f"{wrong} '{new.name}' in '{where}', first specified in '{first}'")
        elif old_rank == new_rank == _STRONG:
            self.errors.append(
                f"Multiple definition of '{new.name}' in '{where}', first defined in '{first}'"
            )
        elif new_rank > old_rank:
            self.known[new.name] = _Known(_wider(new, old), module)
        else:
            self.known[new.name] = _Known(_wider(old, new), known.module)

    # ---- names of one module alone ----

    def _renamed(self) -> list[ast.Module]:
        """The modules, with local names that another module has renamed apart."""
        taken = set(self.known)
        for _, module in self.modules:
            taken.update(s.name for s in _symbols(module) if _is_local(s))
        seen = set(self.known)
        parts = []
        for _, module in self.modules:
            names: dict[str, str] = {}
            for symbol in _symbols(module):
                if not _is_local(symbol):
                    continue
                if symbol.name in seen:
                    names[symbol.name] = _fresh(symbol.name, taken)
                seen.add(symbol.name)
            parts.append(_rename(module, names) if names else module)
        return parts

    # ---- what nobody defines ----

    def _look_for_missing(self, parts: Sequence[ast.Module]) -> None:
        for (where, _), part in zip(self.modules, parts, strict=True):
            declared = {s.name for s in _symbols(part)}
            for name in dict.fromkeys(_used(part)):
                known = self.known.get(name)
                if (
                    known
                    and name in declared
                    and not _rank(known.symbol)
                    and not (name in SERVICES or _is_dynamic(known.symbol))
                ):
                    self.errors.append(f"Undefined reference to '{name}' in '{where}'")


def _symbols(module: ast.Module) -> Iterator[Symbol]:
    yield from module.variables
    yield from module.functions.values()


def _is_local(symbol: Symbol) -> bool:
    """Whether a symbol is defined for its own module alone."""
    if isinstance(symbol, ast.Function):
        return not symbol.is_entry and symbol.body is not None and not symbol.linkage
    return not symbol.external and not symbol.linkage


def _rank(symbol: Symbol) -> int:
    """0 for a declaration; of two definitions the higher one holds."""
    if isinstance(symbol, ast.Function) and symbol.body is None:
        return 0
    if isinstance(symbol, ast.Var) and symbol.external:
        return 0
    return _RANKS.get(symbol.linkage, _STRONG)


def _is_dynamic(symbol: Symbol) -> bool:
    return isinstance(symbol, ast.Var) and symbol.space == "shared"


def _differ(old: Symbol, new: Symbol) -> str:
    """What does not fit between two symbols of one name."""
    if isinstance(old, ast.Function) and isinstance(new, ast.Function):
        # What several weak definitions look like is theirs: only one of them is used.
        # A result that is declared and not given is what a linker lets pass: nobody may use it.
        results = old.returns and new.returns and _sizes(old.returns) != _sizes(new.returns)
        same = (
            old.is_entry == new.is_entry
            and not results
            and (_sizes(old.params) == _sizes(new.params))
        )
        return "" if same else "Prototype doesn't match for"
    if isinstance(old, ast.Var) and isinstance(new, ast.Var):
        if old.space != new.space:
            return "State space doesn't match for"
        sizes = {old.size, new.size} - {0}
        if len(sizes) > 1 and "common" not in (old.linkage, new.linkage):
            return "Size doesn't match for"
        if len(sizes) > 1:  # a common symbol has the largest size, a defined one its own
            defined = next((v for v in (old, new) if _rank(v) > _RANKS["common"]), None)
            if defined is not None and defined.size < max(sizes):
                return "Size doesn't match for"
        return ""
    return "Function and variable named"


def _sizes(variables: Iterable[ast.Var]) -> list[int]:
    return [v.size for v in variables]


def _wider(symbol: Symbol, other: Symbol) -> Symbol:
    """A variable with the larger size (if it is common or has none) and alignment of two."""
    if not isinstance(symbol, ast.Var) or not isinstance(other, ast.Var):
        return symbol
    size = symbol.size
    if symbol.linkage == "common" or symbol.external:
        size = max(size, other.size)
    return replace(symbol, size=size, align=max(symbol.align, other.align))


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}$m{number}" in taken:
        number += 1
    taken.add(f"{name}$m{number}")
    return f"{name}$m{number}"


# ---- names in code ----


def _used(module: ast.Module) -> Iterator[str]:
    """Names of symbols that a module's code and initial values use."""
    for var in module.variables:
        for item in var.init or ():
            if isinstance(item, ast.Sym):
                yield item.name
            elif isinstance(item, ast.SymByte):
                yield item.symbol.name
    for function in module.functions.values():
        own = _own_names(function)
        for code in function.body or ():
            if isinstance(code, ast.Instr):
                yield from (n for n in _names(code.args) if n not in own)


def _own_names(function: ast.Function) -> set[str]:
    own = {v.name for v in (*function.variables, *function.params, *function.returns)}
    own.update(i.name for i in function.body or () if isinstance(i, ast.Label))
    return own | set(function.tables)


def _names(operands: Iterable[ast.Operand]) -> Iterator[str]:
    for operand in operands:
        match operand:
            case ast.Sym(name):
                yield name
            case ast.Addr(ast.Sym(name)):
                yield name
            case ast.Vec(items):
                yield from _names(items)
            case ast.Pair(first, second):
                yield from _names((first, second))


def _rename(module: ast.Module, names: dict[str, str]) -> ast.Module:
    functions = [_rename_function(f, names) for f in module.functions.values()]
    return replace(
        module,
        variables=tuple(_rename_variable(v, names) for v in module.variables),
        functions={f.name: f for f in functions},
    )


def _rename_variable(var: ast.Var, names: dict[str, str]) -> ast.Var:
    init = None if var.init is None else tuple(_rename_initial(i, names) for i in var.init)
    return replace(var, name=names.get(var.name, var.name), init=init)


def _rename_initial(item: ast.Initial, names: dict[str, str]) -> ast.Initial:
    if isinstance(item, ast.SymByte):
        return replace(item, symbol=_rename_symbol(item.symbol, names))
    return _rename_symbol(item, names) if isinstance(item, ast.Sym) else item


def _rename_symbol(symbol: ast.Sym, names: dict[str, str]) -> ast.Sym:
    return replace(symbol, name=names.get(symbol.name, symbol.name))


def _rename_function(function: ast.Function, names: dict[str, str]) -> ast.Function:
    own = _own_names(function)
    inner = {old: new for old, new in names.items() if old not in own}

    def sym(symbol: ast.Sym) -> ast.Sym:
        return _rename_symbol(symbol, inner)

    body = (
        None
        if function.body is None
        else tuple(
            replace(code, args=tuple(renamed(a, sym=sym) for a in code.args))
            if isinstance(code, ast.Instr)
            else code
            for code in function.body
        )
    )
    return replace(function, name=names.get(function.name, function.name), body=body)
