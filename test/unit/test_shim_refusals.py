"""What a program asked for and did not get is named in its session's report, with the count."""

import pytest
from support.shim_peer import CASES, Peer

from rrto_ros.api._generated.exports import CLASSES, EXPORTS
from rrto_ros.robot import ring as layout
from rrto_ros.robot.ring import RingMemory

PROGRAM = CASES.parent / "shim_refusals.py"
TABLE = "cuGetExportTable: 195bcbf4-d67d-024a-acc5-1d29cea631ae (HEAP_ACCESS)"


def refused(case):
    with Peer() as peer:
        peer.case(case, program=PROGRAM)
        return peer.rings[0].refusals(), peer.rings[0].counters()


def test_tables_and_versions_are_named_also_those_asked_for_before_the_session():
    names, counters = refused("tables")
    assert names == {
        TABLE: 3,
        "cuGetProcAddress: cuLaunchKernelEx of CUDA 11000": 1,
        "cuGetExportTable: 00010203-0405-0607-0809-0a0b0c0d0e0f (unknown)": 1,
    }
    assert counters.unsupported == 5 + 1


def test_uses_of_supported_calls_and_images_are_named_wrong_arguments_are_not():
    names, counters = refused("uses")
    image = next(name for name in names if name.startswith("image: CUDA_ERROR_INVALID_PTX: "))
    assert "mulch" in image
    assert names == {
        "cuLaunchKernelEx: cluster of 2x1x1": 3,
        "cuEventCreate: shared between processes (flag 4)": 1,
        image: 1,
    }
    assert counters.unsupported == 5


def test_what_finds_no_room_is_counted_as_others():
    names, counters = refused("many")
    assert len(names) == layout.MOST_REFUSALS
    assert names["others"] == 40 - (layout.MOST_REFUSALS - 1)
    assert sum(names.values()) == counters.unsupported == 40


def test_a_child_that_forked_writes_nothing_into_its_parents_report():
    names, _ = refused("child")
    assert names == {}


@pytest.fixture
def ring():
    made = RingMemory(call_bytes=4096, reply_bytes=4096)
    yield made
    made.close()


def write(ring, place, count, text):
    layout._REFUSAL.pack_into(
        ring.view, layout.REFUSALS + place * layout._REFUSAL.size, count, text
    )


def test_whatever_a_program_writes_there_is_shown_as_one_line_of_text(ring):
    write(ring, 0, 2, b"cuFoo: \x1b[31mred\n\n\x07 \xff" + b"x" * 200)
    write(ring, 1, 1, b"")
    write(ring, 2, 1, b"\0hidden")
    write(ring, 4, 9, b"after the first free entry")
    first, second = ring.refusals().items()
    assert first[0].startswith("cuFoo: [31mred \ufffdxxx")
    assert first[1] == 2
    assert first[0].isprintable()
    assert second == ("without a name", 2)


def test_the_list_ends_where_the_counters_begin():
    end = layout.REFUSALS + layout.MOST_REFUSALS * layout._REFUSAL.size
    assert end == layout.CALLS_PER_EXPORT


def test_the_message_lists_refusals_beside_the_calls():
    messages = pytest.importorskip("rrto_ros.nodes.session_messages")
    from rrto_ros.robot.status import SessionSnapshot

    counts = [0] * len(EXPORTS)
    counts[EXPORTS.index("cuMemAllocManaged")] = 2
    snapshot = SessionSnapshot(
        bytes(16), "", "p", 1, "cpu", "rpc", "open", "", 1.0,
        export_counts=tuple(counts), refusals=((TABLE, 3),),
    )  # fmt: skip
    out = messages.session_message(snapshot, EXPORTS, frozenset(CLASSES))
    assert [(e.name, e.count) for e in out.unsupported] == [("cuMemAllocManaged", 2), (TABLE, 3)]
