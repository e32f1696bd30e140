"""What people see of a session: gathers the counters of its parts into one `SessionSnapshot`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.incoming import Incoming
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.places.whereabouts import Whereabouts
from rrto_ros.robot.ring import RingMemory
from rrto_ros.robot.server_link import ServerLink
from rrto_ros.robot.status import SessionSnapshot


@dataclass(frozen=True)
class Served:
    """The parts of a session that has been opened.

    Attributes:
        ring: To the program.
        out: What leaves for the server.
        incoming: What comes from it.
        blobs: Uploads by reference; None if that is off.
    """

    ring: RingMemory
    out: Outgoing
    incoming: Incoming
    blobs: BlobReferences | None


def snapshot(
    said: SessionSnapshot, served: Served | None, link: ServerLink, where: Whereabouts
) -> SessionSnapshot:
    """Fill in what is counted.

    Args:
        said: What the session says of itself; `phase` is that of its place.
        served: None for a session that was never opened.
        link: To the server of now, or the last one.
        where: Its places.
    """
    traffic = link.traffic()
    moves_failed, move_error = where.migration.failed
    said = replace(
        said,
        batches=traffic["batches"],
        messages_sent=traffic["messages"],
        messages_received=traffic["received_messages"],
        messages_resent=traffic["resent"],
        messages_refused=traffic["refused"],
        bytes_sent=traffic["bytes"],
        bytes_received=traffic["received_bytes"],
        last_refusal=link.last_refusal,
        server=where.name,
        moves_failed=moves_failed,
        move_error=move_error,
        fallback=where.fallback.here,
        edge_inference_ms=where.edge_ms if where.fallback.here else 0.0,
        standby=where.standby_name,
    )
    return said if served is None else _with_program(said, served)


def _with_program(said: SessionSnapshot, served: Served) -> SessionSnapshot:
    """Fill in what the program called, and what came of it."""
    counters = served.ring.counters()
    replay, cost = served.out.replayer.state(), served.out.meter.cost()
    blobs = served.blobs.statistics() if served.blobs is not None else {"saved_bytes": 0}
    return replace(
        said,
        phase=replay.phase if said.phase == "open" else said.phase,
        calls_local=counters.local,
        calls_async=counters.asynchronous,
        calls_sync=counters.synchronous,
        calls_unsupported=counters.unsupported,
        export_counts=tuple(served.ring.export_counts()),
        refusals=tuple(served.ring.refusals().items()),
        round_trips=counters.waits - served.out.saved_waits,
        blob_bytes_saved=blobs["saved_bytes"],
        wait_s=counters.wait_ns / 1e9,
        last_wait_ms=counters.last_wait_ns / 1e6,
        median_wait_ms=served.incoming.wait_s * 1000,
        plans=replay.plans,
        sequence_calls=replay.sequence_calls,
        sequence_repetitions=replay.sequence_repetitions,
        inferences=replay.inferences,
        divergences=replay.divergences,
        hit_rate=replay.hit_rate,
        inference_bytes_sent=cost.bytes_sent,
        inference_bytes_received=cost.bytes_received,
        inference_round_trips=cost.round_trips,
        last_inference_ms=cost.last_ms,
        median_inference_ms=cost.median_ms,
        speculation_exchanges_saved=replay.speculation_saved,
        speculation_saved_ms=replay.speculation_saved_ms,
        speculation_rollbacks=replay.speculation_rollbacks,
        speculation_lost_ms=replay.speculation_lost_ms,
    )
