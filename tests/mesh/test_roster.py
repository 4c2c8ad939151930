from dataclasses import replace

from core.device_cert import Role
from mesh.roster import Roster, StaticRoster
from tests.support.nodes import MESH, a_node, a_roster

ANN, BOB = a_node("ann"), a_node("bob")


def test_members_are_found_and_nobody_else():
    roster: Roster = a_roster([ANN])
    assert roster.mesh_id == MESH
    assert roster.member(ANN.id) == ANN.member
    assert roster.member(BOB.id) is None


def test_a_list_changes():
    roster = StaticRoster(MESH, [])
    roster.add(ANN.member)
    roster.add(replace(ANN.member, roles=Role.STORE))
    found = roster.member(ANN.id)
    assert found is not None
    assert found.roles == Role.STORE
    roster.remove(ANN.id)
    roster.remove(BOB.id)
    assert roster.member(ANN.id) is None
