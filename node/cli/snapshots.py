"""`portal snapshots` and `portal tag`: which snapshots there are, and what they are called."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError
from node.cli import opening, run
from node.cli.completion import complete_snapshots
from node.cli.progress import size_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import tzinfo

    from portal.browse import Filter
    from portal.head import Snapshot

which_options = opening.together(
    click.option("--host", "hosts", multiple=True, help="Only those of this machine."),
    click.option("--tag", "tags", multiple=True, help="Only those with this tag; all of several."),
    click.option("--path", "paths", multiple=True, help="Only those of this source."),
)


def filter_of(asked: dict[str, Any]) -> "Filter":
    """Which snapshots the options name."""
    import os

    from portal.browse import Filter

    paths = tuple(os.fsencode(os.path.abspath(path)) for path in asked["paths"])  # noqa: PTH100
    return Filter(tuple(asked["hosts"]), tuple(asked["tags"]), paths)


_names_argument = click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="SNAPSHOT...",
    shell_complete=complete_snapshots,
)


@click.command()
@which_options
@click.option("--all", "also_forgotten", is_flag=True, help="The forgotten ones, too.")
@click.option("--latest", type=click.IntRange(1), help="Only so many, the newest.")
@opening.json_option
@opening.vault_options
def snapshots(**asked: Any) -> int:
    """List the snapshots, the newest last."""
    vault = opening.open_vault(asked)
    head = vault.head()
    found = list(head.snapshots) if asked["also_forgotten"] else head.live
    if asked["hosts"] or asked["tags"] or asked["paths"]:
        takes = filter_of(asked).takes  # what it needs is a third of the time of a plain list
        found = [snapshot for snapshot in found if takes(snapshot)]
    found = found[-asked["latest"] :] if asked["latest"] else found
    if asked["as_json"]:
        click.echo(json.dumps([facts(snapshot) for snapshot in found]))
        return 0
    if not found:
        click.echo("no snapshots" if head.live else "no snapshots yet: portal backup DIR", err=True)
        return 0
    _show(found, run.local_zone())
    return 0


def facts(snapshot: "Snapshot") -> dict[str, Any]:
    """A snapshot for programs."""
    import os

    record, totals = snapshot.record, snapshot.record.totals
    return {
        "id": snapshot.id.hex(),
        "short_id": snapshot.name,
        "time": time_text(record.time_ns),
        "time_ns": record.time_ns,
        "host": record.host,
        "user": record.user,
        "paths": [os.fsdecode(path).encode("utf-8", "replace").decode() for path in record.paths],
        "tags": list(snapshot.tags),
        "pinned": snapshot.pinned,
        "parent": record.parent.hex() or None,
        "files": totals.files,
        "directories": totals.directories,
        "content_bytes": totals.content_bytes,
        "new_bytes": totals.new_bytes,
        "errors": record.errors_count,
        "forgotten_s": snapshot.forgotten_s or None,
        "program": record.program,
    }


def time_text(time_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    seconds, rest = divmod(time_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, tz=_utc())
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _utc() -> "tzinfo":
    from datetime import UTC

    return UTC


def _show(found: "Sequence[Snapshot]", zone: "tzinfo") -> None:
    from core.tree.paths import shown

    rows = [("id", "time", "host", "tags", "size", "files", "paths")]
    for snapshot in found:
        record = snapshot.record
        moment = datetime.fromtimestamp(record.time_ns // 10**9, tz=zone)
        marks = [*snapshot.tags, *(["pinned"] if snapshot.pinned else [])]
        notes = f"  ({record.errors_count} unreadable)" if record.errors_count else ""
        notes += "" if snapshot.is_live else "  (forgotten)"
        rows.append(
            (
                snapshot.name,
                f"{moment:%Y-%m-%d %H:%M:%S}",
                record.host,
                ",".join(marks),
                size_text(record.totals.content_bytes),
                f"{record.totals.files:,}",
                " ".join(shown(path) for path in record.paths) + notes,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in {4, 5} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row[:6], widths, strict=True))
        ]
        click.echo("  ".join((*cells, row[6])).rstrip())
    click.echo(_count(found), err=True)


@click.command()
@_names_argument
@click.option("--add", "added", multiple=True, help="Put a tag on.")
@click.option("--remove", "removed", multiple=True, help="Take a tag off.")
@click.option("--set", "exactly", multiple=True, help="These tags and no others.")
@click.option("--pin/--unpin", "pinned", default=None, help="Pinned ones are never forgotten.")
@opening.vault_options
def tag(names: tuple[str, ...], **asked: Any) -> int:
    """Change the tags of snapshots, or pin them."""
    if not (asked["added"] or asked["removed"] or asked["exactly"] or asked["pinned"] is not None):
        raise UsageError("nothing to change", hint="--add, --remove, --set, --pin or --unpin")
    if asked["exactly"] and (asked["added"] or asked["removed"]):
        raise UsageError("--set says all of it: without --add and --remove")
    return _retag(names, asked)


@click.command()
@_names_argument
@click.option("--off", is_flag=True, help="Let them go again.")
@opening.vault_options
def pin(names: tuple[str, ...], *, off: bool, **asked: Any) -> int:
    """Keep snapshots whatever retention says."""
    return _retag(names, asked | {"pinned": not off, "added": (), "removed": (), "exactly": ()})


def _count(found: "Collection[object]") -> str:
    return "1 snapshot" if len(found) == 1 else f"{len(found)} snapshots"


def _retag(names: tuple[str, ...], asked: dict[str, Any]) -> int:
    from portal.browse import select_snapshot
    from portal.tags import retag

    vault = opening.open_vault(asked)
    zone, head = run.local_zone(), vault.head()
    ids = {select_snapshot(head, name, zone)[0].id for name in names}
    retag(
        vault,
        ids,
        add=asked["added"],
        remove=asked["removed"],
        exactly=asked["exactly"] or None,
        pinned=asked["pinned"],
    )
    click.echo(f"{_count(ids)} changed", err=True)
    return 0
