"""Makes the virtual environment that the Makefile's targets use, or does nothing if it is current.

Needs nothing but a Python; also one that is too old to run the project, to say so.

    python3 scripts/bootstrap.py --venv .venv demo test clients

installs the run-time requirements and those of the named groups (requirements-GROUP.txt), builds
rrto_msgs, and links the package itself. One stamp per step inside the environment holds a hash of
what the step depends on. With --no-ros it is requirements-local.txt, and no rrto_msgs.

For a machine that reaches no registry:

    python3 scripts/bootstrap.py --download wheels demo test clients gpu     # where one is reached
    python3 scripts/bootstrap.py --venv .venv --offline wheels               # there

`--split 60` lays the wheels into folders of at most 60 MiB (wheels/1, wheels/2, ...), so that they
can be brought in pieces. wheels/wheels.json says for which Python and groups they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 13)
GROUPS = ("demo", "test", "clients", "gpu", "models")
OLDER_DRIVERS = "cuda-bindings>=12.9.1,<13"
"""Beside the pinned bindings, for NVIDIA drivers of CUDA 12."""
WITHOUT_WHEEL = "empy"
"""Needed to build rrto_msgs, and a registry has its source only; the wheel is for any Python."""
FOLDER_SAYS = "wheels.json"
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


def check_machine(ros: bool = True) -> None:
    """What cannot be installed by pip must be there."""
    if not ros:
        if sys.platform != "linux":
            fail(f"this is {sys.platform}, want Linux")
        if not any(map(shutil.which, ("cc", "gcc", "clang"))):
            fail("no C compiler found (cc, gcc, clang), needed to build the CUDA shim. Install: "
                 "apt-get install gcc libc6-dev")  # fmt: skip
        return
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
    """One virtual environment and the stamps of what was done to it.

    Args:
        folder: Where it is.
        source: Options of pip that say where packages come from, if not from its registry.
    """

    def __init__(self, folder: Path, source: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        self.source = source

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
        run([self.python, "-m", "pip", *arguments, *self.source, *quiet], what)
        stamp.write_text(wanted)

    def for_cuda_12(self) -> None:
        """The bindings of CUDA 13 are for its drivers: have those of CUDA 12."""
        look = ("import sys; from cuda.bindings import __version__ as v; "
                "sys.exit(not v.startswith('12.'))")  # fmt: skip
        if subprocess.run([self.python, "-c", look], stderr=subprocess.DEVNULL).returncode:
            quiet = ["--disable-pip-version-check", "--no-input"]
            command = [self.python, "-m", "pip", "install", OLDER_DRIVERS, *self.source, *quiet]
            run(command, "cuda-bindings for drivers of CUDA 12")

    def version(self) -> str:
        """Of its Python, for example 3.11."""
        text = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.check_output([self.python, "-c", text], text=True).strip()


def minor(version: str) -> tuple[int, ...]:
    """A version as numbers."""
    return tuple(map(int, version.split(".")))


def requirements(groups: list[str], ros: bool) -> list[str]:
    """The files that name what is to be installed, the run-time's first."""
    first = "requirements.txt" if ros else "requirements-local.txt"
    return [first, *("requirements-" + group + ".txt" for group in groups)]


def split(folder: Path, limit_mib: int) -> None:
    """Lay the wheels of a folder into numbered folders of at most so many MiB each."""
    rooms: list[int] = []
    wheels = sorted(folder.glob("*.whl"), key=lambda path: (-path.stat().st_size, path.name))
    for wheel in wheels:
        size = wheel.stat().st_size
        if size > limit_mib << 20:
            say(f"{wheel.name} alone has {size >> 20} MiB")
        fits = (i for i, used in enumerate(rooms) if used + size <= limit_mib << 20)
        at = next(fits, len(rooms))
        if at == len(rooms):
            rooms.append(0)
        rooms[at] += size
        (folder / str(at + 1)).mkdir(exist_ok=True)
        shutil.move(str(wheel), str(folder / str(at + 1) / wheel.name))


def download(environment: Environment, options: argparse.Namespace) -> None:
    """Fill a folder with the wheels that `--offline` will want of it."""
    folder = Path.cwd() / options.download
    if folder.is_dir() and any(folder.iterdir()):
        fail(f"{folder} is not empty; give a new folder, wheels of two downloads do not mix")
    folder.mkdir(parents=True, exist_ok=True)
    ros, groups = not options.no_ros, options.groups
    own = environment.version()
    version = options.for_python or own
    # pip reads the requirements' conditions as its own Python meets them.
    if (minor(version) < DEMO_OLDEST) != (minor(own) < DEMO_OLDEST):
        fail(
            f"Python {own} cannot choose the wheels of {version}; use one of --venv that is nearer"
        )
    quiet = ["-q", "--no-input", "--disable-pip-version-check"]
    lock = ["-c", "requirements-lock.txt"]
    if ros:
        wheel = ["wheel", *quiet, "--no-deps", "-w", str(folder), WITHOUT_WHEEL, *lock]
        run([environment.python, "-m", "pip", *wheel], "building " + WITHOUT_WHEEL)
    command = [environment.python, "-m", "pip", "download", *quiet, "--only-binary", ":all:",
               "-d", str(folder), "--find-links=" + str(folder)]  # fmt: skip
    command += ["--python-version", version] if version != own else []
    files = [part for path in requirements(groups, ros) for part in ("-r", path)]
    run([*command, *files, *lock], "wheels of " + ", ".join(files[1::2]))
    if "gpu" in groups:
        run([*command, "--no-deps", OLDER_DRIVERS], "cuda-bindings for drivers of CUDA 12")
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if options.split:
        split(folder, options.split)
    says = {"python": version, "machine": platform.machine(), "ros": ros,
            "groups": groups}  # fmt: skip
    (folder / FOLDER_SAYS).write_text(json.dumps(says) + "\n")
    for part in sorted(p for p in [folder, *folder.iterdir()] if any(p.glob("*.whl"))):
        wheels = list(part.glob("*.whl"))
        mib = sum(wheel.stat().st_size for wheel in wheels) / 2**20
        say(f"{part}: {len(wheels)} wheels, {mib:.1f} MiB")
    say(f"{size / 2**20:.0f} MiB for Python {says['python']} on {says['machine']}")


def what_a_folder_has(folder: Path) -> dict[str, object]:
    """What `download` wrote about a folder."""
    try:
        return dict(json.loads((folder / FOLDER_SAYS).read_text()))
    except (OSError, ValueError):
        fail(f"{folder} has no {FOLDER_SAYS}, so it is none that `bootstrap.py --download` filled")
        return {}


def wheels_of(folder: Path) -> tuple[str, ...]:
    """The options that have pip take wheels of a folder, and of the folders in it, alone."""
    parts = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return ("--no-index", *(f"--find-links={part}" for part in parts if any(part.glob("*.whl"))))


def check_folder(folder: Path, has: dict[str, object], ros: bool, groups: list[str]) -> None:
    """A folder of wheels must be for what is wanted; its Python is looked at later."""
    if has["machine"] != platform.machine():
        fail(f"the wheels of {folder} are for {has['machine']}, this is {platform.machine()}")
    if ros and not has["ros"]:
        fail(f"{folder} was filled without ROS (--no-ros); use --no-ros here, too")
    held = list(has["groups"])  # type: ignore[call-overload]
    missing = [group for group in groups if group not in held]
    if missing:
        fail(f"{folder} has no wheels of {', '.join(missing)}, only of: {', '.join(held)}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--no-ros", action="store_true", help="leave out what ROS 2 needs")
    parser.add_argument("--cuda-12", action="store_true", help="for an NVIDIA driver of CUDA 12")
    parser.add_argument("--offline", type=Path, metavar="DIR", help="take wheels from this folder")
    parser.add_argument("--download", type=Path, metavar="DIR", help="only fill this folder")
    parser.add_argument("--for-python", metavar="3.N", help="of --download, if it is another")
    parser.add_argument("--split", type=int, default=0, metavar="MIB", help="of --download")
    parser.add_argument(
        "groups", nargs="*", help=", ".join(GROUPS) + "; with --offline, default: all it has"
    )
    options = parser.parse_args()
    for group in options.groups:
        if group not in GROUPS:
            fail(f"unknown group {group!r}, want some of: {', '.join(GROUPS)}")
    if options.download and options.offline:
        fail("--download and --offline are for two machines; give one of them")
    versions = ["3." + str(number) for number in range(OLDEST[1], NEWEST[1] + 1)]
    if options.for_python not in (None, *versions):
        fail(f"--for-python is {options.for_python!r}, want one of: {', '.join(versions)}")
    if options.split < 0:
        fail(f"--split is {options.split}, want a number of MiB")
    return options


def main() -> int:
    """Bring the environment up to date."""
    options = arguments()
    ros, groups = not options.no_ros, options.groups
    source: tuple[str, ...] = ()
    has: dict[str, object] = {}
    if options.offline:
        folder = Path.cwd() / options.offline
        has = what_a_folder_has(folder)
        groups = groups or list(has["groups"])  # type: ignore[call-overload]
        check_folder(folder, has, ros, groups)
        source = wheels_of(folder)
    if not options.download:
        check_machine(ros)
    environment = Environment(Path.cwd() / options.venv, source)
    environment.create()
    if options.download:
        download(environment, options)
        return 0
    version = environment.version()
    if has and has["python"] != version:
        fail(
            f"the wheels of {options.offline} are for Python {has['python']}, {options.venv} has "
            f"{version}; use that Python (PYTHON=..., a new --venv), or download with this one"
        )
    if "demo" in groups and minor(version) < DEMO_OLDEST:
        say(
            f"Python {version} has no tinygrad that the demo can use (want 3.11 or "
            "newer); everything else works"
        )
    lock = "requirements-lock.txt"
    first, *others = requirements(groups, ros)
    environment.step(
        "runtime" if ros else "local",
        [first, lock],
        "ROS 2 and what the nodes need (from PyPI, about 250 MB, minutes at the first time)"
        if ros
        else "packages of " + first,
        ["install", "-r", first, "-c", lock],
    )
    for path in others:
        group = path[len("requirements-") : -len(".txt")]
        environment.step(
            group, [path, lock], "packages of " + path, ["install", "-r", path, "-c", lock]
        )
    if options.cuda_12:
        environment.for_cuda_12()
    if ros:
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
