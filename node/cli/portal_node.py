"""`portal-node`: the daemon, and the commands that look after it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from core import VERSION, limits
from core.errors import PortalError
from node.cli import opening, run
from node.cli.progress import since_text

if TYPE_CHECKING:
    from node.api import Status
    from node.frame import Place
    from node.schedule import System
    from node.systemd import Manager, Unit

_LEVELS = ("debug", "info", "warning", "error")
_manager_option = click.option(
    "--manager",
    type=click.Choice(("systemd", "launchd")),
    help="Who starts it; else what this machine has.",
)
_whole_system_option = click.option(
    "--system/--user",
    "whole_system",
    default=None,
    help="For the whole machine, or for when you are logged in; else --system for root.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", message="portal-node %(version)s")
def portal_node() -> None:
    """Run the node of this machine, and look after it."""


@portal_node.command("run")
@click.option("--log-level", type=click.Choice(_LEVELS), help="Else what config.toml says.")
@click.option("--log-json", is_flag=True, help="One JSON object per line of the log.")
@click.option("--metrics", metavar="ADDRESS", help="Answer /metrics there, as 127.0.0.1:9464.")
def run_command(*, log_level: str | None, log_json: bool, metrics: str | None) -> int:
    """Run the node in the foreground, until it is told to end.

    It logs to stderr. SIGTERM and an interrupt end it in order within five seconds, SIGHUP makes
    it read config.toml again.
    """
    from core import process
    from node import log as logs
    from node.config import parse_address
    from node.instance import only_one

    process.forbid_core_dumps()
    options: dict[str, Any] = {"log_level": log_level} if log_level else {}
    if metrics:
        options["metrics"] = parse_address(metrics)
    place = _place(options)
    form = logs.Form.JSON if log_json else logs.usual_form(os.environ, _identity_of_stderr())
    level = logs.LEVELS[place.settings().log_level]
    log = logs.Log(logs.Sink(logs.to_stderr, form=form, level=level))
    with only_one(place.home, place.control_socket()), logs.routed(log):
        from node.frame import Frame
        from node.mesh_door import MeshDoor

        frame = Frame(place, log)
        MeshDoor(frame)
        return run.run_trio(frame.run)


@portal_node.command()
@opening.json_option
def status(*, as_json: bool) -> None:
    """Show whether the node runs, and how it is doing."""
    import msgspec

    from node.control import Control
    from node.home import portal_home

    found = Control(portal_home().absolute()).status()
    if as_json:
        head = {"v": 1, "message_type": "node_status"}
        click.echo(msgspec.json.encode(head | msgspec.structs.asdict(found)))
        return
    for name, value in _status_rows(found):
        click.echo(f"{name:<10} {value}")


@portal_node.command()
def stop() -> None:
    """End the node, and wait until it has."""
    from node.control import Control
    from node.home import portal_home
    from node.instance import running_pid, wait_until_gone

    home = portal_home().absolute()
    Control(home).stop()
    if not wait_until_gone(home, limits.NODE_STOP_SECONDS + 1):
        raise PortalError(f"the node was asked to end and still runs (pid {running_pid(home)})")


@portal_node.command()
def reload() -> None:
    """Have the node read config.toml again."""
    from node.control import Control
    from node.home import portal_home

    done = Control(portal_home().absolute()).reload()
    click.echo(f"in force now: {', '.join(done.changed) or 'nothing new'}", err=True)
    if done.waiting:
        click.echo(f"needs a new start: {', '.join(done.waiting)}", err=True)


@portal_node.command()
def events() -> None:
    """Print what happens in the node, as JSON lines, until it ends."""
    import msgspec

    from node.control import Control
    from node.home import portal_home

    for event in Control(portal_home().absolute()).events():
        head = {"v": 1, "message_type": "node_event"}
        click.echo(msgspec.json.encode(head | msgspec.structs.asdict(event)))


@portal_node.command()
@_manager_option
@_whole_system_option
def unit(*, manager: str | None, whole_system: bool | None) -> None:
    """Print the unit that `install` would write, and change nothing."""
    from node import systemd

    asked = _unit(whole_system=_is_for_all(whole_system))
    click.echo(systemd.text(_manager(manager), asked), nl=False)


@portal_node.command()
@_manager_option
@_whole_system_option
def install(*, manager: str | None, whole_system: bool | None) -> None:
    """Have the node started now, and whenever you log in or the machine starts."""
    from node import systemd

    _place({})  # who has no keys yet, or a mistake in config.toml, hears of it now
    asked = _unit(whole_system=_is_for_all(whole_system))
    for line in systemd.install(_manager(manager), asked, _system()):
        click.echo(line, err=True)


@portal_node.command()
@_manager_option
@_whole_system_option
def uninstall(*, manager: str | None, whole_system: bool | None) -> None:
    """Stop the node and start it no more; everything it keeps stays."""
    from node import systemd

    chosen, for_all = _manager(manager), _is_for_all(whole_system)
    for line in systemd.uninstall(chosen, _system(), whole_system=for_all):
        click.echo(line, err=True)


# --- parts ----------------------------------------------------------------------------------------


def _place(options: dict[str, Any]) -> "Place":
    """Whose node this is; NoIdentity before `portal init`."""
    from node import config
    from node.frame import Place
    from node.home import portal_home
    from node.identity import header

    home = portal_home().absolute()
    found = header(home)
    place = Place(
        home=home,
        node=found.node,
        user=found.user,
        read_settings=lambda: config.load(home / config.FILE_NAME, Path.home()).node,
        options=options,
        environment=os.environ,
    )
    place.settings()  # what is wrong with them is told before anything starts
    return place


def _identity_of_stderr() -> tuple[int, int] | None:
    try:
        found = os.fstat(2)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _status_rows(found: "Status") -> list[tuple[str, str]]:
    rows = [
        ("node", f"{found.state} since {since_text(found.started_s)}, version {found.version}"),
        ("pid", str(found.pid)),
        ("home", found.home),
        ("id", found.node),
    ]
    if found.memory_bytes is not None:
        rows.append(("memory", f"{found.memory_bytes / limits.MIB:.0f} MiB"))
    rows.append(("cpu", f"{found.cpu_s:.1f} s"))
    if found.metrics:
        rows.append(("metrics", f"http://{found.metrics}/metrics"))
    for one in found.services:
        told = f": {one.complaint}" if one.complaint else ""
        rows.append(("service", f"{one.name} {one.state} since {since_text(one.since_s)}{told}"))
    return rows


def _manager(asked: str | None) -> "Manager":
    from node.systemd import Manager, usual_manager

    return Manager(asked) if asked else usual_manager(sys.platform)


def _is_for_all(asked: bool | None) -> bool:  # noqa: FBT001 - click's flag with two names
    return os.geteuid() == 0 if asked is None else asked


def _unit(*, whole_system: bool) -> "Unit":
    from node.home import portal_home
    from node.systemd import Unit

    script = Path(sys.executable).absolute().with_name("portal-node")
    program: tuple[str, ...] = (str(script),)
    if not os.access(script, os.X_OK):
        program = (str(Path(sys.executable).absolute()), "-m", "node.cli.portal_node")
    user = run.user_name() if whole_system else None
    return Unit(program, str(portal_home().absolute()), user)


def _system() -> "System":
    from node.schedule import System

    return System(Path.home(), os.environ, os.getuid())


def main() -> NoReturn:
    """Entry point of the console script."""
    run.run(portal_node, "portal-node")


if __name__ == "__main__":
    main()
