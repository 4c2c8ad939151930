"""`portal check`, `repair`, `stats`, `copy` and `rewrite`: looking after what was saved."""

import json
import os
import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError
from node.cli import opening, run, secrets_input
from node.cli.completion import complete_snapshots
from node.cli.keep import counted, named
from node.cli.progress import Status, size_text, time_text
from node.cli.snapshots import filter_of, which_options

if TYPE_CHECKING:
    from portal.check import Checked, Options
    from portal.head import Snapshot
    from portal.repair import Repaired
    from portal.stats import Stats
    from portal.vault import Vault

_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")
_NAMED_MAX = 50


# --- check and repair -----------------------------------------------------------------------------


@click.command()
@click.option("--data", metavar="5%|1/7|all", help="Read packs, too: a random share, or a part.")
@opening.threads_option
@opening.quiet_option
@opening.json_option
@opening.vault_options
def check(**asked: Any) -> int:
    """See that everything the snapshots need is there, and with --data that it can be read.

    Exit code 5: portal repair mends what was found. 6: something is lost; its files are named.
    """
    from core import process

    process.prepare_for_bulk()
    vault = opening.open_vault(asked)
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    checked = _checked(vault, _check_options(asked), status)
    _show_checked(checked, status)
    return checked.exit_code


def _check_options(asked: dict[str, Any]) -> "Options":
    from portal.check import Options

    data, threads = asked["data"], asked["threads"]
    if not data:
        return Options(threads=threads)
    if data == "all":
        return Options(share=1.0, threads=threads)
    if (match := _SHARE.fullmatch(data)) and float(match[1]) <= 100:
        return Options(share=float(match[1]) / 100, threads=threads)
    if (match := _PART.fullmatch(data)) and 0 < int(match[1]) <= int(match[2]):
        return Options(part=(int(match[1]), int(match[2])), threads=threads)
    raise UsageError("how much is to be read?", where=data, hint="5%, or 1/7, or all")


def _checked(vault: "Vault", options: "Options", status: Status) -> "Checked":
    from portal.check import check as check_vault

    def watch(checked: "Checked") -> None:
        status.update(checked.bytes_read, 0, checked.snapshots, "snapshots")

    checked = run.run_trio(check_vault, vault, options, watch)
    status.clear()
    return checked


def _show_checked(checked: "Checked", status: Status) -> None:
    from core.tree.paths import shown

    for finding in checked.findings:
        grade = finding.grade.name.lower()
        status.event("finding", grade=grade, where=finding.where, what=finding.what)
        status.say(f"{grade:<9} {finding.where}: {finding.what}")
    for snapshot, path in checked.affected[:_NAMED_MAX]:
        status.event("affected", snapshot=snapshot.id.hex(), path=shown(path))
        status.say(f"lost      {snapshot.name}:/{shown(path)}")
    if checked.affected_count > _NAMED_MAX:
        status.say(f"          and {checked.affected_count - _NAMED_MAX:,} more files")
    status.event(
        "summary",
        snapshots=checked.snapshots,
        pieces=checked.pieces,
        packs=checked.packs,
        pack_bytes=checked.pack_bytes,
        packs_read=checked.packs_read,
        bytes_read=checked.bytes_read,
        exit_code=checked.exit_code,
        affected=checked.affected_count,
        trash_packs=checked.trash_packs,
        unlisted_packs=checked.unlisted_packs,
        sessions=checked.sessions,
        leftovers=checked.leftovers,
        set_aside=checked.set_aside,
        seconds=round(status.seconds, 3),
    )
    read = f", {size_text(checked.bytes_read)} of them read" if checked.bytes_read else ""
    status.summary(
        f"{counted(checked.snapshots, 'snapshot')}, {counted(checked.pieces, 'piece')} in "
        f"{counted(checked.packs, 'pack')}, "
        f"{size_text(checked.pack_bytes)}{read}, in {time_text(status.seconds)}"
    )
    endings = {
        0: "everything is there",
        5: "damaged, but nothing is lost: portal repair",
        6: "something is lost: portal repair keeps the rest",
    }
    status.summary(endings[checked.exit_code])


@click.command()
@click.option("--leave-out", is_flag=True, help="Make snapshots anew without the lost files.")
@click.option("--data", metavar="5%|1/7|all", default="all", show_default=True)
@opening.threads_option
@opening.yes_option
@opening.quiet_option
@opening.json_option
@opening.vault_options
def repair(**asked: Any) -> int:
    """Mend what portal check finds. Damaged files are set aside, nothing is deleted.

    Exit code 6: something is lost; the snapshots keep what is left of them.
    """
    from core import process
    from portal.repair import repair as repair_vault

    process.prepare_for_bulk()
    vault = opening.open_vault(asked)
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    checked = _checked(vault, _check_options(asked), status)
    _show_checked(checked, status)
    if checked.exit_code == 0:
        return 0
    if asked["leave_out"] and checked.lost and not asked["yes"]:
        if not secrets_input.on_terminal():
            raise UsageError("--leave-out forgets snapshots", hint="--yes does it without asking")
        click.confirm("make the snapshots anew without what is lost?", abort=True, err=True)
    work = _Work(repair_vault, leave_out=asked["leave_out"])
    done = run.run_trio(work, vault, checked, int(time.time()))
    return _show_repaired(done, vault, status)


class _Work:
    """A function with options set, for trio.run, which takes positions only."""

    def __init__(self, work: Any, **options: Any) -> None:
        self._work = work
        self._options = options

    def __call__(self, *args: Any) -> Any:
        return self._work(*args, **self._options)


def _show_repaired(done: "Repaired", vault: "Vault", status: Status) -> int:
    """Tell what was done, and how the vault is now."""
    from portal.check import Options

    now = _checked(vault, Options(), status)
    status.event(
        "repaired",
        set_aside=done.set_aside,
        saved_packs=done.saved_packs,
        taken_back=done.taken_back,
        found=[snapshot.id.hex() for snapshot in done.found],
        broken=[snapshot.id.hex() for snapshot in done.broken],
        rewritten=[[one.old.id.hex(), one.new.id.hex()] for one in done.rewritten],
        lost=done.lost,
        exit_code=now.exit_code,
    )
    lines = [
        (len(done.set_aside), "damaged file", "set aside, in the vault's damaged/"),
        (done.saved_packs, "new pack", "made of what could still be read"),
        (done.taken_back, "pack", "taken back from the trash"),
        (len(done.found), "snapshot", "found again that no head told of"),
        (len(done.broken), "snapshot", "found likewise, but not whole, and left out"),
        (len(done.rewritten), "snapshot", "made anew without what is lost"),
        (done.lost, "piece", "lost; a backup stores those again that are still on the disk"),
    ]
    for count, noun, what in lines:
        if count:
            status.say(f"{counted(count, noun)} {what}")
    status.summary(
        {
            0: "now everything is there that snapshots need",
            5: "there is damage still: portal check",
            6: "what is lost stays lost; --leave-out makes the snapshots anew without it",
        }[now.exit_code]
    )
    return now.exit_code


# --- stats ----------------------------------------------------------------------------------------


@click.command()
@which_options
@opening.json_option
@opening.vault_options
def stats(**asked: Any) -> int:
    """How much the snapshots hold, and how much room that takes.

    Options choose which snapshots are told about one by one; the rest is about all of them.
    """
    from core import process
    from portal.stats import stats as count

    process.keep_freed_buffers()
    vault = opening.open_vault(asked)
    only = filter_of(asked)
    live = vault.head().live
    found = count(vault, [snapshot for snapshot in live if only.takes(snapshot)])
    if asked["as_json"]:
        click.echo(json.dumps(_stats_facts(found)))
    else:
        _show_stats(found, len(live))
    return 0


def _stats_facts(found: "Stats") -> dict[str, Any]:
    snapshots = [
        {
            "id": one.snapshot.id.hex(),
            "restore_bytes": one.restore_bytes,
            "unique_pieces": one.unique_pieces,
            "unique_bytes": one.unique_bytes,
        }
        for one in found.snapshots
    ]
    first = ("forgotten", "pieces", "piece_bytes", "restore_bytes", "live_bytes", "pack_bytes")
    names = (*first, "unused_bytes", "trash_packs", "trash_bytes", "missing")
    return {"v": 1, "message_type": "stats", "snapshots": snapshots} | {
        name: getattr(found, name) for name in names
    }


def _show_stats(found: "Stats", live: int) -> None:
    for one in found.snapshots:
        click.echo(
            f"{one.snapshot.name}  {size_text(one.restore_bytes):>10}, "
            f"{size_text(one.unique_bytes)} of it nowhere else"
        )
    packs = ", ".join(f"{count} of {size_text(size)}" for size, count in found.packs)
    lines = [
        (
            "snapshots",
            f"{live:,}" + (f", and {found.forgotten:,} forgotten" if found.forgotten else ""),
        ),
        ("they hold", size_text(found.restore_bytes)),
        (
            "different content",
            f"{size_text(found.piece_bytes)} in {counted(found.pieces, 'piece')}",
        ),
        ("compressed, sealed", size_text(found.live_bytes)),
        ("packs", f"{size_text(found.pack_bytes)}: {packs or 'none'}"),
        ("unused in them", size_text(found.unused_bytes)),
        ("trash", f"{size_text(found.trash_bytes)} in {counted(found.trash_packs, 'pack')}"),
        ("each stored byte", f"stands for {found.total_ratio:.2f}"),
    ]
    for name, text in lines:
        click.echo(f"{name:<20}{text}")
    for when, size in found.trash_frees:
        moment = datetime.fromtimestamp(when, tz=run.local_zone())
        click.echo(f"{'':<20}{size_text(size)} may go after {moment:%Y-%m-%d %H:%M}")
    if found.missing:
        click.echo(f"{found.missing} pieces are missing: portal check", err=True)


# --- copy and rewrite -----------------------------------------------------------------------------


@click.command()
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...", shell_complete=complete_snapshots)
@click.option("--to", "target", type=opening.PATH, required=True, help="The other vault.")
@which_options
@opening.quiet_option
@opening.json_option
@opening.vault_options
def copy(names: tuple[str, ...], target: Path, **asked: Any) -> int:
    """Copy SNAPSHOTs (all of them, if none is named) into another vault of yours.

    What is there already is not copied again. portal init -r DIR makes the other vault.
    """
    from core import process
    from portal.copy import copy as copy_snapshots

    process.prepare_for_bulk()
    source = opening.open_vault(asked)
    other = opening.open_vault_at(target, opening.open_identity(asked))
    if other.id == source.id:
        raise UsageError("that is the same vault", where=str(target))
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    done = run.run_trio(
        copy_snapshots,
        source,
        _chosen(source, names, asked),
        other,
        lambda copied: status.update(copied.piece_bytes, 0, copied.pieces),
    )
    status.clear()
    status.event(
        "summary",
        copied=[snapshot.id.hex() for snapshot in done.added],
        known=[snapshot.id.hex() for snapshot in done.known],
        pieces=done.pieces,
        piece_bytes=done.piece_bytes,
        stored_bytes=done.stored_bytes,
    )
    status.summary(
        f"{counted(len(done.added), 'snapshot')} copied, {len(done.known)} there already: "
        f"{size_text(done.piece_bytes)}, stored as {size_text(done.stored_bytes)}, "
        f"in {opening.shown_path(target)}"
    )
    return 0


def _chosen(vault: "Vault", names: tuple[str, ...], asked: dict[str, Any]) -> "list[Snapshot]":
    if names:
        return named(vault, names, asked)
    only = filter_of(asked)
    return [snapshot for snapshot in vault.head().live if only.takes(snapshot)]


@click.command()
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...", shell_complete=complete_snapshots)
@click.option("-e", "--exclude", multiple=True, help="Leave out what matches, as in backup.")
@click.option("--new-host", help="Say it was made on this machine.")
@click.option("--forget", "forgets", is_flag=True, help="Forget the old ones.")
@which_options
@opening.dry_run_option
@opening.quiet_option
@opening.json_option
@opening.vault_options
def rewrite(names: tuple[str, ...], **asked: Any) -> int:
    """Make new snapshots of SNAPSHOTs (or of all) without what --exclude names."""
    from core import process
    from portal.rewrite import Edit
    from portal.rewrite import rewrite as rewrite_snapshots

    process.prepare_for_bulk()
    if not asked["exclude"] and not asked["new_host"]:
        raise UsageError("nothing to change", hint="--exclude PATTERN or --new-host NAME")
    vault = opening.open_vault(asked)
    chosen = _chosen(vault, names, asked)
    rules = _Rules(asked["exclude"])
    if asked["dry_run"]:
        return _would_rewrite(vault, chosen, rules, asked)
    edit = Edit(drop=rules.drops, host=asked["new_host"], why=rules.why, forget=asked["forgets"])
    made = run.run_trio(rewrite_snapshots, vault, chosen, edit, int(time.time()))
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    for one in made:
        changed = one.old.id != one.new.id
        old, new = one.old.id.hex(), one.new.id.hex()
        status.event("rewritten", old=old, new=new, dropped=one.dropped, changed=changed)
        dropped = f", {counted(one.dropped, 'name')} left out" if one.dropped else ""
        what = f"is now {one.new.name}{dropped}" if changed else "stays as it is"
        pinned = " (the old one is pinned, so it stays, too)" if one.old.pinned else ""
        status.summary(f"{one.old.name} {what}{pinned if changed and asked['forgets'] else ''}")
    return 0


class _Rules:
    """Patterns as in a backup, asked about names in snapshots."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        from core.tree.patterns import Patterns, anywhere

        self.why = ""
        self._patterns = Patterns([anywhere(os.fsencode(pattern)) for pattern in patterns])

    def drops(self, snapshot: "Snapshot", node: Any) -> bool:
        entry = node.entry
        inside = entry.path + b"/"
        if any((source.strip(b"/") + b"/").startswith(inside) for source in snapshot.record.paths):
            return False  # a source, or what leads to one: named to be saved, whatever its name
        return bool(self._patterns.verdict(entry.path, is_directory=entry.is_directory))


def _would_rewrite(
    vault: "Vault", chosen: "list[Snapshot]", rules: _Rules, asked: dict[str, Any]
) -> int:
    from core.tree.paths import shown
    from portal.browse import walk

    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    host = asked["new_host"]
    with vault.reader() as reader:
        for snapshot in chosen:
            count, above = 0, b""
            for node in walk(reader, snapshot):
                is_below = above and node.entry.path.startswith(above)
                if not is_below and not rules.drops(snapshot, node):
                    continue
                count += 1
                if not is_below:
                    above = node.entry.path + b"/"
                    mark = "/" if node.entry.is_directory else ""
                    status.say(f"{snapshot.name} would lose /{shown(node.entry.path)}{mark}")
            changed = bool(count) or (host is not None and host != snapshot.record.host)
            old = snapshot.id.hex()
            status.event("rewritten", old=old, new=None, dropped=count, changed=changed)
            what = f"would be made anew, {counted(count, 'name')} left out"
            status.summary(f"{snapshot.name} {what if changed else 'would stay as it is'}")
    return 0
