"""`portal mesh`, `invite`, `join`, `peers`: the people whose machines keep each other's files.

What members decide about each other is in node/cli/members.py. All of it is asked of the running
node, which holds the links; where none runs, that is said.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from core.errors import PortalError, UsageError
from node.cli import opening, secrets_input
from node.cli.progress import since_text, size_text
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
    from node.home import portal_home
    from node.identity import open as open_identity
    from node.identity import root_untrusted

    node = opening.node_here()
    _check_no_mesh(node)  # told before a phrase is asked for
    identity = open_identity(portal_home().absolute())
    if Role.ADMIN not in identity.cert.roles:
        root = None
        if not identity.has_phrase:
            root = root_untrusted(secrets_input.recovery_text(None).reveal().decode())
        identity.add_roles(Role.ADMIN, root)
    found = node.post(api.MESH, api.Mesh, api.NewMesh(name=name))
    click.echo(f"The mesh {found.name} has begun. Let others in with: portal invite")
    _tell_of_kit()


@mesh.command()
@opening.phrase_options
def administer(**asked: Any) -> None:
    """Let this machine act as an admin, if you are one: takes the recovery phrase, once.

    Needed where another admin has made you one; who begins a mesh administers it from there.
    """
    from core import process
    from core.device_cert import Role
    from node import api, mesh_entry
    from node.cli.keys import open_identity, typed_root

    process.forbid_core_dumps()
    node = opening.node_here()
    found = node.get(api.MESH, api.Mesh)
    if found.role != "admin":
        raise UsageError("you are no admin of this mesh", hint="an admin can make you one")
    if found.administers:
        click.echo("this machine administers the mesh already", err=True)
        return
    identity = open_identity(None)
    root = None if identity.has_phrase else typed_root(asked)[0]
    identity.add_roles(Role.ADMIN, root, int(time.time()))
    said = mesh_entry.own_device(identity, identity.user_key(root), found.mesh, int(time.time()))
    recover, by_user, by_device = (one.hex() for one in said)
    question = api.OwnDevice(recover=recover, by_user=by_user, by_device=by_device)
    node.post(api.DEVICE, api.Done, question)
    click.echo(f"This machine administers the mesh {found.name} now.")


@mesh.command()
@opening.yes_option
def proceed(*, yes: bool) -> None:
    """Let this machine decide again, though some members have not told what they know of it.

    For a home that was put back from a copy where somebody is gone for good. If they, or others
    through them, know things this machine did since the copy was made, the mesh will suspend it.
    """
    from node import api

    node = opening.node_here()
    if (complaint := node.get(api.MESH, api.Mesh).complaint) is None:
        click.echo("nothing holds this machine up", err=True)
        return
    if not yes:
        if not secrets_input.on_terminal():
            raise UsageError("no terminal to ask whether they are gone for good", hint="--yes")
        click.echo(complaint, err=True)
        click.confirm("Will nobody come who knows more?", abort=True)
    node.post(api.PROCEED, api.Done)
    click.echo("This machine decides again.")


@mesh.command("status")
@opening.json_option
def status_command(*, as_json: bool) -> None:
    """Show the mesh this node is in."""
    from node import api

    found = opening.node_here().get(api.MESH, api.Mesh)
    if as_json:
        opening.echo_json("mesh", found)
        return
    rows = [
        ("mesh", f"{found.name}, {_devices(found.members)}, {found.linked} linked"),
        ("id", found.mesh),
        ("we are", f"{_acting(found)} {found.user}"),
        ("this node", found.node),
        ("listens at", found.listens_at),
        ("offers", size_text(found.offer_bytes) if found.offer_bytes else "nothing yet"),
    ]
    if found.to_sign:
        rows.append(("to sign", f"{found.to_sign} of other admins: portal drafts"))
    if found.complaint:
        rows.append(("but", found.complaint))
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
    made = opening.node_here().post(api.INVITES, api.Invited, question)
    if as_json:
        opening.echo_json("invite", made)
        return
    if not no_qr and sys.stdout.isatty():
        from node.cli.kit_page import text_qr

        click.echo(text_qr(made.invite))
    click.echo(made.invite)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.expires_s))
    click.echo(f"\nGood once, until {until}. On the other machine: portal join", err=True)
    if made.is_local:
        hint = "this machine has no address that others could reach: good on this machine only"
        click.echo(f"portal: {hint}", err=True)


@click.command()
@click.argument("code", required=False)
def join(code: str | None) -> None:
    """Come into a mesh by an invite: CODE, or asked for, or read from a pipe."""
    from node import api

    if code is None or code == "-":
        code = _typed_code()
    node = opening.node_here()
    node.status()
    click.echo("asking to be let in (if somebody has to approve, this waits for it) ...", err=True)
    with _words_shown(node):
        found = node.post(api.JOIN, api.Mesh, api.JoinMesh(invite=code), patient=True)
    click.echo(f"This machine is in the mesh {found.name}: {_devices(found.members)}.")
    _tell_of_kit()


@click.command()
@opening.json_option
@click.option("--close", "voucher", metavar="ID", help="Take this one back.")
def invites(*, as_json: bool, voucher: str | None) -> None:
    """Show every invite and what became of it."""
    from node import api

    node = opening.node_here()
    if voucher is not None:
        node.delete(api.INVITE.format(voucher=voucher), api.Done)
        click.echo(f"taken back: {voucher}")
        return
    found = node.get(api.INVITES, api.Invites)
    if as_json:
        opening.echo_json("invites", found)
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

    found = opening.node_here().get(api.PEERS, api.Peers)
    if as_json:
        opening.echo_json("peers", found)
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


def _tell_of_kit() -> None:
    """A kit that was printed before names no mesh: one that does is found back without thinking."""
    from node.home import portal_home
    from node.identity import open as open_identity

    with suppress(PortalError, OSError):  # where it opens without typing
        if open_identity(portal_home().absolute()).has_phrase:
            told = "print the recovery kit again, it names the mesh now: portal recovery-kit"
            click.echo(told, err=True)


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
        state = "this machine" + ("" if one.standing == "active" else f", {one.standing}")
    elif one.linked:
        state = f"linked, {one.address}, {one.rtt_ms:.1f} ms"
    else:
        state = _absence(one) if one.standing == "active" else one.standing
    offers = f", offers {size_text(one.offer_bytes)}" if one.offer_bytes else ""
    return f"{one.name:<20} {short}  {one.role:<8} {state}{offers}"


def _acting(found: "api.Mesh") -> str:
    """Our role; a machine may not have what its person has."""
    idle = found.role == "admin" and not found.administers
    return f"{found.role} (not from this machine: portal mesh administer)" if idle else found.role


def _absence(one: "api.Peer") -> str:
    """What is known of a member without a link."""
    if one.looks == "suspect":
        return "does not answer"
    state = one.presence if one.presence != "present" else "not linked"
    return f"{state}, last heard {since_text(one.seen_s)} ago" if one.seen_s is not None else state


def _devices(count: int) -> str:
    return "one device" if count == 1 else f"{count} devices"
