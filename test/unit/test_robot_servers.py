"""Names of servers, the list of them, and who is asked next when one refuses."""

import uuid

import pytest

from rrto_ros.api.parameters import RECORDER, SERVER, host_name
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.gate import Gate
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.robot.places import servers as module
from rrto_ros.robot.places.servers import Search, Servers, choice_of, open_somewhere
from rrto_ros.wire.port import OpenAnswer, OpenRequest
from rrto_ros.wire.server_id import is_named, server_id
from rrto_ros.wire.versions import versions_differ, with_own_version

EAST, WEST = server_id(b"1", "east"), server_id(b"2", "west")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def request():
    return OpenRequest(uuid.uuid4().bytes, "robot", "a program", "", 1)


class Edges:
    """Servers that answer in this order; what each says is a function of the request."""

    def __init__(self, **says):
        self.says = {server_id(name.encode(), name): say for name, say in says.items()}
        self.asked = []

    def open_session(self, asked, timeout_s, believes=None, patience_s=0.0):
        self.asked.append(asked)
        stranger = None
        for server, say in self.says.items():
            if asked.server not in (bytes(16), server):
                continue
            answer = OpenAnswer(*say, server=server)
            if believes is None or believes(answer):
                return answer
            stranger = answer
        if stranger is None:
            raise UnavailableError("nobody is there")
        return stranger

    def choice(self, text=""):
        servers = Servers()
        for server in self.says:
            assert any(
                servers.heard(server, name, "running") for name in ("east", "west", "south")
            )
        return choice_of(text, servers)


YES, FULL = (True,), (False, "8 sessions are open (max_sessions)")


def test_a_name_counts_only_where_the_id_has_it(clock):
    servers = Servers()
    assert is_named(EAST, "east")
    assert not is_named(EAST, "west")
    assert not is_named(EAST[:15], "east")
    assert servers.heard(EAST, "east", "running")
    # A stranger says that the same server is called otherwise.
    assert not servers.heard(EAST, "west", "draining")
    assert not servers.heard(bytes(16), "", "running")
    assert not servers.heard(EAST, "e" * 61, "running")
    assert servers.name_of(EAST) == "east"
    assert servers.name_of(WEST) == WEST.hex()[:8]
    assert servers.name_of(bytes(16)) == servers.name_of(b"") == ""
    assert servers.statistics() == {"servers": 1, "servers_refused": 3}


def test_two_servers_of_one_secret_and_name_apart_have_two_ids():
    assert server_id(b"1", "east") != server_id(b"2", "east")
    assert Gate(None, "place", "east").server != Gate(None, "place", "east").server


def test_who_is_silent_or_stopped_is_not_there(clock):
    servers = Servers()
    servers.heard(EAST, "east", "running")
    servers.heard(WEST, "west", "draining")
    assert [one.name for one in servers.present()] == ["east", "west"]
    servers.heard(WEST, "west", "stopped")
    assert [one.name for one in servers.present()] == ["east"]
    clock.now += module.PRESENT_S
    assert servers.present() == []
    assert servers.name_of(EAST) == "east"


def test_a_flood_of_servers_is_forgotten_the_oldest_first(clock):
    servers = Servers()
    for number in range(3 * module.MOST_SERVERS):
        servers.heard(server_id(str(number).encode(), "x"), "x", "running")
        servers.heard(EAST, "east", "running")
    assert servers.statistics()["servers"] == module.MOST_SERVERS
    assert servers.name_of(EAST) == "east"


def test_the_first_of_the_list_is_waited_for_from_the_first_answer_on(clock):
    search = Search(choice_of("west, east ,west", Servers()))
    clock.now += 100.0
    assert not search(EAST)
    assert search(WEST)
    clock.now += module.PREFER_S - 0.01
    assert not search(EAST)
    clock.now += 0.02
    assert search(EAST)
    assert not search(server_id(b"3", "south"))
    assert "not wanted" in search.explain()
    assert "`servers` allows west, east" in search.explain()


def test_an_order_and_the_list_both_hold(clock):
    search = Search(choice_of("east", Servers()), lambda server: server == WEST)
    assert not search(EAST)
    assert not search(WEST)


def test_without_a_list_the_first_answer_wins(clock):
    port = Edges(west=YES, east=YES)
    opened = open_somewhere(port, request(), None, 5.0, port.choice())
    assert opened.answer.accepted
    assert is_named(opened.answer.server, "west")


def test_a_full_server_leaves_the_session_to_another_one(clock):
    port = Edges(west=FULL, east=YES)
    opened = open_somewhere(port, request(), None, 5.0, port.choice())
    assert is_named(opened.answer.server, "east")


def test_where_all_refuse_the_reason_is_told_at_once(clock):
    port = Edges(west=FULL, east=FULL)
    opened = open_somewhere(port, request(), None, 60.0, port.choice())
    assert (opened.answer.accepted, opened.answer.reason) == (False, FULL[1])
    assert clock.now < 1002.0
    alone = Edges(west=FULL)
    opened = open_somewhere(alone, request(), None, 60.0, alone.choice())
    assert opened.answer.reason == FULL[1]
    assert len(alone.asked) == 1


def test_the_time_that_is_told_is_the_users():
    class Nobody:
        def open_session(self, asked, timeout_s, believes=None, patience_s=0.0):
            raise UnavailableError(f"nobody answered within {timeout_s:g} s")

    with pytest.raises(UnavailableError, match=r"within 1 s$"):
        open_somewhere(Nobody(), request(), None, 1.0, choice_of("", Servers()))


def test_a_server_that_is_not_listed_is_never_taken(clock):
    port = Edges(west=YES)
    opened = open_somewhere(port, request(), None, 5.0, port.choice("east"))
    assert not opened.answer.accepted
    assert opened.answer.reason == (
        "servers answered that are not wanted: west; `servers` allows east"
    )
    # It was waited for to the end.
    assert clock.now >= 1005.0


def test_a_server_that_drains_answers_only_who_asks_for_it(sockets):
    said = []
    settings = ServerSettings(
        "null", DeviceSettings(limit_bytes=1 << 20), spare_workers=0, confinement="off",
        blob_directory=sockets / "blobs",
    )  # fmt: skip
    table = SessionTable(settings, said.append, said.append, said.append, Gate(None, "", "east"))
    try:
        assert table.drain(0.0)
        assert table.open(request()) is None
        mine = OpenRequest(uuid.uuid4().bytes, "robot", "p", "", 1, server=table.server)
        assert table.open(mine).reason == "the server shuts down"
    finally:
        table.close()


def test_draining_ends_when_the_last_session_has_left(sockets):
    settings = ServerSettings(
        "null", DeviceSettings(limit_bytes=1 << 20), spare_workers=0, confinement="off",
        blob_directory=sockets / "blobs", limits=HostLimits(),
    )  # fmt: skip
    table = SessionTable(settings, lambda _: None, lambda _: None, lambda _: None)
    try:
        asked = request()
        assert table.open(asked).accepted
        assert not table.drain(0.01)
        table.close_session(asked.session, "it leaves")
        assert table.drain(30.0)
    finally:
        table.close()


def test_a_server_in_company_does_not_call_others_messages_refused(sockets):
    from rrto_ros.wire.port import CallsMessage

    settings = ServerSettings(
        "null", DeviceSettings(limit_bytes=1 << 20), spare_workers=0, confinement="off",
        blob_directory=sockets / "blobs",
    )  # fmt: skip
    lines = []
    table = SessionTable(settings, lambda _: None, lambda _: None, lines.append)
    try:
        message = CallsMessage(b"s" * 16, 1, 0, 0, b"")
        table.has_company = True
        table.receive(message)
        assert table.refused == (0, "")
        assert table.statistics()["foreign_messages"] == 1
        table.has_company = False
        table.receive(message)
        assert table.refused[0] == 1
    finally:
        table.close()


def test_versions_that_differ_are_both_named():
    import rrto_ros

    told = with_own_version(versions_differ("tables differ"))
    assert told.count(rrto_ros.__version__) == 2
    assert "this server is" in told
    assert "this robot is" in told
    assert with_own_version("8 sessions are open") == "8 sessions are open"


@pytest.mark.parametrize("name", ["-east", "a b", "a,b", "x" * 61, "a@b", "a/b"])
def test_names_that_would_break_a_list_or_a_file_are_refused(name):
    with pytest.raises(ConfigError, match="server_name"):
        SERVER["server_name"].check(name)
    with pytest.raises(ConfigError, match="servers"):
        RECORDER["servers"].check(f"east;{name}")


def test_this_machines_name_is_a_servers_name(monkeypatch):
    SERVER["server_name"].check(host_name())
    for odd in ("", "---", "a machine", "é", "x" * 200):
        monkeypatch.setattr("socket.gethostname", lambda odd=odd: odd)
        SERVER["server_name"].check(host_name())
        assert host_name()
    RECORDER["servers"].check("east, west.lan,north_1")
