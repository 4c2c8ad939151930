"""`portal config`: which settings are in force, and where each of them comes from."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import opening
from node.cli.completion import complete_profiles

if TYPE_CHECKING:
    from node.config import Settings

_TABLES = ("keep", "hooks")
_COLUMN_MAX = 60  # where origins stand, unless a value is longer


@click.group()
def config() -> None:
    """The settings in config.toml, and those in force."""


@config.command()
def path() -> None:
    """Where config.toml lies, or would lie."""
    from node.config import FILE_NAME
    from node.home import portal_home

    click.echo(os.fsencode(portal_home() / FILE_NAME))


@config.command()
@click.option("--origin", is_flag=True, help="Say where each setting comes from.")
@opening.json_option
@click.option("-r", "--repo", type=opening.PATH, help="As if a command were given this vault.")
@click.option(
    "-P", "--profile", help="As if this profile were named.", shell_complete=complete_profiles
)
def show(*, as_json: bool, origin: bool, **asked: Any) -> None:
    """Show what is in force, option > environment > profile > top level > built-in.

    The text is TOML: what it says first can be put under [profile.NAME], the tables are the node's.
    """
    from node.config import node_settings

    settings = opening.settings_of(asked)
    rows = dict(_rows(settings))
    rows["vault"] = str(opening.vault_path(settings))
    origins = {name: _origin(settings, name) for name in rows}
    of_node = node_settings(opening.loaded_config())
    if as_json:
        facts = {"v": 1, "message_type": "config", "profile": settings.profile}
        told = {name: {"value": value, "origin": by} for name, (value, by) in of_node.items()}
        click.echo(json.dumps(facts | {"settings": rows, "origin": origins, "node": told}))
        return
    click.echo(f"# profile {settings.profile}" if settings.profile else "# no profile")
    lines = {n: f"{n} = {_toml(value)}" for n, value in rows.items() if value is not None}
    width = min(max(map(len, lines.values())), _COLUMN_MAX)
    for name, line in lines.items():
        click.echo(f"{line:<{width}}  # {origins[name]}" if origin else line)
    table = ""
    for name, (value, by) in of_node.items():
        if value is None:
            continue
        before, table, key = table, *name.split(".")
        if table != before:
            click.echo(f"\n[{table}]")
        line = f"{key} = {_toml(value)}"
        click.echo(f"{line:<{width}}  # {by}" if origin else line)


def _rows(settings: "Settings") -> Iterator[tuple[str, Any]]:
    """Every setting by the name it has in the file, as TOML and JSON write it."""
    from dataclasses import fields

    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in {"origin", "profile"} or (field.name == "stdin_command" and not value):
            continue
        if field.name not in _TABLES:
            yield field.name, _plain(value)
            continue
        for inner in fields(value):
            one = getattr(value, inner.name)
            if inner.name == "timeout_s":
                yield f"{field.name}.timeout", f"{one}s"
            elif one:  # a rule that is not used, a hook that is not there
                yield f"{field.name}.{inner.name}", _plain(one)


def _plain(value: Any) -> Any:
    from portal.retention import ALL, Duration

    if value == ALL and not isinstance(value, bool):
        return "all"
    if isinstance(value, Path | Duration):
        return str(value)
    if isinstance(value, frozenset):  # tags that a snapshot must have together
        return ",".join(sorted(value))
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _origin(settings: "Settings", name: str) -> str:
    told = {"hooks.timeout": "hooks.timeout_s"}.get(name, name)
    if name == "vault" and settings.vault is None:
        return "built-in"
    table = name.partition(".")[0]
    return settings.origin.get(told) or settings.origin.get(table) or "built-in"


def _toml(value: Any) -> str:
    """A value as TOML: numbers, strings and lists look as in JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
