"""`portal key` and `portal recovery-kit`: the ways to this machine's keys, and the one on paper."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import KeystoreError, PortalError, UsageError
from node.cli import secrets_input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.ids import MeshId
    from core.keys import Root
    from core.keystore import Slot
    from core.recovery_kit import Endpoint, RecoveryKit
    from core.secret import Secret
    from core.slots import Provider
    from node.identity import Identity

_PATH = click.Path(path_type=Path)
_KINDS = {
    1: "passphrase",
    2: "keyring",
    3: "key-file",
    4: "key-service",
    5: "pkcs11",
    6: "recovery-phrase",
    7: "systemd-credential",
}
_ID_CHARS_MIN = 4
_CONFIRM_WORDS = 2
_CONFIRM_TRIES = 3

_new_passphrase_file = click.option(
    "--new-passphrase-file", type=_PATH, help="The new passphrase, instead of a prompt."
)


@click.group()
def key() -> None:
    """The ways to open this machine's keys: list, add, remove, change the passphrase."""


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def list_command(*, as_json: bool) -> None:
    """List them. Needs no key, and shows none."""
    from node.home import portal_home
    from node.identity import header

    rows = [_facts(slot) for slot in header(portal_home()).slots]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        offline = "" if row["offline"] else "  (not by itself: needs a service)"
        click.echo(f"{row['id']}  {row['kind']:<18}  {row['detail']}{offline}".rstrip())


@key.command()
@click.option("--passphrase", is_flag=True, help="A passphrase, asked for twice.")
@click.option("--key-file", is_flag=True, help="A file beside the keys: backups need no typing.")
@click.option("--keyring", is_flag=True, help="The keyring of this desktop.")
@click.option(
    "--systemd-credential",
    metavar="NAME",
    help="A credential that systemd hands to a service; run this inside of it.",
)
@_new_passphrase_file
@secrets_input.passphrase_file_option
def add(systemd_credential: str | None, passphrase_file: Path | None, **asked: Any) -> None:
    """Add a way to open the keys: one of the options says which."""
    kinds = [k for k in ("passphrase", "key_file", "keyring") if asked[k]]
    kinds += ["systemd"] * (systemd_credential is not None)
    if len(kinds) != 1:
        hint = "--passphrase, --key-file, --keyring or --systemd-credential NAME"
        raise UsageError("one kind of slot is to be named", hint=hint)
    if asked["new_passphrase_file"] and kinds != ["passphrase"]:
        raise UsageError("--new-passphrase-file goes with --passphrase")
    mine = open_identity(passphrase_file)
    slot = mine.add_slot(_new_provider(mine, kinds[0], systemd_credential, asked))
    click.echo(f"added {slot.slot_id.hex()}  {_KINDS[slot.type]}", err=True)


@key.command()
@click.argument("slot_id")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@secrets_input.passphrase_file_option
def remove(slot_id: str, passphrase_file: Path | None, *, yes: bool) -> int:
    """Take a way to open the keys away; the last that needs no service stays.

    Copies of the keystore that were made before still open with it.
    """
    from core.slots import SlotType

    mine = open_identity(passphrase_file)
    slot = _chosen(mine, slot_id)
    others = [s.type for s in mine.slots if s.slot_id != slot.slot_id]
    warning = ""
    if slot.type == SlotType.RECOVERY:
        warning = "; the recovery phrase will no longer open these keys, only make new ones"
    elif others and set(others) == {int(SlotType.RECOVERY)}:
        warning = "; then every command needs the 24 words of the recovery phrase"
    if not yes:
        if not secrets_input.on_terminal():
            raise UsageError("no terminal to ask for consent", hint="--yes")
        question = f"remove {slot.slot_id.hex()} ({_kind(slot)}){warning}?"
        if not click.confirm(question, err=True):
            click.echo("nothing was changed", err=True)
            return 1
    mine.remove_slot(slot.slot_id)
    click.echo(f"removed {slot.slot_id.hex()}  {_kind(slot)}", err=True)
    if slot.type == SlotType.KEY_FILE and SlotType.KEY_FILE not in others:
        click.echo(f"{_key_file(mine)} opens nothing here any more: delete it", err=True)
    return 0


@key.command()
@click.argument("slot_id", required=False)
@_new_passphrase_file
@secrets_input.passphrase_file_option
def passwd(
    slot_id: str | None, new_passphrase_file: Path | None, passphrase_file: Path | None
) -> None:
    """Change the passphrase; SLOT_ID says which, if there are several.

    Copies of the keystore that were made before still open with the old one.
    """
    from core.slots import PassphraseProvider, SlotType

    mine = open_identity(passphrase_file)
    slots = [s for s in mine.slots if s.type == SlotType.PASSPHRASE]
    if slot_id is not None:
        slots = [_chosen(mine, slot_id)]
    if not slots:
        raise KeystoreError("there is no passphrase", hint="portal key add --passphrase")
    if len(slots) > 1:
        raise UsageError("there are several passphrases", hint="portal key list shows their ids")
    if slots[0].type != SlotType.PASSPHRASE:
        raise UsageError(f"{slots[0].slot_id.hex()} is no passphrase but a {_kind(slots[0])}")
    mine.replace_slot(slots[0].slot_id, PassphraseProvider(_new_passphrase(new_passphrase_file)))
    click.echo("the passphrase was changed", err=True)


# --- the recovery kit -----------------------------------------------------------------------------


@click.command("recovery-kit")
@click.option("-o", "--output", type=_PATH, help="A page to print: FILE.html or FILE.txt.")
@click.option("--qr", is_flag=True, help="Draw the QR code on the terminal, too.")
@click.option("--confirm", is_flag=True, help="Ask for two of the words, to see that you have it.")
@click.option(
    "--forget", is_flag=True, help="Then take the phrase off this machine; implies --confirm."
)
@secrets_input.passphrase_file_option
def recovery_kit(
    output: Path | None, passphrase_file: Path | None, *, qr: bool, confirm: bool, forget: bool
) -> int:
    """Print the 24 words that bring everything back, as long as they are on this machine.

    Whoever has them can read everything: print them, keep the paper elsewhere, and let --forget
    take them off this machine.
    """
    from node.cli import kit_page

    confirm = confirm or forget
    if confirm and not secrets_input.on_terminal():
        raise UsageError("no terminal to ask for the words")
    if output is not None and output.suffix not in {".html", ".txt"}:
        raise UsageError("a page ends in .html or .txt", where=str(output))
    mine = open_identity(passphrase_file)
    kit = _with_mesh(mine)
    if output is None:
        click.echo(kit_page.text_page(kit).reveal().decode(), nl=False)
    else:
        page = kit_page.html_page if output.suffix == ".html" else kit_page.text_page
        _write_page(output, page(kit))
        click.echo(f"{output} holds the recovery kit: print it, then delete the file", err=True)
    if qr:
        click.echo(kit_page.terminal_qr(kit).reveal().decode())
    if not confirm:
        return 0
    if output is None:  # what is still on the screen proves nothing
        told = "press Enter when you have it on paper: the screen is cleared then"
        click.prompt(told, default="", show_default=False, prompt_suffix=" ", err=True)
        click.clear()
    if not has_words(kit):
        click.echo("the words are not confirmed; nothing was changed", err=True)
        return 1
    if forget or click.confirm("right. Take the phrase off this machine now?", err=True):
        mine.forget_phrase()
        click.echo("the phrase is now on your paper only", err=True)
    return 0


def has_words(kit: "RecoveryKit") -> bool:
    """Ask for two words at random places; whether the person at the terminal has them."""
    import secrets

    from core.phrase import to_words

    words = to_words(kit.entropy).reveal().decode().split()
    places = sorted(secrets.SystemRandom().sample(range(len(words)), _CONFIRM_WORDS))
    for place in places:
        for _ in range(_CONFIRM_TRIES):
            typed = click.prompt(f"word {place + 1} of your kit", err=True).strip().lower()
            # As everywhere, four letters say which word it is.
            if words[place] == typed or (len(typed) >= 4 and words[place].startswith(typed)):
                break
            click.echo(f"word {place + 1} is another one", err=True)
        else:
            return False
    return True


def recover_identity(
    kit_file: Path | None,
    *,
    with_passphrase: bool,
    name: str,
    now_s: int,
    passphrase: "Secret | None" = None,
) -> "tuple[Identity, Root]":
    """Ask for the words or the kit, and be that person on this machine; the root makes vault keys.

    `with_passphrase` asks for the one on top of the phrase, `passphrase` is to open the keystore
    here from now on.
    """
    from node.home import portal_home
    from node.identity import recover

    root, _ = typed_root({"kit_file": kit_file, "on_top": with_passphrase})
    mine = recover(portal_home(), root, name=name, passphrase=passphrase, now_s=now_s)
    return mine, root


def typed_root(asked: dict[str, Any]) -> "tuple[Root, RecoveryKit | None]":
    """What grows from the words or the kit that are given now; and the kit, if it is one.

    `asked` are opening.phrase_options, and perhaps a file with the passphrase on top.
    """
    from core.recovery_kit import RecoveryKit
    from node.identity import is_kit, root_untrusted

    text = secrets_input.recovery_text(asked["kit_file"]).reveal().decode("utf-8", "replace")
    on_top = None
    if asked["on_top"]:
        prompt, file = "passphrase on top of the phrase", asked.get("passphrase_file")
        source = secrets_input.passphrase_source(file, prompt=prompt, environment=False)
        on_top = secrets_input.needed(source)
    return root_untrusted(text, on_top), RecoveryKit.parse_untrusted(text) if is_kit(text) else None


# --- parts ----------------------------------------------------------------------------------------


def _with_mesh(mine: "Identity") -> "RecoveryKit":
    """The kit, with the mesh this machine is in, and where some of its members were last."""
    import time
    from dataclasses import replace

    from node import kit_places
    from node.control import NotRunning

    kit = mine.recovery_kit()
    if not kit_places.is_in_mesh(mine.home):
        return kit
    try:
        try:
            mesh, endpoints = _asked_of_node()
        except NotRunning:
            now_ms = time.time_ns() // 1_000_000
            mesh, endpoints = kit_places.of_files(mine.home, mine.node, now_ms)
    except (PortalError, OSError) as e:
        click.echo(f"portal: the kit names no mesh: {e}", err=True)
        return kit
    return replace(kit, mesh=mesh, endpoints=tuple(endpoints))


def _asked_of_node() -> "tuple[MeshId | None, Sequence[Endpoint]]":
    from core.ids import MeshId, NodeId
    from core.recovery_kit import Endpoint
    from node import api
    from node.cli import opening

    found = opening.node_here().get(api.KIT, api.KitPlaces)
    endpoints = [Endpoint(one.address, NodeId.parse_untrusted(one.node)) for one in found.endpoints]
    return MeshId.parse_untrusted(found.mesh) if found.mesh else None, endpoints


def open_identity(passphrase_file: Path | None) -> "Identity":
    """This machine's identity, for a command; says which other way to open it failed, and why."""
    from core import process
    from node import identity
    from node.home import portal_home

    process.forbid_core_dumps()
    mine = identity.open(portal_home(), secrets_input.passphrase_source(passphrase_file))
    for failure in mine.skipped:
        click.echo(f"portal: {failure}", err=True)
    return mine


def _new_passphrase(file: Path | None) -> "Secret":
    source = secrets_input.passphrase_source(
        file, prompt="new passphrase", confirm=True, environment=False
    )
    return secrets_input.needed(source, "--new-passphrase-file")


def _new_provider(
    mine: "Identity", kind: str, credential: str | None, asked: dict[str, Any]
) -> "Provider":
    from core import slots

    def key_file() -> slots.Provider:
        provider = slots.KeyFileProvider(_key_file(mine))
        provider.create()
        return provider

    def systemd() -> slots.Provider:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        assert credential is not None
        return slots.SystemdCredentialProvider(Path(folder) if folder else None, credential)

    makers: dict[str, Callable[[], slots.Provider]] = {
        "passphrase": lambda: slots.PassphraseProvider(
            _new_passphrase(asked["new_passphrase_file"])
        ),
        "keyring": lambda: slots.OsKeyringProvider(mine.node.short()),
        "key_file": key_file,
        "systemd": systemd,
    }
    return makers[kind]()


def _key_file(mine: "Identity") -> Path:
    from node.identity import DEVICE_KEY

    return mine.home / DEVICE_KEY


def _chosen(mine: "Identity", text: str) -> "Slot":
    """The slot whose id begins so."""
    found = [s for s in mine.slots if s.slot_id.hex().startswith(text.lower())]
    if len(text) < _ID_CHARS_MIN or not found:
        raise UsageError(f"no slot is called {text}", hint="portal key list")
    if len(found) > 1:
        raise UsageError(f"{text} is the beginning of several slots", hint="type more of it")
    return found[0]


def _kind(slot: "Slot") -> str:
    return _KINDS.get(slot.type, f"type {slot.type}")


def _facts(slot: "Slot") -> dict[str, Any]:
    """What may be shown of a slot; its parameters are unproved, and it may be a newer Portal's."""
    from core.slots import OFFLINE_TYPES, SlotType

    params = slot.params
    detail = ""
    if slot.type == SlotType.PASSPHRASE:
        memory_kib = params[1]
        assert isinstance(memory_kib, int)  # the header's reader saw to that
        detail = f"Argon2id, {memory_kib // 1024} MiB"
    elif slot.type in {SlotType.OS_KEYRING, SlotType.SYSTEMD_CREDENTIAL}:
        detail = "/".join(p for p in params if isinstance(p, str))
    elif slot.type == SlotType.KEY_FILE:
        from node.home import portal_home
        from node.identity import DEVICE_KEY

        detail = str(portal_home() / DEVICE_KEY)
    elif slot.type not in _KINDS:
        detail = "made by a newer Portal"
    return {
        "id": slot.slot_id.hex(),
        "type": slot.type,
        "kind": _kind(slot),
        "detail": "".join(c if c.isprintable() else ascii(c)[1:-1] for c in detail),
        "offline": slot.type in OFFLINE_TYPES,
    }


def _write_page(path: Path, page: "Secret") -> None:
    from core.files import create_private

    if not create_private(path, page.reveal()):
        raise PortalError("exists already", where=str(path), hint="choose another name")
