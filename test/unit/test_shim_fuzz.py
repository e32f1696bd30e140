"""Random driver calls with hostile arguments: results of CUDA's, never a crash or a hang.

RRTO_SHIM_FUZZ=1000000 asks for that many calls, RRTO_FUZZ_SEED for others. With the sanitizers of
`test_shim_sanitizers.py` this file finds what does not crash, too.
"""

import collections
import json
import os
from pathlib import Path

import pytest
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.api.results import CUresult
from rrto_ros.api.table import CALLS
from rrto_ros.devices.null import NullDevice

PROGRAMS = Path(__file__).resolve().parents[1] / "support" / "programs"

COUNT = int(os.environ.get("RRTO_SHIM_FUZZ", "6000"))
SEED = int(os.environ.get("RRTO_FUZZ_SEED", "1"))
EACH = 1500
"""Calls of one program: after an error that stays, most do nothing."""
PROGRAM = "shim_fuzz.py"


def device(limit_bytes, arena_base):
    return NullDevice(limit_bytes=limit_bytes, arena_base=arena_base, bytes_per_s=0, launch_s=0)


@pytest.mark.timeout(200 + COUNT // 50)
def test_hostile_calls_are_answered_as_cuda_does_and_end_no_program():
    supported = json.dumps([name for one in CALLS for name in one.exports])
    results = collections.Counter()
    for number in range(-(-COUNT // EACH)):
        with Peer(mode=(BATCHED, RPC)[number % 2], device=device) as peer:
            program = PROGRAMS / PROGRAM
            said = peer.case("fuzz", SEED * 100_000 + number, EACH, supported, program=program)
        results.update({int(key): count for key, count in said.items()})
    for key in results:
        CUresult(key)
    # Neither all refused nor all taken.
    assert results[0] > COUNT // 20
    assert len(results) > 8
