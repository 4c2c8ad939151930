"""What a node keeps of its mesh: PORTAL_HOME/mesh/members and records.

    members    the signed operations, appended and synced before anybody acts on them
    records    where others were last; losing it costs time
    door       where we were let in, for as long as nothing better is known

Whoever ends the process in the middle of an append leaves a torn record, which the next start cuts
off; the operation comes again from a peer.
"""

import os
from pathlib import Path

import trio

from core import limits
from core.errors import PortalError
from core.files import create_private, read_bounded, sync_directory, write_private
from mesh import addresses
from mesh.members.membership import Changes, Membership, log_record
from mesh.wire import Address

_FOLDER = "mesh"
_MEMBERS = "members"
_RECORDS = "records"
_DOOR = "door"
_DOOR_BYTES_MAX = 64


class MeshFiles:
    """The files of one home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / _FOLDER
        self._members = self.folder / _MEMBERS
        self._records = self.folder / _RECORDS

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

    def save_door(self, at: Address) -> None:
        """Remember where we were let in."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder / _DOOR, addresses.packed(at))

    def door(self) -> Address | None:
        """Where we were let in, if we were."""
        file = self.folder / _DOOR
        if not file.exists():
            return None
        return addresses.read_untrusted(read_bounded(file, _DOOR_BYTES_MAX), "the door")

    def records(self) -> bytes | None:
        """Where others were last."""
        if not self._records.exists():
            return None
        return read_bounded(self._records, limits.CODEC_BYTES_MAX)

    async def save_members(self, changes: Changes) -> None:
        """Append, and sync."""
        data = b"".join(map(log_record, changes.added))
        await trio.to_thread.run_sync(self._append, data)

    async def save_records(self, data: bytes) -> None:
        """Replace."""
        await trio.to_thread.run_sync(write_private, self._records, data)

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
