"""`portal recover` by the mesh: the phrase, and any member that answers, bring a machine in again.

The pairing is done here and not by the node, which may not even run yet: so the phrase stays in the
process it was typed into. First the member shows which mesh it is; only then a device is added.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import FormatError, KeystoreError, PortalError, UsageError
from node.cli import opening, run, secrets_input
from node.cli.values import parse_endpoint

if TYPE_CHECKING:
    from core.crypto import SigningKey
    from core.ids import MeshId, NodeId
    from core.keys import Root
    from core.recovery_kit import RecoveryKit
    from mesh.members.membership import Membership
    from mesh.members.state import Member
    from mesh.wire import Address
    from node.identity import Identity
    from node.mesh_entry import Came


_RUNS, _STOP = "this machine is in a mesh, and its node runs", "portal-node stop; then recover"


def check_free(home: Path) -> None:
    """Told before the phrase is asked for. A list of members that is damaged is not in the way."""
    if _is_forgetful(home) and _node_runs():
        raise PortalError(_RUNS, hint=_STOP)


def come_back(
    root: "Root", kit: "RecoveryKit | None", addresses: Sequence[str], asked: dict[str, Any]
) -> int:
    """Be the person of this phrase on this machine, and a member again where they are one."""
    from node.home import portal_home
    from node.mesh_entry import look

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
    with _undisturbed(home):
        came = _let_in(mine, key, shown.mesh_id, seen.at)
        _settle(home, mine.node, came)
    _enter()
    _tell(came.membership, mine)
    return 0


# --- parts ----------------------------------------------------------------------------------------


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _identity(home: Path, root: "Root", asked: dict[str, Any]) -> "Identity":
    """The keys of this machine: those it has, opened as ever, or new ones of this phrase.

    New ones are a draft, and of those that are here changes are held: the home stays as it is as
    long as no member is asked, and these keys as they are as long as none has let us in.
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
    mine.hold()
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
    """Whoever administers the mesh does so from this machine, too; it may be the only one left.

    A mesh that knows this machine takes a newer certificate only.
    """
    from core.device_cert import Role
    from mesh.members.bodies import UserRole

    if not wanted or shown.state.users[mine.user] != UserRole.ADMIN:
        return
    known = shown.member(mine.node)
    if Role.ADMIN not in mine.cert.roles or (known and Role.ADMIN not in known.roles):
        newer_s = 0 if mine.is_draft else max(int(time.time()), _certified_s(shown, mine) + 1)
        mine.add_roles(Role.ADMIN, root, newer_s)


def _certified_s(shown: "Membership", mine: "Identity") -> int:
    """When the newest certificate of this machine was made that the mesh was ever told of."""
    from mesh.members.bodies import cert_of

    certs = [cert_of(shown.set.ops[i].body) for i in shown.set.introduced(mine.node)]
    return max((cert.created_s for cert in certs if cert is not None), default=0)


def _let_in(mine: "Identity", key: "SigningKey", mesh: "MeshId", at: "Address") -> "Came":
    """Ask. The keys are kept before, for good: whatever is answered, the mesh may know them."""
    from node.mesh_entry import by_phrase

    is_new = mine.is_draft

    def keep() -> None:
        if mine.is_draft:
            mine.keep()

    try:
        came = run.run_trio(by_phrase, mine, key, at, mesh, _now_ms, keep)
    except (PortalError, OSError, KeyboardInterrupt):
        if is_new and not mine.is_draft:
            place = opening.shown_path(mine.home)
            click.echo(f"the keys made for this machine stay in {place}: recover again", err=True)
        raise
    mine.settle()
    return came


@contextmanager
def _undisturbed(home: Path) -> Iterator[None]:
    """No node begins to use files that are about to be replaced; asked again: typing took a while.

    (One that runs with damaged files uses none of them.)
    """
    from node import instance

    with ExitStack() as held:
        if _is_forgetful(home):
            try:
                held.enter_context(instance.none_runs(home))
            except instance.AlreadyRunning as e:
                raise PortalError(_RUNS, hint=_STOP) from e
        yield


def _is_forgetful(home: Path) -> bool:
    """Whether a list of members is here that may be older than what others know.

    One that is damaged is none; PortalError if it is as it should be.
    """
    from node import identity
    from node.mesh_files import Damaged, MeshFiles

    files = MeshFiles(home)
    if not files.are_there:
        return False
    try:
        is_whole = not identity.has_identity(home) or files.are_whole(identity.header(home).node)
    except Damaged:
        return False
    if is_whole:
        raise PortalError("this machine is in a mesh already", hint="portal mesh status")
    return True


def _settle(home: Path, own: "NodeId", came: "Came") -> None:
    """Keep what we are in."""
    from node.mesh_files import MeshFiles

    check_free(home)  # a node that runs may have come in by itself
    files, membership = MeshFiles(home), came.membership
    if files.are_there:  # damaged, or a copy that may be older than what others know
        with suppress(PortalError, OSError):
            if (old := files.load()) is not None and old.mesh_id == membership.mesh_id:
                membership.receive_untrusted(op.data for op in old.set.ops)
        click.echo(f"the old list of members is in {files.set_aside('old')}", err=True)
    files.save_entrance(came.entrance)  # before a node that starts meanwhile may look for it
    # Refuses where another process was quicker.
    files.begin(membership, own if came.is_new else None)


def _enter() -> None:
    """A node that runs here goes in at once."""
    from node import api
    from node.control import NotRunning

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
    from core.device_cert import Role

    active = [member for member in membership.members() if member.is_active]
    name = membership.state.name
    click.echo(f"This machine is in the mesh {name} again: {_devices(len(active))}.")
    click.echo(f"fingerprint {membership.mesh_id.text()}", err=True)
    own = membership.member(mine.node)
    if own is not None and Role.ADMIN in mine.cert.roles and Role.ADMIN not in own.roles:
        click.echo("it does not administer the mesh yet: portal mesh administer", err=True)
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
