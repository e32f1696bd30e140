"""A robot's radio link between two network namespaces: owns the TUN devices and their forwarder.

Kernels often lack netem; TUN devices and namespaces are everywhere. `joined_by_link` gives the
two machines, each with a TUN interface, and a process between them that delays, loses and
serialises packets (`link_queue`). Needs root and /dev/net/tun.

    python -m rrto_ros.evaluation.link_emulator --delay-ms 10 --rate-mbit 20
        --edge "rrto server" --robot "ping -c 3 10.77.0.2"
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrto_ros.errors import ConfigError, RrtoError, UnavailableError
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.netns import (
    EDGE_ADDRESS,
    ROBOT_ADDRESS,
    Machines,
    require_namespaces,
    two_namespaces,
)

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_ROOT = Path(__file__).resolve().parents[2]


def open_tun(name: str) -> int:
    """Make a TUN device in this process's network namespace; returns its file descriptor.

    Raises:
        UnavailableError: There is no /dev/net/tun or the kernel refused.
    """
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"the link emulator needs {_TUN}: {error.strerror}") from None
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        raise UnavailableError(f"cannot make TUN device {name}: {error.strerror}") from None
    return fd


def require_emulation() -> None:
    """Check that a link can be emulated here.

    Raises:
        UnavailableError: Not root, a tool or /dev/net/tun is missing; the text says which.
    """
    require_namespaces()
    os.close(open_tun(f"tt{os.getpid()}"))


class LinkEmulator:
    """The forwarding process between two TUN devices, seen from the process that started it.

    Args:
        robot: File descriptor of the robot's TUN device.
        edge: That of the edge's.
        up: The link from robot to edge.
        down: The link from edge to robot.
        seed: Of loss and jitter; the same seed and packets give the same losses.
    """

    def __init__(
        self, robot: int, edge: int, up: LinkSettings, down: LinkSettings, seed: int = 0
    ) -> None:
        self.up = up
        self.down = down
        self._lock = threading.Lock()
        arguments = [str(robot), str(edge), str(seed), _json(up), _json(down)]
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rrto_ros.evaluation.link_forwarder", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            pass_fds=(robot, edge), start_new_session=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        self._answer()

    def set(self, up: LinkSettings | None = None, down: LinkSettings | None = None) -> None:
        """Change the link for packets from now on; None leaves a direction as it is.

        Raises:
            UnavailableError: The forwarder has ended.
        """
        self.up = up or self.up
        self.down = down or self.down
        self._ask({"set": {"up": asdict(self.up), "down": asdict(self.down)}})

    def statistics(self) -> dict[str, Any]:
        """The forwarder's counters per direction.

        Raises:
            UnavailableError: The forwarder has ended.
        """
        return self._ask({"statistics": True})

    def close(self) -> None:
        """End the forwarder; packets under way are lost."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
            except OSError:
                raise UnavailableError("the link emulator's forwarder has ended") from None
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnavailableError("the link emulator's forwarder has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ConfigError(str(answer["error"]))
        return answer


def _json(settings: LinkSettings) -> str:
    return json.dumps(asdict(settings))


@dataclass(frozen=True)
class LinkedMachines(Machines):
    """Two machines and the emulated link between them."""

    link: LinkEmulator


@contextlib.contextmanager
def joined_by_link(
    up: LinkSettings, down: LinkSettings | None = None, *, seed: int = 0, mtu: int = 1500
) -> Iterator[LinkedMachines]:
    """Two namespaces joined by an emulated link.

    Args:
        up: From robot to edge.
        down: From edge to robot; None is the same as `up`.
        seed: Of loss and jitter.
        mtu: Of both interfaces, in bytes.

    Raises:
        UnavailableError: Not root, no TUN, or a tool is missing.
    """
    with two_namespaces() as machines, contextlib.ExitStack() as stack:
        names = (f"tr{os.getpid()}", f"te{os.getpid()}")
        fds = []
        for name in names:
            fds.append(open_tun(name))
            stack.callback(os.close, fds[-1])
        machines.robot.adopt(names[0], ROBOT_ADDRESS, EDGE_ADDRESS, mtu)
        machines.edge.adopt(names[1], EDGE_ADDRESS, ROBOT_ADDRESS, mtu)
        link = LinkEmulator(fds[0], fds[1], up, down or up, seed)
        stack.callback(link.close)
        yield LinkedMachines(machines.robot, machines.edge, link)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrto_ros.evaluation.link_emulator",
        description=(
            "Run one command on each side of an emulated robot link (two network namespaces, "
            f"robot {ROBOT_ADDRESS} and edge {EDGE_ADDRESS}). Ends with the robot's command and "
            "its exit status; without one, runs until interrupted. Needs root."
        ),
        epilog="Set ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET for ROS nodes that must find each other.",
    )
    parser.add_argument("--robot", help="command on the robot's side, a shell-quoted string")
    parser.add_argument("--edge", help="command on the edge's side, started first")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one-way delay")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="the delay varies by +- this")
    parser.add_argument("--loss", type=float, default=0.0, help="probability of a loss, 0 to 1")
    parser.add_argument("--rate-mbit", type=float, default=0.0, help="bit rate, 0 is unlimited")
    parser.add_argument("--down-rate-mbit", type=float, help="edge to robot; default as the other")
    parser.add_argument(
        "--queue-bytes", type=int, default=1_500_000, help="waiting, per direction"
    )
    parser.add_argument("--mtu", type=int, default=1500, help="of both interfaces, in bytes")
    parser.add_argument("--seed", type=int, default=0, help="of loss and jitter")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        shared = (options.delay_ms, options.jitter_ms, options.loss)
        up = LinkSettings(*shared, options.rate_mbit, options.queue_bytes)
        rate = options.rate_mbit if options.down_rate_mbit is None else options.down_rate_mbit
        down = LinkSettings(*shared, rate, options.queue_bytes)
        with joined_by_link(up, down, seed=options.seed, mtu=options.mtu) as machines:
            if options.edge:
                machines.edge.popen(shlex.split(options.edge))
            try:
                if options.robot:
                    status = machines.robot.popen(shlex.split(options.robot), stdin=None).wait()
                else:
                    status = _until_interrupted(machines)
            except KeyboardInterrupt:
                status = 130
            print(json.dumps(machines.link.statistics()), file=sys.stderr)
    except RrtoError as error:
        print(f"link emulator: {error}", file=sys.stderr)
        return 2
    return status


def _until_interrupted(machines: LinkedMachines) -> int:
    for side in (machines.robot, machines.edge):
        print(f"{side.name}: {shlex.join(side.command(['bash']))}", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
