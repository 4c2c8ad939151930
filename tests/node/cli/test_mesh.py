"""The commands, against a node that answers; what pairing itself does is in tests/e2e."""

import json
import time

import msgspec
import pytest

from core.ids import NodeId
from node import api
from node.cli import mesh as commands
from node.control import Control, Refused
from tests.support.home import somebody
from tests.support.program import Machine, one_line


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path, monkeypatch)
    somebody(found.home)
    return found


class Answers:
    """Stands where the node would: notes what it is asked, and answers."""

    def __init__(self, monkeypatch, **answers):
        self.asked = []

        def answer(method):
            def ask(_control, path, _wanted, question=None, **_):
                self.asked.append((method, path, question))
                return answers[method]

            return ask

        for method in answers:
            monkeypatch.setattr(Control, method, answer(method))


def test_without_a_node_each_says_how_to_start_one(machine):
    for argv in (("mesh", "status"), ("peers",), ("invites",), ("invite",), ("join", "pnj1-1")):
        one_line(machine.here(*argv, code=15), "No node runs here (portal-node run)")


def test_whoami_needs_no_node(machine):
    lines = machine.here("whoami").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["user", "node"]


def test_an_invite_is_all_there_is_on_stdout(machine, monkeypatch):
    made = api.Invited(invite="pnj1-abcde", voucher="00" * 32, expires_s=1_795_000_000)
    node = Answers(monkeypatch, post=made)
    terms = ("--label", "Bob", "--quota", "100GB", "--expires", "2h", "--approve")
    done = machine.here("invite", *terms)
    assert done.stdout == "pnj1-abcde\n"
    assert "Good once, until 20" in done.stderr
    question = api.NewInvite(
        label="Bob", quota_bytes=100 * 10**9, lifetime_s=7_200, approve=True, admitter=False
    )
    assert node.asked == [("post", api.INVITES, question)]
    shown = json.loads(machine.here("invite", "--json").stdout)
    assert (shown["v"], shown["message_type"], shown["invite"]) == (1, "invite", "pnj1-abcde")


def test_a_code_is_read_from_a_pipe(machine, monkeypatch):
    one_line(machine.here("join", code=2, given=b"\n"), "no invite on stdin")
    monkeypatch.setattr(Control, "status", lambda _: None)
    monkeypatch.setattr(Control, "events", lambda _: iter([None]))
    mesh = api.Mesh("home", "m", "u", "n", "member", 2, 1, "a")
    node = Answers(monkeypatch, post=mesh)
    done = machine.here("join", given=b" pnj1-abcde \n")
    assert done.stdout == "This machine is in the mesh home: 2 devices.\n"
    assert node.asked == [("post", api.JOIN, api.JoinMesh(invite="pnj1-abcde"))]


def test_who_is_in_a_mesh_is_not_asked_for_the_phrase(machine, monkeypatch):
    mesh = api.Mesh("home", "m", "u", "n", "admin", 1, 0, "a")
    node = Answers(monkeypatch, get=mesh)
    one_line(machine.here("mesh", "new", "other", code=1), "in the mesh 'home' already")
    assert node.asked == [("get", api.MESH, None)]


def test_another_refusal_is_passed_on(machine, monkeypatch):
    def refuse(*_):
        raise Refused(api.Fault(kind="Unavailable", what="not now"))

    monkeypatch.setattr(Control, "get", refuse)
    one_line(machine.here("mesh", "new", "other", code=1), "not now")


def test_expired_invites_are_called_so(machine, monkeypatch):
    states = [
        api.InviteState("ab" * 32, "for Bob", state, expires_s, 0, False, came)
        for state, expires_s, came in (
            ("open", 60, []),
            ("open", 1 << 33, []),
            ("spent", 60, ["bob"]),
        )
    ]
    Answers(monkeypatch, get=api.Invites(invites=states))
    lines = machine.here("invites").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["abababab", word] for word in ("expired", "open", "spent")
    ]
    assert lines[2].endswith("  bob  (for Bob)")


def test_an_invite_that_nobody_elsewhere_can_use_says_so(machine, monkeypatch):
    made = api.Invited("pnj1-abcde", "00" * 32, 1_795_000_000, is_local=True)
    Answers(monkeypatch, post=made)
    done = machine.here("invite")
    assert done.stdout == "pnj1-abcde\n"
    assert "no address that others could reach" in done.stderr


def test_offers_are_shown(machine, monkeypatch):
    node = NodeId(bytes(32)).text()
    rows = [
        api.Peer(name, node, "u", "active", "member", is_self, False, offer_bytes=offer)
        for name, is_self, offer in (
            ("ann", True, 5 << 30),
            ("bob", False, 0),
            ("cyd", False, None),
        )
    ]
    Answers(monkeypatch, get=api.Peers(peers=rows))
    lines = machine.here("peers").stdout.splitlines()
    assert lines[0].endswith("this machine, offers 5.0 GiB")
    assert [line.endswith("not linked") for line in lines] == [False, True, True]
    mesh = api.Mesh("home", "m", "u", "n", "admin", 1, 0, "a", offer_bytes=0)
    Answers(monkeypatch, get=mesh)
    assert "offers     nothing yet" in machine.here("mesh", "status").stdout


@pytest.mark.parametrize(
    ("looks", "presence", "hours", "told"),
    [
        ("alive", "present", 1, "not linked, last heard 1 h 0 min ago"),
        ("suspect", "present", 1, "does not answer"),
        ("dead", "away", 3, "away, last heard 3 h 0 min ago"),
        ("dead", "lost", 50, "lost, last heard 2 d 2 h ago"),
        ("unknown", "present", None, "not linked"),
        ("unknown", "away", None, "away"),
    ],
)
def test_an_absence_is_told_in_words(machine, monkeypatch, looks, presence, hours, told):
    node = NodeId(bytes(32)).text()
    seen_s = None if hours is None else time.time() - hours * 3_600
    peer = api.Peer("bob", node, "u", "active", "member", False, False)
    peer = msgspec.structs.replace(peer, looks=looks, presence=presence, seen_s=seen_s)
    Answers(monkeypatch, get=api.Peers(peers=[peer]))
    assert machine.here("peers").stdout.splitlines()[0].endswith(f"  {told}")


def test_who_is_no_admin_or_administers_already_is_told(machine, monkeypatch):
    mesh = api.Mesh("home", "m", "u", "n", "member", 1, 0, "a")
    node = Answers(monkeypatch, get=mesh)
    one_line(machine.here("mesh", "administer", code=2), "you are no admin of this mesh")
    mesh = api.Mesh("home", "m", "u", "n", "admin", 1, 0, "a", administers=True)
    node = Answers(monkeypatch, get=mesh)
    assert "administers the mesh already" in machine.here("mesh", "administer").stderr
    assert node.asked == [("get", api.MESH, None)]


def test_how_many_devices():
    assert [commands._devices(n) for n in (1, 2)] == ["one device", "2 devices"]
