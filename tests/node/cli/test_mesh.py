"""The commands, against a node that answers; what pairing itself does is in tests/e2e."""

import json

import pytest

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


def test_putting_somebody_out_asks(machine, monkeypatch):
    node = Answers(monkeypatch, post=api.Done())
    assert machine.here("revoke", "bob", code=130, given=b"n\n")
    assert node.asked == []
    assert "bob is out" in machine.here("revoke", "bob", given=b"y\n").stdout
    assert node.asked == [("post", api.REVOKE, api.Who(who="bob"))]


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


def test_how_many_devices():
    assert [commands._devices(n) for n in (1, 2)] == ["one device", "2 devices"]
