"""`rrto keys`: the keys that robots and edges know each other by. Needs no ROS."""

from __future__ import annotations

import socket

import typer

from rrto_ros import key_files
from rrto_ros.cli.console import print_json
from rrto_ros.wire import credentials
from rrto_ros.wire.handshake import key_id
from rrto_ros.wire.keys_text import key_from, key_text


def new() -> None:
    """Make the own key.

    Raises:
        ConfigError: There is one, or it cannot be written.
    """
    key, path = credentials.new_identity()
    typer.echo(f"{path}: a new key, readable by this user only")
    _tell(key.public_key().public_bytes_raw())


def show(*, as_json: bool) -> None:
    """Show the own key and those that are trusted.

    Raises:
        ConfigError: A file of keys cannot be used.
    """
    own = credentials.identity()
    public = own.public_key().public_bytes_raw() if own is not None else None
    trusted = key_files.trusted()
    if as_json:
        print_json(
            {
                "key": key_text(public) if public else "",
                "id": key_id(public) if public else "",
                "trusted": [
                    {"name": one.name, "key": one.key, "id": key_id(key_from(one.key))}
                    for one in trusted
                ],
            }
        )
        return
    if public is None:
        typer.echo("no own key; make one with `rrto keys new`")
    else:
        _tell(public)
    if not trusted:
        typer.echo("no key is trusted: a server here serves this user on this machine only")
    for one in trusted:
        typer.echo(f"trusted: {one.name}  id {key_id(key_from(one.key))}  {one.key}")


def trust(text: str, name: str) -> None:
    """Trust a key.

    Raises:
        ConfigError: It is no key, the name cannot be used, or a file cannot be written.
    """
    public = credentials.trust(text, name)
    typer.echo(f"{name} (id {key_id(public)}) is trusted from now on; compare the id there")
    own = credentials.identity()
    if own is None:
        own, _ = credentials.new_identity()
    _tell(own.public_key().public_bytes_raw())


def revoke(which: str) -> None:
    """Trust a key no longer.

    Raises:
        ConfigError: It is not trusted.
    """
    one = credentials.revoke(which)
    typer.echo(f"{one.name} is no longer trusted; its sessions end within a second")
    if not key_files.trusted():
        typer.echo(
            "no key is trusted any more: a server here serves this user on this machine only"
        )


def _tell(public: bytes) -> None:
    """Show the own key, and the command for the other machine."""
    name = "".join(c if c.isalnum() or c in "_.-" else "-" for c in socket.gethostname())
    typer.echo(f"this machine's key, id {key_id(public)}; on the other machine run:")
    typer.echo(f"  rrto keys trust {key_text(public)} --name {name.lstrip('-_.') or 'other'}")
