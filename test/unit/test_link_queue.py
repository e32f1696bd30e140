"""The model of one direction of a link, without a clock or a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.link_forwarder import Forwarder, settings_from
from rrto_ros.evaluation.link_queue import LinkQueue, LinkSettings

MS = 1_000_000


def test_a_packet_arrives_after_its_time_on_the_link_and_the_delay():
    queue = LinkQueue(LinkSettings(delay_ms=5, rate_mbit=8))  # 1 byte per microsecond
    assert queue.offer(bytes(1000), now_ns=0)
    assert queue.next_due_ns() == 6 * MS
    assert queue.due(6 * MS - 1) == []
    assert queue.due(6 * MS) == [bytes(1000)]
    assert queue.next_due_ns() is None


def test_packets_wait_for_the_link_one_after_the_other():
    queue = LinkQueue(LinkSettings(rate_mbit=8))
    for _ in range(3):
        queue.offer(bytes(500), 0)
    assert [len(queue.due(t)) for t in (MS // 2, MS, 3 * MS // 2)] == [1, 1, 1]


def test_an_idle_link_does_not_save_up_time():
    queue = LinkQueue(LinkSettings(rate_mbit=8))
    queue.offer(bytes(1000), 0)
    queue.due(MS)
    queue.offer(bytes(1000), 100 * MS)
    assert queue.next_due_ns() == 101 * MS


def test_what_does_not_fit_in_the_queue_is_dropped_and_counted():
    queue = LinkQueue(LinkSettings(rate_mbit=8, queue_bytes=2000))
    assert [queue.offer(bytes(1000), 0) for _ in range(4)] == [True, True, False, False]
    assert queue.offer(bytes(1000), MS), "one packet has left, so there is room for one"
    assert queue.statistics()["overflowed"] == 2


@given(
    st.lists(st.tuples(st.integers(0, 3 * MS), st.integers(1, 1500)), max_size=60),
    st.floats(0, 20),
    st.floats(0, 20),
    st.sampled_from([0.0, 1.0, 50.0]),
    st.integers(0, 99),
)
def test_no_packet_overtakes_and_every_one_is_accounted_for(arrivals, delay, jitter, rate, seed):
    queue = LinkQueue(LinkSettings(delay, jitter, 0.2, rate, 20_000), seed)
    now, sent, got = 0, [], []
    for number, (gap, size) in enumerate(arrivals):
        now += gap
        got += queue.due(now)
        packet = number.to_bytes(4, "little") + bytes(size)
        if queue.offer(packet, now):
            sent.append(packet)
            assert queue.next_due_ns() is not None
    got += queue.due(now + 10**12)
    assert got == sent
    counted = queue.statistics()
    assert counted["packets"] == len(arrivals)
    assert counted["delivered"] + counted["lost"] + counted["overflowed"] == len(arrivals)
    assert counted["under_way"] == 0


def test_the_share_of_lost_packets_is_the_one_set_and_the_seed_repeats_it():
    def lost(seed):
        queue = LinkQueue(LinkSettings(loss=0.1), seed)
        return [not queue.offer(b"x", i) for i in range(5000)]

    assert lost(1) == lost(1)
    assert lost(1) != lost(2)
    assert 0.08 < sum(lost(1)) / 5000 < 0.12


def test_jitter_spreads_arrivals_around_the_delay():
    queue = LinkQueue(LinkSettings(delay_ms=10, jitter_ms=2), 3)
    times = []
    for i in range(1000):
        queue.offer(b"x", i * 100 * MS)
        times.append((queue.next_due_ns() - i * 100 * MS) / MS)
        queue.due(10**18)
    assert 8 <= min(times) < 8.2
    assert 11.8 < max(times) <= 12
    assert abs(sum(times) / 1000 - 10) < 0.2


def test_new_settings_hold_for_packets_from_then_on():
    queue = LinkQueue(LinkSettings(delay_ms=1))
    queue.offer(b"a", 0)
    queue.settings = LinkSettings(loss=1.0)
    assert not queue.offer(b"b", 0)
    queue.settings = LinkSettings(delay_ms=3)
    queue.offer(b"c", 0)
    assert queue.due(MS) == [b"a"]
    assert queue.due(3 * MS) == [b"c"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"delay_ms": -1}, "delay_ms"),
        ({"loss": 1.5}, "probability"),
        ({"rate_mbit": -3}, "rate_mbit"),
        ({"queue_bytes": 10}, "one packet"),
        ({"speed": 1}, "speed"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(fields, text):
    with pytest.raises(ConfigError, match=text):
        settings_from(fields)


@pytest.mark.parametrize("line", ["", "[]", '{"stop": 1}', '{"set": {"up": {"loss": 7}}}'])
def test_the_forwarder_answers_a_bad_command_with_an_error(line):
    forwarder = Forwarder(-1, -1, LinkQueue(LinkSettings()), LinkQueue(LinkSettings()))
    assert forwarder.answer(line)["error"]


def test_the_forwarder_changes_one_direction_and_leaves_the_other():
    forwarder = Forwarder(-1, -1, LinkQueue(LinkSettings()), LinkQueue(LinkSettings(delay_ms=4)))
    assert forwarder.answer('{"set": {"up": {"loss": 0.5}}}') == {"ok": True}
    assert forwarder.up.settings == LinkSettings(loss=0.5)
    assert forwarder.down.settings == LinkSettings(delay_ms=4)
    assert set(forwarder.answer('{"statistics": true}')) >= {"up", "down", "worst_late_ms"}
