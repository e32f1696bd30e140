"""The call log: compact, bounded, the same after dump and load."""

import struct

import numpy as np
import pytest
from support.synthetic import ARENA, Model, Program, repeat_records

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.record import CallLog, dump, load
from rrto_ros.wire.codec import iter_calls, pack_blob_ref, pack_call
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_REPLY, FLAG_WAITED
from rrto_ros.wire.templates import KINDS


def filled(inferences=5, **options):
    p = Program()
    m = Model(p, "net", 1, kernels=6)
    for _ in range(inferences):
        m.infer()
    log = CallLog(**options)
    log.extend(b"".join(p.records()))
    return p, log


def test_equal_calls_are_kept_once_whatever_index_thread_flags_and_content():
    log = CallLog()
    log.extend(pack_call("memcpy_htod", 1, payload=b"abc", dst=ARENA, stream=0))
    log.extend(
        pack_call(
            "memcpy_htod",
            2,
            thread=7,
            record_flags=FLAG_WAITED | FLAG_REPLY,
            payload=b"xyz",
            dst=ARENA,
            stream=0,
        )
    )
    log.extend(pack_call("memcpy_htod", 3, payload=b"xyzt", dst=ARENA, stream=0))
    log.extend(pack_call("memcpy_htod", 4, payload=b"xyz", dst=ARENA + 8, stream=0))
    assert list(log.exact) == [0, 0, 1, 2]
    assert log.skeletons[0] == log.skeletons[3] != log.skeletons[2]
    assert list(log.threads) == [1, 7, 1, 1]


def test_a_blob_reference_is_the_same_call_as_its_content():
    log = CallLog()
    log.extend(pack_call("memcpy_htod", 1, payload=bytes(5000), dst=ARENA, stream=0))
    ref = pack_blob_ref(bytes(32), 5000)
    log.extend(
        pack_call("memcpy_htod", 2, record_flags=FLAG_BLOB_REF, payload=ref, dst=ARENA, stream=0)
    )
    assert list(log.exact) == [0, 0]
    assert log.template(1).payload_bytes == 5000


def test_a_template_makes_the_record_again():
    p, log = filled(1)
    records = p.records()
    for i, record in enumerate(records):
        call = next(iter_calls(record))
        payload = bytes(call.payload) if call.payload is not None else None
        assert log.template(i).record(i + 1, 1, call.flags, payload) == record
    upload = next(i for i in range(len(log)) if log.template(i).kind is Kind.INPUT)
    with pytest.raises(ProtocolError, match="payload of 3 bytes"):
        log.template(upload).record(1, payload=b"abc")


def test_the_skeleton_leaves_out_what_may_vary_and_nothing_else():
    def skeleton(**changes):
        shape = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
        params = struct.pack("<QQ", 5, 6)
        fields = {"module": 1, "kernel": 2, "flags": 0, **dict.fromkeys(shape, 1)}
        fields |= {"shared_bytes": 0, "stream": 0, "params": params} | changes
        log = CallLog()
        log.extend(pack_call("launch", 1, **fields))
        return log.template(0).skeleton()

    plain = skeleton()
    assert plain == skeleton(stream=9) == skeleton(params=struct.pack("<QQ", 5, 7))
    for field in ("module", "kernel", "flags", "grid_x", "grid_y", "grid_z", "block_x"):
        assert skeleton(**{field: 99}) != plain, field
    assert skeleton(params=struct.pack("<QQQ", 5, 6, 7)) != plain


def test_memory_is_bounded_and_the_newest_calls_are_kept():
    p = Program()
    m = Model(p, "net", 1, kernels=6)
    start = len(p.calls)
    m.infer()
    period = p.records()[start:]
    log = CallLog(max_calls=1000)
    log.extend(repeat_records(period, 10_000))
    for first in range(10_001, 30_000, 500):
        log.extend(repeat_records(period, 500, first))
        assert len(log) <= 1000
    assert log.end == 30_000
    assert log.index_of(log.end - 1) == 30_000
    assert log.memory_bytes() < 30_000
    with pytest.raises(IndexError):
        log.template(0)


def test_calls_that_never_repeat_stay_within_the_memory_limit():
    log = CallLog(memory_limit_bytes=1 << 20)
    for i in range(20_000):
        log.extend(pack_call("memcpy_dtoh", i + 1, src=ARENA + 8 * i, size=8, stream=0))
        assert log.memory_bytes() <= (1 << 20) + 1000
    assert log.end == 20_000
    assert len(log.templates) < 3000
    assert log.template(log.end - 1).fields()["src"] == ARENA + 8 * 19_999


def test_a_keeper_holds_templates_that_the_log_dropped():
    log = CallLog(max_calls=64)
    log.extend(pack_call("memcpy_dtoh", 1, src=ARENA, size=8, stream=0))
    log.keepers.append(lambda: [0])
    for i in range(500):
        log.extend(pack_call("memcpy_dtoh", i + 2, src=ARENA + 8 + i % 100, size=8, stream=0))
    assert log.templates[0].fields()["src"] == ARENA
    assert log.base > 1


@pytest.mark.parametrize("max_calls", [1 << 20, 40])
def test_a_dumped_log_is_read_back_the_same(tmp_path, max_calls):
    _, log = filled(9, max_calls=max_calls, session={"program": "detector"})
    size = dump(log, tmp_path / "log")
    assert size == (tmp_path / "log").stat().st_size
    back = load(tmp_path / "log")
    assert (back.base, back.end, back.session) == (log.base, log.end, {"program": "detector"})
    for position in range(log.base, log.end):
        assert back.template(position) == log.template(position)
        assert back.index_of(position) == log.index_of(position)
    assert back.kinds == log.kinds
    assert back.threads == log.threads
    assert list(back.allocations) == list(log.allocations)
    same = [a == b for a in log.skeletons for b in log.skeletons]
    assert same == [a == b for a in back.skeletons for b in back.skeletons]


def test_call_numbers_that_jump_are_kept(tmp_path):
    log = CallLog()
    for index in (1, 2, 7, 8, 20):
        log.extend(pack_call("ctx_synchronize", index, context=0))
    dump(log, tmp_path / "log")
    for each in (log, load(tmp_path / "log")):
        assert [each.index_of(i) for i in range(5)] == [1, 2, 7, 8, 20]


def test_a_damaged_file_is_refused_whatever_is_damaged(tmp_path):
    _, log = filled(3)
    dump(log, tmp_path / "log")
    whole = (tmp_path / "log").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for i in range(300):
        broken = bytearray(whole)
        if i % 3:
            broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        else:
            del broken[rng.integers(len(broken)) :]
        (tmp_path / "bad").write_bytes(broken)
        try:
            load(tmp_path / "bad")
        except ProtocolError as error:
            refused += str(tmp_path / "bad") in str(error)
    # A changed byte in the JSON header may be harmless (a name); content never is.
    assert refused > 250
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent")


def test_damaged_records_are_refused_and_those_before_them_kept():
    good = pack_call("ctx_synchronize", 1, context=0)
    for bad in (
        good[:-8],
        struct.pack("<IHHQII", 32, 999, 0, 2, 1, 0) + bytes(8),
        struct.pack("<IHHQII", 24, 20, 0, 2, 1, 0),
        struct.pack("<IHHQII", 32, 21, 0, 2, 1, 4000) + bytes(8),
    ):
        log = CallLog()
        with pytest.raises(ProtocolError):
            log.extend(good + bad)
        assert len(log) == 1


def test_padding_and_blob_data_are_no_calls():
    log = CallLog()
    padding = struct.pack("<IHH", 16, 0, 0) + bytes(8)
    call = pack_call("ctx_synchronize", 1, context=0)
    log.extend(padding + call + struct.pack("<IHH", 8, 0, 0))
    log.extend(pack_call("blob_data", 1, payload=b"content"))
    assert len(log) == 1


def test_every_operation_has_a_kind():
    assert set(KINDS.values()) == {int(k) for k in Kind}
