"""Programs with arrays, textures, batches of copies and memory operations of streams."""

from pathlib import Path

import pytest
from support.shim_peer import BATCHED, RPC, Peer

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "programs" / "memory_calls.py"
CASES = ("arrays", "array_refusals", "textures", "batches", "stream_memory", "contexts_events",
         "abilities", "pools")  # fmt: skip


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", CASES)
def test_a_program_sees_what_cuda_documents(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_rows_that_come_to_the_host_are_asked_for_before_the_first_is_waited_for():
    with Peer() as peer:
        peer.case("arrays", program=PROGRAM)
        waited = [r["record_flags"] & 1 for r in peer.records if r["op"] == "memcpy_dtoh"]
    assert waited[:6] == [0, 0, 0, 0, 0, 1]


def test_what_is_refused_is_named():
    with Peer() as peer:
        peer.case("stream_memory", program=PROGRAM)
        peer.case("array_refusals", program=PROGRAM)
        names = {**peer.rings[0].refusals(), **peer.rings[1].refusals()}
    assert names["cuStreamWaitValue32: a value that only a later call brings"] == 3
    assert names["cuArray3DCreate: flags 0x1"] == 1
