"""Real programs' calls through the built libcuda.so.1 into a recorder and a device in this test.

The programs are in test/support/programs/shim_cases.py; each insists on what CUDA documents.
"""

import pytest
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.api.info import DRIVER_VERSION

BOTH = pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])


@BOTH
@pytest.mark.parametrize(
    "case",
    [
        "scale_and_read",
        "launch_refused",
        "launch_attributes",
        "copies_refused",
        "out_of_memory",
        "handles",
        "contexts",
        "pinned_copies",
        "one_address_space",
        "rows",
        "pools",
        "libraries",
        "linking",
        "graphs",
        "threads",
        "fork_child",
        "symbols",
    ],
)
def test_a_program_sees_what_cuda_documents(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case)


def test_questions_about_the_device_need_no_record():
    with Peer() as peer:
        answer = peer.case("device_questions")
        assert peer.records == []
    assert answer["version"] == DRIVER_VERSION
    assert answer["attributes"]["1"] == 1024
    assert answer["attributes"]["83"] == 0
    assert answer["total"] == 1 << 28
    assert len(answer["uuid"]) == 32


def test_the_same_program_gets_the_same_addresses_every_time():
    with Peer() as peer:
        first, second = peer.case("addresses"), peer.case("addresses")
    assert first == second
    assert all(address % 512 == 0 for address in first["first"] + first["again"])
    assert first["again"][0] == first["first"][1]


def test_memory_is_freed_in_the_record_before_the_place_is_given_again():
    with Peer() as peer:
        peer.case("addresses")
        live = set()
        for record in peer.records:
            if record["op"] == "mem_alloc":
                assert record["address"] not in live
                live.add(record["address"])
            elif record["op"] == "mem_free":
                live.remove(record["address"])


def test_in_batched_mode_only_what_the_program_waits_for_is_answered():
    with Peer(mode=BATCHED) as peer:
        peer.case("scale_and_read")
        waited = [r["op"] for r in peer.records if r["record_flags"] & 1]
    assert waited == ["module_load", "memcpy_dtoh", "memcpy_dtoh", "memcpy_dtoh"]


def test_in_rpc_mode_every_operator_is_answered():
    with Peer(mode=RPC) as peer:
        peer.case("scale_and_read")
        assert peer.records
        assert all(r["record_flags"] & 3 == 3 for r in peer.records)


def test_calls_are_numbered_from_one_without_gaps_also_with_several_threads():
    with Peer() as peer:
        peer.case("threads")
        assert [r["index"] for r in peer.records] == list(range(1, len(peer.records) + 1))
        assert {r["thread"] for r in peer.records} == {1, 2, 3, 4, 5}


def test_a_context_that_ends_frees_what_it_owned():
    with Peer() as peer:
        peer.case("contexts")
        allocated = [r["address"] for r in peer.records if r["op"] == "mem_alloc"]
        freed = [r["address"] for r in peer.records if r["op"] == "mem_free"]
    assert sorted(allocated) == sorted(freed)


def test_a_truncated_ptx_fails_with_invalid_ptx_and_fills_the_error_log():
    with Peer() as peer:
        answer = peer.case("bad_ptx")
        assert peer.stderr.count("module load failed") == 1
    assert answer["result"] == 218
    assert "PTX" in answer["log"]


def test_calls_are_counted_by_class_and_by_export():
    from rrto_ros.api._generated.exports import EXPORTS

    with Peer() as peer:
        peer.case("symbols")
        peer.case("scale_and_read")
        counts = dict(zip(EXPORTS, peer.rings[0].export_counts(), strict=False))
        counters = peer.rings[0].counters()
    assert counts["cuLaunchKernel"] == 2
    assert counts["cuMemcpyDtoH_v2"] == 3
    assert counts["cuInit"] == 1
    assert counters.synchronous == 5
    assert counters.waits == 4
    assert counters.wait_ns >= counters.last_wait_ns > 0


@pytest.mark.parametrize("size", [1, 7, 4096, 100_003, 3_000_001])
@pytest.mark.parametrize("ring", [1 << 15, 1 << 20])
def test_copies_of_any_size_pass_rings_of_any_size(size, ring):
    with Peer(call_bytes=ring, reply_bytes=ring) as peer:
        peer.case("big_copies", size)
        pieces = [r["payload_bytes"] for r in peer.records if r["op"] == "memcpy_htod"]
        waits = sum(r["op"] == "memcpy_dtoh" and r["record_flags"] & 1 for r in peer.records)
    assert sum(pieces) == size
    assert max(pieces) <= ring // 4
    assert waits == 1


def test_a_full_call_ring_makes_the_program_wait_not_fail():
    with Peer(call_bytes=1 << 13, reply_bytes=1 << 13) as peer:
        peer.case("many_launches", 3000)
        assert peer.names().count("launch") == 3000


def test_ptx_larger_than_the_ring_passes_it_in_pieces():
    with Peer(call_bytes=4096) as peer:
        assert peer.case("large_image", 5000) == {"result": 0}
        assert peer.names().count("module_piece") > 1
        assert peer.names().count("module_load") == 1
