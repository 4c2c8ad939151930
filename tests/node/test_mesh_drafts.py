"""What can be asked about drafts: three doors in one process, asked as commands do."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from mesh.members.bodies import Drop, Kind, UserRole
from mesh.members.drafts import Draft, Drafts, Paper
from node import api, identity
from node.asked import Asked
from node.mesh_drafts import DraftDoor
from tests.node.test_mesh_door import Heard, House, open_houses
from tests.support.memberships import NOW_S, Replica, a_mesh, person

pytestmark = pytest.mark.slow

PATIENCE_S = 60


@asynccontextmanager
async def three_admins(place):
    """Ann's mesh, with Bob and Cyd; all are admins, Cyd's machine may not act as one."""
    ann, bob = House(place, "ann", admin=True), House(place, "bob", admin=True)
    cyd = House(place, "cyd")
    houses = [ann, bob, cyd]
    async with open_houses(*houses):
        await ann.post(api.MESH, api.Mesh, api.NewMesh(name="home"))
        for other in (bob, cyd):
            await other.join(await ann.invite())
        for name in ("bob", "cyd"):
            question = api.NewRole(who=name, role="admin")
            done = await ann.post(api.GRANT, api.Asked, question)
            assert done.draft is None
        for one in houses:
            await until(one, lambda one=one: linked(one, 2))
        for one in houses:
            await until(one, lambda one=one: admins(one, 3))
        yield houses


async def until(house, holds):
    with trio.fail_after(PATIENCE_S):
        with house.frame.events.listen() as listener:
            while not holds():
                await Heard(listener).any_line()


def linked(house, count):
    return len(house.mesh.service.mesh.links.all()) == count


def admins(house, count):
    users = house.mesh.service.mesh.membership.state.users
    return sum(role == 2 for role in users.values()) == count


def live(house):
    return house.mesh.service.mesh.drafting.live()


async def drafts(house):
    return (await house.get(api.DRAFTS, api.Drafts)).drafts


async def dropped(house, name):
    asked = await house.post(api.DROP, api.Asked, api.Who(who=name))
    return asked.draft


def test_a_draft_is_told_in_full_and_signed_by_its_id(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, bob, cyd):
            draft = await dropped(ann, "cyd")
            assert (draft.act, draft.name, draft.user, draft.role) == ("drop", "cyd", cyd.user, 1)
            assert draft.by == api.Named(id=ann.node, name="ann")
            assert draft.signed_by == [api.Named(id=ann.user, name="ann")]
            assert (draft.needed, draft.since, draft.admitted) == (2, 0, 0)
            assert (draft.is_ours, draft.is_signed, draft.may_sign) == (True, True, True)
            await until(bob, lambda: live(bob))
            (told,) = await drafts(bob)
            assert (told.is_ours, told.is_signed, told.may_sign) == (False, False, True)
            assert not told.needs_phrase
            assert Asked.read_untrusted(told).proposal == live(bob)[0].paper.proposal
            assert (await bob.get(api.MESH, api.Mesh)).to_sign == 1
            assert (await ann.get(api.MESH, api.Mesh)).to_sign == 0
            for wanted in ("0" * 64, told.draft[:3], ""):
                fault = await bob.refused(bob.post, api.COSIGN, api.Asked, api.Cosign(draft=wanted))
                assert (fault.kind, fault.hint) == ("NoDraft", "portal drafts")
            question = api.Cosign(draft=told.draft[:8].upper())
            done = await bob.post(api.COSIGN, api.Asked, question)
            assert done == api.Asked()
            await until(ann, lambda: admins(ann, 2))
            assert await drafts(ann) == await drafts(bob) == []

    trio.run(scene)


def test_a_machine_that_may_not_act_as_an_admin_signs_with_the_phrase(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, _, cyd):
            mine = identity.open(cyd.home)
            key = mine.user_key()
            assert await dropped(ann, "bob")
            await until(cyd, lambda: live(cyd))
            (told,) = await drafts(cyd)
            assert not told.needs_phrase  # it is kept here
            mine.forget_phrase()
            (told,) = await drafts(cyd)
            assert told.needs_phrase
            for signature, kind in (
                ("", "KeystoreError"),
                ("00" * 64, "IntegrityError"),
                ("00", "UsageError"),
                ("x", "FormatError"),
            ):
                question = api.Cosign(draft=told.draft, signature=signature)
                fault = await cyd.refused(cyd.post, api.COSIGN, api.Asked, question)
                assert fault.kind == kind
            signature = Asked.read_untrusted(told).signed(key).hex()
            question = api.Cosign(draft=told.draft, signature=signature)
            assert (await cyd.post(api.COSIGN, api.Asked, question)).draft is None
            await until(ann, lambda: admins(ann, 2))

    trio.run(scene)


def test_a_phrase_that_is_kept_signs_for_a_machine_that_may_not(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, _, cyd):
            draft = await dropped(ann, "bob")
            await until(cyd, lambda: live(cyd))
            question = api.Cosign(draft=draft.draft)
            assert (await cyd.post(api.COSIGN, api.Asked, question)).draft is None

    trio.run(scene)


def test_what_the_subject_did_meanwhile_is_counted(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, bob, cyd):
            await dropped(ann, "cyd")
            size = len(bob.mesh.service.mesh.membership.set)
            await cyd.invite()
            await until(bob, lambda: len(bob.mesh.service.mesh.membership.set) > size)
            await until(bob, lambda: live(bob))
            (told,) = await drafts(bob)
            assert (told.since, told.admitted) == (1, 0)

    trio.run(scene)


def test_whom_they_let_in_is_counted_too_and_a_node_that_does_not_know_itself_tells_it():
    ann, bob, cyd = map(person, ("ann", "bob", "cyd"))
    replica = a_mesh(ann, bob, cyd)
    act = Kind.DROP, Drop(cyd.user, UserRole.ADMIN)
    paper = Paper.written(ann.device, ann.user, replica.author.propose(*act), NOW_S)
    Replica(cyd, replica.membership).bring(person("dot"))
    for node, may_sign in ((bob.node, True), (person("fay").node, False)):
        drafting = Drafts(replica.membership)
        drafting.put(Draft(paper), NOW_S)
        mesh = SimpleNamespace(
            membership=replica.membership,
            node=node,
            drafting=SimpleNamespace(book=drafting, live=lambda book=drafting: list(book)),
        )
        door = object.__new__(DraftDoor)
        door._service = SimpleNamespace(mesh=mesh, may_cosign=lambda: False)
        told = door.asked(Draft(paper)).draft
        assert (told.since, told.admitted) == (2, 1)
        assert (told.may_sign, told.is_signed, told.needs_phrase) == (may_sign, False, may_sign)
        assert door.waiting() == may_sign


def test_it_is_taken_back_where_it_was_begun_and_that_is_told(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, bob, cyd):
            with bob.frame.events.listen() as listener:
                draft = await dropped(ann, "cyd")
                heard = Heard(listener)
                assert (await heard.until("drafts.changed"))["waiting"] == 1
                path = api.DRAFT.format(draft=draft.draft)
                fault = await bob.refused(bob.delete, path)
                assert "only the machine that began it" in fault.what
                assert await ann.delete(path) == api.Done()
                assert (await heard.until("drafts.changed"))["waiting"] == 0
            assert await drafts(ann) == await drafts(bob) == await drafts(cyd) == []
            fault = await ann.refused(ann.delete, path)
            assert fault.kind == "NoDraft"

    trio.run(scene)


def test_every_act_is_told_as_what_it_is(tmp_path):
    async def scene():
        async with three_admins(tmp_path) as (ann, _, cyd):
            revoke = await ann.post(api.REVOKE, api.Asked, api.Signed(who="cyd"))
            suspend = await ann.post(api.SUSPEND, api.Asked, api.Who(who="cyd"))
            for one, act in ((revoke.draft, "revoke"), (suspend.draft, "suspend")):
                assert (one.act, one.user, one.name) == (act, cyd.user, "cyd")
                assert Asked.read_untrusted(one).proposal.parents
            assert suspend.draft.node == cyd.node
            assert len(await drafts(ann)) == 2
            again = await ann.post(api.REVOKE, api.Asked, api.Signed(who="cyd"))
            assert again == revoke

    trio.run(scene)
