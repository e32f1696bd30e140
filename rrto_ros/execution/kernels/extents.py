"""Which bytes a launch may store to or load, from its kernel's PTX, its arguments and geometry.

The kernel is followed once for all its threads. Every register is a sum of multiples of symbols
(forms.py): the places of thread and block, how often a loop went round, and values of which only
bounds are known. Conditions on the way to an instruction are facts about them. So for each store
(or load) the least and the greatest address are numbers, or it is not known where it goes.

Symbols stand for one value at a time, as names in static single assignment form do: that of an
instruction for what it gave last, that of a loop for the round that is on. What is assumed of a
loop (its greatest number of rounds, the bounds of what it changes) is looked at again with each
pass until what a round makes of it is what was assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.errors import PtxError
from rrto_ros.execution.kernels.element_types import UNKNOWN
from rrto_ros.execution.kernels.flow import Flow
from rrto_ros.execution.kernels.forms import UNBOUNDED, Form, Range, Symbol, TooMuchError
from rrto_ros.execution.kernels.values import OPEN, Geometry, Span, State, Unknown, Values, full
from rrto_ros.wire.accesses import Typed, TypedRange

__all__ = ["Geometry", "KernelExtents", "Loads", "Span"]
_PASSES = 60
_MOST_FACTS = 8
_ZERO = Form(0)


@dataclass(slots=True)
class _Loop:
    """What is assumed of a loop.

    Attributes:
        rounds: The most rounds before one begins.
        changed: Registers that are written in it.
        steps: Those that every round adds the same to.
        ranges: Of the others.
        facts: What may hold when a round begins, and whether it still seems to.
    """

    rounds: int = 0
    changed: frozenset[str] = frozenset()
    steps: dict[str, int] = field(default_factory=dict)
    irregular: set[str] = field(default_factory=set)
    ranges: dict[str, Range] = field(default_factory=dict)
    facts: dict[Form, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loads:
    """What a launch may read: spans of addresses, and variables of its module."""

    spans: tuple[Span, ...]
    variables: tuple[str, ...] = ()


class KernelExtents:
    """The stores and loads of one kernel.

    Args:
        kernel: With its calls inlined.
        variables: Bytes of the module's variables.

    Raises:
        PtxError: It is not well formed.
    """

    def __init__(self, kernel: ast.Function, variables: Mapping[str, int] | None = None) -> None:
        self._flow = Flow(kernel)
        self._loading: Flow | None = None
        self._kernel = kernel
        self._variables = variables

    def of(self, params: bytes, geometry: Geometry) -> tuple[Span, ...] | None:
        """Where a launch may store, each span once; None if that is not known.

        Args:
            params: The packed arguments.
            geometry: The launch's.
        """
        walk = _followed(self._flow, params, geometry)
        return None if walk is None else walk.spans

    def typed(self, params: bytes, geometry: Geometry) -> Typed | None:
        """Which elements a launch may read and store, in the same way; None if that is not known.

        Variables of the module are not among them.
        """
        stores, loads = self._flow, self._loads_flow()
        found = []
        for flow in (loads, stores):
            walk = _followed(flow, params, geometry)
            if walk is None:
                return None
            found.append(walk.typed)
        return Typed(*found)

    def loads(self, params: bytes, geometry: Geometry) -> Loads | None:
        """What a launch may read, in the same way; None if that is not known."""
        walk = _followed(self._loads_flow(), params, geometry)
        return None if walk is None else Loads(walk.spans, walk.variables)

    def _loads_flow(self) -> Flow:
        if self._loading is None:
            # Most kernels are never asked: speculation wants to know of stores only.
            self._loading = Flow(self._kernel, loads=True, variables=self._variables)
        return self._loading


def _followed(flow: Flow, params: bytes, geometry: Geometry) -> _Walk | None:
    """A launch, followed to its end; None where that cannot be done."""
    if not flow.small:
        return None
    walk = _Walk(flow, params, geometry)
    try:
        walk.follow()
    except (Unknown, TooMuchError):
        return None
    except (PtxError, IndexError, KeyError, ValueError, AttributeError, TypeError):
        return None  # not understood, so not known
    return walk


class _Walk:
    """One launch."""

    def __init__(self, flow: Flow, params: bytes, geometry: Geometry) -> None:
        self._flow = flow
        self._values = Values(flow, params, geometry)
        self._bounds = self._values.bounds
        self._loops = {head: _Loop(changed=changed) for head, changed in flow.loops.items()}
        self._begun: dict[int, list[tuple[str, Form]]] = {}

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(sorted(self._values.spans))

    @property
    def typed(self) -> tuple[TypedRange, ...]:
        types = self._flow.types
        return tuple(
            (start, end, kinds.pop() if len(kinds) == 1 else UNKNOWN)
            for (start, end), numbers in sorted(self._values.spans.items())
            if (kinds := {types.get(number, UNKNOWN) for number in numbers})
        )

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(sorted(self._values.variables))

    def follow(self) -> None:
        for _ in range(_PASSES):
            self._values.begin()
            if self._followed():
                return
        raise Unknown

    def _followed(self) -> bool:
        """Follow every block once; whether all that was assumed was right."""
        flow = self._flow
        ends: dict[int, State] = {}
        right = True
        for index in flow.order:
            state = self._entered(index, ends)
            if state is None:
                continue
            block = flow.blocks[index]
            for number, instr in flow.code[index]:
                self._values.step(number, instr, state)
            ends[index] = state
            for target in dict.fromkeys(block.targets):
                if target in self._loops and flow.place[target] <= flow.place[index]:
                    way = self._way(index, target, ends)
                    if way is not None:
                        right = self._round_ends(target, way) and right
        return right

    def _way(self, index: int, target: int, ends: dict[int, State]) -> State | None:
        """The state from one block to the next; None where that is never gone."""
        state = ends.get(index)
        if state is None:
            return None
        block = self._flow.blocks[index]
        facts = state.facts
        if block.guard is not None and len(block.targets) == 2:
            taken, fallen = block.targets
            condition = state.conditions.get(block.guard.name, OPEN)
            if taken != fallen:
                more = condition.true if (target == taken) != block.guard_negated else (
                    condition.false)  # fmt: skip
                facts = self._values.joined_facts(facts, more)
        if not self._bounds.possible(facts):
            return None
        return State(state.forms, state.conditions, facts)

    def _entered(self, index: int, ends: dict[int, State]) -> State | None:
        """The state at the beginning of a block; None if nothing gets there."""
        if index == 0 and 0 not in self._loops:
            return State()
        ways = [State()] if index == 0 else []
        for before in self._flow.before[index]:
            if self._flow.place[before] < self._flow.place[index]:
                way = self._way(before, index, ends)
                if way is not None:
                    ways.append(way)
        if not ways:
            return None
        state = ways[0].copy() if len(ways) == 1 else self._joined(index, ways)
        if index in self._loops:
            self._begin_round(index, state)
        return state

    def _joined(self, index: int, ways: list[State]) -> State:
        facts = tuple(f for f in ways[0].facts if all(f in w.facts for w in ways[1:]))
        state = State(facts=facts)
        for name in set().union(*(w.forms for w in ways)):
            forms = [w.forms.get(name) for w in ways]
            first = forms[0]
            if first is not None and all(f == first for f in forms):
                state.forms[name] = first
                continue
            known = [(f, w) for f, w in zip(forms, ways, strict=True) if f is not None]
            if len(known) < len(ways):
                continue  # it was not written on one way: not read, or anything
            ranges = [self._bounds.of(f, w.facts) for f, w in known]
            span = min(r[0] for r in ranges), max(r[1] for r in ranges)
            bits = self._values.wide(name)
            state.forms[name] = self._values.symbol(("join", index, name), span, bits)
        for name, condition in ways[0].conditions.items():
            if all(w.conditions.get(name) == condition for w in ways):
                state.conditions[name] = condition
        return state

    def _begin_round(self, head: int, state: State) -> None:
        loop = self._loops[head]
        turn: Symbol = ("round", head)
        self._values.ranges[turn] = (0, loop.rounds)
        for name in [n for n in state.forms if "@" in n]:
            del state.forms[name]
        for name in loop.changed:
            state.conditions.pop(name, None)
            form = state.forms.get(name)
            if form is None:
                continue
            step = loop.steps.get(name)
            if step is not None:
                state.forms[name] = form.plus(Form(0, ((turn, 1),)), step)
                continue
            first = self._bounds.of(form, state.facts)
            was = loop.ranges.get(name)
            if was is None or first[0] < was[0] or first[1] > was[1]:
                span = first if was is None else (min(first[0], was[0]), max(first[1], was[1]))
                loop.ranges[name] = span
            bits = self._values.wide(name)
            made = self._values.symbol(("loop", head, name), loop.ranges[name], bits)
            state.forms[name] = made
        for fact, holds in loop.facts.items():
            if holds:
                at_first = _put(fact, turn, _ZERO)
                if self._bounds.of(at_first, state.facts)[1] > 0:
                    loop.facts[fact] = False
        state.facts += tuple(f for f, holds in loop.facts.items() if holds)
        self._begun[head] = [(n, state.forms[n]) for n in loop.changed if n in state.forms]

    def _round_ends(self, head: int, way: State) -> bool:
        """Compare what a round made with what was assumed; whether it was right."""
        loop = self._loops[head]
        right = True
        turn: Symbol = ("round", head)
        one_more = Form(1, ((turn, 1),))
        for fact, holds in loop.facts.items():
            if holds and self._bounds.of(_put(fact, turn, one_more), way.facts)[1] > 0:
                loop.facts[fact] = right = False
        # What holds at the end of this round about the next may hold in each.
        steady = self._values.fixed.keys() | self._flow.around.get(head, set())
        for fact in way.facts:
            if fact.coefficient(turn) and all(s in steady or s == turn for s, _ in fact.terms):
                candidate = _put(fact, turn, Form(-1, ((turn, 1),)))
                if candidate not in loop.facts and len(loop.facts) < _MOST_FACTS:
                    loop.facts[candidate] = True
                    right = False
        following = self._bounds.upper(Form(1, ((turn, 1),)), way.facts)
        if loop.steps and following > loop.rounds:
            loop.rounds = min((n for n in self._values.limits.get(turn, ()) if n >= following),
                              default=UNBOUNDED)  # fmt: skip
            right = False
        for name, began in self._begun.get(head, ()):
            ended = way.forms.get(name)
            if ended is None:
                every = full(self._values.wide(name))
                if name not in loop.irregular or loop.ranges[name] != every:
                    loop.irregular.add(name)
                    loop.steps.pop(name, None)
                    loop.ranges[name] = every
                    right = False
                continue
            step = ended.plus(began, -1)
            if name in loop.steps:
                if step != Form(loop.steps[name]):
                    del loop.steps[name]
                    loop.irregular.add(name)
                    right = False
                continue
            if step.constant and name not in loop.irregular:
                loop.steps[name] = step.const
                right = False
                continue
            loop.irregular.add(name)
            low, high = self._bounds.of(ended, way.facts)
            was = loop.ranges[name]
            if low < was[0] or high > was[1]:
                grown = self._grown(name, was, (low, high))
                right = right and grown == was
                loop.ranges[name] = grown
        return right

    def _grown(self, name: str, was: Range, now: Range) -> Range:
        every = full(self._values.wide(name))
        low = was[0] if now[0] >= was[0] else (0 if now[0] >= 0 else every[0])
        high = was[1] if now[1] <= was[1] else every[1]
        if low < every[0] or high > every[1] or now[1] > every[1] or now[0] < every[0]:
            return every
        return low, high


def _put(form: Form, symbol: Symbol, value: Form) -> Form:
    """A form with a value instead of a symbol."""
    coefficient = form.coefficient(symbol)
    return form.plus(Form(0, ((symbol, 1),)), -coefficient).plus(value, coefficient)
