import signal

import pytest
import trio
from trio.testing import MockClock

from core import limits
from core.errors import KeystoreError, UsageError, WrongKey
from node import api
from node.daemon import Daemon
from node.events import Events
from node.log import Level, Log, Sink
from node.systemd import Notifier


class Diary:
    """What happened in which order, and a daemon that it happens to."""

    def __init__(self, reload=lambda: None):
        self.pages = []
        self.lines = []
        self.events = Events()
        self.told = []
        log = Log(Sink(self.lines.append, level=Level.DEBUG))
        notifier = Notifier(None)
        self.daemon = Daemon(log, self.events, notifier, reload)

    def run(self, *services, clock=None):
        async def main():
            return await self.daemon.run(services, lambda: self.pages.append("stopping"))

        return trio.run(main, clock=clock)

    def states(self):
        return {one.name: one.state for one in self.daemon.services()}


class Part:
    """A service that notes what it does."""

    def __init__(self, diary, name, *, then=None, fails=None, stuck=False):
        self.diary, self.name = diary, name
        self.then, self.fails, self.stuck = then, fails, stuck

    async def run(self, *, task_status):
        pages = self.diary.pages
        pages.append(f"{self.name} starts")
        try:
            await trio.lowlevel.checkpoint()
            pages.append(f"{self.name} up")
            task_status.started()
            if self.then:
                self.then()
            if self.fails:
                raise self.fails
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()  # nobody else's turn meanwhile
            pages.append(f"{self.name} ends")


class Polite(Part):
    """A service that ends by itself when asked, or does not."""

    async def run(self, *, task_status):
        self.asked = trio.Event()
        task_status.started()
        if self.then:
            self.then()
        try:
            await self.asked.wait()
            self.diary.pages.append(f"{self.name} asked")
            if self.stuck:
                await trio.sleep_forever()
        finally:
            self.diary.pages.append(f"{self.name} ends")

    def stop(self):
        self.asked.set()


def test_services_start_in_order_and_stop_in_reverse():
    diary = Diary()
    stop = lambda: diary.daemon.stop("told")  # noqa: E731
    parts = [Part(diary, "a"), Part(diary, "b"), Part(diary, "c", then=stop)]
    assert diary.run(*parts) == 0
    assert diary.pages == [
        *("a starts", "a up", "b starts", "b up", "c starts", "c up"),
        *("stopping", "c ends", "b ends", "a ends"),
    ]
    assert diary.states() == {"a": "stopped", "b": "stopped", "c": "stopped"}
    assert not diary.daemon.is_ready or diary.daemon.state == "stopping"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number):
    diary = Diary()
    before = signal.getsignal(number)
    parts = [Part(diary, "a"), Part(diary, "b", then=lambda: signal.raise_signal(number))]
    assert diary.run(*parts) == 0
    assert diary.pages[-2:] == ["b ends", "a ends"]
    assert signal.getsignal(number) is before
    assert any(f"stopping why={signal.Signals(number).name}" in line for line in diary.lines)


def test_polite_services_are_asked_and_not_cut_off():
    diary = Diary()
    stop = lambda: diary.daemon.stop("told")  # noqa: E731
    assert diary.run(Polite(diary, "a"), Polite(diary, "b", then=stop)) == 0
    assert diary.pages == ["stopping", "b asked", "b ends", "a asked", "a ends"]


def test_who_does_not_end_is_cancelled_in_time():
    diary = Diary()
    stop = lambda: diary.daemon.stop("told")  # noqa: E731
    clock = MockClock(autojump_threshold=0.01)
    parts = [Polite(diary, "a"), Polite(diary, "b", stuck=True), Polite(diary, "c", then=stop)]
    assert diary.run(*parts, clock=clock) == 0
    assert clock.current_time() == pytest.approx(limits.NODE_STOP_GENTLE_SECONDS)
    assert diary.pages[-3:] == ["b asked", "b ends", "a ends"] or diary.pages[-1] == "b ends"
    assert diary.pages.count("c ends") == 1
    assert any("warning node: cancelled services=a,b" in line for line in diary.lines)


def test_the_second_signal_does_not_wait():
    diary = Diary()

    def stop_twice():
        diary.daemon.stop("once")
        diary.daemon.stop("twice")

    clock = MockClock(autojump_threshold=0.01)
    stuck = Polite(diary, "a", stuck=True, then=stop_twice)
    assert diary.run(stuck, clock=clock) == 0
    assert clock.current_time() == 0
    assert any("stopping at once" in line for line in diary.lines)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("no such port", hint="9464"), 2, 'error="no such port (9464)"'),
        (KeystoreError("locked"), 1, "error=locked"),
        (WrongKey(), 12, "No key given here opens this"),
        (OSError(98, "Address already in use", "1.2.3.4:5"), 1, "1.2.3.4:5: Address already"),
        (KeyError("x"), 1, "KeyError: 'x'"),
    ],
)
def test_a_service_that_fails_takes_all_down_in_order_and_in_one_line(error, code, told):
    diary = Diary()
    parts = [Part(diary, "a"), Part(diary, "b"), Part(diary, "c", fails=error)]
    assert diary.run(*parts) == code
    assert diary.pages[-4:] == ["c ends", "stopping", "b ends", "a ends"]
    (line,) = [one for one in diary.lines if " error " in one]
    assert "service failed service=c" in line
    assert told in line
    assert ("where=" in line) == isinstance(error, KeyError)
    assert diary.states() == {"a": "stopped", "b": "stopped", "c": "failed"}


def test_the_first_failure_is_what_counts():
    diary = Diary()

    class Late(Polite):
        async def run(self, *, task_status):
            await super().run(task_status=task_status)
            raise KeystoreError("later")

    late = Late(diary, "a")
    assert diary.run(late, Part(diary, "b", fails=WrongKey("first"))) == 12


def test_a_failure_while_starting_starts_nothing_more():
    diary = Diary()

    class Broken(Part):
        async def run(self, *, task_status):
            raise UsageError("cannot")

    assert diary.run(Part(diary, "a"), Broken(diary, "b"), Part(diary, "c")) == 2
    assert diary.pages == ["a starts", "a up", "stopping", "a ends"]
    assert diary.states() == {"a": "stopped", "b": "failed"}


def test_a_service_that_ends_unasked_is_a_failure():
    diary = Diary()

    class Brief(Part):
        async def run(self, *, task_status):
            task_status.started()

    assert diary.run(Part(diary, "a"), Brief(diary, "b")) == 1
    assert any("b ended by itself" in line for line in diary.lines)


def test_one_that_is_still_starting_does_not_delay_the_end():
    diary = Diary()

    class Slow(Part):
        async def run(self, *, task_status):
            diary.pages.append(f"{self.name} starts")
            diary.daemon.stop("told")
            await trio.sleep_forever()

    clock = MockClock(autojump_threshold=0.01)
    assert diary.run(Part(diary, "a"), Slow(diary, "b"), Part(diary, "c"), clock=clock) == 0
    assert clock.current_time() == 0
    assert diary.pages == ["a starts", "a up", "b starts", "stopping", "a ends"]


def test_states_are_told_as_events():
    diary = Diary()
    heard = []
    publish = diary.events.publish
    diary.events.publish = lambda data: (heard.append((data.service, data.state)), publish(data))
    diary.run(Part(diary, "a"), Part(diary, "b", then=lambda: diary.daemon.stop("told")))
    assert heard == [
        *(("a", "running"), ("b", "running")),
        *(("b", "stopping"), ("b", "stopped"), ("a", "stopping"), ("a", "stopped")),
    ]


def test_what_is_not_well_is_told():
    diary = Diary()
    seen = []

    class Sick(Part):
        def complaint(self):
            return "no network"

    def look():
        seen.append((diary.daemon.complaints(), diary.daemon.state))
        diary.daemon.stop("told")
        seen.append((diary.daemon.complaints(), diary.daemon.state))

    class Looks(Part):
        async def run(self, *, task_status):
            task_status.started()
            await trio.testing.wait_all_tasks_blocked()
            look()
            await trio.sleep_forever()

    diary.run(Sick(diary, "a"), Looks(diary, "b"))
    assert seen == [
        (["a: no network"], "running"),
        (["the node is stopping", "a: no network"], "stopping"),
    ]
    assert diary.daemon.services()[0].complaint == "no network"


def test_a_hangup_reads_the_configuration_again_and_a_mistake_ends_nothing():
    reloads = []

    def reload():
        reloads.append(1)
        if len(reloads) == 2:
            diary.daemon.stop("told")
        raise UsageError("unknown key 'metrix'")

    diary = Diary(reload)

    def hang_up():
        signal.raise_signal(signal.SIGHUP)

    class Again(Part):
        async def run(self, *, task_status):
            task_status.started()
            hang_up()
            while len(reloads) < 1:
                await trio.testing.wait_all_tasks_blocked()
            hang_up()
            await trio.sleep_forever()

    assert diary.run(Again(diary, "a")) == 0
    assert len(reloads) == 2
    assert any("configuration not reloaded" in line for line in diary.lines)


def test_a_terminal_that_goes_away_ends_it():
    diary = Diary()
    diary.daemon._hangup_ends = True
    assert diary.run(Part(diary, "a", then=lambda: signal.raise_signal(signal.SIGHUP))) == 0
    assert any("why=SIGHUP" in line for line in diary.lines)


def test_a_fault_of_the_daemon_itself_is_not_hidden():
    diary = Diary()

    async def main():
        await diary.daemon.run([Part(diary, "a", then=lambda: diary.daemon.stop("x"))], broken)

    def broken():
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        trio.run(main, clock=MockClock(autojump_threshold=0.01))


def test_service_status_is_what_the_api_tells():
    diary = Diary()
    diary.run(Part(diary, "a", then=lambda: diary.daemon.stop("told")))
    (one,) = diary.daemon.services()
    assert isinstance(one, api.ServiceStatus)
