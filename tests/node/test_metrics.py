import socket

import pytest
import trio

from node.config import Address
from node.log import Log, Sink
from node.metrics import Metrics, MetricsDoor, Sample, usage


def parse(text):
    return dict(line.rpartition(" ")[::2] for line in text.decode().splitlines() if line[0] != "#")


def test_samples_become_the_text_that_prometheus_reads():
    metrics = Metrics()
    metrics.add(lambda: [Sample("portal_peers", n, "Peers.", {"state": s}) for s, n in STATES])
    metrics.add(lambda: [Sample("portal_bytes_total", 7, "Bytes.", {"to": 'a"b\n'})])
    text = trio.run(metrics.text)
    found = parse(text)
    assert found['portal_peers{state="here"}'] == "3.0"
    assert found['portal_peers{state="away"}'] == "2.0"
    assert found[r'portal_bytes_total{to="a\"b\n"}'] == "7.0"
    assert text.count(b"# TYPE portal_peers gauge\n") == 1
    assert text.count(b"# TYPE portal_bytes_total counter\n") == 1
    assert "portal_loop_pass_seconds" in found
    assert float(found["process_cpu_seconds_total"]) > 0


STATES = [("here", 3), ("away", 2)]


def test_the_registry_of_the_library_stays_empty_of_ours():
    import prometheus_client

    metrics = Metrics()
    trio.run(metrics.text)
    assert b"portal_" not in prometheus_client.generate_latest()
    assert trio.run(metrics.text).count(b"\nportal_build_info{") == 1  # not twice


def test_what_the_process_takes():
    used = usage(1.5)
    assert used.cpu_s == 1.5
    assert used.memory_bytes is None or used.memory_bytes > 1_000_000


class Scraped:
    def __init__(self, host="127.0.0.1"):
        self.well = True
        self.lines = []
        log = Log(Sink(self.lines.append))
        self.door = MetricsDoor(Address(host, 0), Metrics(), lambda: self.well, log)

    def ask(self, *questions):
        async def main():
            async with trio.open_nursery() as nursery:
                await nursery.start(self.door.run)
                port = self.door.listens_at.port
                answers = [await self.one(port, path, host) for path, host in questions]
                self.door.stop()
            return answers

        return trio.run(main)

    async def one(self, port, path, host):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            await stream.send_all(head.encode())
            said = b""
            while part := await stream.receive_some():
                said += part
        head, _, body = said.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def test_metrics_and_health_on_loopback():
    scraped = Scraped()
    (code, text), (health, word) = scraped.ask(
        ("/metrics", "127.0.0.1:9464"), ("/healthz", "localhost")
    )
    assert (code, health, word) == (200, 200, b"ok\n")
    assert b"portal_build_info" in text
    assert not any("warning" in line for line in scraped.lines)
    scraped = Scraped()
    scraped.well = False
    assert scraped.ask(("/healthz", "localhost:1"), ("/v1/status", "localhost")) == [
        (503, b"not well\n"),
        (404, b"Not Found"),
    ]


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_a_page_that_gives_this_machine_a_name_of_its_own_reads_nothing(path):
    answers = Scraped().ask((path, "evil.example:9464"), (path, ""), (path, "127.0.0.1.evil.org"))
    assert [code for code, _ in answers] == [421, 421, 421]
    assert all(b"portal" not in body for _, body in answers)


def test_another_address_is_used_only_if_it_is_named_and_then_loudly():
    scraped = Scraped("0.0.0.0")
    assert scraped.ask(("/healthz", "box.example")) == [(200, b"ok\n")]
    assert any("warning metrics: metrics are open to the network" in one for one in scraped.lines)


def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        door = MetricsDoor(Address("127.0.0.1", port), Metrics(), bool, Log(Sink(print)))
        with pytest.raises(OSError, match="already in use") as raised:
            trio.run(door.run)
    assert raised.value.filename == f"127.0.0.1:{port}"
