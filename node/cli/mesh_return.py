"""`portal recover` by the mesh: the phrase, and any member that answers, bring a machine in again.

The pairing is done here and not by the node, which may not even run yet: so the phrase stays in the
process it was typed into. First the member shows which mesh it is; only then a device is added.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import FormatError, KeystoreError, PortalError, UsageError
from node.cli import opening, run, secrets_input
from node.cli.values import parse_endpoint

if TYPE_CHECKING:
    from core.ids import MeshId, NodeId
    from core.keys import Root
    from core.recovery_kit import RecoveryKit
    from mesh.members.membership import Membership
    from mesh.members.state import Member
    from mesh.wire import Address
    from node.identity import Identity
    from node.mesh_entry import Came


def check_free(home: Path) -> None:
    """Told before the phrase is asked for. A list of members that is damaged is not in the way."""
    from node import identity
    from node.mesh_files import Damaged, MeshFiles

    files = MeshFiles(home)
    if not files.are_there:
        return
    try:
        is_whole = not identity.has_identity(home) or files.are_whole(identity.header(home).node)
    except Damaged:
        return
    if is_whole:
        raise PortalError("this machine is in a mesh already", hint="portal mesh status")
    if _node_runs():
        what = "this machine is in a mesh, and its node runs"
        raise PortalError(what, hint="portal-node stop; then recover")


def come_back(
    root: "Root", kit: "RecoveryKit | None", addresses: Sequence[str], asked: dict[str, Any]
) -> int:
    """Be the person of this phrase on this machine, and a member again where they are one."""
    from mesh.pairing import JoinRefused
    from node.home import portal_home
    from node.mesh_entry import by_phrase, look

    home = portal_home().absolute()
    places = _places(kit, addresses)
    named = kit.mesh if kit is not None else None
    mine = _identity(home, root, asked)
    key = root.user_identity()
    mine.share_seed(root)  # while the root is here
    click.echo("asking to be let in again ...", err=True)
    shown, seen, _ = run.run_trio(look, mine, key, places, named, _now_ms)
    _check_meant(shown, mine, named, yes=asked["yes"])
    _take_role(shown, mine, root, wanted=not asked["no_admin"])
    # On the disk before the mesh takes them in: what it knows of us must not be lost on the way.
    take_back = mine.keep() if mine.is_draft else None
    try:
        came = run.run_trio(by_phrase, mine, key, seen.at, shown.mesh_id, _now_ms)
    except JoinRefused:
        if take_back is not None:
            take_back()
        raise
    _settle(home, mine.node, came)
    _tell(came.membership, mine)
    return 0


# --- parts ----------------------------------------------------------------------------------------


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _identity(home: Path, root: "Root", asked: dict[str, Any]) -> "Identity":
    """The keys of this machine: those it has, opened as ever, or new ones of this phrase.

    New ones are a draft: as long as no member has shown a mesh, the home stays as it is.
    """
    from node import identity

    if not identity.has_identity(home):
        name, now_s = opening.machine_name(asked), int(time.time())
        return identity.draft(home, root, name=name, now_s=now_s)
    mine = opening.open_identity(asked)
    opening.check_name(mine, asked)
    if mine.user != root.user_id():
        what = "another person's identity is here"
        hint = "was portal init run here? recover takes its place: set PORTAL_HOME to an empty one"
        raise KeystoreError(what, where=str(home), hint=hint)
    return mine


def _places(kit: "RecoveryKit | None", addresses: Sequence[str]) -> "list[Address]":
    """Where to ask: what was named now; else what the kit names; else what is typed."""
    if addresses:
        return [parse_endpoint(one) for one in addresses]
    found = []
    for endpoint in kit.endpoints if kit is not None else ():
        try:
            found.append(parse_endpoint(endpoint.address))
        except (UsageError, FormatError):
            continue  # of a newer Portal, perhaps; the others are good
    if found:
        return found
    if not secrets_input.on_terminal():
        hint = "portal recover ADDRESS, or -r DIRECTORY if a vault is left"
        raise UsageError("no address of a member is known", hint=hint)
    told = "The address of any member of your mesh (portal mesh status shows it there)"
    return [parse_endpoint(click.prompt(told, err=True))]


def _check_meant(
    shown: "Membership", mine: "Identity", named: "MeshId | None", *, yes: bool
) -> None:
    """Where only words were given, whoever answers says which mesh it is: a person must agree.

    That our own user is a member there is proved. But a thief of an old machine can have made that
    machine a member elsewhere.
    """
    if named is not None or yes:
        return
    active = [member for member in shown.members() if member.is_active]
    own = sorted(member.name for member in active if member.user == mine.user)
    click.echo(f"the mesh       {shown.state.name}, {_devices(len(active))}", err=True)
    click.echo(f"fingerprint    {shown.mesh_id.text()}", err=True)
    click.echo(f"yours in it    {', '.join(own) or 'none now'}", err=True)
    if not secrets_input.on_terminal():
        raise UsageError("no terminal to ask whether this is your mesh", hint="--yes")
    click.confirm("Is this your mesh?", abort=True, err=True)


def _take_role(shown: "Membership", mine: "Identity", root: "Root", *, wanted: bool) -> None:
    """Whoever administers the mesh does so from this machine, too; it may be the only one left."""
    from core.device_cert import Role
    from mesh.members.bodies import UserRole

    if wanted and shown.state.users[mine.user] == UserRole.ADMIN:
        mine.add_roles(Role.ADMIN, root)


def _settle(home: Path, own: "NodeId", came: "Came") -> None:
    """Keep what we are in; a node that runs here goes in at once."""
    from node import api
    from node.control import NotRunning
    from node.mesh_files import MeshFiles

    files, membership = MeshFiles(home), came.membership
    if files.are_there:  # damaged, or a copy that may be older than what others know
        with suppress(PortalError, OSError):
            if (old := files.load()) is not None and old.mesh_id == membership.mesh_id:
                membership.receive_untrusted(op.data for op in old.set.ops)
        click.echo(f"the old list of members is in {files.set_aside('old')}", err=True)
    files.save_entrance(came.entrance)  # before a node that starts meanwhile may look for it
    # Refuses where another process was quicker.
    files.begin(membership, own if came.is_new else None)
    try:
        opening.node_here().post(api.ENTER, api.Mesh)
    except NotRunning:
        click.echo("now start the node: portal-node run (or portal-node install)", err=True)


def _node_runs() -> bool:
    from node.control import NotRunning

    try:
        opening.node_here().status()
    except NotRunning:
        return False
    return True


def _tell(membership: "Membership", mine: "Identity") -> None:
    active = [member for member in membership.members() if member.is_active]
    name = membership.state.name
    click.echo(f"This machine is in the mesh {name} again: {_devices(len(active))}.")
    click.echo(f"fingerprint {membership.mesh_id.text()}", err=True)
    others = [one for one in active if one.user == mine.user and one.node != mine.node]
    if others:
        told = ", ".join(_called(one, active) for one in others)
        click.echo(f"your other machines in it: {told}", err=True)
        click.echo("put out what is lost or stolen: portal revoke NAME", err=True)
    click.echo("a vault for this machine: portal init (it takes the words once more)", err=True)


def _called(member: "Member", among: "Sequence[Member]") -> str:
    """A name that `portal revoke` takes: machines that follow each other are often called alike."""
    alike = [one for one in among if one.name.lower() == member.name.lower()]
    return member.name if len(alike) == 1 else f"{member.name} ({member.node.short()})"


def _devices(count: int) -> str:
    return "one device" if count == 1 else f"{count} devices"
