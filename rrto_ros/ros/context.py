"""The ROS contexts of data: participants with transports made for large messages.

The nodes with parameters, lifecycle, status and diagnostics use the transports that the user's
other nodes and tools use, else `ros2 param` would not see them. Calls and results need others:
uploads overflow the default transports' buffers and wait for repair (600 KB: 7.7 ms instead of
1.5). A participant has one set of transports, so the data has a participant of its own, in a
context of its own. Both ends of it are ours.

On one machine that is UDP. Robot and edge on two machines meet over TCP. Participants of the two
kinds do not see each other, so the nodes' status says which transports their data has, and a tool
that joins them takes those.

Nodes of ours share no memory with others on their machine, unless the user chooses transports that
do. Fast DDS 3.2.3 locks a port in shared memory between processes: one that is killed there leaves
it locked, and whoever sends to it next stands still, for seconds or for good, while the others
would have to serve on without it. Round trips are no slower over UDP, uploads of 6 MB 15 %.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import rclpy
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from rrto_ros.runtime_files import runtime_folder

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_OPTIONS = "?max_msg_size=65500B&sockets_size=4MB&non_blocking=true"
TOGETHER_TRANSPORTS = "UDPv4" + _OPTIONS
APART_TRANSPORTS = "LARGE_DATA" + _OPTIONS
GRAPH_TRANSPORTS = "UDPv4"
"""Of data participants, on one machine and on two, and of the nodes with parameters; the user's
environment may choose others, which then hold for everything.

Two participants whose sends block wait for each other when both sockets are full: a large upload
to a busy server then stood still until the session was lost. What does not fit is sent again. The
size is Fast DDS's default: of the user's nodes, which send pieces of that size, a participant that
takes less over UDP would hear nothing large.
"""

APART = "RRTO_APART"
"""1: robot and edge are different machines, and meet over TCP. Bring-up of one side sets it."""
_PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_DATA = Path(__file__).resolve().parents[1] / "data"
_SHARED = re.compile(r" (/dev/shm/(?:fastdds|fastrtps)\S+)$", re.MULTILINE)
"""Of Fast DDS 3 (ROS 2 Kilted) and 2 (Jazzy), in the list of a process's mappings."""
STUCK_S = 5.0
"""How long leaving the graph may take (usually some 10 ms)."""
Endpoint: TypeAlias = Publisher | Subscription | Client | Service
_abandoned: list[tuple[Context, Mapping[Node, Sequence[Endpoint]]]] = []
_lock = threading.Lock()


def use_profile() -> None:
    """Let this process's participants announce themselves often; before its first node is made.

    For processes whose readers are those of calls and results. Where RRTO_APART=1 says that the
    other side is on another machine, and so behind TCP, which loses nothing, they also ask late
    for what they miss: large messages over a slow link would else travel twice. Shared memory does
    lose, and then it has to be asked for soon (of 600 KB uploads on one machine every tenth waited
    for seconds). Nothing happens where the user chose profiles, and with transports of the user's
    choice the readers are left alone.
    """
    os.environ.update(_profile())


def find_log_folder() -> None:
    """Let rclpy write its logs where it can; before a process's first context is made.

    It ends a process that has no home, or one that cannot be written. The user's ROS_LOG_DIR is
    left.
    """
    if os.environ.get("ROS_LOG_DIR"):
        return
    try:
        if not os.environ.get("HOME"):
            raise FileNotFoundError("HOME is not set")
        folder = Path(os.environ.get("ROS_HOME") or "~/.ros").expanduser() / "log"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        os.environ["ROS_LOG_DIR"] = str(runtime_folder() / "log")
        print(f"logs go to {os.environ['ROS_LOG_DIR']}: {error}", file=sys.stderr, flush=True)


def make_files_private() -> None:
    """Let only this user read what this process writes; at the start of a node of ours."""
    os.umask(0o077)


def keep_private() -> None:
    """Let only this user read what this process shares with others by Fast DDS's shared memory.

    Calls and results lie there, and Fast DDS makes its files readable by all, whatever the umask.
    It writes into another's file to send, so nobody who could do so before cannot now.
    """
    for name in set(_SHARED.findall(Path("/proc/self/maps").read_text(errors="replace"))):
        path = Path(name)
        # One that is gone, or another user's, whose business it is.
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid():
                path.chmod(0o600)


def _profile() -> dict[str, str]:
    """The variables that name this package's profiles, unless the user has some.

    Fast DDS 3 (ROS 2 Kilted) looks at the first and warns of the second, which is the one that
    2.14 (Jazzy) looks at. For discovery on this machine alone rmw_fastrtps takes transports of its
    own, with shared memory, so it is told that the profile sees to that.
    """
    if any(name in os.environ for name in _PROFILES):
        return {}
    chosen = TRANSPORTS in os.environ
    name = _PROFILES[os.environ.get("ROS_DISTRO") == "jazzy"]
    if _only_here() and not chosen:
        return {name: str(_DATA / "fastdds_local.xml"), RANGE: "SYSTEM_DEFAULT"}
    apart = os.environ.get(APART) == "1" and not chosen
    return {name: str(_DATA / f"fastdds_{'apart' if apart else 'nodes'}.xml")}


def _only_here() -> bool:
    """Whether participants are looked for on this machine alone."""
    peers = os.environ.get("ROS_STATIC_PEERS", "").replace(";", " ").split()
    return os.environ.get(RANGE) == "LOCALHOST" and set(peers) <= {"127.0.0.1", "localhost"}


def own_context(domain: int | None = None) -> Context:
    """A context that no signal ends and no argument of the process changes.

    Args:
        domain: ROS domain number; None: as ROS_DOMAIN_ID says.
    """
    find_log_folder()
    context = Context()
    with _environment(_profile()):  # the range is read here, the profile with the first node
        rclpy.init(
            args=[],
            context=context,
            domain_id=domain,
            signal_handler_options=SignalHandlerOptions.NO,
        )
    return context


def data_transports() -> str:
    """Of this process's data participants, as FASTDDS_BUILTIN_TRANSPORTS has them."""
    chosen = APART_TRANSPORTS if os.environ.get(APART) == "1" else TOGETHER_TRANSPORTS
    return os.environ.get(TRANSPORTS, chosen)


def quiet_node(name: str, context: Context, transports: str = "") -> Node:
    """A node without parameters, services, rosout or remapping, only for data.

    Args:
        name: Node name.
        context: A context in which all nodes are made by this function: the first one makes the
            participant.
        transports: Of the participants to meet, as their status has them; empty: as
            `data_transports`.
    """
    return _node(name, context, {TRANSPORTS: transports or data_transports()})


def tool_node(name: str, context: Context) -> Node:
    """A node as `quiet_node` makes it, on the graph's transports, for a tool that looks on."""
    return _node(name, context, _graph_variables())


def _node(name: str, context: Context, variables: Mapping[str, str]) -> Node:
    with _environment({**_profile(), **variables}):
        return Node(
            name,
            context=context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )


def every(node: Node, period_s: float, call: Callable[[], None]) -> None:
    """Have a node call something again and again, whatever becomes of the wall clock.

    A node's timers follow its clock: set back by an hour, or a simulation that stands still, they
    are silent for as long, and who misses a node's status takes it for gone.
    """
    node.create_timer(period_s, call, clock=Clock(clock_type=ClockType.STEADY_TIME))


@contextmanager
def graph_transports() -> Iterator[None]:
    """While a node with parameters is made, on which the user's other nodes see it."""
    with _environment(_graph_variables()):
        yield


def _graph_variables() -> dict[str, str]:
    return {TRANSPORTS: os.environ.get(TRANSPORTS, GRAPH_TRANSPORTS)}


def leave(context: Context, *nodes: Node) -> None:
    """Destroy nodes and end their context; only where the process could end as well.

    To close a TCP channel, Fast DDS 3.2.3 takes a lock that the channel's own thread may hold
    while it reads from a peer that stood still when the channel was made; to destroy a writer or a
    participant, it waits for threads that may wait for each other because another participant
    leaves at the same time (see `bringup.meeting`; 1 of some 150 where both ends leave together on
    a busy machine). Then nobody comes back from there, and as rclpy keeps the interpreter's lock
    meanwhile, nothing else of the process runs. After `STUCK_S` the process is ended, with status
    1 and its stacks on standard error. Whoever wants to go on uses `abandon`.
    """
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    try:
        for node in nodes:
            node.destroy_node()
        context.try_shutdown()
    finally:
        faulthandler.cancel_dump_traceback_later()


def abandon(context: Context, endpoints: Mapping[Node, Sequence[Endpoint]]) -> None:
    """Keep a participant, unused, until the process ends (see `leave`); others go on at once.

    Args:
        context: Of the participant.
        endpoints: Its nodes, and what of each shall leave the graph. That takes the lock that a
            participant whose discovery stands still does not give back: then it stays there.
    """
    _abandoned.append((context, endpoints))
    threading.Thread(
        target=_withdraw, args=(endpoints,), name="endpoints leave", daemon=True
    ).start()


def _withdraw(endpoints: Mapping[Node, Sequence[Endpoint]]) -> None:
    # Not by rclpy, which keeps the interpreter's lock while it waits for Fast DDS's. It has loaded
    # this library. Its own objects stay, and would find that nothing is left to be done.
    rcl = ctypes.CDLL("librcl.so")
    for node, ends in endpoints.items():
        for end_point in ends:
            finish = getattr(rcl, f"rcl_{type(end_point).__name__.lower()}_fini")
            with node.handle, end_point.handle:
                finish(
                    ctypes.c_void_p(end_point.handle.pointer), ctypes.c_void_p(node.handle.pointer)
                )


def end(code: int) -> int:
    """What a process that made participants returns as its exit code, as its last act.

    Where one was abandoned, the process ends here: the interpreter would destroy it.
    """
    if _abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    # The middleware reads them when it makes a participant; there is no other way in.
    with _lock:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
