"""A `ptxas` for devices that execute PTX: it checks the syntax, and what it writes is the PTX.

Programs that call NVIDIA's assembler (Triton, XLA) load what it writes. This writes the form of a
linked image (devices/linked.py), which loads and links as a cubin does. Instructions that the
device does not execute are refused when that is loaded, by name. Options are NVIDIA's; what they
ask for besides PTX (optimisation, registers, caches) has no meaning here.

Exits with 255 and an `error` or `fatal` line where NVIDIA's assembler does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rrto_ros.errors import ConfigError, PtxError

RELEASE = "13.0"
"""Of the CUDA tools whose PTX is read; programs make PTX of the version that goes with it: 9.0."""
FAILED = 255
_VERSION = (
    "ptxas of rrto_ros: keeps PTX as it is, for a device that executes PTX\n"
    f"as of CUDA release {RELEASE}, V{RELEASE}.0\n"
)
_LONG = {"o": "output-file", "arch": "gpu-name", "V": "version", "h": "help", "v": "verbose"}
_VALUED = frozenset(
    {
        "output-file",
        "gpu-name",
        "opt-level",
        "O",
        "maxrregcount",
        "device-function-maxrregcount",
        "func-maxrregcount",
        "fmad",
        "def-load-cache",
        "dlcm",
        "def-store-cache",
        "dscm",
        "force-load-cache",
        "flcm",
        "force-store-cache",
        "fscm",
        "machine",
        "m",
        "entry",
        "e",
        "split-compile",
        "Ofast-compile",
        "Ofc",
        "maxntid",
        "minnctapersm",
        "regAllocOptLevel",
        "allow-expensive-optimizations",
        "register-usage-level",
        "regUsageLevel",
        "sanitize",
        "device-stack-protector",
        "enable-func-clone-sc",
        "position-independent-code",
        "pic",
        "apply-controls",
    }
)
"""Options whose value may be the next argument."""
_ELSEWHERE = frozenset({"options-file", "optf", "input-as-string", "ias"})
_ARCHITECTURE = re.compile(r"(?:sm|compute)_(\d+)[af]?")


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for.

    Attributes:
        options: Long name -> value, empty for an option without one.
        files: What is no option.
    """

    options: dict[str, str]
    files: tuple[str, ...]


def read_arguments(arguments: Sequence[str]) -> Wanted:
    """The command line in ptxas's syntax.

    Raises:
        ConfigError: An option lacks its value, or takes input from where this does not look.
    """
    options: dict[str, str] = {}
    files: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument == "-":
            files.append(argument)
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        name = _LONG.get(name, name)
        if name in _ELSEWHERE:
            raise ConfigError(f"option '-{name}' is not supported here: give one file of PTX")
        if name in _VALUED and not equals:
            if not rest:
                raise ConfigError(f"option '-{name}' wants a value")
            value = rest.pop(0)
        options[name] = value
    return Wanted(options, tuple(files))


def assemble(text: bytes, name: str, architecture: str) -> bytes:
    """The image that stands for a PTX text.

    Args:
        text: The PTX.
        name: Of its file, for messages when it is loaded.
        architecture: That it shall run on, like sm_90a; empty: any.

    Raises:
        ConfigError: It is for a newer architecture, or `architecture` is none.
        PtxError: It is no PTX; the line is named.
    """
    # Imported late: programs ask for the version at each of their starts.
    from rrto_ros.devices.cpu.ptx.parser import parse_module
    from rrto_ros.devices.linked import PTX, LinkInput, linked_image

    try:
        module = parse_module(text.split(b"\0", 1)[0].decode())
    except UnicodeDecodeError as error:
        raise PtxError(f"the file is no text: {error}") from error
    if architecture:
        wanted = _ARCHITECTURE.fullmatch(architecture)
        if wanted is None:
            raise ConfigError(f"Value '{architecture}' is not defined for option 'gpu-name'")
        has = _ARCHITECTURE.fullmatch(module.target)
        if has is not None and int(has[1]) > int(wanted[1]):
            raise ConfigError(
                f"the PTX's .target {module.target} is newer than {architecture}, "
                "for which it shall be made; give its own with --gpu-name"
            )
    return linked_image((LinkInput(PTX, name, text),))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    try:
        wanted = read_arguments(sys.argv[1:] if arguments is None else arguments)
        if "version" in wanted.options:
            sys.stdout.write(_VERSION)
            return 0
        if "help" in wanted.options or not (wanted.files or wanted.options):
            sys.stdout.write(f"Usage: ptxas [options] <ptx file>\n\n{__doc__}")
            return 0
        if len(wanted.files) != 1:
            raise ConfigError(f"{len(wanted.files)} input files are given; give one file of PTX")
        return _one(Path(wanted.files[0]), wanted.options)
    except ConfigError as error:
        sys.stderr.write(f"ptxas fatal   : {error}\n")
        return FAILED


def _one(source: Path, options: dict[str, str]) -> int:
    target = Path(options.get("output-file", "elf.o"))
    try:
        text = source.read_bytes()
    except OSError as error:
        reason = f"Input file '{source}' could not be opened: {error.strerror}"
        raise ConfigError(reason) from error
    try:
        image = assemble(text, source.name, options.get("gpu-name", ""))
    except PtxError as error:
        sys.stderr.write(
            f"ptxas {source}; error   : {error.detail}\n"
            "ptxas fatal   : Ptx assembly aborted due to errors\n"
        )
        return FAILED
    try:
        target.write_bytes(image)
    except OSError as error:
        reason = f"Output file '{target}' could not be written: {error.strerror}"
        raise ConfigError(reason) from error
    if "verbose" in options:
        sys.stderr.write(f"ptxas info    : {source} is kept as PTX; the device executes it\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
