"""`portal ls`, `find`, `diff`, `cat` and `dump`: what is in snapshots, without restoring it."""

import json
import os
import re
import stat
import sys
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import PortalError, UsageError
from node.cli import opening, run
from node.cli.completion import complete_snapshots
from node.cli.faults import Faults
from node.cli.progress import Status, size_text
from node.cli.snapshots import filter_of, time_text, which_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portal.browse import Selection
    from portal.compare import Change, Changes
    from portal.find import Wanted
    from portal.head import Snapshot
    from portal.manifest import Node
    from portal.reader import Reader

_PATH = opening.PATH
_WILD = re.compile(rb"[*?\[]")
_KINDS = {1: "file", 2: "dir", 3: "symlink", 5: "fifo", 6: "chardev", 7: "dev"}
_TOLD = {2: "a directory", 3: "a link", 5: "a pipe", 6: "a device", 7: "a device"}
_FORMATS = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFLNK, 5: stat.S_IFIFO}
_FORMATS |= {6: stat.S_IFCHR, 7: stat.S_IFBLK}
_BEFORE_ALL_NS = -(1 << 80)
_snapshot = click.argument("snapshot", default="latest", shell_complete=complete_snapshots)


@contextmanager
def _opened(asked: dict[str, Any], name: str) -> "Iterator[tuple[Reader, Snapshot, bytes]]":
    """A reader, the snapshot that is meant and the path inside it."""
    from core import process
    from portal.browse import select_snapshot

    process.keep_freed_buffers()
    vault = opening.open_vault(asked)
    only = (
        filter_of(asked) if "hosts" in asked else filter_of({"hosts": (), "tags": (), "paths": ()})
    )
    found, path = select_snapshot(vault.head(), name, run.local_zone(), only)
    with vault.reader() as reader:
        yield reader, found, path


def selection(
    under: bytes, patterns: "Sequence[str]", exclude: "Sequence[str]" = ()
) -> "Selection":
    """What these patterns mean behind SNAPSHOT:/under."""
    from portal.browse import Selection

    return Selection([_inside(p, under) for p in patterns], [_inside(p, under) for p in exclude])


def _inside(text: str, under: bytes) -> bytes:
    """A pattern on whole paths; one that begins with neither slash nor star counts from `under`."""
    pattern = os.fsencode(text)
    if pattern.startswith((b"/", b"*")) or not under:
        return pattern
    return _WILD.sub(rb"[\g<0>]", under) + b"/" + pattern


def refuse_nothing(reader: "Reader", found: "Snapshot", under: bytes, select: "Selection") -> None:
    """Pass if something is meant, or could be where it cannot be read."""
    from portal.browse import walk

    unreadable: list[bytes] = []
    nodes = walk(
        reader, found, under=under, select=select, report=lambda path, _e: unreadable.append(path)
    )
    if next(nodes, None) is None and not select.is_everything and not unreadable:
        raise _nothing(found, under)


def _nothing(found: "Snapshot", under: bytes) -> UsageError:
    from core.tree.paths import shown

    hint = f"portal ls -R {found.name}:/{shown(under)} shows what is there"
    return UsageError("nothing in the snapshot matches", where=found.name, hint=hint)


# --- ls -------------------------------------------------------------------------------------------


@click.command()
@_snapshot
@click.argument("patterns", nargs=-1)
@click.option("-l", "--long", "is_long", is_flag=True, help="Mode, owner, size and time, too.")
@click.option("-R", "--recursive", is_flag=True, help="What is below, too.")
@which_options
@opening.json_option
@opening.vault_options
def ls(snapshot: str, patterns: tuple[str, ...], **asked: Any) -> int:
    """List what is in SNAPSHOT, or in SNAPSHOT:/path, or what PATTERNS name."""
    status = Status(as_json=False)
    faults = Faults(status)
    with _opened(asked, snapshot) as (reader, found, path):
        nodes = _listed(reader, found, path, (patterns, asked["recursive"]), faults)
        show = _json_line if asked["as_json"] else _long_line if asked["is_long"] else _name_line
        zone = run.local_zone()
        shown_any = False
        for node in nodes:
            click.echo(show(node, zone))
            shown_any = True
        if patterns and not shown_any and not faults.errors:
            raise _nothing(found, path)
    return faults.exit_code


def _listed(
    reader: "Reader",
    found: "Snapshot",
    path: bytes,
    what: tuple[tuple[str, ...], bool],
    faults: Faults,
) -> "Iterator[Node]":
    from portal.browse import children, lookup, walk

    patterns, recursive = what
    if patterns or recursive:
        select = selection(path, patterns)
        return walk(reader, found, under=path, select=select, report=faults.report)
    node = lookup(reader, found, path)
    if not node.entry.is_directory:
        return iter([node])
    paths = found.record.paths
    while not path and len(paths) == 1 and node.entry.path != paths[0].strip(b"/"):
        # The way to the only source is nothing to look at.
        below = list(children(reader, node.content, node.entry.path, faults.report))
        if len(below) != 1 or not below[0].entry.is_directory:
            return iter(below)
        node = below[0]
    return children(reader, node.content, node.entry.path, faults.report)


def _name_line(node: "Node", _zone: Any) -> str:
    from core.tree.paths import shown

    mark = "/" if node.entry.is_directory else ""
    return f"/{shown(node.entry.path)}{mark}"


def _long_line(node: "Node", zone: Any) -> str:
    from core.tree.paths import shown

    entry = node.entry
    mode = stat.filemode(_FORMATS[entry.type] | entry.mode)
    owner = f"{entry.user or entry.uid}:{entry.group or entry.gid}"
    moment = datetime.fromtimestamp(entry.mtime_ns // 10**9, tz=zone)
    target = f" -> {shown(entry.target)}" if entry.target else ""
    return (
        f"{mode} {owner:<15} {entry.size:>13} {moment:%Y-%m-%d %H:%M:%S} "
        f"{_name_line(node, zone)}{target}"
    )


def _json_line(node: "Node", _zone: Any) -> str:
    return json.dumps({"v": 1, "message_type": "node", **_facts(node)})


def _facts(node: "Node") -> dict[str, Any]:
    """A name for programs."""
    entry = node.entry
    facts = {
        **_path_facts(entry.path),
        "type": _KINDS[entry.type],
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user,
        "group": entry.group,
        "size": entry.size,
        "mtime": time_text(entry.mtime_ns),
    }
    if entry.target:
        facts["target"] = entry.target.decode("utf-8", "replace")
    return facts


def _path_facts(path: bytes) -> dict[str, Any]:
    """A path; if it is no UTF-8, its bytes, too."""
    text = path.decode("utf-8", "replace")
    return {"path": f"/{text}"} | ({} if text.encode() == path else {"path_hex": path.hex()})


# --- find -----------------------------------------------------------------------------------------


@click.command()
@click.argument("patterns", nargs=-1, required=True)
@click.option(
    "-s", "--snapshot", "names", multiple=True, help="Only in this one, or below its :/path."
)
@click.option("--ignore-case", is_flag=True)
@click.option("--newer", metavar="TIME", help="Changed at this time or later: 2026-08-01, or 7d.")
@click.option("--older", metavar="TIME", help="Changed at this time or before.")
@click.option("--larger-than", metavar="SIZE", help="Files of this size or more.")
@click.option("--smaller-than", metavar="SIZE", help="Files of this size or less.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Mode, owner, size and time, too.")
@which_options
@opening.json_option
@opening.vault_options
def find(patterns: tuple[str, ...], **asked: Any) -> int:
    """Look for names in all snapshots, the newest last.

    Without a slash, PATTERNS are names; with one, whole paths. * and ? match anything.
    """
    from portal.browse import select_snapshot
    from portal.find import Finder

    vault = opening.open_vault(asked)
    faults = Faults(Status(as_json=False))
    zone, head, only = run.local_zone(), vault.head(), filter_of(asked)
    if asked["names"]:
        chosen = [select_snapshot(head, name, zone, only) for name in asked["names"]]
    else:
        chosen = [(snapshot, b"") for snapshot in head.live if only.takes(snapshot)]
    with vault.reader() as reader:
        finder = Finder(reader, _wanted(patterns, asked), faults.report)
        found_any = False
        for one, under in chosen:
            for snapshot, nodes in finder.find([one], under):
                found_any = True
                _show_found(snapshot, nodes, asked)
    if not found_any and not asked["as_json"]:
        click.echo("nothing found", err=True)
    return faults.exit_code


def _wanted(patterns: tuple[str, ...], asked: dict[str, Any]) -> "Wanted":
    from node.cli.values import parse_size
    from portal.find import Wanted

    larger, smaller = asked["larger_than"], asked["smaller_than"]
    return Wanted(
        patterns=tuple(os.fsencode(pattern) for pattern in patterns),
        ignore_case=asked["ignore_case"],
        newer_ns=_moment_ns(asked["newer"]),
        older_ns=_moment_ns(asked["older"]),
        size_min=parse_size(larger) if larger else None,
        size_max=parse_size(smaller) if smaller else None,
    )


def _moment_ns(text: str | None) -> int | None:
    """A date, or how long ago."""
    from time import time_ns

    from portal.retention import Duration

    if text is None:
        return None
    zone = run.local_zone()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            since = Duration.parse(text).before(time_ns(), zone)
        except UsageError:
            hint = "2026-08-01, 2026-08-01T12:00, or 7d for a week ago"
            raise UsageError(f"{text!r} is no time", hint=hint) from None
        return _BEFORE_ALL_NS if since is None else since
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return int(moment.timestamp()) * 10**9


def _show_found(snapshot: "Snapshot", nodes: "Sequence[Node]", asked: dict[str, Any]) -> None:
    zone = run.local_zone()
    if asked["as_json"]:
        matches = [_facts(node) for node in nodes]
        line = {"v": 1, "message_type": "matches", "snapshot": snapshot.id.hex()}
        click.echo(json.dumps(line | {"matches": matches}))
        return
    moment = datetime.fromtimestamp(snapshot.record.time_ns // 10**9, tz=zone)
    click.echo(f"{snapshot.name} of {moment:%Y-%m-%d %H:%M:%S}")
    show = _long_line if asked["is_long"] else _name_line
    for node in nodes:
        click.echo(f"  {show(node, zone)}")


# --- diff -----------------------------------------------------------------------------------------


@click.command()
@click.argument("old", shell_complete=complete_snapshots)
@click.argument("new", required=False, shell_complete=complete_snapshots)
@click.option("--with", "disk", type=_PATH, help="Compare with this directory of the disk.")
@click.option("--content", is_flag=True, help="Read the files on the disk; do not trust times.")
@click.option("--metadata", is_flag=True, help="Also what differs in mode, owner or time only.")
@opening.json_option
@opening.vault_options
def diff(old: str, new: str | None, **asked: Any) -> int:
    """What changed from OLD to NEW, two snapshots; without NEW, since OLD on the disk.

    + is new, - gone, M another content, U another mode, owner or time, T another type. Exit code 0
    whether anything differs or not.
    """
    from portal.browse import lookup, select_snapshot
    from portal.compare import Comparison, Difference

    vault = opening.open_vault(asked)
    faults = Faults(Status(as_json=False))
    zone, head = run.local_zone(), vault.head()
    before, under = select_snapshot(head, old, zone)
    if new is not None and asked["disk"]:
        raise UsageError("a snapshot or --with a directory, not both")
    with vault.reader() as reader:
        comparison = Comparison(reader, faults.report)
        if new is not None:
            after, under_new = select_snapshot(head, new, zone)
            if under != under_new and under_new:
                raise UsageError("both sides must name the same path", where=new)
            changes = comparison.of_snapshots(before, after, under)
        else:
            root = os.fsencode(asked["disk"] or Path("/") / os.fsdecode(under))
            lookup(reader, before, under)  # a path that is not there either is a slip of the pen
            if not os.path.lexists(root):
                raise UsageError("does not exist on the disk", where=os.fsdecode(root))
            changes = comparison.with_disk(before, under, root, content=asked["content"])
        for change in changes:
            if change.difference is not Difference.METADATA or asked["metadata"]:
                _show_change(change, as_json=asked["as_json"])
        _show_totals(comparison.totals, asked)
    return faults.exit_code


def _show_change(change: "Change", *, as_json: bool) -> None:
    from core.tree.paths import shown

    if as_json:
        line = {"v": 1, "message_type": "change", "modifier": change.difference.value}
        click.echo(json.dumps(line | _path_facts(change.path)))
        return
    node = change.new or change.old
    mark = "/" if node and node.entry.is_directory else ""
    click.echo(f"{change.difference.value}  /{shown(change.path)}{mark}")


def _show_totals(totals: "Changes", asked: dict[str, Any]) -> None:
    from dataclasses import asdict

    if asked["as_json"]:
        click.echo(json.dumps({"v": 1, "message_type": "statistics", **asdict(totals)}))
        return
    named = "" if asked["metadata"] or not totals.metadata else " (--metadata names them)"
    click.echo(
        f"{totals.added} new, {totals.removed} gone, {totals.content} changed, {totals.type} of "
        f"another type, {totals.metadata} of another mode, owner or time{named}; "
        f"{size_text(totals.added_bytes)} came, {size_text(totals.removed_bytes)} went",
        err=True,
    )


# --- cat and dump ---------------------------------------------------------------------------------


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="SNAPSHOT:/PATH...")
@opening.vault_options
def cat(files: tuple[str, ...], **asked: Any) -> int:
    """Print files of a snapshot, such as latest:/home/ann/letter.txt."""
    from core import process
    from core.tree.entry import EntryType
    from core.tree.paths import shown
    from portal.browse import lookup, select_snapshot
    from portal.content import cat as print_file

    process.keep_freed_buffers()
    vault, zone, nodes = opening.open_vault(asked), run.local_zone(), []
    head = vault.head()
    with vault.reader() as reader:
        for name in files:
            found, path = select_snapshot(head, name, zone)
            if not path:
                hint = "SNAPSHOT:/PATH, as portal ls shows"
                raise UsageError("names no file", where=name, hint=hint)
            node = lookup(reader, found, path)
            if node.entry.type is not EntryType.FILE:
                kind = _TOLD[node.entry.type]
                raise UsageError(f"is {kind}, no file", where=f"{found.name}:/{shown(path)}")
            nodes.append(node)
        for node in nodes:
            print_file(reader, node, sys.stdout.buffer.write)
    sys.stdout.buffer.flush()
    return 0


@click.command()
@_snapshot
@click.argument("patterns", nargs=-1)
@click.option("-o", "--output", type=_PATH, help="The file to make; else, or for -, stdout.")
@click.option("--archive", type=click.Choice(["tar", "zip"]), help="Default: by OUTPUT, else tar.")
@click.option("-e", "--exclude", multiple=True, help="Not what matches.")
@opening.vault_options
def dump(snapshot: str, patterns: tuple[str, ...], **asked: Any) -> int:
    """Write SNAPSHOT, or SNAPSHOT:/path, as a tar or zip stream.

    Names in it begin below that path.
    """
    from portal.browse import lookup
    from portal.dump import dump_tar, dump_zip

    output, kind = asked["output"], asked["archive"]
    output = None if output == Path("-") else output
    if output is not None and os.path.lexists(output):
        raise UsageError("exists already", where=str(output), hint="choose another name")
    if output is None and sys.stdout.isatty():
        raise UsageError("not onto a terminal", hint="-o FILE, or a pipe")
    if kind is None:
        kind = "zip" if output is not None and output.suffix.lower() == ".zip" else "tar"
    faults = Faults(Status(as_json=False))
    write_archive = dump_zip if kind == "zip" else dump_tar
    with _opened(asked, snapshot) as (reader, found, path):
        select = selection(path, patterns, asked["exclude"])
        refuse_nothing(reader, found, path, select)
        above = path if lookup(reader, found, path).entry.is_directory else path.rpartition(b"/")[0]

        def report(name: bytes, error: PortalError | OSError) -> None:
            faults.report(above + b"/" + name, error)

        if output is None:
            out = sys.stdout.buffer
            write_archive(reader, found, path, out.write, report, select)
            out.flush()
            return faults.exit_code
        partial = output.with_name(output.name + ".partial")
        try:
            with partial.open("wb") as file:
                write_archive(reader, found, path, file.write, report, select)
            partial.rename(output)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return faults.exit_code
