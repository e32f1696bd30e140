"""What measurements over an emulated link share: arguments, one pair of nodes, its counts."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE
from stack import Stack, measuring_domain

from rrto_ros.bringup.environment import node_environment
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.link_emulator import LinkedMachines
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.talker import Talker, started


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the link, and where the figures go."""
    parser.add_argument("--rtt-ms", type=float, default=4.0, help="of the link (%(default)s)")
    parser.add_argument("--rate-mbit", type=float, default=80.0, help="of the link (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def settings(options: argparse.Namespace, loss: float = 0.0) -> LinkSettings:
    """The link that was asked for."""
    return LinkSettings(delay_ms=options.rtt_ms / 2, rate_mbit=options.rate_mbit, loss=loss)


def apart_environment() -> dict[str, str]:
    """Of programs that see nodes on both ends of the link."""
    return {
        **os.environ,
        **node_environment(),
        "ROS_DOMAIN_ID": str(measuring_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "RRTO_APART": "1",
    }


class LinkedPair:
    """Recorder and server on the two ends of a link, for one program at a time.

    Args:
        machines: The two ends.
        ends: What is started ends with it.
        name: Of what is measured.
        mode: Of the recorder.
        parameters: As of `Stack`.

    Attributes:
        nodes: The pair.
        folder: For files.
    """

    def __init__(
        self,
        machines: LinkedMachines,
        ends: ExitStack,
        name: str,
        mode: str = "batched",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._machines = machines
        self.nodes = Stack(
            "null", mode, machines=machines, name=f"{name}{os.getpid()}", parameters=parameters
        )
        ends.callback(self.nodes.close)
        prefix = f"rrto-{name}-"
        self.folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        command = [sys.executable, str(HERE / "link_counts.py"), str(measuring_domain()),
                   self.nodes.robot]  # fmt: skip
        self._counts = self.talk(
            machines.robot.command(command), apart_environment(), "counts", ends
        )

    def talk(
        self, command: list[str], env: Mapping[str, str], what: str, ends: ExitStack
    ) -> Talker:
        """Start a program that answers line by line."""
        return started(ends, command, env, what, self.folder / f"{what}.log")

    def link(self) -> dict[str, int]:
        """Bytes that crossed the link so far, each way."""
        found = self._machines.link.statistics()
        return {way: found[way]["bytes"] for way in ("up", "down")}

    def session(self) -> dict[str, Any]:
        """What the nodes say of the program's session, once both know it."""
        for _ in range(20):
            sessions = self._counts.ask("")[self.nodes.robot]
            if len(sessions) == 1:
                return dict(sessions[0])
        raise UnavailableError(f"{len(sessions)} sessions, 1 is expected\n{self.nodes.log()}")
