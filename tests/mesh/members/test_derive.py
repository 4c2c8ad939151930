import ipaddress

from blake3 import blake3

from core.ids import MeshId, NodeId
from mesh.members import derive

MESH = MeshId(bytes(range(32)))
NODE = NodeId(bytes(range(32, 64)))


def by_hand(name, data, size):
    context = f"portal-node 2026-11-21 {name} v1"
    key = blake3(b"", derive_key_context=context).digest()
    return blake3(data, key=key).digest(length=size)


def test_names_by_hand():
    context = "portal-node 2026-11-21 mesh id v1"
    assert derive.mesh_id(b"genesis") == blake3(b"genesis", derive_key_context=context).digest()
    expected = by_hand("dht id", MESH + NODE + b"op", 20)
    assert derive.dht_id(MESH, NODE, b"op") == expected
    subnet, host = by_hand("ula subnet", MESH, 5), by_hand("ula host", MESH + NODE, 10)
    assert derive.overlay(MESH, NODE) == b"\xfd" + subnet + host


def test_overlay_addresses_are_unique_local_ones_in_one_subnet_per_mesh():
    one = derive.overlay(MESH, NODE)
    other = derive.overlay(MESH, NodeId(bytes(32)))
    assert one[:6] == other[:6]
    assert one != other
    assert ipaddress.ip_address(one) in ipaddress.ip_network("fd00::/8")


def test_a_node_does_not_choose_its_place():
    assert derive.dht_id(MESH, NODE, b"a" * 32) != derive.dht_id(MESH, NODE, b"b" * 32)
