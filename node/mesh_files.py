"""What a node keeps of its mesh: PORTAL_HOME/mesh/members, records and presence.

    members    the signed operations, appended and synced before anybody acts on them
    own        how many of them are ours, and that these files were never put back from a copy
    anchor-N   empty, and never touched: no copy of it has its change time; N as in own
    records    where others were last; losing it costs time
    presence   who was away for how long; losing it costs patience
    drafts     what admins are to sign together; losing it costs a signature
    door       who let us in, and where, for as long as nothing better is known

Whoever ends the process in the middle of an append leaves a torn record, which the next start cuts
off; the operation comes again from a peer. Of a damaged list what is sound is taken up, and the
damaged file is kept beside it.

What a node wrote it must not forget (mesh/recollection.py). `own` is believed as long as its
anchor has the change time it had when `own` was written: that is the time of the system's clock,
which nobody who puts files back can set. It is missing, too, where a node came into a mesh that may
have known it before.
"""

import os
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

import trio

from core import codec, limits
from core.errors import FormatError, NewerFormat, PortalError
from core.files import create_private, read_bounded, sync_directory, write_private
from core.ids import NodeId
from mesh import addresses
from mesh.members.membership import Changes, Kept, Membership, log_record
from mesh.wire import Address

_FOLDER = "mesh"
_MEMBERS = "members"
_RECORDS = "records"
_PRESENCE = "presence"
_DRAFTS = "drafts"
_DOOR = "door"
_OWN = "own"
_ANCHOR = "anchor"
_OWN_VERSION = 1
_DOOR_BYTES_MAX = 64


class Entrance(NamedTuple):
    """A member that let us in, and where it answered."""

    node: NodeId
    at: Address


class TakenUp(NamedTuple):
    """What a node goes on with."""

    membership: Membership
    is_whole: bool  # nothing we wrote is missing
    harm: PortalError | None  # what was damaged, and is mended


class Unusable(PortalError):
    """The files of the mesh cannot be used."""


class Damaged(Unusable):
    """The list of members is damaged from its beginning."""


class MeshFiles:
    """The files of one home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / _FOLDER
        self._home = home
        self._own: NodeId | None = None
        self._written = 0  # by us
        self._is_whole = False
        self._writing = trio.Lock()
        self._members = self.folder / _MEMBERS
        self._records = self.folder / _RECORDS
        self._presence = self.folder / _PRESENCE
        self._drafts = self.folder / _DRAFTS

    @property
    def are_there(self) -> bool:
        """Whether this home is in a mesh, however its files are."""
        return os.path.lexists(self._members)

    def load(self) -> Membership | None:
        """The membership that is kept here, or None if this node is in no mesh; changes nothing."""
        if not self.are_there:
            return None
        data = read_bounded(self._members, limits.MEMBERS_FILE_BYTES_MAX)
        try:
            return Membership.load_untrusted(data)[0]
        except PortalError as e:
            raise e.at(str(self._members)) from e

    def take_up(self, own: NodeId) -> TakenUp | None:
        """What the node goes on with, mended where that is safe; Unusable or NewerFormat if not."""
        if not self.are_there:
            return None
        kept, size = self._kept()
        if kept.harm is not None:
            self._mend(kept.membership, kept.harm)
        elif kept.size < size:
            os.truncate(self._members, kept.size)
        self._own, self._written = own, _written_by(own, kept.membership)
        self._is_whole = self.are_whole(own, kept.membership)
        if self._is_whole and self._vouched() != self._written:
            self._vouch()
        return TakenUp(kept.membership, self._is_whole, kept.harm)

    def are_whole(self, own: NodeId, membership: Membership | None = None) -> bool:
        """Whether nothing we wrote is missing; Unusable or NewerFormat if that cannot be known."""
        vouched = self._vouched()
        written = _written_by(own, membership or self._kept()[0].membership)
        return vouched is not None and vouched <= written

    def _kept(self) -> tuple[Kept[Membership], int]:
        """What is in the file, and how long that is."""
        try:
            data = read_bounded(self._members, limits.MEMBERS_FILE_BYTES_MAX)
            return Membership.recall_untrusted(data), len(data)
        except OSError as e:
            what = f"the list of members cannot be read: {e.strerror or e}"
            hint = "make it readable for the user of this node (chmod u+rw), and start again"
            raise Unusable(what, where=str(self._members), hint=hint) from e
        except NewerFormat as e:
            raise e.at(str(self._members)) from e
        except PortalError as e:
            hint = (
                "portal recover ADDRESS brings it back by the phrase;"
                " or portal leave --quietly, and a new invite"
            )
            what = f"the list of members is damaged: {e.what}"
            raise Damaged(what, where=str(self._members), hint=hint) from e

    def begin(self, membership: Membership, own: NodeId | None = None) -> None:
        """Keep a whole membership, where there is none yet.

        `own` is our name if it knows all we ever wrote: we are new in it.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.folder.parent)
        if not create_private(self._members, membership.dump()):
            raise PortalError("this node is in a mesh already", where=str(self._members))
        if own is not None:
            self._own, self._written = own, _written_by(own, membership)
            self._vouch()

    def set_aside(self, why: str) -> Path:
        """Give the folder another name: nothing of it is deleted, and there is room for another."""
        now = time.strftime("%Y%m%d-%H%M%S")
        aside = self._home / f"{_FOLDER}.{why}-{now}"
        self.folder.rename(aside)
        sync_directory(self._home)
        return aside

    def save_entrance(self, entrance: Entrance) -> None:
        """Remember who let us in, and where."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder / _DOOR, entrance.node + addresses.packed(entrance.at))

    def entrance(self) -> Entrance | None:
        """Who let us in, if we were."""
        file = self.folder / _DOOR
        if not file.exists():
            return None
        data = read_bounded(file, _DOOR_BYTES_MAX)
        at = addresses.read_untrusted(data[limits.KEY_BYTES :], "the door")
        if at is None:
            raise FormatError("a door without an address")
        return Entrance(NodeId.read_untrusted(data[: limits.KEY_BYTES]), at)

    def records(self) -> bytes | None:
        """Where others were last."""
        if not self._records.exists():
            return None
        return read_bounded(self._records, limits.CODEC_BYTES_MAX)

    def presence(self) -> bytes | None:
        """Who was away for how long."""
        if not self._presence.exists():
            return None
        return read_bounded(self._presence, limits.PRESENCE_FILE_BYTES_MAX)

    def drafts(self) -> bytes | None:
        """What admins are to sign together."""
        if not self._drafts.exists():
            return None
        return read_bounded(self._drafts, limits.DRAFTS_FILE_BYTES_MAX)

    async def save_members(self, changes: Changes) -> None:
        """Append, and sync."""
        data = b"".join(map(log_record, changes.added))
        by_us = sum(op.author == self._own for op in changes.added)
        async with self._writing:
            await trio.to_thread.run_sync(self._append, data)
            self._written += by_us
            if by_us and self._is_whole:  # before anybody is told
                await trio.to_thread.run_sync(self._vouch)

    async def vouch(self) -> None:
        """From now on these files are known to hold all we wrote."""
        async with self._writing:
            await trio.to_thread.run_sync(self._vouch)

    async def save_records(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._records, data)

    async def save_presence(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._presence, data)

    async def save_drafts(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._drafts, data)

    def _append(self, data: bytes) -> None:
        fd = os.open(self._members, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            try:
                while data:
                    data = data[os.write(fd, data) :]
                os.fsync(fd)
            except BaseException:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    # --- what we wrote ----------------------------------------------------------------------------

    def _vouched(self) -> int | None:
        """How much of ours there was when somebody knew it, if that was in these very files."""
        try:
            data = read_bounded(self.folder / _OWN, limits.MEMBERS_OWN_BYTES_MAX)
            row = codec.as_versioned_row(codec.decode_untrusted(data), _OWN_VERSION, 3, "own")
            since = codec.as_uint(row[1], 63, "the time of the anchor")
            count = codec.as_uint(row[2], 32, "a number of operations")
            return count if since == self._anchored(count) else None
        except (FormatError, OSError):
            return None

    def _vouch(self) -> None:
        # One for each number: who leaves alone what looks the same (rsync) must make the old one.
        create_private(self._anchor(self._written), b"")
        row = (_OWN_VERSION, self._anchored(self._written), self._written)
        write_private(self.folder / _OWN, codec.encode(row))
        self._is_whole = True
        for old in self.folder.glob(f"{_ANCHOR}-*"):
            if old != self._anchor(self._written):
                old.unlink(missing_ok=True)

    def _anchor(self, count: int) -> Path:
        return self.folder / f"{_ANCHOR}-{count}"

    def _anchored(self, count: int) -> int:
        return self._anchor(count).lstat().st_ctime_ns

    def _mend(self, membership: Membership, harm: PortalError) -> None:
        """Write what is sound into a new file; the damaged one stays beside it."""
        names = (self._members.with_name(f"{_MEMBERS}.damaged-{n}") for n in count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        os.link(self._members, aside, follow_symlinks=False)
        write_private(self._members, membership.dump())
        harm.at(str(self._members)).hint = f"other members tell it again; as it was: {aside.name}"


def _written_by(own: NodeId, membership: Membership) -> int:
    return sum(op.author == own for op in membership.set.ops)
