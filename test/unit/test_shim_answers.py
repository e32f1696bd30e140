"""Every CUresult that the shim and the device give, against the driver API's documentation."""

import pytest
from support.driver_answers import BEFORE, STARTED, identity
from support.shim_peer import BATCHED, CASES, RPC, Peer

PROGRAM = CASES.parent / "shim_answers.py"
ROWS = [*BEFORE, *STARTED]


@pytest.fixture(scope="module", params=[BATCHED, RPC], ids=["batched", "rpc"])
def answers(request):
    with Peer(mode=request.param) as peer:
        return peer.case("all", program=PROGRAM)


@pytest.mark.parametrize("row", ROWS, ids=identity)
def test_a_call_answers_what_cuda_documents(answers, row):
    assert answers[identity(row)] == row.wanted


def test_the_rows_have_names_of_their_own():
    assert len({identity(row) for row in ROWS}) == len(ROWS)
