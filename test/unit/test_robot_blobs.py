from __future__ import annotations

import hashlib

from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.wire.codec import blob_tag, iter_calls, iter_headers, pack_call, unpack_blob_ref
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_KEEP, FLAG_REPLY

BIG = bytes(range(256)) * 100


def htod(index, payload, dst=4096):
    return pack_call("memcpy_htod", index, dst=dst, stream=3, payload=payload, record_flags=1)


def rewrite(blobs, record):
    """What leaves in the place of a record; None: the record as it is."""
    data = bytearray(record)
    changed = blobs.rewrite(memoryview(data), next(iter_headers(record)))
    return changed or (data if data != record else None)


def test_a_known_content_becomes_a_reference_and_everything_else_of_the_call_stays():
    digest = hashlib.sha256(BIG).digest()
    blobs = BlobReferences(frozenset([blob_tag(digest)]), 1024)
    call = next(iter_calls(rewrite(blobs, htod(9, BIG))))
    assert unpack_blob_ref(call.payload) == (digest, len(BIG))
    assert call.flags == FLAG_BLOB_REF | 1
    assert (call.index, call["dst"], call["stream"]) == (9, 4096, 3)
    assert blobs.statistics()["saved_bytes"] == len(BIG)


def test_an_unknown_content_is_sent_with_keep_and_named_from_then_on():
    blobs = BlobReferences(frozenset(), 1024)
    first = next(iter_calls(rewrite(blobs, htod(1, BIG))))
    assert first.flags == FLAG_KEEP | 1
    assert bytes(first.payload) == BIG
    second = next(iter_calls(rewrite(blobs, htod(2, BIG, dst=8192))))
    assert second.flags & FLAG_BLOB_REF


def test_a_module_is_named_by_its_content_whatever_its_handle():
    blobs = BlobReferences(frozenset(), 1024)
    rewrite(blobs, pack_call("module_load", 1, module=1, payload=BIG))
    call = next(iter_calls(rewrite(blobs, pack_call("module_load", 2, module=2, payload=BIG))))
    assert call.flags == FLAG_BLOB_REF | FLAG_REPLY
    assert call["module"] == 2


def test_small_payloads_and_other_operations_are_left_alone():
    blobs = BlobReferences(frozenset(), 1024)
    assert rewrite(blobs, htod(1, b"x" * 1023)) is None
    launch = pack_call(
        "launch", 2, module=1, kernel=0, flags=0, grid_x=1, grid_y=1, grid_z=1, block_x=1,
        block_y=1, block_z=1, shared_bytes=0, stream=0, params=bytes(4000),
    )  # fmt: skip
    assert rewrite(blobs, launch) is None
    assert blobs.statistics()["hashed_bytes"] == 0


def test_a_destination_that_keeps_changing_is_not_hashed_any_more_and_others_still_are():
    blobs = BlobReferences(frozenset(), 1024)
    rewritten = [rewrite(blobs, htod(i, bytes([i]) * 2000)) for i in range(1, 7)]
    assert [r is None for r in rewritten] == [False, False, False, True, True, True]
    assert rewrite(blobs, htod(8, b"w" * 2000, dst=1 << 20)) is not None
    assert blobs.statistics()["hashed_bytes"] == 4 * 2000


def test_contents_are_kept_for_a_server_that_asks_until_the_call_is_executed():
    blobs = BlobReferences(frozenset([blob_tag(hashlib.sha256(BIG).digest())]), 1024)
    rewrite(blobs, htod(5, BIG))
    blobs.executed(4)
    data = next(iter_calls(blobs.wanted(5)))
    assert (data.op.name, data.index, bytes(data.payload)) == ("blob_data", 5, BIG)
    blobs.executed(5)
    assert blobs.wanted(5) is None
    assert blobs.statistics()["kept_bytes"] == 0


def test_beyond_the_bound_of_kept_bytes_uploads_travel_literally():
    blobs = BlobReferences(
        frozenset([blob_tag(hashlib.sha256(BIG).digest())]), 1024, max_kept_bytes=len(BIG) * 2
    )
    flags = [next(iter_calls(rewrite(blobs, htod(i, BIG, dst=i)))).flags for i in (1, 2, 3)]
    assert [bool(f & FLAG_BLOB_REF) for f in flags] == [True, True, False]


def test_a_record_whose_payload_lies_about_its_place_is_left_for_the_server_to_refuse():
    blobs = BlobReferences(frozenset(), 64)
    record = bytearray(pack_call("mem_free", 1, address=1, stream=0)) + bytes(64)
    record[0:4] = (len(record)).to_bytes(4, "little")
    record[4:6] = (12).to_bytes(2, "little")
    record[20:24] = (80).to_bytes(4, "little")
    assert rewrite(blobs, bytes(record)) is None


def test_what_several_servers_ask_for_was_saved_once_and_is_taken_back_once():
    digest = hashlib.sha256(BIG).digest()
    blobs = BlobReferences(frozenset([blob_tag(digest)]), 1024)
    rewrite(blobs, htod(9, BIG))
    for _ in range(3):
        assert blobs.wanted(9)
        assert blobs.statistics()["saved_bytes"] == 0
        blobs.resumed()
    # Of a block that is restored: it was never saved.
    assert blobs.brought(3, BIG)
    assert blobs.statistics()["saved_bytes"] == 0
