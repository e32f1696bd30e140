"""`rrto doctor`: owns which checks are made, in what form they are told, and the next step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from rrto_ros.bringup.options import Options
from rrto_ros.cli import checks
from rrto_ros.cli.checks import Check, State
from rrto_ros.cli.console import err, out
from rrto_ros.clients.catalogue import RUNTIME_OPTION, RUNTIME_VARIABLE
from rrto_ros.clients.environment import Environment
from rrto_ros.clients.libraries import Budget, Contents
from rrto_ros.clients.verdicts import DEVICES, Found, Library, Outcome, architectures, look

_COLOURS = {State.OK: "green", State.NOTE: "yellow", State.MISSING: "red"}


@dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        environment: That was looked at.
        clients: CUDA programs in it.
        libraries: NVIDIA's libraries in it.
        checks: Of the machine and the link.
        device: That programs would get.
    """

    environment: Environment
    clients: tuple[Found, ...]
    libraries: tuple[Library, ...]
    checks: tuple[Check, ...]
    device: str

    @property
    def missing(self) -> list[str]:
        """What is needed and not there."""
        own = [f"{check.name}: {check.text}" for check in self.checks
               if check.state is State.MISSING]  # fmt: skip
        return own + [
            f"{found.client.name}: {name}" for found in self.clients for name in found.missing
        ]


def examine(
    environment: Environment, device: str, options: Options, server: bool | None, seconds: float
) -> Examination:
    """Look at everything.

    Args:
        environment: Whose packages.
        device: cpu or gpu; empty for that of the server that is seen, else cpu.
        options: Robot and domain.
        server: Whether a server must be there, None if it may, False not to look for one.
        seconds: How long libraries may be looked through.
    """
    done = [checks.shim(), *checks.ros(), checks.shared_memory(), checks.sockets()]
    done += [checks.driver(), checks.confinement()]
    seen = ""
    if server is not False and all(c.state is not State.MISSING for c in done):
        with err.status("looking for recorder and server"):
            found, seen = checks.link(options.robot, options.domain_number(), server)
        done += found
    elif server:
        done.append(Check("server", State.MISSING, "not looked for: see above"))
    if device and seen and device != seen:
        done.append(Check("device", State.NOTE, f"the server computes on {seen}, not on {device}"))
    device = device or (seen if seen in DEVICES else "cpu")
    if not seen:
        done.append(checks.device(device))
    with err.status("looking through libraries") as status:
        budget = Budget(seconds, lambda path: status.update(f"looking at {escape(path.name)}"))
        clients, libraries = look(environment, budget)
    return Examination(environment, tuple(clients), tuple(libraries), tuple(done), device)


def next_step(found: Examination, environment: Mapping[str, str] = os.environ) -> str:
    """What the user can do now."""
    for check in found.checks:
        if check.state is State.MISSING:
            return check.step or check.text
    for client in found.clients:
        if client.missing:
            return f"install for {client.client.name}: {', '.join(client.missing)}"
    if not found.clients:
        return "no CUDA program known here is in this environment; name another by --python"
    able = [c for c in found.clients if c.verdicts()[found.device].outcome is not Outcome.NOT]
    if not able:
        other = "a server with a GPU: on its machine `rrto up --side edge --device gpu`"
        return f"nothing found here runs on device {found.device}; it takes {other}"
    runtime = any(client.runtime for client in able)
    switch = "" if not runtime or environment.get(RUNTIME_VARIABLE) == "1" else RUNTIME_OPTION
    words = ["rrto run", f"--device {found.device}", switch, "-- python your_program.py"]
    return " ".join(filter(None, words))


def show(found: Examination) -> None:
    """Print all of it."""
    out.print(_check_table(found))
    if found.clients:
        out.print(_client_table(found))
        out.print(_verdict_table(found))
    else:
        out.print(f"CUDA programs in {escape(found.environment.name)}: none known here")
    if found.libraries:
        out.print(_library_table(found))
    for line in found.missing:
        out.print(f"[red]missing:[/red] {escape(line)}")
    if any(one.runtime for one in found.clients):
        out.print(f"{RUNTIME_OPTION} is your decision, under NVIDIA's terms: docs/cuda_runtime.md")
    out.print(f"[bold]next:[/bold] {escape(next_step(found))}")


def as_json(found: Examination) -> dict[str, Any]:
    """The same for programs."""
    return {
        "environment": found.environment.name,
        "python": found.environment.version,
        "device": found.device,
        "checks": [
            {"name": c.name, "state": c.state.value, "text": c.text, "step": c.step}
            for c in found.checks
        ],
        "clients": [
            {
                "name": one.client.name,
                "version": one.version,
                "packages": {package.name: package.version for package in one.packages},
                "api": "runtime" if one.runtime else "driver",
                "missing": list(one.missing),
                **_plain(one.contents),
                "devices": {
                    device: {
                        "outcome": verdict.outcome.value,
                        "why": verdict.why,
                        "settings": one.settings(device),
                    }
                    for device, verdict in one.verdicts().items()
                },
            }
            for one in found.clients
        ],
        "libraries": [
            {"name": one.package.name, "version": one.package.version, **_plain(one.contents)}
            for one in found.libraries
        ],
        "missing": found.missing,
        "next": next_step(found),
    }


def _plain(inside: Contents) -> dict[str, Any]:
    return {
        "fatbins": inside.fatbins,
        "ptx": sorted(inside.ptx),
        "machine_code": sorted(inside.machine_code),
        "cuda_runtime": sorted(inside.runtime),
        "unread": inside.unread,
    }


def _check_table(found: Examination) -> Table:
    table = _table("this machine and the link", "", "", "found")
    for check in found.checks:
        colour = _COLOURS[check.state]
        text = escape(check.text) + (f"\n→ {escape(check.step)}" if check.step else "")
        table.add_row(check.name, f"[{colour}]{check.state.value}[/{colour}]", text)
    return table


def _client_table(found: Examination) -> Table:
    where = found.environment
    name = f"CUDA programs in {where.name}" + (
        f", Python {where.version}" if where.version else ""
    )
    table = _table(escape(name), "program", "version", "driver calls by", "in its libraries")
    for one in found.clients:
        table.add_row(
            one.client.name,
            "\n".join(f"{one_of.version} ({one_of.name})" for one_of in one.packages),
            _interface(one),
            _inside(one.contents),
        )
    return table


def _verdict_table(found: Examination) -> Table:
    table = _table(f"on device {found.device}", "program", "", "why", "set")
    for one in found.clients:
        verdict = one.verdicts()[found.device]
        colour = {Outcome.RUNS: "green", Outcome.NOT: "red"}.get(verdict.outcome, "yellow")
        table.add_row(
            one.client.name,
            f"[{colour}]{verdict.outcome.value}[/{colour}]",
            escape(verdict.why),
            "\n".join(f"{name}={value}" for name, value in one.settings(found.device).items()),
        )
    return table


def _library_table(found: Examination) -> Table:
    table = _table("NVIDIA's libraries there", "package", "version", "CUDA runtime", "holds")
    for one in found.libraries:
        inside = one.contents
        table.add_row(
            one.package.name,
            one.package.version,
            _runtimes(inside) or "-",
            _inside(inside),
        )
    return table


def _interface(one: Found) -> str:
    held = _runtimes(one.contents)
    if one.runtime:
        return f"the CUDA runtime: {held or 'not seen which'}"
    return "itself" + (f"; has {held}" if held else "")


def _runtimes(inside: Contents) -> str:
    """The copies of the CUDA runtime that libraries load or have in them."""
    return ", ".join(
        "a static copy of the runtime" if name == "static" else name
        for name in sorted(inside.runtime)
    )


def _inside(inside: Contents) -> str:
    parts = []
    if inside.ptx:
        parts.append(f"PTX {architectures(inside.ptx)}")
    if inside.machine_code:
        parts.append(f"machine code {architectures(inside.machine_code)}")
    if inside.damaged:
        parts.append(f"{inside.damaged} damaged fatbins")
    if inside.unread:
        parts.append(f"{inside.unread} libraries not read: the time was over (--seconds)")
    return "\n".join(parts) or "no kernels"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
