"""TLS 1.3 over any stream: bulk at the speed of the cipher, and an end for each direction.

trio.SSLStream hands over one record of 16 KiB at a time and knows no half-close; here a read
decrypts all that has come, and close_notify ends one direction only, as RFC 8446, 6.1 has it. A
stream that ends without close_notify was cut, and says so. No certificate is checked here but by
its hash; no session tickets, so nothing is resumed and no data is early.
"""

import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from core import limits
from mesh.lanes.lane import Buffer
from mesh.leaf import Leaf
from mesh.quic.stream import OneAtATime

_HANDSHAKE_READ_BYTES = 16 * limits.KIB


def accepting(leaf: Leaf) -> ssl.SSLContext:
    """How the side that listens does TLS."""
    context = _strict(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    with _as_file(leaf.pem) as certificate, _as_file(leaf.key.reveal()) as key:
        context.load_cert_chain(certificate, key)
    return context


def connecting() -> ssl.SSLContext:
    """How the side that connects does TLS; it compares the peer's certificate afterwards."""
    context = _strict(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _strict(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A name under which these bytes can be read once, without a disk: `ssl` takes only files."""
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, data)  # far less than a pipe holds
        finally:
            os.close(writing)
        folder = "/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd"
        yield f"{folder}/{reading}"
    finally:
        os.close(reading)


async def handshake(
    transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool
) -> "TlsStream":
    """TLS over `transport`, ready for use; trio.BrokenResourceError if the peer does none."""
    tls = TlsStream(transport, context, server_side=server_side)
    await tls.shake_hands()
    return tls


class TlsStream(trio.abc.HalfCloseableStream):
    """Made by `handshake`.

    What comes and what goes never wait for each other: the engine has nothing to send because of
    what it read, or it can wait for the next thing we send. A cancelled `send_all` may have sent
    part of a record, so nothing more can be sent after it.
    """

    def __init__(
        self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool
    ) -> None:
        self._transport = transport
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._arrived, self._leaving, server_side=server_side)
        self._sending = OneAtATime("another task is sending on this lane")
        self._receiving = OneAtATime("another task is receiving from this lane")
        self._closed = False
        self._broken = False
        self._sent_half = False
        self._said_eof = False
        self._heard_eof = False
        self._early = bytearray()  # decrypted before anybody asked

    async def shake_hands(self) -> None:
        """Before anything else."""
        done = False
        while not done:
            with self._translated():
                try:
                    self._engine.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
            if self._leaving.pending:
                await self._transport.send_all(self._leaving.read())
            if not done:
                await self._fetch(_HANDSHAKE_READ_BYTES)

    def peer_certificate(self) -> bytes:
        """What the peer has proved to hold the key of."""
        return self._engine.getpeercert(binary_form=True) or b""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLError as e:
            self._broken = True
            raise trio.BrokenResourceError("what comes is not this TLS stream") from e

    # --- sending ----------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Encrypt and send, a batch after the other."""
        with self._sending:
            self._check_sendable()
            if not data:
                await trio.lowlevel.checkpoint()
            with memoryview(data) as view, view.cast("B") as plain:
                for start in range(0, len(plain), limits.LANE_BATCH_BYTES):
                    with plain[start : start + limits.LANE_BATCH_BYTES] as batch:
                        await self._send_batch(batch)

    async def _send_batch(self, batch: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # while nothing is on its way
        written = 0
        with self._translated():
            while written < len(batch):
                written += self._engine.write(batch[written:])
        await self._send_leaving()

    async def _send_leaving(self) -> None:
        self._sent_half = True  # and stays so if this is cancelled
        await self._transport.send_all(self._leaving.read())
        self._sent_half = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        with self._sending:
            self._check_sendable()
            await self._transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more comes from here."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._said_eof and not self._closed:
                return
            self._check_sendable()
            # The engine looks for the peer's close_notify at once and gives up on anything else
            # that it finds, so nothing must be left there to find.
            self._decrypt_early()
            self._say_eof()
            await self._send_leaving()

    def _say_eof(self) -> None:
        self._said_eof = True
        with self._translated(), suppress(ssl.SSLWantReadError):  # the peer's own end may be far
            self._engine.unwrap()

    def _check_sendable(self) -> None:
        if self._closed or self._said_eof:
            raise trio.ClosedResourceError("this direction of the lane was closed")
        if self._broken or self._sent_half:
            raise trio.BrokenResourceError("the lane broke before")

    # --- receiving --------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What has come, decrypted; nothing once the peer has said that it has finished."""
        size = limits.LANE_BATCH_BYTES if max_bytes is None else max_bytes
        if not isinstance(size, int):
            raise TypeError("max_bytes is a number of bytes")
        if size < 1:
            raise ValueError("max_bytes is at least 1")
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError("this lane was closed")
            if self._broken:
                raise trio.BrokenResourceError("the lane broke before")
            await trio.lowlevel.checkpoint()
            while True:
                data = self._early_part(size) or self._decrypt(size)
                if data or self._heard_eof:
                    return data
                await self._fetch(limits.LANE_BATCH_BYTES)

    async def _fetch(self, size: int) -> None:
        data = await self._transport.receive_some(size)
        if self._closed:
            raise trio.ClosedResourceError("this lane was closed")
        if not data:
            self._broken = True
            raise trio.BrokenResourceError("the lane was cut")
        self._arrived.write(data)

    def _decrypt(self, size: int) -> bytearray:
        """Of what has arrived, as much as fits; nothing if no whole record is there."""
        # No more can come out than is there, but for the beginning of a record that the engine has
        # taken already: that much waits for the next call.
        data = bytearray(min(size, self._arrived.pending + self._engine.pending()))
        got = 0
        with self._translated(), memoryview(data) as view, suppress(ssl.SSLWantReadError):
            while got < len(data) and not self._heard_eof:
                read = self._read_into(view[got:])
                self._heard_eof = read == 0
                got += read
        del data[got:]
        return data

    def _read_into(self, view: memoryview) -> int:
        try:
            return int(self._engine.read(len(view), view))
        except ssl.SSLZeroReturnError:
            return 0

    def _decrypt_early(self) -> None:
        while not self._heard_eof and (data := self._decrypt(limits.LANE_BATCH_BYTES)):
            self._early += data

    def _early_part(self, size: int) -> bytearray:
        part = self._early[:size]
        del self._early[:size]
        return part

    # --- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Say goodbye if the peer takes it soon, and end."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        says_goodbye = not (self._broken or self._sent_half or self._said_eof)
        self._closed = True
        try:
            if says_goodbye:
                with trio.move_on_after(limits.LANE_GOODBYE_SECONDS):
                    await self._goodbye()
        finally:
            await trio.aclose_forcefully(self._transport)

    async def _goodbye(self) -> None:
        # What it finds unread does not matter: close_notify is written before it looks.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with suppress(trio.BrokenResourceError):
                self._say_eof()
            await self._transport.send_all(self._leaving.read())
