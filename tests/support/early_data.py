"""A dialler that sends before the handshake is over, with a ticket of an earlier time (0-RTT)."""

from typing import Any

import aioquic.quic.configuration
import aioquic.quic.connection
import qh3.quic.configuration
import qh3.quic.connection
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from mesh.quic import common
from mesh.quic.engine import Kind
from tests.support.engines import FAR, NEAR, TERMS

_ED25519 = 0x0807
_LIBRARY: dict[Kind, tuple[Any, Any]] = {
    Kind.QH3: (qh3.quic.configuration.QuicConfiguration, qh3.quic.connection.QuicConnection),
    Kind.AIOQUIC: (
        aioquic.quic.configuration.QuicConfiguration,
        aioquic.quic.connection.QuicConnection,
    ),
}


class CarelessResponder:
    """The library as it comes, told to hand out tickets and to honour them."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.tickets: dict[bytes, Any] = {}

    def answer(self, first: list[bytes]) -> Any:
        settings, connection = _LIBRARY[self.kind]
        configuration = common.configuration(settings, TERMS, is_client=False)
        configuration.supported_versions = [self.kind.version]
        if self.kind is Kind.QH3:
            configuration.load_cert_chain(TERMS.leaf.pem, TERMS.leaf.key.reveal())
        else:
            configuration.certificate, configuration.private_key = TERMS.leaf.objects()
        responder = connection(
            configuration=configuration,
            original_destination_connection_id=first[0][6 : 6 + first[0][5]],
            session_ticket_fetcher=self.tickets.get,
            session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
        )
        for data in first:
            responder.receive_datagram(data, NEAR, 1.0)
        return responder


def a_dialler(kind: Kind, tickets: list[Any], ticket: Any = None) -> tuple[Any, list[bytes]]:
    settings, connection = _LIBRARY[kind]
    configuration = common.configuration(settings, TERMS, is_client=True)
    configuration.supported_versions = [kind.version]
    configuration.verify_mode = 0
    configuration.session_ticket = ticket
    if kind is Kind.QH3:
        configuration.signature_algorithms = [_ED25519]
    dialler = connection(configuration=configuration, session_ticket_handler=tickets.append)
    dialler.connect(FAR, 1.0)
    if ticket is not None:
        dialler.send_stream_data(0, b"early")
    return dialler, [data for data, _ in dialler.datagrams_to_send(1.0)]


def early_flight(responder: CarelessResponder) -> list[bytes]:
    """The first datagrams of a dialler that was here before, early data among them."""
    tickets: list[Any] = []
    dialler, first = a_dialler(responder.kind, tickets)
    other = responder.answer(first)
    for round_number in range(8):
        now = 1.01 + round_number / 100
        for one, to, source in ((other, dialler, FAR), (dialler, other, NEAR)):
            for data, _ in one.datagrams_to_send(now):
                to.receive_datagram(data, source, now)
    flight = a_dialler(responder.kind, tickets, tickets[0])[1]
    assert any(_has_early_data(data) for data in flight)
    return flight


def _has_early_data(datagram: bytes) -> bool:
    buffer = Buffer(data=datagram)
    while not buffer.eof():
        start = buffer.tell()
        if not datagram[start]:
            break
        header = pull_quic_header(buffer, host_cid_length=8)
        if header.packet_type == QuicPacketType.ZERO_RTT:
            return True
        buffer.seek(start + header.packet_length)
    return False
