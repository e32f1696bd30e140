"""Makes the virtual environment that the Makefile's targets use, or does nothing if it is current.

Needs nothing but a Python; also one that is too old to run the project, to say so.

    python3 scripts/bootstrap.py --venv .venv demo test clients

installs the run-time requirements and those of the named groups (requirements-GROUP.txt), builds
rrto_msgs, and links the package itself. One stamp per step inside the environment holds a hash of
what the step depends on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 13)
GROUPS = ("demo", "test", "clients", "gpu")
DEMO_OLDEST = (3, 11)


def fail(text: str) -> None:
    """Say what is wrong and end."""
    sys.stderr.write("\nset-up stopped: " + text + "\n")
    raise SystemExit(2)


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write("[set-up] " + text + "\n")
    sys.stdout.flush()


def python_ok(version: tuple[int, int]) -> bool:
    """Whether wheels of ROS 2 exist for this Python."""
    return OLDEST <= version <= NEWEST


def choose_python() -> str:
    """This Python if ROS 2 wheels exist for it, else a newer or older one on the PATH."""
    if python_ok(sys.version_info[:2]):
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            say(f"python3 is {platform.python_version()}, using {found}")
            return found
    fail(
        f"python3 is {platform.python_version()}, want 3.10 to 3.13 (the ROS 2 wheels exist for "
        "those only). Install one of them and run: make PYTHON=python3.11 ..."
    )
    return ""


def check_machine() -> None:
    """What cannot be installed by pip must be there."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        fail(
            f"this is {sys.platform} on {platform.machine()}, want Linux on x86_64 (the ROS 2 "
            "wheels exist for that only). On other machines install ROS 2 and use: colcon build "
            "--base-paths . rrto_msgs"
        )
    missing = [tool for tool in ("g++", "make") if shutil.which(tool) is None]
    if missing:
        fail(
            f"{' and '.join(missing)} not found, needed to build rrto_msgs and the CUDA shim. "
            f"Install: apt-get install {' '.join(missing)}"
        )


def run(arguments: list[str], what: str) -> None:
    """Run a step; its output is shown only if it fails."""
    say(what + " ...")
    start = time.monotonic()
    # The wheels of ROS would otherwise be found through the environment that called us.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    }
    # A sourced ROS would make rrto_msgs build against it instead of against the wheels.
    for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH"):
        environment.pop(name, None)
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        fail(f"{what} failed (exit code {done.returncode}):\n{tail}")
    say(f"{what}: {time.monotonic() - start:.0f} s")


def hash_of(paths: list[str]) -> str:
    """SHA-256 over the names and contents of files and folders under the project's root."""
    files: list[Path] = []
    for path in paths:
        full = ROOT / path
        files += sorted(p for p in full.rglob("*") if p.is_file()) if full.is_dir() else [full]
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(ROOT)
        if not {"build", "__pycache__"} & set(name.parts):
            digest.update(str(name).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Environment:
    """One virtual environment and the stamps of what was done to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")

    def create(self) -> None:
        """Make it, unless it is there and its Python still runs."""
        if Path(self.python).exists():
            alive = subprocess.run(
                [self.python, "-m", "pip", "--version"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            if alive.returncode == 0:
                return
            say(f"{self.folder} does not run any more, making it anew")
        python = choose_python()
        shutil.rmtree(self.folder, ignore_errors=True)
        probe = subprocess.run(
            [python, "-c", "import ensurepip, venv"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if probe.returncode == 0:
            run([python, "-m", "venv", str(self.folder)], f"virtual environment {self.folder}")
        elif shutil.which("virtualenv"):
            run(["virtualenv", "-q", "-p", python, str(self.folder)], f"virtualenv {self.folder}")
        else:
            fail(
                f"{python} has no module venv with ensurepip (Debian and Ubuntu ship it apart). "
                "Install: apt-get install python3-venv"
            )

    def step(self, name: str, depends: list[str], what: str, arguments: list[str]) -> None:
        """Run pip with `arguments` unless the stamp says that nothing changed since."""
        stamp = self.folder / f".stamp-{name}"
        wanted = hash_of(depends) + " " + " ".join(arguments)
        try:
            if stamp.read_text() == wanted:
                return
        except OSError:
            pass
        quiet = ["--disable-pip-version-check", "--no-input"]
        run([self.python, "-m", "pip", *arguments, *quiet], what)
        stamp.write_text(wanted)


def main() -> int:
    """Bring the environment up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("groups", nargs="*", help=", ".join(GROUPS))
    options = parser.parse_args()
    for group in options.groups:
        if group not in GROUPS:
            fail(f"unknown group {group!r}, want some of: {', '.join(GROUPS)}")
    check_machine()
    environment = Environment(Path.cwd() / options.venv)
    environment.create()
    version = subprocess.check_output(
        [environment.python, "-c", "import sys; print(*sys.version_info[:2])"],
        text=True,
    ).split()
    if "demo" in options.groups and (int(version[0]), int(version[1])) < DEMO_OLDEST:
        say(
            f"Python {'.'.join(version)} has no tinygrad that the demo can use (want 3.11 or "
            "newer); everything else works"
        )
    lock = "requirements-lock.txt"
    environment.step(
        "runtime",
        ["requirements.txt", lock],
        "ROS 2 and what the nodes need (from PyPI, about 250 MB, minutes at the first time)",
        ["install", "-r", "requirements.txt", "-c", lock],
    )
    for group in options.groups:
        path = f"requirements-{group}.txt"
        environment.step(
            group, [path, lock], "packages of " + path, ["install", "-r", path, "-c", lock]
        )
    environment.step(
        "rrto_msgs",
        ["rrto_msgs", lock],
        "building rrto_msgs (about half a minute)",
        ["install", "--no-build-isolation", "--no-deps", "--force-reinstall", "./rrto_msgs"],
    )
    environment.step(
        "rrto_ros",
        ["setup.py", "setup.cfg", "pyproject.toml", "package.xml"],
        "linking rrto_ros",
        ["install", "--no-build-isolation", "--no-deps", "-e", "."],
    )
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        sys.stderr.write("\nset-up stopped: interrupted\n")
        raise SystemExit(130) from None
