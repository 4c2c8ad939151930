"""The commands, against a node that answers; that the mesh takes what they sign is in tests/e2e."""

import json

import pytest

from core.crypto import verify
from core.ids import MeshId, NodeId
from core.keys import Root
from core.labels import SignLabel
from core.phrase import to_words
from mesh.members.bodies import Kind, Reason, RevokeDevice, RevokeUser, SuspendDevice
from mesh.members.operation import Proposal
from node import api
from node.cli import secrets_input
from node.control import Control
from tests.support.home import somebody
from tests.support.program import Machine, one_line

MESH, NODE = MeshId(b"m" * 32), NodeId(b"n" * 32)
LIFTS = [b"1" * 32, b"2" * 32]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path, monkeypatch)
    found.identity = somebody(found.home)
    return found


@pytest.fixture
def words(machine, tmp_path):
    """The words of this machine's person, in a file."""
    file = tmp_path / "words"
    file.write_bytes(to_words(machine.identity.recovery_kit().entropy).reveal())
    return file


class Answers:
    """Stands where the node would: notes what it is asked, and answers by the path."""

    def __init__(self, monkeypatch, **answers):
        self.asked = []
        by_path = {getattr(api, name): answer for name, answer in answers.items()}

        def ask(_control, path, _wanted, question=None, **_):
            self.asked.append((path, question))
            return by_path.get(path, api.Asked())

        monkeypatch.setattr(Control, "post", ask)
        monkeypatch.setattr(Control, "get", ask)


def about(machine, act, **facts):
    given = {
        "act": act,
        "needs_phrase": False,
        "is_own": False,
        "name": "bob",
        "mesh": MESH.text(),
        "user": machine.identity.user.text(),
        "node": NODE.text(),
        "devices": ["bob"],
        "lifts": [],
        "parents": [],
        "is_only_admin": False,
    }
    return api.ToSign(**given | facts)


def test_without_a_node_each_says_how_to_start_one(machine):
    for argv in (
        *(("approve", "bob"), ("revoke", "bob", "--yes"), ("suspend", "bob")),
        *(("unsuspend", "bob"), ("grant", "bob", "admin"), ("drop", "bob"), ("leave",)),
    ):
        one_line(machine.here(*argv, code=15), "No node runs here (portal-node run)")


def test_plain_acts_are_asked_for_as_they_are(machine, monkeypatch):
    node = Answers(monkeypatch)
    said = [
        machine.here(*argv).stdout
        for argv in (("approve", "bob"), ("suspend", "bob"), ("drop", "bob"))
    ]
    assert said == ["bob is let in\n", "bob is suspended\n", "bob is a plain member now\n"]
    who = api.Who(who="bob")
    assert node.asked == [(api.APPROVE, who), (api.SUSPEND, who), (api.DROP, who)]
    assert machine.here("grant", "bob", "admitter").stdout == "bob is an admitter now\n"
    assert node.asked[-1] == (api.GRANT, api.NewRole(who="bob", role="admitter"))
    one_line(machine.here("grant", "bob", "king", code=2), "'king' is not one of")


def test_putting_somebody_out_asks_and_names_the_very_one(machine, monkeypatch):
    node = Answers(monkeypatch, SIGN=about(machine, "revoke", devices=["bob", "old"]))
    assert "no terminal to ask (--yes" in machine.here("revoke", "b", code=2).stderr
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    refused = machine.here("revoke", "b", code=130, given=b"n\n")
    assert "Put the person of bob, with 2 devices, out for good?" in refused.output
    assert {path for path, _ in node.asked} == {api.SIGN}
    assert "bob is out" in machine.here("revoke", "b", given=b"y\n").stdout
    assert node.asked[-1] == (api.REVOKE, api.Signed(who=NODE.text()))
    assert machine.here("revoke", "b", "--yes").stdout == "bob is out\n"


def test_for_a_device_of_ones_own_the_typed_phrase_signs_here(machine, monkeypatch, words):
    told = about(machine, "revoke", needs_phrase=True, is_own=True)
    node = Answers(monkeypatch, SIGN=told)
    done = machine.here("revoke", "bob", "--yes", "--kit-file", words)
    assert "this takes your recovery phrase" in done.stderr
    (_, question) = node.asked[-1]
    (signature,) = question.signatures
    body = RevokeDevice(machine.identity.user, NODE, b"", b"")
    said = body.words(MESH)
    verify(machine.identity.user, SignLabel.MEMBER_DEVICE, said, bytes.fromhex(signature))
    # One or two may be in anything: "sign" is in the list, and hexadecimal is full of "bad".
    assert sum(word in str(node.asked) for word in words.read_text().split()) < 6
    lines = machine.here("revoke", "bob", "--yes", code=2).stderr.splitlines()
    assert "no terminal to ask for the recovery phrase (--kit-file FILE)" in lines[-1]


def test_the_phrase_of_another_person_signs_nothing(machine, monkeypatch, words, tmp_path):
    stranger = somebody(tmp_path / "stranger").user.text()
    told = about(machine, "revoke", needs_phrase=True, user=stranger)
    node = Answers(monkeypatch, SIGN=told)
    done = machine.here("revoke", "bob", "--yes", "--kit-file", words, code=12)
    assert "is not that of bob's person" in done.stderr
    assert [path for path, _ in node.asked] == [api.SIGN]


def test_every_suspension_is_signed_by_itself(machine, monkeypatch, words):
    lifts = [one.hex() for one in LIFTS]
    node = Answers(monkeypatch, SIGN=about(machine, "unsuspend", needs_phrase=True, lifts=lifts))
    assert machine.here("unsuspend", "bob", "--kit-file", words).stdout == "bob is back\n"
    path, question = node.asked[-1]
    assert (path, question.who) == (api.UNSUSPEND, NODE.text())
    user = machine.identity.user
    for lifted, signature in zip(LIFTS, question.signatures, strict=True):
        said = SuspendDevice(user, NODE, lifted).words(MESH)
        verify(user, SignLabel.MEMBER_DEVICE, said, bytes.fromhex(signature))


def mesh():
    return api.Mesh("home", "m", "u", "n", "admin", 2, 0, "a")


def test_leaving_asks_says_what_follows_and_signs_what_it_knew(machine, monkeypatch, words):
    facts = {"is_own": True, "devices": ["bob", "old"], "is_only_admin": True}
    told = about(machine, "leave", needs_phrase=True, parents=[one.hex() for one in LIFTS], **facts)
    left = api.Left(name="home", files="/home/mesh.left-1", heard=False)
    node = Answers(monkeypatch, SIGN=told, LEAVE=left, MESH=mesh())
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    refused = machine.here("leave", code=130, given=b"n\n")
    assert "only admin" in refused.stderr
    assert "Leave the mesh home with all your devices (bob, old)?" in refused.output
    assert api.LEAVE not in [path for path, _ in node.asked]
    done = machine.here("leave", "--yes", "--kit-file", words)
    assert "has left the mesh home. Its files are in /home/mesh.left-1" in done.stdout
    assert "nobody was there to be told" in done.stderr
    assert "on your other devices, too" in done.stderr
    _, question = node.asked[-1]
    user = machine.identity.user
    proposal = Proposal(MESH, Kind.REVOKE_USER, tuple(LIFTS), RevokeUser(user, Reason.LEFT))
    (signature,) = map(bytes.fromhex, question.signatures)
    verify(user, SignLabel.MEMBER_COSIGN, proposal.encoded(), signature)


def test_who_is_out_already_forgets_the_mesh_without_a_phrase(machine, monkeypatch):
    left = api.Left(name="home", files="/home/mesh.left-1", heard=False)
    node = Answers(monkeypatch, LEAVE=left, MESH=mesh())
    done = machine.here("leave", "--quietly", "--yes")
    told = "This machine has forgotten the mesh home. Its files are in /home/mesh.left-1\n"
    assert (done.stdout, done.stderr) == (told, "")
    assert node.asked[-1] == (api.LEAVE, api.Leave(quietly=True))


def test_leaving_tells_programs(machine, monkeypatch):
    left = api.Left(name="home", files="/home/mesh.left-1", heard=True)
    Answers(monkeypatch, SIGN=about(machine, "leave"), LEAVE=left, MESH=mesh())
    shown = json.loads(machine.here("leave", "--yes", "--json").stdout)
    assert (shown["v"], shown["message_type"], shown["name"]) == (1, "left", "home")
    done = machine.here("leave", "--yes")
    assert done.stderr == ""


def test_a_passphrase_on_top_of_the_phrase_is_asked_for(machine, monkeypatch, words):
    node = Answers(monkeypatch, SIGN=about(machine, "revoke", needs_phrase=True))
    done = machine.here("revoke", "bob", "--yes", "--kit-file", words, "--on-top", code=2)
    assert "no terminal to ask for a passphrase" in done.stderr
    assert len(node.asked) == 1
    assert Root.from_entropy(machine.identity.recovery_kit().entropy)
