"""Faults at random moments: nodes are killed and frozen while programs check every byte they get.

    bench/faults.py 1000                     # about three hours
    bench/faults.py 100 --robots 4 --mode batched --seed 7 --json faults.json

Programs run one after the other on each of `--robots` at once; each is one of those of the tests
that compare every result with NumPy. Meanwhile a fault strikes every second or so. A server that
was killed is started again. What must hold: no program ends with another code than 0, sessions are
resumed, nothing is left of any program, and the nodes' memory does not grow. Exits with 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from stack import Stack  # noqa: E402

PROGRAMS = HERE.parent / "test" / "support" / "programs"
SERVER, RECORDER = "offload_server", "recorder_replayer"
CALM_S = (0.2, 2.0)
"""Between two faults."""
PATIENCE_S = 300.0
"""Of a program, whatever happens to it."""
_RESUMED = re.compile(r"is resumed as \w+ after ([\d.]+) s")


@dataclass
class Outcome:
    """What a campaign saw.

    Attributes:
        faults: Of each kind.
        programs: That ended well.
        wrong: What was said by those that did not.
        resident_mib: Of both nodes, at the start and at the end.
    """

    faults: Counter[str] = field(default_factory=Counter)
    programs: int = 0
    wrong: list[str] = field(default_factory=list)
    resident_mib: dict[str, tuple[float, float]] = field(default_factory=dict)


def commands(rng: random.Random) -> list[str]:
    """A program that checks itself, and its arguments."""
    seed, count = str(rng.randrange(1 << 30)), str(rng.randint(200, 2000))
    return rng.choice((
        ["strangers.py", "--seed", seed, "--inferences", count],
        ["host_memory.py", "--seed", seed, "--inferences", count],
        ["tracker.py", count],
        ["tracker.py", count, "--graph", "--churn"],
    ))  # fmt: skip


def resident_mib(pid: int) -> float:
    """Memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def kill_server(stack: Stack, rng: random.Random) -> None:
    """The server and its workers are gone at once; a new one comes within two seconds."""
    stack.signal(SERVER, signal.SIGKILL)
    time.sleep(rng.choice((0.0, rng.uniform(0, 2))))
    stack.start_again(SERVER)


def freeze(node: str, longest_s: float) -> Callable[[Stack, random.Random], None]:
    """A node does nothing for a while."""

    def strike(stack: Stack, rng: random.Random) -> None:
        stack.signal(node, signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(0.1, longest_s))
        finally:
            stack.signal(node, signal.SIGCONT)

    return strike


FAULTS: dict[str, Callable[[Stack, random.Random], None]] = {
    "server killed": kill_server,
    "server frozen": freeze(SERVER, 8.0),
    # A program gives up a recorder of which nothing is heard for 6 s.
    "recorder frozen": freeze(RECORDER, 4.0),
}


def run_programs(stack: Stack, rng: random.Random, over: threading.Event, seen: Outcome) -> None:
    """One robot: a program after the other, until the campaign is over."""
    while not over.is_set():
        script, *arguments = commands(rng)
        command, env = stack.command([sys.executable, str(PROGRAMS / script), *arguments])
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired:
            seen.wrong.append(f"{script} {arguments}: not over within {PATIENCE_S:g} s")
            continue
        if done.returncode:
            seen.wrong.append(f"{script} {arguments}: {done.returncode}\n{done.stderr[-1500:]}")
        else:
            seen.programs += 1


def campaign(stack: Stack, count: int, robots: int, seed: int) -> Outcome:
    """Strike `count` times; what was seen. Ctrl-C ends it early."""
    rng, seen, over = random.Random(seed), Outcome(), threading.Event()
    before = {node: resident_mib(stack.pid(node)) for node in (SERVER, RECORDER)}
    threads = [
        threading.Thread(
            target=run_programs, args=(stack, random.Random(f"{seed} {number}"), over, seen)
        )
        for number in range(robots)
    ]
    for thread in threads:
        thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(1, count + 1):
            time.sleep(rng.uniform(*CALM_S))
            name = rng.choice(tuple(FAULTS))
            FAULTS[name](stack, rng)
            seen.faults[name] += 1
            if sys.stderr.isatty() or not number % 50:
                end = "\r" if sys.stderr.isatty() else "\n"
                sys.stderr.write(f"{number} of {count} faults, {len(seen.wrong)} wrong{end}")
    over.set()
    for thread in threads:
        thread.join()
    for node, first in before.items():
        seen.resident_mib[node] = first, resident_mib(stack.pid(node))
    return seen


def left_over(stack: Stack) -> list[str]:
    """Workers of sessions that have ended (spare ones belong to the server)."""
    found = []
    server = stack.pid(SERVER)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            mine = f"RRTO_SOCKET={stack.robot}" in (folder / "environ").read_text()
            if "rrto_ros.execution.worker" in words and parent != server and mine:
                found.append(f"worker {folder.name}, child of {parent}")
    return found


def main() -> int:
    """Run the campaign and print what it saw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", type=int, nargs="?", default=20, help="(%(default)s)")
    parser.add_argument("--robots", type=int, default=2, help="programs at once (%(default)s)")
    parser.add_argument("--mode", default="replay", help="rpc, batched or replay (%(default)s)")
    parser.add_argument("--run-ahead", default="auto", help="off, reads or auto (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    chosen = parser.parse_args()
    if chosen.faults < 1 or chosen.robots < 1:
        parser.error("faults and --robots are 1 or more")
    parameters = {
        RECORDER: {"run_ahead": chosen.run_ahead, "outage_timeout_s": 60.0},
        SERVER: {"max_sessions": 4 * chosen.robots},
    }
    stack = Stack("cpu", chosen.mode, parameters=parameters)
    try:
        seen = campaign(stack, chosen.faults, chosen.robots, chosen.seed)
        outages = [float(found[1]) for line in stack.lines(RECORDER)
                   if (found := _RESUMED.search(line))]  # fmt: skip
        rest = left_over(stack)
        log = stack.log(60)
    finally:
        stack.close()
    figures = {
        "faults": dict(seen.faults), "programs": seen.programs, "wrong": len(seen.wrong),
        "resumed": len(outages), "left": len(rest),
        "outage_s": {"median": statistics.median(outages), "longest": max(outages)}
        if outages else {},
        "resident_mib": seen.resident_mib,
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    for text in (*seen.wrong, *rest):
        print(text, file=sys.stderr)
    if seen.wrong:
        print(log, file=sys.stderr)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + os.linesep)
    return 1 if seen.wrong or rest else 0


if __name__ == "__main__":
    raise SystemExit(main())
