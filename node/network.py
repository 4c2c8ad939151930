"""Tells when the network of this machine has changed, or the machine has slept; nothing polls.

    Linux    rtnetlink: links, addresses and routes; a timer the kernel cancels when clocks jump,
             as they do at the end of a sleep
    macOS    a routing socket
    else     nothing: links are found dead and made again as without it

Changes come in flocks, so whoever wants to know is told a second after the first of them. What only
repeats what is known (routers announce the same address every few seconds) is no change.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address
from typing import Self

import trio

from core import limits
from core.errors import FormatError
from node.log import Log

_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_AF_ROUTE = 17  # of macOS
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links; addresses and routes, of IPv4 and of IPv6
_READ_BYTES = 64 * limits.KIB

_HEADER = struct.Struct("=IHHII")  # length with this, type, flags, number, process
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, which changed
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix bits, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # ..., table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length with this, type

_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK = 16, 17
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _DEL_ROUTE = 24, 25
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP

_UP = 0x1 | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP
_UNUSABLE = 0x8 | 0x20 | 0x40  # duplicate, deprecated, not tried yet
_CLONED = 0x200
_TABLE_LOCAL = 255  # where addresses have their own routes
_ROUTES_WE_TAKE = {1, 6, 7, 8}  # unicast, and three ways to be refused
_WIDER_THAN_ONE_LINK = 253  # of scopes: what is below
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_ABSOLUTE_AND_CANCELLED = 3
_NEVER_S = 1 << 40
_SLEPT_SECONDS_MIN = 1.0


_Watch = Callable[[], Awaitable[None]]


class Network:
    """The service that watches, and calls `changed`."""

    name = "network"

    def __init__(self, changed: Callable[[], None], log: Log, platform: str = sys.platform) -> None:
        self._changed = changed
        self._log = log.part(self.name)
        self._platform = platform
        self._sign = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        with ExitStack() as stack:
            watchers: list[_Watch] = []
            try:
                watchers = list(self._open(stack))
            except OSError as e:  # a jail without it: as on systems that tell nothing
                self._log.info("changes of the network are not noticed", error=e)
            async with trio.open_nursery() as nursery:
                for watch in watchers:
                    nursery.start_soon(self._try, watch)
                task_status.started()
                await self._tell()

    async def _try(self, watch: _Watch) -> None:
        try:
            await watch()
        except OSError as e:  # links are found dead without it, only later
            self._log.warning("changes of the network are noticed no more", error=e)

    def _open(self, stack: ExitStack) -> Iterator[_Watch]:
        if self._platform == "linux":
            yield partial(self._watch_netlink, stack.enter_context(netlink(_GROUPS)))
            with suppress(OSError):  # an old kernel: then only the network itself is watched
                yield partial(self._watch_sleep, stack.enter_context(SleepAlarm()))
        elif self._platform == "darwin":
            routing = stack.enter_context(socket.socket(_AF_ROUTE, socket.SOCK_RAW))
            routing.setblocking(False)
            yield partial(self._watch_routing, routing)

    async def _tell(self) -> None:
        while True:
            await self._sign.wait()
            with trio.move_on_after(limits.NETWORK_SETTLES_SECONDS):
                await trio.sleep_forever()
            self._sign = trio.Event()  # before telling: what comes from now on counts again
            self._log.debug("the network has changed")
            self._changed()

    async def _watch_netlink(self, watched: socket.socket) -> None:
        facts = Facts()
        while True:
            await trio.lowlevel.wait_readable(watched)
            for _ in range(limits.NETWORK_MESSAGES_MAX):
                try:
                    data, sender = watched.recvfrom(_READ_BYTES)
                except BlockingIOError:
                    break
                except OSError as e:
                    if e.errno != errno.ENOBUFS:
                        raise
                    facts = Facts()  # we were too slow, and something has changed
                    self._sign.set()
                    continue
                if sender[0] == 0 and facts.change_untrusted(data):  # from the kernel itself
                    self._sign.set()

    async def _watch_sleep(self, alarm: "SleepAlarm") -> None:
        while True:
            await trio.lowlevel.wait_readable(alarm.fd)
            if slept_s := alarm.slept():
                self._log.info("this machine has slept", seconds=round(slept_s))
                self._sign.set()

    async def _watch_routing(self, watched: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(watched)
            with suppress(BlockingIOError):
                watched.recv(_READ_BYTES)
                self._sign.set()


def netlink(groups: int) -> socket.socket:
    """A socket the kernel tells of these groups."""
    made = socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
    try:
        made.setblocking(False)
        made.bind((0, groups))
    except BaseException:
        made.close()
        raise
    return made


# --- what the messages say ------------------------------------------------------------------------


class Facts:
    """What is known of links and addresses, so that what is no news is not told as such."""

    def __init__(self) -> None:
        self._links: dict[int, int] = {}  # index: whether it is up, as flags
        self._addresses: dict[tuple[int, bytes], int] = {}  # with its prefix: whether it is usable

    def change_untrusted(self, data: bytes) -> bool:
        """Whether a datagram of the kernel tells a change. What is not understood is one."""
        try:
            news = [self._is_news_untrusted(*one) for one in _messages_untrusted(data)]
            return any(news)  # after all of them: each is to be remembered
        except FormatError:
            return True
        finally:
            for table in (self._links, self._addresses):
                if len(table) > limits.NETWORK_FACTS_MAX:
                    table.clear()

    def _is_news_untrusted(self, kind: int, body: bytes) -> bool:
        if kind in {_NEW_LINK, _DEL_LINK}:
            family, _, index, flags, _ = _unpacked_untrusted(_LINK, body)
            if family:  # a bridge talks of its ports
                return False
            was = self._links.pop(index, None)
            if kind == _NEW_LINK:
                self._links[index] = flags & _UP
            return kind == _DEL_LINK or was != flags & _UP
        if kind in {_NEW_ADDRESS, _DEL_ADDRESS}:
            found = _Address.read_untrusted(body)
            key = (found.index, found.raw)
            was = self._addresses.pop(key, None)
            if kind == _NEW_ADDRESS:
                self._addresses[key] = found.flags
            return kind == _DEL_ADDRESS or was != found.flags
        if kind in {_NEW_ROUTE, _DEL_ROUTE}:
            row = _unpacked_untrusted(_ROUTE, body)
            table, of_type, flags = row[4], row[7], row[8]
            is_own = table == _TABLE_LOCAL or flags & _CLONED
            return not is_own and of_type in _ROUTES_WE_TAKE
        return False


class _Address:
    """One address of this machine, as the kernel tells it."""

    def __init__(self, index: int, raw: bytes, flags: int, scope: int) -> None:
        self.index = index
        self.raw = raw  # with the length of its prefix in front
        self.flags = flags
        self.scope = scope

    @classmethod
    def read_untrusted(cls, body: bytes) -> "_Address":
        """Out of a message."""
        _, prefix, flags, scope, index = _unpacked_untrusted(_ADDRESS, body)
        found = dict(_attributes_untrusted(body[_ADDRESS.size :]))
        raw = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
        wide = found.get(_IFA_FLAGS, b"")
        if len(wide) == 4:
            flags = int.from_bytes(wide, sys.byteorder)
        return cls(index, bytes([prefix]) + raw, flags & _UNUSABLE, scope)


def _unpacked_untrusted(form: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < form.size:
        raise FormatError("a message of the kernel is cut short")
    return form.unpack_from(data)


def _messages_untrusted(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message in a datagram."""
    at = 0
    while at < len(data):
        size, kind, *_ = _unpacked_untrusted(_HEADER, data[at:])
        if size < _HEADER.size or at + size > len(data):
            raise FormatError("a message of the kernel is not as long as it says")
        yield kind, data[at + _HEADER.size : at + size]
        at += _aligned(size)


def _attributes_untrusted(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size, kind = _unpacked_untrusted(_ATTRIBUTE, data[at:])
        if size < _ATTRIBUTE.size or at + size > len(data):
            raise FormatError("an attribute is not as long as it says")
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += _aligned(size)


def _aligned(size: int) -> int:
    return size + 3 & ~3


# --- the addresses there are ----------------------------------------------------------------------


def interface_addresses(platform: str = sys.platform) -> Sequence[str]:
    """The addresses of this machine that mean something to others, whether a route leads there.

    Linux only; elsewhere, and where it is not told, there are none.
    """
    if platform != "linux":
        return []
    question = _HEADER.pack(_HEADER.size + _ADDRESS.size, _GET_ADDRESS, _DUMP, 1, 0)
    found: list[str] = []
    try:
        with netlink(0) as asked:
            asked.settimeout(limits.NETWORK_SETTLES_SECONDS)
            asked.send(question + bytes(_ADDRESS.size))
            while True:
                data, sender = asked.recvfrom(_READ_BYTES)
                if sender[0] == 0 and _take_untrusted(data, found):
                    return found
    except (OSError, FormatError):
        return found


def _take_untrusted(data: bytes, found: list[str]) -> bool:
    """Add what a datagram names; whether that was all."""
    for kind, body in _messages_untrusted(data):
        if kind in {_DONE, _ERROR} or len(found) >= limits.NETWORK_FACTS_MAX:
            return True
        if kind == _NEW_ADDRESS:
            one = _Address.read_untrusted(body)
            if one.scope < _WIDER_THAN_ONE_LINK and not one.flags and len(one.raw) in {5, 17}:
                found.append(str(ip_address(one.raw[1:])))
    return False


# --- sleep ----------------------------------------------------------------------------------------


class SleepAlarm:
    """A timer for the end of time, which the kernel cancels whenever the wall clock is set.

    The end of a sleep is such a moment; that it was one and no correction of the clock is seen from
    the two other clocks, one of which has gone on.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_REALTIME, _TFD_FLAGS)
        if self.fd < 0:
            raise _last_error()
        try:
            self._wind_up()
        except BaseException:
            self.close()
            raise
        self._asleep_s = _asleep_s()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free it."""
        os.close(self.fd)

    def slept(self) -> float:
        """How long the machine has slept since it was asked last; 0 if it has not."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return 0
        except OSError as e:
            if e.errno != errno.ECANCELED:
                raise
        self._wind_up()
        before, self._asleep_s = self._asleep_s, _asleep_s()
        slept_s = self._asleep_s - before
        return slept_s if slept_s >= _SLEPT_SECONDS_MIN else 0

    def _wind_up(self) -> None:
        end = struct.pack("=4q", 0, 0, _NEVER_S, 0)
        if self._libc.timerfd_settime(self.fd, _TFD_ABSOLUTE_AND_CANCELLED, end, None):
            raise _last_error()


def _asleep_s() -> float:
    """How long this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
