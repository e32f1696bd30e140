"""When a session moves because its results would come sooner elsewhere, and when it stays."""

import itertools
import random
from types import SimpleNamespace

import pytest

from rrto_ros.robot.places import balance as module
from rrto_ros.robot.places import servers as servers_module
from rrto_ros.robot.places.balance import Balance
from rrto_ros.robot.places.servers import Servers, choice_of
from rrto_ros.wire.server_id import server_id

NAMES = ("east", "west", "south")
EAST, WEST, SOUTH = (server_id(name.encode(), name) for name in NAMES)


class World:
    """Servers whose round trips and speeds a test sets, and sessions that run on them.

    Attributes:
        trip: Round trip of each server that is there, in seconds.
        work: What an inference takes there without it.
    """

    def __init__(self, monkeypatch):
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(servers_module, "time", clock)
        self.servers = Servers()
        self.trip, self.work = {}, {}
        self.noise = lambda: 1.0
        self.sessions, self.moves = [], []
        self.balance = Balance(self.servers, self.send)

    def send(self, session, target, reason):
        assert reason
        self.moves.append((self.now, session, target))
        session.server = target
        return True

    def session(self, server=EAST, allowed="", trips=1.0):
        world = self

        class Session:
            ordered = False
            hello = SimpleNamespace(program="a program")
            choice = choice_of(allowed, self.servers)

            def pace(self):
                took = world.work[self.server] + trips * world.trip[self.server]
                return took * world.noise(), trips

        made = Session()
        made.server = server
        self.sessions.append(made)
        return made

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            for name in NAMES:
                server = server_id(name.encode(), name)
                if server in self.trip:
                    self.servers.heard(server, name, "running")
                    self.balance.measured(server, self.trip[server] * self.noise())
            self.balance.judge(self.sessions)
            self.now += module.MEASURE_S


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_session_goes_where_the_way_is_shorter_after_a_while(world):
    world.trip = {EAST: 0.050, WEST: 0.005}
    world.work = {EAST: 0.020, WEST: 0.020}
    session = world.session(EAST)
    world.run(module.SUSTAINED_S - 1)
    assert world.moves == []
    world.run(module.SUSTAINED_S)
    assert session.server == WEST
    world.run(600)
    assert len(world.moves) == 1


def test_a_little_is_not_worth_a_move(world):
    world.trip = {EAST: 0.012, WEST: 0.005}
    world.work = {EAST: 0.030, WEST: 0.030}
    world.session(EAST)
    world.run(600)
    assert world.moves == []


def test_what_passes_soon_moves_nobody(world):
    world.work = {EAST: 0.020, WEST: 0.020}
    world.session(EAST)
    for _ in range(20):
        world.trip = {EAST: 0.100, WEST: 0.005}
        world.run(module.SUSTAINED_S - 3 * module.MEASURE_S)
        world.trip = {EAST: 0.005, WEST: 0.005}
        world.run(module.SAMPLES * module.MEASURE_S)
    assert world.moves == []


def test_a_near_server_that_computes_slowly_is_tried_once(world):
    world.trip = {EAST: 0.050, WEST: 0.005}
    world.work = {EAST: 0.020, WEST: 0.500}
    session = world.session(EAST)
    world.run(200)
    assert [target for _, _, target in world.moves] == [WEST, EAST]
    assert world.moves[1][0] - world.moves[0][0] >= module.REST_S
    world.run(300)
    assert len(world.moves) == 2
    assert session.server == EAST


def test_noise_moves_nobody_between_servers_that_are_alike(world):
    rng = random.Random(4)
    world.noise = lambda: rng.lognormvariate(0.0, 0.3)
    world.trip = {EAST: 0.010, WEST: 0.010, SOUTH: 0.010}
    world.work = {EAST: 0.010, WEST: 0.010, SOUTH: 0.010}
    world.session(EAST)
    world.run(3600)
    assert len(world.moves) <= 2, "in an hour"


def test_sessions_go_one_after_the_other(world):
    world.trip = {EAST: 0.050, WEST: 0.005}
    world.work = {EAST: 0.020, WEST: 0.020}
    for _ in range(4):
        world.session(EAST)
    world.run(200)
    times = [at for at, _, _ in world.moves]
    assert len(times) == 4
    assert all(b - a >= module.SUSTAINED_S for a, b in itertools.pairwise(times))


def test_the_list_holds_and_who_is_silent_or_drains_is_no_place(world):
    world.trip = {EAST: 0.050, WEST: 0.005}
    world.work = {EAST: 0.020, WEST: 0.020}
    world.session(EAST, allowed="east, south")
    world.run(60)
    assert world.moves == []
    session = world.session(EAST)
    del world.trip[WEST]
    world.run(60)
    assert world.moves == []
    assert session.server == EAST


def test_without_measured_times_nothing_is_judged(world):
    world.trip = {EAST: 0.050, WEST: 0.005}
    world.work = {EAST: -0.050, WEST: 0.0}
    world.session(EAST)  # nothing has run: its pace is 0
    world.run(60)
    assert world.moves == []


def test_more_round_trips_make_a_far_server_worse(world):
    world.trip = {EAST: 0.010, WEST: 0.005}
    world.work = {EAST: 0.050, WEST: 0.050}
    one, many = world.session(EAST), world.session(EAST, trips=20.0)
    world.run(60)
    assert one.server == EAST
    assert many.server == WEST


def test_a_strangers_servers_are_bounded_and_lead_nowhere(world):
    world.trip = {EAST: 0.050}
    world.work = {EAST: 0.020}
    world.session(EAST)
    for number in range(1000):
        world.balance.measured(number.to_bytes(16, "big"), 1e-6)
    world.run(60)
    assert world.moves == []
    kept = [name for name in world.balance.statistics() if name.startswith("round_trip_ms")]
    assert len(kept) <= servers_module.MOST_SERVERS
