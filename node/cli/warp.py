"""`warp`: move and pack data. Every command imports its heavy parts when it runs."""

import gc
from typing import NoReturn

import click

from core import VERSION
from node.cli import run
from node.cli.warp_archive import archive
from node.cli.warp_stream import stream


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", message="warp %(version)s")
def warp() -> None:
    """Move and pack data: archives, streams, transfers."""


warp.add_command(archive)
warp.add_command(stream)


def main() -> NoReturn:
    """Entry point of the console script."""
    try:
        run.run(warp, "warp")
    finally:
        gc.freeze()  # what is left goes with the process: nobody need look through it


if __name__ == "__main__":
    main()
