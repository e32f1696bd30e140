"""The parameter file and the tables of parameters: ``python -m rrto_ros.bringup.parameter_pages``.

With ``--check`` it writes nothing and fails if a file is not what `rrto_ros.api.parameters` says.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rrto_ros.api.parameters import NODES, RECORDER, REPLAY, Parameter

ROOT = Path(__file__).resolve().parents[2]
_MARKS = re.compile(r"(<!-- parameters: ([\w-]+)[^>]* -->\n).*?(<!-- end -->)", re.DOTALL)
_OFTEN = {
    "offload_server": (
        "device", "server_name", "drain_timeout_s", "limit_bytes", "max_sessions",
        "session_timeout_s", "launch_timeout_s",
        "memcheck", "blob_cache_bytes",
    ),
    "recorder_replayer": (
        "mode", "search", "min_repetitions", "run_ahead", "plan_cache_bytes", "linger_us",
        "server_timeout_s", "resume", "outage_timeout_s", "fallback", "servers",
        "connect_timeout_s",
        "blob_references", "force_deactivate", "autostart",
    ),
}  # fmt: skip
"""What README shows."""
_YAML_HEAD = """\
# Made by python -m rrto_ros.bringup.parameter_pages: do not edit.
# Parameters of the nodes of rrto_ros. What a launch argument or an option of `rrto up` sets goes
# over these; a file of your own (params_file) does too. `ros2 param describe` explains each.
"""


def yaml_text() -> str:
    """The text of config/rrto_ros.yaml."""
    out = [_YAML_HEAD.rstrip()]
    for node, described in NODES.items():
        out += [f"/**/{node}:", "  ros__parameters:"]
        for p in described.values():
            if p.in_file:
                text = f"{p.explanation} Values: {_range(p)}."
                out += [f"    # {line}" for line in textwrap.wrap(text, 92)]
                out.append(f"    {p.name}: {p.default}")
    return "\n".join(out) + "\n"


def number(name: str, value: float) -> str:
    """A value as people read it; bytes in units of 1024."""
    if name.endswith("_bytes") and value >= 1024:
        for bits, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value % (1 << bits) == 0:
                return f"{int(value) >> bits} {unit}"
    return f"{value:.10g}"


def _range(p: Parameter) -> str:
    if p.choices:
        return ", ".join(choice or "empty" for choice in p.choices)
    return " to ".join(number(p.name, end) for end in p.span) if p.span else ""


def _default(p: Parameter) -> str:
    if p.shown or p.default == "":
        return p.shown or "empty"
    if isinstance(p.default, int | float) and not isinstance(p.default, bool):
        return number(p.name, p.default)
    return f"`{str(p.default).lower() if isinstance(p.default, bool) else p.default}`"


def _table(rows: Iterable[tuple[str, Parameter]], first: str) -> str:
    lines = [f"| {first} | parameter | default | values | meaning |", "|---|---|---|---|---|"]
    for cell, p in rows:
        text = p.text.replace("<", "\\<").replace("|", "\\|")
        lines.append(f"| {cell} | `{p.name}` | {_default(p)} | {_range(p)} | {text} |")
    return "\n".join(lines) + "\n"


def tables() -> dict[str, str]:
    """Each table, by the name in the markers around it."""
    often = [(node, NODES[node][name]) for node, names in _OFTEN.items() for name in names]
    return {
        "often": _table(often, "node"),
        "recorder": _table(
            ((p.changes, p) for p in RECORDER.values() if p not in REPLAY), "changes"
        ),
        "replay": _table((("launch, `up`, `run`", p) for p in REPLAY), "also an option of"),
    }


def pages() -> dict[Path, str]:
    """The text that each file is to have."""
    made = tables()

    def filled(match: re.Match[str]) -> str:
        return match[1] + made[match[2]] + match[3]

    out = {ROOT / "config" / "rrto_ros.yaml": yaml_text()}
    for name in ("README.md", "docs/replay.md", "docs/recorder_replayer.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        out[ROOT / name] = _MARKS.sub(filled, text)
    return out


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description="Makes parameter file and tables from the code.")
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    code = 0
    for path, text in pages().items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(
                f"{path.relative_to(ROOT)} is not what the code says; run python -m "
                f"{__spec__.name}",
                file=sys.stderr,
            )
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
