import plistlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from core.errors import Unavailable, UsageError
from node import schedule
from node.schedule import Job, Kind, ScheduleError, System

PROGRAM = ("/opt/portal/bin/portal",)

# Each notes its arguments; each can be told to fail.
RECORDER = """#!/bin/sh
echo "{name} $*" >> "{folder}/calls"
[ -e "{folder}/{name}.fails" ] && {{ cat "{folder}/{name}.fails" >&2; exit 1; }}
exit 0
"""
CRONTAB = """#!/bin/sh
if [ -e "{folder}/crontab.fails" ]; then cat "{folder}/crontab.fails" >&2; exit 1; fi
if [ "$1" = -l ]; then
    [ -e "{folder}/table" ] || {{ echo "no crontab for bob" >&2; exit 1; }}
    exec cat "{folder}/table"
fi
[ "$1" = - ] && exec cat > "{folder}/table"
exit 2
"""


@pytest.fixture
def machine(tmp_path):
    """A machine with programs of our own making, and what they were told."""
    return Machine(tmp_path)


class Machine:
    def __init__(self, folder):
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.table = folder / "table"
        path = f"{self.programs}:{folder / 'sys'}"
        (folder / "sys").mkdir()
        for name in ("sh", "cat"):
            (folder / "sys" / name).symlink_to(shutil.which(name))
        self.system = System(folder / "home", {"PATH": path}, 1000)

    def has(self, *names):
        for name in names:
            program = self.programs / name
            text = CRONTAB if name == "crontab" else RECORDER
            program.write_text(text.format(name=name, folder=self.folder))
            program.chmod(0o755)
        return self.system

    def fails(self, name, message):
        (self.folder / f"{name}.fails").write_text(message)

    def calls(self):
        log = self.folder / "calls"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found


def job(**changes):
    return Job(**{"profile": "home", "when": "daily", "program": PROGRAM} | changes)


def test_the_units_say_what_when_and_how_gently():
    service = schedule.service_text(job())
    for line in (
        'ExecStart="/opt/portal/bin/portal" "backup" "-P" "home"',
        "Type=oneshot",
        "Nice=19",
        "IOSchedulingClass=idle",
        "NoNewPrivileges=yes",
        "UMask=0077",
    ):
        assert line in service.splitlines()
    assert "Environment" not in service
    assert "ConditionACPower" not in service
    assert "ConditionACPower=true" in schedule.service_text(job(on_mains_only=True)).splitlines()
    timer = schedule.timer_text(job(when="Mon..Fri 20:00")).splitlines()
    for line in ("OnCalendar=Mon..Fri 20:00", "Persistent=true", "RandomizedDelaySec=10m"):
        assert line in timer
    assert "OnCalendar=*-*-* 07:05:00" in schedule.timer_text(job(when="7:05")).splitlines()


def test_nothing_in_a_path_means_something_to_systemd():
    odd = job(program=('/o"p/100% $HOME\\x/portal',), home="/h $x%")
    service = schedule.service_text(odd).splitlines()
    assert 'ExecStart="/o\\"p/100%% $$HOME\\\\x/portal" "backup" "-P" "home"' in service
    assert 'Environment="PORTAL_HOME=/h $x%%"' in service


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
@pytest.mark.slow
def test_systemd_finds_no_fault(tmp_path):
    program = tmp_path / "a b" / "portal"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    made = job(program=(str(program),), home="/h %", when="12:30", on_mains_only=True)
    (tmp_path / f"{made.name}.service").write_text(schedule.service_text(made))
    (tmp_path / f"{made.name}.timer").write_text(schedule.timer_text(made))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", tmp_path / f"{made.name}.timer"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    ours = [line for line in done.stderr.splitlines() if made.name in line]
    assert not ours
    assert done.returncode == 0, done.stderr


def test_a_line_for_cron():
    def line(**changes):
        begin, line, end = schedule.crontab_text(job(**changes)).splitlines()
        assert (begin, end) == ("# portal: begin home", "# portal: end home")
        return line

    assert line() == "0 0 * * * /opt/portal/bin/portal backup -P home"
    assert line(when="hourly").startswith("0 * * * * /")
    assert line(when="weekly").startswith("0 0 * * 1 /")
    assert line(when="monthly").startswith("0 0 1 * * /")
    assert line(when="*-*-* 12:30").startswith("30 12 * * * /")
    odd = line(home="/a b/100%", program=("/p%q/portal",))
    assert odd == "0 0 * * * PORTAL_HOME='/a b/100\\%' /p\\%q/portal backup -P home"
    # What cron makes of the line is the command as it was meant.
    assert shlex.split(odd.replace("\\%", "%"))[5:] == [
        "PORTAL_HOME=/a b/100%",
        "/p%q/portal",
        "backup",
        "-P",
        "home",
    ]


def test_an_agent_for_launchd():
    agent = plistlib.loads(schedule.launchd_text(job(when="12:30", home="/h<&")).encode())
    assert agent == {
        "Label": "portal-backup-home",
        "ProgramArguments": ["/opt/portal/bin/portal", "backup", "-P", "home"],
        "StartCalendarInterval": {"Hour": 12, "Minute": 30},
        "EnvironmentVariables": {"PORTAL_HOME": "/h<&"},
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 19,
    }


@pytest.mark.parametrize("kind", [Kind.CRON, Kind.LAUNCHD])
@pytest.mark.parametrize("when", ["Mon..Fri 20:00", "24:00", "minutely", "12:60", "0 4 * * *"])
def test_what_they_cannot_express_is_refused(kind, when):
    with pytest.raises(UsageError, match=f"{kind} cannot express"):
        schedule.text(kind, job(when=when))


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "../x"},
        {"profile": "a b"},
        {"when": "daily\nExecStart=/bin/evil"},
        {"when": ""},
        {"home": "/a\nb"},
        {"home": "relative"},
        {"program": ("portal",)},
        {"program": ("/bin/portal", "a\nb")},
    ],
)
def test_a_job_is_lines_of_text_and_absolute_paths(changes):
    with pytest.raises(UsageError):
        job(**changes)


def test_what_would_be_installed_can_be_read():
    shown = schedule.text(Kind.SYSTEMD, job())
    assert schedule.service_text(job()) in shown
    assert schedule.timer_text(job()) in shown
    assert "# portal-backup-home.timer\n" in shown
    assert schedule.text(Kind.CRON, job()) == schedule.crontab_text(job())
    assert schedule.text(Kind.LAUNCHD, job()) == schedule.launchd_text(job())


def test_which_clock_a_machine_has(machine):
    assert schedule.usual_kind("darwin", machine.system) is Kind.LAUNCHD
    assert schedule.usual_kind("linux", machine.system) is Kind.SYSTEMD
    assert schedule.usual_kind("linux", machine.has("crontab")) is Kind.CRON
    assert schedule.usual_kind("linux", machine.has("systemctl")) is Kind.SYSTEMD


def test_systemd_install_and_remove(machine):
    system = machine.has("systemctl")
    told = schedule.install(Kind.SYSTEMD, job(), system)
    folder = machine.folder / "home" / ".config" / "systemd" / "user"
    service, timer = folder / "portal-backup-home.service", folder / "portal-backup-home.timer"
    assert service.read_text() == schedule.service_text(job())
    assert timer.read_text() == schedule.timer_text(job())
    assert told[:2] == [f"wrote {service}", f"wrote {timer}"]
    assert "enable-linger" in told[2]
    assert machine.calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable portal-backup-home.timer",
        "systemctl --user restart portal-backup-home.timer",
    ]
    schedule.install(Kind.SYSTEMD, job(when="hourly"), system)
    assert "OnCalendar=hourly" in timer.read_text()
    machine.calls()
    other = folder / "portal-backup-other.timer"
    other.touch()
    assert schedule.remove(Kind.SYSTEMD, "home", system) == [
        f"removed {timer}",
        f"removed {service}",
    ]
    assert list(folder.iterdir()) == [other]
    assert machine.calls() == [
        "systemctl --user disable --now portal-backup-home.timer",
        "systemctl --user daemon-reload",
    ]
    with pytest.raises(UsageError, match="no schedule for profile home"):
        schedule.remove(Kind.SYSTEMD, "home", system)


def test_the_folder_of_configurations_may_be_elsewhere(machine):
    system = machine.has("systemctl")
    moved = System(
        system.user_home, {**system.environment, "XDG_CONFIG_HOME": str(machine.folder / "x")}, 1
    )
    schedule.install(Kind.SYSTEMD, job(), moved)
    assert (machine.folder / "x/systemd/user/portal-backup-home.timer").exists()
    assert not (machine.folder / "home").exists()


def test_without_systemctl_the_files_are_written_and_what_to_do_is_told(machine):
    told = schedule.install(Kind.SYSTEMD, job(), machine.system)
    assert told[2].endswith("systemctl --user enable --now portal-backup-home.timer")
    assert len(schedule.remove(Kind.SYSTEMD, "home", machine.system)) == 2


def test_when_systemd_refuses_its_words_are_told(machine):
    system = machine.has("systemctl")
    machine.fails("systemctl", "Failed to connect\nto bus")
    with pytest.raises(ScheduleError, match="Failed to connect to bus") as e:
        schedule.install(Kind.SYSTEMD, job(), system)
    assert "systemctl --user enable --now portal-backup-home.timer" in e.value.hint


def test_a_time_that_systemd_does_not_understand_is_refused_before_anything_is_written(machine):
    system = machine.has("systemctl", "systemd-analyze")
    machine.fails("systemd-analyze", "no")
    with pytest.raises(UsageError, match="does not understand 'sometimes'"):
        schedule.install(Kind.SYSTEMD, job(when="sometimes"), system)
    assert machine.calls() == ["systemd-analyze calendar -- sometimes"]
    assert not (machine.folder / "home").exists()


OTHERS = b"# mine\r\nMAILTO=me\n\n5 4 * * * echo \xff 100\\%"


def test_a_crontab_gets_our_lines_and_keeps_all_others(machine):
    system = machine.has("crontab")
    machine.table.write_bytes(OTHERS)
    assert "not made up for" in schedule.install(Kind.CRON, job(), system)[0]
    ours = schedule.crontab_text(job()).encode()
    assert machine.table.read_bytes() == OTHERS + b"\n" + ours
    schedule.install(Kind.CRON, job(profile="home2"), system)
    schedule.install(Kind.CRON, job(when="hourly"), system)
    hourly = schedule.crontab_text(job(when="hourly")).encode()
    two = schedule.crontab_text(job(profile="home2")).encode()
    assert machine.table.read_bytes() == OTHERS + b"\n" + two + hourly
    schedule.remove(Kind.CRON, "home2", system)
    schedule.remove(Kind.CRON, "home", system)
    assert machine.table.read_bytes() == OTHERS + b"\n"
    with pytest.raises(UsageError, match="no schedule"):
        schedule.remove(Kind.CRON, "home", system)


def test_without_a_crontab_ours_is_the_first(machine):
    system = machine.has("crontab")
    schedule.install(Kind.CRON, job(), system)
    assert machine.table.read_text() == schedule.crontab_text(job())


def test_a_crontab_that_cannot_be_read_is_not_replaced(machine):
    system = machine.has("crontab")
    machine.table.write_bytes(OTHERS)
    machine.fails("crontab", "cannot open: permission denied")
    for work in (
        lambda: schedule.install(Kind.CRON, job(), system),
        lambda: schedule.remove(Kind.CRON, "home", system),
    ):
        with pytest.raises(ScheduleError, match="nothing was changed: cannot open"):
            work()
    assert machine.table.read_bytes() == OTHERS


@pytest.mark.parametrize("marks", ["b", "e", "be b", "eb", "bbe", "bee"])
def test_marks_that_do_not_pair_are_left_to_the_person(machine, marks):
    names = {"b": "# portal: begin home\n", "e": "# portal: end home\n", " ": "0 0 * * * x\n"}
    before = "".join(names[mark] for mark in marks)
    machine.table.write_text(before)
    with pytest.raises(ScheduleError, match="do not pair"):
        schedule.install(Kind.CRON, job(), machine.has("crontab"))
    assert machine.table.read_text() == before


def test_without_crontab_it_says_so(machine):
    with pytest.raises(Unavailable, match="there is no crontab here"):
        schedule.install(Kind.CRON, job(), machine.system)


def test_launchd_install_and_remove(machine):
    system = machine.has("launchctl")
    path = machine.folder / "home/Library/LaunchAgents/portal-backup-home.plist"
    assert schedule.install(Kind.LAUNCHD, job(), system)[0] == f"wrote {path}"
    assert path.read_text() == schedule.launchd_text(job())
    bootout = "launchctl bootout gui/1000/portal-backup-home"
    assert machine.calls() == [bootout, f"launchctl bootstrap gui/1000 {path}"]
    assert schedule.remove(Kind.LAUNCHD, "home", system) == [f"removed {path}"]
    assert machine.calls() == [bootout]
    assert not path.exists()
    told = schedule.install(Kind.LAUNCHD, job(), System(Path(machine.folder), {"PATH": ""}, 1))
    assert told[1].startswith("there is no launchctl here")
