"""A person with one device and a cheap way to unlock it, the same in every run."""

from core.crypto import SigningKey
from core.device_cert import DeviceCert, Role
from core.ids import VaultId
from core.keys import DeviceKeys, Root
from core.keystore import Contents
from core.secret import Secret
from core.slots import Argon2Cost
from tests.support.entropy import fixed_entropy

CHEAP = Argon2Cost(19 * 1024, 2, 1)


def a_person(seed: str = "person") -> Root:
    """The root of a made-up person."""
    return Root.from_entropy(Secret(fixed_entropy(seed)(32)))


def keystore_contents(seed: str = "person") -> Contents:
    """What their keystore holds: a device, its certificate, two vaults, an extra."""
    root = a_person(seed)
    device = DeviceKeys.generate(fixed_entropy(f"{seed}'s device"))
    identity: SigningKey = root.user_identity()
    cert = DeviceCert(
        user=root.user_id(),
        node=device.node_id(),
        box_public=device.box_public(),
        name="laptop",
        roles=Role.laptop(),
        created_s=1_795_000_000,
        not_after_s=0,
        serial=bytes(8),
        epoch=0,
    ).signed_by(identity)
    vaults = {
        (VaultId(bytes([n]) * 16), epoch): root.vault_master(VaultId(bytes([n]) * 16), epoch)
        for n, epoch in ((1, 0), (1, 1), (2, 0))
    }
    return Contents(device, cert, vaults, {"share seed 0": root.share_seed(0)})
