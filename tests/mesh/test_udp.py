"""The real wire, on loopback sockets; what the kernel may refuse is refused by a stand-in."""

import errno
import socket
import sys

import pytest
import trio

from core import limits
from mesh.quic.endpoint import Endpoint, Setup
from mesh.udp import UdpWire
from mesh.wire import Address, Arrival
from tests.support.engines import EACH
from tests.support.wires import a_leaf, read_all

LOOPBACK = "127.0.0.1"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="trains are Linux's")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


class Stubborn:
    """A socket whose calls can be made to fail."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.train_error: int | None = None
        self.single_errors: dict[int, int] = {}  # by the length of the datagram
        self.room: int | None = None
        self.reads: list[object] = []
        self.trains = self.singles = 0

    def fileno(self) -> int:
        return self._raw.fileno()

    def sendmsg(self, buffers, *rest):
        self.trains += 1
        if self.train_error is not None:
            raise OSError(self.train_error, "no trains")
        return self._raw.sendmsg(buffers, *rest)

    def sendto(self, data, target):
        if self.room is not None:
            if not self.room:
                raise BlockingIOError(errno.EAGAIN, "full")
            self.room -= 1
        self.singles += 1
        if (error := self.single_errors.get(len(data))) is not None:
            raise OSError(error, "refused")
        return self._raw.sendto(data, target)

    def recvmsg(self, *sizes):
        if self.reads:
            read = self.reads.pop(0)
            if isinstance(read, OSError):
                raise read
            return read
        return self._raw.recvmsg(*sizes)


def stubborn(wire: UdpWire) -> Stubborn:
    raw = Stubborn(wire._raw)
    wire._raw = raw
    return raw


def run(test, host: str = LOOPBACK, other: str | None = None):
    """Run `test(near, far)` on two wires."""

    async def main():
        near, far = UdpWire.bind(host, 0), UdpWire.bind(other or host, 0)
        try:
            with trio.fail_after(30):
                await test(near, far)
        finally:
            near.close()
            far.close()

    trio.run(main)


async def gather(wire: UdpWire, count: int) -> list[bytes]:
    """This many datagrams, taken apart."""
    found: list[bytes] = []
    while len(found) < count:
        for data, size, _ in await wire.receive():
            found += [data[at : at + size] for at in range(0, max(1, len(data)), size)]
    return found


@pytest.mark.parametrize(
    "host", [LOOPBACK, pytest.param("::1", marks=needs_ipv6)], ids=["ipv4", "ipv6"]
)
def test_datagrams_arrive_with_their_address(host):
    async def test(near, far):
        assert near.local.host == host
        assert near.local.port
        assert near.send([b"hello"], far.local) == 1
        assert await far.receive() == [Arrival(b"hello", 5, near.local)]
        assert far.send([b""], near.local) == 1
        assert await near.receive() == [Arrival(b"", 1, far.local)]

    run(test, host)


@needs_ipv6
def test_one_socket_serves_both_families():
    async def test(near, far):
        to = Address(LOOPBACK, far.local.port)
        near.send([b"four"], to)
        [arrival] = await far.receive()
        assert arrival.source == near.local, "written as people know it"
        far.send([b"back"], arrival.source)
        [answer] = await near.receive()
        assert answer == Arrival(b"back", 4, to)

    run(test, LOOPBACK, "::")


@linux_only
def test_trains_arrive_whole():
    async def test(near, far):
        raw = stubborn(near)
        datagrams = [bytes([i]) * 1_000 for i in range(150)] + [b"short", b"shorter"[:3]]
        for size in (700, 900):
            datagrams += [bytes([i]) * size for i in range(3)]
        assert near.send(datagrams, far.local) == len(datagrams)
        assert await gather(far, len(datagrams)) == datagrams
        assert raw.trains <= 6
        assert raw.singles <= 3

    run(test)


@linux_only
def test_no_train_is_longer_than_the_kernel_takes():
    async def test(near, _far):
        small = [bytes(100)] * 200
        assert len(near._train(small, 0)) == limits.UDP_TRAIN_SEGMENTS_MAX
        large = [bytes(8_000)] * 20
        assert sum(map(len, near._train(large, 0))) <= limits.UDP_TRAIN_BYTES_MAX
        assert near._train([bytes(10), bytes(11)], 0) == [bytes(10)]
        assert near._train([bytes(10), bytes(9), bytes(9)], 0) == [bytes(10), bytes(9)]

    run(test)


@linux_only
@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_card_that_takes_no_trains_is_asked_once(error):
    async def test(near, far):
        raw = stubborn(near)
        raw.train_error = error
        datagrams = [bytes([i]) * 100 for i in range(20)]
        assert near.send(datagrams, far.local) == 20
        assert near.send(datagrams, far.local) == 20
        assert await gather(far, 40) == datagrams * 2
        assert raw.trains == 1

    run(test)


@linux_only
def test_a_train_too_large_for_the_path_says_nothing_of_the_card():
    async def test(near, far):
        raw = stubborn(near)
        raw.train_error = errno.EINVAL
        raw.single_errors = {1_350: errno.EMSGSIZE}
        datagrams = [bytes(1_350)] * 5 + [bytes(20)]
        assert near.send(datagrams, far.local) == 6, "what is too large is lost, as anything may be"
        assert await gather(far, 1) == [bytes(20)]
        raw.train_error, raw.trains = None, 0
        assert near.send([bytes(30)] * 5, far.local) == 5
        assert raw.trains == 1

    run(test)


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS])
def test_what_the_network_refuses_is_lost(error):
    async def test(near, far):
        raw = stubborn(near)
        near._trains = False
        raw.single_errors = {7: error}
        assert near.send([b"before", b"refused", b"after"], far.local) == 3
        assert await gather(far, 2) == [b"before", b"after"]

    run(test)


def test_a_full_socket_takes_no_more_until_it_is_writable():
    async def test(near, far):
        raw = stubborn(near)
        near._trains = False
        raw.room = 2
        datagrams = [b"1", b"2", b"3", b"4"]
        assert near.send(datagrams, far.local) == 2
        assert near.send(datagrams[2:], far.local) == 0
        raw.room = None
        await near.writable()
        assert near.send(datagrams[2:], far.local) == 2
        assert await gather(far, 4) == datagrams

    run(test)


def test_hearsay_loses_nothing():
    async def test(near, far):
        raw = stubborn(far)
        raw.reads = [
            (b"first", [], 0, (LOOPBACK, 7)),
            ConnectionRefusedError(errno.ECONNREFUSED, "nobody there"),
            (b"second", [], 0, (LOOPBACK, 7)),
            OSError(errno.EHOSTUNREACH, "no route"),
        ]
        near.send([b"third"], far.local)
        assert [a.data for a in await far.receive()] == [b"first", b"second", b"third"]
        raw.reads = [OSError(errno.EBADF, "closed")]
        near.send([b"x"], far.local)
        with pytest.raises(OSError, match="closed"):
            await far.receive()

    run(test)


def test_a_batch_is_bounded():
    async def test(near, far):
        near._trains = False
        for number in range(50):
            near.send([bytes([number])], far.local)
        first = await far.receive()
        assert len(first) == limits.UDP_BATCH_ARRIVALS_MAX
        assert len(first) + len(await far.receive()) == 50

    run(test)


def test_who_waits_hears_that_it_is_closed():
    async def test(near, far):
        async with trio.open_nursery() as nursery:

            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await far.receive()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            far.close()
        far.close()
        assert far.send([b"to nobody"], near.local) == 1, "lost, as anything may be"

    run(test)


def test_a_port_that_is_taken_is_named():
    async def test(near, _far):
        with pytest.raises(OSError, match=str(near.local.port)) as caught:
            UdpWire.bind(*near.local)
        assert caught.value.filename == str(near.local)

    run(test)


def test_addresses_of_one_link_say_which():
    async def test(near, _far):
        address = near._address(("fe80::1", 5, 0, 3))
        assert address == Address("fe80::1%3", 5)
        assert near._target(address) == ("fe80::1", 5, 0, 3)
        assert near._address(("2001:db8::1", 5, 0, 0)) == Address("2001:db8::1", 5)

    run(test)


def test_the_memory_of_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr("mesh.udp._ADDRESSES_CACHED_MAX", 10)

    async def test(near, _far):
        one = near._address(("192.0.2.1", 1))
        assert near._address(("192.0.2.1", 1)) is one
        for port in range(100):
            near._address(("192.0.2.1", port))
            assert len(near._addresses) <= 10

    run(test)


@EACH
@pytest.mark.slow
def test_connections_between_the_same_two_addresses_do_not_mix(kind):
    """Their packets come in the same trains."""

    async def test(near_wire, far_wire):
        size, count = 400_000, 3
        ends = [
            Endpoint(wire, Setup(a_leaf(str(wire.local))), lambda *_: None)
            for wire in (near_wire, far_wire)
        ]
        async with trio.open_nursery() as nursery:
            for end in ends:
                await nursery.start(end.run)

            async def send(number):
                connection = await ends[0].dial(far_wire.local, kind)
                stream = await connection.open_stream()
                await stream.send_all(bytes([number]) * size)
                await stream.send_eof()
                assert await read_all(stream) == bytes([number])

            async def serve(stream):
                whole = await read_all(stream)
                assert whole == whole[:1] * size
                await stream.send_all(whole[:1])
                await stream.send_eof()

            async with trio.open_nursery() as both:
                for number in range(count):
                    both.start_soon(send, number)
                for _ in range(count):
                    connection = await ends[1].accept()
                    both.start_soon(serve, await connection.accept_stream())
            nursery.cancel_scope.cancel()

    run(test)
