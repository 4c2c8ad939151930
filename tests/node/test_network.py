"""Changes are noticed in a real kernel, in a namespace of its own; and in whatever it may say."""

import ctypes
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError
from node import network
from node.log import Level, Log, Sink
from node.network import Facts, Network, SleepAlarm, interface_addresses

PATIENCE_S = 30
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rtnetlink is Linux's")


def message(kind, body, size=None):
    whole = struct.pack("=IHHII", 16 + len(body) if size is None else size, kind, 0, 1, 0) + body
    return whole + bytes(-len(whole) % 4)


def link(index=2, flags=0x10043, kind=16, family=0):
    return message(kind, struct.pack("=BxHiII", family, 1, index, flags, 0))


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def address(host, prefix=24, flags=0, kind=20, index=2, wide=None):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    more = attribute(8, struct.pack("=I", wide)) if wide is not None else b""
    fixed = struct.pack("=BBBBI", family, prefix, flags, 0, index)
    return message(kind, fixed + attribute(1, packed) + more + attribute(6, bytes(16)))


def route(kind=24, table=254, of_type=1, flags=0):
    return message(kind, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, table, 3, 0, of_type, flags))


# --- what is news ---------------------------------------------------------------------------------


def test_what_repeats_what_is_known_is_no_news():
    facts = Facts()
    for told in (link(), address("10.0.0.5"), address("2001:db8::5", 64)):
        assert facts.change_untrusted(told)
        assert not facts.change_untrusted(told)
    assert facts.change_untrusted(link(flags=0x43))  # the cable is out
    assert facts.change_untrusted(link())
    assert not facts.change_untrusted(link(flags=0x10043 | 0x1000))  # multicast: all the same to us
    assert facts.change_untrusted(link(index=3))
    assert facts.change_untrusted(address("10.0.0.5", kind=21))
    assert facts.change_untrusted(address("10.0.0.5"))
    assert facts.change_untrusted(address("10.0.0.5", prefix=16))
    assert facts.change_untrusted(address("10.0.0.5", index=3))


def test_an_address_that_becomes_usable_is_news():
    facts = Facts()
    assert facts.change_untrusted(address("2001:db8::5", 64, flags=0x40, wide=0x40))
    assert facts.change_untrusted(address("2001:db8::5", 64, wide=0))
    assert not facts.change_untrusted(address("2001:db8::5", 64, wide=0x200))  # managed
    assert facts.change_untrusted(address("2001:db8::5", 64, wide=0x20))


def test_routes_are_news_but_for_those_that_addresses_bring():
    facts = Facts()
    assert facts.change_untrusted(route())
    assert facts.change_untrusted(route())
    assert facts.change_untrusted(route(kind=25))
    assert facts.change_untrusted(route(of_type=7))
    for quiet in (route(table=255), route(flags=0x200), route(of_type=5), route(of_type=2)):
        assert not facts.change_untrusted(quiet)


def test_bridges_and_unknown_messages_are_no_news():
    facts = Facts()
    assert not facts.change_untrusted(link(family=7))
    assert not facts.change_untrusted(message(28, bytes(40)))
    assert not facts.change_untrusted(b"")


def test_all_of_a_datagram_is_remembered_though_its_first_is_news():
    facts = Facts()
    assert facts.change_untrusted(address("10.0.0.5") + address("10.0.0.6") + link())
    assert not facts.change_untrusted(address("10.0.0.6"))
    assert not facts.change_untrusted(link())
    assert facts.change_untrusted(link() + address("10.0.0.7"))  # what is news may come last


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        message(16, b""),
        message(16, bytes(8), size=8),
        message(16, bytes(16), size=0),
        message(16, bytes(16), size=1 << 31),
        message(99, bytes(16), size=0),
        message(99, bytes(16), size=15),
        message(20, bytes(7)),
        message(20, bytes(8) + struct.pack("=HH", 0, 1)),
        message(20, bytes(8) + struct.pack("=HH", 99, 1)),
        message(20, bytes(8) + b"\1\0\0"),
        message(24, bytes(11)),
    ],
)
def test_what_is_not_understood_counts_as_a_change(data):
    assert Facts().change_untrusted(data)


@given(st.lists(st.binary(max_size=80) | st.builds(message, st.integers(14, 30), st.binary())))
def test_nothing_the_kernel_says_is_an_error(parts):
    assert Facts().change_untrusted(b"".join(parts)) in {True, False}
    found = []
    with suppress(FormatError):
        network._take_untrusted(b"".join(parts), found)
    assert all(socket.getaddrinfo(one, 1, flags=socket.AI_NUMERICHOST) for one in found)


def test_what_is_remembered_is_bounded():
    facts = Facts()
    for n in range(3 * limits.NETWORK_FACTS_MAX):
        facts.change_untrusted(link(index=n))
        facts.change_untrusted(address(f"10.{n >> 8}.{n & 255}.1"))
        assert len(facts._links) <= limits.NETWORK_FACTS_MAX
        assert len(facts._addresses) <= limits.NETWORK_FACTS_MAX


# --- telling --------------------------------------------------------------------------------------


class Watch:
    """A watcher that runs."""

    def __init__(self, platform=sys.platform):
        self.told = 0
        self.lines = []
        self.happened = trio.Event()
        log = Log(Sink(self.lines.append, level=Level.DEBUG))
        self.service = Network(self.changed, log, platform)

    def changed(self):
        self.told += 1
        self.happened.set()

    async def next(self):
        with trio.fail_after(PATIENCE_S):
            await self.happened.wait()
        self.happened = trio.Event()


class Kernel:
    """Stands where the kernel's socket is: readable, and says what it was told to say."""

    def __init__(self, said):
        self.said = said
        self._readable, self._other = socket.socketpair()
        self._other.send(b"!")
        self.over = trio.Event()

    def fileno(self):
        return self._readable.fileno()

    def recvfrom(self, _size):
        if not self.said:
            self._readable.recv(1)
            self.over.set()
            raise BlockingIOError
        one = self.said.pop(0)
        if isinstance(one, OSError):
            raise one
        return one

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._readable.close()
        self._other.close()


def heard(monkeypatch, said):
    """How often the owner is told, of what the kernel says in one go."""

    async def scene():
        with Kernel(list(said)) as kernel:
            monkeypatch.setattr(network, "netlink", lambda _groups: kernel)
            watch = Watch("linux")
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.service.run)
                await kernel.over.wait()
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(limits.NETWORK_SETTLES_SECONDS * 0.9)
                await trio.testing.wait_all_tasks_blocked()
                assert watch.told == 0
                clock.jump(limits.NETWORK_SETTLES_SECONDS)
                await trio.testing.wait_all_tasks_blocked()
                told = watch.told
                clock.jump(10 * limits.NETWORK_SETTLES_SECONDS)
                await trio.testing.wait_all_tasks_blocked()
                assert watch.told == told
                nursery.cancel_scope.cancel()
            return watch.told

    clock = trio.testing.MockClock()
    return trio.run(scene, clock=clock)


KERNEL = (0, 0)
SOMEBODY = (4_711, 0)


def test_a_flock_of_changes_is_told_once_when_it_has_settled(monkeypatch):
    flock = [(address(f"10.0.0.{n}"), KERNEL) for n in range(3 * limits.NETWORK_MESSAGES_MAX)]
    assert heard(monkeypatch, flock) == 1
    assert heard(monkeypatch, [(message(28, b""), KERNEL)]) == 0


def test_only_the_kernel_is_believed(monkeypatch):
    assert heard(monkeypatch, [(link(), SOMEBODY), (b"\0", SOMEBODY)]) == 0


def test_who_was_too_slow_knows_that_something_has_changed(monkeypatch):
    assert heard(monkeypatch, [OSError(errno.ENOBUFS, "no room")]) == 1


def test_a_watcher_that_breaks_does_not_take_the_node_with_it(monkeypatch):
    async def scene():
        with Kernel([OSError(errno.EIO, "broken")]) as kernel:
            monkeypatch.setattr(network, "netlink", lambda _groups: kernel)
            watch = Watch("linux")
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.service.run)
                await trio.testing.wait_all_tasks_blocked()
                assert any("noticed no more" in line for line in watch.lines)
                nursery.cancel_scope.cancel()

    trio.run(scene)


@pytest.mark.parametrize("platform", ["linux", "darwin", "sunos5"])
def test_where_nothing_is_told_it_waits(monkeypatch, platform):
    async def scene():
        def refuse(*_):
            raise PermissionError(errno.EPERM, "not here")

        monkeypatch.setattr(network, "netlink", refuse)
        monkeypatch.setattr(network, "_AF_ROUTE", -1)
        watch = Watch(platform)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.service.run)
            await trio.testing.wait_all_tasks_blocked()
            assert any("are not noticed" in line for line in watch.lines) == (platform != "sunos5")
            nursery.cancel_scope.cancel()

    trio.run(scene)


# --- sleep ----------------------------------------------------------------------------------------


@LINUX
def test_a_cancelled_timer_after_a_sleep_tells_how_long(monkeypatch):
    with SleepAlarm() as alarm:
        assert select.select([alarm.fd], [], [], 0)[0] == []
        assert alarm.slept() == 0  # nothing happened
        asleep_s = [100.0]

        def cancelled(*_):
            raise OSError(errno.ECANCELED, "the clock was set")

        monkeypatch.setattr(network, "_asleep_s", lambda: asleep_s[0])
        monkeypatch.setattr(network.os, "read", cancelled)
        alarm._asleep_s = 100.0
        wound_up = []
        monkeypatch.setattr(alarm, "_wind_up", lambda: wound_up.append(1))
        assert alarm.slept() == 0  # somebody has set the clock
        assert wound_up == [1]  # for the next time
        asleep_s[0] = 3_700.5
        assert alarm.slept() == 3_600.5
        assert alarm.slept() == 0
        broken = OSError(errno.EIO, "broken")
        monkeypatch.setattr(network.os, "read", lambda *_: (_ for _ in ()).throw(broken))
        with pytest.raises(OSError, match="broken"):
            alarm.slept()


@LINUX
def test_a_machine_that_has_slept_looks_at_its_network(monkeypatch):
    async def scene():
        monkeypatch.setattr(limits, "NETWORK_SETTLES_SECONDS", 0.01)
        monkeypatch.setattr(SleepAlarm, "slept", lambda alarm: os.read(alarm.fd, 8) and 60)
        with Kernel([]) as kernel:
            monkeypatch.setattr(network, "netlink", lambda _groups: kernel)
            monkeypatch.setattr(network, "_NEVER_S", 1)  # 1970: it is readable at once
            watch = Watch()
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.service.run)
                await watch.next()
                assert any("has slept seconds=60" in line for line in watch.lines)
                nursery.cancel_scope.cancel()

    trio.run(scene)


# --- a namespace of its own -----------------------------------------------------------------------


def in_own_network(scene):
    """Run it in a thread that has left this machine's network; skips where that may not be."""
    if not sys.platform.startswith("linux") or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and iproute2")
    came = []

    def inside():
        if ctypes.CDLL(None).unshare(_NEW_NETWORK):
            came.append(None)
            return
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            scene(own)
        except BaseException as e:  # noqa: BLE001 - told to the test, whatever it is
            came.append(e)
        finally:
            os.close(own)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if came == [None]:
        pytest.skip("no network namespaces here")
    if came:
        raise came[0]


_NEW_NETWORK = 0x40000000


def ip(own, *arguments):
    """`ip` in a namespace, from a thread that is not in it."""

    def enter():
        ctypes.CDLL(None).setns(own, _NEW_NETWORK)

    subprocess.run(["ip", *arguments], check=True, capture_output=True, preexec_fn=enter)


@pytest.mark.slow
def test_what_happens_to_cables_addresses_and_routes_is_told(monkeypatch):
    monkeypatch.setattr(limits, "NETWORK_SETTLES_SECONDS", 0.05)

    async def scene(own):
        watch = Watch()
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.service.run)
            for line in (
                "link add va type veth peer name vb",
                "link set va up",
                "link set vb up",
                "addr add 10.99.0.1/24 dev va",
                "route add 10.98.0.0/16 via 10.99.0.2",
                "route del 10.98.0.0/16",
                "-6 addr add 2001:db8::1/64 dev va nodad",
                "-6 route add default via 2001:db8::2",
                "link set vb down",
                "addr del 10.99.0.1/24 dev va",
                "link del va",
            ):
                await trio.to_thread.run_sync(ip, own, *line.split())
                await watch.next()
            nursery.cancel_scope.cancel()

    in_own_network(lambda own: trio.run(scene, own))


@pytest.mark.slow
def test_addresses_are_found_though_no_route_leads_to_the_world():
    def scene(own):
        assert interface_addresses() == []
        ip(own, "link", "set", "lo", "up")
        assert interface_addresses() == []
        ip(own, *["link", "add", "va", "type", "veth", "peer", "name", "vb"])
        for line in (
            "link set va up",
            "link set vb up",
            "addr add 10.99.0.1/24 dev va",
            "-6 addr add 2001:db8::1/64 dev va nodad",
        ):
            ip(own, *line.split())
        assert sorted(interface_addresses()) == ["10.99.0.1", "2001:db8::1"]

    in_own_network(scene)


def test_elsewhere_no_addresses_are_told():
    assert interface_addresses("darwin") == []
