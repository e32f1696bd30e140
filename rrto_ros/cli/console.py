"""Where the command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from rrto_ros.errors import ConfigError

out = Console(highlight=False, soft_wrap=True)
"""For what the user asked for."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress, summaries and errors."""

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue")


def note(text: str) -> None:
    """One line of progress."""
    err.print(f"[dim]rrto:[/dim] {_plain(text)}")


def process_line(name: str, line: str) -> None:
    """One line of output of a process that the command started."""
    colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
    err.print(f"[{colour}]\\[{name}][/{colour}] {_plain(line)}")


def write_json(path: Path, value: Any) -> None:
    """Write a report.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write the report {path}: {error.strerror}") from error


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
