import os
import plistlib
import shutil
from pathlib import Path

import pytest

from tests.support.home import PASSPHRASE, cheap_passphrases
from tests.support.program import Machine, one_line

RECORDER = '#!{sh}\necho "{name} $*" >> "{folder}/calls"\n'
CRONTAB = """#!{sh}
if [ "$1" = -l ]; then
    [ -e "{folder}/table" ] || {{ echo "no crontab for ann" >&2; exit 1; }}
    exec cat "{folder}/table"
fi
exec cat > "{folder}/table"
"""


class Timed(Machine):
    """A machine whose clocks are programs of our own making."""

    def __init__(self, place, monkeypatch):
        super().__init__(place, monkeypatch)
        self.place = place
        self.programs = place / "bin"
        self.programs.mkdir()
        for name in ("sh", "cat"):
            (self.programs / name).symlink_to(shutil.which(name))
        monkeypatch.setenv("HOME", str(place / "ann"))
        monkeypatch.setenv("PATH", str(self.programs))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def has(self, name):
        text = CRONTAB if name == "crontab" else RECORDER
        program = self.programs / name
        program.write_text(
            text.format(sh=self.programs / "sh", name=name, folder=self.place), encoding="utf-8"
        )
        program.chmod(0o755)

    @property
    def units(self):
        return self.place / "ann" / ".config" / "systemd" / "user"

    def calls(self):
        return (self.place / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    timed = Timed(tmp_path, monkeypatch)
    timed.configure('[profile.default]\nsources = ["~"]\n[profile.db]\nsources = ["/srv"]\n')
    return timed


def test_systemd(machine):
    machine.has("systemctl")
    machine.here("init")
    done = machine.here("schedule", "install", "--when", "20:15", "--on-mains-only")
    assert done.stdout == ""
    service = (machine.units / "portal-backup-default.service").read_text()
    timer = (machine.units / "portal-backup-default.timer").read_text()
    assert '"backup" "-P" "default"\n' in service
    assert f'Environment="PORTAL_HOME={machine.home}"\n' in service
    assert "ConditionACPower=true\n" in service
    assert "OnCalendar=*-*-* 20:15:00\n" in timer
    program = Path(service.split('ExecStart="')[1].partition('"')[0])
    assert program.is_absolute()
    assert os.access(program, os.X_OK)
    assert "systemctl --user enable portal-backup-default.timer" in machine.calls()
    machine.here("schedule", "remove")
    assert list(machine.units.iterdir()) == []
    one_line(machine.here("schedule", "remove", code=2), "no schedule for profile default")


def test_cron_keeps_what_others_wrote(machine):
    machine.has("crontab")
    machine.here("init")
    table = machine.place / "table"
    table.write_text("5 4 * * * mine\n")
    machine.here("schedule", "install", "-P", "db")
    lines = table.read_text().splitlines()
    assert lines[0] == "5 4 * * * mine"
    assert lines[2].startswith("0 0 * * * PORTAL_HOME=")
    assert lines[2].endswith("backup -P db")
    machine.here("schedule", "install", "-P", "db", "--when", "hourly")
    assert table.read_text().splitlines()[2].startswith("0 * * * * ")
    machine.configure("")  # the profile is gone, its schedule is not
    machine.here("schedule", "remove", "-P", "db")
    assert table.read_text() == "5 4 * * * mine\n"


def test_print_shows_and_changes_nothing(machine):
    shown = machine.here("schedule", "print", "--kind", "systemd").stdout
    assert "# portal-backup-default.timer\n" in shown
    assert "OnCalendar=daily\n" in shown
    agent = machine.here("schedule", "print", "-P", "db", "--kind", "launchd").stdout
    assert plistlib.loads(agent.encode())["Label"] == "portal-backup-db"
    assert "portal: begin db" in machine.here("schedule", "print", "-P", "db", "--kind=cron").stdout
    assert not machine.units.exists()


def test_the_time_of_the_profile_counts_unless_another_is_given(machine):
    machine.configure('[profile.default]\nsources = ["~"]\nschedule = "weekly"\n')
    shown = ["schedule", "print", "--kind", "cron"]
    assert "\n0 0 * * 1 " in machine.here(*shown).stdout
    assert "\n30 6 * * * " in machine.here(*shown, "--when", "6:30").stdout
    one_line(machine.here(*shown, "--when", "now and then", code=2), "cron cannot express")


def test_the_usual_home_is_not_written_down(machine, monkeypatch):
    usual = machine.place / "ann" / ".local" / "share" / "portal"
    shown = machine.here("schedule", "print", "--kind", "cron").stdout
    assert f"PORTAL_HOME={machine.home} " in shown
    usual.parent.mkdir(parents=True)
    shutil.move(machine.home, usual)
    assert (
        "PORTAL_HOME" not in machine.here("schedule", "print", "--kind", "cron", home=usual).stdout
    )


def test_what_a_timer_could_not_do_is_refused(machine, tmp_path, monkeypatch):
    machine.has("crontab")
    cheap_passphrases(monkeypatch)
    refused = [
        (["--on-mains-only"], 2, "cron cannot tell"),
        (["-P", "gone"], 2, "no profile 'gone'"),
        (["--kind", "sundial"], 2, "'sundial' is not one of"),
    ]
    for argv, code, words in refused:
        one_line(machine.here("schedule", "install", *argv, code=code), words)
    (tmp_path / "secret").write_bytes(PASSPHRASE)
    typed = ["--passphrase", "--no-key-file", "--passphrase-file", tmp_path / "secret"]
    machine.here("init", *typed)
    told = one_line(machine.here("schedule", "install", code=1), "cannot type the passphrase")
    assert "portal key add --key-file" in told
    monkeypatch.setenv("PORTAL_VAULT", "/elsewhere")
    told = one_line(machine.here("schedule", "install", code=2), "a timer does not see it")
    assert "PORTAL_VAULT" in told
    monkeypatch.delenv("PORTAL_VAULT")
    machine.configure('[profile.default]\ntags = ["a"]\n')
    one_line(machine.here("schedule", "install", code=2), "names nothing to back up")
    machine.configure("")
    one_line(machine.here("schedule", "install", code=2), "a schedule runs a profile")
    assert not (machine.place / "table").exists()


def test_a_vault_that_is_not_there_yet_is_told(machine):
    machine.has("crontab")
    told = machine.here("schedule", "install").stderr
    assert f"there is no vault in {machine.home / 'vault'} yet: the first backup makes it\n" in told
    machine.configure('vault = "/no/where"\n[profile.default]\nsources = ["~"]\n')
    assert "in /no/where yet: portal init makes it" in machine.here("schedule", "install").stderr
