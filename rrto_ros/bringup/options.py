"""What the user may choose at bring-up: owns the names, defaults, allowed values, explanations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrto_ros.api.choices import MODES, RUN_AHEAD, SEARCHES
from rrto_ros.errors import ConfigError
from rrto_ros.wire.port import HIGHEST_DOMAIN, domain_number, topic

DEVICES = ("auto", "cpu", "gpu", "null")
SIDES = ("both", "robot", "edge")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
REPLAY_OPTIONS = (
    "search",
    "min_repetitions",
    "min_length",
    "max_length",
    "drop_plans_after",
    "search_memory_bytes",
    "run_ahead",
    "plan_cache_bytes",
    "plan_cache_directory",
)
"""Parameters of the recorder. As long as one has its default here, the parameter files decide."""
_COUNTS = (
    "limit_bytes", "frames", "min_repetitions", "min_length", "max_length", "drop_plans_after",
    "search_memory_bytes",
)  # fmt: skip
_OWN = "; default: as the parameter files say"
_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


def _option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Options:
    """A bring-up, as the user wants it. The launch arguments have the same names.

    Raises:
        ConfigError: A value is not allowed.
    """

    robot: str = _option("robot", "Robot name: prefix of the topics, and of the nodes' names")
    side: str = _option("both", "What to start on this machine", SIDES)
    device: str = _option(
        "cpu", "What the server computes on; auto: the GPU if there is one, else cpu", DEVICES
    )
    mode: str = _option("batched", "How driver calls travel", MODES)
    domain: int = _option(-1, "ROS domain; -1: as ROS_DOMAIN_ID says")
    log_level: str = _option("info", "Least severe log messages shown", LOG_LEVELS)
    limit_bytes: int = _option(0, "Device memory of one session; 0: the server's own limit")
    search: str = _option("", "Mode replay: how sequences are found", ("", *SEARCHES))
    min_repetitions: int = _option(0, "Mode replay: how often a sequence must have been seen")
    min_length: int = _option(0, "Mode replay: shortest sequence, calls")
    max_length: int = _option(0, "Mode replay: longest sequence, calls")
    drop_plans_after: int = _option(
        0, "Mode replay: a sequence left so often in a row is not replayed for a while"
    )
    search_memory_bytes: int = _option(0, "Mode replay: what the search of a session may hold")
    run_ahead: str = _option(
        "", "Mode replay: what the server executes before the program calls it", ("", *RUN_AHEAD)
    )
    plan_cache_bytes: int = _option(-1, "Mode replay: size of the sequences kept on disk; 0: none")
    plan_cache_directory: str = _option("", "Mode replay: where sequences are kept")
    params_file: str = _option("", "ROS parameter file (YAML) read after the package's own")
    demo: bool = _option(False, "Also start the camera and the perception node")
    input: str = _option("", "Demo: picture, folder, video or bag for the camera; empty: built in")
    frames: int = _option(0, "Demo: end everything after so many pictures; 0: never")
    output: str = _option("", "Demo: folder for pictures and detections; empty: none")
    jit: bool = _option(False, "Demo: launch an inference's kernels as one CUDA graph")
    label: str = _option("", "Demo: label of the session, RRTO_LABEL")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if choices and value not in choices:
                raise ConfigError(f"{item.name} is {value!r}, want one of: {', '.join(choices)}")
        topic(self.robot, "status")
        if not -1 <= self.domain <= HIGHEST_DOMAIN:
            raise ConfigError(f"domain is {self.domain}, want 0 to {HIGHEST_DOMAIN}, or -1")
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, want 0 or more")
        if self.plan_cache_bytes < -1:
            raise ConfigError(f"plan_cache_bytes is {self.plan_cache_bytes}, want 0 or more")
        for name in ("params_file", "input"):
            path = getattr(self, name)
            if path and not Path(path).expanduser().exists():
                raise ConfigError(f"{name} is {path!r}, and there is no such file or folder")

    @staticmethod
    def from_texts(texts: Mapping[str, str]) -> Options:
        """Options from texts, as launch arguments are.

        Raises:
            ConfigError: A text is no value of its option, or an option is unknown.
        """
        known = {item.name: item for item in dataclasses.fields(Options)}
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in known:
                raise ConfigError(f"option {name!r} is unknown, want one of: {', '.join(known)}")
            values[name] = _parse(name, text, type(known[name].default))
        return Options(**values)

    @staticmethod
    def describe() -> list[tuple[str, str, str, tuple[str, ...]]]:
        """(name, default as text, explanation, allowed values) of every option."""
        return [
            (
                item.name,
                str(item.default).lower() if isinstance(item.default, bool) else str(item.default),
                item.metadata["help"] + (_OWN if item.name in REPLAY_OPTIONS else ""),
                item.metadata["choices"],
            )
            for item in dataclasses.fields(Options)
        ]

    def chosen_replay(self) -> dict[str, str | int]:
        """Those of `REPLAY_OPTIONS` that the user chose, by name."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name in REPLAY_OPTIONS and getattr(self, item.name) != item.default
        }

    def environment(self) -> dict[str, str]:
        """The domain, if one was chosen; that the sides are apart, if this is one of them."""
        out = {} if self.domain < 0 else {"ROS_DOMAIN_ID": str(self.domain)}
        if self.side != "both":
            out["RRTO_APART"] = os.environ.get("RRTO_APART", "1")
        return out

    def domain_number(self) -> int:
        """The ROS domain that the processes will be in.

        Raises:
            ConfigError: ROS_DOMAIN_ID is no number of a domain.
        """
        return self.domain if self.domain >= 0 else domain_number(os.environ.get("ROS_DOMAIN_ID"))


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise ConfigError(f"{name} is {text!r}, want true or false")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{name} is {text!r}, want a whole number") from None
    return text
