"""`rrto keys`: owns the arguments, help and exit codes of its commands."""

from __future__ import annotations

from typing import Annotated

import typer

keys = typer.Typer(
    no_args_is_help=True, help="Who may use this machine's server, and whose server is used."
)


@keys.command("new")
def keys_new() -> None:
    """Make this user's own key, for every robot and server here."""
    from rrto_ros.cli.keys import new

    new()


@keys.command("show")
def keys_show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the own key, what to run on the other machine, and the keys that are trusted."""
    from rrto_ros.cli.keys import show

    show(as_json=as_json)


@keys.command("trust")
def keys_trust(
    key: Annotated[str, typer.Argument(help="What `rrto keys show` prints on the other machine.")],
    name: Annotated[str, typer.Option(help="What the key is called here.")],
) -> None:
    """Trust another machine's key: its robots may use this server, its server is used by robots.

    Makes this user's own key if there is none, and prints what to run on the other machine.
    """
    from rrto_ros.cli.keys import trust

    trust(key, name)


@keys.command("revoke")
def keys_revoke(
    which: Annotated[str, typer.Argument(help="Name, key or id.")],
) -> None:
    """Trust a key no longer; a running server ends its sessions within a second."""
    from rrto_ros.cli.keys import revoke

    revoke(which)
