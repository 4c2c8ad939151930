"""What almost every command begins with: the settings, the identity, the vault."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import KeystoreError, PortalError, UsageError
from node.cli import run, secrets_input
from node.cli.completion import complete_profiles
from node.cli.values import parse_name

if TYPE_CHECKING:
    from core.ids import VaultId
    from core.secret import Secret
    from node.api import Answer
    from node.config import Config, Settings
    from node.control import Control
    from node.identity import Identity
    from portal.vault import Author, Vault

PATH = click.Path(path_type=Path)
_DEFAULT_VAULT = "vault"  # in PORTAL_HOME


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, only what matters.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
name_option = click.option(
    "--name", metavar="NAME", help="What this machine is called; else by its host name."
)
threads_option = click.option("--threads", type=click.IntRange(1, 256), help="Default: every core.")
phrase_options = together(
    click.option("--kit-file", type=PATH, help="The recovery kit, instead of typing the words."),
    click.option("--on-top", is_flag=True, help="There is a passphrase on top of the phrase."),
)
vault_options = together(
    click.option("-r", "--repo", type=PATH, help="The vault. Else PORTAL_VAULT, then the profile."),
    click.option(
        "-P",
        "--profile",
        help="A profile of config.toml; see portal config show.",
        shell_complete=complete_profiles,
    ),
    secrets_input.passphrase_file_option,
)


def node_here() -> "Control":
    """What asks the node of this home."""
    from node.control import Control
    from node.home import portal_home

    return Control(portal_home().absolute())


def loaded_config() -> "Config":
    """The file, checked."""
    from node import config
    from node.home import portal_home

    return config.load(portal_home() / config.FILE_NAME, Path.home())


def settings_of(asked: dict[str, Any], **options: Any) -> "Settings":
    """What is in force: options, environment, profile, built-in, in this order."""
    from node import config

    user_home = Path.home()
    loaded = loaded_config()
    repo = asked.get("repo")
    return config.resolve(
        loaded,
        profile=asked.get("profile"),
        options={"vault": repo and repo.absolute(), **options},
        environment=os.environ,
        user_home=user_home,
    )


def vault_path(settings: "Settings") -> Path:
    """Where the vault lies."""
    from node.home import portal_home

    return settings.vault or portal_home() / _DEFAULT_VAULT


def open_identity(asked: dict[str, Any]) -> "Identity":
    """This machine's identity; from here on there are keys in memory."""
    from core import process
    from node import identity
    from node.home import portal_home

    process.forbid_core_dumps()
    source = secrets_input.passphrase_source(asked.get("passphrase_file"))
    mine = identity.open(portal_home(), source)
    for failure in mine.skipped:
        click.echo(f"portal: {failure}", err=True)
    return mine


def machine_name(asked: dict[str, Any]) -> str:
    """What a machine is to be called that gets its keys now."""
    return run.host_name() if asked["name"] is None else parse_name(asked["name"])


def check_name(mine: "Identity", asked: dict[str, Any]) -> None:
    """Refuse another name for a machine that has its keys: the name is in what they sign."""
    if asked["name"] not in {None, mine.cert.name}:
        what = f"this machine is called {mine.cert.name!r} already"
        raise UsageError(what, hint="a name is given with the keys, and stays")


def open_vault(asked: dict[str, Any], settings: "Settings | None" = None) -> "Vault":
    """The vault that is meant, ready to be used."""
    from node.identity import NoIdentity
    from portal.vault import read_name

    path = vault_path(settings or settings_of(asked))
    name = read_name(path)  # a missing vault is told before a missing key
    try:
        mine = open_identity(asked)
    except NoIdentity as e:
        hint = f"the keys of {name.vault.short()} grow from its phrase: portal recover"
        raise NoIdentity("this machine has no keys", where=str(e.where), hint=hint) from e
    return open_vault_at(path, mine)


def open_vault_at(path: Path, mine: "Identity") -> "Vault":
    """The vault in this directory."""
    from node import vaults
    from node.home import portal_home
    from portal.vault import Vault

    home = portal_home()
    vault = Vault.open(path, author_of(mine), masters_of(mine), cache=home / "cache")
    vaults.remember(home, vault.id, path)
    return vault


def author_of(mine: "Identity") -> "Author":
    """In whose name heads are signed."""
    from portal.vault import Author

    return Author(mine.user, mine.node, mine.device.signing_key(), mine.cert_bytes)


def masters_of(mine: "Identity") -> "Callable[[VaultId, int], Secret]":
    """Keys of vaults; made from the phrase where they are missing and it is still here."""

    def master_of(vault: "VaultId", epoch: int) -> "Secret":
        try:
            return mine.vault_master(vault, epoch)
        except KeystoreError:
            if not mine.has_phrase:
                raise
            mine.add_vault(vault, epoch=epoch)
            return mine.vault_master(vault, epoch)

    return master_of


def make_vault(path: Path, mine: "Identity") -> "Vault":
    """A new vault in this directory."""
    from core.ids import VaultId
    from node import vaults
    from node.home import portal_home
    from portal.store import Store
    from portal.vault import Vault

    home = portal_home()
    vault = VaultId(os.urandom(16))
    mine.add_vault(vault)
    made = Vault.create(
        Store(path),
        vault,
        mine.vault_master(vault),
        author_of(mine),
        cache=home / "cache",
        now_s=int(time.time()),
    )
    vaults.remember(home, vault, path)
    return made


def shown_path(path: Path) -> str:
    """A path for people, on one line whatever is in it."""
    from core.tree.paths import shown

    return shown(os.fsencode(path))


def echo_json(kind: str, found: "Answer") -> None:
    """What the node has told, for programs."""
    import msgspec

    head = {"v": 1, "message_type": kind}
    click.echo(msgspec.json.encode(head | msgspec.structs.asdict(found)))


def told(error: PortalError | OSError) -> str:
    """What went wrong, in a few words."""
    return str(error) if isinstance(error, PortalError) else error.strerror or str(error)
