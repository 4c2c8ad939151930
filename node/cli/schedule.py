"""`portal schedule`: backups of a profile by the clock of the system."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import KeystoreError, UsageError
from node.cli import opening
from node.cli.completion import complete_profiles

if TYPE_CHECKING:
    from node.config import Settings
    from node.schedule import Job, Kind, System

_WHEN_DEFAULT = "daily"
_KINDS = ("systemd", "cron", "launchd")

_kind_option = click.option(
    "--kind", type=click.Choice(_KINDS), help="Whose clock; else what this machine has."
)
_profile_option = click.option(
    "-P",
    "--profile",
    help="Of config.toml; else the one called default.",
    shell_complete=complete_profiles,
)
_job_options = opening.together(
    _profile_option,
    click.option(
        "--when",
        help="hourly, daily, weekly, monthly or HH:MM, with systemd also what OnCalendar takes; "
        "else what the profile says, else daily.",
    ),
    click.option("--on-mains-only", is_flag=True, help="Not on battery; systemd only."),
    _kind_option,
)


@click.group()
def schedule() -> None:
    """Backups by the clock of the system: systemd, cron or launchd."""


@schedule.command()
@_job_options
def install(**asked: Any) -> None:
    """Back a profile up regularly, from now on; again changes when."""
    from node import schedule as clocks

    settings, system = _settings(asked), _system()
    kind, job = _kind(asked, system), _job(asked, settings)
    _check_keys()
    if not (opening.vault_path(settings) / "config").exists():
        # Only the first backup into the usual place makes a vault by itself.
        place = opening.shown_path(opening.vault_path(settings))
        hint = "portal init makes it" if settings.vault else "the first backup makes it"
        click.echo(f"there is no vault in {place} yet: {hint}", err=True)
    for line in clocks.install(kind, job, system):
        click.echo(line, err=True)


@schedule.command("print")
@_job_options
def print_command(**asked: Any) -> None:
    """Show what would be installed, and change nothing."""
    from node import schedule as clocks

    job = _job(asked, _settings(asked))
    click.echo(clocks.text(_kind(asked, _system()), job), nl=False)


@schedule.command()
@click.option("-P", "--profile", default="", help="Its name.", shell_complete=complete_profiles)
@_kind_option
def remove(**asked: Any) -> None:
    """Take the schedule of a profile away; snapshots stay."""
    from node import schedule as clocks
    from node.config import DEFAULT_PROFILE

    # Not looked up in config.toml: the profile may be gone from there.
    profile = asked["profile"] or os.environ.get("PORTAL_PROFILE") or DEFAULT_PROFILE
    system = _system()
    for line in clocks.remove(_kind(asked, system), profile, system):
        click.echo(line, err=True)


# --- parts ----------------------------------------------------------------------------------------


def _settings(asked: dict[str, Any]) -> "Settings":
    """Those of the profile, if a timer would find the same ones."""
    from node.config import FILE_NAME
    from node.home import portal_home

    settings = opening.settings_of({"profile": asked["profile"]})
    where = str(portal_home() / FILE_NAME)
    if settings.profile is None:
        hint = 'write two lines there: [profile.default] and, below it, sources = ["~"]'
        raise UsageError("a schedule runs a profile, and there is none", where=where, hint=hint)
    if not settings.sources and not settings.stdin_command:
        place = f"[profile.{settings.profile}]"
        raise UsageError(f"{place} names nothing to back up", where=where, hint='sources = ["~"]')
    for name, origin in settings.origin.items():
        if origin.startswith("environment "):
            variable = origin.partition(" ")[2]
            hint = f"write {name} into {where}, or unset {variable}"
            raise UsageError(f"{variable} is set here, and a timer does not see it", hint=hint)
    return settings


def _job(asked: dict[str, Any], settings: "Settings") -> "Job":
    from node.schedule import Job

    assert settings.profile is not None
    return Job(
        profile=settings.profile,
        when=asked["when"] or settings.schedule or _WHEN_DEFAULT,
        program=_program(),
        home=_home(),
        on_mains_only=asked["on_mains_only"],
    )


def _program() -> tuple[str, ...]:
    """What starts this very installation, from any directory and without a search path."""
    script = Path(sys.executable).absolute().with_name("portal")
    if os.access(script, os.X_OK):
        return (str(script),)
    return (str(Path(sys.executable).absolute()), "-m", "node.cli.portal")


def _home() -> str | None:
    """PORTAL_HOME, where a timer, which has no variables of ours, would look somewhere else."""
    from node.home import portal_home

    home = portal_home().absolute()
    usual = Path.home() / ".local" / "share" / "portal"
    return None if home == usual else str(home)


def _check_keys() -> None:
    """Refuse a schedule that would ask for a passphrase at night."""
    from core.slots import SlotType
    from node.home import portal_home
    from node.identity import has_identity, header

    if not has_identity(portal_home()):
        return  # the first backup makes keys that need no typing
    silent = {SlotType.KEY_FILE, SlotType.OS_KEYRING, SlotType.SYSTEMD_CREDENTIAL}
    if silent.isdisjoint(slot.type for slot in header(portal_home()).slots):
        raise KeystoreError(
            "a schedule cannot type the passphrase of these keys",
            where=str(portal_home()),
            hint="portal key add --key-file",
        )


def _system() -> "System":
    from node.schedule import System

    return System(Path.home(), os.environ, os.getuid())


def _kind(asked: dict[str, Any], system: "System") -> "Kind":
    from node.schedule import Kind, usual_kind

    kind = Kind(asked["kind"]) if asked["kind"] else usual_kind(sys.platform, system)
    if asked.get("on_mains_only") and kind is not Kind.SYSTEMD:
        raise UsageError(f"{kind} cannot tell whether there is mains power", hint="--kind systemd")
    return kind
