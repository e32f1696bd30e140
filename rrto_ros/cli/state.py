"""`rrto status` and `rrto mode`: look at a running robot, and change its mode."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from rrto_ros.api.choices import travels
from rrto_ros.cli.summary import counts, human_bytes, named
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.ros.client import RECORDER, SERVER, RobotClient

STATUS_TIMEOUT_S = 8.0
ANOTHER_S = 0.7
"""How long another server is waited for in any case, a little more than from one status to the
next."""
OTHERS_S = 2.0
"""How long other servers are waited for that DDS knows."""


def read_statuses(client: RobotClient) -> list[dict[str, Any]]:
    """The status of recorder and servers; of some of them if others say nothing in time.

    Raises:
        UnavailableError: Neither says anything.
    """
    client.wait(
        lambda: client.status(RECORDER) is not None and client.status(SERVER) is not None,
        STATUS_TIMEOUT_S,
    )
    # Others may not be discovered yet, and one that has just ended is still announced.
    client.wait(lambda: client.servers() > 1, ANOTHER_S)
    client.wait(lambda: client.servers() >= client.announced(SERVER), OTHERS_S)
    found = client.statuses()
    if not found:
        raise UnavailableError(
            f"no node of robot {client.robot!r} was seen in ROS domain {client.domain} within "
            f"{STATUS_TIMEOUT_S:g} s; start them with `rrto up`, or check --robot and --domain"
        )
    return found


def node_table(statuses: list[dict[str, Any]]) -> Table:
    """One row per node."""
    table = Table(title="nodes", title_justify="left")
    for name in (
        "node",
        "state",
        "mode",
        "name",
        "device",
        "server",
        "sessions",
        "authentication",
        "refused",
    ):
        table.add_column(name, overflow="fold")
    for status in statuses:
        refused = str(status["messages_refused"])
        if status["last_refusal"]:
            refused += f": {status['last_refusal']}".replace("[", "\\[")
        table.add_row(
            status["node"],
            status["state"],
            status["mode"] or "-",
            escape(status["server_name"]) or "-",
            status["device"] or "-",
            status["server_state"],
            str(len(status["sessions"])),
            status["authentication"] or "-",
            refused,
        )
    return table


def session_table(statuses: list[dict[str, Any]]) -> Table | None:
    """One row per session, as the recorder knows it, else as the server does."""
    status = next((s for s in statuses if s["kind"] == RECORDER), statuses[0])
    if not status["sessions"]:
        return None
    table = Table(title="sessions", title_justify="left")
    names = (
        "program",
        "pid",
        "phase",
        "server",
        "mode",
        "calls",
        "waits",
        "sent",
        "received",
        "unsupported",
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for s in status["sessions"]:
        calls = s["calls_local"] + s["calls_async"] + s["calls_sync"]
        unsupported = "\n".join(map(escape, named(counts(s["unsupported"]))))
        table.add_row(
            s["program"].replace("[", "\\["),
            str(s["pid"]),
            f"{s['phase']} {s['error']}".strip().replace("[", "\\["),
            _where(s),
            s["mode"] or "-",
            f"{calls:,}",
            f"{s['round_trips']:,} ({s['median_wait_ms']:.2f} ms)",
            human_bytes(s["bytes_sent"]),
            human_bytes(s["bytes_received"]),
            unsupported or "-",
        )
    return table


def _where(s: dict[str, Any]) -> str:
    """At which server a session is, and at which one another stands by for it."""
    standby = f"\nstandby: {escape(s['standby'])}" if s["standby"] else ""
    return (escape(s["server"]) or "-") + standby


def replay_table(statuses: list[dict[str, Any]]) -> Table | None:
    """One column per session that is recorded and replayed, as the recorder knows it."""
    status = next((s for s in statuses if s["kind"] == RECORDER), None)
    known = status["sessions"] if status else []
    sessions = [s for s in known if travels(s["mode"]) == "replay"]
    if not sessions:
        return None
    table = Table(title="record and replay", title_justify="left")
    table.add_column("pid")
    for s in sessions:
        table.add_column(str(s["pid"]), overflow="fold")
    rows: dict[str, list[str]] = {}
    for s in sessions:
        cells = {
            "phase": s["phase"],
            "sequence": f"{s['sequence_calls']:,} calls, of {s['plans']} known"
            if s["plans"]
            else "none yet",
            "repetitions": f"{s['sequence_repetitions']:,}",
            "inferences": f"{s['inferences']:,} of all sequences",
            "hit rate": f"{s['hit_rate']:.1%}",
            "divergences": f"{s['divergences']:,}",
            "per inference": f"{human_bytes(s['inference_bytes_sent'])} sent, "
            f"{human_bytes(s['inference_bytes_received'])} received, "
            f"{s['inference_round_trips']:.3g} round trips",
            "latency": f"{s['last_inference_ms']:.2f} ms last, "
            f"{s['median_inference_ms']:.2f} ms median",
            "speculation": f"{s['speculation_exchanges_saved']:,} exchanges saved "
            f"({s['speculation_saved_ms']:,.0f} ms), {s['speculation_rollbacks']:,} rollbacks "
            f"({s['speculation_lost_ms']:,.0f} ms lost)",
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    for name, row in rows.items():
        table.add_row(name, *row)
    return table


def set_mode(client: RobotClient, mode: str) -> str:
    """Change the mode of the recorder.

    Returns:
        The mode before.

    Raises:
        ConfigError: The recorder refuses; the text says why.
        UnavailableError: There is no recorder.
    """
    if not client.wait(lambda: client.status(RECORDER) is not None, STATUS_TIMEOUT_S):
        raise UnavailableError(
            f"no recorder_replayer of robot {client.robot!r} was seen in ROS domain "
            f"{client.domain} within {STATUS_TIMEOUT_S:g} s; start one with `rrto up`, or check "
            "--robot and --domain"
        )
    before = client.get_parameter("mode")
    reason = client.set_parameter("mode", mode)
    if reason:
        raise ConfigError(f"recorder_replayer refuses mode {mode!r}: {reason}")
    return str(before)
