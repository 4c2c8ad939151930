"""Numbers for Prometheus: collected when somebody asks, from snapshots that the parts give.

A part of the node keeps its own counts and gives them as samples; nothing is counted twice and
nothing runs between two questions. They are answered at /v1/metrics of the control socket, and at
/metrics of a TCP address if the configuration names one: none by default, for every user of this
machine could read there. /healthz says in one word whether all is well, and nothing else.
"""

import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from core import VERSION
from node.config import Address
from node.http import Server
from node.log import Log

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_PORT = re.compile(r":[0-9]+$")
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One number. A name that ends in _total only grows."""

    name: str
    value: float
    what: str
    labels: Mapping[str, str] = field(default_factory=dict)


Source = Callable[[], Iterable[Sample]]


class Metrics:
    """All sources of this process, behind a registry of their own."""

    def __init__(self) -> None:
        self._sources: list[Source] = [_build]

    def add(self, source: Source) -> None:
        """Ask this one, too. It is called in the event loop, so it has to be quick."""
        self._sources.append(source)

    async def text(self) -> bytes:
        """What Prometheus reads."""
        render = await trio.to_thread.run_sync(_renderer)  # the first time, it has much to import
        before = trio.current_time()
        await trio.lowlevel.checkpoint()
        lag = trio.current_time() - before
        return render([*self.samples(), Sample("portal_loop_pass_seconds", lag, _LAG)])

    def samples(self) -> list[Sample]:
        """Every number there is, now."""
        return [sample for source in self._sources for sample in source()]


_LAG = "How long one round through everything that is ready took, just now."


def _build() -> Iterable[Sample]:
    yield Sample("portal_build_info", 1, "Which program this is.", {"version": VERSION})


def _renderer() -> Callable[[list[Sample]], bytes]:
    """What makes text of samples, and of what the system knows about this process."""
    import prometheus_client as prometheus  # noqa: PLC0415 - nobody may ever ask
    from prometheus_client import process_collector  # noqa: PLC0415

    def render(samples: list[Sample]) -> bytes:
        registry = prometheus.CollectorRegistry(auto_describe=False)
        process_collector.ProcessCollector(registry=registry)
        registry.register(_Families(samples))
        return prometheus.generate_latest(registry)

    return render


class _Families:
    """Samples, put together by name as the format wants them."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable["Metric"]:
        """What a registry asks of everything in it."""
        from prometheus_client.metrics_core import Metric  # noqa: PLC0415 - see _renderer

        families: dict[str, Metric] = {}
        for one in self._samples:
            kind = "counter" if one.name.endswith("_total") else "gauge"
            name = one.name.removesuffix("_total")
            family = families.setdefault(name, Metric(name, one.what, kind))
            family.add_sample(one.name, dict(one.labels), one.value)
        return families.values()


@dataclass(frozen=True, slots=True)
class Usage:
    """What this process takes of the machine."""

    memory_bytes: int | None
    cpu_s: float


def usage(cpu_s: float) -> Usage:
    """As the system tells; Linux tells how much memory there is now, others only how much was."""
    if not sys.platform.startswith("linux"):
        return Usage(None, cpu_s)
    import resource  # noqa: PLC0415 - a module of Unix

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Usage(pages * resource.getpagesize(), cpu_s)


class MetricsDoor:
    """The service that answers /metrics and /healthz on a TCP address."""

    name = "metrics"

    def __init__(
        self, address: Address, metrics: Metrics, is_well: Callable[[], bool], log: Log
    ) -> None:
        self._address = address
        self._metrics = metrics
        self._is_well = is_well
        self._log = log.part(self.name)
        routes = [Route("/metrics", self._read), Route("/healthz", self._health)]
        self._server = Server(Router(routes), self._log, lambda _: True)
        self.listens_at: Address | None = None

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is stopped."""
        listener = _listen(self._address)
        self.listens_at = Address(self._address.host, listener.getsockname()[1])
        if not self._address.is_loopback:
            self._log.warning("metrics are open to the network", address=str(self.listens_at))
        self._log.info("metrics opened", address=str(self.listens_at))
        try:
            await self._server.run([listener], task_status=task_status)
        finally:
            self.listens_at = None

    async def _read(self, request: Request) -> Response:
        return self._refusal(request) or Response(
            await self._metrics.text(), headers={"content-type": TEXT}
        )

    async def _health(self, request: Request) -> Response:
        well = self._is_well()
        return self._refusal(request) or PlainTextResponse(
            "ok\n" if well else "not well\n", status_code=200 if well else 503
        )

    def _refusal(self, request: Request) -> Response | None:
        """A web page must not read here by letting a name of its own mean this machine."""
        if not self._address.is_loopback:
            return None
        host = _PORT.sub("", request.headers.get("host", "")).strip("[]")
        if host in {"localhost", self._address.host}:
            return None
        return PlainTextResponse("this address has another name\n", status_code=421)


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen()
    except OSError as e:
        listener.close()
        e.filename = str(address)
        raise
    return listener
