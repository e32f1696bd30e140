"""Generates the shim's C, the export list, and docs/driver_calls.md from the table.

python -m rrto_ros.shim.generate            refresh the header snapshot from the wheels, generate
python -m rrto_ros.shim.generate --offline  generate from the committed snapshot
python -m rrto_ros.shim.generate --check    compare with what is committed, without network
... --check --headers OLD NEW               and compare the snapshot with these headers
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rrto_ros.api.results import CUresult
from rrto_ros.api.table import CALLS, UNSUPPORTED_NOTES
from rrto_ros.errors import ConfigError, RrtoError
from rrto_ros.shim import emit_c, emit_tables
from rrto_ros.shim.headers import Snapshot, download, snapshot

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = "rrto_ros/api/_generated/prototypes.json"
_PY_MARK = f'"""{emit_c.MARK}"""'


def snapshot_text(data: Snapshot) -> str:
    """The snapshot as it is committed: one entry a line, so that changes read well."""
    parts = []
    for key, value in data.items():
        if isinstance(value, dict):
            rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            parts.append(f'"{key}": {{\n' + ",\n".join(rows) + "\n}")
        else:
            parts.append(f'"{key}": [\n' + ",\n".join(f"  {json.dumps(v)}" for v in value) + "\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _check_table(data: Snapshot) -> None:
    exports = set(emit_c.export_names(data))
    seen: set[str] = set()
    for call in CALLS:
        for name in call.exports:
            if name not in exports:
                raise ConfigError(f"the table names {name}, which no CUDA header declares")
            if name in seen:
                raise ConfigError(f"the table names {name} twice")
            seen.add(name)
            mine = [kind for kind, _ in emit_c.arguments(data, name)]
            core = [kind for kind, _ in emit_c.arguments(data, call.name)]
            if len(mine) != len(core):
                raise ConfigError(f"{name} has not the arguments of {call.name}")
    for name, number in data["results"].items():
        short = name.removeprefix("CUDA_ERROR_").removeprefix("CUDA_")
        if short in CUresult.__members__ and CUresult[short] != number:
            raise ConfigError(f"results.py: {short} is {CUresult[short]}, cuda.h says {number}")


def _exports_module(data: Snapshot) -> str:
    calls = emit_c.call_of_export()
    names = emit_c.export_names(data)
    lines = [
        _PY_MARK,
        "",
        "from __future__ import annotations",
        "",
        "EXPORTS: tuple[str, ...] = (",
    ]
    lines += [f'    "{name}",' for name in names]
    lines += [")", '"""Exports of the shim, in the order of its counters."""', ""]
    lines += ["CLASSES: dict[str, str] = {"]
    lines += [f'    "{name}": "{calls[name].kind}",' for name in names if name in calls]
    lines += [
        "}",
        '"""Supported export -> "local", "async" or "sync"; the rest is unsupported."""',
    ]
    return "\n".join(lines) + "\n"


def _document(data: Snapshot) -> str:
    since: dict[str, int] = {}
    for _, version, _, symbol in data["proc"]:
        since[symbol] = min(version, since.get(symbol, version))
    supported = sum(len(call.exports) for call in CALLS)
    total = len(emit_c.export_names(data))
    lines = [
        f"<!-- {emit_c.MARK} -->",
        "# Driver calls",
        "",
        f"`libcuda.so.1` of this package exports {total} names; {supported} of them are supported",
        f"({len(CALLS)} calls with their versions and per-thread variants). Every other export",
        "returns `CUDA_ERROR_NOT_SUPPORTED` and is counted by name in the status. So are uses of",
        "supported calls that are refused: export tables, versions of a call that are not",
        "offered, flags and attributes, and images with the reason.",
        "",
        "*local*: answered on the robot. *async*: recorded, returns at once (waits in mode",
        "`rpc`). *sync*: waits for the server.",
        "",
        "| call | class | CUDA since | also as | operations | note |",
        "|---|---|---|---|---|---|",
    ]
    for call in sorted(CALLS, key=lambda c: c.name):
        version = since.get(call.name, 0)
        text = f"{version // 1000}.{version % 1000 // 10}" if version else ""
        also = ", ".join(f"`{a}`" for a in call.aliases)
        ops = ", ".join(f"`{o}`" for o in call.ops)
        lines.append(f"| `{call.name}` | {call.kind} | {text} | {also} | {ops} | {call.note} |")
    lines += emit_tables.tables_document()
    lines += ["", "## Not supported, and why", "", "| call | reason |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(UNSUPPORTED_NOTES.items())]
    return "\n".join(lines) + "\n"


def generate(data: Snapshot) -> dict[str, str]:
    """Every generated file: path in the repository -> text.

    Raises:
        ConfigError: The table does not fit the headers.
    """
    _check_table(data)
    c = "rrto_ros/shim/generated"
    return {
        SNAPSHOT: snapshot_text(data),
        "rrto_ros/api/_generated/__init__.py": f"{_PY_MARK}\n",
        "rrto_ros/api/_generated/exports.py": _exports_module(data),
        f"{c}/cuda_types.h": emit_c.types_header(data),
        f"{c}/ops.h": emit_c.ops_header(),
        f"{c}/ops.c": emit_c.ops_source(),
        f"{c}/driver_api.h": emit_c.api_header(data),
        f"{c}/ring_layout.h": emit_c.ring_header(),
        f"{c}/stubs.c": emit_c.stubs_source(data),
        f"{c}/procs.c": emit_c.proc_source(data),
        f"{c}/runtime_tables.h": emit_tables.tables_header(),
        f"{c}/runtime_tables.c": emit_tables.tables_source(),
        f"{c}/errors.c": emit_c.errors_source(data),
        "docs/driver_calls.md": _document(data),
    }


def committed(root: Path = ROOT) -> Snapshot:
    """The committed snapshot.

    Raises:
        ConfigError: It is missing or damaged.
    """
    path = root / SNAPSHOT
    try:
        data: Snapshot = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}; run make gen") from error
    return data


def differences(files: dict[str, str], root: Path = ROOT) -> list[str]:
    """Paths whose committed text is not the generated one."""
    return [
        path
        for path, text in files.items()
        if not (root / path).exists() or (root / path).read_text() != text
    ]


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--offline", action="store_true", help="use the committed snapshot")
    parser.add_argument(
        "--headers", nargs="+", type=Path, help="folders with cuda.h, oldest first"
    )
    options = parser.parse_args(arguments)
    if options.headers:
        data = snapshot(options.headers)
    elif options.check or options.offline:
        data = committed()
    else:
        with tempfile.TemporaryDirectory() as folder:
            data = snapshot(download(Path(folder)))
    files = generate(data)
    wrong = differences(files)
    if options.check:
        for path in wrong:
            sys.stderr.write(f"{path} is not what the table generates; run make gen\n")
        return 1 if wrong else 0
    for path in wrong:
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(files[path])
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1:]))
    except RrtoError as problem:
        sys.exit(f"rrto: {problem}")
