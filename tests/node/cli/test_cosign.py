"""The commands, against a node that answers; that the mesh takes what they sign is in tests/e2e."""

import json

import msgspec
import pytest

from core.crypto import verify
from core.ids import MeshId
from core.labels import SignLabel
from core.phrase import to_words
from mesh.members.bodies import Kind, Reason, RevokeUser
from mesh.members.operation import Proposal
from node import api
from node.cli import secrets_input
from node.control import Control
from tests.support.home import somebody
from tests.support.memberships import person
from tests.support.program import Machine, one_line

MESH, EVE = MeshId(b"m" * 32), person("eve").user
ANN = person("ann")
ID = "0123456789abcdef" * 4
PARENT = b"p" * 32


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path, monkeypatch)
    found.identity = somebody(found.home)
    return found


class Answers:
    """Stands where the node would: notes what it is asked."""

    def __init__(self, monkeypatch, *drafts, asked=None):
        self.asked = []

        def get(_control, path, _wanted):
            assert path == api.DRAFTS
            return api.Drafts(drafts=list(drafts))

        def post(_control, path, _wanted, question):
            self.asked.append((path, question))
            return asked or api.Asked()

        def delete(_control, path, _wanted):
            self.asked.append((path, None))
            return api.Done()

        for name, answer in (("get", get), ("post", post), ("delete", delete)):
            monkeypatch.setattr(Control, name, answer)


def a_draft(**facts):
    given = {
        "draft": ID,
        "act": "revoke",
        "name": "eve",
        "devices": ["eve"],
        "mesh": MESH.text(),
        "user": EVE.text(),
        "node": "",
        "role": 0,
        "reason": 2,
        "cut": "",
        "lifts": "",
        "parents": [PARENT.hex()],
        "since": 0,
        "admitted": 0,
        "by": api.Named(id=ANN.node.text(), name="ann"),
        "made_s": 1_795_000_000,
        "until_s": 1_795_600_000,
        "signed_by": [api.Named(id=ANN.user.text(), name="ann")],
        "needed": 2,
        "is_ours": False,
        "is_signed": False,
        "may_sign": True,
        "needs_phrase": False,
    }
    return api.Draft(**given | facts)


WORDS = f'put the person {EVE.text()[:23]} "eve" out for good (reason: compromised)'
ON_ANN, BY_ANN = (f'{one.text()[:23]} "ann"' for one in (ANN.node, ANN.user))


def test_drafts_are_shown_in_words(machine, monkeypatch):
    Answers(monkeypatch, a_draft(), a_draft(draft="ff" * 32, is_signed=True, signed_by=[]))
    first, state, second, other = machine.here("drafts").stdout.splitlines()
    assert first == f"01234567  {WORDS}"
    assert state.strip().startswith(f"begun on {ON_ANN}, 20")
    assert state.endswith(f"1 of 2 signed ({BY_ANN}); to sign: portal cosign 01234567")
    assert second == f"ffffffff  {WORDS}"
    assert other.endswith("0 of 2 signed (nobody)")
    told = json.loads(machine.here("drafts", "--json").stdout)
    assert told["message_type"] == "drafts"
    assert told["drafts"][0] == msgspec.to_builtins(a_draft())


def test_it_is_shown_and_asked_before_it_is_signed(machine, monkeypatch):
    node = Answers(monkeypatch, a_draft())
    refused = machine.here("cosign", "0123", code=2)
    assert f"no terminal to ask whether to {WORDS} (--yes)" in refused.stderr
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    refused = machine.here("cosign", "0123", code=130, given=b"n\n")
    assert f"Sign to {WORDS}?" in refused.output
    assert f"begun on {ON_ANN}" in refused.output
    assert node.asked == []
    assert f"done: {WORDS}" in machine.here("cosign", "0123", given=b"y\n").stdout
    assert machine.here("cosign", ID.upper(), "--yes").stdout == f"done: {WORDS}\n"
    assert node.asked == [(api.COSIGN, api.Cosign(draft=ID))] * 2


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"since": 1}, "; 1 thing they did since then may not count any more\n"),
        (
            {"since": 3, "admitted": 2},
            "; 3 things they did since then (they let somebody in with 2 of them) may not count",
        ),
    ],
)
def test_what_will_not_count_is_said_before_it_is_asked(machine, monkeypatch, facts, words):
    Answers(monkeypatch, a_draft(**facts, may_sign=True))
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    asked = machine.here("cosign", "0123", code=130, given=b"n\n").output
    said, question = asked.index(words.rstrip()), asked.index("Sign to")
    assert said < question
    Answers(monkeypatch, a_draft(**facts, may_sign=False))
    assert words in machine.here("drafts").stdout


def test_where_more_must_sign_that_is_said(machine, monkeypatch):
    Answers(monkeypatch, a_draft(), asked=api.Asked(draft=a_draft(needed=3)))
    done = machine.here("cosign", "0123", "--yes")
    assert done.stdout == f"3 admins must sign this, 1 of them did: {WORDS}\n"
    assert "the others until 20" in done.stderr
    assert done.stderr.endswith(": portal cosign 01234567\n")


def test_what_need_not_or_cannot_be_signed_is_not(machine, monkeypatch):
    node = Answers(monkeypatch, a_draft(is_signed=True), a_draft(draft="ff" * 32, may_sign=False))
    assert "signed already: put the person" in machine.here("cosign", "0123", "--yes").stderr
    one_line(machine.here("cosign", "ffff", "--yes", code=2), "would not count for this")
    for wanted in ("01", "9999", ID + "0"):
        one_line(machine.here("cosign", wanted, "--yes", code=2), "not one draft of this name")
    assert node.asked == []


def test_two_of_one_beginning_are_not_guessed(machine, monkeypatch):
    node = Answers(monkeypatch, a_draft(), a_draft(draft="0123" + "f" * 60))
    one_line(machine.here("cosign", "0123", "--yes", code=2), "not one draft of this name")
    assert node.asked == []


def test_the_typed_phrase_signs_here_what_was_shown(machine, monkeypatch, tmp_path):
    node = Answers(monkeypatch, a_draft(needs_phrase=True))
    mine = machine.identity
    file = tmp_path / "words"
    file.write_bytes(to_words(mine.recovery_kit().entropy).reveal())
    done = machine.here("cosign", "0123", "--yes", "--kit-file", file)
    assert "this takes your recovery phrase" in done.stderr
    ((path, question),) = node.asked
    assert (path, question.draft) == (api.COSIGN, ID)
    body = RevokeUser(EVE, Reason.COMPROMISED)
    said = Proposal(MESH, Kind.REVOKE_USER, (PARENT,), body).encoded()
    verify(mine.user, SignLabel.MEMBER_COSIGN, said, bytes.fromhex(question.signature))
    # One or two may be in anything: "sign" is in the list, and hexadecimal is full of "bad".
    assert sum(word in str(node.asked) for word in file.read_text(encoding="utf-8").split()) < 6


def test_the_phrase_of_another_person_signs_nothing(machine, monkeypatch, tmp_path):
    node = Answers(monkeypatch, a_draft(needs_phrase=True))
    stranger = somebody(tmp_path / "stranger")
    file = tmp_path / "words"
    file.write_bytes(to_words(stranger.recovery_kit().entropy).reveal())
    done = machine.here("cosign", "0123", "--yes", "--kit-file", file, code=12)
    assert "this recovery phrase is not yours" in done.stderr
    assert node.asked == []


def test_one_is_taken_back_by_its_id(machine, monkeypatch):
    node = Answers(monkeypatch)
    assert machine.here("drafts", "--withdraw", "0123").stdout == "taken back: 0123\n"
    assert node.asked == [(api.DRAFT.format(draft="0123"), None)]


def test_without_a_node_each_says_how_to_start_one(machine):
    for argv in (("drafts",), ("drafts", "--withdraw", "0123"), ("cosign", "0123", "--yes")):
        one_line(machine.here(*argv, code=15), "No node runs here (portal-node run)")
