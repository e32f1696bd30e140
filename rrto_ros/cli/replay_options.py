"""Options of the commands, as `api.parameters` describes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from rrto_ros.api.parameters import OPTIONS, Parameter
from rrto_ros.api.parameters import REPLAY as REPLAY_PARAMETERS
from rrto_ros.errors import ConfigError

GROUPS = {
    "replay": [p.name for p in REPLAY_PARAMETERS],
    "bring_up": [name for name in OPTIONS if name not in ("limit_bytes", "jit", "label")],
    "demo": ["robot", "device", "mode", "domain", "log_level", "input", "authentication"],
}
"""Parameter in whose place a command gets options -> their names."""


def described(parameter: Parameter, *names: str, **more: Any) -> Any:
    """The option of the command line for a parameter.

    Args:
        parameter: Gives type and help.
        names: As they are written; by default as the command's argument is named.
        more: For `typer.Option`.
    """

    def value(text: Any) -> Any:
        try:
            return parameter.parse(str(text))
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None

    choices = ", ".join(parameter.choices)
    more.setdefault("help", parameter.text + (f" One of: {choices}." if choices else ""))
    if parameter.unset is not None:
        more.setdefault("show_default", "as the parameter files say")
    if type(parameter.default) in (int, float):
        more["parser"] = value
    if parameter.name == "robot":
        more["envvar"] = "RRTO_ROBOT"
    return typer.Option(*names, **more)


def option(name: str, **more: Any) -> Any:
    """The option for one of `api.parameters.OPTIONS`, as `described` makes it."""
    return described(OPTIONS[name], **more)


def flags(names: Iterable[str]) -> str:
    """Options as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def with_replay_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `GROUPS` in place of its parameter of that name.

    The parameter gets their values by name, for `bringup.options.Options`.
    """
    own = inspect.signature(command, eval_str=True)
    (group,) = GROUPS.keys() & own.parameters.keys()
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != group:
            parameters.append(parameter)
            continue
        for name in GROUPS[group]:
            default = OPTIONS[name].default
            parameters.append(
                parameter.replace(
                    name=name, default=default, annotation=Annotated[type(default), option(name)]
                )
            )

    @functools.wraps(command)
    def taking(**values: Any) -> None:
        given = {name: values.pop(name) for name in GROUPS[group]}
        command(**values, **{group: given})

    taking.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {p.name: p.annotation for p in parameters}
    return taking
