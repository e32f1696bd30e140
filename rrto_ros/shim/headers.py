"""Reads the CUDA headers of NVIDIA's PyPI wheels into a snapshot of prototypes and types.

Only facts of the interface are kept (names, argument types, which version brought which symbol);
no header text is. The snapshot is committed as `rrto_ros/api/_generated/prototypes.json`, so that
generating needs no network and building needs no NVIDIA package.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.shim.build import compiler

WHEELS = ("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-runtime==13.5.37")
"""Oldest first: of a name in both, the newer prototype counts."""

_PROTOTYPE = re.compile(r"\bCUresult (cu\w+) ?\(([^()]*)\) ?;")
_PFN = re.compile(r"\*PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)?\) ?\(")
_ARGUMENT = re.compile(r"^(.*?)(\w+)((?:\[\w*\])?)$")

Snapshot = dict[str, Any]


def download(folder: Path) -> list[Path]:
    """Fetch the wheels and unpack their headers.

    Returns:
        One include folder per wheel, in the order of `WHEELS`.

    Raises:
        UnavailableError: pip could not fetch a wheel.
    """
    found = []
    for requirement in WHEELS:
        target = folder / requirement.split("==")[0]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", str(target), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(target.glob("*.whl"))
        if done.returncode or not wheels:
            raise UnavailableError(
                f"cannot download {requirement} for its CUDA headers; give folders with cuda.h "
                f"by --headers, or try again: {done.stderr.strip()[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(target, [n for n in archive.namelist() if n.endswith(".h")])
        found.append(next(target.rglob("cuda.h")).parent)
    return found


def _preprocess(include: Path, header: str) -> str:
    command = [compiler(), "-E", "-P", "-D__CUDA_API_VERSION_INTERNAL", f"-I{include}", "-xc", "-"]
    done = subprocess.run(
        command, input=f'#include "{header}"\n', capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"cannot preprocess {include / header}: {done.stderr.strip()[-500:]}")
    return re.sub(r"\s+", " ", re.sub(r"__attribute__ ?\(\(.*?\)\)", " ", done.stdout))


def _arguments(text: str) -> list[list[str]]:
    if text.strip() in ("", "void"):
        return []
    out: list[list[str]] = []
    for part in text.split(","):
        found = _ARGUMENT.match(part.strip())
        if found is None:
            raise ConfigError(f"cannot read the argument {part!r}")
        kind, name, array = found.groups()
        if not kind.strip():  # an unnamed argument
            kind, name = name, f"arg{len(out)}"
        kind = re.sub(r"\s*\*\s*", "*", kind.strip()) + ("*" if array else "")
        out.append([kind, name])
    return out


def _types(text: str) -> dict[str, str]:
    """Name -> "handle", "enum", "struct", "function" or the C type it stands for."""
    out: dict[str, str] = {}
    for match in re.finditer(r"typedef struct \w+ ?\* ?(\w+) ?;", text):
        out[match[1]] = "handle"
    for match in re.finditer(r"typedef enum \w* ?\{[^{}]*\} ?(\w+) ?;", text):
        out[match[1]] = "enum"
    for match in re.finditer(r"typedef [\w ]+?\*? ?\( ?\* ?(\w+)\) ?\(", text):
        out[match[1]] = "function"
    for match in re.finditer(r"\} ?(CU\w+|cu\w+) ?;", text):
        out.setdefault(match[1], "struct")
    for match in re.finditer(r"typedef (const )?([\w ]+?)( ?\* ?| )(\w+) ?;", text):
        if match[4].lower().startswith("cu") and match[4] not in out:
            pointer = "*" if "*" in match[3] else ""
            out[match[4]] = f"{match[1] or ''}{match[2]}{pointer}"
    for match in re.finditer(r"typedef struct (\w+) (CU\w+) ?;", text):
        out[match[2]] = "struct"
    return out


def _results(header: str) -> dict[str, int]:
    """CUresult names and numbers."""
    body = re.search(r"typedef enum cudaError_enum \{(.*?)\} ?CUresult", header)
    if body is None:
        raise ConfigError("no CUresult in cuda.h")
    pairs = re.findall(r"(CUDA_\w+) ?= ?(\d+)", body[1])
    return {name: int(number) for name, number in pairs}


def _symbols(base: str, variant: str, exports: set[str]) -> list[str]:
    """Exported names of one call, by ascending version."""
    names = [f"{base}{suffix}{variant}" for suffix in ("", "_v2", "_v3", "_v4", "_v5")]
    return [n for n in names if n in exports]


def _proc_map(text: str, exports: set[str]) -> list[list[Any]]:
    """(name, since version, per-thread variant, symbol) as cuGetProcAddress answers."""
    versions: dict[tuple[str, str], set[int]] = {}
    for base, version, variant in _PFN.findall(text):
        versions.setdefault((base, variant), set()).add(int(version))
    out: list[list[Any]] = []
    for (base, variant), since in sorted(versions.items()):
        symbols = _symbols(base, variant, exports)
        if len(symbols) != len(since):
            raise ConfigError(f"{base}{variant}: symbols {symbols} but versions {sorted(since)}")
        for version, symbol in zip(sorted(since), symbols, strict=True):
            out.append([base, version, bool(variant), symbol])
    return out


def snapshot(includes: list[Path]) -> Snapshot:
    """Read the headers in `includes`, oldest version first.

    Raises:
        ConfigError: A header does not look as expected.
    """
    exports: dict[str, list[list[str]]] = {}
    types: dict[str, str] = {}
    releases: dict[str, int] = {}
    results: dict[str, int] = {}
    typedefs = ""
    for include in includes:
        text = _preprocess(include, "cuda.h")
        version = re.search(r"#define CUDA_VERSION (\d+)", (include / "cuda.h").read_text())
        if version is None:
            raise ConfigError(f"{include / 'cuda.h'}: no CUDA_VERSION")
        found = {m[1]: _arguments(m[2]) for m in _PROTOTYPE.finditer(text)}
        exports.update(found)
        types.update(_types(text))
        results.update(_results(text))
        releases[version[1]] = len(found)
        typedefs += (include / "cudaTypedefs.h").read_text()
    used = {word for args in exports.values() for kind, _ in args for word in kind.split()}
    names = {re.sub(r"\W", "", word) for word in used}
    while True:  # keep what the kept ones stand for
        more = {re.sub(r"\W", "", types[n]) for n in names if n in types} - names
        if not more:
            break
        names |= more
    return {
        "releases": releases,
        "exports": dict(sorted(exports.items())),
        "results": results,
        "types": {name: types[name] for name in sorted(names) if name in types},
        "proc": _proc_map(typedefs, set(exports)),
    }
