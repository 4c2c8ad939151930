"""What can be asked about the mesh: two doors in one process, asked as commands do."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from core import limits
from core.device_cert import Role
from core.ids import MeshId, NodeId, UserId
from mesh.invite import Invitation
from node import api, identity, mesh_entry
from node.config import Address as ListenAt
from node.config import NodeSettings
from node.control import Control, Refused
from node.frame import Frame, Place
from node.log import Level, Log, Sink
from node.mesh_acts import Act, Words
from node.mesh_door import MeshDoor
from tests.support.home import NOW_S

NOW_MS = NOW_S * 1_000

pytestmark = pytest.mark.slow

PATIENCE_S = 60


class House:
    """A home whose node answers, without the daemon around it."""

    def __init__(self, place, name, *, admin=False):
        self.home = place / name
        made = identity.create(self.home, name=name, passphrase=None, now_s=NOW_S)
        if admin:
            made.add_roles(Role.ADMIN)
        self.node, self.user = made.node.text(), made.user.text()
        self.settings = NodeSettings(listen=ListenAt("127.0.0.1", 0))
        self.lines = []
        log = Log(Sink(self.lines.append, level=Level.DEBUG))
        self.frame = Frame(Place(self.home, made.node, made.user, lambda: self.settings), log)
        self.mesh = MeshDoor(self.frame)
        self.control = Control(self.home)

    async def get(self, path, wanted):
        return await trio.to_thread.run_sync(self.control.get, path, wanted)

    async def post(self, path, wanted, question):
        return await trio.to_thread.run_sync(self.control.post, path, wanted, question)

    async def delete(self, path):
        return await trio.to_thread.run_sync(self.control.delete, path, api.Done)

    async def refused(self, call, *args):
        with pytest.raises(Refused) as raised:
            await call(*args)
        return raised.value

    async def invite(self, **terms):
        return await self.post(api.INVITES, api.Invited, api.NewInvite(**terms))

    async def join(self, invited):
        return await self.post(api.JOIN, api.Mesh, api.JoinMesh(invite=invited.invite))

    def samples(self):
        return self.frame.metrics.samples()

    async def peers(self):
        return {one.name: one for one in (await self.get(api.PEERS, api.Peers)).peers}


class Heard:
    """What a node tells while the block runs."""

    def __init__(self, listener):
        self._lines = listener.lines

    async def any_line(self):
        """The next event, whatever it says."""
        async for _line in self._lines:
            return

    async def any_change(self):
        """The next time the list of members has changed, in whatever."""
        with trio.fail_after(PATIENCE_S):
            async for line in self._lines:
                if json.loads(line)["kind"] == "members.changed":
                    return

    async def until(self, kind):
        """The data of the next event of a kind that says something."""
        with trio.fail_after(PATIENCE_S):
            async for line in self._lines:
                event = json.loads(line)
                if event["kind"] == kind and event["data"] != {"came": [], "barred": []}:
                    return event["data"]
        raise AssertionError(f"the events ended without {kind}")


@asynccontextmanager
async def open_houses(*houses):
    async with trio.open_nursery() as nursery:
        for house in houses:
            await nursery.start(house.frame.door.run)
            await nursery.start(house.mesh.service.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two(place):
    """Ann's mesh, and Bob at its door."""
    ann, bob = House(place, "ann", admin=True), House(place, "bob")
    async with open_houses(ann, bob):
        await ann.post(api.MESH, api.Mesh, api.NewMesh(name="home"))
        with ann.frame.events.listen() as at_ann, bob.frame.events.listen() as at_bob:
            yield ann, bob, Heard(at_ann), Heard(at_bob)


def test_without_a_mesh_everything_says_how_to_get_one(tmp_path):
    async def scene():
        ann = House(tmp_path, "ann", admin=True)
        async with open_houses(ann):
            who = api.Who(who="bob")
            for call, *args in (
                (ann.get, api.MESH, api.Mesh),
                (ann.get, api.PEERS, api.Peers),
                (ann.get, api.INVITES, api.Invites),
                (ann.get, api.KIT, api.KitPlaces),
                (ann.get, api.DRAFTS, api.Drafts),
                (ann.delete, api.DRAFT.format(draft="abcd")),
                (ann.post, api.COSIGN, api.Asked, api.Cosign(draft="abcd")),
                (ann.invite,),
                (ann.delete, api.INVITE.format(voucher="abcd")),
                (ann.post, api.APPROVE, api.Done, who),
                *((ann.post, path, api.Done, who) for path in (api.SUSPEND, api.DROP)),
                (ann.post, api.REVOKE, api.Done, api.Signed(who="bob")),
                (ann.post, api.UNSUSPEND, api.Done, api.Signed(who="bob")),
                (ann.post, api.GRANT, api.Done, api.NewRole(who="bob", role="admin")),
                (ann.post, api.SIGN, api.ToSign, api.Sign(act="leave")),
                (ann.post, api.LEAVE, api.Left, api.Leave()),
                (ann.post, api.ENTER, api.Mesh, None),
            ):
                fault = await ann.refused(call, *args)
                assert (fault.kind, fault.exit_code) == ("NoMesh", 1)
                assert fault.hint == "portal mesh new NAME, or portal join INVITE"

    trio.run(scene)


def test_a_mesh_is_begun_once_and_tells_of_itself(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, _, _, _):
            found = await ann.get(api.MESH, api.Mesh)
            assert (found.name, found.role, found.members, found.linked) == ("home", "admin", 1, 0)
            assert (found.node, found.user) == (ann.node, ann.user)
            assert found.listens_at.startswith("127.0.0.1:")
            again = api.NewMesh(name="other")
            fault = await ann.refused(ann.post, api.MESH, api.Mesh, again)
            assert "in the mesh 'home' already" in fault.what

    trio.run(scene)


def test_who_joins_is_told_to_both(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, at_bob):
            joined = await bob.join(await ann.invite())
            assert (joined.name, joined.role, joined.members) == ("home", "member", 2)
            assert await at_ann.until("members.changed") == {"came": [bob.node], "barred": []}
            up = {"node": bob.node, "name": "bob", "is_up": True, "why": ""}
            assert await at_ann.until("link.changed") == up
            assert (await at_bob.until("link.changed"))["node"] == ann.node
            found = await ann.peers()
            assert found["ann"].is_self
            assert not found["bob"].is_self
            other = found["bob"]
            assert (other.node, other.user, other.standing) == (bob.node, bob.user, "active")
            assert other.linked
            assert other.rtt_ms > 0
            assert other.address == (await bob.get(api.MESH, api.Mesh)).listens_at
            assert other.ways
            assert (await ann.get(api.MESH, api.Mesh)).linked == 1
            assert (other.looks, other.presence, other.seen_s) == ("alive", "present", None)
            samples = {(one.name, *one.labels.values()): one.value for one in ann.samples()}
            assert samples["portal_mesh_links",] == 1
            assert samples["portal_mesh_peers", "alive"] == 1
            assert samples["portal_mesh_peers", "dead"] == samples["portal_mesh_cut_off",] == 0

    trio.run(scene)


def test_who_goes_in_good_order_is_away_at_once(tmp_path):
    async def scene():
        ann, bob = House(tmp_path, "ann", admin=True), House(tmp_path, "bob")
        async with open_houses(ann):
            await ann.post(api.MESH, api.Mesh, api.NewMesh(name="home"))
            with ann.frame.events.listen() as listener:
                at_ann = Heard(listener)
                async with open_houses(bob):
                    with bob.frame.events.listen() as at_bob:
                        await bob.join(await ann.invite())
                        await Heard(at_bob).until("link.changed")
                    came = await at_ann.until("peer.changed")
                    assert (came["node"], came["name"], came["looks"]) == (bob.node, "bob", "alive")
                gone = await at_ann.until("peer.changed")
                assert (gone["name"], gone["looks"]) == ("bob", "dead")
            found = (await ann.peers())["bob"]
            assert (found.linked, found.looks, found.presence) == (False, "dead", "away")
            assert found.seen_s > NOW_S

    trio.run(scene)


def test_both_sides_see_the_same_four_words_until_one_says_yes(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, _, at_bob), trio.open_nursery() as nursery:
            nursery.start_soon(bob.join, await ann.invite(approve=True))
            words = (await at_bob.until("join.waits"))["words"]
            waits = (await ann.peers())["bob"]
            assert (waits.standing, waits.words, waits.linked) == ("pending", words, False)
            assert len(words.split()) == 4
            assert (await ann.get(api.MESH, api.Mesh)).members == 1
            await ann.post(api.APPROVE, api.Done, api.Who(who="bob"))
            assert (await at_bob.until("link.changed"))["is_up"]
            assert (await ann.peers())["bob"].words == ""

    trio.run(scene)


def test_who_is_put_out_is_told_and_its_link_ends(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, _):
            await bob.join(await ann.invite())
            assert (await at_ann.until("link.changed"))["is_up"]
            await ann.post(api.REVOKE, api.Done, api.Who(who=bob.user[:12]))
            told = await at_ann.until("members.changed")
            assert told == {"came": [], "barred": [bob.node]}
            found = (await ann.peers())["bob"]
            assert (found.standing, found.linked, found.address) == ("revoked", False, None)

    trio.run(scene)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, None),
        ({b"a": "refused", b"b": "refused"}, "2 members do not let this machine in: it may be"),
        ({b"a": "clock"}, "1 members do not let this machine in: its clock is wrong"),
        ({b"a": "later_word"}, "1 members do not let this machine in: later_word"),
    ],
)
def test_a_machine_that_nobody_lets_in_says_why(tmp_path, words, told):
    async def scene():
        ann = House(tmp_path, "ann", admin=True)
        async with open_houses(ann):
            await ann.post(api.MESH, api.Mesh, api.NewMesh(name="home"))
            ann.mesh.service.mesh.links.turned_away_by.update(words)
            found = (await ann.get(api.MESH, api.Mesh)).complaint
            assert found is None if told is None else found.startswith(told)

    trio.run(scene)


def test_a_suspended_device_is_not_linked(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, _):
            await bob.join(await ann.invite())
            assert (await at_ann.until("link.changed"))["is_up"]
            await ann.post(api.SUSPEND, api.Done, api.Who(who="bob"))
            found = (await ann.peers())["bob"]
            assert (found.standing, found.linked) == ("suspended", False)

    trio.run(scene)


def the_key_of(house):
    """The user key of somebody, whose phrase then is on paper only."""
    mine = identity.open(house.home)
    key = mine.user_key()
    mine.forget_phrase()
    return key


def words_of(about):
    """As a command makes them."""
    return Words(
        act=Act(about.act),
        mesh=MeshId.parse_untrusted(about.mesh),
        user=UserId.parse_untrusted(about.user),
        node=NodeId.parse_untrusted(about.node),
        lifts=tuple(map(bytes.fromhex, about.lifts)),
        parents=tuple(map(bytes.fromhex, about.parents)),
    )


async def signed_for(house, act, who, key):
    about = await house.post(api.SIGN, api.ToSign, api.Sign(act=act, who=who))
    assert about.needs_phrase
    return about, [one.hex() for one in words_of(about).signed(key)]


def test_a_device_of_ones_own_is_let_back_and_put_out_by_signatures(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, _):
            await bob.join(await ann.invite())
            assert (await at_ann.until("link.changed"))["is_up"]
            key = the_key_of(bob)
            fault = await bob.refused(bob.post, api.SUSPEND, api.Done, api.Who(who="bob"))
            assert "the machine you sit at" in fault.what
            mesh = bob.mesh.service.mesh
            own = mesh.membership.member(mesh.node)
            await mesh.gossip.publish(mesh.author.suspend_device(own.user, own.node, NOW_MS))
            await at_ann.until("members.changed")
            assert "is suspended" in (await bob.get(api.MESH, api.Mesh)).complaint
            bare = api.Signed(who="bob")
            fault = await ann.refused(ann.post, api.UNSUSPEND, api.Done, bare)
            assert "of the person it is about" in fault.what  # Ann's phrase is here, not Bob's
            about, signatures = await signed_for(ann, "unsuspend", "bob", key)
            assert (about.is_own, about.name, about.devices) == (False, "bob", ["bob"])
            twice = api.Signed(who="bob", signatures=signatures * 2)
            fault = await ann.refused(ann.post, api.UNSUSPEND, api.Done, twice)
            assert (fault.hint, fault.exit_code) == ("try again", 2)
            said = api.Signed(who=about.node, signatures=signatures)
            await ann.post(api.UNSUSPEND, api.Done, said)
            assert (await ann.peers())["bob"].standing == "active"

            about, signatures = await signed_for(bob, "revoke", "bob", key)
            assert about.is_own
            wrong = api.Signed(who="bob", signatures=["00" * 64])
            assert (await bob.refused(bob.post, api.REVOKE, api.Done, wrong)).exit_code == 1
            said = api.Signed(who=about.node, signatures=signatures)
            await bob.post(api.REVOKE, api.Done, said)
            assert (await bob.peers())["bob"].standing == "revoked"

    trio.run(scene)


def test_what_is_asked_before_signing_says_what_it_is_about(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, _, _):
            await bob.join(await ann.invite())

            async def about(act, who=""):
                return await ann.post(api.SIGN, api.ToSign, api.Sign(act=act, who=who))

            found = await about("revoke", "bob")
            assert (found.needs_phrase, found.is_own, found.user) == (False, False, bob.user)
            assert not found.is_only_admin
            found = await about("revoke", "ann")
            assert (found.needs_phrase, found.is_own) == (False, True)  # the phrase is still here
            the_key_of(ann)
            assert (await about("revoke", "ann")).needs_phrase
            found = await about("leave")
            assert (found.needs_phrase, found.is_only_admin, found.name) == (False, True, "ann")
            for act, who in (("murder", "bob"), ("revoke", "eve")):
                question = api.Sign(act=act, who=who)
                assert (await ann.refused(ann.post, api.SIGN, api.ToSign, question)).exit_code == 2

    trio.run(scene)


def test_roles_are_given_and_the_second_admin_acts_once_its_device_may(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, at_bob):
            await bob.join(await ann.invite())
            wrong = api.NewRole(who="bob", role="king")
            fault = await ann.refused(ann.post, api.GRANT, api.Done, wrong)
            assert (fault.exit_code, fault.hint) == (2, "admin or admitter")
            await ann.post(api.GRANT, api.Done, api.NewRole(who="bob", role="admin"))
            while (found := await bob.get(api.MESH, api.Mesh)).role != "admin":
                await at_bob.any_change()
            assert not found.administers
            mine = identity.open(bob.home)
            mine.add_roles(Role.ADMIN, None, NOW_S + 1)
            said = mesh_entry.own_device(mine, mine.user_key(), found.mesh, NOW_S)
            keys = ("recover", "by_user", "by_device")
            question = api.OwnDevice(**dict(zip(keys, (one.hex() for one in said), strict=True)))
            assert (
                await ann.refused(ann.post, api.DEVICE, api.Done, question)
            ).what == "this is about another device"
            await bob.post(api.DEVICE, api.Done, question)
            assert (await bob.get(api.MESH, api.Mesh)).administers
            await bob.post(api.DROP, api.Done, api.Who(who="ann"))
            while (await ann.get(api.MESH, api.Mesh)).role != "member":
                await at_ann.any_change()

    trio.run(scene)


def test_who_has_left_can_join_again(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, _):
            await bob.join(await ann.invite())
            key = the_key_of(bob)
            about, signatures = await signed_for(bob, "leave", "", key)
            for wrong in (
                api.Leave(parents=["zz"], signatures=signatures),
                api.Leave(parents=["00"], signatures=signatures),
                api.Leave(parents=["00" * 32], signatures=signatures),
                api.Leave(parents=about.parents, signatures=["00" * 63]),
                api.Leave(parents=about.parents, signatures=["00" * 64]),
            ):
                fault = await bob.refused(bob.post, api.LEAVE, api.Left, wrong)
                assert fault.kind != "Fault"
            said = api.Leave(parents=about.parents, signatures=signatures)
            left = await bob.post(api.LEAVE, api.Left, said)
            assert (left.name, left.heard) == ("home", True)
            assert left.files.startswith(str(bob.home / "mesh.left-"))
            while (await ann.peers())["bob"].standing != "departed":
                await at_ann.until("members.changed")
            assert (await bob.join(await ann.invite())).members == 2

    trio.run(scene)


def test_offers_are_shown(tmp_path):
    async def scene():
        ann = House(tmp_path, "ann", admin=True)
        async with open_houses(ann):
            ann.mesh.service.offer(10**12)
            await ann.post(api.MESH, api.Mesh, api.NewMesh(name="home"))
            assert (await ann.peers())["ann"].offer_bytes == 10**12

    trio.run(scene)


def test_a_kit_is_told_where_members_are_as_long_as_we_are_one(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, at_ann, _):
            joined = await bob.join(await ann.invite())
            assert (await at_ann.until("link.changed"))["is_up"]
            found = await bob.get(api.KIT, api.KitPlaces)
            assert found.mesh == joined.mesh
            assert {one.node for one in found.endpoints} <= {ann.node, bob.node}
            assert found.endpoints[-1] == api.Endpoint(address=joined.listens_at, node=bob.node)
            await bob.post(api.REVOKE, api.Done, api.Signed(who="bob"))
            assert await bob.get(api.KIT, api.KitPlaces) == api.KitPlaces(mesh="", endpoints=[])

    trio.run(scene)


def test_an_invite_says_when_it_is_of_use_here_only(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, _, _, _):
            assert (await ann.invite()).is_local

    trio.run(scene)


def test_invites_are_listed_with_what_became_of_them(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, _, _):
            made = [
                await ann.invite(lifetime_s=lifetime, label=f"for {n}", quota_bytes=n)
                for n, lifetime in enumerate((86_400, 60, 3_600))
            ]
            await bob.join(made[0])
            await ann.delete(api.INVITE.format(voucher=made[2].voucher[:8].upper()))
            found = (await ann.get(api.INVITES, api.Invites)).invites
            assert [one.voucher for one in found] == [made[n].voucher for n in (1, 2, 0)]
            assert [one.state for one in found] == ["open", "closed", "spent"]
            assert [one.came for one in found] == [[], [], ["bob"]]
            assert [(o.label, o.quota_bytes) for o in found] == [
                ("for 1", 1),
                ("for 2", 2),
                ("for 0", 0),
            ]
            assert all(one.expires_s % 60 == 0 for one in found)
            hidden = [one.invite for one in made]
            assert not [text for text in hidden for line in ann.lines if text in line]

    trio.run(scene)


def test_the_terms_of_an_invite_hold(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, bob, _, _):
            invited = await ann.invite(admitter=True)
            assert Invitation.parse_untrusted(invited.invite).expires_s == invited.expires_s
            assert (await bob.join(invited)).role == "admitter"
            assert (await bob.invite()).invite.startswith("pnj1-")
            fault = await bob.refused(bob.post, api.REVOKE, api.Done, api.Who(who="ann"))
            assert fault.kind == "NotAllowed"

    trio.run(scene)


@pytest.mark.parametrize("lifetime_s", [59, 0, -1, limits.INVITE_SECONDS_MAX + 1])
def test_an_invite_lives_for_a_while(tmp_path, lifetime_s):
    async def scene():
        async with two(tmp_path) as (ann, _, _, _):
            before = (await ann.get(api.INVITES, api.Invites)).invites
            fault = await ann.refused(lambda: ann.invite(lifetime_s=lifetime_s))
            assert (fault.kind, fault.exit_code) == ("UsageError", 2)
            assert (await ann.get(api.INVITES, api.Invites)).invites == before == []

    trio.run(scene)


def test_wrong_terms_are_refused_in_words(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, _, _, _):
            for terms in ({"quota_bytes": -1}, {"label": "x" * 5_000}, {"label": "a\x1b[2Jb"}):
                fault = await ann.refused(lambda terms=terms: ann.invite(**terms))
                assert fault.kind != "Fault", fault.what
            fault = await ann.refused(lambda: ann.invite(quota_bytes=1 << 64))
            assert fault.kind != "Fault", fault.what
            assert (await ann.get(api.INVITES, api.Invites)).invites == []

    trio.run(scene)


@pytest.mark.parametrize("name", ["", "x" * 5_000, "a\x1b[2Jb", "\ud800"])
def test_a_mesh_has_a_name_people_can_read(tmp_path, name):
    async def scene():
        ann = House(tmp_path, "ann", admin=True)
        async with open_houses(ann):
            try:
                fault = await ann.refused(ann.post, api.MESH, api.Mesh, api.NewMesh(name=name))
                assert fault.kind != "Fault"
            except UnicodeEncodeError:
                assert name == "\ud800"  # it cannot even be asked
            assert not (ann.home / "mesh" / "members").exists()

    trio.run(scene)


def test_a_voucher_that_is_none_or_many_is_not_guessed(tmp_path):
    async def scene():
        async with two(tmp_path) as (ann, _, _, _):
            made = await ann.invite()
            for wanted in ("0" * 8, made.voucher[:3], made.voucher + "0"):
                fault = await ann.refused(ann.delete, api.INVITE.format(voucher=wanted))
                assert (fault.exit_code, fault.hint) == (2, "portal invites")
            (one,) = (await ann.get(api.INVITES, api.Invites)).invites
            assert one.state == "open"

    trio.run(scene)


def test_the_index_knows_all_of_it(tmp_path):
    async def scene():
        ann = House(tmp_path, "ann")
        async with open_houses(ann):
            index = await ann.get(api.INDEX, api.Index)
            routes = [one for one in index.routes if one.path.startswith(api.MESH)]
            assert len(routes) == 22
            assert all(one.what for one in routes)
            told = {"link.changed", "members.changed", "join.waits"}
            assert told <= {one.kind for one in index.events}

    trio.run(scene)


def test_what_the_settings_and_the_network_say_reaches_the_mesh(tmp_path):
    ann = House(tmp_path, "ann")
    (network,) = [one for one in ann.frame._services if one.name == "network"]
    assert network._changed == ann.mesh.service.network_changed
    assert ann.mesh.service._offer_bytes == 0
    ann.settings = replace(ann.settings, offer_bytes=10**9, grace_s=3 * 86_400)
    told = ann.frame._reload()
    assert (told.changed, told.waiting) == (["grace_s", "offer_bytes"], [])
    assert ann.mesh.service._offer_bytes == 10**9
    assert ann.mesh.service._grace_s == 3 * 86_400
    assert ann.frame._reload().changed == []
