"""The ROS contexts of data: participants with transports made for large messages.

The nodes with parameters, lifecycle, status and diagnostics use the transports that the user's
other nodes and tools use, else `ros2 param` would not see them. Calls and results need others:
uploads overflow the default transports' buffers and wait for repair (600 KB: 7.7 ms instead of
1.5). A participant has one set of transports, so the data has a participant of its own, in a
context of its own. Both ends of it are ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
DATA_TRANSPORTS = "LARGE_DATA?max_msg_size=64KB&sockets_size=4MB&non_blocking=true"
"""Unless the user's environment chose others, which then hold for everything.

Two participants whose sends block wait for each other when both sockets are full: a large upload
to a busy server then stood still until the session was lost. What does not fit is sent again.
"""

APART = "RRTO_APART"
"""1: robot and edge are different machines. Bring-up of one side sets it."""
_PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_DATA_PROFILE = Path(__file__).resolve().parents[1] / "data" / "fastdds_data.xml"
_lock = threading.Lock()


def use_data_profile() -> None:
    """Let the readers of this process ask late for what they miss; before `rclpy.init`.

    Large messages over a slow link would else travel twice. For processes whose readers are those
    of calls and results, where RRTO_APART=1 says that the other side is on another machine, and
    so behind TCP, which loses nothing. Shared memory does, and then it has to be asked for soon
    (of 600 KB uploads on one machine every tenth waited for seconds). Nothing happens where the
    user chose transports or profiles.
    """
    chosen = any(name in os.environ for name in (TRANSPORTS, *_PROFILES))
    if os.environ.get(APART) == "1" and not chosen:
        os.environ[_PROFILES[0]] = str(_DATA_PROFILE)


def own_context(domain: int | None = None) -> Context:
    """A context that no signal ends and no argument of the process changes.

    Args:
        domain: ROS domain number; None: as ROS_DOMAIN_ID says.
    """
    context = Context()
    rclpy.init(
        args=[],
        context=context,
        domain_id=domain,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    return context


def quiet_node(name: str, context: Context) -> Node:
    """A node without parameters, services, rosout or remapping, only for data.

    Args:
        name: Node name.
        context: A context in which all nodes are made by this function: the first one makes the
            participant.
    """
    with _data_transports():
        return Node(
            name,
            context=context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )


@contextmanager
def _data_transports() -> Iterator[None]:
    # The middleware reads the variable when it makes a participant; there is no other way in.
    with _lock:
        chosen = TRANSPORTS in os.environ
        if not chosen:
            os.environ[TRANSPORTS] = DATA_TRANSPORTS
        try:
            yield
        finally:
            if not chosen:
                del os.environ[TRANSPORTS]
