"""`portal mesh`, `invite`, `join`, `peers` ...: the people whose machines keep each other's files.

All of it is asked of the running node, which holds the links; where none runs, that is said.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from core.errors import PortalError, UsageError
from node.cli import opening
from node.cli.values import parse_seconds, parse_size

if TYPE_CHECKING:
    from node import api
    from node.control import Control


@click.group()
def mesh() -> None:
    """The mesh this node is in: begin one, look at it."""


@mesh.command("new")
@click.argument("name")
def new_command(name: str) -> None:
    """Begin a mesh called NAME, with this machine as its first member.

    Needs the recovery phrase once, to let this machine administer it: typed if it is no longer
    kept here.
    """
    from core.device_cert import Role
    from node import api
    from node.cli import secrets_input
    from node.home import portal_home
    from node.identity import open as open_identity
    from node.identity import root_untrusted

    node = _node()
    _check_no_mesh(node)  # told before a phrase is asked for
    identity = open_identity(portal_home().absolute())
    if Role.ADMIN not in identity.cert.roles:
        root = None
        if not identity.has_phrase:
            root = root_untrusted(secrets_input.recovery_text(None).reveal().decode())
        identity.add_roles(Role.ADMIN, root)
    found = node.post(api.MESH, api.Mesh, api.NewMesh(name=name))
    click.echo(f"The mesh {found.name} has begun. Let others in with: portal invite")


@mesh.command("status")
@opening.json_option
def status_command(*, as_json: bool) -> None:
    """Show the mesh this node is in."""
    from node import api

    found = _node().get(api.MESH, api.Mesh)
    if as_json:
        _echo_json("mesh", found)
        return
    rows = [
        ("mesh", f"{found.name}, {_devices(found.members)}, {found.linked} linked"),
        ("id", found.mesh),
        ("we are", f"{found.role} {found.user}"),
        ("this node", found.node),
        ("listens at", found.listens_at),
    ]
    for name, value in rows:
        click.echo(f"{name:<10} {value}")


@click.command()
@click.option("--label", default="", help="For whom, as a note to yourself and other members.")
@click.option("--quota", metavar="SIZE", default="0", help="What you will keep for them: 100GB.")
@click.option("--expires", metavar="TIME", default="24h", show_default=True, help="At most 7d.")
@click.option("--approve", is_flag=True, help="Whoever comes waits until you say yes.")
@click.option("--admitter", is_flag=True, help="Whoever comes may invite others.")
@click.option("--no-qr", is_flag=True, help="The text alone.")
@opening.json_option
def invite(*, as_json: bool, no_qr: bool, expires: str, quota: str, **asked: Any) -> None:
    """Make an invite, good for one person.

    Hand it over where nobody else reads it: whoever has it can come in once, until it expires.
    This node, or another member the invite names, must be reachable when it is used.
    """
    from node import api

    question = api.NewInvite(
        lifetime_s=parse_seconds(expires), quota_bytes=parse_size(quota), **asked
    )
    made = _node().post(api.INVITES, api.Invited, question)
    if as_json:
        _echo_json("invite", made)
        return
    if not no_qr and sys.stdout.isatty():
        from node.cli.kit_page import text_qr

        click.echo(text_qr(made.invite))
    click.echo(made.invite)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.expires_s))
    click.echo(f"\nGood once, until {until}. On the other machine: portal join", err=True)


@click.command()
@click.argument("code", required=False)
def join(code: str | None) -> None:
    """Come into a mesh by an invite: CODE, or asked for, or read from a pipe."""
    from node import api

    if code is None or code == "-":
        code = _typed_code()
    node = _node()
    node.status()
    click.echo("asking to be let in (if somebody has to approve, this waits for it) ...", err=True)
    with _words_shown(node):
        found = node.post(api.JOIN, api.Mesh, api.JoinMesh(invite=code), patient=True)
    click.echo(f"This machine is in the mesh {found.name}: {_devices(found.members)}.")


@click.command()
@opening.json_option
@click.option("--close", "voucher", metavar="ID", help="Take this one back.")
def invites(*, as_json: bool, voucher: str | None) -> None:
    """Show every invite and what became of it."""
    from node import api

    node = _node()
    if voucher is not None:
        node.delete(api.INVITE.format(voucher=voucher), api.Done)
        click.echo(f"taken back: {voucher}")
        return
    found = node.get(api.INVITES, api.Invites)
    if as_json:
        _echo_json("invites", found)
        return
    for one in found.invites:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.expires_s))
        state = "expired" if one.state == "open" and one.expires_s < time.time() else one.state
        came = f"  {', '.join(one.came)}" if one.came else ""
        label = f"  ({one.label})" if one.label else ""
        click.echo(f"{one.voucher[:8]}  {state:<9} until {until}{came}{label}")


@click.command()
@opening.json_option
@click.option("-v", "--verbose", is_flag=True, help="Every way to each, as measured.")
def peers(*, as_json: bool, verbose: bool) -> None:
    """Show who belongs to the mesh, and how each is reached."""
    from node import api

    found = _node().get(api.PEERS, api.Peers)
    if as_json:
        _echo_json("peers", found)
        return
    for one in found.peers:
        click.echo(_peer_line(one))
        for line in one.ways.splitlines() if verbose else []:
            click.echo(f"    {line}")
        if one.words:
            click.echo(f"    compare by voice: {one.words}   then: portal approve {one.name}")


@click.command()
def whoami() -> None:
    """Show the ids of this machine and its person."""
    from node.home import portal_home
    from node.identity import header

    found = header(portal_home().absolute())
    click.echo(f"user  {found.user.text()}\nnode  {found.node.text()}")


@click.command()
@click.argument("who")
def approve(who: str) -> None:
    """Say yes to WHO waits to be let in; compare the four words by voice before."""
    from node import api

    _node().post(api.APPROVE, api.Done, api.Who(who=who))
    click.echo(f"{who} is let in")


@click.command()
@click.argument("who")
@opening.yes_option
def revoke(who: str, *, yes: bool) -> None:
    """Put WHO out of the mesh for good: a person, or one device of your own.

    Their links end at once, on every member's machine. What they keep of yours they still have,
    sealed; what you keep of theirs they may fetch for 90 days.
    """
    from node import api

    if not yes:
        click.confirm(f"Put {who} out for good?", abort=True)
    _node().post(api.REVOKE, api.Done, api.Who(who=who))
    click.echo(f"{who} is out")


@click.command()
@click.argument("who")
def suspend(who: str) -> None:
    """Stop the device WHO for the time being, until its person lets it back."""
    from node import api

    _node().post(api.SUSPEND, api.Done, api.Who(who=who))
    click.echo(f"{who} is suspended")


# --- parts ----------------------------------------------------------------------------------------


def _check_no_mesh(node: "Control") -> None:
    from node import api
    from node.control import Refused

    try:
        found = node.get(api.MESH, api.Mesh)
    except Refused as e:
        if e.kind != "NoMesh":
            raise
    else:
        raise PortalError(f"this node is in the mesh {found.name!r} already")


def _node() -> "Control":
    from node.control import Control
    from node.home import portal_home

    return Control(portal_home().absolute())


@contextmanager
def _words_shown(node: "Control") -> Iterator[None]:
    """While we wait for somebody's yes, show what the two of us compare."""
    import threading

    happened = node.events()
    next(happened)  # it listens

    def show() -> None:
        import msgspec

        from node import api

        with suppress(PortalError, OSError):  # the question itself says what is wrong
            for event in happened:
                if event.kind == "join.waits":
                    words = msgspec.json.decode(event.data, type=api.JoinWaits).words
                    click.echo(f"a member has to approve; compare by voice: {words}", err=True)

    threading.Thread(target=show, daemon=True).start()
    yield


def _typed_code() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Invite", hide_input=True))
    code = sys.stdin.readline(4_096).strip()
    if not code:
        raise UsageError("there is no invite on stdin", hint="portal join pnj1-...")
    return code


def _peer_line(one: "api.Peer") -> str:
    from core.ids import NodeId

    short = NodeId.parse_untrusted(one.node).short()  # as logs have it
    if one.is_self:
        state = "this machine"
    elif one.linked:
        state = f"linked, {one.address}, {one.rtt_ms:.1f} ms"
    else:
        state = "not linked" if one.standing == "active" else one.standing
    return f"{one.name:<20} {short}  {one.role:<8} {state}"


def _devices(count: int) -> str:
    return "one device" if count == 1 else f"{count} devices"


def _echo_json(kind: str, found: "api.Answer") -> None:
    import msgspec

    head = {"v": 1, "message_type": kind}
    click.echo(msgspec.json.encode(head | msgspec.structs.asdict(found)))
