"""A Unix socket that only its owner may use, on both ends.

The file has mode 0600, and each end asks the kernel who the other one is: only this user and root
pass, so a socket in a place that others can write to is neither used by them nor planted by them.
"""

import errno
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Protocol

from core.errors import PortalError, UsageError
from core.files import PRIVATE_MODE

_IS_LINUX: bool = sys.platform.startswith("linux")
PATH_BYTES_MAX = 107 if _IS_LINUX else 103  # of sun_path, without its NUL
_BACKLOG = 64
_SOL_LOCAL = 0  # <sys/un.h> of the BSDs and macOS
_LOCAL_PEERCRED = 1
_XUCRED_BYTES = 76
_NOBODY_LISTENS = {errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK}


class HasOptions(Protocol):
    """A socket of the standard library, or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """An option as the kernel has it."""


class NobodyListens(PortalError):
    """Nobody listens on this socket."""


class Stranger(PortalError):
    """The other end of this socket belongs to another user."""


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, in place of one that was left behind."""
    check_path(path)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(PRIVATE_MODE)  # nobody can connect before it listens
        listener.listen(_BACKLOG)
    except OSError as e:
        listener.close()
        e.filename = str(path)
        raise
    return listener


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to whoever listens at `path`, if that is this user or root."""
    check_path(path)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout_s)
        stream.connect(os.fspath(path))
        if not is_ours(stream):
            raise Stranger(where=str(path))
    except OSError as e:
        stream.close()
        if e.errno in _NOBODY_LISTENS:
            raise NobodyListens(where=str(path)) from None
        e.filename = str(path)
        raise
    except PortalError:
        stream.close()
        raise
    return stream


def check_path(path: Path) -> None:
    """Refuse what the kernel has no room for."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise UsageError(
            f"this path of a socket has {size} bytes, and the system allows {PATH_BYTES_MAX}",
            where=str(path),
            hint='name a shorter one in config.toml: [node] control_socket = "/run/..."',
        )


def is_ours(stream: HasOptions) -> bool:
    """Whether the other end belongs to this user or to root."""
    return peer_uid(stream) in {os.geteuid(), 0}


def peer_uid(stream: HasOptions) -> int:
    """The user who connected, or who listened, as the kernel knows it."""
    if _IS_LINUX:
        format_ = "3i"  # struct ucred: pid, uid, gid
        found = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(format_))
        return int(struct.unpack(format_, found)[1])
    found = stream.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
    return int(struct.unpack_from("=II", found)[1])  # struct xucred: version, uid, ...


def _clear(path: Path) -> None:
    """Take away what a node that ended left behind, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError("is in the place of the control socket", where=str(path))
    try:
        connect(path, 1).close()
    except NobodyListens:
        path.unlink()
        return
    except TimeoutError:
        pass  # somebody listens who is busy
    raise UsageError("another program listens here", where=str(path))
