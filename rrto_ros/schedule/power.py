"""What a robot draws: owns the figures, and their file (config/power_profiles.yaml)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rrto_ros.errors import ConfigError, UnavailableError


@dataclass(frozen=True, slots=True)
class Power:
    """What a robot draws, in watts.

    Attributes:
        compute_w: While it computes; more than 0.
        idle_w: While it waits for the edge.
        transfer_w: While it sends or receives.

    Raises:
        ConfigError: A figure is negative or not finite, or compute_w is 0.
    """

    compute_w: float
    idle_w: float
    transfer_w: float

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            least = "more than 0" if one.name == "compute_w" else "0 or more"
            if not math.isfinite(value) or value < 0 or (one.name == "compute_w" and not value):
                raise ConfigError(f"{one.name} {value}: want watts, {least}; measure the robot")


def power_profiles(file: Path) -> dict[str, Power]:
    """The profiles of a file, by name.

    Args:
        file: YAML: for each name compute_w, idle_w and transfer_w.

    Raises:
        ConfigError: It cannot be read, is no YAML, or a profile lacks a figure or has others.
        UnavailableError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise UnavailableError(
            f"{file} needs PyYAML, which cannot be imported ({error}): pip install pyyaml"
        ) from error
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"power profiles {file} cannot be read ({error}): want YAML; name another file"
        ) from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"power profiles {file}: got {type(content).__name__}, want a name with its figures "
            "for each profile; see config/power_profiles.yaml"
        )
    return {str(name): _profile(f"{file}: {name}", one) for name, one in content.items()}


def power_profile(file: Path, name: str) -> Power:
    """The profile of a name.

    Raises:
        ConfigError: The file has none of that name; as `power_profiles`.
        UnavailableError: As `power_profiles`.
    """
    profiles = power_profiles(file)
    if name not in profiles:
        raise ConfigError(f"power profile {name!r}: want one of {', '.join(profiles)}")
    return profiles[name]


def _profile(where: str, content: Any) -> Power:
    wanted = [one.name for one in fields(Power)]
    got = sorted(map(str, content)) if isinstance(content, dict) else content
    if not isinstance(content, dict) or got != sorted(wanted):
        raise ConfigError(f"{where}: got {got}, want {', '.join(wanted)}; name each once")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{where}: {name} {value!r}: want a number of watts; write one")
    try:
        return Power(*(float(content[name]) for name in wanted))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
