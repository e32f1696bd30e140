"""What of an environment runs on which device, and why: owns the conclusions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from rrto_ros.clients.catalogue import (
    CLIENTS,
    LIBRARIES,
    RUNTIME_OPTION,
    RUNTIME_VARIABLE,
    Client,
    Kernels,
    matches,
)
from rrto_ros.clients.environment import Environment, Package, packages
from rrto_ros.clients.libraries import Budget, Contents, contents

CPU_CAPABILITY = 121
"""What the cpu device reports, as in sm_121: PTX for it or below can run."""
DEVICES = ("cpu", "gpu")


class Outcome(Enum):
    """Whether a client runs on a device."""

    RUNS = "runs"
    SWITCHED = f"with {RUNTIME_OPTION}"
    PARTLY = f"partly, with {RUNTIME_OPTION}"
    NOT = "does not run"


@dataclass(frozen=True)
class Verdict:
    """Of one client on one device.

    Attributes:
        outcome: Whether it runs.
        why: The facts from which that follows.
    """

    outcome: Outcome
    why: str


@dataclass(frozen=True)
class Found:
    """A client that an environment has.

    Attributes:
        client: What is known of it.
        packages: Its packages, the first one names its version.
        contents: What its libraries hold.
        missing: What it needs and the environment does not have.
        spoilers: Packages because of which it makes machine code on a device that executes PTX.
    """

    client: Client
    packages: tuple[Package, ...]
    contents: Contents
    missing: tuple[str, ...]
    spoilers: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return self.packages[0].version

    @property
    def runtime(self) -> bool:
        """Whether it computes by the CUDA runtime."""
        return self.client.runtime

    @property
    def with_cuda(self) -> bool:
        """Whether this build has CUDA in it at all, as far as was looked."""
        inside = self.contents
        return bool(not self.client.builds or inside.fatbins or inside.runtime or inside.unread)

    def settings(self, device: str) -> dict[str, str]:
        """Variables that it needs on a device."""
        own = dict(self.client.cpu) if device == "cpu" else {}
        return {**own, **({RUNTIME_VARIABLE: "1"} if self.runtime else {})}

    def verdicts(self) -> dict[str, Verdict]:
        """By device."""
        return {"cpu": _on_cpu(self), "gpu": _on_gpu(self)}


@dataclass(frozen=True)
class Library:
    """A package of NVIDIA's libraries, which programs load.

    Attributes:
        package: It.
        contents: What its libraries hold.
    """

    package: Package
    contents: Contents


def look(environment: Environment, budget: Budget) -> tuple[list[Found], list[Library]]:
    """The clients and the libraries of an environment; clients first, should the time be short."""
    installed = {package.name: package for package in packages(environment)}
    clients = []
    for client in CLIENTS:
        own = tuple(
            package for pattern in client.distributions for package in _of(installed, (pattern,))
        )
        if own:
            files = [path for one in own for path in one.libraries(client.module)]
            found = Found(
                client,
                own,
                contents(files, budget),
                missing_of(client, installed),
                tuple(one.name for one in _of(installed, client.spoilers)),
            )
            if found.with_cuda:
                clients.append(found)
    libraries = [
        Library(package, contents(package.libraries(), budget))
        for package in _of(installed, LIBRARIES)
    ]
    return clients, [one for one in libraries if one.contents != Contents()]


def _of(installed: Mapping[str, Package], patterns: tuple[str, ...]) -> list[Package]:
    return [installed[name] for name in sorted(installed) if matches(name, patterns)]


def missing_of(client: Client, installed: Mapping[str, Package]) -> tuple[str, ...]:
    """What a client needs and an environment, or this machine, does not have."""
    lacking = [
        f"{what} ({' or '.join(pattern.rstrip('*') for pattern in patterns)})"
        for what, patterns in client.needs
        if not _of(installed, patterns)
    ]
    if client.files and not any(map(os.path.exists, client.files)):
        lacking.append(
            f"a file that it looks for ({' or '.join(client.files)}): an empty one does, "
            f"sudo touch {client.files[1]}"
        )
    return tuple(lacking)


def _on_cpu(found: Found) -> Verdict:
    client, inside = found.client, found.contents
    if found.missing:
        return Verdict(Outcome.NOT, f"it lacks {', '.join(found.missing)}")
    if client.kernels is Kernels.INSIDE:
        usable = {number for number in inside.ptx if number <= CPU_CAPABILITY}
        if not usable:
            held = f"machine code for {architectures(inside.machine_code)}"
            if inside.ptx:
                held += f", PTX for {architectures(inside.ptx)} only"
            elif inside.unread:
                held = "no PTX in what was read of its libraries"
            else:
                held += " and no PTX"
            return Verdict(Outcome.NOT, f"its libraries hold {held}; this device executes PTX")
        why = f"its kernels are there as PTX for {architectures(usable)}"
        return Verdict(Outcome.PARTLY, _joined(why, client.cpu_note))
    if found.spoilers:
        names = ", ".join(found.spoilers)
        return Verdict(
            Outcome.NOT, f"it compiles with the ptxas of {names}: pip uninstall {names}"
        )
    why = f"kernels: {client.kernels.value}"
    return Verdict(_started(found), _joined(why, client.cpu_note))


def _on_gpu(found: Found) -> Verdict:
    if found.missing:
        return Verdict(Outcome.NOT, f"it lacks {', '.join(found.missing)}")
    inside = found.contents
    why = f"kernels: {found.client.kernels.value}"
    if found.client.kernels is Kernels.INSIDE:
        why = f"machine code for {architectures(inside.machine_code) or 'no GPU'}"
        if inside.ptx:
            why += f", PTX for {architectures(inside.ptx)}"
    return Verdict(_started(found), _joined(why, "no GPU has run this device yet"))


def _started(found: Found) -> Outcome:
    return Outcome.SWITCHED if found.runtime else Outcome.RUNS


def architectures(numbers: Iterable[int]) -> str:
    """{75, 90} -> "sm_75, sm_90"; many as a range."""
    listed = sorted(set(numbers) - {0})
    if len(listed) > 4:
        return f"sm_{listed[0]} to sm_{listed[-1]} ({len(listed)} kinds)"
    return ", ".join(f"sm_{number}" for number in listed)


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
