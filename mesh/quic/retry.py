"""Proof of address without state: the token a stranger brings back before we remember anything.

    token = u64 issued_ms | u8 len | original cid | mac32
    mac   = keyed BLAKE3 over (address, issued_ms, original cid, retry cid), key random per start

A token opens nothing but a handshake: it says that whoever sends can also receive at this address.
"""

from core.crypto import Entropy, equal, system_entropy
from core.hashing import derive, keyed
from core.labels import Label
from mesh.quic.header import CID_BYTES
from mesh.wire import Address

_VALID_MS = 10_000
_MAC_BYTES = 32


class RetryTokens:
    """Makes and checks tokens; forgets them all when the process ends."""

    def __init__(self, entropy: Entropy = system_entropy) -> None:
        self._entropy = entropy
        self._key = derive(Label.RETRY, entropy(_MAC_BYTES))

    def issue(self, to: Address, original_cid: bytes, now: float) -> tuple[bytes, bytes]:
        """The connection id a Retry announces, and the token that belongs to it."""
        retry_cid = self._entropy(CID_BYTES)
        issued = int(now * 1000).to_bytes(8)
        body = issued + bytes([len(original_cid)]) + original_cid
        return retry_cid, body + self._mac(to, body, retry_cid)

    def original_cid_untrusted(
        self, token: bytes, source: Address, retry_cid: bytes, now: float
    ) -> bytes | None:
        """The id the first attempt was addressed to, or None if the token is not good."""
        body, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        if len(body) < 9 or len(body) != 9 + body[8]:
            return None
        if not equal(mac, self._mac(source, body, retry_cid)):
            return None
        age_ms = int(now * 1000) - int.from_bytes(body[:8])
        return body[9:] if 0 <= age_ms <= _VALID_MS else None

    def _mac(self, address: Address, body: bytes, retry_cid: bytes) -> bytes:
        text = str(address).encode()
        parts = (text, body, retry_cid)
        return keyed(self._key, b"".join(len(p).to_bytes(2) + p for p in parts))
