"""Sets up an environment for each Python that the project supports, and runs the unit tests there.

    python3 scripts/pythons.py                      # every one that is found
    python3 scripts/pythons.py 3.12 -- -k search    # one, a part of the tests

A Python is looked for on the PATH and among pyenv's. Environments are kept in .venvs/VERSION, so
that a second run is quick. Ends with a table, and with 1 if a test failed somewhere.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import bootstrap  # noqa: E402

WANTED = tuple(f"3.{minor}" for minor in range(bootstrap.OLDEST[1], bootstrap.NEWEST[1] + 1))
GROUPS = ("demo", "test", "clients")
COUNTS = ("passed", "failed", "error", "skipped")


def found(version: str) -> str | None:
    """A Python of this version that starts (pyenv puts commands on the PATH that need not)."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")), "versions")
    candidates = [
        *filter(None, [shutil.which(name)]),
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/{name}"), reverse=True)),
    ]
    for command in candidates:
        said = subprocess.run(
            [command, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if said.returncode == 0 and said.stdout.startswith(version + " "):
            return said.stdout.split(None, 1)[1].strip()
    return None


def tested(version: str, python: str, workers: int, more: list[str]) -> tuple[int, str]:
    """Set one up and run the unit tests in it; exit code and pytest's last line."""
    venv = ROOT / ".venvs" / version
    setup = [python, str(ROOT / "scripts" / "bootstrap.py"), "--venv", str(venv), *GROUPS]
    done = subprocess.run(setup, cwd=ROOT, check=False)
    if done.returncode:
        return done.returncode, "set-up failed"
    command = [str(venv / "bin" / "python"), "-m", "pytest", "test/unit", "-q", "-n", str(workers)]
    command += ["--dist", "loadgroup", "-p", "no:cacheprovider", *more]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line.strip() or last
    return running.returncode, last


def row(version: str, last: str, seconds: float) -> str:
    """A line of the table, from pytest's last line."""
    numbers = {
        "error" if what == "errors" else what: int(count)
        for count, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)
    }
    if not numbers:
        return f"{version:8} {last}"
    counts = "".join(f"{numbers.get(what, 0):>9}" for what in COUNTS)
    return f"{version:8}{counts}{seconds / 60:>9.1f}"


def main() -> int:
    """Every Python that is asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", help=", ".join(WANTED))
    parser.add_argument("--workers", type=int, default=1, help="of pytest (%(default)s)")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    for version in options.versions:
        if version not in WANTED:
            parser.error(f"Python {version!r}: want some of {', '.join(WANTED)}")
    rows, code = [], 0
    for version in options.versions or WANTED:
        python = found(version)
        if python is None:
            rows.append(f"{version:8} not found on the PATH or among pyenv's")
            continue
        print(f"== Python {version}: {python}", flush=True)
        started = time.monotonic()
        result, last = tested(version, python, options.workers, words[cut + 1 :])
        code = code or int(result != 0)
        rows.append(row(version, last, time.monotonic() - started))
    print(
        f"{'Python':8}" + "".join(f"{what:>9}" for what in (*COUNTS, "minutes")), *rows, sep="\n"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
