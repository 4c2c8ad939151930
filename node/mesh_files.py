"""What a node keeps of its mesh: PORTAL_HOME/mesh/members, records and presence.

    members    the signed operations, appended and synced before anybody acts on them
    records    where others were last; losing it costs time
    presence   who was away for how long; losing it costs patience
    door       who let us in, and where, for as long as nothing better is known

Whoever ends the process in the middle of an append leaves a torn record, which the next start cuts
off; the operation comes again from a peer.
"""

import os
from pathlib import Path
from typing import NamedTuple

import trio

from core import limits
from core.errors import FormatError, PortalError
from core.files import create_private, read_bounded, sync_directory, write_private
from core.ids import NodeId
from mesh import addresses
from mesh.members.membership import Changes, Membership, log_record
from mesh.wire import Address

_FOLDER = "mesh"
_MEMBERS = "members"
_RECORDS = "records"
_PRESENCE = "presence"
_DOOR = "door"
_DOOR_BYTES_MAX = 64


class Entrance(NamedTuple):
    """A member that let us in, and where it answered."""

    node: NodeId
    at: Address


class MeshFiles:
    """The files of one home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / _FOLDER
        self._members = self.folder / _MEMBERS
        self._records = self.folder / _RECORDS
        self._presence = self.folder / _PRESENCE

    def load(self) -> Membership | None:
        """The membership that is kept here, or None if this node is in no mesh."""
        if not self._members.exists():
            return None
        data = read_bounded(self._members, limits.MEMBERS_FILE_BYTES_MAX)
        try:
            membership, whole_bytes = Membership.load_untrusted(data)
        except PortalError as e:
            raise e.at(str(self._members)) from e
        if whole_bytes < len(data):
            os.truncate(self._members, whole_bytes)
        return membership

    def begin(self, membership: Membership) -> None:
        """Keep a whole membership, where there is none yet."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.folder.parent)
        if not create_private(self._members, membership.dump()):
            raise PortalError("this node is in a mesh already", where=str(self._members))

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

    async def save_members(self, changes: Changes) -> None:
        """Append, and sync."""
        data = b"".join(map(log_record, changes.added))
        await trio.to_thread.run_sync(self._append, data)

    async def save_records(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._records, data)

    async def save_presence(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._presence, data)

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
