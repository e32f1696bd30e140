"""Graphs say what they are made of, and can be built of nodes of any kind."""

import os

import pytest
from support.shim_peer import BATCHED, CASES, RPC, Peer

PROGRAM = CASES.parent / "shim_graphs.py"


CASES_HERE = (
    "lists",
    "parameters",
    "any_kind",
    "set_later",
    "edited",
    "children",
    "robots",
    "switched",
    "updated",
    "attributes",
    "users",
)


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", CASES_HERE)
def test_a_graph_says_what_it_is_made_of(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_a_graph_is_drawn_in_the_language_of_graphviz(tmp_path):
    with Peer() as peer:
        peer.case("picture", tmp_path / "graph.dot", program=PROGRAM)
    text = (tmp_path / "graph.dot").read_text()
    assert text.startswith("digraph dot {\n")
    assert text.count("{") == text.count("}") == 3
    for word in ("KERNEL\\nscale", "grid (1, 1, 1)", "MEMSET", "CHILD_GRAPH", "DtoH", "EMPTY"):
        assert word in text, word
    assert text.count("->") == 3


def test_a_graph_that_is_not_instantiated_costs_no_record():
    with Peer() as peer:
        peer.case("picture", os.devnull, program=PROGRAM)
        assert not [name for name in peer.names() if name.startswith("graph")]
