"""`portal restore`: files back from a snapshot."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError
from node.cli import opening, run, secrets_input
from node.cli.faults import Faults
from node.cli.progress import Status, size_text, time_text
from node.cli.snapshots import filter_of, which_options

if TYPE_CHECKING:
    from portal.restore import Options, Restore
    from portal.standing import Deed
    from portal.vault import Vault
    from portal.writing import Progress

_PATH = opening.PATH
_OVERWRITE = ["refuse", "always", "if-changed", "if-newer", "never"]
_OWNERS = ["numbers", "names", "mine"]

_what = opening.together(
    click.argument("snapshot", default="latest"),
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
    target = _target(asked)
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    vault = opening.open_vault(asked)
    faults = Faults(status, verbose=asked["verbose"])
    if asked["delete"] and not asked["dry_run"] and not asked["yes"]:
        if not secrets_input.on_terminal():
            raise UsageError("--delete takes files away", hint="--yes does it without asking")
        click.confirm(f"remove what the snapshot does not have below {target}?", abort=True)
    progress = _restore(asked, vault, target, (status, faults))
    status.clear()
    _close(progress, target, status, dry_run=asked["dry_run"], errors=faults.errors)
    return faults.exit_code


def _target(asked: dict[str, Any]) -> Path:
    if asked["in_place"] == (asked["target"] is not None):
        hint = "--target DIR, or --in-place to put it back where it came from"
        raise UsageError("where to?", hint=hint)
    return Path("/") if asked["in_place"] else asked["target"]


def _restore(
    asked: dict[str, Any], vault: "Vault", target: Path, tell: tuple[Status, Faults]
) -> "Progress":
    from portal.browse import Selection, select_snapshot
    from portal.restore import Restore

    status, faults = tell
    found, under = select_snapshot(
        vault.head(), asked["snapshot"], run.local_zone(), filter_of(asked)
    )
    if asked["in_place"] and under:
        target = Path("/") / os.fsdecode(_directory_of(vault, found, under))
    include = [os.fsencode(p) for p in (*asked["patterns"], *asked["include"])]
    select = Selection(
        [_inside(pattern, under) for pattern in include],
        [_inside(os.fsencode(pattern), under) for pattern in asked["exclude"]],
    )
    with vault.reader() as reader:
        options = _options(asked, vault, status)
        job = Restore(reader, target, faults.report, options, lambda: _show(status, job))
        try:
            run.run_trio(job.run, found, under, select, asked["threads"])
        except KeyboardInterrupt:
            status.clear()
            status.say(
                "interrupted: files that are there are whole; --overwrite if-changed goes on"
            )
            raise
    return job.progress


def _directory_of(vault: "Vault", snapshot: Any, under: bytes) -> bytes:
    """Where the content of `under` lies in the original tree."""
    from portal.browse import lookup

    with vault.reader() as reader:
        is_directory = lookup(reader, snapshot, under).entry.is_directory
    return under if is_directory else under.rpartition(b"/")[0]


def _inside(pattern: bytes, under: bytes) -> bytes:
    """A pattern on whole paths; one that is not absolute counts from `under`."""
    if pattern.startswith((b"/", b"*")) or not under:
        return pattern
    return under + b"/" + pattern


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
    status.update(progress.content_bytes, total, progress.files, shown(progress.now[-60:]))


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
    parts = [f"{would} {progress.files:,} files, {size_text(progress.content_bytes)}"]
    parts += [f"{progress.kept:,} were there already"] if progress.kept else []
    parts += [f"{progress.removed:,} removed"] if progress.removed else []
    status.summary(f"{', '.join(parts)}, in {time_text(status.seconds)}")
    if progress.verified:
        status.summary(f"read again and compared: {progress.verified:,} files")
    failed = f", but {errors} things could not be (exit 3)" if errors else ""
    status.summary(f"to {target}{failed}")
