"""What is looked at before a socket is opened; coming in itself is in test_mesh_service.py."""

import socket

import pytest
import trio

from core import limits
from core.device_cert import Role
from core.errors import UsageError
from core.ids import MeshId
from core.keys import Root
from mesh.errors import Unreachable
from mesh.invite import Invitation
from mesh.members.joining import Recover
from mesh.pairing import JoinRefused
from mesh.wire import Address
from node import mesh_entry
from tests.support.home import NOW_S, somebody

MESH = MeshId(bytes(32))
HERE = Address("127.0.0.1", 9)


@pytest.fixture
def ann(tmp_path):
    return somebody(tmp_path / "home")


def now_ms():
    return NOW_S * 1_000


def an_invite(expires_s=NOW_S + 3_600, endpoints=(HERE,)):
    return Invitation.new(MESH, expires_s, endpoints=endpoints)


def test_a_late_invite_and_one_to_nowhere_are_not_tried(ann):
    for invitation, error in (
        (an_invite(60), JoinRefused),
        (an_invite(endpoints=()), UsageError),
    ):
        with pytest.raises(error):
            trio.run(mesh_entry.by_invite, ann, invitation, now_ms, print)


def test_where_no_name_leads_anywhere_nobody_answers(ann, monkeypatch):
    async def no_such_name(*_):
        await trio.lowlevel.checkpoint()
        raise socket.gaierror

    monkeypatch.setattr(trio.socket, "getaddrinfo", no_such_name)
    root = Root.from_entropy(ann.recovery_kit().entropy)
    places = [Address("nowhere.invalid", 9)]
    with pytest.raises(Unreachable, match="at any of these"):
        trio.run(mesh_entry.look, ann, root.user_identity(), places, None, now_ms)


def test_names_are_looked_up_and_those_that_cannot_be_are_left_out():
    async def scene():
        named = [Address("127.0.0.1", 9), Address("a" * 64 + ".", 9), Address("::1", 8)]
        return await mesh_entry._resolved(named)

    assert trio.run(scene) == [Address("127.0.0.1", 9), Address("::1", 8)]


def test_a_taken_port_is_told_and_another_one_found():
    refused = []

    async def scene():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            wire = mesh_entry.bound("127.0.0.1", port, lambda at, _error: refused.append(at))
            assert wire.local.host == "127.0.0.1"
            assert wire.local.port not in {0, port}
            wire.close()
            return port

    port = trio.run(scene)
    assert refused == [f"127.0.0.1 {port}"]


def test_what_the_phrase_says_of_this_device_is_signed_by_both_keys(ann):
    ann.add_roles(Role.ADMIN, None, NOW_S + 9)
    said = mesh_entry.own_device(ann, ann.user_key(), MESH.text(), NOW_S)
    recover = Recover.open_untrusted(*said)
    assert (recover.mesh, recover.cert.node, recover.cert.user) == (MESH, ann.node, ann.user)
    assert Role.ADMIN in recover.cert.roles
    assert recover.cert.created_s == NOW_S + 9
    assert len(said[0]) <= limits.ADMISSION_BYTES_MAX
