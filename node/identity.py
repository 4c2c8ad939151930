"""The person's identity on this machine, and the keys that go with it (core/SPEC.md, Keystore).

    PORTAL_HOME/keystore        the sealed keys
    PORTAL_HOME/keystore.lock   held while they are changed; empty, and never in the way
    PORTAL_HOME/device.key      opens them without typing, for scheduled backups

A keystore gets its name whole or not at all, and after the key file it leans on: whatever ends a
process while it makes an identity, the next one finds either none or a good one.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from core import keystore, limits, phrase
from core.crypto import Entropy, SigningKey, system_entropy
from core.device_cert import DeviceCert, Role
from core.errors import IntegrityError, KeystoreError, PortalError, Unavailable, WrongKey
from core.files import create_private, read_bounded, sync_directory
from core.ids import NodeId, UserId, VaultId
from core.keys import DeviceKeys, Root
from core.keystore import Contents, Keystore, Slot
from core.recovery_kit import RecoveryKit
from core.secret import Secret
from core.slots import (
    KeyFileProvider,
    OsKeyringProvider,
    PassphraseProvider,
    Provider,
    RecoveryProvider,
    SlotType,
    SystemdCredentialProvider,
)

KEYSTORE = "keystore"
DEVICE_KEY = "device.key"
_LOCK = "keystore.lock"
_PHRASE = "recovery entropy"  # an extra: E, until its owner has a copy on paper
_SHARE_SEED = "share seed 0"  # an extra: what others seal to for this person
_HOME_MODE = 0o700
_SERIAL_BYTES = 8

AskPassphrase = Callable[[], Secret]


class NoIdentity(PortalError):
    """There is no identity on this machine yet."""

    exit_code: ClassVar[int] = 10


class Identity:
    """An open keystore: who this is, and the power to change what it keeps.

    Every change reads the file again under a lock, so that of two processes that change it neither
    undoes what the other did.
    """

    def __init__(
        self,
        home: Path,
        opened: Keystore,
        providers: Sequence[Provider],
        *,
        created: bool = False,
        is_draft: bool = False,
        skipped: Sequence[PortalError | OSError] = (),
    ) -> None:
        self.home = home
        self.created = created  # by this very call, not found
        self.is_draft = is_draft  # nothing of it is in the home yet
        self.skipped = tuple(skipped)  # why ways to open it that need no typing did not
        self._keystore = opened
        self._providers = list(providers)
        self._held: list[Callable[[Keystore], object]] | None = None  # changes yet to be written
        self.cert = DeviceCert.open_untrusted(opened.contents.cert)

    @property
    def user(self) -> UserId:
        """The person."""
        return self.cert.user

    @property
    def node(self) -> NodeId:
        """This machine."""
        return self.cert.node

    @property
    def device(self) -> DeviceKeys:
        """This machine's own keys."""
        return self._keystore.contents.device

    @property
    def cert_bytes(self) -> bytes:
        """The certificate as it is shown to others."""
        return self._keystore.contents.cert

    # --- vaults -----------------------------------------------------------------------------------

    @property
    def vaults(self) -> tuple[VaultId, ...]:
        """Whose keys are here, in order."""
        return tuple(sorted({vault for vault, _ in self._keystore.contents.vaults}))

    def vault_master(self, vault: VaultId, epoch: int = 0) -> Secret:
        """VMS[epoch] of a vault."""
        master = self._keystore.contents.vaults.get((vault, epoch))
        if master is None:
            raise KeystoreError(f"the keys of vault {vault.short()} are not on this machine")
        return master

    def add_vault(self, vault: VaultId, root: Root | None = None, epoch: int = 0) -> None:
        """Keep the keys of one more vault; again is no error.

        They grow from the recovery phrase: from the one kept here while it is, else from `root`.
        """

        def change(opened: Keystore) -> None:
            contents = opened.contents
            if (vault, epoch) in contents.vaults:
                return
            contents.vaults[vault, epoch] = self._root(contents, root).vault_master(vault, epoch)

        self._change(change)

    def remove_vault(self, vault: VaultId) -> None:
        """Drop the keys of a vault, of all its epochs; the phrase makes them again."""

        def change(opened: Keystore) -> None:
            gone = [key for key in opened.contents.vaults if key[0] == vault]
            if not gone:
                raise KeystoreError(f"the keys of vault {vault.short()} are not on this machine")
            for key in gone:
                del opened.contents.vaults[key]

        self._change(change)

    def _root(self, contents: Contents, root: Root | None) -> Root:
        if root is None:
            entropy = contents.extras.get(_PHRASE)
            if entropy is None:
                raise KeystoreError(
                    "needs the recovery phrase: it is no longer on this machine",
                    hint="type the words of your recovery kit",
                )
            root = Root.from_entropy(entropy)
        if root.user_id() != self.user:  # keys of another root would lock data nobody can reopen
            raise WrongKey("this recovery phrase is not the one of this machine's identity")
        return root

    # --- the recovery phrase ----------------------------------------------------------------------

    @property
    def has_phrase(self) -> bool:
        """Whether the phrase is still on this machine."""
        return _PHRASE in self._keystore.contents.extras

    def recovery_kit(self) -> RecoveryKit:
        """What is to be printed, as long as the phrase is here."""
        entropy = self._keystore.contents.extras.get(_PHRASE)
        if entropy is None:
            raise KeystoreError(
                "the recovery phrase is no longer on this machine",
                hint="it is on your printed kit; if that is lost, begin a new identity and back up "
                "to it while this machine still works",
            )
        return RecoveryKit(entropy, self.user, self.cert.created_s)

    def forget_phrase(self) -> None:
        """Take the phrase off this machine: its owner has it on paper. Again is no error."""
        self._change(lambda opened: opened.contents.extras.pop(_PHRASE, None))

    # --- in a mesh --------------------------------------------------------------------------------

    def share_seed(self, root: Root | None = None) -> Secret:
        """What others seal to for this person; made from the phrase where it is not here yet."""
        if _SHARE_SEED not in self._keystore.contents.extras:

            def change(opened: Keystore) -> None:
                seed = self._root(opened.contents, root).share_seed(0)
                opened.contents.extras[_SHARE_SEED] = seed

            self._change(change)
        return self._keystore.contents.extras[_SHARE_SEED]

    def add_roles(self, roles: Role, root: Root | None = None, now_s: int = 0) -> None:
        """Let this device do more in the name of its user: a new certificate, by the phrase.

        In a mesh that knows the old one it counts only if it is newer: then say `now_s`, and it is
        made anew, whatever the old one lets this device do.
        """
        if roles in self.cert.roles and not now_s:
            return

        def change(opened: Keystore) -> None:
            old = DeviceCert.open_untrusted(opened.contents.cert)
            created_s = max(now_s, old.created_s + 1) if now_s else old.created_s
            new = replace(old, roles=old.roles | roles, created_s=created_s)
            user = self._root(opened.contents, root).user_identity()
            opened.contents = replace(opened.contents, cert=new.signed_by(user))

        self._change(change)

    def user_key(self, root: Root | None = None) -> SigningKey:
        """The key of this person, for what no device may do alone; while the phrase is here."""
        return self._root(self._keystore.contents, root).user_identity()

    # --- slots ------------------------------------------------------------------------------------

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The ways to open the keystore."""
        return self._keystore.header.slots

    def add_slot(self, provider: Provider) -> Slot:
        """One more way to open it."""
        before = set(self.slots_by_id())
        self._change(lambda opened: opened.add_slot(provider))
        self._providers.append(provider)
        return next(slot for key, slot in self.slots_by_id().items() if key not in before)

    def remove_slot(self, slot_id: bytes) -> None:
        """Take a way to open it away; the last that needs no service stays."""
        self._change(lambda opened: opened.remove_slot(slot_id))

    def replace_slot(self, slot_id: bytes, provider: Provider) -> None:
        """Put another way in the place of one, in a single step."""

        def change(opened: Keystore) -> None:
            opened.add_slot(provider)
            opened.remove_slot(slot_id)

        self._change(change)
        self._providers.append(provider)

    def slots_by_id(self) -> dict[bytes, Slot]:
        """The slots under their names."""
        return {slot.slot_id: slot for slot in self.slots}

    # --- a draft ----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Put a draft into its home, which has no identity; the home is as it was if that fails."""
        assert self.is_draft
        path, key = self.home / KEYSTORE, self.home / DEVICE_KEY
        new_key = not os.path.lexists(key)
        new_places = [one for one in (self.home, *self.home.parents) if not one.exists()]
        sealed = b""
        try:
            for provider in _providers_for(self.home, None, use_device_key=True):
                self._keystore.add_slot(provider)
                self._providers.append(provider)
            sealed = self._keystore.sealed()
            is_ours = create_private(path, sealed)
        except BaseException:
            _take_back(path, sealed, key if new_key else None, new_places)
            raise
        if not is_ours:  # whoever was quicker may lean on the key file
            raise KeystoreError("another identity took this place meanwhile", where=str(path))
        self.is_draft = False

    def hold(self) -> None:
        """From now on changes are in memory alone, until `settle`: they may come to nothing."""
        self._held = []

    def settle(self) -> None:
        """Write what was held."""
        held, self._held = self._held or [], None

        def change(opened: Keystore) -> None:
            for one in held:
                one(opened)

        if held:
            self._change(change)

    # --- changing ---------------------------------------------------------------------------------

    def _change(self, change: Callable[[Keystore], object]) -> None:
        if self.is_draft or self._held is not None:
            change(self._keystore)
            if self._held is not None:
                self._held.append(change)
        else:
            self._write(change)
        self.cert = DeviceCert.open_untrusted(self._keystore.contents.cert)

    def _write(self, change: Callable[[Keystore], object]) -> None:
        path = self.home / KEYSTORE
        with _locked(self.home):
            opened = keystore.load(path, self._providers)
            if opened.header.node != self.node:
                raise KeystoreError("another identity took this place meanwhile", where=str(path))
            try:
                change(opened)
                keystore.save(path, opened)
            except PortalError as e:
                raise e.at(str(path)) from e.__cause__
        self._keystore = opened

    def __repr__(self) -> str:
        return f"<identity of {self.user!r} on {self.node!r}>"


# --- making and finding one -----------------------------------------------------------------------


def create(
    home: Path,
    *,
    name: str,
    passphrase: Secret | None,
    now_s: int,
    use_device_key: bool = True,
    entropy: Entropy = system_entropy,
) -> Identity:
    """A new person with this machine as their first device, or the identity that is here already.

    Of two processes that create at once one does, and both get the same identity; `created` says
    who did. The recovery phrase stays in the keystore until `forget_phrase`.
    """
    if has_identity(home):
        return open(home, _given(passphrase))
    words = phrase.new_entropy(entropy)
    root = Root.from_entropy(words)
    contents = _new_device(root, name, now_s, entropy)
    contents.extras[_PHRASE] = words
    providers = _providers_for(home, passphrase, use_device_key=use_device_key)
    return _place(home, contents, root, providers, passphrase)


def recover(
    home: Path,
    root: Root,
    *,
    name: str,
    passphrase: Secret | None,
    now_s: int,
    use_device_key: bool = True,
) -> Identity:
    """The person of this phrase again, with this machine as a new device of theirs.

    Where their keystore is here already it is opened by the phrase, and gets the ways to open that
    are asked for: that is how a lost passphrase or key file is replaced. Another person's is
    refused.
    """
    if not has_identity(home):
        contents = _new_device(root, name, now_s, system_entropy)
        providers = _providers_for(home, passphrase, use_device_key=use_device_key)
        made = _place(home, contents, root, providers, passphrase)
        if made.created:
            return made
    path = home / KEYSTORE
    if header(home).user != root.user_id():
        raise KeystoreError(
            "another person's identity is here",
            where=str(path),
            hint="set PORTAL_HOME to an empty directory",
        )
    by_phrase = RecoveryProvider(root)
    found = Identity(home, keystore.load(path, [by_phrase]), [by_phrase])
    for provider in _providers_for(home, passphrase, use_device_key=use_device_key):
        if not _opens(path, provider):
            found.add_slot(provider)
    return found


def draft(home: Path, root: Root, *, name: str, now_s: int) -> Identity:
    """The same, of which nothing is in the home before `keep`: until it is known to be of use."""
    by_phrase = RecoveryProvider(root)
    contents = _new_device(root, name, now_s, system_entropy)
    return Identity(home, Keystore.create(contents, [by_phrase]), [by_phrase], is_draft=True)


def open(home: Path, ask_passphrase: AskPassphrase | None = None) -> Identity:  # noqa: A001 - identity.open
    """The identity of this machine, by whatever opens it; a passphrase is asked for last.

    NoIdentity where there is none, WrongKey where nothing at hand opens it.
    """
    path = home / KEYSTORE
    kinds = {slot.type for slot in header(home).slots}
    silent = [p for p in _silent_providers(home) if p.slot_type in kinds]
    failures: list[PortalError | OSError] = []
    for provider in silent:
        try:
            opened = keystore.load(path, [provider])
            others = [other for other in silent if other is not provider]
            return Identity(home, opened, [provider, *others], skipped=failures)
        except (WrongKey, Unavailable) as e:
            failures.append(e)
        except IntegrityError:
            raise  # the file was changed: no other key makes it good
        except (PortalError, OSError) as e:
            failures.append(e)
    if ask_passphrase is None or SlotType.PASSPHRASE not in kinds:
        raise _why_not(path, failures)
    by_passphrase = PassphraseProvider(ask_passphrase())
    opened = keystore.load(path, [by_passphrase])
    return Identity(home, opened, [by_passphrase], skipped=failures)


def has_identity(home: Path) -> bool:
    """Whether there is one here; a link that leads nowhere counts, so that nothing takes its place.

    (Keys may lie on a disk that is not plugged in.)
    """
    return os.path.lexists(home / KEYSTORE)


def header(home: Path) -> keystore.Header:
    """What can be known of the keystore without a key; nothing in it is proved."""
    path = home / KEYSTORE
    if not has_identity(home):
        raise NoIdentity(where=str(home), hint="portal init")
    try:
        return keystore.inspect_untrusted(read_bounded(path, limits.KEYSTORE_FILE_BYTES_MAX))
    except PortalError as e:
        raise e.at(str(path)) from e.__cause__


def root_untrusted(text: str, passphrase: Secret | None = None) -> Root:
    """What grows from a phrase or a kit, as it was typed or scanned.

    A kit names its person, so a missing or wrong passphrase is found out; words do not, and any
    passphrase on top of them makes somebody.
    """
    kit = RecoveryKit.parse_untrusted(text) if is_kit(text) else None
    entropy = kit.entropy if kit else phrase.from_words_untrusted(text)
    if passphrase is None:
        root = Root.from_entropy(entropy)
    else:
        root = Root.from_entropy_and_passphrase(entropy, passphrase)
    if kit and root.user_id() != kit.user:
        wrong = "wrong" if passphrase else "missing"
        raise WrongKey(f"the passphrase on top of this recovery kit is {wrong}")
    return root


def is_kit(text: str) -> bool:
    """Whether this is the text of a kit and not words."""
    return text.lstrip().lower().startswith("pnk1-")


# --- parts ----------------------------------------------------------------------------------------


def _new_device(root: Root, name: str, now_s: int, entropy: Entropy) -> Contents:
    device = DeviceKeys.generate(entropy)
    cert = DeviceCert(
        user=root.user_id(),
        node=device.node_id(),
        box_public=device.box_public(),
        name=name,
        roles=Role.laptop(),
        created_s=now_s,
        not_after_s=0,
        serial=entropy(_SERIAL_BYTES),
        epoch=0,
    )
    extras = {_SHARE_SEED: root.share_seed(0)}
    return Contents(device, cert.signed_by(root.user_identity()), extras=extras)


def _providers_for(
    home: Path, passphrase: Secret | None, *, use_device_key: bool
) -> list[Provider]:
    """The slots a person asked for; makes the home and the key file if need be."""
    if passphrase is None and not use_device_key:
        raise KeystoreError("without a device key file a passphrase is needed")
    providers: list[Provider] = []
    if passphrase is not None:
        providers.append(PassphraseProvider(passphrase))
    _make_home(home)
    if use_device_key:
        key_file = KeyFileProvider(home / DEVICE_KEY)
        key_file.create()
        providers.insert(0, key_file)
    return providers


def _place(
    home: Path,
    contents: Contents,
    root: Root,
    providers: list[Provider],
    passphrase: Secret | None,
) -> Identity:
    """Give a new keystore its name, or open the one that was quicker."""
    made = Keystore.create(contents, [*providers, RecoveryProvider(root)])
    if create_private(home / KEYSTORE, made.sealed()):
        return Identity(home, made, providers, created=True)
    return open(home, _given(passphrase))


def _take_back(path: Path, sealed: bytes, key: Path | None, places: Sequence[Path]) -> None:
    """Undo what was begun. The keystore goes first: what leans on a key is not left without it."""
    with suppress(OSError, PortalError):
        if read_bounded(path, limits.KEYSTORE_FILE_BYTES_MAX) == sealed != b"":  # nobody else's
            path.unlink()
            sync_directory(path.parent)
    if key is not None and not os.path.lexists(path):
        with suppress(OSError):
            key.unlink()
    for place in places:
        with suppress(OSError):  # not made, or somebody else has put something there
            place.rmdir()


def _make_home(home: Path) -> None:
    missing = [path for path in (home, *home.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=_HOME_MODE, exist_ok=True)
        sync_directory(path.parent)
    if home.stat().st_mode & 0o002:
        raise KeystoreError(
            "other users can write here", where=str(home), hint=f"chmod go-w {home}"
        )


def _silent_providers(home: Path) -> list[Provider]:
    """Whatever opens without typing, the cheapest first."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return [
        KeyFileProvider(home / DEVICE_KEY),
        SystemdCredentialProvider(Path(credentials) if credentials else None),
        OsKeyringProvider(""),  # the slot names the account
    ]


def _given(passphrase: Secret | None) -> AskPassphrase | None:
    return None if passphrase is None else lambda: passphrase


def _opens(path: Path, provider: Provider) -> bool:
    try:
        keystore.load(path, [provider])
    except WrongKey:
        return False
    return True


def _why_not(path: Path, failures: list[PortalError | OSError]) -> PortalError | OSError:
    """One error out of what every way to open it said."""
    for failure in failures:
        if not isinstance(failure, WrongKey | Unavailable):
            return failure  # a key that is there but cannot be used, and why
    absent = [f.what for f in failures if isinstance(f, Unavailable)]
    reason = f": {absent[0]}" if absent else ""
    hint = "give the passphrase, or use the recovery phrase"
    return WrongKey(f"nothing at hand opens this keystore{reason}", where=str(path), hint=hint)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when it ends, however it does."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(home / _LOCK, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
