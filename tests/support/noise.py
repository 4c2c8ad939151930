"""Packets of a real connection, bent in every way, blown at both its ends."""

from dataclasses import dataclass, field
from random import Random

from mesh.quic.header import first_packet_untrusted
from mesh.quic.initial import is_sealed_first_packet
from mesh.wire import Address
from tests.support.wires import Net, Pair, lapse, talks

SPOOFED = Address("203.0.113.1", 1)
BATCH = 200


def bent(data: bytes, rng: Random) -> bytes:
    """One of the ways a packet can be wrong."""
    way = rng.randrange(6)
    if way == 0:
        return rng.randbytes(rng.choice((0, 1, 8, 9, 20, 100, 1_200, 1_350)))
    if way == 1:
        return data[: rng.randrange(len(data))]
    if way == 2:
        return data + rng.randbytes(rng.choice((1, 100, 40_000)))
    if way == 3:
        return data[: rng.randrange(1, 30)].ljust(1_250, rng.randbytes(1))
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 50))):
        at = rng.randrange(min(len(data), rng.choice((30, len(data)))))
        spoiled[at] ^= rng.randrange(1, 256)
    return bytes(spoiled) if spoiled != data else b""


def is_noise(data: bytes) -> bool:
    """Whether it is no whole first packet: what follows one does not spoil it."""
    return first_packet_untrusted(data) is None or not is_sealed_first_packet(data)


@dataclass
class Noise:
    """Bent packets and where they go; the same ones again after a while."""

    net: Net
    rng: Random
    packets: list[tuple[bytes, Address]] = field(default_factory=list)

    async def capture(self, pair: Pair, kinds: int) -> None:
        """Overhear two connections, from the first packet to the last, and bend what was said."""
        self.net.seen = []
        await talks(pair, 20_000)
        other = await pair.near_end.dial(pair.far_wire.local, pair.near.machine.kind)
        await pair.far_end.accept()
        other.close()
        await lapse(5)
        captured = [(data, to) for data, _, to in self.net.seen]
        self.net.seen = None
        while len(self.packets) < kinds:
            data, to = self.rng.choice(captured)
            wrong = bent(data, self.rng)
            if is_noise(wrong):
                self.packets.append((wrong, to))

    async def blow(self, pair: Pair, count: int) -> int:
        """Send this many, from the peer's address and from elsewhere; how many were answered."""
        wires = pair.near_wire, pair.far_wire
        sends = sum(wire.sends for wire in wires)
        for number in range(count):
            data, to = self.packets[number % len(self.packets)]
            peer = wires[0] if to == wires[1].local else wires[1]
            self.net.deliver(data, SPOOFED if number % 2 else peer.local, to)
            if number % BATCH == 0:
                await lapse(0.01)
                pair.near_end.heard.clear()  # type: ignore[attr-defined]  # what is no QUIC
                pair.far_end.heard.clear()  # type: ignore[attr-defined]
        await lapse(1)
        return sum(wire.sends for wire in wires) - sends
