"""What an evaluation keeps: its settings, every run, and the file that has both.

The file is written anew after each run, so that what was stopped goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import rrto_ros
from rrto_ros.disk_store import write_whole
from rrto_ros.errors import ConfigError

FILE = "results.json"
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What makes two runs comparable: an evaluation that goes on has the same ones.

    Attributes:
        program: Program and arguments.
        link: Its name.
        link_origin: Where the link's figures are from.
        link_digest: Of its steps.
        modes: To compare.
        device: Of the server.
        latency_pattern, result_pattern: As of `watching.Wanted`.
        compare_output: Whether what the program wrote has to be equal in all modes.
        cuda_runtime: Whether the CUDA runtime's check is answered.
    """

    program: list[str]
    link: str
    link_origin: str
    link_digest: str
    modes: list[str]
    device: str
    latency_pattern: str = ""
    result_pattern: str = ""
    compare_output: bool = False
    cuda_runtime: bool = False


def machine() -> dict[str, Any]:
    """What the figures were taken on; those of different machines do not compare."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of what took part."""
    out = {"rrto_ros": rrto_ros.__version__, "python": platform.python_version()}
    for name in ("numpy", "llvmlite", "ros-rclpy", "ros-rmw-fastrtps-cpp"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def now() -> str:
    """The time of day, for people."""
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")


@dataclass
class Results:
    """An evaluation, as far as it got.

    Attributes:
        settings: Of all its runs.
        runs: In the order in which they were made; each has `mode` and `round`.
        on: The machine.
        versions: Of what took part.
    """

    settings: Settings
    runs: list[dict[str, Any]] = field(default_factory=list)
    on: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)

    def done(self) -> set[tuple[str, int]]:
        """(mode, round) of every run."""
        return {(run["mode"], run["round"]) for run in self.runs}

    def of(self, mode: str) -> list[dict[str, Any]]:
        """The runs of a mode that went well, the first round first."""
        found = [r for r in self.runs if r["mode"] == mode and not r["failed"]]
        return sorted(found, key=lambda run: run["round"])

    def write(self, folder: Path) -> None:
        """Write the file.

        Raises:
            ConfigError: It cannot be written.
        """
        body = {"format": FORMAT, **asdict(self)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / FILE, (json.dumps(body, indent=1) + "\n").encode(), mode=0o644)
        except OSError as error:
            raise ConfigError(
                f"cannot write {folder / FILE}: {error.strerror}; give another --output"
            ) from error


def read(path: Path) -> Results:
    """An evaluation from its file, or from the folder that has it.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    file = path / FILE if path.is_dir() else path
    try:
        body = json.loads(file.read_text())
        if body["format"] != FORMAT:
            raise ConfigError(f"{file} has format {body['format']}, want {FORMAT}; make it again")
        runs = [dict(run) for run in body["runs"]]
        for run in runs:
            run["mode"], run["round"], run["failed"]
        return Results(Settings(**body["settings"]), runs, body["on"], body["versions"])
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} has no results of `rrto evaluate`: {error!r}") from error


def differences(kept: Settings, wanted: Settings) -> list[str]:
    """The settings that differ, each with both values."""
    before, after = asdict(kept), asdict(wanted)
    names = [name for name in before if before[name] != after[name]]
    if "link" in names or "link_digest" not in names:
        names = [name for name in names if name not in ("link_digest", "link_origin")]
    return [f"{name} {_short(before[name])}, now {_short(after[name])}" for name in names]


def opened(folder: Path, wanted: Settings, *, again: bool) -> Results:
    """The results in a folder, to go on with; or none yet.

    Args:
        folder: Where they are, or will be.
        wanted: Settings of the runs to come.
        again: Forget what is there.

    Raises:
        ConfigError: What is there was made with other settings; the text names them.
    """
    if again or not (folder / FILE).exists():
        return Results(wanted)
    kept = read(folder)
    if differing := differences(kept.settings, wanted):
        raise ConfigError(
            f"{folder / FILE} was made with other settings: {'; '.join(differing)}. Give another "
            "--output, or --again to start anew"
        )
    # What failed is tried again.
    kept.runs = [run for run in kept.runs if not run["failed"]]
    return kept


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def unequal(results: Results) -> list[str]:
    """Modes and rounds whose output is not the first run's; empty where nothing is compared."""
    if not results.settings.compare_output:
        return []
    good: Iterable[Mapping[str, Any]] = [run for run in results.runs if not run["failed"]]
    first = next(iter(good), None)
    return [
        f"{run['mode']}, round {run['round'] + 1}"
        for run in good
        if first is not None and run["results"] != first["results"]
    ]
