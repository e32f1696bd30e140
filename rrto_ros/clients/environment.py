"""A Python environment seen from outside: owns finding its packages, without importing them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from rrto_ros.clients.catalogue import normalised
from rrto_ros.errors import ConfigError

_ASK = (
    "import json, sys; "
    "print(json.dumps([list(sys.version_info[:3]), sys.prefix, [p for p in sys.path if p]]))"
)
_ANSWER_S = 30.0


@dataclass(frozen=True)
class Environment:
    """Where a program's packages come from.

    Attributes:
        name: How the user can find it: its interpreter, or its folder.
        version: Of its Python, empty if not known.
        paths: Folders of packages, in the order in which they are looked through.
    """

    name: str
    version: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: Normalised.
        version: As its metadata says.
        distribution: Its metadata; the files that it lists are read when they are asked for.
    """

    name: str
    version: str
    distribution: importlib.metadata.Distribution

    def libraries(self, module: str = "") -> list[Path]:
        """Its shared libraries that are there, in order.

        Args:
            module: Folder that is looked into if the metadata lists no files.
        """
        files = self.distribution.files
        if files is not None:
            found = (Path(str(self.distribution.locate_file(f))) for f in files if _is_library(f))
        elif module:
            folder = Path(str(self.distribution.locate_file(module)))
            found = (path for path in folder.rglob("*.so*") if _is_library(path))
        else:
            return []
        return sorted(path for path in found if path.is_file())


def of_python(python: Path) -> Environment:
    """The environment that an interpreter has.

    Raises:
        ConfigError: It does not start, or is no Python.
    """
    found = shutil.which(str(python)) or str(python)
    try:
        done = subprocess.run(
            [found, "-W", "ignore", "-c", _ASK],
            capture_output=True, text=True, check=True, timeout=_ANSWER_S,
        )  # fmt: skip
        version, prefix, paths = json.loads(done.stdout.splitlines()[-1])
        text = ".".join(map(str, version))
        return Environment(f"{found} ({prefix})", text, tuple(map(Path, paths)))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{found} does not answer as a Python does ({error}); give the interpreter that runs "
            "your program (--python), or the folder of its virtual environment (--venv)"
        ) from error


def of_venv(folder: Path) -> Environment:
    """The environment in a folder, also where its interpreter is not there or does not start.

    Raises:
        ConfigError: There is none.
    """
    python = folder / "bin" / "python"
    if os.access(python, os.X_OK):
        return of_python(python)
    found = sorted(folder.glob("lib/python3*/site-packages"))
    if not found:
        raise ConfigError(
            f"{folder} holds no Python environment (no bin/python, no lib/python3*/site-packages)"
        )
    return Environment(str(folder), found[-1].parent.name.removeprefix("python"), tuple(found))


def default() -> Environment:
    """The environment of the `python` that `rrto run -- python` would start."""
    names = (shutil.which(name) for name in ("python", "python3"))
    return of_python(Path(next(filter(None, names), sys.executable)))


def packages(environment: Environment) -> Iterator[Package]:
    """Every package of an environment; of several with one name the one that is imported."""
    seen: set[str] = set()
    paths = [str(path) for path in environment.paths]
    for one in importlib.metadata.distributions(path=paths):
        # Without metadata, a folder of that kind is what an interrupted removal left.
        name = normalised(one.metadata["Name"] or "") if one.metadata else ""
        if not name or name in seen:
            continue
        seen.add(name)
        yield Package(name, one.version or "?", one)


def _is_library(path: PurePath) -> bool:
    return path.suffix == ".so" or ".so." in path.name
