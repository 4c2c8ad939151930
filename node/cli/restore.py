"""`portal restore`: files back from a snapshot."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from core.errors import PortalError, UsageError
from node.cli import opening, run, secrets_input
from node.cli.completion import complete_snapshots
from node.cli.faults import Faults
from node.cli.keep import counted
from node.cli.look import refuse_nothing, selection
from node.cli.progress import Status, size_text, time_text
from node.cli.snapshots import filter_of, which_options

if TYPE_CHECKING:
    from portal.browse import Selection
    from portal.head import Snapshot
    from portal.reader import Reader
    from portal.restore import Options, Restore
    from portal.standing import Deed
    from portal.vault import Vault
    from portal.writing import Progress

_PATH = opening.PATH
_OVERWRITE = ["refuse", "always", "if-changed", "if-newer", "never"]
_NAMED_MAX = 20
_OWNERS = ["numbers", "names", "mine"]

_what = opening.together(
    click.argument("snapshot", default="latest", shell_complete=complete_snapshots),
    click.argument("patterns", nargs=-1),
    click.option("-t", "--target", type=_PATH, help="The directory to restore into."),
    click.option("--in-place", is_flag=True, help="Put everything back where it came from."),
    click.option("-i", "--include", multiple=True, help="Only what matches; as PATTERNS."),
    click.option("-e", "--exclude", multiple=True, help="Not what matches."),
    which_options,
)
_how = opening.together(
    click.option(
        "--overwrite",
        type=click.Choice(_OVERWRITE),
        help="What happens to files that are there: refuse; in place: if-changed.",
    ),
    click.option("--content", is_flag=True, help="Compare by content, not by size and time."),
    click.option("--delete", is_flag=True, help="Remove what the snapshot does not have."),
    click.option("--verify", is_flag=True, help="Read everything again and compare."),
    click.option("--sparse", is_flag=True, help="Make holes of runs of zeros."),
    click.option("--owners", type=click.Choice(_OWNERS), help="As root: numbers; else: mine."),
)


@click.command()
@_what
@_how
@opening.threads_option
@opening.dry_run_option
@opening.yes_option
@opening.quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
@opening.json_option
@opening.vault_options
def restore(**asked: Any) -> int:
    """Take files out of SNAPSHOT: all of them, or what PATTERNS name.

    SNAPSHOT is an id, latest, latest~2 or @2026-08-01, and may end in :/path to take what is below
    that path. Nothing is ever written outside of the target. Exit code 3: some files could not be
    restored; each was named.
    """
    from core import process

    process.prepare_for_bulk()
    if asked["in_place"] == (asked["target"] is not None):
        hint = "--target DIR, or --in-place to put it back where it came from"
        raise UsageError("where to?", hint=hint)
    asks = asked["delete"] and not asked["dry_run"] and not asked["yes"]
    if asks and not secrets_input.on_terminal():
        raise UsageError("--delete takes files away", hint="--yes does it without asking")
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    vault = opening.open_vault(asked)
    faults = Faults(status, verbose=asked["verbose"])
    with vault.reader() as reader:
        what = _what_of(asked, vault, reader)
        if asks:
            _ask(asked, vault, reader, what)
        progress = _restore(asked, _options(asked, vault, status), (reader, what), (status, faults))
    status.clear()
    _close(progress, what.target, status, dry_run=asked["dry_run"], errors=faults.errors)
    return faults.exit_code


class _What(NamedTuple):
    """What is restored, and where to."""

    snapshot: "Snapshot"
    under: bytes
    select: "Selection"
    target: Path


def _what_of(asked: dict[str, Any], vault: "Vault", reader: "Reader") -> _What:
    from portal.browse import lookup, select_snapshot

    found, under = select_snapshot(
        vault.head(), asked["snapshot"], run.local_zone(), filter_of(asked)
    )
    select = selection(under, (*asked["patterns"], *asked["include"]), asked["exclude"])
    refuse_nothing(reader, found, under, select)
    target = asked["target"]
    if asked["in_place"]:
        is_directory = lookup(reader, found, under).entry.is_directory
        target = Path("/") / os.fsdecode(under if is_directory else under.rpartition(b"/")[0])
    return _What(found, under, select, target)


def _restore(
    asked: dict[str, Any],
    options: "Options",
    of: "tuple[Reader, _What]",
    tell: tuple[Status, Faults],
) -> "Progress":
    from portal.restore import Restore

    (status, faults), (reader, what) = tell, of
    job = Restore(reader, what.target, faults.report, options, lambda: _show(status, job))
    try:
        run.run_trio(job.run, what.snapshot, what.under, what.select, asked["threads"])
    except KeyboardInterrupt:
        status.clear()
        status.say("interrupted: files that are there are whole; --overwrite if-changed goes on")
        raise
    return job.progress


def _ask(asked: dict[str, Any], vault: "Vault", reader: "Reader", what: _What) -> None:
    """Show what would be removed, and ask; nothing, if nothing would be."""
    from dataclasses import replace

    from core.tree.paths import shown
    from portal.standing import Deed

    gone: list[bytes] = []

    def note(deed: "Deed", path: bytes) -> None:
        if deed is Deed.REMOVED:
            gone.append(path)

    silent = Status(as_json=False, quiet=True)
    options = replace(_options(asked, vault, silent), dry_run=True, verify=False, say=note)
    of_nothing = _Unheard(silent)
    _restore(asked, options, (reader, what), (silent, of_nothing))
    if not gone:
        return
    for path in gone[:_NAMED_MAX]:
        click.echo(f"would be removed: /{shown(path)}", err=True)
    if len(gone) > _NAMED_MAX:
        click.echo(f"and {len(gone) - _NAMED_MAX:,} more", err=True)
    count = "this" if len(gone) == 1 else f"these {len(gone):,}, and what is below them,"
    place = opening.shown_path(what.target)
    click.confirm(f"remove {count} from {place}?", abort=True, err=True)


class _Unheard(Faults):
    """Of a dry run that only counts: the real one says it."""

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        """Nothing."""


def _options(asked: dict[str, Any], vault: "Vault", status: Status) -> "Options":
    from core.tree.metadata import Owners
    from core.tree.paths import shown
    from node.home import portal_home
    from portal.restore import Options
    from portal.standing import Overwrite

    def say(deed: "Deed", path: bytes) -> None:
        if asked["verbose"] or asked["dry_run"]:
            status.event("verbose_status", action=deed.value, path=shown(path))
            status.say(f"{deed.value:<10} /{shown(path)}")

    owners = asked["owners"] or ("numbers" if os.geteuid() == 0 else "mine")
    overwrite = asked["overwrite"] or ("if-changed" if asked["in_place"] else "refuse")
    return Options(
        overwrite=Overwrite(overwrite),
        content=asked["content"],
        delete=asked["delete"],
        protected=(vault.store.path, portal_home()),
        sparse=asked["sparse"],
        dry_run=asked["dry_run"],
        verify=asked["verify"],
        owners=Owners(owners),
        say=say,
    )


def _show(status: Status, job: "Restore") -> None:
    from core.tree.paths import shown

    progress = job.progress
    total = progress.bytes_total or 0
    now = shown(progress.now.rpartition(b"/")[2])
    status.update(progress.content_bytes, total, progress.files, now)


def _close(
    progress: "Progress", target: Path, status: Status, *, dry_run: bool, errors: int
) -> None:
    status.event(
        "summary",
        files=progress.files,
        others=progress.others,
        content_bytes=progress.content_bytes,
        kept=progress.kept,
        removed=progress.removed,
        verified=progress.verified,
        errors=errors,
        dry_run=dry_run,
        seconds=round(status.seconds, 3),
    )
    would = "would restore" if dry_run else "restored"
    files = counted(progress.files, "file")
    parts = [f"{would} {files}, {size_text(progress.content_bytes)}"]
    parts += [f"{progress.kept:,} were there already"] if progress.kept else []
    would = "would be " if dry_run else ""
    parts += [f"{progress.removed:,} {would}removed"] if progress.removed else []
    status.summary(f"{', '.join(parts)}, in {time_text(status.seconds)}")
    if progress.verified:
        status.summary(f"read again and compared: {counted(progress.verified, 'file')}")
    things = counted(errors, "thing")
    failed = f", but {things} could not be restored (exit 3)" if errors else ""
    status.summary(f"to {opening.shown_path(target)}{failed}")
