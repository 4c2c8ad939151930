import socket
from contextlib import contextmanager

import pytest
import trio

from core import limits
from core.secret import Secret
from mesh.errors import NotTrusted, Unreachable
from mesh.lanes import tls
from mesh.lanes.offer import Kind, TcpWay
from mesh.lanes.opening import Reach
from mesh.lanes.tcp import TcpDoor, connect
from mesh.leaf import Leaf, leaf_hash
from mesh.wire import Address
from tests.support.entropy import fixed_entropy
from tests.support.lanes import HERE, in_house, open_files


@contextmanager
def listening_door(door):
    with door.listening() as (listener,):
        yield listener


def test_one_port_serves_both_families():
    async def main():
        door = TcpDoor()
        assert door.port == 0
        with listening_door(door) as listener:
            assert door.port > 0
            hosts = [HERE, "::1"] if socket.has_dualstack_ipv6() else [HERE]
            for host in hosts:
                connected = await trio.open_tcp_stream(host, door.port)
                async with connected, await listener.accept() as accepted:
                    assert door.source(accepted) in {HERE, "::/64"}
        assert door.port == 0

    trio.run(main)


def test_without_ipv6_there_is_ipv4(monkeypatch):
    create = socket.create_server

    def without_ipv6(address, *, family=socket.AF_INET, **kw):
        if family == socket.AF_INET6:
            raise OSError("Address family not supported by protocol")
        return create(address, family=family, **kw)

    monkeypatch.setattr(socket, "create_server", without_ipv6)

    async def main():
        with listening_door(TcpDoor()) as listener:
            assert listener.socket.family == socket.AF_INET

    trio.run(main)


def test_a_taken_port_is_an_error():
    async def main():
        with listening_door(TcpDoor(host=HERE)) as listener:
            port = listener.socket.getsockname()[1]
            with pytest.raises(OSError, match="in use"), listening_door(TcpDoor(port, HERE)):
                pass

    trio.run(main)


def test_every_process_has_a_leaf_of_its_own():
    ways = [TcpDoor(host=HERE).ways([Address(HERE, 1)])[0] for _ in range(2)]
    assert ways[0].leaf_hash != ways[1].leaf_hash
    assert ways[0].address == Address(HERE, 1)


def test_it_is_encrypted_with_the_leaf_that_was_offered():
    async def test(house):
        ours, theirs = await house.pair()
        async with ours, theirs:
            outer = theirs._raw.stream
            assert isinstance(outer, tls.TlsStream)
            (way,) = house.door.ways(house.addresses)
            assert leaf_hash(outer.peer_certificate()) == way.leaf_hash
            for stream in (outer, ours._raw.stream):
                sock = stream._transport.socket
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    in_house(Kind.TCP, None, test)


def test_who_holds_another_leaf_never_sees_the_token():
    heard = bytearray()
    stranger = tls.accepting(Leaf.make(Secret(b"m" * 32), fixed_entropy("another leaf")))

    async def sit_between(stream):
        async with stream:
            try:
                secured = await tls.handshake(stream, stranger, server_side=True)
                heard.extend(await secured.receive_some())
            except trio.BrokenResourceError:
                heard_nothing.set()

    heard_nothing = trio.Event()

    async def test(house):
        before = open_files()
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=HERE)
            nursery.start_soon(trio.serve_listeners, sit_between, [listener])
            middle = Address(HERE, listener.socket.getsockname()[1])
            offer = house.doors.offer("link", [Kind.TCP], [middle])
            with offer as offered, pytest.raises(NotTrusted):
                await house.doors.open("link", offered.offer, house.reach)
            await heard_nothing.wait()
            nursery.cancel_scope.cancel()
        assert not heard
        assert open_files() == before

    in_house(Kind.TCP, None, test)


def test_nobody_there_and_nobody_who_speaks_tls_are_unreachable():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host=HERE)
        port = listener.socket.getsockname()[1]
        way = TcpWay(Address(HERE, port), bytes(32))

        async def answer():
            async with await listener.accept() as stream:
                await stream.send_all(b"220 mail.example ESMTP\r\n")
                await stream.send_eof()
                async for _ in stream:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(trio.BrokenResourceError):
                await connect(way)
        await listener.aclose()
        with pytest.raises(Unreachable):
            await connect(way)

    trio.run(main)


def test_the_kernel_keeps_no_more_than_it_should():
    async def test(house):
        ours, theirs = await house.pair()
        async with ours, theirs:
            sock = ours._raw.stream._transport.socket
            unsent = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25))
            assert unsent == limits.LANE_UNSENT_BYTES

    in_house(Kind.TCP, None, test)


def test_hosts_the_peer_was_not_seen_at_are_not_tried():
    async def test(house):
        offer = house.doors.offer("link", [Kind.TCP], house.addresses)
        with offer as offered, pytest.raises(Unreachable):
            await house.doors.open("link", offered.offer, Reach(same_host=True))
        assert house.refusals == []

    in_house(Kind.TCP, None, test)
