"""Inferences that leave nothing behind are not executed again, and all others are."""

import itertools
import struct

import pytest

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.state.journal import Journal
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.format import HEADER_BYTES, RESULT_CONTAINED, RESULT_PRINTED
from rrto_ros.wire.plan import Plan, Varying, pack_define
from rrto_ros.wire.reference import pack_reference, read_reference
from rrto_ros.wire.result_codec import iter_results, pack_result
from rrto_ros.wire.templates import CallTemplate

SIZE = 64


def template(name, **fields):
    record = pack_call(name, 1, **fields)
    (header,) = iter_headers(record)
    return CallTemplate(header.op, 0, record[HEADER_BYTES:])


READ = template("memcpy_dtoh", src=4096, size=SIZE, stream=0)
FILL = template("memset", dst=4096, value=1, width=4, height=1, pitch=0, element_bytes=4, stream=0)
PLAN = Plan((FILL, FILL, READ))
SHAPED = Plan((template("mem_alloc", address=8192, size=SIZE, stream=0),))
VARIES = Plan((FILL, READ), (Varying(1, HEADER_BYTES, 8),))


def result(index, payload=b"", flags=0):
    (one,) = iter_results(memoryview(pack_result(index, 0, payload, flags)))
    return one


class Robot:
    """A session's calls, as they leave, and its journal."""

    def __init__(self):
        self.journal = Journal(1 << 20)
        self.next = 1

    def sends(self, *records):
        self.journal.sent(b"".join(records))

    def reference(self, plan=1, first=0, count=3, words=()):
        at, self.next = self.next, self.next + count
        return pack_reference(plan, first, count, at, 1, [], list(words), b"")

    def call(self, name, **fields):
        at, self.next = self.next, self.next + 1
        return pack_call(name, at, **fields)

    def infers(self, count=1, **how):
        for _ in range(count):
            self.sends(self.reference(**how))

    def contained(self, plan=1, since=None):
        at = self.next if since is None else since
        self.journal.contains(result(plan, struct.pack("<Q", at), RESULT_CONTAINED))

    def answered(self):
        self.journal.answered(result(self.next - 1))

    def again(self):
        """(first, last) of the calls that are executed again."""
        out = []
        for batch in self.journal.begin_again():
            for header in iter_headers(batch):
                if header.op == read_reference_op():
                    ref = read_reference(memoryview(batch).cast("B"), header)
                    out.append((ref.index, ref.index + ref.count - 1))
                elif header.index:
                    out.append((header.index, header.index))
        return out


def read_reference_op():
    (header,) = iter_headers(pack_reference(1, 0, 1, 1, 1, [], [], b""))
    return header.op


@pytest.fixture
def robot():
    made = Robot()
    made.sends(pack_define(1, PLAN))
    return made


def test_only_the_last_of_inferences_that_follow_each_other_is_executed_again(robot):
    robot.infers(2)
    robot.contained()
    robot.infers(20)
    robot.answered()
    # The two of which it was not known yet, and the last one.
    assert robot.again() == [(1, 3), (4, 6), (64, 66)]
    assert robot.journal.statistics()["superseded"] == 19 * 3
    # The journal has become so short; what comes next is added.
    robot.infers(3)
    robot.answered()
    assert robot.again() == [(1, 3), (4, 6), (73, 75)]


def test_what_the_program_has_no_answer_of_is_executed_again(robot):
    robot.contained()
    robot.infers(3)
    robot.answered()
    robot.infers(3)
    assert robot.again() == [(10, 12), (13, 15), (16, 18)]


def test_an_inference_in_several_parts_is_whole_with_its_last(robot):
    robot.contained()
    for _ in range(3):
        robot.sends(robot.reference(first=0, count=2))
        robot.sends(robot.reference(first=2, count=1))
    robot.sends(robot.reference(first=0, count=2))
    robot.answered()
    assert robot.again() == [(7, 8), (9, 9), (10, 11)]


@pytest.mark.parametrize("between", [
    lambda robot: robot.call("memset", dst=4096, value=2, width=4, height=1, pitch=0,
                             element_bytes=4, stream=0),
    lambda robot: robot.call("memcpy_htod", dst=4096, stream=0, payload=bytes(8)),
    lambda robot: robot.reference(first=0, count=1),
    lambda robot: robot.reference(first=1, count=1),
    lambda robot: pack_define(2, PLAN) + robot.reference(plan=2),
], ids=["fill", "upload", "part", "end", "other plan"])  # fmt: skip
def test_anything_between_two_inferences_keeps_both(robot, between):
    robot.contained()
    robot.infers()
    first = (1, 3)
    robot.sends(between(robot))
    robot.infers()
    last = (robot.next - 3, robot.next - 1)
    robot.answered()
    found = robot.again()
    assert found[0] == first
    assert found[-1] == last
    assert robot.journal.statistics()["superseded"] == 0


@pytest.mark.parametrize("shapes", [
    lambda robot: robot.call("mem_alloc", address=8192, size=SIZE, stream=0),
    lambda robot: pack_define(2, SHAPED) + robot.reference(plan=2, count=1),
    lambda robot: pack_define(1, PLAN),
], ids=["call", "plan", "other plan under its number"])  # fmt: skip
def test_what_gives_the_session_another_shape_ends_what_is_known(robot, shapes):
    robot.contained()
    robot.infers(2)
    robot.sends(shapes(robot))
    robot.infers(5)
    robot.answered()
    found = robot.again()
    # The two before it are as they were known to be.
    assert (1, 3) not in found
    assert found[-5:] == [(robot.next - 15 + 3 * k, robot.next - 13 + 3 * k) for k in range(5)]
    robot.contained()
    robot.infers(4)
    robot.answered()
    assert robot.again()[-1] == (robot.next - 3, robot.next - 1)
    assert robot.journal.statistics()["superseded"] == 4 * 3


def test_a_shape_of_before_a_checkpoint_counts_too(robot):
    robot.contained()
    robot.infers(2)
    robot.sends(robot.call("mem_alloc", address=8192, size=SIZE, stream=0))
    robot.answered()
    robot.journal.checkpoint(0.0)
    robot.journal.piece(result(1))
    robot.infers(3)
    robot.answered()
    assert len(robot.again()) == 1 + 3  # the allocation, and all inferences
    robot.contained()
    robot.infers(3)
    robot.answered()
    assert len(robot.again()) == 1 + 3 + 1


def test_what_varies_between_inferences_is_executed_again(robot):
    robot.sends(pack_define(2, VARIES))
    robot.contained(2)
    for address in (4096, 4160, 4096):
        robot.sends(robot.reference(plan=2, count=2, words=[address, 0]))
    robot.answered()
    assert len(robot.again()) == 3


def test_where_kernels_print_all_is_executed_again(robot):
    robot.contained()
    robot.infers(3)
    robot.answered()
    robot.journal.answered(result(0, b"text", RESULT_PRINTED))
    assert len(robot.again()) == 3


def test_batches_keep_their_bounds_and_their_other_records(robot):
    robot.contained()
    call = robot.call("memcpy_htod", dst=4096, stream=0, payload=bytes(range(16)))
    robot.sends(call, robot.reference(), robot.reference())
    robot.sends(robot.reference(), robot.reference())
    robot.answered()
    batches = robot.journal.begin_again()
    assert [list(iter_headers(batch)) != [] for batch in batches] == [True] * 3
    assert bytes(batches[1]) == call
    assert robot.again() == [(1, 1), (11, 13)]


def test_what_is_no_number_of_a_call_is_refused(robot):
    for data in (b"", bytes(7), bytes(9)):
        with pytest.raises(ProtocolError, match="no number of a call"):
            robot.journal.contains(result(1, data, RESULT_CONTAINED))
    for plan in itertools.islice(itertools.count(1), 5000):
        robot.contained(plan)
    assert len(robot.journal._contained) <= 1024
