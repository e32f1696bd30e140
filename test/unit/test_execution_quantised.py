"""Memory that is told and set in a few bits per float; what does not fit is refused by name."""

import numpy as np
import pytest
from support.profiled_session import BYTES, N, Session

from rrto_ros.api.results import CUresult
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.quantised import MOST_ELEMENTS, decode, encode
from rrto_ros.wire.result_codec import iter_results

VALUES = np.linspace(-1, 1, N, dtype=np.float32)


@pytest.fixture
def session(tmp_path):
    one = Session(tmp_path)
    yield one
    one.close()


def say(session, name, payload=b"", **changed):
    """One record; its results."""
    fields = {"address": session.at(2), "elements": N, "kind": 0, "bits": 8} | changed
    session.index += 1
    out = session.executor.execute(pack_call(name, session.index, payload=payload, **fields))
    return [(r.index, r.status, bytes(r.payload)) for r in iter_results(out)]


def test_memory_is_told_in_a_few_bits_and_set_by_them(session):
    session.call("memcpy_htod", dst=session.at(2), stream=0, payload=VALUES.tobytes())
    ((index, status, told),) = say(session, "quantised_read")
    assert (index, status, len(told)) == (session.index, 0, 1 + 8 + N)
    got = np.frombuffer(decode(told, "f32", 8, N), np.float32)
    assert np.abs(got - VALUES).max() <= 2 / 255 * 0.51
    assert say(session, "quantised_write", told, address=session.at(5)) == []
    assert session.memory()[5 * BYTES : 6 * BYTES] == got.tobytes()
    assert session.memory()[2 * BYTES : 3 * BYTES] == VALUES.tobytes()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kind": 2}, "of type 2 in 8 bits; want 1 to"),
        ({"bits": 5}, "of type 0 in 5 bits; want 1 to"),
        ({"elements": 0}, "of 0 elements"),
        ({"elements": MOST_ELEMENTS + 1}, "elements of type"),
        ({"elements": 1 << 63}, "elements of type"),
        ({"address": 4096}, "do not lie in one allocation"),
        ({"address": (1 << 64) - 4}, "do not lie in one allocation"),
        ({"elements": 7 * N}, "do not lie in one allocation"),
    ],
)
def test_what_is_not_in_the_sessions_memory_or_no_such_thing_is_refused(session, changed, why):
    before = session.memory()
    ((_, status, text),) = say(session, "quantised_read", **changed)
    assert status == CUresult.INVALID_VALUE
    assert why in text.decode()
    assert not session.executor.sticky, "the session goes on"
    data = encode(VALUES.tobytes(), "f32", 8)
    ((_, status, text),) = say(session, "quantised_write", data, **changed)
    assert status == CUresult.INVALID_VALUE
    assert why in text.decode()
    assert session.executor.sticky, "nobody waits for a write, so what comes after would be wrong"
    assert session.memory() == before


def test_a_payload_that_does_not_fit_is_refused(session):
    before = session.memory()
    ((_, status, text),) = say(session, "quantised_write", b"\0" * 20)
    assert status == CUresult.INVALID_VALUE
    assert b"quantised memory: " in text
    assert session.memory() == before
