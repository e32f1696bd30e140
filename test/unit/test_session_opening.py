"""The agreement on keys: who opens a session where, and what strangers can do."""

import dataclasses
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rrto_ros.api.info import DeviceInfo
from rrto_ros.edge import gate as gate_module
from rrto_ros.edge.gate import Admission, Gate
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.wire.handshake import Challenge, Credentials, Hello, key_id
from rrto_ros.wire.keys_text import key_text
from rrto_ros.wire.opening import close_session, open_session
from rrto_ros.wire.port import CallsMessage, OpenAnswer, OpenRequest

INFO = DeviceInfo("cpu", "test", b"u" * 16, (8, 0), 12080, 1 << 30, 1 << 40, 1 << 30, {1: 2})
REQUEST = OpenRequest(b"s" * 16, "robot", "program", "label", 7, limit_bytes=5)


class Machine:
    """A user on a machine: what it has and trusts."""

    def __init__(self, *, key=True, local=None):
        self.key = Ed25519PrivateKey.generate() if key else None
        self.local = local
        self.trusted = {}

    def read(self):
        return Credentials(self.key, dict(self.trusted), self.local)

    @property
    def public(self):
        return self.read().public

    def trust(self, other, name="other"):
        self.trusted[other.public] = name


class Line:
    """A port to servers in this process; a stranger may change what passes.

    Attributes:
        asked: Every request, as the servers got it.
        forged: What a stranger answers before every server.
    """

    forged = None

    def __init__(self, *gates, unfit="", requests=lambda r: r, answers=lambda r, a: a):
        self.gates = gates
        self.unfit = unfit
        self.requests, self.answers = requests, answers
        self.asked, self.admitted, self.closes = [], [], []

    def open_session(self, request, timeout_s, believes=lambda _: True, patience_s=0.0):
        request = self.requests(request)
        self.asked.append(request)
        last = self.forged
        if last is not None and believes(last):
            return last
        for gate in self.gates:
            answer = self.serve(gate, request)
            if answer is not None:
                last = self.answers(request, answer)
                if believes(last):
                    return last
        if last is None:
            raise UnavailableError("nobody answered")
        return last

    def serve(self, gate, request):
        if gate.others(request):
            return None
        admitted = gate.admit(request, self.unfit)
        if isinstance(admitted, OpenAnswer):
            return admitted
        self.admitted.append(admitted)
        return admitted.proven(
            OpenAnswer(True, "", INFO, 4096, frozenset((b"t" * 32,)), gate.server)
        )

    def close_session(self, session, reason, proof=b""):
        self.closes.append((session, reason, proof))


@pytest.fixture
def pair():
    robot, edge = Machine(), Machine(local=os.urandom(32))
    robot.trust(edge, "edge")
    edge.trust(robot, "robot7")
    return robot, edge


def talk(opened, admitted):
    """A message of calls goes from one end to the other."""
    message = CallsMessage(REQUEST.session, 1, 0, 0, b"hello")
    sealed = opened.seal.calls(message)
    assert b"hello" not in sealed.data
    return admitted.seal.calls(sealed, 100) == message


def test_a_paired_robot_opens_a_session_and_the_server_knows_whose_it_is(pair):
    robot, edge = pair
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert opened.answer.accepted
    assert opened.answer.info == INFO
    (admitted,) = line.admitted
    assert admitted.peer.kind == "key"
    assert admitted.peer.name == "robot7"
    assert admitted.peer.key == key_id(robot.public)
    assert talk(opened, admitted)


def test_one_user_on_one_machine_needs_no_keys():
    user = Machine(key=False, local=os.urandom(32))
    line = Line(Gate(user.read))
    opened = open_session(line, REQUEST, user.read, 1.0)
    assert opened.answer.accepted
    assert line.admitted[0].peer.kind == "local"
    assert talk(opened, line.admitted[0])


@pytest.mark.parametrize("local", [None, b"x" * 32], ids=["another machine", "another user"])
def test_without_keys_nobody_else_opens_a_session_and_is_told_what_to_do_where(local):
    robot, edge = Machine(local=local), Machine(local=os.urandom(32))
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert not opened.answer.accepted
    assert not line.admitted
    assert "run on the edge: rrto keys trust " + key_text(robot.public) in opened.answer.reason


def test_a_server_that_trusts_a_key_refuses_a_robot_without_one(pair):
    _, edge = pair
    secret = os.urandom(32)
    edge.local = secret
    robot = Machine(key=False, local=secret)
    robot.trust(edge)
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert not opened.answer.accepted
    assert "on the robot run `rrto keys new`" in opened.answer.reason
    assert not line.admitted


def test_a_server_refuses_a_key_that_it_does_not_trust_and_says_what_to_run(pair):
    _, edge = pair
    stranger = Machine()
    stranger.trust(edge)
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, stranger.read, 1.0)
    assert not opened.answer.accepted
    assert f"on the edge run: rrto keys trust {key_text(stranger.public)}" in opened.answer.reason
    assert not line.admitted


def test_the_servers_own_user_opens_sessions_on_it_whatever_it_trusts(pair):
    _, edge = pair
    opened = open_session(Line(Gate(edge.read)), REQUEST, edge.read, 1.0)
    assert opened.answer.accepted


def test_a_robot_tells_a_server_that_it_does_not_trust_nothing(pair):
    robot, edge = pair
    robot.trusted.clear()
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert not opened.answer.accepted
    assert f"rrto keys trust {key_text(edge.public)}" in opened.answer.reason
    assert not any(request.proof for request in line.asked)


class Impostor(Credentials):
    """Shows another one's key, and signs with its own."""

    shown = b""

    @property
    def public(self):
        return self.shown


def impostor(of, trusts):
    made = Impostor(Ed25519PrivateKey.generate(), {trusts.public: "other"}, os.urandom(32))
    object.__setattr__(made, "shown", of.public)
    return lambda: made


def test_who_shows_a_key_without_having_it_is_refused_on_either_side(pair):
    robot, edge = pair
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, impostor(robot, edge), 1.0)
    assert not opened.answer.accepted
    assert any(request.proof for request in line.asked)
    assert not line.admitted
    line = Line(Gate(impostor(edge, robot)))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert "does not have the key" in opened.answer.reason
    assert not any(request.proof for request in line.asked)


def test_nobody_in_between_can_put_keys_of_its_own_in(pair):
    robot, edge = pair
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()

    def own_hello(request):
        hello = Hello.unpack(request.hello)
        return dataclasses.replace(request, hello=dataclasses.replace(hello, ephemeral=own).pack())

    def own_challenge(_, answer):
        if not answer.challenge:
            return answer
        challenge = Challenge.unpack(answer.challenge)
        return dataclasses.replace(
            answer, challenge=dataclasses.replace(challenge, ephemeral=own).pack()
        )

    for line in (
        Line(Gate(edge.read), requests=own_hello),
        Line(Gate(edge.read), answers=own_challenge),
    ):
        assert not open_session(line, REQUEST, robot.read, 1.0).answer.accepted
        assert not line.admitted


@pytest.mark.parametrize(
    "changed",
    [
        {"session": b"t" * 16}, {"program": "other"}, {"label": "x"}, {"pid": 8},
        {"device": "gpu"}, {"arena_base": 1}, {"limit_bytes": 6}, {"protocol_version": 99},
        {"table_hash": bytes(32)},
    ],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
@pytest.mark.parametrize("when", ["always", "with the proof"])
def test_what_a_robot_asks_for_cannot_be_changed(pair, changed, when):
    robot, edge = pair

    def change(request):
        if request.proof or when == "always":
            return dataclasses.replace(request, **changed)
        return request

    line = Line(Gate(edge.read), requests=change)
    assert not open_session(line, REQUEST, robot.read, 1.0).answer.accepted
    assert not line.admitted


@pytest.mark.parametrize(
    "changed",
    [
        {"accepted": False, "info": None, "reason": "no"},
        {"info": dataclasses.replace(INFO, arena_base=1)},
        {"info": dataclasses.replace(INFO, attributes={1: 3})},
        {"max_message_bytes": 1}, {"known_blobs": frozenset()}, {"server": b"x" * 16},
        {"proof": bytes(32)}, {"proof": b""},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_server_answers_cannot_be_changed(pair, changed):
    robot, edge = pair

    def change(request, answer):
        return dataclasses.replace(answer, **changed) if request.proof else answer

    opened = open_session(Line(Gate(edge.read), answers=change), REQUEST, robot.read, 1.0)
    assert not opened.answer.accepted
    assert opened.seal is None


def test_an_opening_that_was_overheard_opens_nothing_a_second_time(pair, monkeypatch):
    robot, edge = pair
    clock = [1000.0]
    monkeypatch.setattr(gate_module.time, "monotonic", lambda: clock[0])
    gate = Gate(edge.read)
    line = Line(gate)
    assert open_session(line, REQUEST, robot.read, 1.0).answer.accepted
    overheard = line.asked[-1]
    assert overheard.proof
    for later in (0.0, 40.0, 30.0, 60.0, 600.0):
        clock[0] += later
        answer = line.serve(gate, overheard)
        assert not answer.accepted
    assert len(line.admitted) == 1


def test_an_opening_for_one_server_opens_nothing_on_another(pair):
    """Also where both have one identity, and the request is changed to name the other."""
    robot, edge = pair
    first, second = Gate(edge.read, "first"), Gate(edge.read, "second")
    line = Line(first)
    assert open_session(line, REQUEST, robot.read, 1.0).answer.accepted
    overheard = line.asked[-1]
    assert second.others(overheard)
    moved = dataclasses.replace(overheard, server=second.server)
    assert not line.serve(second, moved).accepted
    assert len(line.admitted) == 1


def test_of_two_servers_of_one_name_the_one_that_was_agreed_with_answers(pair):
    robot, edge = pair
    other = Machine(local=os.urandom(32))
    other.trust(robot)
    robot.trust(other)
    first, second = Gate(edge.read), Gate(other.read)
    line = Line(first, second)
    # Of the hello both hear, the first one's answer comes first; of the proof the second one's.
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert opened.server.server == first.server
    assert line.serve(second, line.asked[-1]) is None
    assert open_session(Line(second, first), REQUEST, robot.read, 1.0).answer.accepted


@pytest.mark.parametrize(
    "forged",
    [
        OpenAnswer(False, "8 sessions are open (max_sessions)"),
        OpenAnswer(True, "", INFO),
        OpenAnswer(False, "", server=b"x" * 16, challenge=b"\x01\x01" + bytes(112)),
        OpenAnswer(False, "", server=b"x" * 16, challenge=b"\x01\x02" + bytes(176)),
        OpenAnswer(False, "", server=b"x" * 16, challenge=b"\x00"),
    ],
    ids=["refusal", "acceptance", "challenge", "challenge with a key", "unsealed"],
)
def test_a_stranger_that_is_always_first_does_not_end_an_opening(pair, forged):
    robot, edge = pair
    line = Line(Gate(edge.read))
    line.forged = forged
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert opened.answer.accepted
    assert opened.passed_by == 1
    assert talk(opened, line.admitted[0])


class Restarted(Line):
    """A server that is started anew between its challenge and the proof, so many times."""

    def __init__(self, edge, times):
        self._make = lambda: Gate(edge.read, "one name")
        self._times = times
        super().__init__(self._make())

    def open_session(self, request, timeout_s, believes=lambda _: True, patience_s=0.0):
        if request.proof and self._times:
            self._times -= 1
            self.gates = (self._make(),)
        return super().open_session(request, timeout_s, believes, patience_s)


@pytest.mark.parametrize("times", [1, 3])
def test_a_server_that_is_started_anew_during_an_opening_opens_the_session(pair, times):
    robot, edge = pair
    line = Restarted(edge, times)
    opened = open_session(line, REQUEST, robot.read, 10.0)
    assert opened.answer.accepted, opened.answer.reason
    assert talk(opened, line.admitted[-1])


def test_a_stranger_that_answers_proofs_first_does_not_end_an_opening(pair):
    robot, edge = pair

    class Slow(Line):
        """Its server takes a while to open, and somebody else answers meanwhile."""

        proofs = 0

        def open_session(self, request, timeout_s, believes=lambda _: True, patience_s=0.0):
            if request.proof:
                self.proofs += 1
                if self.proofs == 1:
                    return OpenAnswer(False, "the proof is too old", server=request.server)
            return super().open_session(request, timeout_s, believes, patience_s)

    line = Slow(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 10.0)
    assert opened.answer.accepted, opened.answer.reason
    assert line.proofs == 2


def test_of_two_users_servers_of_one_name_a_robot_finds_its_own():
    mine, other = (Machine(key=False, local=os.urandom(32)) for _ in range(2))
    line = Line(Gate(other.read), Gate(mine.read))
    opened = open_session(line, REQUEST, mine.read, 1.0)
    assert opened.answer.accepted
    assert opened.server.server == line.gates[1].server


def test_a_reason_of_the_server_itself_ends_an_opening_at_once(pair):
    robot, edge = pair
    line = Line(Gate(edge.read), unfit="protocol version 3 differs from the server's 4")
    opened = open_session(line, REQUEST, robot.read, 1.0)
    assert opened.answer.reason == "protocol version 3 differs from the server's 4"
    assert len(line.asked) == 1


def test_ends_that_agree_on_keys_in_other_ways_are_told_both_versions(pair):
    robot, edge = pair

    def older(request):
        return dataclasses.replace(request, hello=b"\x07" + request.hello[1:])

    opened = open_session(Line(Gate(edge.read), requests=older), REQUEST, robot.read, 1.0)
    assert "form 7, this server in form 1" in opened.answer.reason

    def newer(_, answer):
        return dataclasses.replace(answer, challenge=b"\x09" + answer.challenge[1:])

    opened = open_session(Line(Gate(edge.read), answers=newer), REQUEST, robot.read, 1.0)
    assert "form 9, this robot in form 1" in opened.answer.reason


@pytest.mark.parametrize(("robot_on", "edge_on"), [(True, False), (False, True)])
def test_authentication_that_is_off_on_one_side_is_named(pair, robot_on, edge_on):
    robot, edge = pair
    line = Line(Gate(edge.read if edge_on else None))
    opened = open_session(line, REQUEST, robot.read if robot_on else None, 1.0)
    assert not opened.answer.accepted
    assert "authentication" in opened.answer.reason
    assert "on both" in opened.answer.reason
    assert not line.admitted


def test_with_authentication_off_anybody_opens_unsealed_sessions():
    line = Line(Gate(None))
    opened = open_session(line, REQUEST, None, 1.0)
    assert opened.answer.accepted
    assert opened.seal is None
    assert line.admitted[0].seal is None


def test_a_revoked_key_opens_nothing_and_its_sessions_are_not_to_go_on(pair):
    robot, edge = pair
    gate = Gate(edge.read)
    line = Line(gate)
    assert open_session(line, REQUEST, robot.read, 1.0).answer.accepted
    assert gate.trusts(line.admitted[0])
    edge.trusted.clear()
    edge.trust(Machine(), "somebody else")
    assert not gate.trusts(line.admitted[0])
    again = dataclasses.replace(REQUEST, session=b"r" * 16)
    assert not open_session(line, again, robot.read, 1.0).answer.accepted
    assert len(line.admitted) == 1


def test_the_last_key_that_is_revoked_ends_its_sessions_too(pair):
    robot, edge = pair
    gate = Gate(edge.read)
    line = Line(gate)
    open_session(line, REQUEST, robot.read, 1.0)
    edge.trusted.clear()
    assert not gate.trusts(line.admitted[0])


def test_a_key_that_is_revoked_during_an_opening_opens_nothing(pair):
    robot, edge = pair

    def revoke(request):
        if request.proof:
            edge.trusted = {Machine().public: "other"}
        return request

    line = Line(Gate(edge.read), requests=revoke)
    assert not open_session(line, REQUEST, robot.read, 1.0).answer.accepted
    assert not line.admitted


def test_keys_that_cannot_be_read_open_nothing_and_the_reason_is_told(pair):
    robot, edge = pair
    gate = Gate(edge.read)

    def broken():
        raise ConfigError("trusted_keys, line 3: mend it")

    gate._credentials = broken
    opened = open_session(Line(gate), REQUEST, robot.read, 1.0)
    assert not opened.answer.accepted
    assert "line 3" in opened.answer.reason


def test_hellos_without_proofs_cost_the_server_no_memory(pair):
    robot, edge = pair
    gate = Gate(edge.read)
    line = Line(gate, answers=lambda *_: OpenAnswer(False, "lost"))
    for _ in range(40):
        open_session(line, REQUEST, robot.read, 1.0)
    assert gate.statistics()["challenges"] == 40
    assert gate.statistics()["remembered"] == 0


@pytest.mark.parametrize("hello", [b"\x01", b"\x01\x05" + bytes(64), b"\x01\x01" + bytes(64)])
def test_a_hello_that_is_none_is_refused(pair, hello):
    _, edge = pair
    line = Line(Gate(edge.read))
    answer = line.serve(line.gates[0], dataclasses.replace(REQUEST, hello=hello, proof=b"p" * 96))
    assert not answer.accepted
    assert answer.reason


def test_a_session_is_closed_with_a_proof_that_only_its_ends_can_make(pair):
    robot, edge = pair
    line = Line(Gate(edge.read))
    opened = open_session(line, REQUEST, robot.read, 1.0)
    close_session(line, opened, REQUEST.session, "over")
    ((session, reason, proof),) = line.closes
    seal = line.admitted[0].seal
    assert seal.proves_close(proof, session, reason)
    for forged in (b"", bytes(32), proof[:-1]):
        assert not seal.proves_close(forged, session, reason)
    assert not seal.proves_close(proof, b"t" * 16, reason)


class TestClosed:
    """Whom a robot believes that its session is closed."""

    @pytest.fixture(params=["keys", "local"])
    def world(self, request, pair):
        robot, edge = pair
        if request.param == "local":
            robot = edge = Machine(key=False, local=os.urandom(32))
        gate = Gate(edge.read, "0-robot")
        line = Line(gate)
        opened = open_session(line, REQUEST, robot.read, 1.0)
        assert opened.answer.accepted
        return opened.server, line.admitted[0], gate, edge

    def test_the_server_that_has_it(self, world):
        server, admitted, _, _ = world
        assert isinstance(admitted, Admission)
        assert server.closed(REQUEST.session, admitted.closed)

    def test_the_same_server_started_anew(self, world):
        server, _, _, edge = world
        assert server.closed(REQUEST.session, Gate(edge.read, "0-robot").closed(REQUEST.session))

    def test_not_another_session_s(self, world):
        server, admitted, _, _ = world
        assert not server.closed(b"t" * 16, admitted.closed)

    def test_not_what_the_server_said_before_it_had_the_session(self, world):
        server, _, gate, _ = world
        assert not server.closed(REQUEST.session, gate.closed(REQUEST.session))

    def test_not_another_server_of_the_same_user(self, world):
        server, _, _, edge = world
        assert not server.closed(REQUEST.session, Gate(edge.read, "1-robot").closed(b"s" * 16))

    def test_not_a_stranger(self, world):
        server, admitted, _, _ = world
        stranger = Gate(Machine().read)
        stranger.server = server.server
        for forged in (
            b"", bytes(64), bytes(96), admitted.closed[:32], admitted.closed[:32] + bytes(32),
            server.server + os.urandom(16) + bytes(64), stranger.closed(REQUEST.session),
        ):  # fmt: skip
            assert not server.closed(REQUEST.session, forged)


def test_without_authentication_one_of_two_servers_opens_a_session():
    """Each hears every request; results of both would be mixed."""
    line = Line(Gate(None, "a"), Gate(None, "b"))
    opened = open_session(line, REQUEST, None, 1.0)
    assert opened.answer.accepted
    assert opened.server.server == line.gates[0].server
    assert line.serve(line.gates[1], line.asked[-1]) is None
    assert len(line.admitted) == 1


def test_without_authentication_only_the_server_that_has_a_session_closes_it():
    """Two servers of one robot's name each hear the messages for the other's sessions."""
    mine, other = Gate(None, "a"), Gate(None, "b")
    opened = open_session(Line(mine), REQUEST, None, 1.0)
    assert opened.server.closed(REQUEST.session, mine.closed(REQUEST.session))
    assert not opened.server.closed(REQUEST.session, other.closed(REQUEST.session))
