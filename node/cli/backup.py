"""`portal backup`: the command everything else is there for."""

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import FormatError, PortalError, UsageError
from node.cli import opening, run, sources
from node.cli.completion import complete_snapshots
from node.cli.faults import EXIT_INCOMPLETE, Faults
from node.cli.progress import Status, size_text, time_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.secret import Secret
    from core.tree.exclusion import Exclusion
    from core.tree.source import Root
    from node.cli.sources import Stream
    from node.config import Settings
    from node.identity import Identity
    from portal.backup import Made, Options
    from portal.intake import Progress
    from portal.vault import Vault

_PATH = opening.PATH
_MODES = {"auto": "AUTO", "none": "OFF", "lz4": "LZ4", "zstd": "ZSTD"}

_what = opening.together(
    click.argument("sources", nargs=-1, type=click.Path()),  # as typed: a command may be in it
    click.option("--files-from", type=_PATH, multiple=True, help="Sources, one per line; - stdin."),
    click.option("-0", "--from0", is_flag=True, help="A NUL ends each name in --files-from."),
    click.option("--stdin", "stdin_name", metavar="NAME", help="Back up stdin as a file NAME."),
    click.option(
        "--command", "stdin_command", metavar="NAME", help="Back up what SOURCES, run, print."
    ),
)
_left_out = opening.together(
    click.option("-e", "--exclude", multiple=True, help="Leave out what matches (as .gitignore)."),
    click.option("--iexclude", multiple=True, help="The same, upper or lower case."),
    click.option("--exclude-file", "exclude_files", type=_PATH, multiple=True, help="Patterns."),
    click.option("--exclude-caches", is_flag=True, default=None, help="CACHEDIR.TAG directories."),
    click.option("--exclude-if-present", multiple=True, metavar="NAME[:HEADER]"),
    click.option("--exclude-larger-than", metavar="SIZE", help="Files above, such as 1GiB."),
    click.option("--gitignore", is_flag=True, default=None, help="Obey .gitignore files."),
    click.option("-x", "--one-file-system", is_flag=True, default=None, help="Stay on it."),
)
_how = opening.together(
    click.option("--tag", "tags", multiple=True, help="Label the snapshot; repeatable."),
    click.option("--host", help="Another name for this machine."),
    click.option("--compression", type=click.Choice(list(_MODES))),
    click.option(
        "--parent", help="The snapshot to compare with.", shell_complete=complete_snapshots
    ),
    click.option("--force", is_flag=True, help="Read every file, changed or not."),
    click.option("--ignore-ctime", is_flag=True, help="A file of equal mtime is unchanged."),
    click.option("--ignore-inode", is_flag=True, help="For file systems that number anew."),
    click.option("--skip-if-unchanged", is_flag=True, help="No snapshot if nothing changed."),
)


@click.command()
@_what
@_left_out
@_how
@opening.threads_option
@opening.dry_run_option
@opening.quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Name what was left out or changed meanwhile.")
@opening.json_option
@opening.vault_options
def backup(**asked: Any) -> int:
    """Save files and directories as they are now.

    On a machine without a vault the first backup makes one. Exit code 3: the snapshot was saved,
    but some files could not be read; each was named.
    """
    from core import process

    process.prepare_for_bulk()
    process.forbid_core_dumps()
    settings = _settings(asked)
    what = sources.what_to_save(asked, settings)  # before a vault is made for nothing
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    vault = _vault(asked, settings, status)
    return _with_hooks(settings, what, lambda: _back_up(asked, settings, what, vault, status))


def _settings(asked: dict[str, Any]) -> "Settings":
    from node.cli.values import parse_size

    limit = asked["exclude_larger_than"]
    plain = ("exclude", "iexclude", "exclude_files", "exclude_caches", "exclude_if_present")
    more = ("gitignore", "one_file_system", "tags", "compression")
    options = {name: asked[name] for name in (*plain, *more)}
    settings = opening.settings_of(
        asked, exclude_larger_than=parse_size(limit) if limit else None, **options
    )
    _check_texts(asked["host"], settings)
    return settings


def _check_texts(host: str | None, settings: "Settings") -> None:
    """Refuse now what could not be written into a snapshot after hours of work."""
    from core import codec, limits
    from portal.tags import check_tag

    for tag in settings.tags:
        check_tag(tag)
    if len(settings.tags) > limits.SNAPSHOT_TAGS_MAX:
        raise UsageError(f"a snapshot has at most {limits.SNAPSHOT_TAGS_MAX} tags")
    try:
        codec.as_text(host or "", limits.SNAPSHOT_TEXT_BYTES_MAX, "the name of a host")
    except FormatError as e:
        raise UsageError(e.what, where="--host") from None


# --- the vault, made where there is none ----------------------------------------------------------


def _vault(asked: dict[str, Any], settings: "Settings", status: Status) -> "Vault":
    from node import vaults
    from node.home import portal_home
    from node.identity import has_identity
    from portal.errors import NoVault

    path, home = opening.vault_path(settings), portal_home()
    try:
        return opening.open_vault(asked, settings)
    except NoVault as e:
        if path.absolute() in vaults.remembered(home).values():
            e.hint = "it was here before: is its disk plugged in?"
            raise
        if settings.vault is not None:
            e.hint = f"portal init -r {shlex.quote(str(path))} makes one"
        if settings.vault is not None or asked["dry_run"]:
            raise
    mine = opening.open_identity(asked) if has_identity(home) else first_identity(home, None)
    vault = opening.make_vault(path, mine)
    status.event("vault", vault=vault.id.text(), path=str(path))
    status.say(
        f"made a vault in {opening.shown_path(path)}\n"
        "its recovery phrase brings everything back when this machine is lost:\n"
        "  print it now with   portal recovery-kit\n"
    )
    return vault


def first_identity(home: Path, passphrase: "Secret | None", **more: Any) -> "Identity":
    """The identity of this machine; a new one if there is none."""
    from node import identity

    more.setdefault("name", run.host_name())
    return identity.create(home, passphrase=passphrase, now_s=int(time.time()), **more)


# --- one run --------------------------------------------------------------------------------------


def _back_up(
    asked: dict[str, Any],
    settings: "Settings",
    what: "Stream | list[Root]",
    vault: "Vault",
    status: Status,
) -> tuple[int, str]:
    """Do it and say how it went; the exit code, and the snapshot's name."""
    from portal.backup import Backup

    faults = Faults(status, verbose=asked["verbose"])
    options = _options(asked, settings, vault)
    job = Backup(vault, options, faults.report, lambda progress: _show(status, progress, options))
    began_ns = time.time_ns()
    try:
        if isinstance(what, sources.Stream):
            made = what.save(job, began_ns)
        else:
            made = run.run_trio(job.run, what, began_ns, time.time_ns)
    except KeyboardInterrupt:
        status.clear()
        status.say("interrupted: what was stored is kept, and the next backup goes on from there")
        raise
    status.clear()
    _close(made, vault, status, asked)
    name = made.snapshot.name if made.snapshot else ""
    return (EXIT_INCOMPLETE if made.errors else 0), name


def _options(asked: dict[str, Any], settings: "Settings", vault: "Vault") -> "Options":
    from core.compress import Mode
    from portal.backup import Options
    from portal.browse import select_snapshot

    rules = exclusion_of(settings)
    parent = None
    if asked["parent"]:
        parent, _ = select_snapshot(vault.head(), asked["parent"], run.local_zone())
    return Options(
        host=asked["host"] or run.host_name(),
        user=run.user_name(),
        tags=settings.tags,
        mode=Mode[_MODES[settings.compression]],
        threads=asked["threads"],
        exclusion=rules,
        rules=rules.fingerprint,
        one_file_system=settings.one_file_system,
        own=_own(vault),
        parent=parent,
        force=asked["force"],
        ignore_ctime=asked["ignore_ctime"],
        ignore_inode=asked["ignore_inode"],
        skip_if_unchanged=asked["skip_if_unchanged"],
        dry_run=asked["dry_run"],
    )


def exclusion_of(settings: "Settings") -> "Exclusion":
    """The rules for what is left out."""
    from core import files, limits
    from core.tree.exclusion import Exclusion, Marker, Options
    from core.tree.patterns import lines

    patterns = [os.fsencode(pattern) for pattern in settings.exclude]
    for file in settings.exclude_files:
        patterns += lines(files.read_bounded(file, limits.IGNORE_FILE_BYTES_MAX))
    return Exclusion(
        Options(
            exclude=tuple(patterns),
            iexclude=tuple(os.fsencode(pattern) for pattern in settings.iexclude),
            caches=settings.exclude_caches,
            if_present=tuple(Marker.parse(os.fsencode(m)) for m in settings.exclude_if_present),
            larger_than=settings.exclude_larger_than,
            gitignore=settings.gitignore,
        )
    )


def _own(vault: "Vault") -> frozenset[tuple[int, int]]:
    """What is never backed up: the vault, and the keys that open it."""
    from node.home import portal_home

    found = [path.stat() for path in (vault.store.path, portal_home()) if path.exists()]
    return frozenset((stat.st_dev, stat.st_ino) for stat in found)


def _with_hooks(
    settings: "Settings",
    what: "Stream | list[Root]",
    work: "Callable[[], tuple[int, str]]",
) -> int:
    """The hooks of the profile around the run."""
    from dataclasses import replace

    from node import hooks

    facts = hooks.Facts(
        profile=settings.profile or "",
        vault=str(opening.vault_path(settings)),
        sources=sources.names(what),
        environment=hooks.inherited(),
    )
    hooks.run_before(settings.hooks, facts)
    code, snapshot, error = 1, "", ""
    try:
        code, snapshot = work()
    except BaseException as e:
        error = opening.told(e) if isinstance(e, PortalError | OSError) else type(e).__name__
        raise
    finally:
        facts = replace(facts, snapshot=snapshot, exit_code=code, error=error)
        succeeded = code in {0, EXIT_INCOMPLETE}
        for line in hooks.run_after(settings.hooks, facts, succeeded=succeeded):
            click.echo(f"portal: {line}", err=True)
    return code


# --- what people see ------------------------------------------------------------------------------


def _show(status: Status, progress: "Progress", options: "Options") -> None:
    from core.tree.paths import shown

    parent = options.parent
    total = parent.record.totals.content_bytes if parent else 0
    now = shown(progress.now.rpartition(b"/")[2])
    status.update(progress.content_bytes, total, progress.files, now)


def _close(made: "Made", vault: "Vault", status: Status, asked: dict[str, Any]) -> None:
    progress, snapshot = made.progress, made.snapshot
    unmodified = progress.files - progress.files_new - progress.files_changed
    status.event(
        "summary",
        snapshot=snapshot.id.hex() if snapshot and not asked["dry_run"] else None,
        parent=made.parent.id.hex() if made.parent else None,
        files=progress.files,
        files_new=progress.files_new,
        files_changed=progress.files_changed,
        files_unmodified=unmodified,
        directories=progress.directories,
        content_bytes=progress.content_bytes,
        new_bytes=made.new_bytes,
        stored_bytes=made.stored_bytes,
        errors=made.errors,
        dry_run=asked["dry_run"],
        durable={"local": not asked["dry_run"], "peers": 0},
        seconds=round(status.seconds, 3),
    )
    status.summary(
        f"{progress.files:,} files in {progress.directories:,} directories: "
        f"{progress.files_new:,} new, {progress.files_changed:,} changed, "
        f"{unmodified:,} unmodified"
    )
    if asked["dry_run"]:
        status.summary(
            f"would add {size_text(made.new_bytes)} before compression; nothing was written"
        )
        return
    if snapshot is None:
        status.summary("nothing has changed: no snapshot was made")
        return
    status.summary(
        f"added {size_text(made.new_bytes)}, stored as {size_text(made.stored_bytes)}, "
        f"in {time_text(status.seconds)}"
    )
    status.summary(_saved(made, vault))


def _saved(made: "Made", vault: "Vault") -> str:
    assert made.snapshot is not None
    name = made.snapshot.name
    errors = f" with {made.errors} unreadable files (exit 3)" if made.errors else ""
    return (
        f"snapshot {name} saved{errors} in {opening.shown_path(vault.store.path)}\n"
        "1 copy, on this disk: portal copy to a vault on another one survives its loss\n"
        f"restore it with: portal restore {name} --target DIR"
    )
