"""What follows from the operations without being stated: the names and addresses of a mesh.

mesh_id  = DK("mesh id", genesis)                                       32 bytes
dht_id   = H("dht id", mesh_id || node || id of the admitting operation)  20 bytes
overlay  = fd || H("ula subnet", mesh_id, 5) || H("ula host", mesh_id || node, 10)
"""

from core import hashing
from core.ids import MeshId, NodeId
from core.labels import Label

DHT_ID_BYTES = 20
_SUBNET_BYTES = 5
_HOST_BYTES = 10


def mesh_id(genesis: bytes) -> MeshId:
    """The name of the mesh that begins with this operation, as received."""
    return MeshId(hashing.derive(Label.MESH_ID, genesis))


def dht_id(mesh: MeshId, node: NodeId, admitted_by: bytes) -> bytes:
    """Where a node stands in the DHT. The admitting operation is not of the node's choosing."""
    return hashing.digest(Label.DHT_ID, mesh + node + admitted_by, DHT_ID_BYTES)


def overlay(mesh: MeshId, node: NodeId) -> bytes:
    """The IPv6 address of a node inside the mesh: a unique local address (RFC 4193)."""
    subnet = hashing.digest(Label.OVERLAY_MESH, mesh, _SUBNET_BYTES)
    return b"\xfd" + subnet + hashing.digest(Label.OVERLAY_NODE, mesh + node, _HOST_BYTES)
