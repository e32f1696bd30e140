"""Every parameter and option, described once: name, type, default, range, what it means.

From here come the nodes' descriptors, the launch arguments, the command line's options, the
parameter file in config/ and the tables of README and docs (`rrto_ros.bringup.parameter_pages`).
Imports nothing but the standard library, since `rrto --help` waits for it.

Over 400 lines: most are the descriptions, which are looked up in one place.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrto_ros.api.choices import (
    AUTHENTICATION,
    COMPRESSION,
    CONFINEMENTS,
    DEVICES,
    FALLBACK,
    MODES,
    OBJECTIVES,
    PARTITION_ALGORITHMS,
    RESUME,
    RUN_AHEAD,
    SEARCHES,
    TRANSFER_PRECISIONS,
)
from rrto_ros.errors import ConfigError

READ_ONLY, SESSIONS, ANY_TIME = "read-only", "for later sessions", "any time"
_TIB = 1 << 40
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
Span = tuple[float, float]
_SERVER_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a node, or an option of bring-up.

    Attributes:
        name: As users write it.
        default: Its type is the parameter's.
        text: What it means, with its unit.
        span: Least and greatest value of a number.
        choices: Values of a text, where it has a few.
        changes: When it may be changed.
        form: (pattern, what it is in words) of a text that is not empty.
        power_of_two: Nothing else will do.
        unset: Value that stands for "as the parameter files say", also outside of the range.
        wanted: What is wanted, where the range does not say it.
        shown: The default as pages show it, where the machine decides.
        in_file: config/rrto_ros.yaml names it.
    """

    name: str
    default: Any
    text: str
    span: Span | None = None
    choices: tuple[str, ...] = ()
    changes: str = READ_ONLY
    form: tuple[str, str] | None = None
    power_of_two: bool = False
    unset: Any = None
    wanted: str = ""
    shown: str = ""
    in_file: bool = False

    @property
    def explanation(self) -> str:
        """The text, and what an unset value or a later change means."""
        if self.unset is not None:
            return f"{self.text} Default: as the parameter files say."
        return self.text + " Holds for sessions that open from then on." * (
            self.changes == SESSIONS
        )

    @property
    def allowed(self) -> tuple[str, ...]:
        """Values of a text that a command line takes."""
        return (("",) if self.unset == "" else ()) + self.choices

    def parse(self, text: str) -> Any:
        """The value that a text means; its type is right then, and its range is not looked at.

        Raises:
            ConfigError: It means none.
        """
        try:
            if isinstance(self.default, bool):
                return _BOOLEANS[text.lower()]
            return type(self.default)(text)
        except (KeyError, ValueError):
            raise self.refusal(text) from None

    def check(self, value: Any) -> None:
        """Refuse a value that cannot be used.

        Args:
            value: Any.

        Raises:
            ConfigError: With the value got, the value wanted and the next step.
        """
        good = type(value) is type(self.default)
        if good and self.unset is not None and value == self.unset:
            return
        if good and self.choices:
            good = value in self.choices
        if good and self.span is not None:
            good = self.span[0] <= value <= self.span[1]
        if good and self.power_of_two:
            good = not value & (value - 1)
        if good and self.form is not None and value:
            good = re.fullmatch(self.form[0], value) is not None
        if not good:
            raise self.refusal(value)

    def refusal(self, value: Any) -> ConfigError:
        """The one message about a value that cannot be used."""
        names = ", ".join(choice or "empty" for choice in self.choices)
        inside = self.span is not None and type(value) is type(self.default)
        if self.choices:
            wrong = f"is none of {names}"
        elif self.power_of_two and inside and value > 0:
            wrong = f"is not a power of two, want one, {self.range_text()}"
        else:
            wrong = f"cannot be used, want {self.wanted or self.range_text()}"
        return ConfigError(
            f"{self.name} {value!r} {wrong}; change it in the option, launch argument or "
            "parameter file that says so"
        )

    def range_text(self) -> str:
        """The values that are wanted, in words."""
        if self.form is not None:
            return f"{self.form[1]}, or an empty text"
        kind = _KINDS[type(self.default)]
        if self.span is None:
            return kind
        low, high = (f"{x:g}" if isinstance(self.default, float) else str(x) for x in self.span)
        if self.unset == 0 and self.span[0] == 1:
            low = "0"  # unset, and the next one is the least
        elif self.unset is not None:
            high = f"{high} at most, or {self.unset} for what the parameter files say"
            return f"{kind}, {low} or more, {high}"
        return f"{kind}, {low} or more, {high} at most"

    def left_to_files(self) -> Parameter:
        """The option of a bring-up for it: what is not given there, the parameter files say."""
        unset: Any = -1 if self.span and self.span[0] == 0 else 0
        if isinstance(self.default, str):
            unset = ""
        return dataclasses.replace(self, default=unset, unset=unset)


def by_name(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    """Parameters by their names."""
    return {parameter.name: parameter for parameter in parameters}


def check_values(described: Mapping[str, Parameter], values: Mapping[str, Any]) -> None:
    """Check values, each and together.

    Raises:
        ConfigError: One cannot be used.
    """
    for name, value in values.items():
        described[name].check(value)
    shortest, longest = values.get("min_length", 0), values.get("max_length", 0)
    if longest and shortest > longest:
        raise ConfigError(
            f"min_length {shortest} is above max_length {longest}; make one of them fit"
        )


def _robot(text: str) -> Parameter:
    own = os.environ.get("RRTO_ROBOT") or "robot"
    return Parameter("robot", own, text, shown="`$RRTO_ROBOT` or `robot`")


def host_name() -> str:
    """This machine's, made of what a server's name has."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")
    return name[:60] or "edge"


def _later(name: str, default: Any, text: str, span: Span | None = None, **more: Any) -> Parameter:
    return Parameter(name, default, text, span, changes=SESSIONS, **more)


REPLAY = (
    _later("search", "operator_sequence",
           "Mode replay: how repeated sequences are found.", choices=SEARCHES),
    _later("min_repetitions", 2,
           "Mode replay: how often a sequence must have been seen before it is replayed.",
           (2, 1000)),
    _later("min_length", 3, "Mode replay: shortest sequence, in calls.", (1, 32768)),
    _later("max_length", 32768, "Mode replay: longest sequence, in calls.", (1, 32768)),
    _later("drop_plans_after", 16,
           "Mode replay: a sequence from which the program diverged so often in a row rests, each "
           "time twice as long, until it is completed again.", (1, 1_000_000)),
    _later("search_memory_bytes", 192 << 20,
           "Mode replay: what the call log and the tables of the search may hold per session, by "
           "estimate; of older calls that do not fit, sequences are no longer found.",
           (4 << 20, _TIB)),
    _later("run_ahead", "reads",
           "Mode replay: what the server may execute before the program calls it, so that an "
           "inference which waits several times costs one round trip: off; reads (calls that only "
           "read); auto (also calls that write, which are rolled back if the program does "
           "something else, where that is cheaper than the round trips saved).",
           choices=RUN_AHEAD),
    _later("plan_cache_bytes", 256 << 20,
           "Mode replay: size limit of the sequences kept on disk, so that a program that starts "
           "again is replayed from its first inference; 0 keeps and uses none.", (0, _TIB)),
    _later("plan_cache_directory", "",
           "Mode replay: where sequences are kept; empty for the user's cache directory."),
)  # fmt: skip
"""Of the recorder, and of every command that starts one."""

RECORDER = by_name((
    _robot("Robot name: topics are /<robot>/rrto/*, and programs find the socket by it "
           "(RRTO_ROBOT)."),
    Parameter("mode", "batched",
              "How calls travel: rpc (every operator waits for its answer), batched (calls that "
              "nobody waits for travel together), replay (batched, and a sequence of calls that "
              "was found to repeat is only named), local (no edge: on the robot's own device) or "
              "partition (part of each inference here and part at an edge, wherever that is "
              "faster; for programs that start in it). Holds from every program's next call on.",
              choices=MODES, changes=ANY_TIME, in_file=True),
    _later("partition_algorithm", "min_cut",
           "Mode partition: how it is chosen which calls run here: min_cut (exact), mcop (the "
           "published heuristic), all_local or all_edge.", choices=PARTITION_ALGORITHMS),
    _later("partition_objective", "latency",
           "Mode partition: what is to be least: latency, energy (the robot's, modelled) or "
           "weighted (half and half).", choices=OBJECTIVES),
    _later("power_profile", "",
           "Mode partition: what the robot draws: a name in config/power_profiles.yaml; for "
           "energy and weighted."),
    _later("transfer_precision", "exact",
           "Mode partition: what crosses between robot and edge within an inference: exact "
           "(bit for bit) or adaptive (floats in 4 to 16 bits, where that is needed and outputs "
           "stay within accuracy_budget, by samples; docs/partition.md).",
           choices=TRANSFER_PRECISIONS),
    _later("accuracy_budget", 0.005,
           "transfer_precision adaptive: relative error that no output of an inference may have, "
           "0.005 is half a percent.", (1e-6, 0.5)),
    _later("device", "",
           "Device wanted on the server: cpu, gpu, null, or empty for the server's own.",
           choices=(*DEVICES, "")),
    _later("linger_us", 500,
           "How long calls that nobody waits for may wait for company, in microseconds.",
           (0, 100_000)),
    _later("batch_bytes", 1 << 20, "A batch of this size leaves at once, in bytes.",
           (4096, 64 << 20)),
    _later("max_message_bytes", 1 << 20,
           "Largest message sent, in bytes; the server may want smaller ones.", (1024, 16 << 20)),
    _later("window", 256, "Messages that may be unacknowledged.", (1, 1024)),
    _later("blob_references", True,
           "Name uploads that the server has instead of sending them. Turn it off for bags that "
           "are to be played into a fresh server."),
    _later("blob_min_bytes", 16 << 10, "Smaller uploads are always sent, in bytes.",
           (64, 1 << 30)),
    _later("upload_compression", "auto",
           "Inputs of inferences: auto (they are sent in fewer bytes, bit for bit, where that "
           "takes less time than the link takes for what it saves; docs/compression.md) or off.",
           choices=COMPRESSION, in_file=True),
    _later("server_timeout_s", 5.0,
           "Silence after which the server is lost and calls fail "
           "(CUDA_ERROR_DEVICE_UNAVAILABLE), in seconds, where the session cannot be resumed.",
           (0.5, 600.0)),
    _later("resume", "exact",
           "Whether a session goes on when its server is lost, at another one or the same one "
           "restarted: exact (the program waits meanwhile and notices nothing else) or off.",
           choices=RESUME, in_file=True),
    _later("outage_timeout_s", 30.0,
           "How long a program waits for a server while its session is resumed, in seconds; then "
           "its calls fail (CUDA_ERROR_DEVICE_UNAVAILABLE).", (0.5, 3600.0)),
    _later("resume_bytes", 512 << 20,
           "What is kept of a session for resuming it, in bytes; a session of which more would "
           "have to be kept cannot be resumed.", (1 << 20, _TIB)),
    _later("standby", 0,
           "How many sessions stand by for each that can be resumed, at another server: 0 or 1. "
           "It has the uploads and the last checkpoint there, so that a lost server costs no "
           "sending again; at that server it counts as a session (docs/edges.md).", (0, 1)),
    _later("fallback", "none",
           "What a session does while no edge answers: none (it waits) or local (it goes on on "
           "this robot's own device, exactly, and returns when an edge has answered steadily; "
           "docs/resume.md).", choices=FALLBACK, in_file=True),
    _later("fallback_after_ms", 1500,
           "With fallback local: how long no edge must have answered before, in milliseconds; for "
           "a program that starts, too. Less than outage_timeout_s.", (200, 600_000)),
    _later("fallback_device", "",
           "With fallback local: the robot's device: cpu, gpu, null, or empty for the session's "
           "own kind. Of another kind it is refused, because results would be others.",
           choices=(*DEVICES, "")),
    _later("connect_timeout_s", 10.0,
           "How long a starting program waits for a server, in seconds. Right after a node's "
           "start DDS may need some to find it. The program itself waits 12 s for the recorder "
           "(RRTO_CONNECT_TIMEOUT_MS); more here wants more there.", (0.1, 600.0)),
    _later("servers", "",
           "Which servers a session may run on: names (their parameter server_name) separated by "
           "commas, in order of preference. It opens, and goes on when its server is lost, at the "
           "first of them that answers; from the first answer on, each later one is waited for "
           "half a second longer. Empty: at any, the first answer wins. docs/edges.md.",
           form=(rf"\s*{_SERVER_NAME}\s*(,\s*{_SERVER_NAME}\s*)*",
                 "names separated by commas")),
    Parameter("rebalance", False,
              "Whether a session moves to another server where its results would come sooner, by "
              "the times measured, a quarter at least and for ten seconds (docs/edges.md).",
              changes=ANY_TIME),
    _later("limit_bytes", 0,
           "Device memory wanted per session, in bytes; 0 for the server's own limit.", (0, _TIB)),
    _later("cuda_runtime", False,
           "Answer, in the place of NVIDIA's driver, the check by which NVIDIA's CUDA runtime "
           "library (in PyTorch, CuPy, Warp and most others) finds out whether the driver is one "
           "that it takes; it is refused if not. That is for you to decide: NVIDIA's licence "
           "terms apply (docs/cuda_runtime.md). A program's RRTO_CUDA_RUNTIME (0 or 1) comes "
           "before it."),
    # Read-only: whoever can set parameters must not be able to turn it off.
    Parameter("authentication", "on",
              "Whether robot and server prove to each other who they are, and seal every message: "
              "on (with the keys of `rrto keys`; without any, on one machine, as one user) or off "
              "(anybody in the ROS domain can read and write). The same on both. "
              "docs/security.md.", choices=AUTHENTICATION),
    *REPLAY,
    Parameter("max_sessions", 32, "Programs served at once; others are refused.", (1, 256)),
    Parameter("ring_mib", 32,
              "Size of each of a program's two rings, in MiB; a power of two. Memory is used as "
              "needed.", (1, 1024), power_of_two=True),
    Parameter("status_rate_hz", 5.0, "How often the status is published.", (0.1, 50.0)),
    Parameter("force_deactivate", False,
              "Whether `deactivate` ends open sessions; if not, it refuses while there are any.",
              changes=ANY_TIME),
    Parameter("autostart", False,
              "Whether the node configures and activates itself, for machines without a manager "
              "(`rrto up` and the launch file set it)."),
))  # fmt: skip

# All are read-only: a session keeps what it was opened with, so a change means a new server.
SERVER = by_name((
    _robot("Robot name: the server listens on /<robot>/rrto/*."),
    Parameter("device", "cpu",
              "What executes the kernels: gpu (an NVIDIA GPU), cpu (real results on the host's "
              "cores), auto (the GPU if there is one, else cpu) or null (no results, for "
              "transport measurements).", choices=("auto", *DEVICES), in_file=True),
    Parameter("limit_bytes", 2 << 30, "Device memory that one session may allocate, in bytes.",
              (1 << 20, _TIB)),
    Parameter("server_name", host_name(),
              "What people call this server, in `rrto status`, `rrto move --to` and the parameter "
              "`servers` of the recorder. Two servers of one robot on one machine need two names.",
              shown="this machine's host name",
              form=(_SERVER_NAME, "60 letters, digits, - _ . at most, first a letter or digit")),
    Parameter("drain_timeout_s", 5.0,
              "How long a server that is told to stop (SIGTERM, Ctrl-C) waits, in seconds, until "
              "its sessions have gone on at another server of the robot; where none is heard of, "
              "or with 0, it stops at once, and sessions are resumed later (docs/edges.md).",
              (0.0, 600.0)),
    Parameter("authentication", "on",
              "Who may open a session: on (whose key `rrto keys trust` trusts; while none is "
              "trusted, this user on this machine) or off (anybody in the ROS domain). The same "
              "on the robot. docs/security.md.", choices=AUTHENTICATION),
    Parameter("max_sessions", 8, "Sessions that may be open at once; others are refused.",
              (1, 256)),
    Parameter("max_sessions_per_robot", 0,
              "Sessions that one robot may have open at once, so that others find a place; 0 for "
              "three quarters of max_sessions.", (0, 256)),
    Parameter("robot_messages_per_s", 8000,
              "Messages that one robot may send per second; who sends more is asked to wait, and "
              "who goes on all the same has messages dropped, which it sends again. 0 for any "
              "number.", (0, 10_000_000)),
    Parameter("robot_bytes_per_s", 2 << 30,
              "Bytes that one robot may send per second, as robot_messages_per_s; 0 for any "
              "number.", (0, _TIB)),
    Parameter("spare_workers", 1,
              "Worker processes that are started ahead, so that a session opens at once.",
              (0, 16)),
    Parameter("confinement", "auto",
              "What the processes that execute kernels and compile them give up (files, network, "
              "other processes, root, memory): auto (all that this machine has the means for; the "
              "log names what it lacks; nothing with device gpu, where it has not been tried), "
              "required (the server does not start without Landlock and seccomp), off (nothing). "
              "See docs/security.md.", choices=CONFINEMENTS),
    Parameter("session_timeout_s", 10.0,
              "A session is closed and freed when nothing came from its recorder for so many "
              "seconds.", (0.5, 3600.0)),
    Parameter("max_message_bytes", 1 << 20,
              "Largest message of calls or results, in bytes of data; larger batches are cut.",
              (4096, 64 << 20)),
    Parameter("compute_capability", "",
              "Compute capability that the cpu and null devices report, like '8.9'; empty for the "
              "device's own.", form=(r"([3-9]|[1-9]\d)\.\d", "a capability like '8.9'")),
    Parameter("threads", 0, "Threads of the cpu device per session; 0 for one per core.",
              (0, 1024)),
    Parameter("kernel_cache_bytes", 512 << 20,
              "Size limit of the cpu device's cache of compiled kernels on disk; 0 keeps none.",
              (0, _TIB)),
    Parameter("kernel_cache_directory", "",
              "Where compiled kernels are kept; empty for the user's cache directory."),
    Parameter("launch_timeout_s", 30.0,
              "A kernel that runs longer on the cpu device is ended with "
              "CUDA_ERROR_LAUNCH_TIMEOUT, in seconds; on the gpu device it is a wait for the GPU. "
              "0 ends none.", (0.0, 86400.0)),
    Parameter("memcheck", False,
              "Look up every memory access of a kernel on the cpu device, many times slower: a "
              "stray one is CUDA_ERROR_ILLEGAL_ADDRESS in any case, and so named by kernel, "
              "thread, address and nearest allocation."),
    Parameter("check_calls", False,
              "Check every call that reaches a session's device against the CUDA driver's "
              "documentation (handles, ranges, what is freed, arguments, the order of streams). "
              "What is found is on the program's error output and in the server's log; slow, and "
              "for finding defects of rrto_ros."),
    Parameter("blob_cache_bytes", 4 << 30,
              "Size limit of the uploads kept on disk (weights, modules), so that they are sent "
              "once; 0 keeps none.", (0, _TIB)),
    Parameter("blob_directory", "",
              "Where uploads are kept; empty for the user's cache directory."),
    Parameter("announce_blobs", True,
              "Tell a session that opens the SHA-256 of the uploads that are kept, so that it "
              "need not send them. Who knows a SHA-256 can have the content: set false where "
              "robots that share this server must not read each other's uploads."),
))  # fmt: skip

_QUEUE = Parameter("queue_depth", 5, "Pictures that wait for the other side; older ones go.",
                   (1, 100))  # fmt: skip
CAMERA = by_name((
    Parameter("source", "",
              "A picture, a folder of pictures, a video file or a ROS 2 bag; empty: a still "
              "picture (astronaut) over which the camera pans and zooms."),
    Parameter("topic", "", "Topic to take from a bag; empty: its only image topic."),
    Parameter("rate_hz", 10.0, "Pictures per second.", (0.01, 1000.0), in_file=True),
    Parameter("frames", 0, "Stop after so many pictures; 0: no limit.", (0, 1 << 31)),
    Parameter("loop", True, "Start again at the end of the source."),
    Parameter("encoding", "bgr8", "Of the pictures.", choices=("rgb8", "bgr8", "mono8")),
    Parameter("frame_id", "camera", "frame_id of the header."),
    _QUEUE,
))  # fmt: skip
PERCEPTION = by_name((
    Parameter("model",
              str(Path(__file__).resolve().parents[1] / "data" / "nanodet_416_fp16.onnx"),
              "NanoDet-416 as ONNX.", shown="the package's own"),
    Parameter("device", "",
              "tinygrad device, for example CUDA:PTX; empty: as DEV in the environment."),
    Parameter("jit", False, "Launch the kernels of an inference as one CUDA graph."),
    Parameter("score_threshold", 0.35, "Smallest score kept.", (0.0, 1.0), in_file=True),
    Parameter("nms_threshold", 0.5, "Overlap above which the weaker of two boxes goes.",
              (0.0, 1.0), in_file=True),
    Parameter("frames", 0, "End after so many pictures; 0: never.", (0, 1 << 31)),
    Parameter("output_dir", "", "Folder for pictures and detections; empty: none."),
    Parameter("save_every", 1, "Save one picture in so many.", (1, 1 << 31)),
    Parameter("save_numbered", 10, "So many are saved under a number, then only the latest.",
              (0, 10000)),
    _QUEUE,
))  # fmt: skip
NODES = {
    "offload_server": SERVER, "recorder_replayer": RECORDER, "camera": CAMERA,
    "perception": PERCEPTION,
}  # fmt: skip


def _demo(name: str, of: Parameter) -> Parameter:
    return dataclasses.replace(of, name=name, text=f"Demo: {of.text}")


OPTIONS = by_name((
    Parameter("robot", "robot", "Robot name: prefix of the topics, and of the nodes' names."),
    Parameter("side", "both", "What to start on this machine.",
              choices=("both", "robot", "edge")),
    SERVER["device"],
    RECORDER["mode"],
    Parameter("domain", -1, "ROS domain; -1: as ROS_DOMAIN_ID says, else 0.", (-1, 232),
              wanted="a whole number, 0 to 232, or -1 for what ROS_DOMAIN_ID says"),
    Parameter("log_level", "info", "Least severe log messages shown.",
              choices=("debug", "info", "warn", "error", "fatal")),
    dataclasses.replace(SERVER["limit_bytes"], default=0, unset=0),
    dataclasses.replace(SERVER["server_name"], default="", unset="", shown=""),
    dataclasses.replace(RECORDER["servers"], default="", unset=""),
    dataclasses.replace(RECORDER["authentication"], default="", unset=""),
    dataclasses.replace(RECORDER["fallback"], default="", unset=""),
    *(parameter.left_to_files() for parameter in REPLAY),
    dataclasses.replace(RECORDER["cuda_runtime"], unset=False),
    Parameter("params_file", "", "ROS parameter file (YAML), read after the package's own."),
    Parameter("demo", False, "Also start the camera and the perception node."),
    _demo("input", CAMERA["source"]),
    _demo("frames", PERCEPTION["frames"]),
    _demo("output", PERCEPTION["output_dir"]),
    _demo("jit", PERCEPTION["jit"]),
    Parameter("label", "", "Demo: label of the session, RRTO_LABEL."),
))  # fmt: skip
"""Launch arguments; options of `rrto up`, `rrto demo` and `rrto run` have the same names."""
