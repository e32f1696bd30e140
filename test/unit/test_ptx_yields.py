"""Every loop that may wait for another block lets others go on, whatever its shape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rrto_ros.devices.cpu.passes.yields import loops_that_wait, with_yields
from rrto_ros.devices.cpu.ptx import ast

LABELS = 6
ITEM = st.one_of(
    st.integers(0, LABELS - 1).map(lambda k: ("to", k)),
    st.integers(0, LABELS - 1).map(lambda k: ("maybe", k)),
    st.lists(st.integers(0, LABELS - 1), min_size=1, max_size=3).map(lambda ks: ("table", ks)),
    st.sampled_from([("poll", 0), ("other", 0)]),
)


def function(items, places):
    body, tables = [], {}
    for at, (what, value) in enumerate(items):
        body += [ast.Label(f"L{k}") for k, place in enumerate(places) if place == at]
        if what == "poll":
            body.append(
                ast.Instr(
                    "ld", ("volatile", "global", "u32"), (ast.Reg("r"), ast.Addr(ast.Reg("d")))
                )
            )
        elif what == "table":
            tables[f"T{at}"] = tuple(f"L{k}" for k in value)
            body.append(ast.Instr("brx", ("idx",), (ast.Reg("r"), ast.Sym(f"T{at}"))))
        elif what == "other":
            body.append(
                ast.Instr(
                    "ld", ("volatile", "shared", "u32"), (ast.Reg("r"), ast.Addr(ast.Reg("d")))
                )
            )
        else:
            guard = ast.Reg("p") if what == "maybe" else None
            body.append(ast.Instr("bra", (), (ast.Sym(f"L{value}"),), guard))
    body += [ast.Label(f"L{k}") for k, place in enumerate(places) if place >= len(items)]
    return ast.Function("k", True, body=tuple(body), tables=tables)


def successors(made):
    at = {item.name: k for k, item in enumerate(made.body) if isinstance(item, ast.Label)}
    for k, item in enumerate(made.body):
        if isinstance(item, ast.Label) or item.op not in ("bra", "brx"):
            yield k, [k + 1] if k + 1 < len(made.body) else []
            continue
        names = made.tables[item.args[1].name] if item.op == "brx" else [item.args[0].name]
        falls = item.op == "bra" and item.guard is not None and k + 1 < len(made.body)
        yield k, [at[name] for name in names] + ([k + 1] if falls else [])


@given(
    st.lists(ITEM, min_size=1, max_size=14),
    st.lists(st.integers(0, 14), min_size=LABELS, max_size=LABELS),
)
def test_no_read_is_on_a_cycle_without_a_yield(items, places):
    made = with_yields(function(items, places))
    after = dict(successors(made))
    stops = {
        k
        for k, item in enumerate(made.body)
        if isinstance(item, ast.Instr) and item.op == "$yield"
    }
    for start, item in enumerate(made.body):
        if not (isinstance(item, ast.Instr) and "global" in item.mods):
            continue
        seen, stack = set(), [*after[start]]
        while stack:
            k = stack.pop()
            if k not in seen and k not in stops:
                seen.add(k)
                stack += after[k]
        assert start not in seen


def test_loops_that_only_look_at_the_blocks_own_memory_are_left_alone():
    for what in ("other", "poll"):
        made = function([(what, 0), ("maybe", 0)], [0, 9, 9, 9, 9, 9])
        assert loops_that_wait(made) == ({"L0"} if what == "poll" else set())
