"""Gaps in recorded streams, and bags whose recording was killed."""

import collections
import contextlib
import random
import shutil
import struct

import pytest

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.ros.bag_check import SessionCheck, StreamCheck
from rrto_ros.ros.bag_file import BagWriter, read_bag, typestore
from rrto_ros.ros.bag_repair import DAMAGED, repair


def test_a_stream_is_whole_in_any_order_and_with_repetitions():
    numbers = [*range(1, 200), *range(50, 120)]
    random.Random(1).shuffle(numbers)
    check = StreamCheck("calls")
    for number in numbers:
        check.seen(number)
    assert check.fault == ""


@pytest.mark.parametrize("lost", [1, 7, 20])
def test_a_lost_message_is_named_wherever_it_was(lost):
    check = StreamCheck("results")
    for number in range(1, 21):
        if number != lost:
            check.seen(number)
    check.exists(20)
    assert check.fault == f"results: message {lost} is missing (1 of 20)"


def test_an_acknowledgement_shows_that_the_last_message_is_missing():
    check = SessionCheck(opened=True)
    check.calls.seen(1)
    assert check.faults == []
    check.results.exists(2)
    assert check.faults == ["results: message 1 is missing (2 of 2)"]


def test_a_session_without_its_opening_is_not_complete():
    check = SessionCheck()
    check.calls.seen(1)
    assert check.faults == ["its opening was not recorded"]


def test_numbers_far_ahead_cost_bounded_memory():
    check = StreamCheck("calls")
    for number in range(2, 200_000):
        check.seen(number)
    assert "at least" in check.fault
    assert len(check._ahead) < 100_000


FIRST_CHUNK = 40
"""Bytes before the first chunk: the magic, and the header with the profile and the library."""


@pytest.fixture(scope="module")
def recorded():
    """Messages of a bag, as (topic, time, bytes)."""
    store = typestore()
    make = store.types["rrto_msgs/msg/CallBatch"]
    import numpy as np

    out = []
    for number in range(1, 40):
        message = make(
            session=np.full(16, 7, np.uint8),
            sequence=number,
            results_ack=0,
            seal=0,
            flags=0,
            data=np.full(50_000 if number % 5 == 0 else number, number, np.uint8),
        )
        raw = bytes(store.serialize_cdr(message, "rrto_msgs/msg/CallBatch"))
        out.append(("call_batches", 1_000 + number, raw))
    return out


def written(folder, messages, close):
    writer = BagWriter(folder, "r1")
    for position, message in enumerate(messages):
        writer.write(*message)
        if position % 4 == 3:
            writer.flush()
    writer.flush()
    if close:
        writer.__exit__(None, None, None)


def read(folder):
    from rosbags.rosbag2 import Reader

    with Reader(folder) as reader:
        return [
            (c.topic.rpartition("/")[2], time, bytes(data)) for c, time, data in reader.messages()
        ]


def test_everything_that_was_flushed_survives_a_kill(tmp_path, recorded):
    written(tmp_path / "bag", recorded, close=False)
    done = repair(tmp_path / "bag")
    assert (done.messages, done.lost_bytes) == (len(recorded), 0)
    assert read(tmp_path / "bag") == recorded
    assert (tmp_path / f"bag{DAMAGED}").is_dir()


def test_wherever_the_file_ends_what_is_before_is_saved(tmp_path, recorded):
    written(tmp_path / "bag", recorded, close=True)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    whole = file.read_bytes()
    cuts = random.Random(3)
    seen = set()
    for number in range(40):
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        cut = cuts.randrange(64) if number < 8 else cuts.randrange(len(whole))
        (folder / file.name).write_bytes(whole[:cut])
        if cut < FIRST_CHUNK:
            with pytest.raises(ConfigError, match=r"MCAP file|nothing to save|cannot be"):
                repair(folder)
            continue
        done = repair(folder)
        got = read(folder) if done.messages else []
        assert got == recorded[: len(got)]
        assert len(got) >= len(recorded) * (cut - 70_000) // len(whole)
        seen.add(len(got))
    assert len(seen) > 4


def test_a_whole_bag_is_left_alone_and_what_is_no_bag_is_refused(tmp_path, recorded):
    written(tmp_path / "bag", recorded, close=True)
    assert repair(tmp_path / "bag").kept is None
    with pytest.raises(ConfigError, match="no folder"):
        repair(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="0 MCAP files"):
        repair(tmp_path / "empty")
    (tmp_path / "empty" / "x.mcap").write_bytes(b"SQLite format 3")
    with pytest.raises(ConfigError, match="no MCAP file"):
        repair(tmp_path / "empty")
    assert (tmp_path / "empty" / "x.mcap").read_bytes() == b"SQLite format 3"


def test_files_in_the_way_of_a_repair_are_not_touched(tmp_path, recorded):
    written(tmp_path / "bag", recorded, close=False)
    (tmp_path / f"bag{DAMAGED}").mkdir()
    with pytest.raises(ConfigError, match="in the way"):
        repair(tmp_path / "bag")


def damages(rng, data):
    """Bytes of a file, damaged in some way."""
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            yield data[: rng.randrange(len(data))]
        elif kind == 1:
            at = rng.randrange(len(data))
            yield data[:at] + rng.randbytes(rng.choice((1, 4, 8))) + data[at + 8 :]
        elif kind == 2:
            # Lengths and counts.
            at = rng.randrange(len(data) - 8)
            number = rng.choice((0, 1, 0xFFFFFFFF, 1 << 31, (1 << 64) - 1))
            yield data[:at] + struct.pack("<Q", number) + data[at + 8 :]
        else:
            a, b = sorted(rng.randrange(len(data)) for _ in range(2))
            yield data[:a] + data[b:] + data[a:b]


@pytest.mark.parametrize("part", ["*.mcap", "metadata.yaml"])
def test_a_damaged_bag_is_refused_by_a_reason_or_read(tmp_path, recorded, part):
    written(tmp_path / "whole", recorded, close=True)
    file = tmp_path / "bag" / next((tmp_path / "whole").glob(part)).name
    whole = (tmp_path / "whole" / file.name).read_bytes()
    rng = random.Random(part)
    ends = collections.Counter()
    for _, damaged in zip(range(40), damages(rng, whole), strict=False):
        shutil.copytree(tmp_path / "whole", tmp_path / "bag")
        file.write_bytes(damaged)
        try:
            read_bag(tmp_path / "bag")
            ends["read"] += 1
        except (ConfigError, ProtocolError):
            ends["refused"] += 1
        with contextlib.suppress(ConfigError):
            repair(tmp_path / "bag")
        for left in tmp_path.iterdir():
            if left.name != "whole":
                shutil.rmtree(left)
    assert ends["refused"] > 10


YAMLS = (
    "rosbag2_bagfile_information: !!python/object/apply:os.system ['touch {mark}']",
    "rosbag2_bagfile_information: &a [*a, *a]",
    "rosbag2_bagfile_information: {version: 9, relative_file_paths: ['../secret']}",
    "a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]",
    "- " * 3000,
    "\x00\xff",
    "",
)


@pytest.mark.parametrize("number", range(len(YAMLS)))
def test_a_bags_hostile_description_runs_nothing_and_is_refused(tmp_path, recorded, number):
    written(tmp_path / "bag", recorded, close=True)
    mark = tmp_path / "mark"
    (tmp_path / "bag" / "metadata.yaml").write_text(
        YAMLS[number].replace("{mark}", str(mark)), errors="surrogateescape"
    )
    with pytest.raises((ConfigError, ProtocolError)):
        read_bag(tmp_path / "bag")
    assert not mark.exists()
