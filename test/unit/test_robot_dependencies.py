"""Reads and writes of operators, and who depends on whom."""

import struct

import pytest
from support.synthetic import ARENA, Model, Program

from rrto_ros.api.ops import SURFACE, Effect
from rrto_ros.robot.record import CallLog, Dependencies
from rrto_ros.wire.accesses import GraphTable, accesses
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.codec import pack_call

A, B, C = ARENA, ARENA + 4096, ARENA + 8192
SHAPE = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
LAUNCH = {"module": 1, "kernel": 0, "flags": 0, "shared_bytes": 0, **dict.fromkeys(SHAPE, 1)}


def template(name, payload=b"", **fields):
    log = CallLog()
    log.extend(pack_call(name, 1, payload=payload, **fields))
    return log.template(0)


def edges(program):
    """Position -> positions of the calls it depends on."""
    log = CallLog()
    log.extend(b"".join(program.records()))
    graph = Dependencies()
    return [graph.step(i, log.exact[i], log.template(i)) for i in range(log.end)]


def test_copies_and_fills_name_their_ranges():
    live = Allocations([(A, 4096), (B, 4096)])
    assert accesses(template("memcpy_htod", b"12345", dst=A + 8, stream=0), live).writes == (
        (A + 8, A + 13),
    )
    assert accesses(template("memcpy_dtoh", src=A, size=12, stream=0), live).reads == (
        (A, A + 12),
    )
    both = accesses(template("memcpy_dtod", dst=B, src=A, size=9, stream=0), live)
    assert (both.reads, both.writes) == (((A, A + 9),), ((B, B + 9),))
    fill = template(
        "memset", dst=A, pitch=64, width=4, height=3, value=0, element_bytes=2, stream=0
    )
    assert accesses(fill, live).writes == ((A, A + 136),)


def test_aligned_argument_words_in_a_live_allocation_are_possible_accesses():
    live = Allocations([(A, 4096), (B, 100)])
    params = struct.pack("<QQQQ", A + 4095, 17, B + 100, B) + struct.pack("<I", 3)
    got = accesses(template("launch", **LAUNCH, stream=0, params=params), live)
    assert got.possible == ((A, A + 4096), (B, B + 100))
    shifted = b"\0\0\0\0" + struct.pack("<Q", A) + bytes(4)
    assert accesses(template("launch", **LAUNCH, stream=0, params=shifted), live).possible == ()


def test_a_graph_launch_has_the_accesses_of_its_nodes():
    live = Allocations([(A, 64), (B, 64), (C, 64)])
    graphs = GraphTable()
    node = {**LAUNCH, "graph": 1, "dependencies": []}

    def apply(name, **fields):
        t = template(name, **fields)
        graphs.apply(t.op, t.fields(), live)

    apply("graph_create", graph=1)
    apply("graph_add_kernel_node", node=1, params=struct.pack("<Q", A), **node)
    apply("graph_add_memcpy_node", graph=1, node=2, dst=B, src=A, size=4, dependencies=[1])
    apply("graph_instantiate", graph_exec=9, graph=1)
    launch = template("graph_launch", graph_exec=9, stream=0)
    got = accesses(launch, live, graphs)
    assert (got.reads, got.writes, got.possible) == (((A, A + 4),), ((B, B + 4),), ((A, A + 64),))
    other = struct.pack("<Q", C)
    apply("graph_exec_kernel_node_set", graph_exec=9, node=1, **LAUNCH, params=other)
    assert accesses(launch, live, graphs).possible == ((C, C + 64),)
    assert graphs.launched(8) is None


def test_an_inference_depends_on_its_own_input_and_the_weights():
    p = Program()
    m = Model(p, "net", 1, kernels=3)
    m.infer()
    m.infer()
    got = edges(p)
    upload, first, second, third, read = p.truth["net"][1]
    weights = max(i for i, c in enumerate(p.calls[:upload]) if c.name == "memcpy_htod" and i < 10)
    assert got[upload] == ()
    assert upload in got[first]
    assert first in got[second]
    assert second in got[third]
    assert got[read] == (third,)
    assert weights is not None


def test_ranges_of_one_allocation_are_told_apart():
    p = Program()
    a = p.alloc(4096)
    p.upload(a, bytes(64))
    p.upload(a + 64, bytes(64))
    p.download(a, 64)
    p.download(a + 32, 64)
    p.upload(a + 32, bytes(64))
    p.download(a, 40)
    assert edges(p)[3:] == [(1,), (1, 2), (), (1, 5)]


def test_freed_memory_hands_nothing_on():
    p = Program()
    a = p.alloc(64)
    p.upload(a, bytes(64))
    p.call("mem_free", address=a, stream=0)
    p.call("mem_alloc", address=a, size=64, stream=0)
    p.download(a, 64)
    assert edges(p)[-1] == (3,)


def test_events_hand_on_from_record_to_use():
    p = Program()
    p.call("event_record", event=1, stream=0)
    p.call("event_record", event=2, stream=0)
    p.call("event_elapsed_ms", start=1, end=2)
    assert edges(p) == [(), (), (0, 1)]


def test_the_same_live_set_has_the_same_signature():
    live = Allocations([(A, 64)])
    before = live.signature
    live.add(B, 64)
    assert live.signature != before
    live.remove(B)
    assert live.signature == before
    assert live.find(A + 63) == (A, 64)
    assert live.find(A + 64) is None
    assert live.find(A - 1) is None


@pytest.mark.parametrize("writes", [10, 1000])
def test_memory_for_writers_is_bounded(writes):
    p = Program()
    a = p.alloc(1 << 16)
    for i in range(writes):
        p.upload(a + 16 * i, bytes(8))
    p.download(a, 1 << 16)
    assert len(edges(p)[-1]) <= 17


def mapped(live, address, size, flags=3):
    live.follow(Effect.ACCESS, {"address": address, "size": size, "flags": flags})


def test_mapped_pieces_beside_each_other_are_one_allocation():
    live = Allocations([(A - 4096, 4096)])
    mapped(live, A, 4096)
    before = live.signature
    mapped(live, C, 4096)
    assert (live.find(A), live.find(C), live.find(B)) == ((A, 4096), (C, 4096), None)
    mapped(live, B, 4096)
    assert list(live) == [(A - 4096, 4096), (A, 3 * 4096)]
    assert list(live.copy()) == list(live)
    live.follow(Effect.UNMAP, {"address": B, "size": 4096})
    assert [live.find(a) for a in (A, B, C)] == [(A, 4096), None, (C, 4096)]
    mapped(live, C, 4096, flags=1)  # may only be read: nobody's to write
    assert (live.find(C), live.signature) == (None, before)
    live.remove(A - 4096)
    mapped(live, A, 4096)  # access that was there already
    assert list(live) == [(A, 4096)]


def test_who_wrote_to_mapped_memory_is_known_when_it_grows():
    program = Program()
    program.call("mem_create", handle=1, size=4096)
    program.call("mem_map", address=A, size=4096, handle=1)
    program.call("mem_access", address=A, size=4096, flags=3)
    program.upload(A + 8, b"12345678")
    program.call("mem_access", address=A - 4096, size=4096, flags=3)
    program.download(A + 8, 8)
    assert edges(program)[-1] == (3,)


def test_a_launch_may_read_what_a_live_texture_reads():
    sizes = dict.fromkeys(("width", "height", "depth", "pitch", "kind", "format", "channels",
                           "filter", "flags", "mode_x", "mode_y", "mode_z"), 1)  # fmt: skip
    border = dict.fromkeys(("border_r", "border_g", "border_b", "border_a"), 0.0)
    program = Program()
    image, out = program.alloc(), program.alloc()
    program.call("texture_create", texture=1, address=image, size=64, **sizes, **border)
    program.upload(image, b"12345678")
    program.launch(1, 0, 0x7777, out)
    program.call("texture_destroy", texture=1)
    program.launch(1, 0, 0x7777, out)
    got = edges(program)
    assert got[4] == (0, 1, 3)
    assert got[6] == (4,)


def test_textures_are_part_of_what_is_live():
    live = Allocations([(A, 4096)])
    before = live.signature
    for flags in (0, SURFACE):
        live.follow(Effect.TEXTURE_MAKE, {"texture": 3, "address": A, "size": 64, "flags": flags})
        assert live.signature != before
        assert live.copy().textures == live.textures == ((A, A + 64),)
        assert live.copy().surfaces == live.surfaces == (((A, A + 64),) if flags else ())
        assert live.copy().signature == live.signature
        params = struct.pack("<Q", 0x7777)
        launch = accesses(template("launch", **LAUNCH, stream=0, params=params), live)
        assert (launch.reads, launch.possible) == (live.textures, live.surfaces)
        live.follow(Effect.TEXTURE_DROP, {"texture": 3})
        assert (live.signature, live.textures, live.surfaces) == (before, (), ())
