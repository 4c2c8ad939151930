"""A vault: who may open it, its newest head, and the one way to change it (portal/SPEC.md).

Vault        the directory and its keys
reader()     pieces out (portal/reader.py)
session()    pieces in, and a new head at the end (portal/session.py)
change()     a new head without new pieces: tags, pins, what is forgotten
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from core.crypto import SigningKey
from core.errors import FormatError, IntegrityError, NewerFormat, PortalError
from core.files import sync_directory
from core.ids import NodeId, UserId, VaultId
from core.keys import VaultKeys
from core.secret import Secret
from core.smt import SparseTree
from portal.config import VaultConfig, VaultName, name_untrusted
from portal.disk import Disk
from portal.errors import NotOurs
from portal.head import Head, head_hash
from portal.reader import Reader
from portal.store import SessionMark, Store

MasterOf = Callable[[VaultId, int], Secret]


@dataclass(frozen=True, slots=True)
class Author:
    """The device that works here, in whose name heads are signed."""

    user: UserId
    node: NodeId
    signing: SigningKey
    cert: bytes


@dataclass(frozen=True, slots=True)
class ReadHead:
    """The newest head that is valid, and what stands in the way of newer ones."""

    head: Head
    prev: bytes  # what the next head calls this one
    place: tuple[int, int]  # the next head's
    damaged: dict[str, PortalError]  # newer heads that cannot be read, by path


class Vault:
    """One vault directory of this device."""

    def __init__(
        self, store: Store, config: VaultConfig, keys: VaultKeys, author: Author, cache: Path | None
    ) -> None:
        self.store = store
        self.config = config
        self.keys = keys
        self.author = author
        self.cache = cache

    @classmethod
    def create(
        cls,
        store: Store,
        vault: VaultId,
        master: Secret,
        author: Author,
        *,
        cache: Path | None,
        now_s: int,
    ) -> Self:
        """A new, empty vault."""
        keys = VaultKeys.from_master(master)
        config = VaultConfig.new(vault, author.node, now_s)
        store.create(config.sealed(keys))
        return cls(store, config, keys, author, cache and cache / vault.hex())

    @classmethod
    def open(
        cls,
        path: Path,
        author: Author,
        master_of: MasterOf,
        *,
        cache: Path | None,
        disk: Disk | None = None,
    ) -> Self:
        """The vault in this directory; NotOurs if it belongs to another device."""
        store = Store(path, disk)
        name = read_name(path)
        if name.node != author.node:
            raise NotOurs(
                f"this vault belongs to the device {name.node.short()}",
                where=str(path),
                hint=f"if it is to be this machine's from now on: portal vault adopt {path}",
            )
        keys = VaultKeys.from_master(master_of(name.vault, name.epoch))
        try:
            config = VaultConfig.open_untrusted(store.read_config(), keys)
        except PortalError as e:
            raise e.at(str(path / "config")) from e.__cause__
        return cls(store, config, keys, author, cache and cache / name.vault.hex())

    @property
    def id(self) -> VaultId:
        """Its name."""
        return self.config.name.vault

    # --- reading --------------------------------------------------------------------------------

    def head(self) -> Head:
        """The state of the vault now."""
        return self.read_head().head

    def read_head(self) -> ReadHead:
        """The newest valid head; damaged ones above it are told."""
        places = self.store.head_places()
        following = (places[0][0], places[0][1] + 1) if places else (0, 1)
        damaged: dict[str, PortalError] = {}
        for place in places:
            path = str(self.store.head_path(place))
            try:
                data = self.store.read_head(place)
                head = self._open_head_untrusted(data, place)
            except FileNotFoundError:  # taken away meanwhile, since there are many newer ones
                continue
            except NewerFormat as e:
                raise e.at(path) from e.__cause__
            except (FormatError, IntegrityError) as e:
                damaged[path] = e.at(path)
                continue
            near = [p for p in places if p[0] - head.incarnation < 2 and p[1] - head.seq < 1 << 20]
            return ReadHead(head, head_hash(data), (near[0][0], near[0][1] + 1), damaged)
        if self.store.head_places() != places:
            return self.read_head()  # all we saw were taken away meanwhile
        empty = Head(vault=self.id, user=self.author.user, device=self.author.node)
        return ReadHead(empty, empty.prev, following, damaged)

    def _open_head_untrusted(self, data: bytes, place: tuple[int, int]) -> Head:
        head = Head.open_untrusted(data, self.keys, self.id, self.author.user)
        if head.place != place:
            raise IntegrityError("a head under another one's name")
        return head

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Read pieces; what is read is not purged meanwhile, if the vault can be written to."""
        mark = self._begin_or_none()
        try:
            with Reader(self.store, self.keys, self.cache) as reader:
                yield reader
        finally:
            if mark is not None:
                mark.end()

    def _begin_or_none(self) -> SessionMark | None:
        try:
            return self.begin()[1]
        except OSError:  # read-only, or not ours to write: nobody can purge it from here either
            return None

    # --- changing -------------------------------------------------------------------------------

    def begin(self) -> tuple[ReadHead, SessionMark]:
        """Say that we are at work, and what the vault was at that moment."""
        with self.store.commit_lock():
            read = self.read_head()
            return read, self.store.begin_session(read.head.trash_gen)

    def change(self, edit: Callable[[Head], Head]) -> Head:
        """A new head out of the newest one; returns when it is durable."""
        with self.store.commit_lock():
            return self.change_locked(edit)

    def change_locked(
        self, edit: Callable[[Head], Head], *, packs: set[bytes] | None = None
    ) -> Head:
        """The same for who holds the commit lock; `packs` if other packs are live now."""
        read = self.read_head()
        head = edit(read.head)
        incarnation, seq = read.place
        head = replace(
            head,
            device=self.author.node,
            incarnation=incarnation,
            seq=seq,
            prev=read.prev,
            live_set_root=read.head.live_set_root if packs is None else live_set_root(packs),
        )
        signed = head.signed(self.keys, self.author.signing, self.author.cert)
        # What nobody could read back must not hide the head before it.
        self._open_head_untrusted(signed, head.place)
        self.store.put_head(head.place, signed)
        return head

    # --- moving to another device ---------------------------------------------------------------

    @classmethod
    def adopt(cls, path: Path, author: Author, master_of: MasterOf, *, cache: Path | None) -> Self:
        """Make the vault in this directory this device's; its history stays."""
        store = Store(path)
        name = read_name(path)
        keys = VaultKeys.from_master(master_of(name.vault, name.epoch))
        with store.commit_lock():
            old = VaultConfig.open_untrusted(store.read_config(), keys)
            config = replace(old, name=VaultName(name.vault, author.node, name.epoch))
            store.replace_config(config.sealed(keys))
            vault = cls(store, config, keys, author, cache and cache / name.vault.hex())
            read = vault.read_head()
            head = replace(
                read.head,
                device=author.node,
                incarnation=read.place[0] + 1,
                seq=read.place[1],
                prev=read.prev,
            )
            store.put_head(head.place, head.signed(keys, author.signing, author.cert))
        sync_directory(path)
        return vault


def read_name(path: Path) -> VaultName:
    """Whose vault lies in this directory; NoVault if there is none."""
    data = Store(path).read_config()
    try:
        return name_untrusted(data)
    except PortalError as e:
        raise e.at(str(path / "config")) from e.__cause__


def live_set_root(packs: set[bytes]) -> bytes:
    """What a head says about which packs there are."""
    return SparseTree({name: name for name in packs}).root
