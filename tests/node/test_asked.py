"""What is shown is what is signed, and the mesh takes it as the act that was drafted."""

from dataclasses import replace

import msgspec
import pytest

from core.errors import FormatError
from mesh.members.bodies import Drop, Grant, Kind, Reason, RevokeUser, SuspendDevice, UserRole
from mesh.members.operation import Proposal
from node import api
from node.asked import Asked, named
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
        "since": 0,
        "admitted": 0,
        "by": api.Named(id=FAY.node.text(), name="fay"),
        "made_s": 1,
        "until_s": 2,
        "signed_by": [api.Named(id=FAY.user.text(), name="fay")],
        "needed": 2,
        "is_ours": False,
        "is_signed": False,
        "may_sign": True,
        "needs_phrase": False,
    }
    return api.Draft(**given | facts)


NODE = BOB.node.text()
PERSON, DEVICE = f'{BOB.user.text()[:23]} "bob"', f'{NODE[:23]} "bob"'
CUT = "nothing they did after operation cdcdcdcd counts"
ACTS = [
    (
        told(),
        RevokeUser(BOB.user, Reason.REMOVED),
        f"put the person {PERSON} out for good (reason: removed)",
    ),
    (
        told(devices=["bob", "old"], cut="cd" * 32),
        RevokeUser(BOB.user, Reason.REMOVED, b"\xcd" * 32),
        f"put the person {PERSON} (2 devices) out for good (reason: removed); {CUT}",
    ),
    (
        told(reason=2),
        RevokeUser(BOB.user, Reason.COMPROMISED),
        f"put the person {PERSON} out for good (reason: compromised)",
    ),
    (
        told(act="grant", role=2),
        Grant(BOB.user, UserRole.ADMIN),
        f"make the person {PERSON} an admin",
    ),
    (
        told(act="drop", role=1),
        Drop(BOB.user, UserRole.ADMITTER),
        f"make the person {PERSON} a plain member",
    ),
    (
        told(act="drop", role=2),
        Drop(BOB.user, UserRole.ADMIN),
        f"make the person {PERSON} no admin any more",
    ),
    (
        told(act="suspend", node=NODE),
        SuspendDevice(BOB.user, BOB.node),
        f"stop the device {DEVICE} for the time being",
    ),
    (
        told(act="unsuspend", node=NODE, lifts="ef" * 32),
        SuspendDevice(BOB.user, BOB.node, b"\xef" * 32),
        f"let the device {DEVICE} back",
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


def test_a_name_ends_no_sentence():
    """The id is first, and what a machine is called stays between its quotes."""
    name = f'bob" ({BOB.user.short()}) out for good; not "eve'
    words = Asked.read_untrusted(told(name=name)).words()
    assert words.startswith(f'put the person {BOB.user.text()[:23]} "bob')
    assert words.endswith("not 'eve\" out for good (reason: removed)")
    assert words.count('"') == 2
    assert Asked.read_untrusted(told(reason=0)).words().endswith("(reason: left)")
    assert named(BOB.node.text(), "") == f'{NODE[:23]} ""'


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
