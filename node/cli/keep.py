"""`portal forget`, `undelete` and `gc`: what is kept, and getting its room back."""

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError
from node.cli import opening, run, secrets_input
from node.cli.completion import complete_snapshots
from node.cli.progress import Status, size_text
from node.cli.snapshots import facts, filter_of, time_text, which_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portal.gc import Collected
    from portal.head import Head, Snapshot
    from portal.retention import Decision, Policy
    from portal.vault import Vault

_ID_CHARS_MIN = 4
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
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...", shell_complete=complete_snapshots)
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
    policy = _policy(asked)
    if names and policy is not None:
        raise UsageError("SNAPSHOTs or --keep rules, not both")
    vault = opening.open_vault(asked, settings)
    live = vault.head().live
    if names:
        chosen = {one.id: one for one in named(vault, names, asked)}
        decisions = [_named(one) for one in chosen.values()]
    else:
        chosen = {one.id: one for one in live if filter_of(asked).takes(one)}
        decisions = _decided(asked, policy or settings.keep, list(chosen.values()))
    ids = {bytes.fromhex(one.snap.id) for one in decisions if not one.keep}
    if ids and not asked["dry_run"]:
        forget_snapshots(vault, ids, int(time.time()))
    _show_decisions(decisions, chosen, asked)
    if asked["quiet"] or asked["as_json"]:
        return 0
    if asked["dry_run"]:
        click.echo(f"{counted(len(ids), 'snapshot')} would be forgotten", err=True)
    elif ids:
        hint = "portal gc frees what only they needed, portal undelete takes it back"
        click.echo(f"{counted(len(ids), 'snapshot')} forgotten ({hint})", err=True)
    else:
        click.echo("every snapshot is kept" if decisions else "no snapshots", err=True)
    return 0


def counted(count: int, what: str) -> str:
    """So many of something: 1 snapshot, 2 snapshots."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def named(vault: "Vault", names: "Sequence[str]", asked: dict[str, Any]) -> "list[Snapshot]":
    """The snapshots that are called so; for commands that cannot take a part of one."""
    from portal.browse import select_snapshot

    head, only, zone, found = vault.head(), filter_of(asked), run.local_zone(), {}
    for name in names:
        snapshot, path = select_snapshot(head, name, zone, only)
        if path:
            what = "a path in it makes no sense here: a snapshot is taken whole"
            raise UsageError(what, where=name, hint=snapshot.name)
        found[snapshot.id] = snapshot
    return list(found.values())


def _named(snapshot: "Snapshot") -> "Decision":
    from portal.forget import Pinned
    from portal.retention import Decision

    if snapshot.pinned:
        hint = f"portal tag --unpin {snapshot.name} lets it go"
        raise Pinned(f"snapshot {snapshot.name} is pinned", hint=hint)
    return Decision(_snap(snapshot), keep=False, reasons=[])


def _decided(
    asked: dict[str, Any], policy: "Policy", chosen: "Sequence[Snapshot]"
) -> "list[Decision]":
    from portal import retention

    if policy.is_empty:
        hint = "name snapshots, or say what to keep: --keep-daily 7 --keep-monthly 12"
        raise UsageError("nothing to forget by", hint=hint)
    group_by = [name for name in asked["group_by"].split(",") if name]
    decisions = retention.plan(
        [_snap(snapshot) for snapshot in chosen],
        policy,
        time.time_ns(),
        zone=run.local_zone(),
        group_by=group_by,
    )
    retention.refuse_to_lose_a_group(decisions, group_by=group_by, allow_empty=asked["allow_empty"])
    return decisions


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
    decisions: "Sequence[Decision]", by_id: "dict[bytes, Snapshot]", asked: dict[str, Any]
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
        line = f"{verb:<12} {_told(by_id[bytes.fromhex(decision.snap.id)])}"
        click.echo(f"{line}  {', '.join(decision.reasons)}".rstrip())


def _told(snapshot: "Snapshot") -> str:
    """A snapshot in a line."""
    from core.tree.paths import shown

    record = snapshot.record
    moment = datetime.fromtimestamp(record.time_ns // 10**9, tz=run.local_zone())
    paths = " ".join(shown(path) for path in record.paths)
    return f"{snapshot.name}  {moment:%Y-%m-%d %H:%M:%S}  {record.host}:{paths}"


@click.command()
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]...", shell_complete=complete_snapshots)
@click.option("--all", "everything", is_flag=True, help="All that were forgotten.")
@opening.json_option
@opening.vault_options
def undelete(names: tuple[str, ...], *, everything: bool, **asked: Any) -> int:
    """Take forgotten SNAPSHOTs back, as long as they were not purged; without any: list them."""
    from portal.forget import undelete as take_back

    if everything and names:
        raise UsageError("--all or some, not both")
    vault = opening.open_vault(asked)
    head = vault.head()
    if everything or names:
        ids = {_forgotten(head, name) for name in names}
        found = take_back(vault, None if everything else ids)
        told = "back"
    else:
        found = [snapshot for snapshot in head.snapshots if not snapshot.is_live]
        told = "forgotten, not yet purged" if found else "to be taken back"
    if asked["as_json"]:
        click.echo(json.dumps([facts(snapshot) for snapshot in found]))
        return 0
    for snapshot in found:
        click.echo(_told(snapshot))
    click.echo(f"{counted(len(found), 'snapshot')} {told}", err=True)
    return 0


def _forgotten(head: "Head", name: str) -> bytes:
    """The one forgotten snapshot of this id."""
    from portal.errors import NoSnapshot

    matching = [s for s in head.snapshots if s.id.hex().startswith(name.lower())]
    found = [snapshot for snapshot in matching if not snapshot.is_live]
    if len(name) >= _ID_CHARS_MIN and len(found) == 1:
        return found[0].id
    if len(name) < _ID_CHARS_MIN or len(found) > 1:
        what = f"{name!r} is not enough of an id: {_ID_CHARS_MIN} digits, or more"
    elif matching:
        what = f"snapshot {matching[0].name} was not forgotten"
    else:
        what = f"no forgotten snapshot is called {name}: what portal gc purged is gone"
    raise NoSnapshot(what, hint="portal undelete lists what can be taken back")


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
    from dataclasses import replace

    from core import limits, process
    from portal.gc import Options, collect

    process.prepare_for_bulk()
    asks = asked["now"] and not asked["yes"] and not asked["dry_run"]
    if asks and not secrets_input.on_terminal():
        raise UsageError("--now cannot be taken back", hint="--yes does it without asking")
    percent = limits.UNUSED_PERCENT_MAX if asked["max_unused"] is None else asked["max_unused"]
    options = Options(
        now=asked["now"],
        dry_run=asked["dry_run"],
        allow_large=asked["allow_large"],
        unused_percent_max=percent,
    )
    vault = opening.open_vault(asked)
    if asks:
        plan = run.run_trio(collect, vault, replace(options, dry_run=True), int(time.time())).plan
        if not plan.is_empty:
            for snapshot in plan.drop:
                click.echo(f"gone for good: {_told(snapshot)}", err=True)
            size = size_text(plan.purge_bytes + plan.trash_bytes)
            click.echo(f"packs that go: {size}", err=True)
            click.confirm("purge this at once?", abort=True, err=True)
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
    if plan.is_empty:
        status.summary("nothing to collect")
    else:
        trash = "would go to the trash" if dry else "to the trash"
        status.summary(f"{would}purged: {size_text(purged)}; {trash}: {size_text(trashed)}")
    for snapshot in plan.drop if dry else done.dropped:
        status.summary(f"{would}gone for good: {_told(snapshot)}")
    if done.repacked_bytes:
        status.summary(
            f"packed again, what of it is still needed: {size_text(done.repacked_bytes)}"
        )
    for when, size in done.later:
        moment = datetime.fromtimestamp(when, tz=run.local_zone())
        status.summary(f"{size_text(size)} will be free after {moment:%Y-%m-%d %H:%M}")
    if done.waiting_packs:
        packs = counted(done.waiting_packs, "pack")
        status.summary(f"{packs} to be purged when a command that is running now has ended")
    if not dry and plan.unused_bytes:
        status.summary(f"unused, but not worth packing again: {size_text(plan.unused_bytes)}")
    if done.too_much is not None:
        status.summary(f"would be refused: {done.too_much}")
