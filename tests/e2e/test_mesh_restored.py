"""A home that was put back from a copy has forgotten what it wrote: it must not contradict itself.

With real nodes: what it wrote last and others know is the evidence that would suspend it.
"""

import shutil

import pytest

from core import codec
from node import api
from tests.support.people import brought, village

pytestmark = pytest.mark.slow


def deep(*harm):
    """Each takes some ten seconds; what differs is tested by itself with the files."""
    return pytest.param(*harm, marks=pytest.mark.deep)


@pytest.fixture
def people(tmp_path):
    with village(tmp_path) as made:
        yield made


@pytest.fixture
def home(people):
    """Ann's mesh, with Bob and Cyd in it."""
    ann, bob, cyd = people("ann"), people("bob"), people("cyd")
    ann.typed("mesh", "new", "home")
    brought(ann, bob)
    brought(ann, cyd)
    ann.until_linked("bob", "cyd")
    return people, ann, bob, cyd


def copied(who, tmp_path):
    """What somebody's backup holds of a home."""
    assert who.end()[0] == 0
    copy = tmp_path / f"copy of {who.name}"
    shutil.copytree(who.home, copy, symlinks=True)
    who.start()
    return copy


def put_back(who, copy):
    """The machine was lost, and came back from its backup."""
    if who.process is not None:
        assert who.end()[0] == 0
    shutil.rmtree(who.home)
    shutil.copytree(copy, who.home, symlinks=True)


def standing(at, name):
    return at.peers()[name].standing


def invites_at(who):
    return len(who.control.get(api.INVITES, api.Invites).invites)


def complaints(who):
    return who.control.health().complaints


def test_what_came_back_from_a_copy_contradicts_nobody(home, tmp_path):
    _, ann, bob, cyd = home
    copy = copied(ann, tmp_path)
    ann.until_linked("bob", "cyd")
    assert complaints(ann) == []
    ann.invite("--label", "forgotten")
    bob.until(lambda: invites_at(bob) == 3)
    assert (bob.end()[0], cyd.end()[0]) == (0, 0)
    put_back(ann, copy)
    ann.start()
    (told,) = complaints(ann)
    assert "put back from a copy" in told
    for argv in (("invite",), ("suspend", "bob"), ("grant", "bob", "admin")):
        refused = ann.typed(*argv, code=1)
        assert "put back from a copy" in refused
        assert "not heard yet: " in refused
        assert "bob" in refused
        assert "cyd" in refused
    bob.start()
    ann.until(lambda: invites_at(ann) == 3)
    assert "not heard yet: cyd;" in ann.typed("invite", code=1)
    cyd.start()
    ann.until(lambda: not complaints(ann))
    ann.invite("--label", "another")
    for one in (bob, cyd):
        one.until(lambda one=one: invites_at(one) == 4)
        assert standing(one, "ann") == "active"
    assert ann.end()[0] == 0
    ann.start()
    assert complaints(ann) == []


def test_who_is_gone_for_good_is_waited_for_until_a_person_says_so(home, tmp_path):
    _, ann, bob, cyd = home
    assert "nothing holds this machine up" in ann.done("mesh", "proceed", "--yes").stderr
    copy = copied(ann, tmp_path)
    ann.until_linked("bob", "cyd")
    ann.invite("--label", "forgotten")
    bob.until(lambda: invites_at(bob) == 3)
    assert cyd.end()[0] == 0
    put_back(ann, copy)
    ann.start()
    ann.until(lambda: invites_at(ann) == 3)
    assert "portal mesh proceed" in ann.typed("revoke", "cyd", "-y", code=1)
    assert "no terminal to ask" in ann.typed("mesh", "proceed", code=2)
    ann.typed("mesh", "proceed", "--yes")
    ann.typed("revoke", "cyd", "-y")
    bob.until(lambda: standing(bob, "cyd") == "revoked")
    assert standing(bob, "ann") == "active"
    assert ann.end()[0] == 0
    ann.start()
    assert complaints(ann) == []


def test_who_knows_nobody_any_more_asks_by_the_phrase(people, tmp_path):
    ann, bob = people("ann"), people("bob")
    page = tmp_path / "kit.txt"
    ann.typed("recovery-kit", "-o", str(page))
    ann.typed("mesh", "new", "home")
    copy = copied(ann, tmp_path)
    brought(ann, bob)
    bob.until_linked("ann")
    put_back(ann, copy)
    ann.start()
    told = ann.typed("invite", code=1)
    assert "portal recover ADDRESS" in told
    argv = ("recover", f"127.0.0.1:{bob.port}", "--kit-file", str(page), "--yes")
    assert "portal-node stop" in ann.typed(*argv, code=1)
    assert ann.end()[0] == 0
    done = ann.done(*argv)
    assert done.returncode == 0, done
    assert "the old list of members is in" in done.stderr
    ann.start()
    ann.until_linked("bob")
    ann.invite()
    bob.until(lambda: invites_at(bob) == 2)
    assert standing(bob, "ann") == "active"


def test_a_node_whose_files_are_as_it_left_them_acts_alone(home):
    _, ann, bob, cyd = home
    assert (bob.end()[0], cyd.end()[0], ann.end()[0]) == (0, 0, 0)
    ann.start()
    ann.invite()  # nobody is there: it may be a moment
    bob.start()
    ann.until_linked("bob")
    assert standing(bob, "ann") == "active"


def test_a_disk_that_was_put_back_as_a_whole_listens_first(home, tmp_path, monkeypatch):
    """Nothing shows that it is a copy: the files of the node and their times are the same."""
    _, ann, bob, _ = home
    members = ann.home / "mesh" / "members"
    before = members.read_bytes()
    ann.invite("--label", "forgotten")
    bob.until(lambda: invites_at(bob) == 3)
    assert ann.end()[0] == 0
    members.write_bytes(before)
    own = ann.home / "mesh" / "own"
    version, _, count = codec.decode_untrusted(own.read_bytes())
    anchor = own.with_name(f"anchor-{count}").rename(own.with_name(f"anchor-{count - 1}"))
    own.write_bytes(codec.encode([version, anchor.stat().st_ctime_ns, count - 1]))
    ann.start()
    assert complaints(ann) == []
    ann.invite("--label", "another")
    bob.until(lambda: invites_at(bob) == 4)
    assert standing(bob, "ann") == "active"


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def places(data):
    """Where each operation begins in a list of members."""
    at = 5
    while at < len(data):
        yield at
        at += 4 + int.from_bytes(data[at : at + 4])


@pytest.mark.parametrize("harm", ["a byte", *map(deep, ("a length", "cut", "cut within"))])
def test_a_damaged_list_is_mended_and_what_is_gone_comes_again(home, harm):
    _, ann, bob, _ = home
    assert ann.end()[0] == 0
    members = ann.home / "mesh" / "members"
    whole = members.read_bytes()
    at = list(places(whole))[3]  # genesis, an invite, Bob; here is how Cyd was invited
    damaged = {
        "a byte": flipped(whole, at + 100),
        "a length": flipped(whole, at),
        "cut": whole[:at],
        "cut within": whole[: at + 100],
    }[harm]
    members.write_bytes(damaged)
    ann.start()
    ann.until_linked("bob", "cyd")
    ann.until(lambda: not complaints(ann))
    ann.invite()
    bob.until(lambda: invites_at(bob) == 3)
    assert standing(bob, "ann") == "active"
    is_seen = not harm.startswith("cut")  # what is cut may have been torn by the end of a process
    if is_seen:
        assert (ann.home / "mesh" / "members.damaged-1").read_bytes() == damaged
    assert ann.end()[0] == 0
    assert any(" lost" in line for line in ann.logged) == is_seen
    ann.start()
    ann.until_linked("bob", "cyd")
    assert complaints(ann) == []


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        deep(lambda data: b"", "damaged: this is not a list of members"),
        deep(lambda data: data[:5], "damaged: the list of members is empty"),
        (lambda data: flipped(data, 60), "damaged: "),
        deep(lambda data: flipped(data, 4)[:4] + b"\2" + data[5:], "written by a newer Portal"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_and_replaced(home, tmp_path, harm, told):
    _, ann, bob, _ = home
    page = tmp_path / "kit.txt"
    ann.typed("recovery-kit", "-o", str(page))
    assert ann.end()[0] == 0
    members = ann.home / "mesh" / "members"
    damaged = harm(members.read_bytes())
    members.write_bytes(damaged)
    ann.start()
    (complaint,) = complaints(ann)
    assert told in complaint
    assert str(members) in complaint
    for argv in (("peers",), ("mesh", "status"), ("mesh", "new", "x"), ("invite",)):
        assert told in ann.typed(*argv, code=13 if "newer" in told else 1)
    assert members.read_bytes() == damaged
    if "newer" in told:
        assert told in ann.typed("recover", "--kit-file", str(page), code=13)
        return
    assert "portal recover ADDRESS" in complaint
    done = ann.done("recover", "--kit-file", str(page))  # while the node runs
    assert done.returncode == 0, done
    ann.until_linked("bob", "cyd")
    ann.until(lambda: not complaints(ann))
    ann.invite()
    bob.until(lambda: invites_at(bob) == 3)
    assert standing(bob, "ann") == "active"


@pytest.mark.deep
def test_without_the_phrase_a_new_invite_brings_a_damaged_machine_back(home):
    _, ann, bob, _ = home
    ann.typed("grant", "bob", "admitter")
    bob.until(lambda: bob.peers()["bob"].role == "admitter")
    bob.invite()
    ann.until(lambda: invites_at(ann) == 3)
    assert bob.end()[0] == 0
    (bob.home / "mesh" / "members").write_bytes(b"")
    bob.start()
    told = bob.typed("join", ann.invite(), code=1)
    assert "portal leave --quietly, and a new invite" in told
    assert bob.typed("leave", "--quietly", "--yes").startswith(
        "This machine has forgotten the mesh"
    )
    assert "in the mesh home: 3 devices" in bob.typed("join", ann.invite())
    bob.until_linked("ann", "cyd")
    bob.until(lambda: not complaints(bob))
    bob.invite()
    ann.until(lambda: invites_at(ann) == 6)
    assert standing(ann, "bob") == "active"


def test_a_list_that_cannot_be_read_is_told(home):
    _, ann, _, _ = home
    assert ann.end()[0] == 0
    members = ann.home / "mesh" / "members"
    kept = members.rename(members.with_name("kept"))
    members.mkdir()
    ann.start()
    (complaint,) = complaints(ann)
    assert "regular file" in complaint
    assert ann.end()[0] == 0
    members.rmdir()
    kept.rename(members)
    ann.start()
    ann.until_linked("bob", "cyd")
