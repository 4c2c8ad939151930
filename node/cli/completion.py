"""`portal completion`: a shell that finishes commands, options, profiles and snapshots.

The shell asks the program itself: it sets a variable, which `run.run` sees and hands to `answer`.
What is completed never asks for a passphrase, never writes, and says nothing when it knows nothing.
"""

from typing import TYPE_CHECKING

import click

from core.errors import PortalError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

    from portal.head import Snapshot

_SHELLS = ("bash", "zsh", "fish", "powershell")
_SNAPSHOTS_MAX = 50  # what a person may look through


def variable(program: str) -> str:
    """What a shell sets when it wants to know how a line goes on."""
    return f"_{program.upper().replace('-', '_')}_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    r"""Print what makes a shell complete portal's commands.

    \b
    bash         eval "$(portal completion bash)"   in ~/.bashrc
    zsh          eval "$(portal completion zsh)"   in ~/.zshrc
    fish         portal completion fish > ~/.config/fish/completions/portal.fish
    powershell   portal completion powershell | Out-String | Invoke-Expression   in $PROFILE
    """
    context = click.get_current_context().find_root()
    click.echo(script(context.command, context.info_name or "portal", shell), nl=False)


def script(command: click.Command, program: str, shell: str) -> str:
    """What the shell is to read."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        hint = "pip install --upgrade click"
        raise Unavailable(f"this version of click knows no {shell}", hint=hint)
    text = found(command, {}, program, variable(program)).source()
    return text if text.endswith("\n") else text + "\n"


def answer(command: click.Command, program: str, asked: str) -> int:
    """Tell a shell how the line it holds may go on; the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(command, {}, program, variable(program), asked)


# --- what may stand in a place --------------------------------------------------------------------


def complete_profiles(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The profiles of config.toml that begin so."""
    from pathlib import Path

    from node import config
    from node.home import portal_home

    try:
        found = config.load(portal_home() / config.FILE_NAME, Path.home()).profiles
    except (PortalError, OSError):
        return []
    return [name for name in found if name.startswith(incomplete)]


def complete_snapshots(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """The names of snapshots that begin so, the newest first, if the keys open without typing."""
    from click.shell_completion import CompletionItem

    try:
        live = _live_snapshots(context)
    except (PortalError, OSError):
        return []
    found = [
        CompletionItem(one.name, help=_told(one))
        for one in reversed(live)
        if one.name.startswith(incomplete)
    ]
    if live and "latest".startswith(incomplete):
        found.insert(0, CompletionItem("latest", help=_told(live[-1])))
    return found[:_SNAPSHOTS_MAX]


def complete_members(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """The names of devices that begin so, if a node runs here that can be asked."""
    from click.shell_completion import CompletionItem

    from node import api
    from node.cli import opening

    try:
        found = opening.node_here().get(api.PEERS, api.Peers).peers
    except (PortalError, OSError):
        return []
    begun = incomplete.lower()
    return [
        CompletionItem(one.name, help=f"{one.standing}, {one.role}")
        for one in found
        if one.name.lower().startswith(begun)
    ]


def _live_snapshots(context: click.Context) -> "Sequence[Snapshot]":
    from node import identity
    from node.cli import opening
    from node.home import portal_home
    from portal.vault import Vault

    asked = {"repo": context.params.get("repo"), "profile": context.params.get("profile")}
    path = opening.vault_path(opening.settings_of(asked))
    mine = identity.open(portal_home())
    author = opening.author_of(mine)
    return Vault.open(path, author, mine.vault_master, cache=None).head().live


def _told(snapshot: "Snapshot") -> str:
    """When, where and of what, on one line."""
    from datetime import datetime

    from core.tree.paths import shown
    from node.cli import run

    record = snapshot.record
    moment = datetime.fromtimestamp(record.time_ns // 10**9, tz=run.local_zone())
    paths = " ".join(shown(path) for path in record.paths)
    return shown(f"{moment:%Y-%m-%d %H:%M} {record.host} {paths}".encode())
