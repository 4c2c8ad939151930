"""What a recovery kit says of the mesh: which one it is, and where members of it were last.

A node that runs knows best and is asked; else it is read from the files of the mesh, and only read.
Endpoints are few, so they are of different people if possible, and first those that mean something
far away.
"""

from collections.abc import Sequence
from pathlib import Path

from core import limits
from core.errors import PortalError
from core.files import read_bounded
from core.ids import MeshId, NodeId
from core.recovery_kit import Endpoint
from mesh.members.membership import Membership
from mesh.records import Record, RecordBook
from mesh.wire import Address
from node.mesh_files import MeshFiles


def is_in_mesh(home: Path) -> bool:
    """Whether the files of a mesh lie here."""
    return (MeshFiles(home).folder / "members").exists()


def of_files(home: Path, own: NodeId, now_ms: int) -> tuple[MeshId | None, Sequence[Endpoint]]:
    """The mesh this home is in, and where to find it again; nothing where we are out."""
    files = MeshFiles(home)
    data = read_bounded(files.folder / "members", limits.MEMBERS_FILE_BYTES_MAX)
    membership, _ = Membership.load_untrusted(data)
    member = membership.member(own)
    if member is None or not member.is_active:
        return None, ()
    book = RecordBook(membership.roster())
    try:
        if (records := files.records()) is not None:
            book.load_untrusted(records, now_ms)
    except (PortalError, OSError):
        pass  # then an address has to be typed
    return membership.mesh_id, endpoints(membership, book, own, now_ms)


def endpoints(
    membership: Membership, book: RecordBook, own: NodeId, now_ms: int
) -> Sequence[Endpoint]:
    """Of each person the device that can be reached best; then more of them; ourselves last."""
    active = [member for member in membership.members() if member.is_active]
    records = [book.of(member.node, now_ms) for member in active]
    seen: dict[bytes, int] = {}

    def rank(record: Record) -> tuple[bool, bool, int]:
        best = _best(record)
        return (record.node == own, best is None or best.is_private, -record.created_ms)

    ranked: list[tuple[bool, int, int, Endpoint]] = []
    for record in sorted((one for one in records if one is not None), key=rank):
        member, best = membership.member(record.node), _best(record)
        if member is None or best is None:
            continue
        turn = seen[member.user] = seen.get(member.user, 0) + 1
        ranked.append((record.node == own, turn, len(ranked), Endpoint(str(best), record.node)))
    return [endpoint for *_, endpoint in sorted(ranked)[: limits.KIT_ENDPOINTS_MAX]]


def _best(record: Record) -> Address | None:
    """What the owner has set, what peers see, what its own network knows: public ones first."""
    found = [place.address for place in record.places]
    return min(found, key=lambda at: at.is_private, default=None)
