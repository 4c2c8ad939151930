"""Both engines without sockets: what the tests of the machines share."""

import pytest

from mesh.quic.aioquic_engine import AioquicEngine
from mesh.quic.engine import Engine, Kind, Machine, Terms
from mesh.quic.header import first_packet_untrusted
from mesh.quic.qh3_engine import Qh3Engine
from mesh.wire import Address
from tests.support.wires import a_leaf

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
ENGINES: dict[Kind, Engine] = {Kind.QH3: Qh3Engine(), Kind.AIOQUIC: AioquicEngine()}
NEAR, FAR = Address("10.0.0.1", 1_000), Address("10.0.0.2", 2_000)
TERMS = Terms(("portal/1",), a_leaf("peer"), 30.0, 1_350)


def a_dial(kind: Kind, terms: Terms = TERMS) -> tuple[Machine, list[bytes]]:
    """A machine that dials, and its first datagrams."""
    machine = ENGINES[kind].dial(terms, FAR, 1.0)
    return machine, [data for data, _ in machine.outgoing(1.0)]


def an_answer(kind: Kind, first: list[bytes], terms: Terms = TERMS) -> Machine:
    """What becomes of first datagrams at the other side."""
    packet = first_packet_untrusted(first[0])
    assert packet is not None
    machine = ENGINES[kind].answer(terms, packet.destination, None)
    for data in first:
        machine.receive(data, len(data), NEAR, 1.0)
    return machine


class Two:
    """Two machines with a path between them, and a clock."""

    def __init__(self, near: Machine, far: Machine) -> None:
        self.near, self.far, self.now = near, far, 1.0

    @classmethod
    def connected(cls, kind: Kind, near: Terms = TERMS, far: Terms = TERMS) -> "Two":
        """After the handshake."""
        machine, first = a_dial(kind, near)
        two = cls(machine, an_answer(kind, first, far))
        two.pump()
        return two

    def pump(self, rounds: int = 8, seconds: float = 0.001) -> None:
        """Let both sides say what they have to say."""
        for _ in range(rounds):
            self.now += seconds
            for one, other, source in ((self.near, self.far, NEAR), (self.far, self.near, FAR)):
                for data, _ in one.outgoing(self.now):
                    other.receive(data, len(data), source, self.now)
                if (at := one.timer()) is not None and at <= self.now:
                    one.tick(self.now)
