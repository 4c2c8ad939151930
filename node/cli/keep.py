"""`portal forget`, `undelete` and `gc`: what is kept, and getting its room back."""

import json
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError
from node.cli import opening, run, secrets_input
from node.cli.progress import Status, size_text
from node.cli.snapshots import filter_of, time_text, which_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portal.gc import Collected
    from portal.head import Snapshot
    from portal.retention import Decision, Policy

_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_WITHIN = ("within", *(f"within-{period}" for period in _PERIODS[1:]))


def _keep_options(command: Any) -> Any:
    for name in reversed(_WITHIN):
        what = "snapshots" if name == "within" else f"{name.partition('-')[2]} snapshots"
        help_text = f"All {what} of this long: 7d, 1y6m." if name == "within" else f"Of {what}."
        command = click.option(f"--keep-{name}", metavar="DURATION", help=help_text)(command)
    for name in reversed(_PERIODS):
        help_text = f"So many {name} snapshots; -1 for all."
        command = click.option(f"--keep-{name}", type=click.IntRange(-1), help=help_text)(command)
    return command


@click.command()
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...")
@_keep_options
@click.option("--keep-tag", multiple=True, metavar="TAG[,TAG]", help="What has all these tags.")
@click.option("--group-by", default="host,paths", show_default=True, help="host, paths, tags.")
@click.option("--allow-empty", is_flag=True, help="Even if nothing is left of a group.")
@which_options
@opening.dry_run_option
@opening.quiet_option
@opening.json_option
@opening.vault_options
def forget(names: tuple[str, ...], **asked: Any) -> int:
    """Forget SNAPSHOTs, or all that no --keep rule (or the profile's) keeps.

    Says why each is kept. Nothing is deleted yet: portal undelete takes it back until portal gc
    has purged it, 7 days later.
    """
    from portal.forget import forget as forget_snapshots

    settings = opening.settings_of(asked)
    vault = opening.open_vault(asked, settings)
    if names:
        ids = _named(vault, names)
        _show_forgotten(ids, vault.head().live, asked)
    else:
        ids = _by_policy(asked, settings.keep, vault.head().live)
    if asked["dry_run"] or not ids:
        return 0
    forget_snapshots(vault, ids, int(time.time()))
    if not asked["quiet"]:
        hint = "portal gc frees what only they needed, portal undelete takes it back"
        click.echo(f"{len(ids)} snapshots forgotten ({hint})", err=True)
    return 0


def _named(vault: Any, names: tuple[str, ...]) -> set[bytes]:
    from portal.browse import select_snapshot

    head, zone = vault.head(), run.local_zone()
    return {select_snapshot(head, name, zone)[0].id for name in names}


def _by_policy(asked: dict[str, Any], profile: "Policy", live: "Sequence[Snapshot]") -> set[bytes]:
    from portal import retention

    policy = _policy(asked) or profile
    if policy.is_empty:
        hint = "name snapshots, or say what to keep: --keep-daily 7 --keep-monthly 12"
        raise UsageError("nothing to forget by", hint=hint)
    only = filter_of(asked)
    chosen = [snapshot for snapshot in live if only.takes(snapshot)]
    group_by = [name for name in asked["group_by"].split(",") if name]
    decisions = retention.plan(
        [_snap(snapshot) for snapshot in chosen],
        policy,
        time.time_ns(),
        zone=run.local_zone(),
        group_by=group_by,
    )
    retention.refuse_to_lose_a_group(decisions, group_by=group_by, allow_empty=asked["allow_empty"])
    by_name = {snapshot.id.hex(): snapshot for snapshot in chosen}
    _show_decisions(decisions, by_name, asked)
    return {bytes.fromhex(d.snap.id) for d in decisions if not d.keep}


def _policy(asked: dict[str, Any]) -> "Policy | None":
    """The rules of the command line; none at all means those of the profile."""
    from portal.retention import Duration, Policy

    counts = {name: asked[f"keep_{name}"] for name in _PERIODS}
    spans = {name.replace("-", "_"): asked[f"keep_{name.replace('-', '_')}"] for name in _WITHIN}
    tags = tuple(frozenset(t for t in tag.split(",") if t) for tag in asked["keep_tag"])
    rules: dict[str, Any] = {name: count for name, count in counts.items() if count is not None}
    rules |= {name: Duration.parse(span) for name, span in spans.items() if span is not None}
    if not rules and not tags:
        return None
    return Policy(**rules, tags=tags)


def _snap(snapshot: "Snapshot") -> Any:
    from portal.retention import Snap

    record = snapshot.record
    facts = (snapshot.tags, record.paths, record.host, snapshot.pinned)
    return Snap(snapshot.id.hex(), record.time_ns, *facts)


def _show_decisions(
    decisions: "Sequence[Decision]", by_name: "dict[str, Snapshot]", asked: dict[str, Any]
) -> None:
    if asked["as_json"]:
        rows = [
            {"id": d.snap.id, "time": time_text(d.snap.time_ns), "keep": d.keep, "why": d.reasons}
            for d in decisions
        ]
        click.echo(json.dumps(rows))
        return
    if asked["quiet"]:
        return
    would = "would forget" if asked["dry_run"] else "forget"
    for decision in decisions:
        verb = "keep" if decision.keep else would
        line = f"{verb:<12} {_told(by_name[decision.snap.id])}"
        click.echo(f"{line}  {', '.join(decision.reasons)}".rstrip())


def _show_forgotten(ids: set[bytes], live: "Sequence[Snapshot]", asked: dict[str, Any]) -> None:
    if asked["as_json"]:
        click.echo(json.dumps([{"id": one.hex(), "keep": False, "why": []} for one in sorted(ids)]))
    elif not asked["quiet"]:
        would = "would forget" if asked["dry_run"] else "forget"
        for snapshot in live:
            if snapshot.id in ids:
                click.echo(f"{would:<12} {_told(snapshot)}")


def _told(snapshot: "Snapshot") -> str:
    """A snapshot in a line."""
    record = snapshot.record
    moment = datetime.fromtimestamp(record.time_ns // 10**9, tz=run.local_zone())
    paths = " ".join(os.fsdecode(path) for path in record.paths)
    shown = "".join(c if c.isprintable() else "?" for c in paths)
    return f"{snapshot.name}  {moment:%Y-%m-%d %H:%M:%S}  {record.host}:{shown}"


@click.command()
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...")
@click.option("--all", "everything", is_flag=True, help="All that were forgotten.")
@opening.vault_options
def undelete(names: tuple[str, ...], *, everything: bool, **asked: Any) -> int:
    """Take forgotten SNAPSHOTs back, as long as they were not purged; without any: list them."""
    from portal.errors import NoSnapshot
    from portal.forget import undelete as take_back

    vault = opening.open_vault(asked)
    forgotten = [snapshot for snapshot in vault.head().snapshots if not snapshot.is_live]
    if everything and names:
        raise UsageError("--all or some, not both")
    if not everything and not names:
        for snapshot in forgotten:
            click.echo(_told(snapshot))
        click.echo(f"{len(forgotten)} snapshots can be taken back", err=True)
        return 0
    ids = set()
    for name in names:
        found = [s.id for s in forgotten if s.id.hex().startswith(name.lower())]
        if len(found) != 1 or len(name) < 4:
            what = f"{name} names {len(found)} forgotten snapshots"
            raise NoSnapshot(what, hint="portal undelete lists them")
        ids.add(found[0])
    back = take_back(vault, None if everything else ids)
    click.echo(f"{len(back)} snapshots are back", err=True)
    return 0


@click.command()
@click.option("--now", is_flag=True, help="Purge at once: portal undelete has nothing left.")
@click.option("--max-unused", type=click.FloatRange(0, 100), help="Percent that may stay: 5.")
@click.option("--allow-large", is_flag=True, help="Even if most of the vault goes.")
@opening.dry_run_option
@opening.yes_option
@opening.quiet_option
@opening.json_option
@opening.vault_options
def gc(**asked: Any) -> int:
    """Take away what no snapshot needs: to the trash first, for good 7 days later.

    Backups may run meanwhile. At the slightest doubt nothing is touched.
    """
    from core import limits, process
    from portal.gc import Options, collect

    process.prepare_for_bulk()
    if asked["now"] and not asked["yes"] and not asked["dry_run"]:
        if not secrets_input.on_terminal():
            raise UsageError("--now cannot be taken back", hint="--yes does it without asking")
        click.confirm("purge at once what was forgotten?", abort=True)
    percent = limits.UNUSED_PERCENT_MAX if asked["max_unused"] is None else asked["max_unused"]
    options = Options(
        now=asked["now"],
        dry_run=asked["dry_run"],
        allow_large=asked["allow_large"],
        unused_percent_max=percent,
    )
    vault = opening.open_vault(asked)
    done = run.run_trio(collect, vault, options, int(time.time()))
    _show_collected(done, asked)
    return 0


def _show_collected(done: "Collected", asked: dict[str, Any]) -> None:
    plan, dry = done.plan, asked["dry_run"]
    trashed = plan.trash_bytes if dry else done.trashed_bytes
    purged = plan.purge_bytes if dry else done.purged_bytes
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    status.event(
        "summary",
        dry_run=dry,
        trashed_bytes=trashed,
        repacked_bytes=done.repacked_bytes,
        purged_bytes=purged,
        waiting_packs=done.waiting_packs,
        dropped=[snapshot.id.hex() for snapshot in (plan.drop if dry else done.dropped)],
        unused_bytes=plan.unused_bytes,
        later=[{"time_s": when, "bytes": size} for when, size in done.later],
    )
    would = "would be " if dry else ""
    status.summary(f"{would}purged: {size_text(purged)}; to the trash: {size_text(trashed)}")
    if done.repacked_bytes:
        status.summary(
            f"packed again, what of it is still needed: {size_text(done.repacked_bytes)}"
        )
    for when, size in done.later:
        moment = datetime.fromtimestamp(when, tz=run.local_zone())
        status.summary(f"{size_text(size)} will be free after {moment:%Y-%m-%d %H:%M}")
    if done.waiting_packs:
        status.summary(f"{done.waiting_packs} packs wait for a command that is still running")
    if done.too_much is not None:
        status.summary(f"would be refused: {done.too_much}")
