"""Faults in one process without ROS: real programs, shims, recorders, servers and workers.

Thousands an hour, because nothing waits for discovery: messages are lost, doubled, mixed up, cut
off; servers die and stand still, workers and programs are killed and frozen, sessions are ordered
to move, the disk of the kept files is full, a worker has no memory, the clock jumps. What a fault
may do to a program is written beside it (`excuse`); everything else is wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
import queue
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from faults_report import WARM, Before, Outcome, Progress, resident_mib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from support.bad_air import BadLane, Weather  # noqa: E402
from support.faulty_world import BreakableRobot, BreakableServer, FaultyWorld  # noqa: E402

from rrto_ros.api.choices import PARTITION_ALGORITHMS  # noqa: E402
from rrto_ros.bringup.environment import interposed_environment  # noqa: E402
from rrto_ros.edge.host import HostLimits  # noqa: E402
from rrto_ros.heap import give_back  # noqa: E402
from rrto_ros.robot.replay.replayer import ReplayOptions  # noqa: E402
from rrto_ros.robot.state import journal  # noqa: E402
from rrto_ros.robot.status import SessionConfig  # noqa: E402

PROGRAMS = ROOT / "test" / "support" / "programs"
SETTINGS = (
    ("batched", "off"), ("replay", "off"), ("replay", "reads"), ("replay", "auto"),
    *(("partition", algorithm) for algorithm in PARTITION_ALGORITHMS),
)  # fmt: skip
"""Mode, and run_ahead or partition_algorithm; each program has one of them."""
PATIENCE_S = 300.0
"""Of a program, whatever happens to it."""
OUTAGE_S = 60.0
WAIT_MS = "90000"
"""A program's patience with its recorder, which may wait for a server for `OUTAGE_S`."""
BUSY_S = 15.0
"""A program that is told of an error has so much time to end, beside the stated one."""
NEAR_S = 20.0
"""A cut that is shorter than the stated time by more than this excuses nothing."""
ANEW_S = 5.0
"""After a cut a session is not open again at once: one that begins so soon makes it longer."""
SHORT_CUT_S, LONG_CUTS = 2.0, 0.05
"""Most cuts last no longer; this part of them may be as long as the campaign allows."""
AT_ONCE = 24
"""Faults that last at the same time."""
CHECKPOINTS_S = 0.5
WRONG_BYTE = 3
"""Exit code of a program that found one."""
_HERE = "recorders and servers (one process)"
_M_ARENA_MAX = -8
REPORT_S = 10.0
DISK = "size=6m,mode=0700"


@dataclasses.dataclass
class Run:
    """One program of one robot.

    Attributes:
        process: The program.
        excuses: Why it may end with an error, and since when.
    """

    process: subprocess.Popen[str]
    excuses: dict[str, float] = dataclasses.field(default_factory=dict)


class Robot:
    """A robot of the world, and the programs that it runs one after the other.

    Args:
        robot: It.
        rng: Chooses the programs.
        seen: What they came to.
    """

    def __init__(self, robot: BreakableRobot, rng: random.Random, seen: Outcome) -> None:
        self.robot = robot
        self.run: Run | None = None
        self._rng, self._seen = rng, seen
        self._lock = threading.Lock()
        self._cut_since = self._cut_until = 0.0

    def excuse(self, reason: str, session: bytes | None = None, later_s: float = 0.0) -> None:
        """The program that runs now (with this session) may end with an error, from then on."""
        with self._lock:
            mine = session is None or self.robot.has(session)
            if self.run is not None and mine:
                self.run.excuses[reason] = time.monotonic() + later_s

    def cut_for(self, seconds: float, heard_s: float = 0.0) -> None:
        """Nothing arrives from now on for so long; cuts that follow each other are one.

        Args:
            seconds: So long.
            heard_s: The server is heard for so long all the same.
        """
        now = time.monotonic()
        with self._lock:
            if now > self._cut_until + ANEW_S:
                self._cut_since = now
            self._cut_until = max(self._cut_until, now + seconds)
            long = self._cut_until - self._cut_since > OUTAGE_S - NEAR_S
        if long:
            self.excuse("network cut for longer than outage_timeout_s", later_s=heard_s)

    def work(self, over: threading.Event) -> None:
        """Run programs until the campaign is over."""
        while not over.is_set():
            self._one()

    def _one(self) -> None:
        mode, how = self._rng.choice(SETTINGS)
        host = self.robot.host
        config = host._config
        run_ahead = "off" if mode == "partition" else how
        if mode == "partition":
            self.robot.algorithm = how
        replay = dataclasses.replace(config.replay, run_ahead=run_ahead)
        host.reconfigure(dataclasses.replace(config, mode=mode, replay=replay))
        script, *arguments = program(self._rng)
        env = interposed_environment({"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, "r")
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / script), *arguments],
            env={**env, "RRTO_SOCKET": str(host.path), "OPENBLAS_NUM_THREADS": "1",
                 "RRTO_CONNECT_TIMEOUT_MS": WAIT_MS},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        run = Run(process)
        with self._lock:
            self.run = run
        if time.monotonic() < self._cut_until:
            self.cut_for(0.0)
        name = f"{script} {' '.join(arguments)} ({mode}, {how})"
        try:
            _, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            errors = f"not over within {PATIENCE_S:g} s\n{errors}"
        ended = time.monotonic()
        with self._lock:
            self.run = None
        # The session ends a moment after its program; one that was killed early has none.
        report = None
        with contextlib.suppress(queue.Empty):
            report = self.robot.reports.get(timeout=REPORT_S)
        self._judge(name, run, errors, ended, report.error if report else "")
        with self._seen.lock:
            self._seen.resumed += report.resumed if report else 0

    def _judge(self, name: str, run: Run, errors: str, ended: float, error: str) -> None:
        code, seen = run.process.returncode, self._seen
        with seen.lock:
            if code == 0:
                seen.programs += 1
                return
            # The latest is the likeliest.
            in_time = sorted(
                (since, reason)
                for reason, since in run.excuses.items()
                if ended - since <= OUTAGE_S + BUSY_S
            )
            if code == WRONG_BYTE or "not over within" in errors or not in_time:
                seen.fails(
                    f"{name}: {code}, session {error!r}, excuses "
                    f"{ {k: round(ended - v, 1) for k, v in run.excuses.items()} }\n"
                    f"{errors[-1200:]}"
                )
                return
            since, reason = in_time[-1]
            seen.excused[reason] += 1
            seen.told_s.append(max(ended - since, 0.0))


def program(rng: random.Random) -> list[str]:
    """One that checks itself, with arguments."""
    seed, count = str(rng.randrange(1 << 30)), str(rng.randint(40, 600))
    return rng.choice((
        ["strangers.py", "--seed", seed, "--inferences", count],
        ["host_memory.py", "--seed", seed, "--inferences", count],
        ["tracker.py", count],
        ["tracker.py", count, "--graph", "--churn"],
    ))  # fmt: skip


class Clock:
    """The wall clock of this process, which can jump."""

    def __init__(self) -> None:
        self._true, self._ahead_s = time.time, 0.0
        time.time = lambda: self._true() + self._ahead_s

    def close(self) -> None:
        time.time = self._true

    def jump(self, seconds: float) -> None:
        self._ahead_s = seconds


class Disk:
    """Where the servers keep files: small, and full from time to time.

    Where this process may not mount a file system, it is an ordinary folder that is never full.

    Args:
        folder: Its place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)]
        self.small = not subprocess.run(command, capture_output=True, check=False).returncode
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No byte more can be written."""
        with self._lock:
            path = self.folder / "filler"
            with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        if self.small:
            subprocess.run(["umount", str(self.folder)], capture_output=True, check=False)


class Campaign:
    """Faults that strike a world while programs run in it.

    Args:
        world: It.
        robots: Its robots with their programs.
        disk: Of its servers.
        clock: Of this process.
        seed: Of what strikes when.
        longest_cut_s: Of a network cut.
    """

    def __init__(
        self,
        world: FaultyWorld,
        robots: list[Robot],
        disk: Disk,
        clock: Clock,
        seed: int,
        longest_cut_s: float,
    ) -> None:
        self._world, self._robots, self._disk, self._clock = world, robots, disk, clock
        self._rng, self._longest_cut_s = random.Random(f"faults {seed}"), longest_cut_s
        # Each costs a start of a worker for every session there: as rare as sessions are many.
        share = 1 / len(robots)
        self.faults: dict[str, tuple[float, Callable[[random.Random], None]]] = {
            "messages lost (0 to 10 %)": (4, self._loses),
            "messages doubled": (3, self._doubles),
            "messages out of order": (3, self._mixes),
            "all of these at once": (2, self._storms),
            "network cut": (3, self._cuts),
            "network cut one way": (2, self._cuts_one_way),
            "server killed": (share, self._kills_server),
            "server frozen": (2 * share, self._freezes_server),
            "worker frozen": (2, self._freezes_worker),
            "worker killed": (0.2, self._kills_worker),
            "worker without memory": (0.2, self._starves_worker),
            "program killed": (0.2, self._kills_program),
            "program frozen": (1, self._freezes_program),
            "session moved": (0.5, self._moves),
            "clock jumps by an hour": (1, self._jumps),
        }
        if disk.small:
            self.faults["disk full"] = (1, self._fills)

    def next(self) -> tuple[str, Callable[[], None]]:
        """A fault's name, and what does it and takes as long as it lasts."""
        names = list(self.faults)
        (name,) = self._rng.choices(names, [self.faults[one][0] for one in names])
        rng = random.Random(self._rng.random())
        return name, lambda: self.faults[name][1](rng)

    def _robot(self, rng: random.Random) -> Robot:
        return rng.choice(self._robots)

    def _under(self, rng: random.Random, weather: Weather, seconds: float) -> None:
        lanes: tuple[BadLane, BadLane] = self._robot(rng).robot.lanes
        with lanes[0].under(weather), lanes[1].under(weather):
            time.sleep(seconds)

    def _loses(self, rng: random.Random) -> None:
        self._under(rng, Weather(loss=rng.uniform(0, 0.1)), rng.uniform(0.1, 2))

    def _doubles(self, rng: random.Random) -> None:
        self._under(rng, Weather(double=rng.uniform(0, 0.5)), rng.uniform(0.1, 2))

    def _mixes(self, rng: random.Random) -> None:
        weather = Weather(swap=rng.uniform(0, 0.5), late_s=rng.choice((0.002, 0.02, 0.2)))
        self._under(rng, weather, rng.uniform(0.1, 2))

    def _storms(self, rng: random.Random) -> None:
        self._under(rng, Weather(False, 0.1, 0.2, 0.3), rng.uniform(0.1, 2))

    def _cut_s(self, rng: random.Random) -> float:
        longest_s = self._longest_cut_s if rng.random() < LONG_CUTS else SHORT_CUT_S
        return _lasts_s(rng, longest_s)

    def _cuts(self, rng: random.Random) -> None:
        robot, seconds = self._robot(rng), self._cut_s(rng)
        robot.cut_for(seconds)
        up, down = robot.robot.lanes
        with up.under(Weather(cut=True)), down.under(Weather(cut=True)):
            time.sleep(seconds)

    def _cuts_one_way(self, rng: random.Random) -> None:
        robot, seconds = self._robot(rng), self._cut_s(rng)
        # A server that hears nothing speaks on until it closes the session.
        robot.cut_for(seconds, HostLimits().timeout_s)
        with rng.choice(robot.robot.lanes).under(Weather(cut=True)):
            time.sleep(seconds)

    def _server(self, rng: random.Random) -> BreakableServer:
        return rng.choice(self._world.servers)

    def _kills_server(self, rng: random.Random) -> None:
        server = self._server(rng)
        server.die()
        time.sleep(rng.choice((0.0, rng.uniform(0, 3))))
        server.rise()

    def _freezes_server(self, rng: random.Random) -> None:
        with self._server(rng).frozen():
            time.sleep(_lasts_s(rng, 3))

    def _worker(self, rng: random.Random) -> tuple[int, bytes] | None:
        found = [one for server in self._world.servers for one in server.workers()]
        return rng.choice(found) if found else None

    def _excuse(self, reason: str, session: bytes) -> None:
        for robot in self._robots:
            robot.excuse(reason, session)

    def _freezes_worker(self, rng: random.Random) -> None:
        if found := self._worker(rng):
            _freeze(found[0], _lasts_s(rng, 2))

    def _kills_worker(self, rng: random.Random) -> None:
        if found := self._worker(rng):
            self._excuse("worker killed", found[1])
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)

    def _starves_worker(self, rng: random.Random) -> None:
        if not (found := self._worker(rng)):
            return
        pid, session = found
        self._excuse("worker without memory", session)
        with contextlib.suppress(ProcessLookupError, PermissionError, OSError):
            before = resource.prlimit(pid, resource.RLIMIT_AS)
            used = Path(f"/proc/{pid}/statm").read_text().split()[0]
            least = int(used) * resource.getpagesize() + rng.choice((0, 1 << 16, 1 << 20))
            resource.prlimit(pid, resource.RLIMIT_AS, (least, before[1]))
            time.sleep(rng.uniform(0.1, 2))
            resource.prlimit(pid, resource.RLIMIT_AS, before)

    def _program(self, rng: random.Random) -> tuple[Robot, Run] | None:
        robot = self._robot(rng)
        run = robot.run
        return (robot, run) if run is not None and run.process.poll() is None else None

    def _kills_program(self, rng: random.Random) -> None:
        if found := self._program(rng):
            found[1].excuses["program killed"] = time.monotonic()
            found[1].process.kill()

    def _freezes_program(self, rng: random.Random) -> None:
        if found := self._program(rng):
            _freeze(found[1].process.pid, _lasts_s(rng, 2))

    def _moves(self, rng: random.Random) -> None:
        for session in self._robot(rng).robot.host.sessions:
            here = session.server
            session.move(lambda server, here=here: server != here, "a campaign of faults")

    def _jumps(self, rng: random.Random) -> None:
        self._clock.jump(rng.choice((-3600.0, 3600.0)))
        time.sleep(rng.uniform(0.1, 2))
        self._clock.jump(0.0)

    def _fills(self, rng: random.Random) -> None:
        with self._disk.full():
            time.sleep(rng.uniform(0.2, 3))


def _lasts_s(rng: random.Random, longest_s: float) -> float:
    """From 0.1 s on; each length is as likely as its double, so most are short."""
    return float(0.1 * (longest_s / 0.1) ** rng.random())


def _freeze(pid: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


def campaign(
    count: int, robots: int, seed: int, per_second: float, longest_cut_s: float, servers: int = 2
) -> Outcome:
    """Strike `count` times; what was seen. Ctrl-C ends it early, in order.

    Args:
        count: Of faults.
        robots: Programs at once.
        seed: Of everything that is chosen.
        per_second: Faults, as far as the machine keeps up.
        longest_cut_s: Of a network cut.
        servers: How many there are.
    """
    seen, over, started = Outcome(), threading.Event(), time.monotonic()
    with contextlib.suppress(AttributeError):
        # As nodes have it (`bringup.environment`): threads' own heaps look like a leak.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    period_s, journal.PERIOD_S = journal.PERIOD_S, CHECKPOINTS_S
    with tempfile.TemporaryDirectory(prefix="rrto-") as made, closing(Clock()) as clock:
        folder = Path(made)
        disk = Disk(folder / "disk")
        before = Before.now()

        def config(user: Callable[[], object]) -> SessionConfig:
            return SessionConfig(
                replay=ReplayOptions(), outage_timeout_s=OUTAGE_S, connect_timeout_s=OUTAGE_S,
                credentials=user, plan_cache_bytes=1 << 20,
                plan_cache_directory=disk.folder / "plans",
            )  # fmt: skip

        world = FaultyWorld(folder, robots, servers, seed, config, disk.folder)
        crew = [
            Robot(robot, random.Random(f"{seed} {number}"), seen)
            for number, robot in enumerate(world.robots)
        ]
        try:
            _strike(count, Campaign(world, crew, disk, clock, seed, longest_cut_s), crew,
                    seen, over, per_second, world)  # fmt: skip
            _settle(world, seen)
            seen.outages_s = world.outages_s
        finally:
            world.close()
            journal.PERIOD_S = period_s
            disk.close()
        seen.left += before.left([folder])
    seen.seconds = time.monotonic() - started
    return seen


def _strike(
    count: int,
    faults: Campaign,
    crew: list[Robot],
    seen: Outcome,
    over: threading.Event,
    per_second: float,
    world: FaultyWorld,
) -> None:
    rng = random.Random(count)
    workers = [threading.Thread(target=robot.work, args=(over,)) for robot in crew]
    for worker in workers:
        worker.start()
    progress, first = Progress(count, seen), 0.0
    room = threading.Semaphore(AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE, "fault") as pool:
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(1, count + 1):
                room.acquire()
                name, strike = faults.next()
                pool.submit(strike).add_done_callback(lambda done: _done(done, room, seen))
                seen.faults[name] += 1
                progress.step()
                time.sleep(rng.expovariate(per_second))
                if number == max(count // 10, WARM):
                    first = resident_mib(os.getpid())
                if number % 500 == 0:
                    world.forget()
        over.set()
    for worker in workers:
        worker.join()
    gc.collect()
    give_back()
    seen.resident_mib["recorders and servers (one process)"] = (
        first or resident_mib(os.getpid()), resident_mib(os.getpid()),
    )  # fmt: skip


def _done(done: object, room: threading.Semaphore, seen: Outcome) -> None:
    room.release()
    error = done.exception()  # type: ignore[attr-defined]
    if error is not None:
        seen.fails(f"a fault failed: {type(error).__name__}: {error}")


def _settle(world: FaultyWorld, seen: Outcome) -> None:
    """All programs have ended: so do all sessions, within the time that servers wait for one."""
    end = time.monotonic() + 25
    while time.monotonic() < end and any(server.workers() for server in world.servers):
        time.sleep(0.1)
    for server in world.servers:
        seen.left += [f"session {session.hex()[:8]}" for _, session in server.workers()]
    for robot in world.robots:
        seen.left += [f"session {one.id.hex()[:8]} of a robot" for one in robot.host.sessions]
        here = robot.places.statistics()
        seen.left += [f"{here['sessions']} sessions on a robot's device"] * bool(here["sessions"])
    gc.collect()
    give_back()
    last = resident_mib(os.getpid())
    seen.resident_mib[_HERE] = seen.resident_mib[_HERE][0] or last, last
