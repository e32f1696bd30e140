"""What launches touch, found on the device; calls at two places give plain bits."""

import os
import random

import pytest
from support.profiled_session import BUFFERS, BYTES, NAMES, N, Session, floats, profiled

from rrto_ros.execution.coverage import covered
from rrto_ros.schedule.coherence import Coherence
from rrto_ros.schedule.dataflow import Touched, flows

SEEDS = min(400, int(os.environ.get("RRTO_PARTITIONS", "8")))


@pytest.fixture
def sessions(tmp_path):
    made = []

    def make(count):
        made.extend(Session(tmp_path) for _ in range(count))
        return made[-count:]

    yield make
    for one in made:
        one.close()


def relative(session, ranges):
    base = session.base
    return None if ranges is None else tuple((a - base, b - base) for a, b in ranges)


WHOLE = (BYTES, 2 * BYTES)
TOUCHED = {
    "add": (((0, BYTES), (2 * BYTES, 3 * BYTES)), (WHOLE,), (WHOLE,)),
    # Half of nothing is nothing: what is written over itself is read anyway.
    "scale": ((WHOLE,), (WHOLE,), ()),
    # That every eighth thread reads is not followed.
    "rows": (((0, BYTES + 28),), (WHOLE,), tuple((k, k + 4) for k in range(BYTES, 2 * BYTES, 32))),
    "left": (((0, BYTES - 4),), (WHOLE,), (WHOLE,)),
    "gather": (None, None, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", TOUCHED)
def test_what_a_launch_touches_is_found(sessions, name):
    (s,) = sessions(1)
    before = floats(random.Random(1), 8 * N)
    s.call("memcpy_htod", dst=s.base, stream=0, payload=before)
    reads, writes, covers = TOUCHED[name]
    (piece,) = profiled(s, [s.launch(name, 1, 0, 2)])
    assert piece.name == name
    assert relative(s, piece.reads) == reads
    assert relative(s, piece.writes) == writes
    assert relative(s, piece.covers) == covers
    after = s.memory()
    low, high = WHOLE
    assert after[:low] + after[high:] == before[:low] + before[high:]
    s.call("memcpy_htod", dst=s.base, stream=0, payload=before)
    operation, fields = s.launch(name, 1, 0, 2)
    s.call(operation, **fields)
    assert after == s.memory(), "to look at it changed what it does"


def test_a_variable_of_the_module_is_read(sessions):
    (s,) = sessions(1)
    (piece,) = profiled(s, [s.launch("table", 1, 0, 0)])
    own = relative(s, piece.reads)
    assert own[0] == (0, BYTES)
    ((start, end),) = own[1:]
    assert end - start == 16
    assert s.executor.memory.find(start + s.base) == (start + s.base, 16)


def test_less_threads_touch_less(sessions):
    (s,) = sessions(1)
    (piece,) = profiled(s, [s.launch("add", 1, 0, 2, n=40)])
    assert relative(s, piece.covers) == ((BYTES, BYTES + 160),)
    assert relative(s, piece.reads) == ((0, 160), (2 * BYTES, 2 * BYTES + 160))


def test_a_byte_that_keeps_what_was_put_there_is_not_certain(sessions):
    (s,) = sessions(1)
    bounds = [(s.at(1), s.at(2))]
    assert covered(s.device, lambda: None, bounds) == ()
    assert covered(s.device, lambda: s.device.memcpy_htod(s.at(1), b"\x00" * 9, 0), bounds) == (
        (s.at(1), s.at(1) + 9),)  # fmt: skip
    assert covered(s.device, lambda: None, [(0, 1 << 40)]) == (), "not looked at"


def test_the_nodes_of_a_graph_are_looked_at_one_by_one(sessions):
    (s,) = sessions(1)
    s.call("graph_create", graph=5)
    for node, name in enumerate(("add", "rows")):
        fields = s.launch(name, 1 + node, node, 3)[1]
        del fields["stream"]
        s.call("graph_add_kernel_node", graph=5, node=node + 1,
               dependencies=[node] if node else [], **fields)  # fmt: skip
    s.call("graph_add_memcpy_node", graph=5, node=3, dependencies=[2], dst=s.at(4), src=s.at(2),
           size=8)  # fmt: skip
    s.call("graph_instantiate", graph_exec=6, graph=5)
    s.call("memcpy_htod", dst=s.base, stream=0, payload=floats(random.Random(2), 8 * N))
    pieces = profiled(s, [("graph_launch", {"graph_exec": 6, "stream": 0})])
    assert [(p.call, p.name) for p in pieces] == [
        (0, "add"), (0, "rows"), (0, "graph_add_memcpy_node")]  # fmt: skip
    assert relative(s, pieces[2].covers) == ((4 * BYTES, 4 * BYTES + 8),)
    after = s.memory()
    s.call("memcpy_htod", dst=s.base, stream=0, payload=floats(random.Random(2), 8 * N))
    for name, fields in (s.launch("add", 1, 0, 3), s.launch("rows", 2, 1, 3)):
        s.call(name, **fields)
    s.call("memcpy_dtod", dst=s.at(4), src=s.at(2), size=8, stream=0)
    assert after == s.memory()


def inference(rnd, session):
    """Random calls: inputs, launches in any order on any buffers, a copy or fill, an output."""
    calls = [("memcpy_htod", {"dst": session.at(rnd.randrange(2)), "stream": 0,
                              "payload": floats(rnd)})]  # fmt: skip
    for _ in range(rnd.randint(3, 9)):
        kind = rnd.random()
        if kind < 0.1:
            calls.append(
                (
                    "memcpy_dtod",
                    {
                        "dst": session.at(rnd.randrange(4), 8),
                        "stream": 0,
                        "src": session.at(4 + rnd.randrange(4)),
                        "size": 64,
                    },
                )
            )
        elif kind < 0.2:
            calls.append(("memset", {
                "dst": session.at(rnd.randrange(8)), "pitch": 64, "width": 4, "height": 3,
                "value": rnd.randrange(256), "element_bytes": 4, "stream": 0}))  # fmt: skip
        else:
            name = rnd.choice([n for n in NAMES if n != "gather" or rnd.random() < 0.2])
            buffers = [rnd.randrange(BUFFERS) for _ in range(3)]
            calls.append(session.launch(name, *buffers, n=rnd.choice((N, N, 40))))
    calls.append(("memcpy_dtoh", {"src": session.at(rnd.randrange(8)), "size": BYTES,
                                  "stream": 0}))  # fmt: skip
    return calls


class Place:
    """Memory of one of the places that take turns on a device: addresses are the same at each."""

    def __init__(self, session):
        self.session = session
        self.content = bytearray(session.memory())

    def call(self, name, fields):
        """Execute a call on this memory; returns its result."""
        s = self.session
        s.device.memcpy_htod(s.base, bytes(self.content), 0)
        out = s.call(name, **fields)
        self.content[:] = s.memory()
        return out[24:]

    def bring(self, span, other):
        low, high = span[0] - self.session.base, span[1] - self.session.base
        self.content[low:high] = other.content[low:high]


def random_placements(sessions, seed, brings=lambda _: True):
    """Whether inferences at two places gave the results and the memory of plain execution."""
    rnd = random.Random(seed)
    (session,) = sessions(1)
    calls = inference(rnd, session)
    touched = [Touched(p.reads, p.writes, p.covers) for p in profiled(session, calls)]
    plain, *at = (Place(session) for _ in range(3))
    coherence = Coherence((0, 1))
    memory = [(session.base, session.at(BUFFERS))]
    for _ in range(6):
        fresh = floats(rnd)
        for (name, fields), call in zip(calls, touched, strict=True):
            if name == "memcpy_htod":
                fields["payload"] = fresh
            place = rnd.randrange(2)
            for transfer in coherence.before(place, call, memory):
                if brings(rnd):
                    at[place].bring(transfer.span, at[transfer.source])
            if plain.call(name, fields) != at[place].call(name, fields):
                return False
            coherence.after((place,), call, memory)
    for transfer in coherence.stale(0, memory):
        at[0].bring(transfer.span, at[1])
    return at[0].content == plain.content


@pytest.mark.parametrize("seed", range(SEEDS))
def test_calls_at_random_places_give_the_bits_of_plain_execution(sessions, seed):
    assert random_placements(sessions, seed)


def test_transfers_that_are_left_out_are_seen_by_this_test(sessions):
    some = [random_placements(sessions, s, lambda rnd: rnd.random() < 0.8) for s in range(9)]
    assert not all(some)


def test_tensors_of_an_inference_are_as_long_as_what_is_used(sessions):
    (s,) = sessions(1)
    calls = [
        ("memcpy_htod", {"dst": s.at(0), "stream": 0, "payload": floats(random.Random(3))}),
        s.launch("add", 1, 0, 7), s.launch("rows", 4, 1, 0), s.launch("scale", 4, 0, 0, n=40),
        ("memcpy_dtoh", {"src": s.at(4), "size": 160, "stream": 0}),
    ]  # fmt: skip
    found = flows([Touched(p.reads, p.writes, p.covers) for p in profiled(s, calls)],
                  [(s.base, s.at(BUFFERS))])  # fmt: skip
    assert {(t.producer, t.readers): t.bytes for t in found} == {
        (0, (1,)): BYTES,
        (1, (2,)): BYTES,
        (2, (3,)): 160,
        (3, (4,)): 20,
        (3, (2, 4)): 140,  # what rows leave between them is read by the next inference's
    }
