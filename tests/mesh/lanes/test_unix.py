import os
import signal
import socket
import stat
import struct
import subprocess
import sys

import pytest
import trio

from core import limits
from core.errors import Unavailable
from mesh.errors import NotTrusted, Unreachable
from mesh.lanes import unix
from mesh.lanes.doors import NoDoor
from mesh.lanes.offer import Kind, UnixWay
from tests.support.lanes import House, in_house, is_gone, open_files
from tests.support.privileges import unprivileged

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def listens(folder):
    async def main():
        with unix.UnixDoor(folder).listening():
            pass

    trio.run(main)


def test_only_its_owner_can_use_the_socket_and_it_goes_away(tmp_path):
    umask = os.umask(0)
    try:

        async def test(house):
            mode = house.door.path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert house.door.path == tmp_path / "lanes.sock"

        in_house(Kind.UNIX, tmp_path, test)
    finally:
        os.umask(umask)
    assert not (tmp_path / "lanes.sock").exists()
    listens(tmp_path)


@as_root
def test_another_user_is_sent_away_without_a_byte(tmp_path, monkeypatch):
    async def test(house):
        house.door.path.chmod(0o777)
        raw = socket.socket(socket.AF_UNIX)
        tmp_path.chmod(0o711)
        monkeypatch.chdir(tmp_path)  # the folders above it let nobody through
        with unprivileged(tmp_path):
            raw.connect("lanes.sock")
        raw.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
        with house.doors.offer("link", [Kind.UNIX]) as offered:
            async with stream:
                assert await is_gone(stream)
            assert house.refusals == ["ANOTHER_USER"]
            lane = await house.doors.open("link", offered.offer, house.reach)
            await lane.aclose()

    in_house(Kind.UNIX, tmp_path, test)


@as_root
def test_a_socket_of_another_user_gets_no_token(tmp_path):
    async def main():
        with unprivileged(tmp_path) as theirs:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(theirs / "lanes.sock"))
            listener.listen()
            before = open_files()
            os.seteuid(0)
            try:
                with pytest.raises(NotTrusted, match="65534"):
                    await unix.connect(UnixWay(str(theirs / "lanes.sock")))
            finally:
                os.seteuid(65_534)
            assert open_files() == before
            with listener, listener.accept()[0] as accepted:
                assert accepted.recv(100) == b""

    trio.run(main)


def test_where_the_kernel_of_macos_says_who_it_is(monkeypatch):
    class Connected:
        def __init__(self, uid):
            self.uid = uid

        def getsockopt(self, level, option, size):
            assert (level, option, size) == (0, 1, 76)
            return struct.pack("=IIh2x16I", 0, self.uid, 1, *range(16))

    monkeypatch.setattr(sys, "platform", "darwin")
    unix.check_user(Connected(os.geteuid()))
    with pytest.raises(NotTrusted):
        unix.check_user(Connected(os.geteuid() + 1))


def test_a_path_the_kernel_has_no_room_for_is_told_and_not_offered(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with pytest.raises(Unavailable, match="103 fit"):
        listens(deep)

    async def test(house):
        assert Kind.UNIX not in house.doors.kinds
        (event,) = house.events
        assert isinstance(event, NoDoor)
        assert "shorter" in str(event.why)
        with pytest.raises(Unreachable), house.doors.offer("link", [Kind.UNIX]):
            pass

    in_house(Kind.UNIX, deep, test)


@pytest.mark.slow
def test_what_a_killed_node_left_behind_is_replaced(tmp_path):
    code = (
        "import sys, trio, pathlib\n"
        "from mesh.lanes.unix import UnixDoor\n"
        "async def main():\n"
        "    with UnixDoor(pathlib.Path(sys.argv[1])).listening():\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "up\n"
        with pytest.raises(Unavailable, match="another process"):
            listens(tmp_path)
        assert (tmp_path / "lanes.sock").exists()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert (tmp_path / "lanes.sock").exists()
    listens(tmp_path)


def test_a_live_socket_is_never_replaced_whoever_made_it(tmp_path):
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "lanes.sock"))
        live.listen(1)
        for _ in range(3):  # the last ones find its backlog full
            with pytest.raises(Unavailable, match="listens on this socket"):
                listens(tmp_path)


def test_what_is_no_socket_stays(tmp_path):
    (tmp_path / "lanes.sock").write_text("precious")
    with pytest.raises(Unavailable, match="place"):
        listens(tmp_path)
    assert (tmp_path / "lanes.sock").read_text() == "precious"


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "lanes.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"lanes\.lock"):
        listens(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_nobody_at_a_path_is_unreachable(tmp_path):
    async def main():
        with pytest.raises(Unreachable):
            await unix.connect(UnixWay(str(tmp_path / "lanes.sock")))

    trio.run(main)


def test_the_kernel_keeps_a_bounded_amount(tmp_path):
    async def main():
        house = House(Kind.UNIX, tmp_path)
        async with house.open():
            ours, theirs = await house.pair()
            async with ours, theirs:
                sock = ours._raw.stream.socket
                size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                assert 64 * limits.KIB <= size <= 2 * limits.LANE_SOCKET_BUFFER_BYTES

    trio.run(main)
