"""What is shown is what is signed, and the mesh takes it as the act that was drafted."""

from dataclasses import replace

import msgspec
import pytest

from core.errors import FormatError
from mesh.members.bodies import Drop, Grant, Kind, Reason, RevokeUser, SuspendDevice, UserRole
from mesh.members.operation import Proposal
from node import api
from node.asked import Asked
from tests.support.memberships import a_mesh, person

FAY, BOB, CYD = map(person, ("fay", "bob", "cyd"))
MESH = a_mesh(FAY, BOB, CYD).membership.mesh_id
PARENTS = (bytes(32), b"\1" * 32)


def told(**facts):
    given = {
        "draft": "ab" * 32,
        "act": "revoke",
        "name": "bob",
        "devices": ["bob"],
        "mesh": MESH.text(),
        "user": BOB.user.text(),
        "node": "",
        "role": 0,
        "reason": 1,
        "cut": "",
        "lifts": "",
        "parents": [one.hex() for one in PARENTS],
        "by": "fay",
        "made_s": 1,
        "until_s": 2,
        "signed_by": ["fay"],
        "needed": 2,
        "is_ours": False,
        "is_signed": False,
        "may_sign": True,
        "needs_phrase": False,
    }
    return api.Draft(**given | facts)


NODE = BOB.node.text()
SHORT, DEVICE = BOB.user.short(), BOB.node.short()
CUT = "nothing they did after operation cdcdcdcd counts"
ACTS = [
    (told(), RevokeUser(BOB.user, Reason.REMOVED), f"put the person of bob ({SHORT}) out for good"),
    (
        told(devices=["bob", "old"], cut="cd" * 32),
        RevokeUser(BOB.user, Reason.REMOVED, b"\xcd" * 32),
        f"put the person of bob ({SHORT}, 2 devices) out for good; {CUT}",
    ),
    (
        told(act="grant", role=2),
        Grant(BOB.user, UserRole.ADMIN),
        f"make the person of bob ({SHORT}) an admin",
    ),
    (
        told(act="drop", role=1),
        Drop(BOB.user, UserRole.ADMITTER),
        f"make the person of bob ({SHORT}) a plain member",
    ),
    (
        told(act="drop", role=2),
        Drop(BOB.user, UserRole.ADMIN),
        f"make the person of bob ({SHORT}) no admin any more",
    ),
    (
        told(act="suspend", node=NODE),
        SuspendDevice(BOB.user, BOB.node),
        f"stop the device bob ({DEVICE}) for the time being",
    ),
    (
        told(act="unsuspend", node=NODE, lifts="ef" * 32),
        SuspendDevice(BOB.user, BOB.node, b"\xef" * 32),
        f"let the device bob ({DEVICE}) back",
    ),
]
KINDS = {
    RevokeUser: Kind.REVOKE_USER,
    Grant: Kind.GRANT,
    Drop: Kind.DROP,
    SuspendDevice: Kind.SUSPEND_DEVICE,
}


@pytest.mark.parametrize(("fields", "body", "words"), ACTS)
def test_an_act_is_made_from_its_fields_shown_and_signed(fields, body, words):
    asked = Asked.read_untrusted(fields)
    assert asked.words() == words
    proposal = Proposal(MESH, KINDS[type(body)], PARENTS, body)
    assert asked.proposal == proposal
    assert asked.signed(CYD.key) == proposal.cosigned(CYD.key, CYD.user).signature
    other = replace(proposal, parents=PARENTS[:1])
    assert asked.signed(CYD.key) != other.cosigned(CYD.key, CYD.user).signature


@pytest.mark.parametrize(
    "facts",
    [
        {"act": "policy"},
        {"act": "suspend", "node": NODE, "lifts": "ef" * 32},
        {"act": "unsuspend", "node": NODE},
        {"act": "suspend"},
        {"user": "pnu1-nobody"},
        {"mesh": ""},
        {"act": "grant", "role": 3},
        {"reason": 9},
        {"parents": ["xy"]},
        {"cut": "x"},
        {"cut": "ab"},
        {"act": "drop", "role": 0},
    ],
)
def test_fields_that_make_no_act_are_refused(facts):
    fields = msgspec.structs.replace(told(), **facts)
    with pytest.raises(FormatError):
        Asked.read_untrusted(fields)
