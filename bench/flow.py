"""What large copies, and many queued ones, cost in memory and time, with the real nodes.

`copy`: one upload, one download, and one download that the program takes only after it has made no
call for a while (longer than the nodes' timeouts). `many`: copies both ways queued without a wait.
Each process's memory (PSS: shared pages are divided) is watched from the moment at which the
program's own memory, the device's included, is there and touched; the figures are its growth.

    bench/flow.py                                   # 4 GiB and 10,000 copies, about ten minutes
    bench/flow.py --smoke                           # 256 MiB and 500 copies
    bench/flow.py --rate-mbit 200 --mib 512         # over an emulated link; needs root
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE, machine
from stack import Stack, stack

from rrto_ros.evaluation.link_emulator import joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings

PERIOD_S = 0.1
PART = 256 << 10
MIB = 1 << 20


def pss(pid: int) -> int:
    """A process's proportional share of its memory, bytes; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(text.partition("\nPss:")[2].split()[0]) * 1024


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


class Memory:
    """Watches how much the processes of a stack and a program grow; a context manager."""

    def __init__(self, nodes: Stack, program: int) -> None:
        self._pids = {
            "program": [program],
            "recorder": [nodes.pid("recorder_replayer")],
            "server": [nodes.pid("offload_server")],
            "worker": children(nodes.pid("offload_server")),
        }
        self._first = self._now()
        self.growth = dict.fromkeys([*self._pids, "robot", "edge"], 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:  # noqa: PYI034 (Self is newer than Python 3.10)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _now(self) -> dict[str, int]:
        return {name: sum(map(pss, pids)) for name, pids in self._pids.items()}

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            now = self._now()
            grown = {name: now[name] - self._first[name] for name in now}
            grown["robot"] = grown["program"] + grown["recorder"]
            grown["edge"] = grown["server"] + grown["worker"]
            for name, size in grown.items():
                self.growth[name] = max(self.growth[name], size)


def measure(nodes: Stack, what: str, size: int, idle_s: float) -> dict[str, Any]:
    """Run the program once.

    Raises:
        SystemExit: It failed, or a byte was wrong.
    """
    command = [sys.executable, str(HERE / "flow_program.py"), what, str(size), str(idle_s)]
    whole, env = nodes.command(command)
    program = subprocess.Popen(
        whole, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdout.readline()
    with Memory(nodes, program.pid) as memory:
        program.stdin.write("\n")
        program.stdin.flush()
        said = program.stdout.readline()
    if program.wait() or not (found := json.loads(said))["right"]:
        raise SystemExit(f"{what}: status {program.returncode}, {said}\n{nodes.log()}")
    grown = {name: round(size / MIB) for name, size in memory.growth.items()}
    return {"what": what, "mib": size // MIB, **found, "grown_mib": grown}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=4096, help="of the one copy (%(default)s)")
    parser.add_argument("--copies", type=int, default=10_000, help="of 256 KiB (%(default)s)")
    parser.add_argument("--idle-s", type=float, default=12.0, help="without a call (%(default)s)")
    parser.add_argument("--modes", nargs="+", default=["batched", "replay"])
    parser.add_argument("--what", nargs="+", default=["copy", "many"])
    parser.add_argument("--rate-mbit", type=float, default=0.0, help="of a link; 0: none")
    parser.add_argument("--smoke", action="store_true", help="256 MiB, 500 copies, 2 s")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    size, copies, idle_s = options.mib, options.copies, options.idle_s
    if options.smoke:
        size, copies, idle_s = 256, 500, 2.0
    found: list[dict[str, Any]] = []
    limit = {"limit_bytes": (size + 64) * MIB}
    for mode in options.modes:
        with ExitStack() as kept:
            machines = None
            if options.rate_mbit:
                settings = LinkSettings(delay_ms=2, rate_mbit=options.rate_mbit)
                machines = kept.enter_context(joined_by_link(settings))
            parameters = {"offload_server": limit}
            nodes = kept.enter_context(
                stack("cpu", mode, machines=machines, parameters=parameters, discovery="SUBNET")
            )
            for what in options.what:
                amount = size * MIB if what == "copy" else copies * PART
                one = {"mode": mode, **measure(nodes, what, amount, idle_s)}
                found.append(one)
                print(json.dumps(one), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"on": machine(), "found": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
