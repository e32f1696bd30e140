"""The codec: what is packed is read back, and what is malformed is refused."""

import dataclasses
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrto_ros.api.ops import CONTROL, OPS
from rrto_ros.errors import ProtocolError
from rrto_ros.wire import format as wire_format
from rrto_ros.wire.codec import (
    OP_BY_NAME,
    iter_calls,
    iter_headers,
    pack_blob_ref,
    pack_call,
    replace_payload,
    unpack_blob_ref,
)
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    CALL_HEADER,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    RESULT_STICKY,
)
from rrto_ros.wire.result_codec import iter_results, pack_result

VALUES = {
    "u8": st.integers(0, 255),
    "u16": st.integers(0, 2**16 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "f32": st.floats(width=32, allow_nan=False),
    "u64[]": st.lists(st.integers(0, 2**64 - 1), max_size=9).map(tuple),
    "bytes": st.binary(max_size=70),
}


@st.composite
def calls(draw):
    """(name, index, thread, flags, payload, fields) of any operation."""
    op = draw(st.sampled_from(OPS))
    fields = {n: draw(VALUES[kind]) for n, kind in op.fields if kind != "payload"}
    has_payload = any(kind == "payload" for _, kind in op.fields)
    payload = draw(st.binary(max_size=70)) if has_payload else b""
    flags = draw(st.sampled_from([0, FLAG_WAITED | FLAG_REPLY]))
    return op.name, draw(VALUES["u64"]), draw(VALUES["u32"]), flags, payload, fields


@given(st.lists(calls(), max_size=8))
@settings(max_examples=150, deadline=None)
def test_calls_are_read_back_as_they_were_packed(items):
    data = b"".join(
        pack_call(name, index, thread=thread, record_flags=flags, payload=payload, **fields)
        for name, index, thread, flags, payload, fields in items
    )
    found = list(iter_calls(data))
    assert len(found) == len(items)
    for record, (name, index, thread, flags, payload, fields) in zip(found, items, strict=True):
        got = {n: bytes(v) if isinstance(v, memoryview) else v for n, v in record.fields().items()}
        assert (record.op.name, record.index, record.thread) == (name, index, thread)
        assert got == fields
        assert bytes(record.payload or b"") == payload
        reply = FLAG_REPLY if OP_BY_NAME[name].reply != "none" else 0
        assert record.flags == flags | reply
    assert [(h.offset, h.size) for h in iter_headers(data)] == [(r.offset, r.size) for r in found]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused_but_never_crash(data):
    for read in (iter_calls, iter_results):
        try:
            list(read(data))
        except ProtocolError:
            continue


@given(calls(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_record_with_a_changed_byte_is_read_or_refused(item, data):
    name, index, thread, flags, payload, fields = item
    packed = pack_call(name, index, thread=thread, record_flags=flags, payload=payload, **fields)
    record = bytearray(packed)
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = list(iter_calls(record))
    except ProtocolError:
        return
    assert sum(call.size for call in found) <= len(record)


def launch(**changes):
    fields = {name: 1 for name, kind in OP_BY_NAME["launch"].fields if kind != "bytes"}
    return pack_call("launch", 7, **{**fields, "params": b"12345", **changes})


def patched(record, offset, form, value):
    out = bytearray(record)
    struct.pack_into(form, out, offset, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (launch()[:20], "header"),
        (launch()[:-8], "past the buffer's end"),
        (patched(launch(), 0, "<I", 90), "multiple of 8"),
        (patched(launch(), 0, "<I", 16), "multiple of 8"),
        (patched(launch(), 4, "<H", 999), "unknown operation code 999"),
        (patched(launch(), 6, "<H", 0x8000), "unknown flags"),
        (patched(launch(), 20, "<I", 4096), "payload of 4096 bytes"),
        (patched(launch(), 20, "<I", 8), "it has no payload"),
        (patched(launch(), 24 + 56, "<I", 1 << 30), "goes past the record's end"),
        (patched(launch() + bytes(8), 0, "<I", len(launch()) + 8), "its content takes"),
        (CALL_HEADER.pack(24, 20, 0, 1, 1, 0), "too short for its fields"),
        (struct.pack("<II", 4, 0), "padding record"),
        (struct.pack("<II", 80, 0), "padding record"),
    ],
)
def test_a_malformed_call_is_refused_and_the_text_says_why(record, says):
    with pytest.raises(ProtocolError, match=says):
        list(iter_calls(record))


def test_padding_is_skipped():
    data = launch() + struct.pack("<II", 16, 0) + b"whatever" + launch(stream=9)
    assert [call["stream"] for call in iter_calls(data)] == [1, 9]


@pytest.mark.parametrize(
    "make",
    [
        lambda: pack_call("no_such_op", 1),
        lambda: pack_call("mem_free", 1, address=1),
        lambda: pack_call("mem_free", 1, address=1, stream=0, more=1),
        lambda: pack_call("mem_free", 1, address=-1, stream=0),
        lambda: pack_call("mem_free", 1, address=1, stream=0, payload=b"x"),
    ],
)
def test_a_call_that_cannot_be_packed_is_refused(make):
    with pytest.raises(ProtocolError):
        make()


def test_a_payload_is_replaced_by_a_reference_and_back():
    content = bytes(range(100))
    whole = pack_call("memcpy_htod", 3, dst=4096, stream=2, payload=content)
    reference = replace_payload(
        whole, pack_blob_ref(b"d" * 32, 100), set_flags=FLAG_BLOB_REF, clear_flags=FLAG_KEEP
    )
    (call,) = iter_calls(reference)
    assert call.flags & FLAG_BLOB_REF
    assert unpack_blob_ref(call.payload) == (b"d" * 32, 100)
    assert replace_payload(reference, content, set_flags=0, clear_flags=FLAG_BLOB_REF) == whole


def test_a_blob_reference_of_a_wrong_size_is_refused():
    record = pack_call("memcpy_htod", 1, dst=1, stream=0, payload=b"x" * 39)
    with pytest.raises(ProtocolError, match="40 bytes"):
        list(iter_calls(patched(record, 6, "<H", FLAG_BLOB_REF)))
    with pytest.raises(ProtocolError):
        pack_blob_ref(b"short", 1)


@given(st.lists(st.tuples(VALUES["u64"], st.integers(0, 999), st.binary(max_size=50)), max_size=6))
def test_results_are_read_back_as_they_were_packed(items):
    data = b"".join(
        pack_result(index, status, text, RESULT_STICKY) for index, status, text in items
    )
    found = [(r.index, r.status, bytes(r.payload)) for r in iter_results(data)]
    assert found == items
    assert all(r.sticky for r in iter_results(data))


def test_a_malformed_result_is_refused():
    good = pack_result(1, 0, b"12345678")
    for bad in (good[:-8], patched(good, 16, "<I", 9), patched(good, 20, "<I", 2**31), good[:12]):
        with pytest.raises(ProtocolError):
            list(iter_results(bad))


def test_the_meaning_of_an_operation_names_its_own_fields():
    for op in OPS:
        fields = dict(op.fields)
        for named in filter(None, (op.reads, op.writes)):
            address, size = named
            assert fields[address] == "u64", op.name
            assert size in ("payload", "rows") or fields[size] == "u64", op.name
            assert size != "payload" or "payload" in fields.values(), op.name
            assert size != "rows" or {"pitch", "width", "height", "element_bytes"} <= set(fields)
        for _, field in (*op.sets, *op.needs):
            assert fields[field] == "u64", op.name
        if op.only_writes:
            assert op.reply == "none", op.name
            assert fields["stream"] == "u64", op.name
        # What is executed speculatively answers, or there would be nothing to gain.
        assert not op.only_reads or op.reply != "none", op.name
        assert not (op.only_reads and op.only_writes), op.name
    assert {op.name for op in OPS if op.only_writes} == {
        "memcpy_dtod", "memset", "launch", "graph_launch",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["an operation", "a control record", "the ring"])
def test_the_hash_of_the_table_holds_whatever_both_sides_must_agree_on(monkeypatch, what):
    before = wire_format._table_text()
    if what == "an operation":
        monkeypatch.setattr(wire_format, "OPS", OPS[1:])
    elif what == "a control record":
        (ref,) = (op for op in CONTROL if op.name == "plan_ref")
        other = dataclasses.replace(ref, fields=(*ref.fields[:-1], ("more", "u32")))
        monkeypatch.setattr(
            wire_format, "CONTROL", tuple(other if op is ref else op for op in CONTROL)
        )
    else:
        monkeypatch.setitem(wire_format.LAYOUT, "RINGS", 4096)
    assert wire_format._table_text() != before


def test_codes_and_names_of_operations_are_unique():
    assert len({op.code for op in OPS}) == len({op.name for op in OPS}) == len(OPS)
    assert BLOB_DATA_OP not in {op.code for op in OPS}
