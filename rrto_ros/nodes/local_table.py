"""What a table of sessions in the recorder is made with; imported when one is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rrto_ros.api.parameters import RECORDER
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.gate import Admission, Gate, Peer
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.wire.port import OpenAnswer, OpenRequest, ResultsMessage

SILENCE_S = 60.0
"""The recorder is this process, so a session's silence means little."""


class InProcessGate(Gate):
    """Opens for whoever has the table: nothing of it is on the network, so nothing is proven."""

    def __init__(self) -> None:
        super().__init__(None, "this robot")

    def admit(self, request: OpenRequest, unfit: str) -> Admission | OpenAnswer:
        """Take a request for a session (`Gate.admit`)."""
        out = super().admit(request, unfit)
        return replace(out, peer=Peer("local")) if isinstance(out, Admission) else out


def make_table(
    kind: str,
    device: DeviceSettings,
    gate: Gate,
    publish: Callable[[ResultsMessage], None],
    log: Callable[[str], None],
) -> SessionTable:
    """A table for as many sessions as a recorder can have, with no worker yet.

    Args:
        kind: Of its devices.
        device: What they are made with.
        gate: Who may open.
        publish: Takes results.
        log: Takes lines for the log.

    Raises:
        UnavailableError: This machine does not have such a device.
    """
    span = RECORDER["max_sessions"].span
    most = int(span[1]) if span is not None else int(RECORDER["max_sessions"].default)
    settings = ServerSettings(
        kind,
        device,
        max_sessions=most,
        announce_blobs=False,
        limits=HostLimits(timeout_s=SILENCE_S),
        # All sessions are of one robot, this one.
        peers=PeerLimits(most, 0, 0),
        spare_workers=0,
    )
    return SessionTable(settings, publish, lambda _: None, log, gate)
