"""The process people run: one root nursery, and in it one task per service.

    run ─┬─ signals
         ├─ control        the control socket: status and events from the first moment on
         ├─ watchdog       if the service manager asked for it
         ├─ metrics        if the configuration names an address
         └─ ...            what the node is for; started last, stopped first

Each service starts when the one before it says that it is up, and they are stopped in reverse: the
next when the one before it has ended. A service that fails, or ends unasked, takes the daemon down
in the same order. Nobody else owns a task.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import trio

from core import limits
from core.errors import PortalError
from node import api
from node.events import Events
from node.log import Log, place
from node.systemd import Notifier


class Service(Protocol):
    """A part of the node that runs as long as the node does."""

    @property
    def name(self) -> str:
        """One word, for people."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Start, say `task_status.started()`, and go on until stopped."""


@runtime_checkable
class Stoppable(Protocol):
    """A service that ends by itself when asked; others are cancelled when it is their turn."""

    def stop(self) -> None:
        """Begin to end: `run` returns soon. May come before it was started."""


@runtime_checkable
class Checked(Protocol):
    """A service that can tell whether it is well."""

    def complaint(self) -> str | None:
        """Why it is not, in one line."""


class EndedUnasked(PortalError):
    """A part of the node ended by itself."""


class Running:
    """One service and how it is doing."""

    def __init__(self, service: Service, tell: Callable[["Running"], None]) -> None:
        self.service = service
        self.state = "starting"
        self.since_s = time.time()
        self.scope = trio.CancelScope(shield=True)  # nobody cancels it but us, in our order
        self.ended = trio.Event()
        self._tell = tell

    def turn(self, state: str) -> None:
        """It is in another state now."""
        self.state, self.since_s = state, time.time()
        self._tell(self)

    def ask_to_end(self) -> None:
        """Gently, if it knows how."""
        if self.ended.is_set():
            return
        if self.state == "running":
            self.turn("stopping")
        if isinstance(self.service, Stoppable):
            self.service.stop()
        else:
            self.scope.cancel()

    def status(self) -> api.ServiceStatus:
        """For people and programs."""
        complaint = self.service.complaint() if isinstance(self.service, Checked) else None
        return api.ServiceStatus(
            name=self.service.name, state=self.state, since_s=self.since_s, complaint=complaint
        )


class Daemon:
    """Runs services, in order, until a signal, a question or a failure ends them."""

    def __init__(
        self,
        log: Log,
        events: Events,
        notifier: Notifier,
        reload: Callable[[], object],
        *,
        hangup_ends: bool = False,
    ) -> None:
        self._log = log
        self._events = events
        self._notifier = notifier
        self._reload = reload
        self._hangup_ends = hangup_ends  # of a terminal; else it asks to read the configuration
        self._all: list[Running] = []
        self._stopping = trio.Event()
        self._gentle = trio.CancelScope()
        self._failure: BaseException | None = None
        self.is_ready = False

    # --- what others ask --------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Of the whole."""
        return "stopping" if self._stopping.is_set() else "running" if self.is_ready else "starting"

    def services(self) -> list[api.ServiceStatus]:
        """Of each part, in the order of their start."""
        return [one.status() for one in self._all]

    def complaints(self) -> list[str]:
        """What is not as it should be."""
        told = [] if self.state == "running" else [f"the node is {self.state}"]
        return told + [f"{one.name}: {one.complaint}" for one in self.services() if one.complaint]

    def stop(self, why: str) -> None:
        """End, in order. The second time: at once."""
        if self._stopping.is_set():
            self._log.warning("stopping at once", why=why)
            self._gentle.cancel()
            return
        self._log.info("stopping", why=why)
        self._begin_to_stop()

    def reload(self) -> None:
        """Read the configuration again, because of a signal; what is wrong with it is logged."""
        self._notifier.reloading()
        try:
            self._reload()
        except (PortalError, OSError) as e:
            self._log.error("configuration not reloaded", error=e)
        self._notifier.ready("running")

    # --- running ----------------------------------------------------------------------------------

    async def run(self, services: Sequence[Service], on_stopping: Callable[[], None]) -> int:
        """Start them, wait, stop them; the exit code. `on_stopping` is told when the end begins."""
        try:
            async with trio.open_nursery() as nursery:
                signals: trio.CancelScope = await nursery.start(self._heed_signals)
                try:
                    await self._start(services, nursery)
                    await self._stopping.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        try:
                            on_stopping()
                        finally:  # they are shielded: nobody else would end them
                            await self._stop_all()
                            signals.cancel()
        except BaseExceptionGroup:
            if self._failure is None:
                raise  # a fault of this class, not of a service
        if self._failure is None:
            self._log.info("stopped")
            return 0
        return self._failure.exit_code if isinstance(self._failure, PortalError) else 1

    async def _start(self, services: Sequence[Service], nursery: trio.Nursery) -> None:
        for service in services:
            if self._stopping.is_set():
                return
            running = Running(service, self._tell)
            self._all.append(running)
            await nursery.start(self._keep, running)
        if not self._stopping.is_set():
            self.is_ready = True
            self._log.info("ready", pid=os.getpid(), services=[one.name for one in services])
            self._notifier.ready("running")

    async def _keep(self, running: Running, *, task_status: trio.TaskStatus[None]) -> None:
        """One service, from its start to its end."""
        started = _Started(running, task_status)
        try:
            with running.scope:
                await running.service.run(task_status=started)
            self._check_asked(running)
        except BaseException as e:
            self._fail(running, e)
            raise
        finally:
            running.ended.set()
        started.started()  # it was stopped before it was up
        running.turn("stopped")

    def _check_asked(self, running: Running) -> None:
        if not self._stopping.is_set():
            raise EndedUnasked(f"{running.service.name} ended by itself")

    def _fail(self, running: Running, error: BaseException) -> None:
        running.turn("failed")
        self._failure = self._failure or error
        name = running.service.name
        self._log.error("service failed", service=name, error=error, where=place(error))
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._notifier.stopping()
        for running in self._all:
            if running.state == "starting":
                running.scope.cancel()  # whoever waits for it to be up waits no longer

    async def _stop_all(self) -> None:
        """Last started, first stopped; when time is short, all at once."""
        self._begin_to_stop()
        with self._gentle:
            self._gentle.deadline = trio.current_time() + limits.NODE_STOP_GENTLE_SECONDS
            for running in reversed(self._all):
                running.ask_to_end()
                await running.ended.wait()
        late = [one for one in self._all if not one.ended.is_set()]
        if late:
            self._log.warning("cancelled", services=[one.service.name for one in late])
        for running in reversed(late):
            running.scope.cancel()
        for running in late:
            await running.ended.wait()

    def _tell(self, running: Running) -> None:
        self._log.debug("service", service=running.service.name, state=running.state)
        self._events.publish(api.ServiceChanged(service=running.service.name, state=running.state))

    # --- signals ----------------------------------------------------------------------------------

    async def _heed_signals(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with trio.CancelScope(shield=True) as scope, trio.open_signal_receiver(*wanted) as signals:
            task_status.started(scope)
            async for number in signals:
                if number == signal.SIGHUP and not self._hangup_ends:
                    self.reload()
                else:
                    self.stop(signal.Signals(number).name)


class _Started:
    """Hears that a service is up, once."""

    def __init__(self, running: Running, task_status: trio.TaskStatus[None]) -> None:
        self._running = running
        self._task_status: trio.TaskStatus[None] | None = task_status

    def started(self, _value: None = None) -> None:
        """It is up, or will never be."""
        if self._task_status is not None:
            told, self._task_status = self._task_status, None
            if not self._running.ended.is_set():
                self._running.turn("running")
            told.started()
