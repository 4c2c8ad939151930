"""The reference engine: aioquic, all of it Python, with our congestion control. QUIC version 2.

Slower by the packet, and the better one where packets get lost: its control can be replaced
(mesh/quic/rate.py). Private parts used: `_initialize`, `_write_stream_limits`,
`_write_connection_limits`, `_loss`, `_state`, `_streams`, `_close_event`;
tests/mesh/quic/test_aioquic_engine.py notices when one of them moves. With mesh/quic/rate.py and
mesh/quic/initial.py the only module that imports aioquic; it is loaded when it is first needed.
"""

import ssl
from collections.abc import Iterable
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.packet import encode_quic_retry
from aioquic.quic.packet_builder import QuicSentPacket

from core import limits
from mesh import leaf
from mesh.quic import common, rate
from mesh.quic.engine import Figures, FirstPacket, Kind, Machine, Terms
from mesh.wire import Address


class _Control(rate.RateControl):
    """Ours, counting what people are shown."""

    lost_packets = 0

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        lost = list(packets)
        self.lost_packets += len(lost)
        super().on_packets_lost(now=now, packets=lost)


class _Quic(QuicConnection):
    """aioquic with the one kind of key we use, and windows that slide instead of doubling."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._loss._cc = _Control(max_datagram_size=self._max_datagram_size)
        rate.steer(self._loss, self._max_datagram_size)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
        self.tls._supported_groups = [tls.Group.X25519]

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        # Each probe doubles the wait for the next, and while they go unanswered nothing else may go
        # out: a cable that is back has to be noticed before the link is given up.
        loss, wait_s = self._loss, self._loss.get_probe_timeout()
        while loss._pto_count and wait_s * 2**loss._pto_count > limits.PROBE_SECONDS_MAX:
            loss._pto_count -= 1

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        # The parent doubles the limit when half of it is used, so after a long transfer a peer
        # could leave a hole and make us keep all that follows. Ours is a window over what was
        # delivered; with an equal `used` the parent only writes the frame.
        window = self._configuration.max_stream_data
        receiver, given = stream.receiver, stream.max_stream_data_local
        delivered = receiver.starting_offset()
        if given and delivered + window - given >= window // 4:
            stream.max_stream_data_local = delivered + window
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        window, limit = self._configuration.max_data, self._local_max_data
        if limit.value - limit.used < window // 4 * 3:
            # `used` counts what waits behind holes as well: that does not widen the window.
            held = sum(len(stream.receiver._buffer) for stream in self._streams.values())
            limit.value = max(limit.value, limit.used - held + window)
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used


class AioquicMachine(common.Common):
    """A connection of the reference engine."""

    kind = Kind.AIOQUIC
    refusals = (ValueError, RuntimeError, AssertionError, LookupError)

    @property
    def is_idle(self) -> bool:
        """Whether no packet of the peer has been understood yet."""
        return self._quic._state is QuicConnectionState.FIRSTFLIGHT

    @property
    def peer(self) -> Address | None:
        """Where its datagrams go to at present."""
        address = self._quic.get_peer_address()
        return Address(*address) if address is not None else None

    def leaf(self) -> bytes:
        """DER of the peer's certificate; empty at the responder."""
        certificate = self._quic.tls._peer_certificate
        return leaf.der_of(certificate) if certificate is not None else b""

    def figures(self) -> Figures:
        """What it knows of its path."""
        loss = self._quic._loss
        lost = loss._cc.lost_packets
        return Figures(loss._rtt_smoothed, lost, loss.congestion_window, loss.bytes_in_flight)

    def _receive(self, data: bytes, segment_bytes: int, source: Address, now: float) -> None:
        streams = self._quic._streams
        for start in range(0, len(data), segment_bytes):
            self._quic.receive_datagram(data[start : start + segment_bytes], source, now)
            # Every hole is an object, and a step of each search: crumbs far apart would stop us.
            if any(len(s.receiver._ranges) > limits.STREAM_HOLES_MAX for s in streams.values()):
                raise ValueError("a stream in crumbs")


class AioquicEngine:
    """Makes connections of the reference engine."""

    kind = Kind.AIOQUIC

    def dial(self, terms: Terms, to: Address, now: float) -> Machine:
        """A connection whose first datagrams are in `outgoing`."""
        settings = _settings(terms, is_client=True)
        settings.verify_mode = ssl.CERT_NONE  # the leaf is compared with the NodeID instead
        quic = _Quic(configuration=settings)
        quic.connect(to, now)
        return AioquicMachine(quic)

    def answer(self, terms: Terms, original_cid: bytes, retry_cid: bytes | None) -> Machine:
        """What becomes of a first packet."""
        settings = _settings(terms, is_client=False)
        settings.certificate, settings.private_key = terms.leaf.objects()
        quic = _Quic(
            configuration=settings,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        return AioquicMachine(quic)

    def retry(self, packet: FirstPacket, retry_cid: bytes, token: bytes) -> bytes:
        """The packet that asks a stranger to prove its address."""
        return encode_quic_retry(
            version=packet.version,
            source_cid=retry_cid,
            destination_cid=packet.source,
            original_destination_cid=packet.destination,
            retry_token=token,
        )


def _settings(terms: Terms, *, is_client: bool) -> Any:
    settings = common.configuration(QuicConfiguration, terms, is_client=is_client)
    settings.supported_versions = [Kind.AIOQUIC.version]
    return settings
