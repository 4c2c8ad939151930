"""Lanes over a Unix socket, between processes of one user on one machine.

The kernel keeps others out (mode 0600, and each end asks who the other is) and is trusted with the
bytes, so there is no TLS. The socket's name is the node's while it holds the lock on the file
beside it; the kernel lets go of that lock however the process ends, so what is there without it was
left behind.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from core import limits
from core.errors import Unavailable
from core.files import PRIVATE_MODE
from mesh.errors import NotTrusted, Unreachable
from mesh.lanes.lane import Door, Raw, socket_raw
from mesh.lanes.offer import SOCKET_NAME, Kind, UnixWay
from mesh.wire import Address

_LOCK_NAME = "lanes.lock"
_UCRED = struct.Struct("3i")  # Linux: pid, uid, gid
_XUCRED = struct.Struct("=II")  # macOS: version, uid, and groups behind them
_XUCRED_BYTES = 76
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1


class UnixDoor(Door[trio.SocketStream]):
    """A socket in the runtime directory."""

    kind = Kind.UNIX

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / SOCKET_NAME

    @contextmanager
    def listening(self) -> Iterator[Sequence[trio.abc.Listener[trio.SocketStream]]]:
        """Listen, in place of what a dead process left behind; Unavailable if that cannot be."""
        size = len(os.fsencode(self.path))
        if size > limits.LANE_PATH_BYTES_MAX:
            raise Unavailable(
                f"this path of a socket has {size} bytes and {limits.LANE_PATH_BYTES_MAX} fit",
                where=str(self.path),
                hint="choose a runtime directory with a shorter name",
            )
        with _locked(self.path.with_name(_LOCK_NAME)), _bound(self.path) as bound:
            try:
                yield [trio.SocketListener(trio.socket.from_stdlib_socket(bound))]
            finally:
                self.path.unlink(missing_ok=True)

    def ways(self, _addresses: Sequence[Address]) -> Sequence[UnixWay]:
        """The path."""
        return [UnixWay(str(self.path))]

    def source(self, stream: trio.SocketStream) -> None:
        """A process of this user."""
        check_user(stream.socket)

    async def secure(self, stream: trio.SocketStream) -> Raw:
        """The kernel has done it."""
        return _suited(stream)


async def connect(way: UnixWay) -> Raw:
    """A stream to a process of this user."""
    try:
        stream = await trio.open_unix_socket(way.path)
    except OSError as e:
        raise Unreachable("nobody takes lanes at this socket", where=way.path) from e
    try:
        check_user(stream.socket)
        return _suited(stream)
    except BaseException:
        stream.socket.close()
        raise


def check_user(connected: trio.socket.SocketType) -> None:
    """NotTrusted if the other end is not this user's, as the kernel knows it."""
    if sys.platform.startswith("linux"):
        raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid = _UCRED.unpack(raw)[1]
    else:
        raw = connected.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        uid = _XUCRED.unpack_from(raw)[1]
    if uid != os.geteuid():
        raise NotTrusted(f"the other end of a socket belongs to user {uid}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Unavailable("another process takes lanes here", where=str(path)) from None
    finally:
        os.close(fd)


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(os.fspath(path))
        path.chmod(PRIVATE_MODE)  # nobody can connect before it listens
        bound.listen(limits.LANE_BACKLOG_MAX)
        yield bound


def _clear(path: Path) -> None:
    """Take away a socket nobody listens on, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable("is in the place of the socket for lanes", where=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            raise Unavailable("another program listens on this socket", where=str(path))
    path.unlink()


def _suited(stream: trio.SocketStream) -> Raw:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        with suppress(OSError):  # more than this system allows
            stream.setsockopt(socket.SOL_SOCKET, option, limits.LANE_SOCKET_BUFFER_BYTES)
    return socket_raw(stream)
