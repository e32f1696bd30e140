"""Faults of real nodes over DDS: processes are killed and frozen, the network between them fails.

Recorder and server run on two emulated machines where this process may make them (root); else on
this one, and the network is left alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_here import BUSY_S, PATIENCE_S, PROGRAMS, WAIT_MS, WRONG_BYTE, Disk, program
from faults_report import WARM, Before, Outcome, Progress, children, resident_mib
from stack import Stack

from rrto_ros.errors import RrtoError
from rrto_ros.evaluation.link_emulator import LinkEmulator, joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.netns import Machines

from support.jumping_clock import JumpingClock  # isort: skip  # faults_here finds it

SERVER, RECORDER = "offload_server", "recorder_replayer"
CALM_S = (0.2, 2.0)
"""Between two faults."""
OUTAGE_S = 60.0
_RESUMED = re.compile(r"resumed as \w+ after ([\d.]+) s")
_WORKER = "rrto_ros.execution.worker"


@dataclass
class Nodes:
    """What faults can reach.

    Attributes:
        stack: The two nodes.
        link: Between them; None where they are on one machine.
        disk: Where the server keeps files.
        clock: Of both nodes and of programs.
        excused: Since when programs that run now may end with an error, by the reason.
    """

    stack: Stack
    link: LinkEmulator | None
    disk: Disk
    clock: JumpingClock
    excused: dict[str, float] = field(default_factory=dict)

    def workers(self) -> list[int]:
        """Processes of the server that execute, or wait for a session."""
        try:
            server = self.stack.pid(SERVER)
        except ValueError:
            return []
        return [pid for pid in children(server) if _runs(pid, _WORKER)]


def _runs(pid: int, module: str) -> bool:
    with contextlib.suppress(OSError):
        return module in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return False


Strike = Callable[[Nodes, random.Random], None]


def kill_server(nodes: Nodes, rng: random.Random) -> None:
    """The server and its workers are gone at once; a new one comes within two seconds."""
    nodes.stack.signal(SERVER, signal.SIGKILL)
    time.sleep(rng.choice((0.0, rng.uniform(0, 2))))
    nodes.stack.start_again(SERVER)


def freeze(node: str, longest_s: float) -> Strike:
    """A node does nothing for a while."""

    def strike(nodes: Nodes, rng: random.Random) -> None:
        _stop(nodes.stack.pid(node), rng.uniform(0.1, longest_s))

    return strike


def freeze_worker(nodes: Nodes, rng: random.Random) -> None:
    """A worker does nothing for a while."""
    if workers := nodes.workers():
        _stop(rng.choice(workers), rng.uniform(0.1, 4))


def kill_worker(nodes: Nodes, rng: random.Random) -> None:
    """Its session ends with an error, because the call may be what killed it."""
    if workers := nodes.workers():
        nodes.excused["worker killed"] = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)


def cut(longest_s: float) -> Strike:
    """Nothing arrives for a while."""

    def strike(nodes: Nodes, rng: random.Random) -> None:
        seconds = 0.1 * (longest_s / 0.1) ** rng.random()
        if seconds > OUTAGE_S - BUSY_S:
            nodes.excused["network cut for longer than outage_timeout_s"] = time.monotonic()
        _link(nodes, LinkSettings(loss=1.0), seconds)

    return strike


def lose(nodes: Nodes, rng: random.Random) -> None:
    """Packets are lost."""
    _link(nodes, LinkSettings(loss=rng.uniform(0, 0.1)), rng.uniform(0.5, 6))


def delay(nodes: Nodes, rng: random.Random) -> None:
    """Packets take long, each another time."""
    ms = rng.uniform(1, 100)
    _link(nodes, LinkSettings(delay_ms=ms, jitter_ms=ms), rng.uniform(0.5, 6))


def fill_disk(nodes: Nodes, rng: random.Random) -> None:
    """The server cannot keep uploads and kernels."""
    with nodes.disk.full():
        time.sleep(rng.uniform(0.2, 4))


def jump(nodes: Nodes, rng: random.Random) -> None:
    """The wall clock of nodes and programs is wrong by an hour for a while."""
    nodes.clock.jump(rng.choice((-3600.0, 3600.0)))
    time.sleep(rng.uniform(0.2, 2))
    nodes.clock.jump(0.0)


def faults_of(nodes: Nodes, longest_cut_s: float) -> dict[str, Strike]:
    """What can strike here."""
    found: dict[str, Strike] = {
        "server killed": kill_server,
        "server frozen": freeze(SERVER, 8.0),
        # A program gives up a recorder of which nothing is heard for 6 s.
        "recorder frozen": freeze(RECORDER, 4.0),
        "worker frozen": freeze_worker,
        "worker killed": kill_worker,
        "clock jumps by an hour": jump,
    }
    if nodes.disk.small:
        found["disk full"] = fill_disk
    if nodes.link is not None:
        found["network cut"] = cut(longest_cut_s)
        found["packets lost (0 to 10 %)"] = lose
        found["packets late"] = delay
    return found


def _stop(pid: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


def _link(nodes: Nodes, settings: LinkSettings, seconds: float) -> None:
    assert nodes.link is not None
    nodes.link.set(settings, settings)
    try:
        time.sleep(seconds)
    finally:
        nodes.link.set(LinkSettings(), LinkSettings())


def run_programs(nodes: Nodes, rng: random.Random, over: threading.Event, seen: Outcome) -> None:
    """One robot: a program after the other, until the campaign is over."""
    while not over.is_set():
        script, *arguments = program(rng)
        line = [sys.executable, str(PROGRAMS / script), *arguments]
        command, env = nodes.stack.command(line, RRTO_CONNECT_TIMEOUT_MS=WAIT_MS)
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            errors = f"not over within {PATIENCE_S:g} s\n{process.communicate()[1]}"
        _judge(f"{script} {arguments}", process.returncode, errors, started, nodes, seen)


def _judge(name: str, code: int, errors: str, started: float, nodes: Nodes, seen: Outcome) -> None:
    ended = time.monotonic()
    reasons = [
        (reason, ended - since)
        for reason, since in nodes.excused.items()
        if since >= started and ended - since <= OUTAGE_S + BUSY_S
    ]
    with seen.lock:
        if code == 0:
            seen.programs += 1
        elif code == WRONG_BYTE or "not over within" in errors or not reasons:
            seen.fails(f"{name}: {code}, excuses {reasons}\n{errors[-1500:]}")
        else:
            seen.excused[reasons[-1][0]] += 1
            seen.told_s.append(reasons[-1][1])


@contextlib.contextmanager
def _machines() -> Iterator[tuple[Machines | None, LinkEmulator | None]]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(joined_by_link(LinkSettings()))
        except RrtoError as error:
            sys.stderr.write(f"both nodes run on this machine: {error}\n")
            yield None, None
        else:
            yield made, made.link


def campaign(
    count: int, robots: int, seed: int, mode: str, run_ahead: str, longest_cut_s: float
) -> Outcome:
    """Strike `count` times; what was seen. Ctrl-C ends it early, in order.

    Args:
        count: Of faults.
        robots: Programs at once.
        seed: Of everything that is chosen.
        mode: Of the recorder.
        run_ahead: Of the recorder.
        longest_cut_s: Of a network cut.
    """
    seen, started = Outcome(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rrto-") as made:
        before = Before.now()
        folder = Path(made)
        with (
            contextlib.closing(Disk(folder / "disk")) as disk,
            _machines() as (machines, link),
        ):
            clock = JumpingClock(folder)
            parameters: dict[str, dict[str, Any]] = {
                RECORDER: {"run_ahead": run_ahead, "outage_timeout_s": OUTAGE_S,
                           "connect_timeout_s": OUTAGE_S},
                SERVER: {"max_sessions": 4 * robots, "max_sessions_per_robot": 4 * robots,
                         "spare_workers": 1,
                         "blob_directory": str(disk.folder / "blobs")},
            }  # fmt: skip
            # Both nodes and the programs get them, now and whenever they are started again.
            kept = dict(os.environ)
            os.environ.update(clock.variables)
            try:
                stack = Stack("cpu", mode, machines, parameters)
            finally:
                os.environ.clear()
                os.environ.update(kept)
            try:
                nodes = Nodes(stack, link, disk, clock)
                _strike(count, nodes, faults_of(nodes, longest_cut_s), robots, seed, seen)
                seen.left += _workers_left(nodes)
                if seen.wrong or seen.left:
                    sys.stderr.write(stack.log(60) + "\n")
            finally:
                stack.close()
        seen.left += before.left([folder])
    seen.seconds = time.monotonic() - started
    return seen


def _strike(
    count: int, nodes: Nodes, faults: dict[str, Strike], robots: int, seed: int, seen: Outcome
) -> None:
    rng, over, first = random.Random(seed), threading.Event(), 0.0
    stack = nodes.stack
    threads = [
        threading.Thread(
            target=run_programs, args=(nodes, random.Random(f"{seed} {number}"), over, seen)
        )
        for number in range(robots)
    ]
    for thread in threads:
        thread.start()
    progress = Progress(count, seen)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(1, count + 1):
                time.sleep(rng.uniform(*CALM_S))
                name = rng.choice(tuple(faults))
                faults[name](nodes, rng)
                seen.faults[name] += 1
                progress.step()
                if number == max(count // 10, WARM):
                    first = resident_mib(stack.pid(RECORDER))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    found = (_RESUMED.search(line) for line in stack.lines(RECORDER))
    seen.outages_s = [float(match[1]) for match in found if match]
    seen.resumed = len(seen.outages_s)
    last = resident_mib(stack.pid(RECORDER))
    seen.resident_mib["the recorder"] = first or last, last


def _workers_left(nodes: Nodes) -> list[str]:
    """Workers of sessions that have ended; one may wait for the next session."""
    end = time.monotonic() + 25
    while len(workers := nodes.workers()) > 1 and time.monotonic() < end:
        time.sleep(0.2)
    return [f"worker {pid}" for pid in workers[1:]]
