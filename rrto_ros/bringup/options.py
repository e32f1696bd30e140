"""What the user chose at bring-up, checked; `rrto_ros.api.parameters` describes the options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrto_ros.api.parameters import OPTIONS, REPLAY, check_values
from rrto_ros.errors import ConfigError
from rrto_ros.wire.port import domain_number, topic

REPLAY_OPTIONS = tuple(parameter.name for parameter in REPLAY)
"""Parameters of the recorder. As long as one has its default here, the parameter files decide."""


def _option(name: str) -> Any:
    return field(default=OPTIONS[name].default)


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class _Replay:
        """A field for each of `REPLAY_OPTIONS`."""
else:
    _Replay = make_dataclass(
        "_Replay",
        [(n, type(OPTIONS[n].default), _option(n)) for n in REPLAY_OPTIONS],
        frozen=True,
    )


@dataclass(frozen=True)
class Options(_Replay):
    """A bring-up, as the user wants it. The launch arguments have the same names.

    Raises:
        ConfigError: A value is not allowed.
    """

    robot: str = _option("robot")
    side: str = _option("side")
    device: str = _option("device")
    mode: str = _option("mode")
    domain: int = _option("domain")
    log_level: str = _option("log_level")
    limit_bytes: int = _option("limit_bytes")
    server_name: str = _option("server_name")
    servers: str = _option("servers")
    authentication: str = _option("authentication")
    fallback: str = _option("fallback")
    cuda_runtime: bool = _option("cuda_runtime")
    params_file: str = _option("params_file")
    demo: bool = _option("demo")
    input: str = _option("input")
    frames: int = _option("frames")
    output: str = _option("output")
    jit: bool = _option("jit")
    label: str = _option("label")

    def __post_init__(self) -> None:
        topic(self.robot, "status")
        check_values(OPTIONS, {name: getattr(self, name) for name in OPTIONS})
        for name in ("params_file", "input"):
            path = getattr(self, name)
            if path and not Path(path).expanduser().exists():
                raise ConfigError(
                    f"{name} is {path!r}, and there is no such file or folder; give one that is"
                )

    @staticmethod
    def from_texts(texts: Mapping[str, str]) -> Options:
        """Options from texts, as launch arguments are.

        Raises:
            ConfigError: A text is no value of its option, or an option is unknown.
        """
        for name in texts:
            if name not in OPTIONS:
                raise ConfigError(f"option {name!r} is unknown, want one of: {', '.join(OPTIONS)}")
        return Options(**{name: OPTIONS[name].parse(text) for name, text in texts.items()})

    @staticmethod
    def describe() -> list[tuple[str, str, str, tuple[str, ...]]]:
        """(name, default as text, explanation, allowed values) of every option."""
        return [
            (
                name,
                str(item.default).lower() if isinstance(item.default, bool) else str(item.default),
                item.explanation,
                item.allowed,
            )
            for name, item in OPTIONS.items()
        ]

    def chosen_replay(self) -> dict[str, str | int]:
        """Those of `REPLAY_OPTIONS` that the user chose, by name."""
        given = {name: getattr(self, name) for name in REPLAY_OPTIONS}
        return {name: value for name, value in given.items() if value != OPTIONS[name].default}

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
