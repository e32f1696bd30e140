"""The options of mode `replay`: owns how every command that starts a recorder takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

REPLAY = "replay"
"""Parameter in whose place a command gets the options."""
_FILES = "as the parameter files say"


def whole(text: str | int) -> int:
    """A whole number, as `typer.Option(parser=...)` takes it."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"got {text!r}, want a whole number") from None


def flags(names: Iterable[str]) -> str:
    """Options as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _text(default: str, help_text: str) -> tuple[Any, Any]:
    return Annotated[str, typer.Option(help=help_text, show_default=_FILES)], default


def _number(default: int, help_text: str) -> tuple[Any, Any]:
    option = typer.Option(parser=whole, help=help_text, show_default=_FILES)
    return Annotated[int, option], default


# As `bringup.options.REPLAY_OPTIONS`, with their defaults; written out so that help is there
# without what a bring-up needs.
_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "search": _text("", "Mode replay: operator_sequence or data_dependency."),
    "min_repetitions": _number(0, "Mode replay: how often a sequence must have been seen."),
    "min_length": _number(0, "Mode replay: shortest sequence, calls."),
    "max_length": _number(0, "Mode replay: longest sequence, calls."),
    "drop_plans_after": _number(0, "Mode replay: a sequence left so often in a row rests."),
    "search_memory_bytes": _number(0, "Mode replay: what the search of a session may hold."),
    "run_ahead": _text(
        "", "Mode replay: what the server executes before it is called: off, reads or auto."
    ),
    "plan_cache_bytes": _number(
        -1, "Mode replay: size of the sequences kept on disk; 0: none."
    ),
    "plan_cache_directory": _text("", "Mode replay: where sequences are kept."),
}


def with_replay_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options in place of its parameter `replay`.

    The parameter gets their values by name, for `bringup.options.Options`.
    """
    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != REPLAY:
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=default, annotation=annotation)
            for name, (annotation, default) in _OPTIONS.items()
        ]

    @functools.wraps(command)
    def taking(**values: Any) -> None:
        replay = {name: values.pop(name) for name in _OPTIONS}
        command(**values, **{REPLAY: replay})

    taking.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {p.name: p.annotation for p in parameters}
    return taking
