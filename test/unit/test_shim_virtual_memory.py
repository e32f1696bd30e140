"""Programs that reserve addresses and map memory there: what CUDA documents, and what is told."""

from pathlib import Path

import pytest
from support.shim_peer import BATCHED, RPC, Peer

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "programs" / "virtual_memory.py"
MEMORY = ("mem_create", "mem_release", "mem_map", "mem_unmap", "mem_access")


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", ["grows", "keeps", "lifetimes", "rights", "refusals"])
def test_a_program_sees_what_cuda_documents(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_the_same_program_makes_the_same_records_and_reserving_makes_none():
    told = []
    for _ in range(2):
        with Peer() as peer:
            peer.case("lifetimes", program=PROGRAM)
            told.append([r for r in peer.records if r["op"] in MEMORY])
    assert told[0] == told[1]
    assert [r["op"] for r in told[0]] == [
        "mem_create", "mem_map", "mem_access", "mem_unmap", "mem_map", "mem_access", "mem_unmap",
        "mem_release",
    ]  # fmt: skip
