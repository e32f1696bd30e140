"""An upload's way from the program's ring into the message that leaves: copies and contents."""

from __future__ import annotations

import hashlib
import random
import struct
import tracemalloc
from array import array

import pytest
from rclpy.serialization import deserialize_message, serialize_message

from rrto_msgs.msg import CallBatch
from rrto_ros.api import ring_layout as layout
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.ring import RingConsumer, RingMemory
from rrto_ros.robot.status import SessionConfig
from rrto_ros.ros.message_bytes import set_bytes
from rrto_ros.wire.codec import blob_tag, iter_headers, pack_call
from rrto_ros.wire.format import (
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    RESULTS_WANTED_OP,
    pad8,
)
from rrto_ros.wire.link import MessageSender
from rrto_ros.wire.literal import literal_records
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.templates import CallTemplate

KNOWN = random.Random(0).randbytes(3000)


def upload(index, payload, dst=4096, flags=0):
    return pack_call("memcpy_htod", index, dst=dst, stream=0, payload=payload, record_flags=flags)


def read(index, flags=FLAG_REPLY):
    return pack_call("memcpy_dtoh", index, src=4096, stream=0, size=400, record_flags=flags)


class Recalled:
    """What the program did at an earlier start: these plans."""

    def __init__(self, plans):
        self.plans, self.apart, self.start = plans, False, None

    def recall(self):
        return self

    def keep(self, *_, **__):
        """Nowhere."""

    def statistics(self):
        return {}


class Way:
    """What an upload passes in the recorder, without threads and network."""

    def __init__(self, blobs=None, mode="batched", ring_bytes=8 << 20, plans=()):
        self.ring = RingMemory(call_bytes=ring_bytes, reply_bytes=4096)
        self.ring_bytes = ring_bytes
        self.consumer = RingConsumer(self.ring)
        memory = Recalled(plans) if plans else None
        self.out = Outgoing(SessionConfig(mode=mode), blobs, lambda: (0, 0, 0), memory)
        self.sender = MessageSender()
        self.mode = mode
        self.head = 0

    def program(self, *records):
        """The program makes calls."""
        for record in records:
            rest = self.ring_bytes - self.head % self.ring_bytes
            if len(record) > rest:
                at = layout.RINGS + self.head % self.ring_bytes
                struct.pack_into("<IHH", self.ring.view, at, rest, 0, 0)
                self.head += rest
            at = layout.RINGS + self.head % self.ring_bytes
            self.ring.view[at : at + len(record)] = record
            self.head += len(record)
        atomics().store_u64(self.ring.address + layout.CALL_HEAD, self.head)

    def absorb(self):
        while self.out.absorb(self.consumer, self.mode, 0.0) is not None:
            pass

    def messages(self):
        """What is published now."""
        if self.out.pending:
            self.sender.push(self.out.take(), given=True)
        return [self.message(one) for one in self.sender.due(0.0)]

    def message(self, one):
        made = CallBatch()
        set_bytes(made, "data", one.data)
        return made


@pytest.fixture
def way():
    made = []

    def make(**options):
        made.append(Way(**options))
        return made[-1]

    yield make
    for one in made:
        one.ring.close()


def copies(way, size, *later):
    """How often an upload of `size` bytes, which the ring has, lies in memory beside the ring.

    At most, until it is in messages; the program makes the calls `later` when it has been taken.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        way.absorb()
        for record in later:
            way.program(record)
            way.absorb()
        made = way.messages()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert sum(len(message.data) for message in made) >= size
    return round(peak / size)


@pytest.mark.parametrize("size", [600_000, 3 << 20])
@pytest.mark.parametrize("mode", ["rpc", "batched", "replay"])
def test_an_upload_is_copied_once_on_its_way_into_messages(way, mode, size):
    one = way(mode=mode)
    one.program(upload(1, bytes(size)))
    assert copies(one, size) == 1


def inference(index, *payloads):
    """Calls of an inference: uploads, some work, two reads; the first of these is waited for."""
    out = [upload(index + k, data, dst=k << 24) for k, data in enumerate(payloads)]
    for value in range(3):
        out.append(
            pack_call(
                "memset", index + len(out), dst=0, value=value, element_bytes=1, width=64,
                height=1, pitch=64, stream=0,
            )
        )  # fmt: skip
    return [*out, read(index + len(out), FLAG_WAITED | FLAG_REPLY), read(index + len(out) + 1)]


def plan_of(records):
    calls = []
    for record in records:
        header = next(iter_headers(record))
        body = record[HEADER_BYTES : header.size - pad8(header.payload_bytes)]
        calls.append(CallTemplate(header.op, header.payload_bytes, body))
    return Plan(tuple(calls))


def by_shim(records):
    """The same calls as the shim refers to them: a large upload or a wait ends a reference."""
    out, first = [], 0
    headers = [next(iter_headers(record)) for record in records]
    for k, (record, header) in enumerate(zip(records, headers, strict=True)):
        if header.payload_bytes or header.flags & FLAG_WAITED or k + 1 == len(records):
            marks = [mark(k - first, header.flags)] if header.flags else []
            payload = record[header.size - pad8(header.payload_bytes) :]
            begin = headers[first].index
            out.append(pack_reference(1, first, k + 1 - first, begin, 1, marks, [], payload))
            first = k + 1
    return out


def steady(way, sizes, rng, **options):
    """A recorder in mode replay whose shim has the plan of an inference that was made once."""
    rounds = [inference(2 + 10 * k, *map(rng.randbytes, sizes)) for k in range(2)]
    one = way(mode="replay", plans=[plan_of(rounds[0])], **options)
    one.program(upload(1, b"before it", dst=1))
    one.absorb()
    one.messages()
    assert one.out.shim_news()
    one.program(pack_call("plan_taken", 0, plan=1, state=1), *rounds[0])
    one.absorb()
    one.messages()
    one.sender.acknowledged(one.sender.newest, (), 0.0)
    return one, rounds[1]


UNTIL = pytest.mark.parametrize("until", [None, -1], ids=["the end", "a wait"])


@UNTIL
@pytest.mark.parametrize("size", [600_000, 3 << 20])
@pytest.mark.parametrize("who", [by_shim, list])
def test_an_upload_in_a_reference_is_copied_once_whoever_matched_it(way, who, size, until):
    one, records = steady(way, [size], random.Random(1))
    before = one.out.statistics()["references"]
    one.program(*who(records[:until]))
    assert copies(one, size) == 1
    assert one.out.statistics()["references"] == before + 2, "the call was named, not sent"


def test_uploads_in_the_references_of_the_shim_are_copied_once_each(way):
    one, records = steady(way, [600_000, 700_000], random.Random(1))
    one.program(*by_shim(records))
    assert copies(one, 1_300_000) == 1


@UNTIL
@pytest.mark.parametrize("blobs", [False, True])
@pytest.mark.parametrize("sizes", [[600_000], [300_000, 5, 600_000], [500_000, 500_000, 900]])
@pytest.mark.parametrize("who", [by_shim, list])
def test_references_with_uploads_mean_the_calls_that_the_program_made(
    way, who, sizes, blobs, until
):
    """However they came, and were taken out of the ring."""
    for seed in range(6):
        rng = random.Random(seed)
        one, records = steady(
            way, sizes, rng, blobs=BlobReferences(frozenset(), 1024) if blobs else None
        )
        made, got = who(records[:until]), []
        while made:
            some = rng.randint(1, len(made))
            one.program(*made[:some])
            del made[:some]
            one.absorb()
            if rng.random() < 0.3 or not made:
                got.append(b"".join(bytes(message.data) for message in one.messages()))
        plan = plan_of(records)
        sent = [bytes(r) for batch in got for r in literal_records(batch, {1: plan})]
        assert [plainly(r) for r in sent] == [plainly(r) for r in records[:until]]
        assert any(next(iter_headers(r)).flags & FLAG_KEEP for r in sent) is blobs


def plainly(record):
    """A call without what the recorder says of its upload."""
    header = next(iter_headers(record))
    return header.index, header.flags & ~FLAG_KEEP, bytes(record[8:])


def test_one_more_copy_of_what_a_reference_brings_would_be_noticed(way, monkeypatch):
    monkeypatch.setattr("rrto_ros.robot.outgoing.joined", b"".join)
    one, records = steady(way, [600_000], random.Random(1))
    one.program(*by_shim(records))
    assert copies(one, 600_000) == 2


def test_an_upload_is_copied_once_where_other_calls_share_its_batch_and_the_server_keeps_it(way):
    one = way(blobs=BlobReferences(frozenset(), 1024))
    one.program(read(1), upload(2, bytes(600_000)))
    assert copies(one, 600_000, read(3), read(4)) == 1


def test_one_more_copy_in_the_link_would_be_noticed(way, monkeypatch):
    push = MessageSender.push
    monkeypatch.setattr(MessageSender, "push", lambda self, batch, given: push(self, batch))
    one = way()
    one.program(upload(1, bytes(600_000)))
    assert copies(one, 600_000) == 2


def test_one_more_copy_out_of_the_ring_would_be_noticed(way, monkeypatch):
    def take_into(self, buffer):
        data = self.take()
        buffer.frombytes(data)
        return len(data)

    monkeypatch.setattr(RingConsumer, "take_into", take_into)
    one = way()
    one.program(upload(1, bytes(600_000)))
    assert copies(one, 600_000) == 2


def test_one_more_copy_into_the_message_would_be_noticed(way, monkeypatch):
    monkeypatch.setattr(
        Way, "message", lambda self, one: CallBatch(data=array("B", bytes(one.data)))
    )
    one = way()
    one.program(upload(1, bytes(600_000)))
    assert copies(one, 600_000) > 1


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_the_program_may_write_over_an_upload_as_soon_as_its_room_is_free(way, monkeypatch, mode):
    free = RingConsumer._free

    def scribbled(self, size):
        self._ring.view[layout.RINGS : layout.RINGS + self._size] = b"\xff" * self._size
        free(self, size)

    monkeypatch.setattr(RingConsumer, "_free", scribbled)
    one, record = way(mode=mode), upload(1, random.Random(1).randbytes(600_000))
    one.program(record)
    one.absorb()
    assert [bytes(message.data) for message in one.messages()] == [record]


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_message_that_is_sent_again_is_the_same_although_the_ring_was_used_again(way, mode):
    one, rng = way(mode=mode, ring_bytes=1 << 20), random.Random(2)
    records = [upload(k, rng.randbytes(600_000)) for k in (1, 2, 3)]
    for record in records:
        one.program(record)
        one.absorb()
        assert [bytes(message.data) for message in one.messages()] == [record]
    one.sender.acknowledged(0, [1, 2], 1.0)
    again = [bytes(message.data) for message in one.sender.due(1.0)]
    assert again == records[:2]


def calls(rng):
    """Calls with what is sent as it is, kept, named, and left out."""
    yield upload(1, rng.randbytes(5000), dst=9 << 20)
    yield upload(2, KNOWN, dst=10 << 20)
    for index in range(3, 60):
        kind = rng.randrange(5)
        if kind == 0:
            yield read(index)
        elif kind == 1:
            yield upload(index, KNOWN, dst=1 << 20 | rng.randrange(8) << 12)
        elif kind == 2:
            yield upload(
                index, rng.randbytes(rng.choice([5, 900, 20_000])), rng.randrange(3) << 20
            )
        elif kind == 3:
            yield pack_call("results_wanted", 0)
        else:
            yield pack_call("mem_alloc", index, address=index << 20, size=4096, stream=0)


@pytest.mark.parametrize("seed", range(40))
def test_what_leaves_does_not_depend_on_how_the_records_were_taken(way, seed):
    rng = random.Random(seed)
    records = list(calls(rng))
    tags = frozenset([blob_tag(hashlib.sha256(KNOWN).digest())])
    reference = BlobReferences(tags, 1024)
    wanted = [
        reference.rewrite(record, next(iter_headers(record))) or record
        for record in (memoryview(bytearray(record)) for record in records)
        if next(iter_headers(record)).op != RESULTS_WANTED_OP
    ]
    assert any(h.flags & FLAG_KEEP for h in iter_headers(b"".join(wanted)))
    assert any(h.flags & FLAG_BLOB_REF for h in iter_headers(b"".join(wanted)))
    one, got = way(blobs=BlobReferences(tags, 1024), ring_bytes=128 << 10), []
    while records:
        some = rng.randrange(1, 6)
        one.program(*records[:some])
        del records[:some]
        one.absorb()
        if rng.random() < 0.4:
            got += [bytes(message.data) for message in one.messages()]
    got += [bytes(message.data) for message in one.messages()]
    assert b"".join(got) == b"".join(wanted)


def test_what_a_message_is_given_arrives_whatever_kind_of_buffer_it_is():
    content = bytes(range(256)) * 40
    whole = array("B", b"xx" + content + b"x")
    for data in (content, bytearray(content), memoryview(whole)[2:-1], memoryview(content)):
        made = CallBatch(sequence=5)
        set_bytes(made, "data", data)
        got = deserialize_message(serialize_message(made), CallBatch)
        assert (bytes(got.data), got.sequence) == (content, 5)


def test_a_message_whose_fields_are_kept_elsewhere_is_given_an_array():
    class Other:
        __slots__ = ("data",)

    made = Other()
    set_bytes(made, "data", memoryview(b"abc"))
    assert made.data == array("B", b"abc")


def test_a_small_piece_of_a_large_buffer_does_not_keep_it_in_memory():
    sender = MessageSender()
    large = bytes(1 << 20)
    sender.push(memoryview(large)[:4096], given=True)
    sender.push(memoryview(large)[: 900 << 10], given=True)
    first, second = sender.due(0.0)
    assert len(memoryview(first.data).obj) == 4096
    assert second.data.obj is large


def test_what_is_not_given_to_the_link_may_change_after_it_was_pushed():
    sender = MessageSender(max_message_bytes=1000)
    batch = bytearray(b"a" * 2500)
    sender.push(batch)
    batch[:] = b"b" * 2500
    assert b"".join(bytes(message.data) for message in sender.due(0.0)) == b"a" * 2500
