"""Made-up nodes of made-up people in one mesh, the same in every run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from core.device_cert import DeviceCert, Role
from core.hashing import digest
from core.ids import MeshId, NodeId
from core.keys import DeviceKeys, Root
from core.labels import Label
from mesh.hello import Engines, Speaker, host_tag
from mesh.leaf import Leaf
from mesh.roster import Member, StaticRoster
from tests.support.entropy import fixed_entropy
from tests.support.identity import a_person

MESH = MeshId(digest(Label.TEXT_CHECK, b"the mesh of the tests"))
OTHER_MESH = MeshId(digest(Label.TEXT_CHECK, b"another mesh"))


@dataclass(frozen=True)
class Node:
    """A device of a person, its process and its place in the mesh."""

    name: str
    root: Root
    device: DeviceKeys
    cert: DeviceCert
    leaf: Leaf
    speaker: Speaker

    @property
    def id(self) -> NodeId:
        return self.cert.node

    @property
    def member(self) -> Member:
        cert = self.cert
        return Member(cert.node, cert.user, cert.roles, cert.box_public, cert.name)

    def restarted(self, again: str = "again") -> "Node":
        """The same device in a new process."""
        seed = f"{self.name} {again}"
        incarnation = fixed_entropy(f"{seed}: incarnation")(16)
        leaf = Leaf.make(self.device.sign_seed, fixed_entropy(f"{seed}: leaf"))
        return replace(self, leaf=leaf, speaker=replace(self.speaker, incarnation=incarnation))


def a_cert(root: Root, device: DeviceKeys, name: str, roles: Role | None = None) -> DeviceCert:
    """What a person says of a device."""
    return DeviceCert(
        user=root.user_id(),
        node=device.node_id(),
        box_public=device.box_public(),
        name=name,
        roles=Role.laptop() if roles is None else roles,
        created_s=1_795_000_000,
        not_after_s=0,
        serial=bytes(8),
        epoch=0,
    )


def a_node(name: str, user: str = "", *, boot: bytes = b"", roles: Role | None = None) -> Node:
    """A node called `name`, of the person `user` or one of the same name.

    `boot` names the running system it is on: its own one without.
    """
    root = a_person(user or name)
    device = DeviceKeys.generate(fixed_entropy(f"node {name}"))
    cert = a_cert(root, device, name, roles)
    speaker = Speaker(
        key=device.signing_key(),
        cert=cert.signed_by(root.user_identity()),
        engines=Engines.QH3 | Engines.AIOQUIC,
        host=host_tag(boot or name.encode(), MESH),
        incarnation=fixed_entropy(f"{name}: incarnation")(16),
    )
    leaf = Leaf.make(device.sign_seed, fixed_entropy(f"{name}: leaf"))
    return Node(name, root, device, cert, leaf, speaker)


def a_roster(nodes: Iterable[Node], mesh: MeshId = MESH) -> StaticRoster:
    """The list of these."""
    return StaticRoster(mesh, (node.member for node in nodes))
