"""Host functions in streams run after what precedes them and before what follows."""

import pytest
from support.jumping_clock import JumpingClock
from support.shim_peer import BATCHED, CASES, RPC, Peer, refuse

from rrto_ros.api.results import CUresult
from rrto_ros.wire.format import RESULT_STICKY

PROGRAM = CASES.parent / "shim_host_calls.py"


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", ["order", "returns_at_once", "callbacks", "many"])
def test_a_host_function_has_its_place_in_the_stream(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_a_clock_that_is_set_makes_no_host_function_slow(tmp_path):
    with Peer(mode=BATCHED) as peer:
        peer.case("clock_is_set", program=PROGRAM, **JumpingClock(tmp_path).variables)
    assert "runs for more than" not in peer.stderr


def test_after_an_error_a_callback_is_told_and_a_host_function_is_not_called():
    def answer(call):
        if call.op.name != "stream_synchronize":
            return None
        return refuse(call, CUresult.ILLEGAL_ADDRESS, b"launch of k", RESULT_STICKY)

    with Peer(on_call=answer) as peer:
        got = peer.case("after_an_error", program=PROGRAM)
    bad = CUresult.ILLEGAL_ADDRESS
    assert got == {"first": 0, "second": bad, "called": [bad]}
