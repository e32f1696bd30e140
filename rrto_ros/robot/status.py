"""What the recorder knows of one session, as plain values: settings in, snapshot out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rrto_ros.api import choices
from rrto_ros.api.choices import EXACT
from rrto_ros.api.parameters import RECORDER
from rrto_ros.robot.places.place import Place
from rrto_ros.robot.places.servers import Choice
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.reply_writer import MAX_UNTAKEN_BYTES
from rrto_ros.robot.ring import DEFAULT_CALL_BYTES, DEFAULT_REPLY_BYTES
from rrto_ros.wire.link import MAX_MESSAGE_BYTES, WINDOW_BYTES
from rrto_ros.wire.opening import GetCredentials

MODES: dict[str, int] = {name: number for number, name in enumerate(choices.MODES)}
"""Mode name -> value of the ring header's mode field."""


def check_mode(mode: str) -> int:
    """The header value of a mode that can be run.

    Raises:
        ConfigError: Unknown, or not there yet.
    """
    RECORDER["mode"].check(mode)
    return MODES[choices.travels(mode)]


Numbers = Mapping[str, int | float | str]
"""What `statistics()` says of something."""


def prefixed(**parts: Numbers) -> dict[str, int | float | str]:
    """The statistics of a thing's parts as one, each name after its part's."""
    return {f"{name}_{key}": value for name, part in parts.items() for key, value in part.items()}


@dataclass(frozen=True)
class SessionConfig:
    """Settings of a robot-side session; the node's parameters of the same names explain them.

    Attributes:
        robot: Robot name.
        mode: One of `choices.MODES`.
        device: Wanted device: cpu, gpu, null or empty for the server's choice.
        linger_s: How long calls that nobody waits for may wait for company.
        batch_bytes: A batch of this size leaves at once.
        max_message_bytes: Wanted bound of one message; the server may have a smaller one.
        window: Unacknowledged messages.
        window_bytes: Unacknowledged bytes.
        untaken_bytes: Results that wait for the program beside its ring; beyond it the server is
            asked to hold back what it has.
        blob_references: Whether uploads that the server has are named instead of sent.
        blob_min_bytes: Smaller uploads are always sent.
        upload_compression: `auto` or `off`: whether inputs of inferences leave in fewer bytes.
        transfer_precision: `exact` or `adaptive`, in mode `partition`: whether its results
            may come with transfers in fewer bits.
        apart: Whether robot and edge are two machines although they share this one's secret.
        server_timeout_s: Silence after which the server is lost, where it cannot be resumed.
        resume: `exact` or `off`: whether a session goes on at another server, or the same one
            restarted.
        resume_bytes: What is kept for that at most; beyond it the session cannot be resumed.
        outage_timeout_s: How long a program waits for a server while its session is resumed.
        standby: How many sessions stand by for it at other servers: 0 or 1.
        fallback: `none` or `local`: where a session goes on while no edge answers.
        fallback_after_s: How long none must have answered before.
        fallback_device: Kind of the robot's device, empty for the session's own.
        place: The place on the robot, for `local`; None where there is none.
        connect_timeout_s: How long an opening session waits for a server.
        limit_bytes: Wanted device memory, 0 for the server's own limit.
        call_ring_bytes: Size of the call ring, a power of two.
        reply_ring_bytes: Size of the reply ring, a power of two.
        cuda_runtime: Whether the CUDA runtime library's validity check is answered.
        replay: Of mode replay.
        plan_cache_bytes: Size limit of the plans kept on disk, 0 for none.
        plan_cache_directory: Where; None for the user's cache directory.
        credentials: Reads the user's keys; None for `authentication: off`.
        disclose: Takes the id and the keys of a session that opens, for recordings.
        choice: Of servers.
    """

    robot: str = "robot"
    mode: str = "batched"
    device: str = ""
    linger_s: float = 0.0005
    batch_bytes: int = 1 << 20
    max_message_bytes: int = MAX_MESSAGE_BYTES
    window: int = 256
    window_bytes: int = WINDOW_BYTES
    untaken_bytes: int = MAX_UNTAKEN_BYTES
    blob_references: bool = True
    blob_min_bytes: int = 16 << 10
    upload_compression: str = "auto"
    transfer_precision: str = EXACT
    apart: bool = False
    server_timeout_s: float = 5.0
    resume: str = "exact"
    resume_bytes: int = 512 << 20
    outage_timeout_s: float = 30.0
    standby: int = 0
    fallback: str = "none"
    fallback_after_s: float = 1.5
    fallback_device: str = ""
    place: Place | None = None
    connect_timeout_s: float = 10.0
    limit_bytes: int = 0
    call_ring_bytes: int = DEFAULT_CALL_BYTES
    reply_ring_bytes: int = DEFAULT_REPLY_BYTES
    cuda_runtime: bool = False
    replay: ReplayOptions = field(default_factory=ReplayOptions)
    plan_cache_bytes: int = 0
    plan_cache_directory: Path | None = None
    credentials: GetCredentials | None = None
    disclose: Callable[[bytes, bytes], object] = lambda *_: None
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True)
class SessionSnapshot:
    """The fields of rrto_msgs/SessionStatus; `SessionStatus.msg` explains them."""

    session: bytes
    label: str
    program: str
    pid: int
    device: str
    mode: str
    phase: str
    error: str
    duration_s: float
    calls_local: int = 0
    calls_async: int = 0
    calls_sync: int = 0
    calls_unsupported: int = 0
    export_counts: tuple[int, ...] = ()
    refusals: tuple[tuple[str, int], ...] = ()
    round_trips: int = 0
    batches: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_resent: int = 0
    messages_refused: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    blob_bytes_saved: int = 0
    wait_s: float = 0.0
    last_wait_ms: float = 0.0
    median_wait_ms: float = 0.0
    plans: int = 0
    sequence_calls: int = 0
    sequence_repetitions: int = 0
    inferences: int = 0
    divergences: int = 0
    hit_rate: float = 0.0
    inference_bytes_sent: float = 0.0
    inference_bytes_received: float = 0.0
    inference_round_trips: float = 0.0
    last_inference_ms: float = 0.0
    median_inference_ms: float = 0.0
    speculation_exchanges_saved: int = 0
    speculation_saved_ms: float = 0.0
    speculation_rollbacks: int = 0
    speculation_lost_ms: float = 0.0
    last_refusal: str = ""
    resumed: int = 0
    server: str = ""
    moves_failed: int = 0
    move_error: str = ""
    fallback: bool = False
    edge_inference_ms: float = 0.0
    standby: str = ""
