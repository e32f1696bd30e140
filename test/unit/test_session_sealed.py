"""Whole sealed sessions, program to worker, over a network that does what it likes. No ROS."""

import dataclasses
import json
import os
import random

import pytest
from support.one_process import OneProcess

from rrto_ros.edge.gate import Gate
from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.handshake import Credentials
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.port import FLAG_CLOSED, FLAG_PACKED

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


@pytest.fixture
def make_world(sockets):
    made = []

    def make(sealed, mode="batched"):
        user = Credentials(local=os.urandom(32))
        config = SessionConfig(
            mode=mode, max_message_bytes=4096, credentials=(lambda: user) if sealed else None
        )
        gate = Gate(lambda: user) if sealed else None
        path = sockets / str(len(made)) / "s.sock"
        made.append(OneProcess(path, config, HostLimits(), gate=gate))
        return made[-1]

    yield make
    for world in made:
        world.close()


def run(world):
    """The digest of a program's results, which it compares with NumPy itself."""
    program = world.start("infer.py", 30, "--count", 4000)
    text, errors = program.communicate(timeout=60)
    assert program.returncode == 0, (text, errors, world.lines)
    final = world.reports.get(timeout=10)
    assert not final.error
    return json.loads(text.splitlines()[-1])["digest"], final


class Hostile:
    """Drops, doubles, swaps and changes messages, and makes up more."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.kept = {"up": [], "down": []}
        self.changed = 0
        self.made_up = 0

    def __call__(self, way, message):
        dice, kept = self.dice, self.kept[way]
        message = dataclasses.replace(message, data=bytes(message.data))
        draw = dice.random()
        if draw < 0.03:
            return []
        if draw < 0.1 and len(kept) < 3:
            kept.append(message)
            return []
        out = [message, *reversed(kept)]
        kept.clear()
        if draw > 0.9:
            out.append(message)
        if 0.8 < draw < 0.9:
            self.made_up += 1
            out.append(dataclasses.replace(message, seal=0))
            out.append(dataclasses.replace(message, sequence=message.sequence + 1))
            out.append(dataclasses.replace(message, seal=0, flags=message.flags ^ 8))
        if 0.7 < draw < 0.75 and message.data:
            self.changed += 1
            data = bytearray(message.data)
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            out[0] = dataclasses.replace(message, data=bytes(data))
        return out


@pytest.mark.parametrize("mode", ["rpc", "batched", "replay"])
def test_a_hostile_network_changes_no_result_and_ends_no_sealed_session(make_world, mode):
    wanted, _ = run(make_world(sealed=False, mode=mode))
    world = make_world(sealed=True, mode=mode)
    hostile = world.on_the_way = Hostile(7)
    got, final = run(world)
    assert got == wanted
    assert hostile.changed > 2
    assert hostile.made_up > 5
    assert final.messages_refused > 3
    assert world.table.refused[0] > 3


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_on_the_network_is_the_calls_only_where_nothing_is_sealed(make_world, sealed):
    world = make_world(sealed)
    heard = []
    world.on_the_way = lambda _, message: [heard.append(message) or message]
    run(world)
    texts = []
    for message in heard:
        data = bytes(message.data)
        if message.flags & FLAG_PACKED and not message.seal:
            data = unpacked(data, 1 << 20)
        texts.append(data)
    assert any(b".visible .entry affine" in text for text in texts) is not sealed
    assert all((m.seal > 0) is sealed for m in heard if not m.flags & FLAG_CLOSED)


def test_keys_are_disclosed_before_the_first_message(make_world):
    world = make_world(sealed=True)
    events = []
    config = dataclasses.replace(
        world.host._config, disclose=lambda session, keys: events.append((session, keys))
    )
    world.host.reconfigure(config)
    world.on_the_way = lambda _, message: [events.append(message.session) or message]
    run(world)
    (session, keys), *later = events
    assert len(keys) == 97
    assert set(later) == {session}
