"""`portal offer`: how much room this node would give to others."""

import os
from pathlib import Path
from typing import Any

import click

from core import limits
from core.errors import UsageError
from node.cli import opening
from node.cli.progress import size_text
from node.cli.values import parse_size

_NOTHING = "none"


@click.command()
@click.argument("size", required=False)
@opening.json_option
def offer(size: str | None, *, as_json: bool) -> None:
    """Tell the mesh how much room this node would give to others: SIZE, or none.

    Without SIZE, show what is offered. It is kept in config.toml, under [storage].
    """
    from node.home import portal_home

    home = portal_home().absolute()
    if size is not None:
        _set(home, size)
    offered = _offered(home)
    free = _free_bytes(home)
    if as_json:
        import json

        facts: dict[str, Any] = {"v": 1, "message_type": "offer"}
        click.echo(json.dumps(facts | {"offer_bytes": offered, "free_bytes": free}))
    else:
        click.echo(f"offered to others: {size_text(offered) if offered else 'nothing'}")
    if free is not None and free < offered:
        told = f"this disk has only {size_text(free)} free"
        click.echo(f"portal: {told}", err=True)


def _set(home: Path, size: str) -> None:
    """Into the configuration, and into force where a node runs."""
    from node.config_edit import write_setting
    from node.control import NotRunning

    offered = 0 if size.strip().lower() == _NOTHING else parse_size(size)
    if offered > limits.QUOTA_BYTES_MAX:
        raise UsageError("this is no size anybody could keep for others")
    if not home.is_dir():
        from node.identity import header

        header(home)  # NoIdentity says what to do first
    value = f'"{size.strip()}"' if offered else "0"
    write_setting(home, "storage", "offer", value)
    try:
        opening.node_here().reload()
    except NotRunning:
        click.echo("no node runs here: the mesh hears of it when one does", err=True)


def _offered(home: Path) -> int:
    from node import config

    return config.load(home / config.FILE_NAME, Path.home()).node.offer_bytes


def _free_bytes(home: Path) -> int | None:
    try:
        found = os.statvfs(home)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
