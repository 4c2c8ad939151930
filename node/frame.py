"""What every node has: log, events, metrics, control socket, and the daemon around them.

Parts that do the node's work are given this, add what can be asked of them to `door`, their kinds
of events to `events`, their numbers to `metrics` and themselves with `add`; then it runs.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from core import VERSION, limits
from core.ids import NodeId, UserId
from node import api
from node.config import NodeSettings
from node.control import SOCKET
from node.daemon import Daemon, Service
from node.door import Call, Door
from node.events import Events
from node.log import LEVELS, Level, Log
from node.metrics import TEXT, Metrics, MetricsDoor, Sample, usage
from node.systemd import Notifier, Watchdog

_AT_ONCE = {"grace_s", "log_level", "offer_bytes"}  # in force without a new start


@dataclass(frozen=True, slots=True)
class Place:
    """Whose node this is, where it lives and what it was told."""

    home: Path
    node: NodeId
    user: UserId
    read_settings: Callable[[], NodeSettings]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the command line, by setting
    environment: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> NodeSettings:
        """What is in force: option > configuration > built-in."""
        return replace(self.read_settings(), **self.options)

    def control_socket(self) -> Path:
        """Where to listen for commands."""
        return self.settings().control_socket or self.home / SOCKET


class Frame:
    """A node without work of its own."""

    def __init__(self, place: Place, log: Log) -> None:
        self.place = place
        self.log = log
        self.settings = place.settings()
        self.events = Events()
        self.metrics = Metrics()
        self.door = Door(place.control_socket(), self.events, log)
        self._notifier = Notifier.of(place.environment, os.getpid())
        self.daemon = Daemon(
            log,
            self.events,
            self._notifier,
            self._reload,
            hangup_ends=bool(sys.stdin and sys.stdin.isatty()),
        )
        self._watchers: list[Callable[[NodeSettings], None]] = []
        self._metrics_door: MetricsDoor | None = None
        self._services: list[Service] = [self.door]
        self._started_s = time.time()
        self._answer_questions()
        self.metrics.add(self._samples)
        if self._notifier.watchdog_s:
            self.add(Watchdog(self._notifier))
        if self.settings.metrics:
            self._metrics_door = MetricsDoor(
                self.settings.metrics, self.metrics, lambda: not self.daemon.complaints(), log
            )
            self.add(self._metrics_door)

    def add(self, service: Service) -> None:
        """Run this one, too; started behind those that are there, stopped before them."""
        self._services.append(service)

    def watch_settings(self, watcher: Callable[[NodeSettings], None]) -> None:
        """Be told what is in force, now and whenever that changes."""
        self._watchers.append(watcher)
        watcher(self.settings)

    async def run(self) -> int:
        """Until a signal, a question or a failure ends it; the exit code."""
        code = await self.daemon.run(self._services, _end_soon)
        faulthandler.cancel_dump_traceback_later()
        self.log.sink.close()
        return code

    # --- answers ----------------------------------------------------------------------------------

    def _answer_questions(self) -> None:
        self.door.get(api.STATUS, self._status)
        self.door.get(api.HEALTH, self._health)
        self.door.text(api.METRICS, self.metrics.text, TEXT)
        self.door.post(api.STOP, self._stop)
        self.door.post(api.RELOAD, self._reload_asked)

    async def _status(self, _call: Call[None]) -> api.Status:
        """The node as a whole, and each of its parts."""
        used = usage(time.process_time())
        listens_at = self._metrics_door.listens_at if self._metrics_door else None
        return api.Status(
            version=VERSION,
            pid=os.getpid(),
            home=str(self.place.home),
            node=self.place.node.text(),
            user=self.place.user.text(),
            state=self.daemon.state,
            started_s=self._started_s,
            services=self.daemon.services(),
            log_level=self.log.sink.level.word,
            metrics=str(listens_at) if listens_at else None,
            memory_bytes=used.memory_bytes,
            cpu_s=round(used.cpu_s, 3),
            listeners=len(self.events),
        )

    async def _health(self, _call: Call[None]) -> api.Health:
        """Whether everything works that should, and what does not."""
        complaints = self.daemon.complaints()
        return api.Health(ok=not complaints, complaints=complaints)

    async def _stop(self, _call: Call[None]) -> api.Done:
        """End, in order; the answer comes before the end."""
        self.daemon.stop("asked by a command")
        return api.Done()

    async def _reload_asked(self, _call: Call[None]) -> api.ConfigReloaded:
        """Read config.toml again; what needs a new start is named."""
        return self._reload()

    def _reload(self) -> api.ConfigReloaded:
        asked = self.place.settings()
        now = self.settings
        differ = {
            one.name for one in fields(asked) if getattr(asked, one.name) != getattr(now, one.name)
        }
        if "log_level" in differ:
            self.log.sink.level = LEVELS[asked.log_level]
        self.settings = replace(now, **{name: getattr(asked, name) for name in differ & _AT_ONCE})
        for watcher in self._watchers:
            watcher(self.settings)
        told = api.ConfigReloaded(
            changed=sorted(differ & _AT_ONCE), waiting=sorted(differ - _AT_ONCE)
        )
        self.log.info("configuration reloaded", changed=told.changed, waiting=told.waiting)
        self.events.publish(told)
        return told

    def _samples(self) -> Iterable[Sample]:
        yield Sample("portal_start_time_seconds", self._started_s, "When this process began.")
        for one in self.daemon.services():
            up = one.state == "running" and not one.complaint
            what = "Whether a part of the node runs and is well."
            yield Sample("portal_service_up", up, what, {"service": one.name})
        for level in Level:
            count = self.log.sink.counts[level]
            what = "Events of the log, written or not."
            yield Sample("portal_log_events_total", count, what, {"level": level.word})
        told = "Events of the control socket."
        yield Sample("portal_events_total", self.events.published, told)
        yield Sample("portal_event_listeners", len(self.events), "Who listens to them.")
        slow = "Listeners that were too slow."
        yield Sample("portal_event_listeners_dropped_total", self.events.dropped, slow)


def _end_soon() -> None:
    """The last resort against whatever does not end: say where it hangs, and leave.

    Runs in a thread of its own that needs no interpreter; what is on the disk survives any end.
    """
    if sys.stderr:
        faulthandler.dump_traceback_later(limits.NODE_STOP_SECONDS, exit=True)
