"""Copies to host memory that are still queued: who waits for them, and what happens meanwhile."""

import time

import pytest
from support.shim_peer import CASES, Peer

SLOW_S, GATE_S = 0.3, 30
LANDING = CASES.with_name("landing_cases.py")


def slow(gate=None):
    """A device that takes its time over copies to the host: until the gate is there, if any."""

    def on_call(call):
        if call.op.name == "memcpy_dtoh":
            end = time.monotonic() + (GATE_S if gate else SLOW_S)
            while time.monotonic() < end and not (gate and gate.exists()):
                time.sleep(0.002)

    return on_call


@pytest.mark.parametrize(
    "case", ["system_v", "arguments", "blocking", "overlap", "exits", "signals"]
)
def test_with_a_copy_still_queued_a_program_sees_what_cuda_documents(case):
    with Peer(on_call=slow()) as peer:
        peer.case(case, program=LANDING)


def test_registered_memory_unmapped_before_its_copy_lands_is_named_and_ends_nobody(tmp_path):
    gate = tmp_path / "gate"
    with Peer(on_call=slow(gate)) as peer:
        peer.case("unmapped", gate, program=LANDING)
        assert "was unmapped before a copy into it had landed" in peer.stderr


def test_a_child_waits_for_no_copy_that_its_parent_queued(tmp_path):
    gate = tmp_path / "gate"
    with Peer(on_call=slow(gate), wait_timeout_ms=60000) as peer:
        peer.case("forked", gate, program=LANDING)
