"""Small answers: what was set reads back, logs and times are given, libraries need no context."""

import pytest
from support.shim_peer import BATCHED, CASES, RPC, Peer

PROGRAM = CASES.parent / "shim_small.py"


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize(
    "case",
    [
        "function_attributes",
        "limits",
        "streams",
        "pointers",
        "logs",
        "link_logs",
        "clusters",
        "cooperative",
        "no_context",
    ],
)
def test_a_program_reads_back_what_it_set_and_gets_what_it_asks_for(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_registers_differ_per_kernel_and_a_full_block_always_fits():
    with Peer() as peer:
        answer = peer.case("registers", program=PROGRAM)
    big, small = answer["registers"]
    assert big >= 30 > small >= 1
    assert answer["limited"] == 16
    assert answer["linked"] == [20, small]
    assert all(blocks >= 1 for blocks in answer["blocks"])


@pytest.mark.parametrize(
    ("wish", "after_a_launch"), [("1", ["launch", "stream_synchronize"]), ("0", ["launch"])]
)
def test_launches_wait_for_their_kernels_where_cuda_launch_blocking_is_set(wish, after_a_launch):
    with Peer() as peer:
        peer.case("launches", program=PROGRAM, CUDA_LAUNCH_BLOCKING=wish)
        names = peer.names()
    assert names[names.index("launch") :] == after_a_launch * 2
