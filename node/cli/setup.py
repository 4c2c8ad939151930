"""`portal init`, `recover` and `vault`: where keys and vaults come from."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import PortalError, UsageError, WrongKey
from node.cli import opening, run, secrets_input
from node.cli.backup import first_identity
from node.cli.completion import complete_profiles
from node.cli.keys import recover_identity, typed_root
from node.cli.values import parse_endpoint

if TYPE_CHECKING:
    from core.keys import Root
    from core.recovery_kit import RecoveryKit
    from portal.config import VaultName

_PATH = opening.PATH


@click.command()
@click.option("-r", "--repo", type=_PATH, help="Where the vault is to be made.")
@click.option("-P", "--profile", help="Where the profile says.", shell_complete=complete_profiles)
@click.option("--passphrase", is_flag=True, help="Lock the keys with a passphrase, too.")
@click.option("--no-key-file", is_flag=True, help="Only the passphrase opens them: no schedules.")
@click.option("--kit-file", type=_PATH, help="The recovery kit, when the phrase is on paper only.")
@opening.name_option
@secrets_input.passphrase_file_option
def init(**asked: Any) -> int:
    """Make the keys of this machine, if it has none, and a new vault.

    Then print the recovery kit (portal recovery-kit): it alone brings everything back when this
    machine is lost.
    """
    from core import process
    from node import identity
    from node.home import portal_home

    process.forbid_core_dumps()
    home = portal_home()
    name = opening.machine_name(asked)
    path = opening.vault_path(opening.settings_of(asked))
    if (path / "config").exists():
        raise UsageError("there is a vault already", where=str(path))
    if asked["no_key_file"] and not asked["passphrase"]:
        raise UsageError("without a key file there must be a passphrase", hint="--passphrase")
    if identity.has_identity(home) and asked["passphrase"]:
        raise UsageError("these keys exist already", where=str(home), hint="portal key add")
    if identity.has_identity(home):
        mine = opening.open_identity(asked)
        opening.check_name(mine, asked)
    else:
        mine = _new_identity(home, name, asked)
    if not mine.has_phrase:
        mine = _with_phrase(asked)
    vault = opening.make_vault(path, mine)
    click.echo(f"vault {vault.id.short()} made in {opening.shown_path(path)}", err=True)
    if mine.has_phrase:
        hint = "print its recovery phrase now: portal recovery-kit --confirm"
        click.echo(f"this machine's keys are in {opening.shown_path(home)}; {hint}", err=True)
    return 0


def _new_identity(home: Path, name: str, asked: dict[str, Any]) -> Any:
    passphrase = None
    if asked["passphrase"]:
        source = secrets_input.passphrase_source(
            asked["passphrase_file"], prompt="new passphrase", confirm=True
        )
        passphrase = secrets_input.needed(source)
    use_key = not asked["no_key_file"]
    return first_identity(home, passphrase, name=name, use_device_key=use_key)


def _with_phrase(asked: dict[str, Any]) -> Any:
    """The keys of a new vault grow from the phrase, which is on paper only."""
    click.echo("the keys of a new vault grow from your recovery phrase", err=True)
    mine, root = recover_identity(
        asked["kit_file"], with_passphrase=False, name=run.host_name(), now_s=int(time.time())
    )
    return _Growing(mine, root)


class _Growing:
    """An identity that makes keys of vaults from a root that was typed."""

    def __init__(self, mine: Any, root: Any) -> None:
        self._mine = mine
        self._root = root

    def add_vault(self, vault: Any, epoch: int = 0) -> None:
        self._mine.add_vault(vault, self._root, epoch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mine, name)


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("-r", "--repo", type=_PATH, help="The vault directory that is left.")
@click.option("-P", "--profile", help="Where the profile says.", shell_complete=complete_profiles)
@click.option("--mesh", is_flag=True, help="By the mesh, though there is a vault here.")
@opening.phrase_options
@opening.name_option
@click.option("--no-admin", is_flag=True, help="This machine shall not administer the mesh.")
@opening.yes_option
@secrets_input.passphrase_file_option
def recover(addresses: tuple[str, ...], **asked: Any) -> int:
    """Be yourself again on a new machine: the recovery kit or its 24 words, and what is left.

    A vault directory: makes this machine's keys from the phrase and takes the vault over;
    afterwards every command works as it did.

    Otherwise the mesh: a member that the kit names, or that you name by its ADDRESS (HOST or
    HOST:PORT), lets this machine in as one of yours. So another machine of yours comes in, too.
    """
    from core import process
    from node.cli import mesh_return
    from node.home import portal_home

    process.forbid_core_dumps()
    path = opening.vault_path(opening.settings_of(asked))
    opening.machine_name(asked)  # a mistake is told before the phrase is asked for
    named = asked["repo"] is not None or asked["profile"] is not None
    by_mesh = asked["mesh"] or bool(addresses)
    if named and by_mesh:
        raise UsageError("a vault or the mesh, one after the other", hint="portal recover --help")
    if not by_mesh and (named or (path / "config").exists()):
        return _by_vault(path, asked)
    mesh_return.check_free(portal_home().absolute())
    for one in addresses:
        parse_endpoint(one)
    root, kit = typed_root(asked)
    return mesh_return.come_back(root, kit, addresses, asked)


def _by_vault(path: Path, asked: dict[str, Any]) -> int:
    from node import identity
    from node.home import portal_home
    from node.kit_places import is_in_mesh
    from portal.vault import read_name

    name = read_name(path)
    root, kit = _root_of(path, name, asked)
    called, now_s = opening.machine_name(asked), int(time.time())
    mine = identity.recover(portal_home(), root, name=called, passphrase=None, now_s=now_s)
    opening.check_name(mine, asked)
    mine.add_vault(name.vault, root, name.epoch)
    if kit is not None and kit.mesh is not None and not is_in_mesh(mine.home):
        click.echo("your kit names a mesh: portal recover --mesh goes back to it", err=True)
    return _take_over(path, mine)


def _root_of(
    path: Path, name: "VaultName", asked: dict[str, Any]
) -> "tuple[Root, RecoveryKit | None]":
    """Ask for the phrase that opens this vault; with another one nobody is made here."""
    from core.errors import IntegrityError
    from core.keys import VaultKeys
    from portal.config import VaultConfig
    from portal.store import Store

    root, kit = typed_root(asked)
    keys = VaultKeys.from_master(root.vault_master(name.vault, name.epoch))
    try:
        VaultConfig.open_untrusted(Store(path).read_config(), keys)
    except IntegrityError as e:
        hint = "is it the kit of another person, or is there a passphrase on top (--on-top)?"
        raise WrongKey("this phrase does not open this vault", where=str(path), hint=hint) from e
    return root, kit


@click.group()
def vault() -> None:
    """The vault directories of this machine."""


@vault.command("list")
@opening.json_option
def list_command(*, as_json: bool) -> int:
    """Which vaults this machine has used, and where."""
    from node import vaults
    from node.home import portal_home
    from portal.vault import read_name

    rows = []
    for known, path in vaults.remembered(portal_home()).items():
        try:
            there = read_name(path).vault == known
        except (PortalError, OSError):
            there = False
        rows.append({"vault": known.text(), "path": str(path), "present": there})
    if as_json:
        click.echo(json.dumps(rows))
        return 0
    for row in rows:
        missing = "" if row["present"] else "   (not there now)"
        place = opening.shown_path(Path(str(row["path"])))
        click.echo(f"{str(row['vault'])[:15]}  {place}{missing}")
    return 0


@vault.command()
@click.argument("directory", type=_PATH)
@click.option("--kit-file", type=_PATH, help="The recovery kit, instead of typing the words.")
@opening.yes_option
@secrets_input.passphrase_file_option
def adopt(directory: Path, *, yes: bool, **asked: Any) -> int:
    """Make a vault of another device of yours this machine's.

    The other device is refused from then on: two must not write to one vault.
    """
    from core import process
    from portal.vault import read_name

    process.forbid_core_dumps()
    name = read_name(directory)
    mine = opening.open_identity(asked)
    if name.node == mine.node:
        click.echo(f"{opening.shown_path(directory)} is this machine's already", err=True)
        return 0
    if not yes:
        if not secrets_input.on_terminal():
            raise UsageError("no terminal to ask", hint="--yes adopts without asking")
        question = f"take over {opening.shown_path(directory)} from {name.node.short()}?"
        click.confirm(question, abort=True)
    if name.vault not in mine.vaults and not mine.has_phrase:
        mine, root = recover_identity(
            asked["kit_file"], with_passphrase=False, name=run.host_name(), now_s=int(time.time())
        )
        mine.add_vault(name.vault, root, name.epoch)
    return _take_over(directory, mine)


def _take_over(path: Path, mine: Any) -> int:
    from node import vaults
    from node.home import portal_home
    from portal.vault import Vault, read_name

    home = portal_home()
    name = read_name(path)
    if name.node == mine.node:
        taken = opening.open_vault_at(path, mine)
    else:
        try:
            taken = Vault.adopt(
                path, opening.author_of(mine), opening.masters_of(mine), cache=home / "cache"
            )
        except WrongKey as e:
            what = "your keys do not open this vault: it is another person's"
            raise WrongKey(what, where=str(path)) from e
        vaults.remember(home, taken.id, path)
    count = len(taken.head().live)
    place = opening.shown_path(path)
    click.echo(f"vault {taken.id.short()} in {place} is yours; snapshots: {count}", err=True)
    return 0
