"""`warp`: reserved name; it has no commands yet and says so."""

from typing import NoReturn

import click

from core import VERSION
from node.cli import run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="This version has no commands here yet.",
)
@click.version_option(VERSION, "-V", "--version", message="warp %(version)s")
def warp() -> None:
    """Move and pack data: archives, streams, transfers."""


def main() -> NoReturn:
    """Entry point of the console script."""
    run.run(warp, "warp")
