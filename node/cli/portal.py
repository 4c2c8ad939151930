"""`portal`: the command people type."""

import json
from typing import NoReturn

import click

from core import VERSION
from node.cli import run
from node.cli.backup import backup
from node.cli.benchmark import benchmark
from node.cli.completion import completion
from node.cli.cosign import cosign, drafts
from node.cli.health import check, copy, repair, rewrite, stats
from node.cli.keep import forget, gc, undelete
from node.cli.keys import key, recovery_kit
from node.cli.look import cat, diff, dump, find, ls
from node.cli.members import approve, drop, grant, leave, revoke, suspend, unsuspend
from node.cli.mesh import invite, invites, join, mesh, peers, whoami
from node.cli.offer import offer
from node.cli.restore import restore
from node.cli.schedule import schedule
from node.cli.settings import config
from node.cli.setup import init, recover, vault
from node.cli.snapshots import pin, snapshots, tag


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", message="portal %(version)s")
def portal() -> None:
    """Keep your files safe on the disks of people you trust, without trusting them."""


for _command in (
    *(backup, restore, snapshots, ls, find, diff, cat, dump, tag, pin),
    *(forget, undelete, gc, check, repair, stats, copy, rewrite),
    *(init, key, recover, recovery_kit, vault),
    *(mesh, invite, invites, join, peers, whoami, approve, offer),
    *(revoke, suspend, unsuspend, grant, drop, leave, drafts, cosign),
    *(schedule, config, completion, benchmark),
):
    portal.add_command(_command)


@portal.command("self-test")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def self_test(*, as_json: bool) -> None:
    """Ask every cryptographic primitive a question with a known answer."""
    from core import native, process, selftest

    process.forbid_core_dumps()
    reuses_buffers = process.keep_freed_buffers()
    passed = selftest.run()
    kernel = native.kernel()
    if as_json:
        report = {"v": 1, "message_type": "self_test", "passed": passed, "kernel": kernel.name}
        click.echo(json.dumps(report | {"malloc_tuned": reuses_buffers}))
        return
    for name in passed:
        click.echo(f"{name:<20} ok")
    click.echo(f"{'malloc tuning':<20} {'on' if reuses_buffers else 'not available here'}")
    click.echo(f"{'kernel':<20} {kernel.name}")
    if kernel.warning:
        click.echo(f"portal: {kernel.warning}", err=True)


def main() -> NoReturn:
    """Entry point of the console script."""
    run.run(portal, "portal")


if __name__ == "__main__":
    main()
