"""Plans on disk: what a program learnt is there at its next start, and never in the way."""

import dataclasses
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from support.synthetic import Model, Program

from rrto_ros.disk_store import DiskStore
from rrto_ros.errors import ConfigError
from rrto_ros.robot.plan_store import (
    MAX_LISTED,
    MAX_PROGRAMS,
    MAX_UNUSED,
    PlanMemory,
    PlanStore,
    StartUp,
    program_names,
)
from rrto_ros.wire.codec import iter_calls
from rrto_ros.wire.plan import Plan, Varying
from rrto_ros.wire.templates import CallTemplate

NAMES = program_names("/usr/bin/python3 node.py --rate 3", 1 << 40)


def make_plan(seed, launches=4):
    program = Program()
    Model(program, "m", seed, launches).infer()
    calls = [call for record in program.records() for call in iter_calls(record)]
    templates = [
        CallTemplate(c.op.code, len(c.payload or b""), record[24 : len(record) - padded(c)])
        for c, record in zip(calls, program.records(), strict=True)
    ]
    return Plan(tuple(templates))


def padded(call):
    return (len(call.payload or b"") + 7) // 8 * 8


PLANS = [make_plan(seed) for seed in range(1, 6)]


def files(root):
    return sorted(p for p in root.rglob("*") if p.is_file() and len(p.name) == 64)


def plan_file(root, plan):
    return root / plan.digest.hex()[:2] / plan.digest.hex()


def lists(root):
    """The store of the programs' lists, to put there what no program does."""
    return DiskStore(root / "programs", 1 << 30, "plan", sealed=True)


def test_what_was_walked_is_recalled_by_another_store_the_latest_first(tmp_path):
    PlanStore(tmp_path).keep(NAMES, PLANS[:3], apart=True)
    PlanStore(tmp_path).keep(NAMES, [PLANS[0]], apart=True)
    found = PlanStore(tmp_path).recall(NAMES)
    assert found.plans == (PLANS[0], PLANS[2], PLANS[1])
    assert found.apart


def test_varying_words_are_kept(tmp_path):
    calls = PLANS[0].calls
    at = next(i for i, c in enumerate(calls) if len(c.body) >= 16)
    blank = CallTemplate(calls[at].code, calls[at].payload_bytes, bytes(8) + calls[at].body[8:])
    plan = Plan((*calls[:at], blank, *calls[at + 1 :]), (Varying(at, 24, 8),))
    PlanStore(tmp_path).keep(NAMES, [plan])
    assert PlanStore(tmp_path).recall(NAMES).plans == (plan,)


def test_the_start_is_kept_until_there_is_another(tmp_path):
    store = PlanStore(tmp_path)
    store.keep(NAMES, PLANS[:1], start=StartUp(PLANS[3], 2))
    store.keep(NAMES, PLANS[1:2])
    assert PlanStore(tmp_path).recall(NAMES).start == StartUp(PLANS[3], 2)
    store.keep(NAMES, (), start=StartUp(PLANS[4], 1))
    found = PlanStore(tmp_path).recall(NAMES)
    assert found.start == StartUp(PLANS[4], 1)
    assert found.plans == (PLANS[1], PLANS[0])
    plan_file(tmp_path, PLANS[4]).write_bytes(b"damaged")
    found = store.recall(NAMES)
    assert (found.start, found.plans) == (None, (PLANS[1], PLANS[0]))


def test_a_program_is_known_by_its_command_line_and_else_by_its_script(tmp_path):
    store = PlanStore(tmp_path)
    base = 1 << 40

    def names(command, arena=base):
        return program_names(command, arena)

    store.keep(names("/usr/bin/python3 -u node.py --seed 1"), PLANS[:1])
    store.keep(names("/usr/bin/python3 -u node.py --seed 2"), PLANS[1:2])
    recall = store.recall
    assert recall(names("/usr/bin/python3 -u node.py --seed 1")).plans == (PLANS[0],)
    other_seed = recall(names("/usr/bin/python3 node.py --seed 3 --ros-args -p x:=1")).plans
    assert other_seed == (PLANS[1], PLANS[0])
    assert recall(names("/usr/bin/python3 other.py")).plans == ()
    assert recall(names("/usr/bin/python3 -u node.py --seed 1", 1 << 41)).plans == ()
    assert recall(names("")).plans == ()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "grown"])
def test_a_damaged_plan_is_counted_removed_and_learnt_again(tmp_path, damage):
    PlanStore(tmp_path).keep(NAMES, PLANS[:2])
    path = plan_file(tmp_path, PLANS[0])
    data = path.read_bytes()
    flipped = bytes([data[60] ^ 1])
    path.write_bytes(
        {"cut": data[:-3], "flipped": data[:60] + flipped + data[61:], "empty": b"",
         "grown": data + b"x"}[damage]
    )  # fmt: skip
    store = PlanStore(tmp_path)
    assert store.recall(NAMES).plans == (PLANS[1],)
    assert store.statistics()["refused"] == 1
    assert not path.exists()
    store.keep(NAMES, [PLANS[0]])
    assert store.recall(NAMES).plans == (PLANS[0], PLANS[1])


def test_a_plan_of_another_table_of_driver_calls_is_refused_and_removed(tmp_path):
    store = PlanStore(tmp_path)
    other = bytearray(PLANS[0].encoded)
    other[8:40] = bytes(32)
    digest = sha256(other).digest()
    store.keep(NAMES, PLANS[1:2])
    path = tmp_path / digest.hex()[:2] / digest.hex()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(other)
    value = json.loads(lists(tmp_path).get(NAMES[0]))
    value["plans"].insert(0, [digest.hex(), len(other), 0])
    lists(tmp_path).put(NAMES[0], json.dumps(value).encode())
    assert store.recall(NAMES).plans == (PLANS[1],)
    assert store.statistics()["refused"] == 1
    assert "table" in store.statistics()["last_failure"]
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [" ", "{", "[]", '{"version": 1}',
     '{"version": 2, "apart": false, "start": null, "plans": []}',
     '{"version": 1, "apart": false, "start": null, "plans": [["00", 5, 0]]}',
     '{"version": 1, "apart": false, "start": null, "plans": [["%s", -5, 0]]}' % ("00" * 32),
     '{"version": 1, "apart": false, "start": null, "plans": 7}',
     '{"version": 1, "apart": false, "start": [], "plans": []}', "\x00\xff", " " * 40000],
)  # fmt: skip
def test_a_damaged_list_is_counted_removed_and_made_again(tmp_path, text):
    store = PlanStore(tmp_path)
    store.keep(NAMES, PLANS[:1])
    for name in NAMES:
        lists(tmp_path).put(name, text.encode())
    assert store.recall(NAMES).plans == ()
    assert store.statistics()["refused"] == 2
    assert "list of a program's plans" in store.statistics()["last_failure"]
    assert lists(tmp_path).size(NAMES[0]) is None
    store.keep(NAMES, PLANS[:1])
    assert store.recall(NAMES).plans == (PLANS[0],)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another's"])
def test_a_list_whose_file_is_damaged_or_another_programs_is_removed(tmp_path, damage):
    store = PlanStore(tmp_path)
    store.keep(NAMES, PLANS[:1])
    other = program_names("other", 0)
    store.keep(other, PLANS[1:2])
    for name, foreign in zip(NAMES, other, strict=True):
        path = tmp_path / "programs" / name[:2] / name
        data = path.read_bytes()
        path.write_bytes(
            {"cut": data[:-1], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "empty": b"",
             "another's": (tmp_path / "programs" / foreign[:2] / foreign).read_bytes()}[damage]
        )  # fmt: skip
    assert store.recall(NAMES).plans == ()
    assert store.statistics()["refused"] == 2
    assert store.recall(other).plans == (PLANS[1],)
    store.keep(NAMES, PLANS[:1])
    assert store.recall(NAMES).plans == (PLANS[0],)


def test_the_least_recently_used_plan_goes_first(tmp_path):
    size = len(PLANS[0].encoded)
    store = PlanStore(tmp_path, limit_bytes=3 * size + size // 2)
    for age, plan in enumerate(PLANS[:3]):
        store.keep(program_names(f"p{age}", 0), [plan])
        os.utime(plan_file(tmp_path, plan), (1000 + age, 1000 + age))
    assert store.recall(program_names("p0", 0)).plans == (PLANS[0],)
    store.keep(program_names("p3", 0), [PLANS[3]])
    assert store.recall(program_names("p1", 0)).plans == ()
    assert store.recall(program_names("p0", 0)).plans == (PLANS[0],)
    assert store.recall(program_names("p3", 0)).plans == (PLANS[3],)
    assert store.statistics()["evicted"] >= 1


def test_lists_and_programs_are_bounded(tmp_path, monkeypatch):
    store = PlanStore(tmp_path)
    many = [make_plan(seed, 2) for seed in range(100, 100 + MAX_LISTED + 4)]
    store.keep(NAMES, many)
    assert store.recall(NAMES).plans == tuple(reversed(many))[:MAX_LISTED]
    assert MAX_PROGRAMS > 100
    monkeypatch.setattr("rrto_ros.robot.plan_store.MAX_PROGRAMS", 20)
    store = PlanStore(tmp_path)
    for number in range(40):
        store.keep(program_names(f"program{number}", 0), PLANS[:1])
    assert len(files(tmp_path / "programs")) <= 21
    assert store.recall(program_names("program39", 0)).plans == (PLANS[0],)


def test_a_plan_that_sessions_no_longer_walk_is_forgotten(tmp_path):
    store = PlanStore(tmp_path)
    store.keep(NAMES, PLANS[:2])
    for _ in range(MAX_UNUSED):
        memory = PlanMemory(store, NAMES)
        assert PLANS[1] in memory.recall().plans
        memory.keep([PLANS[0]], apart=False)
        memory.close()
    assert store.recall(NAMES).plans == (PLANS[0],)
    for _ in range(MAX_UNUSED):
        # It matched nothing (it was only asked for its help, for example): that says nothing.
        idle = PlanMemory(store, NAMES)
        idle.recall()
        idle.close()
    assert store.recall(NAMES).plans == (PLANS[0],)


def test_processes_share_a_directory(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]\n"
        "import test_robot_plan_store as t\n"
        "store = t.PlanStore(Path(sys.argv[1]), 40_000)\n"
        "for n in range(30):\n"
        "    plan = t.make_plan(1 + (n * 7 + int(sys.argv[3])) % 50)\n"
        "    store.keep(t.NAMES, [plan])\n"
        "    assert store.recall(t.NAMES).plans\n"
        "assert not store.statistics()['failed'], store.statistics()\n"
    )
    here = str(Path(__file__).parent)
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), here, str(number)])
        for number in range(3)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    store = PlanStore(tmp_path, 40_000)
    assert store.statistics()["bytes"] <= 40_000
    assert store.recall(NAMES).plans
    assert store.statistics()["refused"] == 0
    assert not list(tmp_path.rglob(".new-*"))


def test_a_folder_that_goes_away_is_counted_and_one_that_cannot_be_made_refused(tmp_path):
    store = PlanStore(tmp_path / "plans")
    for path in sorted((tmp_path / "plans").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "plans").rmdir()
    store.keep(NAMES, PLANS[:1])
    assert store.recall(NAMES).plans == ()
    assert store.statistics()["failed"] >= 1
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="plan directory"):
        PlanStore(tmp_path / "file" / "plans")


def test_nobody_else_can_read_what_is_kept(tmp_path):
    PlanStore(tmp_path / "plans").keep(NAMES, PLANS[:1])
    assert (tmp_path / "plans").stat().st_mode & 0o077 == 0


def test_plans_differ_so_the_tests_above_mean_something():
    assert len({plan.digest for plan in PLANS}) == len(PLANS)
    assert dataclasses.replace(PLANS[0]).digest == PLANS[0].digest
