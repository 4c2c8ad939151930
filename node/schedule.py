"""Backups by the clock of the system: a systemd user timer, a line for cron, a launchd job.

What is written is text that a person can read and change; everything else a system does with it is
asked of its own programs. Of a crontab, nothing but the lines between our two marks is touched.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

from core import files
from core.errors import PortalError, Unavailable, UsageError
from node.config import check_profile_name

_CLOCK = re.compile(r"(?:\*-\*-\* )?([01]?[0-9]|2[0-3]):([0-5][0-9])(?::00)?")
_NO_CRONTAB = re.compile(rb"no crontab for", re.IGNORECASE)


@unique
class Kind(StrEnum):
    """Whose clock it is."""

    SYSTEMD = "systemd"
    CRON = "cron"
    LAUNCHD = "launchd"


class ScheduleError(PortalError):
    """The system did not take the schedule."""


@dataclass(frozen=True, slots=True)
class Job:
    """One profile, when it is to be backed up, and with which program."""

    profile: str
    when: str  # hourly, daily, weekly, monthly, HH:MM, or with systemd what OnCalendar takes
    program: tuple[str, ...]  # absolute: timers have a search path of their own
    home: str | None = None  # PORTAL_HOME, where it is not the usual place
    on_mains_only: bool = False  # systemd can ask; the others cannot

    def __post_init__(self) -> None:
        check_profile_name(self.profile)
        for text in (self.when, *self.program, self.home or "/"):
            if not text or not text.isprintable():
                raise UsageError(f"{text!r} must be one line of text")
        for path in (self.program[0], self.home or "/"):
            if not path.startswith("/"):
                raise UsageError("must be an absolute path", where=path)

    @property
    def command(self) -> tuple[str, ...]:
        """What runs."""
        return (*self.program, "backup", "-P", self.profile)

    @property
    def name(self) -> str:
        """What the system calls it."""
        return f"portal-backup-{self.profile}"


@dataclass(frozen=True, slots=True)
class System:
    """Where this user's schedules lie and what there is to run; tests have one of their own."""

    user_home: Path
    environment: Mapping[str, str]
    user_id: int

    @property
    def units(self) -> Path:
        """The folder of systemd's user units."""
        chosen = self.environment.get("XDG_CONFIG_HOME")
        return (Path(chosen) if chosen else self.user_home / ".config") / "systemd" / "user"

    @property
    def agents(self) -> Path:
        """The folder of launchd's user agents."""
        return self.user_home / "Library" / "LaunchAgents"

    def has(self, program: str) -> bool:
        """Whether a program is there."""
        return shutil.which(program, path=self.environment.get("PATH", "")) is not None

    def run(self, *command: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a program of the system and wait for it; it speaks English, for us to understand."""
        found = shutil.which(command[0], path=self.environment.get("PATH", ""))
        if found is None:
            raise Unavailable(f"there is no {command[0]} here")
        return subprocess.run(
            [found, *command[1:]],
            input=b"" if given is None else given,
            capture_output=True,
            check=False,
            env={**self.environment, "LC_ALL": "C"},
        )

    def must(self, *command: str, given: bytes | None = None) -> None:
        """Run a program that has to succeed."""
        done = self.run(*command, given=given)
        if done.returncode:
            said = " ".join(done.stderr.decode("utf-8", "replace").split())
            told = said or f"exit code {done.returncode}"
            raise ScheduleError(f"{shlex.join(command)} failed: {told}")


def usual_kind(platform: str, system: System) -> Kind:
    """The clock this machine has."""
    if platform == "darwin":
        return Kind.LAUNCHD
    return Kind.SYSTEMD if system.has("systemctl") or not system.has("crontab") else Kind.CRON


def text(kind: Kind, job: Job) -> str:
    """What would be installed, for a person to read."""
    if kind is Kind.SYSTEMD:
        return f"# {job.name}.service\n{service_text(job)}\n# {job.name}.timer\n{timer_text(job)}"
    return crontab_text(job) if kind is Kind.CRON else launchd_text(job)


def service_text(job: Job) -> str:
    """The unit that runs one backup, out of everybody's way."""
    environment = f"Environment={_unit_word('PORTAL_HOME=' + job.home)}\n" if job.home else ""
    condition = "ConditionACPower=true\n" if job.on_mains_only else ""
    return f"""\
[Unit]
Description=Portal backup of profile {job.profile}
{condition}
[Service]
Type=oneshot
{environment}ExecStart={" ".join(_unit_word(word, dollar="$$") for word in job.command)}
Nice=19
IOSchedulingClass=idle
CPUSchedulingPolicy=batch
# Asked to end, a backup finishes what it has begun; a second run goes on from there.
KillMode=mixed
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
"""


def timer_text(job: Job) -> str:
    """The unit that says when; what was missed while the machine was off is made up for."""
    found = _CLOCK.fullmatch(job.when)
    when = f"*-*-* {int(found[1]):02}:{found[2]}:00" if found else job.when
    return f"""\
[Unit]
Description=When Portal backs up profile {job.profile}

[Timer]
OnCalendar={when}
Persistent=true
RandomizedDelaySec=10m

[Install]
WantedBy=timers.target
"""


def crontab_text(job: Job) -> str:
    """Our lines of a crontab, with the marks around them."""
    minute, hour, day, weekday = _clock(Kind.CRON, job.when)
    fields = [minute, hour, day, None, weekday]
    words = shlex.join(job.command)
    if job.home:
        words = f"PORTAL_HOME={shlex.quote(job.home)} {words}"
    # cron ends a command at the first bare %, and gives the rest to it as input.
    line = " ".join("*" if f is None else str(f) for f in fields) + " " + words.replace("%", "\\%")
    begin, end = _marks(job.profile)
    return f"{begin}\n{line}\n{end}\n"


def launchd_text(job: Job) -> str:
    """The property list of a user agent."""
    import plistlib  # noqa: PLC0415 - on a Mac only

    minute, hour, day, weekday = _clock(Kind.LAUNCHD, job.when)
    when = {"Minute": minute, "Hour": hour, "Day": day, "Weekday": weekday}
    agent: dict[str, object] = {
        "Label": job.name,
        "ProgramArguments": list(job.command),
        "StartCalendarInterval": {name: at for name, at in when.items() if at is not None},
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 19,
    }
    if job.home:
        agent["EnvironmentVariables"] = {"PORTAL_HOME": job.home}
    return plistlib.dumps(agent).decode("utf-8")


def install(kind: Kind, job: Job, system: System) -> list[str]:
    """Put the schedule in place of an earlier one of this profile; what to tell about it."""
    if kind is Kind.CRON:
        ours = crontab_text(job).encode()
        others, _ = _without_ours(_crontab(system), job.profile)
        if others and not others.endswith(b"\n"):
            others += b"\n"
        system.must("crontab", "-", given=others + ours)
        return [f"crontab: {job.when}; what is missed while the machine is off is not made up for"]
    if kind is Kind.LAUNCHD:
        path = system.agents / f"{job.name}.plist"
        _write(path, launchd_text(job))
        return [f"wrote {path}", *_load_agent(path, job.name, system)]
    _check_calendar(job, system)
    written = [system.units / f"{job.name}.{suffix}" for suffix in ("service", "timer")]
    for path, content in zip(written, (service_text(job), timer_text(job)), strict=True):
        _write(path, content)
    return [*(f"wrote {path}" for path in written), *_start_timer(job.name, system)]


def remove(kind: Kind, profile: str, system: System) -> list[str]:
    """Take the schedule of a profile away; what to tell about it."""
    name = f"portal-backup-{check_profile_name(profile)}"
    if kind is Kind.CRON:
        others, found = _without_ours(_crontab(system), profile)
        if not found:
            raise _nothing_there(kind, profile)
        system.must("crontab", "-", given=others)
        return [f"took the lines of {profile} out of the crontab"]
    folder, suffixes = (
        (system.agents, ("plist",))
        if kind is Kind.LAUNCHD
        else (system.units, ("timer", "service"))
    )
    there = [path for s in suffixes if (path := folder / f"{name}.{s}").exists()]
    if not there:
        raise _nothing_there(kind, profile)
    if kind is Kind.SYSTEMD and system.has("systemctl"):
        system.run("systemctl", "--user", "disable", "--now", f"{name}.timer")
    if kind is Kind.LAUNCHD and system.has("launchctl"):
        system.run("launchctl", "bootout", f"gui/{system.user_id}/{name}")
    for path in there:
        path.unlink()
    if kind is Kind.SYSTEMD and system.has("systemctl"):
        system.run("systemctl", "--user", "daemon-reload")
    return [f"removed {path}" for path in there]


def _nothing_there(kind: Kind, profile: str) -> UsageError:
    return UsageError(f"there is no schedule for profile {profile} ({kind})")


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_private(path, content.encode("utf-8"))


def _check_calendar(job: Job, system: System) -> None:
    """Refuse what systemd would not understand, before anything is written."""
    if _CLOCK.fullmatch(job.when) or not system.has("systemd-analyze"):
        return
    if system.run("systemd-analyze", "calendar", "--", job.when).returncode:
        hint = 'for example daily, 12:30 or "Mon..Fri 20:00"; man systemd.time'
        raise UsageError(f"systemd does not understand {job.when!r}", hint=hint)


def _start_timer(name: str, system: System) -> list[str]:
    by_hand = f"systemctl --user enable --now {name}.timer"
    if not system.has("systemctl"):
        return [f"there is no systemctl here; where there is one: {by_hand}"]
    try:
        system.must("systemctl", "--user", "daemon-reload")
        system.must("systemctl", "--user", "enable", f"{name}.timer")
        system.must("systemctl", "--user", "restart", f"{name}.timer")  # it may run already
    except ScheduleError as e:
        e.hint = f"the files are written; once a session of yours runs: {by_hand}"
        raise
    return [
        f"{name}.timer runs while you are logged in; `loginctl enable-linger` makes it run always"
    ]


def _load_agent(path: Path, name: str, system: System) -> list[str]:
    domain = f"gui/{system.user_id}"
    if not system.has("launchctl"):
        return [
            f"there is no launchctl here; where there is one: launchctl bootstrap {domain} {path}"
        ]
    system.run("launchctl", "bootout", f"{domain}/{name}")  # an earlier one, if there is any
    system.must("launchctl", "bootstrap", domain, str(path))
    return [f"{name} runs while you are logged in"]


def _clock(kind: Kind, when: str) -> tuple[int, int | None, int | None, int | None]:
    """Minute, hour, day of the month and day of the week (0 is Sunday); None is every one."""
    found = _CLOCK.fullmatch(when)
    if found:
        return int(found[2]), int(found[1]), None, None
    known = {
        "hourly": (0, None, None, None),
        "daily": (0, 0, None, None),
        "weekly": (0, 0, None, 1),  # Monday, as with systemd
        "monthly": (0, 0, 1, None),
    }
    if when not in known:
        hint = f"{', '.join(known)} or HH:MM; systemd understands more"
        raise UsageError(f"{kind} cannot express {when!r}", hint=hint)
    return known[when]


def _crontab(system: System) -> bytes:
    """The crontab of this user. One that cannot be read is never replaced."""
    done = system.run("crontab", "-l")
    if done.returncode == 0:
        return done.stdout
    if _NO_CRONTAB.search(done.stderr) and not done.stdout:
        return b""
    said = " ".join(done.stderr.decode("utf-8", "replace").split())
    raise ScheduleError(f"crontab -l failed, so nothing was changed: {said}")


def _without_ours(crontab: bytes, profile: str) -> tuple[bytes, bool]:
    """All lines but those between our marks, byte for byte; and whether ours were there."""
    begin, end = (mark.encode() for mark in _marks(profile))
    kept: list[bytes] = []
    inside = found = False
    for line in crontab.splitlines(keepends=True):
        bare = line.rstrip(b"\r\n")
        if bare == begin and not inside:
            inside = found = True
        elif bare == end and inside:
            inside = False
        elif bare in {begin, end}:
            inside = True
            break
        elif not inside:
            kept.append(line)
    if inside:
        raise ScheduleError(
            f"the marks of profile {profile} in the crontab do not pair, so nothing was changed",
            hint="crontab -e",
        )
    return b"".join(kept), found


def _marks(profile: str) -> tuple[str, str]:
    return f"# portal: begin {profile}", f"# portal: end {profile}"


def _unit_word(word: str, *, dollar: str = "$") -> str:
    """One word of a unit file, whatever is in it; only commands have variables in them."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{quoted.replace("$", dollar)}"'
