"""Builds the shim with the system's C compiler, when its sources changed, and says where it is.

Two libraries: `libcuda.so.1` (with `libcuda.so` beside it), which the interposed program loads,
and `librrto_recorder.so`, the ring's atomics and the matching with plans for the recorder, and
the nodes' watchdog;
`libnvidia-ml.so.1` beside the first, without which some programs see no GPU; and the stand-ins
for libraries that make machine code, for programs whose device executes PTX. They lie in `lib/`
inside the package: setup.py puts them there when a wheel is built or the package installed, so
that no compiler is needed where it runs. In a source tree they are built when first needed, there
if that is writable, else in the user's cache under the hash of the sources, else in the user's
runtime folder.
`ensure_built()` is the one entry point; it costs one hash of the sources when nothing changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.runtime_files import runtime_folder

SHIM = Path(__file__).resolve().parent
CFLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O2",
    "-g",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
)
_RECORDER_ONLY = ("ring_atomics.c", "recorder_match.c", "watchdog.c")
_RECORDER = (*_RECORDER_ONLY, "match.c", "lanes.c", "plans.c")
"""The sources of the recorder's library; some are the shim's too."""
STAND_INS = {
    **{f"libnvJitLink.so.{major}": ("standins/nvjitlink.c",) for major in (12, 13)},
    "librrto_nvrtc.so": ("standins/nvrtc.c", "core/linked.c"),
}
"""Stand-in -> its sources. One that has a library's name is that library to who looks for it."""
STAND_IN_FOLDER = "standins"
NVML, _NVML_SOURCE = "libnvidia-ml.so.1", "standins/nvml.c"
_STAMP = "build.sha256"


def compiler() -> str:
    """The C compiler: `$CC`, else the first of cc, gcc, clang that is there.

    Raises:
        UnavailableError: There is none.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise UnavailableError(
        "no C compiler found (looked for $CC, cc, gcc, clang) to build the CUDA shim; install "
        "one, for example: apt-get install gcc, or install a wheel of rrto_ros, which holds it"
    )


def sources() -> tuple[list[Path], list[Path]]:
    """(C files of libcuda.so.1, every file whose change means a new build)."""
    core = sorted((SHIM / "core").glob("*.c"))
    generated = sorted((SHIM / "generated").glob("*.c"))
    units = [p for p in core + generated if p.name not in _RECORDER_ONLY]
    stand_ins = sorted((SHIM / "standins").glob("*.c"))
    headers = sorted((SHIM / "core").glob("*.h")) + sorted((SHIM / "generated").glob("*.h"))
    return units, [*core, *generated, *headers, *stand_ins]


def source_hash(cflags: Sequence[str] = CFLAGS) -> str:
    """SHA-256 (hex) over the sources, their names, the flags and the kind of processor."""
    digest = hashlib.sha256(" ".join((platform.machine(), *cflags)).encode())
    for path in sources()[1]:
        digest.update(f"\n{path.parent.name}/{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cc(arguments: Sequence[str]) -> None:
    command = [compiler(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(
            f"the C compiler failed while building the CUDA shim: {' '.join(command)}\n"
            f"{done.stderr.strip()[-4000:]}"
        )


def build_stamped(target: Path) -> None:
    """`build` what this machine needs, and note of which sources it is; makes the folder.

    Raises:
        UnavailableError: As `build`.
        OSError: The folder cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    build(target)
    (target / _STAMP).write_text(source_hash())


def build(target: Path, cflags: Sequence[str] = CFLAGS) -> None:
    """Compile both libraries into `target`, each put in place whole.

    Args:
        target: An existing folder.
        cflags: Compiler flags.

    Raises:
        UnavailableError: No compiler, or it refused the sources; the text holds its output.
    """
    units, _ = sources()
    include = [f"-I{SHIM / 'core'}", f"-I{SHIM / 'generated'}"]
    with tempfile.TemporaryDirectory(dir=target, prefix=".build-") as folder:
        work = Path(folder)
        recorder = work / "librrto_recorder.so"
        own = [str(SHIM / "core" / name) for name in _RECORDER]
        _cc([*cflags, *include, *own, "-shared", "-Wl,-z,defs", "-o", str(recorder)])
        made = [recorder]
        if units:
            cuda = work / "libcuda.so.1"
            link = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-o", str(cuda)]
            _cc([*cflags, *include, *map(str, units), *link, "-ldl"])
            # The name without a version, as a library that loads the other: a wheel holds no
            # links, and a copy would be a second shim in a program that loads both names.
            plain = work / "libcuda.so"
            link = ["-shared", "-Wl,-soname,libcuda.so", "-Wl,--disable-new-dtags"]
            link += ["-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", str(cuda), "-o", str(plain)]
            _cc([*cflags, "-x", "c", os.devnull, "-x", "none", *link])
            nvml = work / NVML
            link = ["-shared", f"-Wl,-soname,{NVML}", "-Wl,-z,defs", "-o", str(nvml)]
            _cc([*cflags, str(SHIM / _NVML_SOURCE), *link])
            made += [cuda, plain, nvml]
        for name, files in STAND_INS.items():
            link = ["-shared", f"-Wl,-soname,{name}", "-o", str(work / name)]
            if name.startswith("libnvJitLink"):
                # Programs want the functions in the version of the library's name.
                versions = work / f"{name}.map"
                versions.write_text(f"{name} {{ global: *nvJitLink*; local: *; }};\n")
                # Not by -Wl, which ends at a comma: the path is the user's.
                link += ["-Xlinker", f"--version-script={versions}"]
            _cc([*cflags, *include, *(str(SHIM / file) for file in files), *link, "-ldl"])
            made.append(work / name)
        for path in made:
            # Stand-ins apart: only who is told to loads them.
            place = target / STAND_IN_FOLDER if path.name in STAND_INS else target
            place.mkdir(exist_ok=True)
            path.replace(place / path.name)


def _fresh(folder: Path, stamp: str) -> bool:
    try:
        return (folder / _STAMP).read_text() == stamp and (folder / "librrto_recorder.so").exists()
    except OSError:
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _places(stamp: str) -> Iterator[Path]:
    """In the package, else in the user's cache, else, without a home, until the next boot."""
    # setup.py runs this module before what the package requires is there.
    from rrto_ros.disk_store import cache_directory

    yield SHIM / "lib"
    for folder in (cache_directory, runtime_folder):
        with contextlib.suppress(ConfigError, OSError):
            yield folder() / "shim" / stamp[:16]


def ensure_built() -> Path:
    """The folder that holds the libraries, for LD_LIBRARY_PATH; builds them if sources changed.

    Raises:
        UnavailableError: No compiler, it refused the sources, or no folder can be written.
    """
    stamp = source_hash()
    places: list[Path] = []
    for folder in _places(stamp):
        places.append(folder)
        if _fresh(folder, stamp):
            return folder
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not _fresh(folder, stamp):
                    build_stamped(folder)
            return folder
    raise UnavailableError(
        f"the built CUDA shim cannot be written to any of {', '.join(map(str, places))}; make one "
        "of them writable, or set XDG_CACHE_HOME"
    )


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_built()}\n")
