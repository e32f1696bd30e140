"""Graphs say what they are made of, and can be built of nodes of any kind."""

import pytest
from support.shim_peer import BATCHED, CASES, RPC, Peer

PROGRAM = CASES.parent / "shim_graphs.py"


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", ["lists", "parameters", "any_kind", "set_later"])
def test_a_graph_says_what_it_is_made_of(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)
