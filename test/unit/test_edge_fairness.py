"""What one peer may take of a server, and that others do not notice who takes more."""

import random

from rrto_ros.edge.fairness import BURST_S, MOST_PEERS, Fairness, PeerLimits


def test_no_peer_takes_the_last_place_of_all():
    for most in range(2, 40):
        fair = Fairness(PeerLimits(), most)
        open_ = []
        while not fair.objection("stranger", open_) and len(open_) < most:
            open_.append("stranger")
        assert 1 <= len(open_) < most
        assert fair.objection("robot", open_) == ""
    assert "max_sessions_per_robot" in fair.objection("stranger", open_)


def test_the_only_place_is_anybodys():
    assert Fairness(PeerLimits(), 1).objection("a", []) == ""
    assert Fairness(PeerLimits(sessions=8), 4).objection("a", ["a"] * 3) == ""


def test_who_sends_more_than_its_share_is_asked_to_wait_and_then_loses_messages():
    fair = Fairness(PeerLimits(messages_per_s=100, bytes_per_s=0), 8)
    asked = dropped = 0
    for number in range(1000):
        asked = asked or (number if fair.owes("flood", 10.0) else 0)
        if not fair.admit("flood", 10, 10.0):
            dropped = number
            break
    assert 100 * BURST_S <= asked <= 100 * BURST_S + 1
    assert 200 * BURST_S <= dropped <= 200 * BURST_S + 1
    assert fair.admit("other", 10, 10.0)
    assert not fair.owes("other", 10.0)
    assert fair.owes("flood", 10.9)
    assert fair.admit("flood", 10, 10.9)
    assert not fair.owes("flood", 12.1)
    assert fair.statistics() == {"peers": 2, "slowed": 1, "dropped": 1}
    assert (fair.dropped("flood"), fair.dropped("other")) == (1, 0)


def test_over_time_exactly_the_rate_passes_whatever_is_sent():
    rng = random.Random(3)
    fair = Fairness(PeerLimits(messages_per_s=0, bytes_per_s=1000), 8)
    now, passed = 0.0, 0
    while now < 100:
        now += rng.random() / 100
        size = rng.randrange(200)
        passed += size * fair.admit("flood", size, now)
    assert 1000 * 100 <= passed <= 1000 * (100 + 2 * BURST_S) + 200


def test_without_limits_nobody_is_slowed():
    fair = Fairness(PeerLimits(messages_per_s=0, bytes_per_s=0), 8)
    assert all(fair.admit("flood", 1 << 30, 1.0) for _ in range(10_000))
    assert not fair.owes("flood", 1.0)


def test_peers_without_end_cost_bounded_memory():
    fair = Fairness(PeerLimits(), 8)
    for number in range(MOST_PEERS + 500):
        fair.admit(f"robot{number}", 1, 1.0)
    assert fair.statistics()["peers"] == MOST_PEERS
