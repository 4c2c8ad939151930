import os
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from aioquic import tls as aioquic
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.secret import Secret
from mesh.lanes import tls
from mesh.lanes.memory import memory_pair
from mesh.leaf import Leaf
from tests.support.entropy import fixed_entropy
from tests.support.lanes import open_files

LEAF = Leaf.make(Secret(bytes(32)), fixed_entropy("a leaf for lanes"))
ACCEPTING = tls.accepting(LEAF)


async def both(here, there):
    """The two ends of TLS over two ends of a transport; the first has listened."""
    ends = {}

    async def shake(name, transport, context, server_side):
        ends[name] = await tls.handshake(transport, context, server_side=server_side)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, "here", here, ACCEPTING, True)
        nursery.start_soon(shake, "there", there, tls.connecting(), False)
    return ends["here"], ends["there"]


async def pair():
    return await both(*memory_pair())


async def lockstep_pair():
    return await both(*trio.testing.lockstep_stream_pair())


def in_virtual_time(test):
    async def main():
        with trio.fail_after(300):
            await test()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


@pytest.mark.slow
def test_it_is_a_stream_that_closes_in_halves():
    in_virtual_time(partial(trio.testing.check_half_closeable_stream, pair, None))


@pytest.mark.slow
def test_it_is_one_over_a_transport_that_keeps_nothing():
    check = trio.testing.check_two_way_stream
    in_virtual_time(partial(check, lockstep_pair, lockstep_pair))


def test_it_is_tls_1_3_with_the_leaf_and_without_tickets():
    async def main():
        here, there = await pair()
        assert there.peer_certificate() == LEAF.der
        assert here.peer_certificate() == b""
        assert there._engine.version() == "TLSv1.3"
        await here.send_all(b"x")
        assert await there.receive_some() == b"x"
        assert not there._engine._sslobj.session.has_ticket

    in_virtual_time(main)


def test_nothing_older_is_spoken():
    async def main():
        old = tls.connecting()
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        here, there = memory_pair()
        with pytest.RaisesGroup(trio.BrokenResourceError):
            async with trio.open_nursery() as nursery:
                for end, context, server in ((here, ACCEPTING, True), (there, old, False)):
                    shake = partial(close_after, end, context, server_side=server)
                    nursery.start_soon(shake)

    async def close_after(end, context, *, server_side):
        async with end:
            await tls.handshake(end, context, server_side=server_side)

    in_virtual_time(main)


def test_no_key_touches_a_disk_or_stays_open(monkeypatch):
    names = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self, certfile, keyfile):
        names.extend(str(Path(file).readlink()) for file in (certfile, keyfile))
        load(self, certfile, keyfile)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    before = open_files()
    tls.accepting(LEAF)
    assert all(name.startswith("pipe:") for name in names)
    assert len(names) == 2
    assert open_files() == before


@pytest.mark.slow
@given(st.binary(min_size=1, max_size=200))
def test_whatever_is_not_tls_breaks(data):
    async def main():
        here, there = memory_pair()
        await there.send_all(data)
        await there.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await tls.handshake(here, ACCEPTING, server_side=True)

    in_virtual_time(main)


class Cut(trio.abc.HalfCloseableStream):
    """A transport somebody sits on: `bend` sees all that goes."""

    def __init__(self, stream, bend):
        self.stream, self.bend = stream, bend

    async def send_all(self, data):
        await self.stream.send_all(self.bend(bytes(data)))

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self):
        await self.stream.send_eof()

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def aclose(self):
        await self.stream.aclose()


def test_a_bent_byte_breaks_it_and_keeps_it_broken():
    async def main():
        bends = []
        here, there = memory_pair()
        bent = Cut(there, lambda data: data[:-1] + bytes([data[-1] ^ bool(bends)]))
        here, there = await both(here, bent)
        bends.append(True)
        await there.send_all(b"x" * 100)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await here.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await here.send_all(b"y")

    in_virtual_time(main)


def test_an_end_without_goodbye_is_no_end():
    async def main():
        here, there = await pair()
        await there.send_all(b"some")
        there._transport.cut()
        assert await here.receive_some() == b"some"
        with pytest.raises(trio.BrokenResourceError, match="cut"):
            await here.receive_some()

    in_virtual_time(main)


def test_what_came_before_our_end_is_not_lost():
    async def main():
        here, there = await pair()
        sent = os.urandom(200_000)
        await here.send_all(sent)
        got = bytes(await there.receive_some(1000))  # the rest lies undecrypted within
        await there.send_eof()
        await there.send_eof()
        await here.send_all(b"and more")
        await here.aclose()
        while part := await there.receive_some(70_001):
            got += part
        assert got == sent + b"and more"
        assert await there.receive_some() == b""

    in_virtual_time(main)


def test_an_end_says_goodbye_only_to_who_listens():
    # A peer that reads nothing holds up the close for a second, and no longer.
    async def main():
        here, there = memory_pair()
        here, there = await both(here, there)
        with trio.move_on_after(5):
            await here.send_all(bytes(2 * limits.LANE_MEMORY_BYTES))
        began = trio.current_time()
        await here.aclose()
        assert trio.current_time() == began  # half a record may have left: nothing can follow
        with pytest.raises(trio.ClosedResourceError):
            await here.send_all(b"")

    in_virtual_time(main)

    async def stuck():
        here, _ = await lockstep_pair()
        began = trio.current_time()
        await here.aclose()
        assert trio.current_time() - began == limits.LANE_GOODBYE_SECONDS

    in_virtual_time(stuck)


def test_a_cancelled_send_lets_nothing_follow():
    async def main():
        here, _ = await lockstep_pair()
        with trio.move_on_after(1):
            await here.send_all(b"lost")
        with pytest.raises(trio.BrokenResourceError):
            await here.send_all(b"found")
        with pytest.raises(trio.BrokenResourceError):
            await here.send_eof()

    in_virtual_time(main)


def flight_of(certificate, key, hello):
    """A responder's answer to a client's first record, by another implementation of TLS."""
    responder = aioquic.Context(
        is_client=False, cipher_suites=[aioquic.CipherSuite.AES_128_GCM_SHA256]
    )
    responder.certificate, _ = certificate.objects()
    _, responder.certificate_private_key = key.objects()
    secrets = {}
    responder.update_traffic_key_cb = lambda way, epoch, suite, secret: secrets.setdefault(
        (way, epoch), (aioquic.cipher_suite_hash(suite), secret)
    )
    said = {epoch: aioquic.Buffer(capacity=8_192) for epoch in aioquic.Epoch}
    responder.handle_message(hello[5:], said)
    hash_, secret = secrets[aioquic.Direction.ENCRYPT, aioquic.Epoch.HANDSHAKE]
    write_key = aioquic.hkdf_expand_label(hash_, secret, b"key", b"", 16)
    nonce = aioquic.hkdf_expand_label(hash_, secret, b"iv", b"", 12)
    inner = said[aioquic.Epoch.HANDSHAKE].data + b"\x16"
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
    sealed = AESGCM(write_key).encrypt(nonce, inner, head)
    first = said[aioquic.Epoch.INITIAL].data
    return b"\x16\x03\x03" + len(first).to_bytes(2) + first + head + sealed


def test_a_leaf_without_its_key_fails():
    def answered(key):
        arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.connecting().wrap_bio(arrived, leaving)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        arrived.write(flight_of(LEAF, key, leaving.read()))
        client.do_handshake()
        return client.getpeercert(binary_form=True)

    assert answered(LEAF) == LEAF.der
    thief = Leaf.make(Secret(b"o" * 32), fixed_entropy("another leaf"))
    with pytest.raises(ssl.SSLError, match="BAD_SIGNATURE"):
        answered(thief)
