"""The directory of a vault: which files there are, and the steps in which they appear and go.

    config               never changes
    packs/<64 hex>       sealed packs; a name appears when its content is durable
    index/<32 hex>       sealed deltas of the index
    heads/<8 hex>-<16 hex>    incarnation and number; the one with the highest is the vault
    trash/<16 hex>-<12 hex>/<64 hex>    packs taken away: generation, second; purged later
    sessions/<32 hex>    one per running command, locked by the kernel as long as it lives
    commit               locked for the moment in which the head changes or packs move

Nothing here knows a key. What is half written has a name that begins with a dot.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, UsageError
from core.files import read_bounded
from portal.disk import Disk
from portal.errors import Missing, NoVault

_PACK = re.compile(r"[0-9a-f]{64}")
_DELTA = re.compile(r"[0-9a-f]{32}")
_HEAD = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})")
_TRASH = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})")
_SESSION = re.compile(r"[0-9a-f]{32}")
_FOLDERS = ("packs", "index", "heads", "trash", "sessions")
_SEQ_MAX = 1 << 62
_SESSION_BYTES_MAX = 64
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP}  # a link, a socket


@dataclass(frozen=True, slots=True)
class Trashed:
    """A pack in the trash."""

    name: bytes
    generation: int
    since_s: int


class Store:
    """One vault directory."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = path
        self.disk = disk or Disk()
        self._tag = os.urandom(8).hex()  # of our half-written files
        self._count = 0

    # --- making and finding it ------------------------------------------------------------------

    def create(self, config: bytes) -> None:
        """A new vault; the file `config` appears last and makes it one."""
        if (self.path / "config").exists():
            raise UsageError("there is a vault already", where=str(self.path))
        if self.path.exists() and any(self.path.iterdir()) and not self._is_half_made():
            raise UsageError(
                "is not empty", where=str(self.path), hint="name a new directory for the vault"
            )
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        for path in reversed(missing):
            self.disk.make_directory(path)
            self.disk.sync_directory(path.parent)
        for folder in _FOLDERS:
            self.disk.make_directory(self.path / folder)
        if not (self.path / "commit").exists():
            self.disk.close(self.disk.make(self.path / "commit"))
        self._put(self.path / "config", config)
        self.disk.sync_directory(self.path.parent)

    def read_config(self) -> bytes:
        """The file that says whose vault this is."""
        try:
            return read_bounded(self.path / "config", limits.VAULT_CONFIG_BYTES_MAX)
        except (FileNotFoundError, NotADirectoryError) as e:
            hint = "portal init makes one, portal backup does so by itself"
            raise NoVault("there is no vault", where=str(self.path), hint=hint) from e

    def replace_config(self, config: bytes) -> None:
        """Another owner's device: only while the commit lock is held."""
        temporary = self._written(self.path, config)
        self.disk.rename(temporary, self.path / "config")
        self.disk.sync_directory(self.path)

    def _is_half_made(self) -> bool:
        known = {*_FOLDERS, "commit"}
        return all(p.name in known or p.name.startswith(".") for p in self.path.iterdir())

    # --- packs ----------------------------------------------------------------------------------

    def pack_names(self) -> set[bytes]:
        """Every pack that is there; half-written ones are not."""
        return {bytes.fromhex(name) for name in self._names("packs") if _PACK.fullmatch(name)}

    def put_pack(self, name: bytes, data: Buffer) -> None:
        """Write a pack; its name appears when its content is durable.

        The name itself is durable after `sync_packs`.
        """
        folder = self.path / "packs"
        temporary = self._written(folder, data)
        try:
            self.disk.rename(temporary, folder / name.hex())
        except OSError:
            self.disk.remove(temporary)
            raise

    def sync_packs(self) -> None:
        """Make the names of packs durable."""
        self.disk.sync_directory(self.path / "packs")

    def open_pack(self, name: bytes) -> int:
        """A descriptor to read a pack by, from the trash if it lies there."""
        planted: FormatError | None = None
        for path in self._pack_paths(name):
            try:
                return _open_regular(path)
            except FileNotFoundError:
                continue
            except FormatError as e:
                planted = e  # the pack itself may lie in the trash
        if planted is not None:
            raise planted
        where = str(self.path / "packs" / name.hex())
        hint = "portal check tells what is lost with it"
        raise Missing("a pack is missing", where=where, hint=hint)

    def pack_bytes(self, name: bytes) -> int:
        """How long the file of a pack is; FileNotFoundError if there is none."""
        for path in self._pack_paths(name):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name.hex())

    def _pack_paths(self, name: bytes) -> Iterator[Path]:
        """Where a pack may lie: first in its place, once more in case it was just taken back."""
        path = self.path / "packs" / name.hex()
        yield path
        folders = self._trash_folders()
        yield from (folder / name.hex() for folder in folders)
        if folders:
            yield path

    # --- trash ----------------------------------------------------------------------------------

    def trashed(self) -> dict[bytes, Trashed]:
        """What lies in the trash."""
        found: dict[bytes, Trashed] = {}
        for folder in self._trash_folders():
            generation, since = (int(part, 16) for part in folder.name.split("-"))
            for name in _packs_in(folder):
                found[name] = Trashed(name, generation, since)
        return found

    def move_to_trash(self, names: Iterable[bytes], generation: int, now_s: int) -> None:
        """Take packs away for now; only while the commit lock is held."""
        folder = self.path / "trash" / f"{generation:016x}-{now_s:012x}"
        self.disk.make_directory(folder)
        self.disk.sync_directory(folder.parent)
        for name in names:
            self.disk.rename(self.path / "packs" / name.hex(), folder / name.hex())
        self.disk.sync_directory(folder)
        self.sync_packs()

    def take_back(self, names: Iterable[bytes]) -> None:
        """Packs out of the trash; only while the commit lock is held.

        When it returns their names are durable, and those of packs that another run had taken back
        before it died.
        """
        wanted = set(names)
        for folder in self._trash_folders():
            for path in list(folder.iterdir()):
                if _PACK.fullmatch(path.name) and bytes.fromhex(path.name) in wanted:
                    self.disk.rename(path, self.path / "packs" / path.name)
        self.sync_packs()

    def purge(self, names: Iterable[bytes]) -> int:
        """Delete packs of the trash for good; the bytes that were freed."""
        wanted = set(names)
        freed = 0
        for folder in self._trash_folders():
            left = False
            for path in list(folder.iterdir()):
                if _PACK.fullmatch(path.name) and bytes.fromhex(path.name) in wanted:
                    freed += path.stat().st_size
                    self.disk.remove(path)
                else:
                    left = True
            if not left:
                self.disk.remove_directory(folder)
        return freed

    def _names(self, folder: str) -> list[str]:
        """What a folder of the vault holds."""
        try:
            return os.listdir(self.path / folder)  # noqa: PTH208 - no Path for each of many packs
        except FileNotFoundError:  # the vault was copied by something that drops empty folders
            return []

    def _trash_folders(self) -> list[Path]:
        found = sorted(name for name in self._names("trash") if _TRASH.fullmatch(name))
        folders = [self.path / "trash" / name for name in found]
        # A link planted here would let a collection delete what lies elsewhere.
        return [p for p in folders if p.is_dir() and not p.is_symlink()]

    # --- index deltas ---------------------------------------------------------------------------

    def delta_names(self) -> set[str]:
        """The deltas of the index."""
        return {name for name in self._names("index") if _DELTA.fullmatch(name)}

    def read_delta(self, name: str) -> bytes:
        """One of them, sealed."""
        return read_bounded(self.path / "index" / name, limits.DELTA_BYTES_MAX)

    def delta_bytes(self, name: str) -> int:
        """How long one of them is."""
        return (self.path / "index" / name).stat().st_size

    def put_delta(self, data: bytes) -> str:
        """A new one, durable; gives its name."""
        name = os.urandom(16).hex()
        self._put(self.path / "index" / name, data)
        return name

    def remove_deltas(self, names: Iterable[str]) -> None:
        """Those that others have replaced."""
        for name in names:
            self.disk.remove(self.path / "index" / name)

    # --- heads ----------------------------------------------------------------------------------

    def head_places(self) -> list[tuple[int, int]]:
        """Incarnation and number of every head, the highest first."""
        matches = (_HEAD.fullmatch(name) for name in self._names("heads"))
        places = ((int(m[1], 16), int(m[2], 16)) for m in matches if m)
        # A number no vault ever reaches is none of ours: there must be room for the next one.
        return sorted((place for place in places if place[1] <= _SEQ_MAX), reverse=True)

    def read_head(self, place: tuple[int, int]) -> bytes:
        """The file of one head."""
        return read_bounded(self.head_path(place), limits.HEAD_BYTES_MAX)

    def head_path(self, place: tuple[int, int]) -> Path:
        """Where a head lies."""
        return self.path / "heads" / f"{place[0]:08x}-{place[1]:016x}"

    def put_head(self, place: tuple[int, int], data: bytes) -> None:
        """The new state of the vault; when this returns it is durable, before it is not there."""
        self._put(self.head_path(place), data)
        older = [p for p in self.head_places() if p < place]
        for old in older[limits.HEADS_KEPT - 1 :]:
            self.disk.remove(self.head_path(old))

    # --- locks ----------------------------------------------------------------------------------

    @contextmanager
    def commit_lock(self) -> Iterator[None]:
        """One process at a time may change the head or move packs; waits its turn.

        The kernel lets go of it when the process ends, however it ends.
        """
        fd = os.open(self.path / "commit", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def begin_session(self, generation: int) -> "SessionMark":
        """Say that we are at work, since this generation; only while the commit lock is held."""
        for folder in _FOLDERS:  # what copies a vault may drop those that are empty
            if not (self.path / folder).is_dir():
                self.disk.make_directory(self.path / folder)
        path = self.path / "sessions" / os.urandom(16).hex()
        fd = self.disk.make(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.disk.write(fd, b"%d %d\n" % (generation, os.getpid()))
        except BaseException:
            self.disk.remove(path)
            os.close(fd)
            raise
        return SessionMark(self, fd, path)

    def live_generations(self) -> list[int]:
        """The generation of every session that is at work; traces of dead ones are cleared.

        Only while the commit lock is held.
        """
        found = []
        for path in (self.path / "sessions").iterdir():
            if not _SESSION.fullmatch(path.name):
                continue
            try:
                fd = _open_regular(path)
            except (FileNotFoundError, FormatError):  # it has just ended, or was never one
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(_generation_untrusted(os.read(fd, _SESSION_BYTES_MAX)))
            else:
                self.disk.remove(path)
            finally:
                os.close(fd)
        return found

    # --- half-written files ---------------------------------------------------------------------

    def clear_leftovers(self) -> int:
        """Take away what dead processes left half written, when nobody is at work."""
        count = 0
        for folder in (self.path, *(self.path / name for name in _FOLDERS[:3])):
            if folder.is_symlink() and folder != self.path:
                continue
            for path in list(folder.iterdir()):
                if path.name.startswith(".tmp-"):
                    self.disk.remove(path)
                    count += 1
        return count

    def _put(self, path: Path, data: Buffer) -> None:
        """A file with a name that is new: durable when this returns, all of it or nothing.

        By renaming, not linking: vaults lie on USB sticks whose file systems know no links.
        """
        temporary = self._written(path.parent, data)
        try:
            self.disk.rename(temporary, path)
        except OSError:
            self.disk.remove(temporary)
            raise
        self.disk.sync_directory(path.parent)

    def _written(self, folder: Path, data: Buffer) -> Path:
        """A durable file without its name."""
        self._count += 1
        temporary = folder / f".tmp-{self._tag}-{self._count}"
        fd = self.disk.make(temporary)
        try:
            self.disk.write(fd, data)
            self.disk.sync(fd)
        except BaseException:
            self.disk.remove(temporary)
            raise
        finally:
            self.disk.close(fd)
        return temporary


class SessionMark:
    """A running command, for others to see."""

    def __init__(self, store: Store, fd: int, path: Path) -> None:
        self._store = store
        self._fd = fd
        self._path = path

    def end(self) -> None:
        """Done, well or not."""
        if self._fd >= 0:
            self._store.disk.remove(self._path)
            os.close(self._fd)
            self._fd = -1


def _open_regular(path: Path) -> int:
    """A descriptor of a file; FormatError for what is none, which might be waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in _NO_FILE:
            raise FormatError("is not a regular file", where=str(path)) from e
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError("is not a regular file", where=str(path))
    return fd


def _packs_in(folder: Path) -> list[bytes]:
    """The packs in a folder of the trash; none if it has been emptied meanwhile."""
    try:
        return [bytes.fromhex(p.name) for p in folder.iterdir() if _PACK.fullmatch(p.name)]
    except FileNotFoundError:
        return []


def _generation_untrusted(data: bytes) -> int:
    """Of a session; one that cannot be read counts as the oldest, which only delays."""
    match = re.fullmatch(rb"([0-9]{1,20}) [0-9]+\n", data)
    return int(match[1]) if match else 0
