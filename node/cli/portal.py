"""`portal`: the command people type."""

import json
from typing import NoReturn

import click

from core import VERSION
from node.cli import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", message="portal %(version)s")
def portal() -> None:
    """Keep your files safe on the disks of people you trust, without trusting them."""


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
