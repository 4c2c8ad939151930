"""The fast engine: qh3, whose packets are built and opened by its own Rust core. QUIC version 1.

Its receive windows widen with what arrives, whether it is read or not, and it sends as fast as its
own loss-based control lets it; mesh/quic/flow.py bounds the first, short batches the second.

One packet from another address than before, and it asks that path for an answer before it sends
anything else to anybody: if none comes, it sends nothing any more. So its core is told one address
for ever, and mesh/quic/roaming.py knows where the peer is.

The only module that imports qh3.
"""

import ssl
from typing import Any

from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.packet import encode_quic_retry
from qh3.tls import SignatureAlgorithm

from core import limits
from mesh.quic import common
from mesh.quic.engine import Figures, FirstPacket, Kind, Machine, Terms
from mesh.quic.roaming import Roaming
from mesh.wire import Address

_SOMEWHERE = ("192.0.2.1", 443)  # what its core is told, for every peer
_AUTHENTIC = 2  # in its core's report of what was received


class Qh3Machine(common.Common):
    """A connection of the fast engine."""

    kind = Kind.QH3
    refusals = (ValueError, RuntimeError, QuicConnectionError)

    def __init__(self, quic: Any, peer: Address | None = None) -> None:
        super().__init__(quic)
        self._roaming = Roaming(peer, may_move=False) if peer else None
        self._question = 0  # the number of the ping that proves an address

    @property
    def is_idle(self) -> bool:
        """Whether no packet of the peer has been understood yet."""
        core = self._quic._core
        return core is None or not core.received_authenticated_packet

    @property
    def peer(self) -> Address | None:
        """Where its datagrams go to at present."""
        return self._roaming.to if self._roaming is not None else None

    def leaf(self) -> bytes:
        """DER of the peer's certificate; empty at the responder."""
        certificate = self._quic.get_peercert()
        return certificate.public_bytes() if certificate is not None else b""

    def figures(self) -> Figures:
        """What it knows of its path."""
        core = self._quic._core
        if core is None:
            return Figures(0.0, 0, 0, 0)
        return Figures(
            core.smoothed_rtt or 0.0, core.loss_total, core.congestion_window, core.bytes_in_flight
        )

    def _receive(self, data: bytes, segment_bytes: int, source: Address, now: float) -> None:
        if self._roaming is None:
            self._roaming = Roaming(source, may_move=True)
        if source != self._roaming.home:
            self._receive_from_elsewhere(data, segment_bytes, source, now)
            return
        self._roaming.heard_home(now)
        if len(data) <= segment_bytes:
            self._quic.receive_datagram(data, _SOMEWHERE, now)
        else:
            self._quic.receive_gro_buffer(data, segment_bytes, _SOMEWHERE, now)

    def _receive_from_elsewhere(
        self, data: bytes, segment_bytes: int, source: Address, now: float
    ) -> None:
        roaming, quic = self._roaming, self._quic
        if roaming is None or not quic._handshake_complete:
            return  # nobody moves during the handshake (RFC 9000, 9)
        report = quic._call_core(
            quic._core.receive_gro_buffer, data, segment_bytes, _SOMEWHERE, now
        )
        quic._drain_core()
        if report[_AUTHENTIC] and roaming.heard_elsewhere(source, len(data), now):
            self._question += 1
            quic.send_ping(self._question)

    def _outgoing(self, now: float) -> list[tuple[bytes, Address]]:
        # At most one train: its core would hand over a whole congestion window at once.
        core, roaming = self._quic._core, self._roaming
        datagrams: list[tuple[bytes, Address]] = []
        while core is not None and roaming is not None:
            transmit = core.poll_transmit(now)
            if transmit is None:
                break
            if roaming.may_send(len(transmit[0]), now):
                datagrams.append((transmit[0], roaming.to))
            if len(datagrams) == limits.UDP_TRAIN_SEGMENTS_MAX:
                break
        return datagrams

    def _noticed(self, event: Any) -> None:
        is_answer = type(event).__name__ == "PingAcknowledged" and event.uid == self._question
        if is_answer and self._roaming is not None:
            self._roaming.was_proved()


class Qh3Engine:
    """Makes connections of the fast engine."""

    kind = Kind.QH3

    def dial(self, terms: Terms, to: Address, now: float) -> Machine:
        """A connection whose first datagrams are in `outgoing`."""
        settings = _settings(terms, is_client=True)
        settings.verify_mode = ssl.CERT_NONE  # the leaf is compared with the NodeID instead
        settings.signature_algorithms = [SignatureAlgorithm.ED25519]
        quic = QuicConnection(configuration=settings)
        quic.connect(_SOMEWHERE, now)
        return Qh3Machine(quic, to)

    def answer(self, terms: Terms, original_cid: bytes, retry_cid: bytes | None) -> Machine:
        """What becomes of a first packet."""
        settings = _settings(terms, is_client=False)
        settings.load_cert_chain(terms.leaf.pem, terms.leaf.key.reveal())
        quic = QuicConnection(
            configuration=settings,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        return Qh3Machine(quic)

    def retry(self, packet: FirstPacket, retry_cid: bytes, token: bytes) -> bytes:
        """The packet that asks a stranger to prove its address."""
        retry: bytes = encode_quic_retry(
            version=packet.version,
            source_cid=retry_cid,
            destination_cid=packet.source,
            original_destination_cid=packet.destination,
            retry_token=token,
        )
        return retry


def _settings(terms: Terms, *, is_client: bool) -> Any:
    settings = common.configuration(QuicConfiguration, terms, is_client=is_client)
    settings.supported_versions = [Kind.QH3.version]
    # Its probes end at 1,472 bytes; what a path carries is found out by ours, for both engines.
    settings.probe_datagram_size = False
    return settings
