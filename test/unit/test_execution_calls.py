"""The executor on a small device: order, answers, errors as CUDA has them, blobs."""

import struct
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_device import KERNELS, PTX, MemoryDevice

from rrto_ros.api.info import KernelInfo, ModuleInfo
from rrto_ros.api.ops import OPS
from rrto_ros.api.results import CUresult
from rrto_ros.edge.refusals import refuse_calls
from rrto_ros.execution import dispatch
from rrto_ros.execution.executor import Executor
from rrto_ros.wire.codec import pack_blob_ref, pack_call
from rrto_ros.wire.descriptions import unpack_module_info
from rrto_ros.wire.format import (
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    RESULT_BLOB_WANTED,
    RESULT_STICKY,
)
from rrto_ros.wire.result_codec import iter_results

LIMIT = 1 << 20


class Calls:
    """Builds call records with ascending indices."""

    def __init__(self):
        self.index = 0

    def __call__(self, name, record_flags=0, /, **fields):
        self.index += 1
        return pack_call(name, self.index, record_flags=record_flags, **fields)

    def load(self):
        return self("module_load", module=5, payload=PTX)

    def launch(self, kernel, params=b"", flags=0, record_flags=0, block_x=1):
        return self(
            "launch", record_flags, module=5, kernel=KERNELS.index(kernel), flags=flags,
            grid_x=1, grid_y=1, grid_z=1, block_x=block_x, block_y=1, block_z=1, shared_bytes=0,
            stream=0, params=params,
        )  # fmt: skip

    def alloc(self, address, size, flags=0):
        return self("mem_alloc", flags, address=address, size=size, stream=0)

    def write(self, address, data, flags=0):
        return self("memcpy_htod", flags, dst=address, stream=0, payload=data)

    def read(self, address, size, flags=0):
        return self("memcpy_dtoh", flags, src=address, size=size, stream=0)

    def synchronize(self, flags=0):
        return self("ctx_synchronize", flags, context=0)


class Shelf:
    """A blob source in memory."""

    def __init__(self):
        self.blobs = {}

    def get(self, digest, length):
        data = self.blobs.get(digest)
        return data if data is not None and len(data) == length else None

    def has(self, digest, length):
        return self.get(digest, length) is not None

    def keep(self, data):
        self.blobs[sha256(data).digest()] = bytes(data)


@pytest.fixture
def device():
    return MemoryDevice(LIMIT)


@pytest.fixture
def base(device):
    return device.info.arena_base


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def executor(device, shelf):
    return Executor(device, shelf)


@pytest.fixture
def calls():
    return Calls()


def results(data):
    return [(r.index, r.status, r.flags, bytes(r.payload)) for r in iter_results(data)]


def reference(data):
    return pack_blob_ref(sha256(data).digest(), len(data))


def test_a_program_computes_through_batches(executor, calls, base):
    data = struct.pack("<4I", 1, 2, 3, 0xFFFFFFFF)
    first = calls.load() + calls.alloc(base, 16) + calls.write(base, data)
    answers = results(executor.execute(first))
    assert [a[:3] for a in answers] == [(1, 0, 0)]
    info = unpack_module_info(answers[0][3])
    assert [k.name for k in info.kernels] == KERNELS
    assert info.kernels[0].params == ((0, 8), (8, 4))
    second = calls.launch("add_one", struct.pack("<QI", base, 4)) + calls.read(base, 16)
    assert results(executor.execute(second)) == [(5, 0, 0, struct.pack("<4I", 2, 3, 4, 0))]
    assert executor.executed_call == 5
    assert executor.batches_done == 2
    assert executor.statistics()["calls"] == 5


def test_in_rpc_mode_every_operator_is_answered(executor, calls, base):
    batch = calls.alloc(base, 16, FLAG_REPLY) + calls.write(base, b"x" * 16, FLAG_REPLY)
    assert results(executor.execute(batch)) == [(1, 0, 0, b""), (2, 0, 0, b"")]


def test_a_waited_result_leaves_before_the_batch_ends(executor, calls, base):
    flushed = []
    batch = calls.synchronize(FLAG_WAITED) + calls.alloc(base, 8) + calls.synchronize()
    rest = executor.execute(batch, flushed.append)
    assert [results(data) for data in flushed] == [[(1, 0, 0, b"")]]
    assert results(rest) == [(3, 0, 0, b"")]


def test_an_error_of_its_own_call_is_answered_and_not_sticky(executor, calls, base):
    batch = calls("module_load", module=1, payload=b"not ptx") + calls.alloc(base, 8)
    batch += calls("event_elapsed_ms", start=7, end=8) + calls.read(base, 8)
    answers = results(executor.execute(batch))
    assert [a[:3] for a in answers] == [
        (1, CUresult.INVALID_IMAGE, 0),
        (3, CUresult.INVALID_HANDLE, 0),
        (4, 0, 0),
    ]
    assert b".version" in answers[0][3]
    assert executor.sticky == 0


def test_a_query_before_the_end_says_not_ready_and_is_no_error(executor, calls, device):
    device.event_query = lambda event: False
    again = Executor(device)
    answers = results(again.execute(calls("event_query", event=1)))
    assert answers == [(1, CUresult.NOT_READY, 0, b"")]
    assert again.statistics()["errors"] == 0


def test_an_asynchronous_failure_is_sticky_and_names_the_call(executor, calls, device, base):
    batch = calls.load() + calls.launch("wild") + calls.alloc(base, 8) + calls.synchronize()
    answers = results(executor.execute(batch))
    assert [a[:3] for a in answers[1:]] == [
        (2, CUresult.ILLEGAL_ADDRESS, RESULT_STICKY),
        (4, CUresult.ILLEGAL_ADDRESS, 0),
    ]
    assert b"launch #2 of kernel 'wild'" in answers[1][3]
    assert b"0x10" in answers[1][3]
    assert device.done == ["wild"]
    assert results(executor.execute(calls.synchronize()))[0][:2] == (5, 700)
    assert executor.statistics()["skipped_calls"] == 3


def test_an_unanswered_error_is_sticky_whatever_it_is(executor, calls, base):
    batch = calls.alloc(base, LIMIT + 1) + calls.synchronize()
    answers = results(executor.execute(batch))
    assert [a[:3] for a in answers] == [(1, 2, RESULT_STICKY), (2, 2, 0)]


def test_an_answered_out_of_memory_leaves_the_session_sound(executor, calls, base):
    batch = calls.alloc(base, LIMIT + 1, FLAG_REPLY) + calls.alloc(base, 8, FLAG_REPLY)
    assert [a[:3] for a in results(executor.execute(batch))] == [(1, 2, 0), (2, 0, 0)]


def test_an_answered_launch_that_leaves_memory_is_sticky_all_the_same(executor, calls):
    batch = calls.load() + calls.launch("wild", record_flags=FLAG_REPLY) + calls.synchronize()
    answers = results(executor.execute(batch))[1:]
    assert [a[:3] for a in answers] == [(2, 700, RESULT_STICKY), (3, 700, 0)]


@pytest.mark.parametrize(
    ("kernel", "params", "block"), [("add_one", b"1234", 1), ("add_one", bytes(16), 4096)]
)
def test_a_launch_with_wrong_arguments_or_geometry_is_an_invalid_value(
    executor, calls, kernel, params, block
):
    batch = calls.load() + calls.launch(kernel, params, record_flags=FLAG_REPLY, block_x=block)
    assert results(executor.execute(batch))[1][:3] == (2, CUresult.INVALID_VALUE, 0)


def test_a_bug_in_the_device_ends_its_session_by_name(executor, calls):
    batch = calls.load() + calls.launch("bug") + calls.synchronize()
    answers = results(executor.execute(batch))[1:]
    assert [a[:3] for a in answers] == [(2, CUresult.UNKNOWN, RESULT_STICKY), (3, 999, 0)]
    assert b"ZeroDivisionError: in the device" in answers[0][3]


def test_a_malformed_record_ends_the_session_after_what_came_before(executor, calls, device, base):
    good = calls.alloc(base, 8)
    answers = results(executor.execute(good + calls.synchronize()[:-8] + bytes(8)[:5]))
    assert answers[-1][1:3] == (CUresult.UNKNOWN, RESULT_STICKY)
    assert b"malformed" in answers[-1][3]
    assert device.done == ["mem_alloc"]
    assert results(executor.execute(calls.synchronize()))[0][1] == CUresult.UNKNOWN


def test_a_call_that_comes_again_is_not_executed_again(executor, calls, device, base):
    batch = calls.alloc(base, 8)
    executor.execute(batch)
    answers = results(executor.execute(batch))
    assert answers[0][1:3] == (CUresult.UNKNOWN, RESULT_STICKY)
    assert device.done == ["mem_alloc"]


class Recording:
    """A device that notes every method call, and offers nothing besides."""

    def __init__(self):
        self.calls = []
        self.info = MemoryDevice(LIMIT).info

    def __getattr__(self, name):
        if name in ("prepare_segment", "take_output", "checkpoint", "call_comes"):
            raise AttributeError(name)

        def method(*arguments):
            self.calls.append((name, arguments))
            return {
                "memcpy_dtoh": b"abc",
                "event_elapsed_ms": 1.5,
                "kernel_load": KernelInfo("k", ((0, 8),), {0: 1024}),
            }.get(name, True)

        return method


def _value(kind, number):
    return {"bytes": b"12345678", "u64[]": [3, 4], "f32": 1.0}.get(kind, number)


def test_an_image_in_pieces_is_loaded_whole():
    device = Recording()
    executor = Executor(device)
    device.module_load = lambda *loaded: device.calls.append(loaded) or ModuleInfo(())
    pieces = [pack_call("module_piece", i + 1, module=m, payload=p) for i, (m, p) in
              enumerate([(1, b"first "), (2, b"other "), (1, b"second ")])]  # fmt: skip
    loads = [pack_call("module_load", 4, module=1, payload=b"third")]
    loads += [pack_call("module_load", 5, module=2, payload=b"image")]
    loads += [pack_call("module_load", 6, module=3, payload=b"alone")]
    answers = results(executor.execute(b"".join(pieces + loads)))
    assert [a[1] for a in answers] == [0, 0, 0]
    assert device.calls == [(1, b"first second third"), (2, b"other image"), (3, b"alone")]


def test_pieces_without_end_are_not_kept(monkeypatch):
    monkeypatch.setattr(dispatch, "MOST_PIECES_BYTES", 20)
    executor = Executor(Recording())
    batch = [pack_call("module_piece", i + 1, module=i, payload=bytes(8)) for i in range(4)]
    answers = results(executor.execute(b"".join(batch)))
    assert answers[0][:3] == (3, CUresult.OUT_OF_MEMORY, RESULT_STICKY)


@pytest.mark.parametrize(
    "op",
    [op for op in OPS if op.name not in ("module_piece", "module_load")],
    ids=lambda o: o.name,
)
def test_every_operation_reaches_its_device_method(op):
    device = Recording()
    executor = Executor(device)
    fields = {n: _value(k, i + 1) for i, (n, k) in enumerate(op.fields) if k != "payload"}
    payload = b"data" if any(k == "payload" for _, k in op.fields) else b""
    answers = results(executor.execute(pack_call(op.name, 1, payload=payload, **fields)))
    assert executor.sticky == 0, executor.statistics()["sticky_text"]
    assert len(device.calls) == 1
    name, arguments = device.calls[0]
    words = set(op.name.split("_"))
    assert name == op.name or set(name.split("_")) <= words | {"node", "set", "add"}
    assert bool(answers) == (op.reply != "none")
    if op.name == "launch":
        launch, stream = arguments
        assert (launch.module, launch.kernel, launch.cooperative) == (1, 2, True)
        assert (launch.grid, launch.block) == ((4, 5, 6), (7, 8, 9))
        assert (launch.shared_bytes, stream, launch.params) == (10, 11, b"12345678")
    elif op.name == "graph_add_kernel_node":
        graph, node, dependencies, launch = arguments
        assert (graph, node, tuple(dependencies)) == (1, 2, (3, 4))
        assert (launch.module, launch.grid, launch.params) == (3, (6, 7, 8), b"12345678")
    elif op.name == "memset":
        fill, stream = arguments
        assert (fill.dst, fill.pitch, fill.width, fill.height) == (1, 2, 3, 4)
        assert (fill.value, fill.element_bytes, stream) == (5, 6, 7)
    elif op.name == "graph_exec_memcpy_node_set":
        assert (arguments[2].dst, arguments[2].src, arguments[2].bytes) == (3, 4, 5)


# Blobs


def test_a_kept_upload_is_used_by_reference_in_the_next_session(device, shelf, calls, base):
    weights = b"weights!" * 100
    Executor(device, shelf).execute(calls.alloc(base, 800) + calls.write(base, weights, FLAG_KEEP))
    other, next_calls = Executor(MemoryDevice(LIMIT), shelf), Calls()
    batch = next_calls.alloc(base, 800)
    batch += next_calls.write(base, reference(weights), FLAG_BLOB_REF) + next_calls.read(base, 800)
    assert results(other.execute(batch)) == [(3, 0, 0, weights)]
    assert other.statistics()["blobs_used"] == 1


def test_unknown_blobs_are_asked_for_together_and_the_order_is_kept(
    executor, calls, shelf, base, device
):
    first, second, third = b"A" * 64, b"B" * 64, b"C" * 64
    batch = calls.alloc(base, 192)
    batch += calls.write(base, reference(first), FLAG_BLOB_REF)
    batch += calls.write(base + 64, reference(second), FLAG_BLOB_REF)
    asked = results(executor.execute(batch))
    assert asked == [(i, CUresult.NOT_FOUND, RESULT_BLOB_WANTED, b"") for i in (2, 3)]
    assert executor.blocked
    assert executor.batches_done == 0
    later = calls.write(base + 128, reference(third), FLAG_BLOB_REF) + calls.read(base, 192)
    assert results(executor.execute(later)) == [(4, 500, RESULT_BLOB_WANTED, b"")]
    assert results(executor.execute(pack_call("blob_data", 3, payload=second))) == []
    assert results(executor.execute(pack_call("blob_data", 4, payload=third))) == []
    assert device.done == ["mem_alloc"]
    done = results(executor.execute(pack_call("blob_data", 2, payload=first)))
    assert done == [(5, 0, 0, first + second + third)]
    assert not executor.blocked
    assert executor.batches_done == 5
    assert shelf.has(sha256(third).digest(), 64)


def test_wrong_content_for_a_wanted_blob_is_refused_and_the_session_does_not_hang(
    executor, calls, base
):
    batch = calls.alloc(base, 64) + calls.write(base, reference(b"A" * 64), FLAG_BLOB_REF)
    executor.execute(batch + calls.synchronize())
    answers = results(executor.execute(pack_call("blob_data", 2, payload=b"Z" * 64)))
    assert answers[0][:3] == (2, CUresult.UNKNOWN, RESULT_STICKY)
    assert answers[1][:2] == (3, CUresult.UNKNOWN)


def test_blob_data_that_nobody_wants_is_ignored(executor, calls, base):
    assert executor.execute(pack_call("blob_data", 9, payload=b"x" * 8)) == b""
    assert results(executor.execute(calls.synchronize())) == [(1, 0, 0, b"")]


# Whatever the bytes are


def _batch(base):
    calls = Calls()
    return (
        calls.load() + calls.alloc(base, 64) + calls.write(base, b"y" * 64, FLAG_KEEP)
        + calls.write(base, reference(b"unknown"), FLAG_BLOB_REF)
        + calls.launch("add_one", struct.pack("<QI", base, 4)) + calls.read(base, 64)
        + calls("graph_create", graph=1)
        + calls("graph_add_empty_node", graph=1, node=1, dependencies=[])
        + calls("graph_instantiate", graph_exec=1, graph=1)
        + calls("graph_launch", graph_exec=1, stream=0) + calls.synchronize()
    )  # fmt: skip


_BASE = MemoryDevice(LIMIT).info.arena_base
_GOOD = _batch(_BASE)
_PTX_END = _GOOD.index(b"wild()") + 20
_OUTSIDE_PTX = st.one_of(st.integers(0, 31), st.integers(_PTX_END, len(_GOOD) - 1))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(_OUTSIDE_PTX, st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(_GOOD)),
)
def test_damaged_batches_give_results_and_never_an_exception(changes, end):
    damaged = bytearray(_GOOD)
    for at, value in changes:
        damaged[at] = value
    executor = Executor(MemoryDevice(LIMIT), Shelf())
    # A damaged kernel number must not reach the kernels that end the process.
    executor._handlers[20] = lambda record: b""
    for batch in (bytes(damaged), bytes(damaged[:end]), _GOOD):
        for record in iter_results(executor.execute(batch)):
            CUresult(record.status)


def test_calls_that_are_not_executed_are_answered_when_they_want_it(calls, base):
    batch = calls.synchronize() + calls.alloc(base, 8) + calls.synchronize()
    batch += calls.alloc(base, 8, FLAG_REPLY)
    answers = results(refuse_calls(batch, 700, "gone", after=1, but=4))
    assert answers == [(3, 700, 0, b"gone")]
    assert refuse_calls(batch[:-4], 700, "gone", after=3) == b""
