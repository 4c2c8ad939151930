"""`portal approve`, `revoke`, `suspend`, `grant`, `leave` ...: what members decide about members.

Some of it takes the phrase of the person it is about. It is typed here and goes no further: the
node says what it is about, the signature is made in this process, and the node carries it on.
"""

from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError, WrongKey
from node.cli import opening, secrets_input
from node.cli.completion import complete_members
from node.cli.cosign import tell

if TYPE_CHECKING:
    from node import api

_who = click.argument("who", shell_complete=complete_members)


@click.command()
@_who
def approve(who: str) -> None:
    """Say yes to WHO waits to be let in; compare the four words by voice before."""
    from node import api

    opening.node_here().post(api.APPROVE, api.Done, api.Who(who=who))
    click.echo(f"{who} is let in")


@click.command()
@_who
@opening.phrase_options
@opening.yes_option
def revoke(who: str, *, yes: bool, **phrase: Any) -> None:
    """Put WHO out of the mesh for good: a person, or one device of your own.

    Their links end at once, on every member's machine. What they keep of yours they still have,
    sealed; what you keep of theirs they may fetch for 90 days. A device of your own takes the
    recovery phrase, which is asked for if it is not kept here.
    """
    from node import api

    node = opening.node_here()
    about = node.post(api.SIGN, api.ToSign, api.Sign(act="revoke", who=who))
    if not yes:
        whom = f"your device {about.name}" if about.is_own else _with_devices(about)
        _confirm(f"Put {whom} out for good?", yes=yes)
    signed = api.Signed(who=about.node, signatures=_signatures(about, phrase))
    asked = node.post(api.REVOKE, api.Asked, signed)
    tell(asked, f"{about.name} is out")


@click.command()
@_who
def suspend(who: str) -> None:
    """Stop the device WHO for the time being, until portal unsuspend."""
    from node import api

    asked = opening.node_here().post(api.SUSPEND, api.Asked, api.Who(who=who))
    tell(asked, f"{who} is suspended")


@click.command()
@_who
@opening.phrase_options
def unsuspend(who: str, **phrase: Any) -> None:
    """Let the device WHO back that was suspended.

    What admins have suspended an admin lets back. What its own person has suspended takes that
    person's recovery phrase: otherwise whoever stole one device could let another one back.
    """
    from node import api

    node = opening.node_here()
    about = node.post(api.SIGN, api.ToSign, api.Sign(act="unsuspend", who=who))
    signed = api.Signed(who=about.node, signatures=_signatures(about, phrase))
    asked = node.post(api.UNSUSPEND, api.Asked, signed)
    tell(asked, f"{about.name} is back")


@click.command()
@_who
@click.argument("role", type=click.Choice(("admin", "admitter")))
def grant(who: str, role: str) -> None:
    """Give the person WHO a role: an admitter invites others, an admin decides about members."""
    from node import api

    asked = opening.node_here().post(api.GRANT, api.Asked, api.NewRole(who=who, role=role))
    tell(asked, f"{who} is an {role} now")


@click.command()
@_who
def drop(who: str) -> None:
    """Take every role of the person WHO, who stays a member."""
    from node import api

    asked = opening.node_here().post(api.DROP, api.Asked, api.Who(who=who))
    tell(asked, f"{who} is a plain member now")


@click.command()
@click.option("--quietly", is_flag=True, help="Tell nobody: this machine alone forgets the mesh.")
@opening.phrase_options
@opening.yes_option
@opening.json_option
def leave(*, quietly: bool, yes: bool, as_json: bool, **asked: Any) -> None:
    """Leave the mesh for good, with all your devices.

    Your vaults stay as they are; what others keep of yours you may fetch for 90 days. The files of
    the mesh are set aside, and this machine may join another mesh. --quietly is for a machine that
    was put out already: others are told nothing, and no phrase is needed.
    """
    from node import api

    node = opening.node_here()
    if quietly:
        node.status()
        _confirm("Have this machine forget the mesh it is in?", yes=yes)
        left = node.post(api.LEAVE, api.Left, api.Leave(quietly=True))
        if as_json:
            opening.echo_json("left", left)
            return
        name = f" {left.name}" if left.name else ""  # none: its list of members cannot be read
        click.echo(f"This machine has forgotten the mesh{name}. Its files are in {left.files}")
        return
    name = node.get(api.MESH, api.Mesh).name
    about = node.post(api.SIGN, api.ToSign, api.Sign(act="leave"))
    if not yes:
        if about.is_only_admin:
            click.echo("You are its only admin: nobody could administer it after you.", err=True)
        _confirm(f"Leave the mesh {name} with {_devices(about)}?", yes=yes)
    question = api.Leave(parents=about.parents, signatures=_signatures(about, asked))
    left = node.post(api.LEAVE, api.Left, question)
    if as_json:
        opening.echo_json("left", left)
        return
    click.echo(f"This machine has left the mesh {left.name}. Its files are in {left.files}")
    if not left.heard:
        click.echo("nobody was there to be told: ask an admin to revoke you", err=True)
    if len(about.devices) > 1:
        click.echo("on your other devices, too: portal leave", err=True)


# --- parts ----------------------------------------------------------------------------------------


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not secrets_input.on_terminal():
        raise UsageError("no terminal to ask", hint="--yes does it without asking")
    click.confirm(question, abort=True)


def _signatures(about: "api.ToSign", asked: dict[str, Any]) -> list[str]:
    """What the typed phrase signs for this act, of what we were told it is about; or nothing."""
    if not about.needs_phrase:
        return []
    from core import process
    from core.ids import MeshId, NodeId, UserId
    from node.cli.keys import typed_root
    from node.mesh_acts import Act, Words

    process.forbid_core_dumps()
    words = Words(
        act=Act(about.act),
        mesh=MeshId.parse_untrusted(about.mesh),
        user=UserId.parse_untrusted(about.user),
        node=NodeId.parse_untrusted(about.node),
        lifts=tuple(map(bytes.fromhex, about.lifts)),
        parents=tuple(map(bytes.fromhex, about.parents)),
    )
    whose = "your recovery phrase" if about.is_own else f"the phrase of {about.name}'s person"
    click.echo(f"this takes {whose}", err=True)
    root, _ = typed_root(asked)
    if root.user_id() != words.user:
        raise WrongKey(f"this recovery phrase is not that of {about.name}'s person")
    return [signature.hex() for signature in words.signed(root.user_identity())]


def _with_devices(about: "api.ToSign") -> str:
    if len(about.devices) < 2:
        return about.name
    return f"the person of {about.name}, with {len(about.devices)} devices,"


def _devices(about: "api.ToSign") -> str:
    if len(about.devices) < 2:
        return "this machine"
    return f"all your devices ({', '.join(about.devices)})"
