"""Two machines on one: owns pairs of network namespaces, robot and edge, and what runs in them.

A namespace is held by a tiny process that has its own network, its own host name and its own
/dev/shm (Fast DDS would otherwise share memory between the two "machines"). It ends when its
standard input closes, so the namespaces vanish with this process even when that is killed. Needs
root. Nothing is written to /run/netns; names cannot collide.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rrto_ros.errors import UnavailableError

ROBOT_ADDRESS = "10.77.0.1"
EDGE_ADDRESS = "10.77.0.2"
PREFIX_BITS = 30
_TOOLS = ("ip", "unshare", "nsenter", "mount", "hostname")
_HOLD = (
    'set -e; mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm; hostname "$0"; '
    "ip link set lo up; echo ready; exec cat >/dev/null"
)


def require_namespaces() -> None:
    """Check that network namespaces can be made here.

    Raises:
        UnavailableError: Not root, or a tool is missing; the text says which.
    """
    if os.geteuid() != 0:
        raise UnavailableError("network namespaces need root; run this as root")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(
            f"network namespaces need {', '.join(missing)}; install iproute2 and util-linux"
        )


def _ip(*arguments: str, inside: int | None = None) -> None:
    """Run `ip`, in the network namespace of process `inside` if given.

    Raises:
        UnavailableError: It failed; the text is what it said.
    """
    enter = [] if inside is None else ["nsenter", "-t", str(inside), "-n", "--"]
    command = [*enter, "ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise UnavailableError(f"`{' '.join(command)}` failed: {said}")


class Namespace:
    """One "machine": a network, mount and host name namespace held by a process.

    Args:
        name: Host name inside.

    Attributes:
        pid: Of the holding process, for `nsenter -t`.
    """

    def __init__(self, name: str) -> None:
        require_namespaces()
        self.name = name
        self._running: list[subprocess.Popen[Any]] = []
        self._started = 0
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--propagation", "private",
             "sh", "-c", _HOLD, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._holder.pid
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            assert self._holder.stderr is not None
            said = self._holder.stderr.read().strip()
            self.close()
            raise UnavailableError(f"cannot make network namespace {name!r}: {said}")

    def command(self, arguments: Sequence[str], cwd: Path | str | None = None) -> list[str]:
        """The command line that runs `arguments` inside, in directory `cwd` (default: this one).

        The process that results is the program itself; there is no process in between.
        """
        inside = ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", f"--wd={cwd or Path.cwd()}"]
        return [*inside, "--", *arguments]

    def popen(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program inside, in a process group of its own that `close` ends."""
        process = subprocess.Popen(
            self.command(arguments, cwd), env=env, stdin=stdin, stdout=stdout, stderr=stderr,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append(process)
        self._started += 1
        return process

    def run(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        timeout_s: float = 60.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end and return what it wrote.

        Raises:
            subprocess.TimeoutExpired: It took longer than `timeout_s` and was killed.
            subprocess.CalledProcessError: `check`, and it failed.
        """
        return subprocess.run(
            self.command(arguments, cwd), env=env, capture_output=True, text=True,
            timeout=timeout_s, check=check, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def adopt(self, interface: str, address: str, peer: str, mtu: int | None = None) -> None:
        """Move an interface of this process's namespace inside, give it an address, bring it up.

        Args:
            interface: Name.
            address: IPv4 address of this end.
            peer: IPv4 address of the other end, in the same /30.
            mtu: In bytes; None leaves it.

        Raises:
            UnavailableError: The kernel refused.
        """
        _ip("link", "set", interface, "netns", str(self.pid))
        if mtu is not None:
            _ip("link", "set", interface, "mtu", str(mtu), inside=self.pid)
        _ip("addr", "add", f"{address}/{PREFIX_BITS}", "dev", interface, inside=self.pid)
        _ip("link", "set", interface, "up", "multicast", "on", inside=self.pid)
        _ip("route", "add", "224.0.0.0/4", "dev", interface, inside=self.pid)
        _ip("route", "add", "default", "via", peer, inside=self.pid)

    def statistics(self) -> dict[str, int | str]:
        """Name, holding process, and how many programs were started and still run."""
        return {
            "name": self.name,
            "pid": self.pid,
            "started": self._started,
            "running": sum(process.poll() is None for process in self._running),
        }

    def close(self) -> None:
        """End every program started inside by `popen`, then the namespace itself."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()
        try:
            self._holder.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()


@dataclass(frozen=True)
class Machines:
    """The two ends of a link.

    Attributes:
        robot: Has ROBOT_ADDRESS.
        edge: Has EDGE_ADDRESS.
    """

    robot: Namespace
    edge: Namespace


@contextlib.contextmanager
def two_namespaces() -> Iterator[Machines]:
    """Two namespaces that nothing joins yet.

    Raises:
        UnavailableError: Not root, or the kernel or a tool cannot do it.
    """
    with (
        contextlib.closing(Namespace("robot")) as robot,
        contextlib.closing(Namespace("edge")) as edge,
    ):
        yield Machines(robot, edge)


@contextlib.contextmanager
def joined_by_veth(mtu: int = 1500) -> Iterator[Machines]:
    """Two namespaces joined by a cable (veth): no delay, no loss, several Gbit/s.

    Args:
        mtu: Of both interfaces, in bytes.

    Raises:
        UnavailableError: Not root, or the kernel or a tool cannot do it.
    """
    with two_namespaces() as machines:
        # The names are in the namespace of this process only for a moment.
        ends = (f"rr{os.getpid()}", f"re{os.getpid()}")
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        try:
            machines.robot.adopt(ends[0], ROBOT_ADDRESS, EDGE_ADDRESS, mtu)
            machines.edge.adopt(ends[1], EDGE_ADDRESS, ROBOT_ADDRESS, mtu)
        except UnavailableError:
            with contextlib.suppress(UnavailableError):
                _ip("link", "delete", ends[0])
            raise
        yield machines
