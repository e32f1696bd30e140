from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.link import MAX_MISSING, SILENT_RTO_S, MessageReceiver, MessageSender


class Network:
    """Two ends with a lossy, duplicating, reordering, delaying path each way, simulated."""

    def __init__(self, seed, loss, duplicate, jitter, **sender_options):
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.jitter = loss, duplicate, jitter
        self.now = 0.0
        self.events = []
        self.count = 0
        self.sender = MessageSender(**sender_options)
        self.receiver = MessageReceiver(max_message_bytes=sender_options["max_message_bytes"])
        self.got = []

    def carry(self, kind, what):
        if self.random.random() < self.loss:
            return
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            self.count += 1
            at = self.now + 0.001 + self.random.random() * self.jitter
            heapq.heappush(self.events, (at, self.count, kind, what))

    def run(self, batches, limit_s=600.0):
        waiting = list(batches)
        while self.now < limit_s:
            while waiting and self.sender.room:
                self.sender.push(waiting.pop(0))
            for message in self.sender.due(self.now):
                self.carry("data", message)
            if self.receiver.ack_due(self.now):
                self.carry("ack", (self.receiver.ack, self.receiver.missing()))
                self.receiver.ack_sent()
            if not waiting and self.sender.idle:
                return
            times = [t for t in (self.sender.deadline(), self.receiver.ack_deadline()) if t]
            if self.events and (not times or self.events[0][0] <= min(times)):
                self.now, _, kind, what = heapq.heappop(self.events)
                if kind == "data":
                    self.got += self.receiver.receive(
                        what.sequence, what.more, what.data, self.now
                    )
                else:
                    self.sender.acknowledged(what[0], what[1], self.now)
            else:
                self.now = max(self.now, min(times))
        raise AssertionError(f"not delivered in {limit_s} simulated seconds")


@settings(max_examples=150, deadline=None)
@given(
    batches=st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    duplicate=st.sampled_from([0.0, 0.4]),
    jitter=st.sampled_from([0.0, 0.05, 1.0]),
    window=st.sampled_from([1, 3, 64]),
)
def test_any_loss_duplication_reordering_and_delay_deliver_the_same_batches_once_in_order(
    batches, seed, loss, duplicate, jitter, window
):
    net = Network(seed, loss, duplicate, jitter, max_message_bytes=16, window_messages=window)
    net.run(batches)
    assert [bytes(b) for b in net.got] == batches
    assert net.receiver.missing() == []
    assert net.sender.statistics()["unacknowledged_bytes"] == 0


def test_a_perfect_link_sends_every_message_once_and_waits_for_no_acknowledgement():
    sender = MessageSender(max_message_bytes=10)
    sender.push(b"x" * 25)
    sender.push(b"y")
    first = sender.due(0.0)
    assert [(m.sequence, m.more, len(m.data)) for m in first] == [
        (1, True, 10),
        (2, True, 10),
        (3, False, 5),
        (4, False, 1),
    ]
    assert sender.due(0.01) == []
    sender.acknowledged(4, (), 0.02)
    assert sender.idle
    assert sender.deadline() is None
    assert sender.statistics()["resent"] == 0


def test_the_window_bounds_unacknowledged_messages_and_bytes_and_reports_no_room():
    sender = MessageSender(max_message_bytes=10, window_messages=4, window_bytes=25)
    for _ in range(4):
        sender.push(b"z" * 10)
    assert len(sender.due(0.0)) == 2
    assert not sender.room
    sender.acknowledged(1, (), 0.1)
    assert [m.sequence for m in sender.due(0.1)] == [3]
    sender.acknowledged(3, (), 0.2)
    assert [m.sequence for m in sender.due(0.2)] == [4]
    assert sender.room


def test_a_named_missing_message_is_sent_again_at_once_and_only_once_per_round_trip():
    sender = MessageSender()
    for _ in range(3):
        sender.push(b"a")
    sender.due(0.0)
    assert sender.acknowledged(1, [2], 0.05)
    assert [m.sequence for m in sender.due(0.05)] == [2]
    assert not sender.acknowledged(1, [2], 0.06)
    assert sender.due(0.06) == []
    assert sender.acknowledged(1, [2], 0.15)
    assert [m.sequence for m in sender.due(0.15)] == [2]


def test_silence_resends_the_oldest_with_growing_pauses_up_to_the_bound():
    sender = MessageSender(rto_s=0.1, max_rto_s=0.5)
    sender.push(b"a")
    sender.push(b"b")
    sender.due(0.0)
    now, pauses = 0.0, []
    for _ in range(5):
        pause = sender.deadline() - now
        pauses.append(round(pause, 6))
        now = sender.deadline()
        assert [m.sequence for m in sender.due(now)] == [1]
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_after_a_blackout_the_rest_follows_without_a_timeout_for_each():
    sender = MessageSender(rto_s=0.1)
    for _ in range(5):
        sender.push(b"a")
    sender.due(0.0)
    sender.due(0.1)
    for ack in range(1, 5):
        sender.acknowledged(ack, (), 0.1 + ack * 0.001)
        assert [m.sequence for m in sender.due(0.1 + ack * 0.001)] == [ack + 1]


def test_the_retransmission_time_follows_the_measured_round_trip():
    sender = MessageSender(rto_s=0.25, min_rto_s=0.05)
    for i in range(20):
        sender.push(b"a")
        sender.due(float(i))
        sender.acknowledged(i + 1, (), i + 0.4)
    assert 0.4 < sender.statistics()["retransmission_s"] < 0.6
    assert sender.statistics()["round_trip_s"] == pytest.approx(0.4)


@pytest.mark.parametrize("missing", [(2,), (0,), (1 << 60, 7)])
def test_what_was_never_sent_cannot_be_missing_and_the_rest_is_believed(missing):
    sender = MessageSender()
    sender.push(b"a")
    sender.due(0.0)
    assert not sender.acknowledged(0, missing, 0.1)
    assert [m.sequence for m in sender.due(0.1)] == []
    assert sender.acknowledged(1, missing, 0.1)
    assert sender.idle
    assert sender.statistics()["refused"] == 2 * len(missing)


@pytest.mark.parametrize(("ack", "missing"), [(2, ()), (-1, ()), (2, (1,)), (1 << 60, (1,))])
def test_an_acknowledgement_of_what_was_never_sent_is_refused_whole_and_counted(ack, missing):
    sender = MessageSender()
    sender.push(b"a")
    sender.due(0.0)
    with pytest.raises(ProtocolError, match="newest"):
        sender.acknowledged(ack, missing, 0.1)
    assert sender.statistics()["refused"] == 1
    assert not sender.idle
    assert not sender.urgent


def test_on_a_link_that_was_fast_no_pause_in_silence_exceeds_a_second():
    sender = MessageSender()
    sender.push(b"a")
    sender.due(0.0)
    sender.acknowledged(1, (), 0.01)
    sender.push(b"b")
    sender.due(1.0)
    now, pauses = 1.0, []
    for _ in range(8):
        pauses.append(sender.deadline() - now)
        now = sender.deadline()
        assert [m.sequence for m in sender.due(now)] == [2]
    assert max(pauses) == pytest.approx(SILENT_RTO_S)
    assert now < 1.0 + 8 * SILENT_RTO_S


@pytest.mark.parametrize(
    ("sequence", "data", "name"),
    [
        (0, b"a", "sequence"),
        (1, b"", "empty"),
        (1, b"a" * 11, "oversized"),
        (1 + 1024, b"a", "window"),
    ],
)
def test_a_malformed_message_is_refused_by_name_and_the_stream_goes_on(sequence, data, name):
    receiver = MessageReceiver(max_message_bytes=10)
    with pytest.raises(ProtocolError, match="message refused"):
        receiver.receive(sequence, False, data, 0.0)
    statistics = receiver.statistics()
    assert statistics[f"refused_{name}"] == 1
    assert statistics["last_refusal"]
    assert receiver.receive(1, False, b"good", 0.0) == [b"good"]


def test_a_batch_that_never_ends_breaks_the_stream_with_a_reason():
    receiver = MessageReceiver(max_message_bytes=10, max_batch_bytes=25)
    receiver.receive(1, True, b"a" * 10, 0.0)
    receiver.receive(2, True, b"a" * 10, 0.0)
    with pytest.raises(ProtocolError, match="beyond 25 bytes"):
        receiver.receive(3, True, b"a" * 10, 0.0)
    assert "beyond 25 bytes" in receiver.broken
    with pytest.raises(ProtocolError):
        receiver.receive(4, False, b"a", 0.0)


def test_replayed_messages_are_acknowledged_at_once_and_not_delivered_again():
    receiver = MessageReceiver()
    assert receiver.receive(1, False, b"a", 0.0) == [b"a"]
    receiver.ack_sent()
    assert receiver.receive(1, False, b"EVIL", 5.0) == []
    assert receiver.ack_due(5.0)
    assert receiver.statistics()["duplicates"] == 1


def test_gaps_are_named_oldest_first_at_most_64_of_them():
    receiver = MessageReceiver()
    for sequence in range(2, 402, 2):
        assert receiver.receive(sequence, False, b"a", 0.0) == []
    assert receiver.missing() == list(range(1, 1 + 2 * MAX_MISSING, 2))
    assert receiver.ack_due(0.0)


def test_messages_ahead_are_kept_within_a_byte_bound():
    receiver = MessageReceiver(max_ahead_bytes=10)
    receiver.receive(2, False, b"a" * 8, 0.0)
    receiver.receive(3, False, b"a" * 8, 0.0)
    assert receiver.statistics()["ahead_bytes"] == 8
    assert receiver.statistics()["dropped"] == 1
    assert receiver.missing() == [1, 3]
    assert len(receiver.receive(1, False, b"x", 0.0)) == 2


def test_a_lost_tail_shows_when_the_other_side_announces_its_newest_message():
    receiver = MessageReceiver()
    receiver.receive(1, False, b"a", 0.0)
    receiver.ack_sent()
    receiver.announced(3, 1.0)
    assert receiver.missing() == [2, 3]
    assert receiver.ack_due(1.0)
    with pytest.raises(ProtocolError):
        receiver.announced(10_000, 1.0)


def test_acknowledgements_wait_for_data_to_carry_them_but_not_for_long():
    receiver = MessageReceiver(ack_delay_s=0.02, ack_messages=3)
    receiver.receive(1, False, b"a", 1.0)
    assert not receiver.ack_due(1.01)
    assert receiver.ack_deadline() == pytest.approx(1.02)
    assert receiver.ack_due(1.02)
    receiver.ack_sent()
    assert receiver.ack_deadline() is None
    for sequence in (2, 3, 4):
        receiver.receive(sequence, False, b"a", 2.0)
    assert receiver.ack_due(2.0)


class SlowLink:
    """Sends one large row of batches through a link of a rate, acknowledged after a delay."""

    def __init__(self, bytes_per_s, delay_s, **sender_options):
        self.rate, self.delay = bytes_per_s, delay_s
        self.sender = MessageSender(**sender_options)
        self.now = self.free_at = 0.0
        self.carried = 0
        self.longest_queue_s = 0.0

    def send(self, count, size):
        """Send `count` batches; returns the seconds from the first to the last acknowledged."""
        begun, acks = self.now, []
        while count or not self.sender.idle:
            while count and self.sender.room:
                self.sender.push(bytes(size))
                count -= 1
            for message in self.sender.due(self.now):
                self.free_at = max(self.free_at, self.now) + len(message.data) / self.rate
                self.carried += len(message.data)
                self.longest_queue_s = max(self.longest_queue_s, self.free_at - self.now)
                heapq.heappush(acks, (self.free_at + self.delay, message.sequence))
            timer = self.sender.deadline()
            if acks and (timer is None or acks[0][0] <= timer):
                self.now, sequence = heapq.heappop(acks)
                self.sender.acknowledged(sequence, (), self.now)
            else:
                self.now = timer
        return self.now - begun


@pytest.mark.parametrize("mbit", [5, 20, 100])
def test_on_a_slow_link_little_is_on_its_way_and_nothing_is_sent_twice_for_long(mbit):
    link = SlowLink(mbit * 1e6 / 8, 0.004)
    # What the sender learns: the first window is larger than what a slow link should carry.
    link.send(20, 1 << 20)
    link.longest_queue_s, before = 0.0, link.carried
    took = link.send(100, 1 << 20)
    assert link.longest_queue_s < 1.5
    assert link.carried - before < 1.02 * (100 << 20)
    assert took < 1.05 * (100 << 20) / link.rate + 0.5


def test_a_fast_link_has_the_whole_window_soon_and_keeps_it_after_quiet_times():
    link = SlowLink(1.25e9, 0.02)
    link.send(100, 1 << 20)
    assert link.sender.statistics()["window_bytes"] == 32 << 20
    for _ in range(300):
        link.send(1, 200)
    assert link.sender.statistics()["window_bytes"] == 32 << 20
    assert link.sender.statistics()["resent"] == 0


def test_a_link_that_becomes_fast_again_is_used_again():
    link = SlowLink(1e6, 0.004)
    link.send(20, 1 << 20)
    assert link.sender.statistics()["window_bytes"] < 2 << 20
    link.rate = 1e9
    link.send(100, 1 << 20)
    assert link.sender.statistics()["window_bytes"] == 32 << 20
