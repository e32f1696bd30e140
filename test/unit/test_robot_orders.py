"""Orders to move: who is told, what is refused, and how often they are taken."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from rrto_ros.robot.places import orders as module
from rrto_ros.robot.places.orders import Orders
from rrto_ros.robot.places.servers import Servers, choice_of
from rrto_ros.wire.server_id import server_id

EAST, WEST, SOUTH = (server_id(name.encode(), name) for name in ("east", "west", "south"))
EVERY = bytes(16)


class Session:
    """What orders see of a session."""

    def __init__(self, number, server, servers, allowed=""):
        self.id = bytes([number]) * 16
        self.server = server
        self.hello = SimpleNamespace(pid=number)
        self.choice = choice_of(allowed, servers)
        self.ordered = False
        self.orders = []
        self.stays_local = False

    def move(self, wanted, reason):
        self.orders.append((wanted, reason))


class World:
    def __init__(self):
        self.servers = Servers()
        self.sessions = []
        self.orders = Orders(lambda: self.sessions, self.servers)

    def hear(self, **states):
        for name, state in states.items():
            assert self.servers.heard(server_id(name.encode(), name), name, state)

    def session(self, server=EAST, allowed=""):
        self.sessions.append(Session(len(self.sessions) + 1, server, self.servers, allowed))
        return self.sessions[-1]


@pytest.fixture
def world():
    return World()


def goes_to(session):
    wanted, _ = session.orders[-1]
    all_of_them = {"east": EAST, "west": WEST, "south": SOUTH}
    return {name for name, server in all_of_them.items() if wanted(server)}


def test_every_session_is_told_and_none_to_stay_where_it_is(world):
    world.hear(east="running", west="running")
    one, other = world.session(EAST), world.session(WEST)
    assert world.orders.move(EVERY, "").sessions == 2
    assert goes_to(one) == {"west", "south"}
    assert goes_to(other) == {"east", "south"}


def test_one_session_is_told_where_to(world):
    world.hear(east="running", west="running", south="running")
    one, other = world.session(EAST), world.session(EAST)
    done = world.orders.move(other.id, "south")
    assert (done.sessions, done.reason) == (1, "")
    assert goes_to(other) == {"south"}
    assert one.orders == []


def test_what_is_wrong_is_told_with_what_there_is(world):
    assert world.orders.move(EVERY, "").reason == "no session is open"
    one = world.session(EAST)
    assert "no other server of this robot is heard of" in world.orders.move(EVERY, "").reason
    assert "'north' is heard of; none is" in world.orders.move(EVERY, "north").reason
    world.hear(east="running", west="running")
    assert "there are east, west" in world.orders.move(EVERY, "north").reason
    assert "is at east already" in world.orders.move(EVERY, "east").reason
    told = world.orders.move(b"x" * 16, "west").reason
    assert f"there are {one.id.hex()} (pid 1)" in told
    assert one.orders == []


def test_a_list_is_kept_to(world):
    world.hear(east="running", west="running", south="running")
    world.session(EAST, allowed="east, south")
    assert "run at east, south only" in world.orders.move(EVERY, "west").reason
    assert world.orders.move(EVERY, "south").sessions == 1


def test_a_session_opening_is_no_session_yet(world):
    world.hear(west="running")
    world.session(b"")
    assert world.orders.move(EVERY, "").reason == "no session is open"


def test_the_same_order_again_is_the_one_before_and_another_one_is_too_soon(world, monkeypatch):
    world.hear(east="running", west="running", south="running")
    session = world.session(EAST)
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert world.orders.move(EVERY, "west").sessions == 1
    # Whose answer was lost asks again.
    assert world.orders.move(EVERY, "west").sessions == 1
    for _ in range(100):
        refused = world.orders.move(EVERY, "south")
        assert refused.sessions == 0
        assert "was ordered elsewhere less than 2 s ago" in refused.reason
    assert len(session.orders) == 1
    assert world.orders.statistics()["moves_too_often"] == 100
    now[0] += module.PERIOD_S
    assert world.orders.move(EVERY, "south").sessions == 1
    assert len(session.orders) == 2


def test_a_server_that_drains_is_left_where_another_one_is_there(world):
    session = world.session(EAST)
    world.hear(east="draining")
    world.orders.drain()
    assert session.orders == []
    world.hear(west="draining")
    world.orders.drain()
    assert session.orders == [], "both are being stopped"
    world.hear(west="running")
    world.orders.drain()
    assert "east" not in goes_to(session)
    assert session.orders[0][1] == "its server is being stopped"
    session.ordered = True
    world.orders.drain()
    assert len(session.orders) == 1


def test_a_drain_keeps_to_the_list_and_leaves_others_alone(world):
    session, other = world.session(EAST, allowed="east"), world.session(SOUTH)
    world.hear(east="draining", west="running", south="running")
    world.orders.drain()
    assert session.orders == other.orders == []


def test_a_stranger_that_names_every_server_draining_stops_no_search(world):
    session = world.session(EAST)
    world.hear(east="draining", west="draining", south="draining")
    world.orders.drain()
    assert session.orders == []
    from rrto_ros.robot.places.servers import Search

    assert Search(session.choice)(WEST), "draining servers are asked, and say nothing"


def test_a_session_that_is_over_is_not_kept(world):
    world.hear(east="running", west="running")
    session = world.session(EAST)
    world.orders.move(EVERY, "")
    gone = weakref.ref(session)
    world.sessions.clear()
    del session
    gc.collect()
    assert gone() is None
