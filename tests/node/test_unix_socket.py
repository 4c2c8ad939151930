import os
import socket
import stat

import pytest

from core.errors import UsageError
from node import unix_socket
from node.unix_socket import NobodyListens, Stranger


def test_only_the_owner_may_connect(tmp_path):
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        listener = unix_socket.listen(path)
    finally:
        os.umask(before)
    with listener, unix_socket.connect(path, 5) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server, _ = listener.accept()
        with server:
            assert unix_socket.peer_uid(server) == unix_socket.peer_uid(client) == os.geteuid()
            assert unix_socket.is_ours(server)


def test_another_user_is_a_stranger_on_both_ends(tmp_path, monkeypatch):
    listener = unix_socket.listen(tmp_path / "s")
    monkeypatch.setattr(unix_socket, "peer_uid", lambda _: 12_345)
    with listener, pytest.raises(Stranger):
        unix_socket.connect(tmp_path / "s", 5)
    left, right = socket.socketpair()
    with left, right:
        assert not unix_socket.is_ours(left)
        monkeypatch.setattr(unix_socket, "peer_uid", lambda _: 0)
        assert unix_socket.is_ours(left)


def test_what_was_left_behind_is_replaced(tmp_path):
    path = tmp_path / "s"
    unix_socket.listen(path).close()
    assert path.exists()
    with pytest.raises(NobodyListens):
        unix_socket.connect(path, 5)
    with unix_socket.listen(path), unix_socket.connect(path, 5):
        pass


def test_what_is_in_use_or_no_socket_is_not(tmp_path):
    path = tmp_path / "s"
    told = "another program listens here"
    with unix_socket.listen(path), pytest.raises(UsageError, match=told):
        unix_socket.listen(path)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UsageError, match="in the place of"):
        unix_socket.listen(file)
    assert file.read_text() == "precious"
    with pytest.raises(NobodyListens):
        unix_socket.connect(tmp_path / "nothing", 5)


def test_a_path_that_is_too_long_says_what_to_do(tmp_path):
    path = tmp_path / ("x" * 120)
    for use in (unix_socket.listen, lambda p: unix_socket.connect(p, 5)):
        with pytest.raises(UsageError, match="control_socket = ") as raised:
            use(path)
        assert str(len(os.fsencode(path))) in raised.value.what


def test_the_longest_path_works(tmp_path):
    room = unix_socket.PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 1
    path = tmp_path / ("x" * room)
    with unix_socket.listen(path), unix_socket.connect(path, 5):
        pass
    with pytest.raises(UsageError):
        unix_socket.check_path(tmp_path / ("x" * (room + 1)))
