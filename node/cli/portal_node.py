"""`portal-node`: reserved name; it has no commands yet and says so."""

from typing import NoReturn

import click

from core import VERSION
from node.cli import run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="This version has no commands here yet.",
)
@click.version_option(VERSION, "-V", "--version", message="portal-node %(version)s")
def portal_node() -> None:
    """Run the node of this machine: it will keep links, shards and promises."""


def main() -> NoReturn:
    """Entry point of the console script."""
    run.run(portal_node, "portal-node")
