import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from core import limits
from core.errors import FormatError, Unavailable
from node import api
from node.control import Control, NotRunning, Refused
from node.instance import only_one


@contextmanager
def answering(home, *answers):
    """Something in the place of a node, that answers each question with given bytes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home / "node.sock"))
    listener.listen()
    asked = []

    def serve():
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65_536))
                with suppress(OSError):  # it has heard enough
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join()
        listener.close()


def ok(body, status=b"200 OK", more=b""):
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body + more


def test_no_node_says_what_to_do(tmp_path):
    for use in (Control(tmp_path).status, Control(tmp_path).stop):
        with pytest.raises(NotRunning) as raised:
            use()
        assert str(raised.value) == f"{tmp_path}: No node runs here (portal-node run)"
        assert raised.value.exit_code == 15


def test_a_socket_that_a_killed_node_left_is_no_node(tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "node.sock"))
    left.close()
    with pytest.raises(NotRunning):
        Control(tmp_path).status()


def test_a_question_and_its_answer(tmp_path):
    class Asked(api.Question, frozen=True):
        size: int

    with answering(tmp_path, ok(b"{}"), ok(b'{"ok":true,"complaints":[]}')) as asked:
        assert Control(tmp_path).post("/v1/x", api.Done, Asked(size=5)) == api.Done()
        assert Control(tmp_path).health().ok
    assert asked[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert asked[0].endswith(b'\r\n\r\n{"size":5}')
    assert asked[1].startswith(b"GET /v1/health HTTP/1.1\r\n")


def test_a_refusal_is_told_as_if_it_were_our_own(tmp_path):
    fault = b'{"kind":"UsageError","what":"no","where":"a","hint":"b","exit_code":2}'
    with answering(tmp_path, ok(fault, b"400 Bad Request")), pytest.raises(Refused) as raised:
        Control(tmp_path).status()
    assert str(raised.value) == "a: no (b)"
    assert (raised.value.kind, raised.value.exit_code) == ("UsageError", 2)
    assert Refused.exit_code == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", Unavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", Unavailable),
        (b"\x00\x01\x02", Unavailable),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", Unavailable),
        (ok(b""), FormatError),
        (ok(b"{}"), FormatError),
        (ok(b"\xff"), FormatError),
        (ok(b"[" * 50_000), FormatError),
        (ok(b"gone", b"500 Oops"), Refused),
        (ok(b"x" * 100_000, b"500 Oops"), FormatError),
    ],
)
def test_any_answer_ends_in_one_line(tmp_path, answer, error):
    with answering(tmp_path, answer), pytest.raises(error) as raised:
        Control(tmp_path).status()
    assert "\n" not in str(raised.value)


def test_an_answer_without_an_end_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONTROL_ANSWER_BYTES_MAX", 1_000)
    with answering(tmp_path, ok(b"x" * 1_001)), pytest.raises(FormatError, match="no end"):
        Control(tmp_path).status()


def test_a_node_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONTROL_ANSWER_SECONDS", 0.01)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "node.sock"))
    listener.listen()
    with listener, pytest.raises(Unavailable, match="does not answer"):
        Control(tmp_path).status()


def test_events_come_one_by_one_however_they_are_cut(tmp_path):
    line = b'{"seq":1,"at_s":1.0,"kind":"a","data":{}}\n'
    chunks = [line[:10], line[10:] + line + line[:3], line[3:]]
    body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(tmp_path, head + body):
        assert [event.kind for event in Control(tmp_path).events()] == ["a", "a", "a"]


def test_the_socket_is_where_the_node_says_whatever_the_configuration_says(tmp_path):
    (tmp_path / "config.toml").write_text("[nod]\nnonsense = 1\n")
    assert Control(tmp_path)._path == tmp_path / "node.sock"
    with only_one(tmp_path, tmp_path / "other"):
        assert Control(tmp_path)._path == tmp_path / "other"
