"""A kit names members that can be reached, of different people, and nothing that is over."""

import pytest

from core import limits
from core.errors import FormatError
from core.recovery_kit import Endpoint
from mesh.hello import Engines
from mesh.members.bodies import Reason
from mesh.records import Place, PlaceKind, Record, RecordBook
from mesh.wire import Address
from node import kit_places
from node.mesh_files import MeshFiles
from tests.support.memberships import NOW_MS, another_device, found, person, recover_of

ANN, BOB, CYD, DAN = (person(name) for name in ("ann", "bob", "cyd", "dan"))
BOB2 = another_device(BOB, "bob's other")


@pytest.fixture
def home(tmp_path):
    """Ann's home, in a mesh with three others, one of whom has two devices."""
    mesh = found(ANN)
    for who in (BOB, CYD, DAN):
        mesh.bring(who)
    mesh.author.add_device(recover_of(mesh.membership, BOB, BOB2), NOW_MS)
    return tmp_path, mesh


def kept(home, mesh, **places):
    """The files, with records that say where some are."""
    devices = {"ann": ANN.devices[0], "bob": BOB.devices[0], "cyd": CYD.devices[0]}
    devices |= {"dan": DAN.devices[0], "bob2": BOB2}
    book = RecordBook(mesh.membership.roster())
    for n, (name, addresses) in enumerate(places.items()):
        key, mesh_id = devices[name].key, mesh.membership.mesh_id
        rows = [Place(PlaceKind.LOCAL, Address(host, 9)) for host in addresses]
        book.put(Record.make(key, mesh_id, rows, Engines.QH3, now_ms=NOW_MS - n))
    files = MeshFiles(home)
    files.begin(mesh.membership)
    (files.folder / "records").write_bytes(book.dump(NOW_MS))
    return files


def named(home, own=ANN):
    mesh, endpoints = kit_places.of_files(home, own.node, NOW_MS)
    return mesh, [(one.address, one.node) for one in endpoints]


def test_a_home_without_a_mesh_is_told_apart(tmp_path):
    assert not kit_places.is_in_mesh(tmp_path)
    with pytest.raises(FileNotFoundError):
        kit_places.of_files(tmp_path, ANN.node, NOW_MS)


def test_different_people_come_first_and_ourselves_last(home):
    place, mesh = home
    kept(place, mesh, ann=["203.0.113.1"], bob=["203.0.113.2"], bob2=["203.0.113.3"],
         cyd=["10.0.0.4"])  # fmt: skip
    assert kit_places.is_in_mesh(place)
    assert named(place) == (
        mesh.membership.mesh_id,
        [("203.0.113.2:9", BOB.node), ("10.0.0.4:9", CYD.node), ("203.0.113.3:9", BOB2.node)],
    )
    assert len(named(place)[1]) == limits.KIT_ENDPOINTS_MAX
    assert all(isinstance(one, Endpoint) for one in kit_places.of_files(place, ANN.node, NOW_MS)[1])


def test_alone_this_machine_itself_is_named(home):
    place, mesh = home
    kept(place, mesh, ann=["203.0.113.1"], dan=[])
    assert named(place)[1] == [("203.0.113.1:9", ANN.node)]


def test_of_each_the_address_that_means_something_far_away(home):
    place, mesh = home
    kept(place, mesh, cyd=["10.0.0.4", "2001:db8::4", "192.168.0.4"], bob=["10.0.0.2"])
    assert named(place)[1][0] in {("10.0.0.2:9", BOB.node), ("10.0.0.4:9", CYD.node)}
    kept_again = MeshFiles(place).folder
    (kept_again / "members").unlink()
    kept(place, mesh, bob=["10.0.0.2"], cyd=["10.0.0.4", "1.1.1.1"])
    assert named(place)[1] == [("1.1.1.1:9", CYD.node), ("10.0.0.2:9", BOB.node)]


def test_who_is_out_is_not_named_and_names_nobody(home):
    place, mesh = home
    mesh.author.revoke_user(BOB.user, Reason.REMOVED, NOW_MS)
    kept(place, mesh, bob=["203.0.113.2"], cyd=["203.0.113.4"])
    assert named(place)[1] == [("203.0.113.4:9", CYD.node)]
    assert named(place, BOB) == (None, [])
    assert named(place, person("eve")) == (None, [])


@pytest.mark.parametrize("records", [None, b"", b"\xc1 nonsense"])
def test_without_records_the_mesh_alone_is_named(home, records):
    place, mesh = home
    file = kept(place, mesh, bob=["203.0.113.2"]).folder / "records"
    file.unlink()
    if records is not None:
        file.write_bytes(records)
    assert named(place) == (mesh.membership.mesh_id, [])


def test_a_list_of_members_that_is_being_written_is_read_and_left_alone(home):
    place, mesh = home
    members = kept(place, mesh, bob=["203.0.113.2"]).folder / "members"
    torn = members.read_bytes() + b"\0\0\1"
    members.write_bytes(torn)
    assert named(place)[1] == [("203.0.113.2:9", BOB.node)]
    assert members.read_bytes() == torn
    members.write_bytes(b"nonsense")
    with pytest.raises(FormatError):
        named(place)
