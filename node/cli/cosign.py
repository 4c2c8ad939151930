"""`portal drafts`, `cosign`: what several admins must sign, as what touches one of them does.

An admin begins with the act itself (`portal revoke`, `grant`, `drop`, `suspend`); the others see
what is asked of them, and sign it here. What is shown and what is signed is made from the same
fields; a phrase that must be typed signs in this process and goes no further.
"""

import time
from typing import TYPE_CHECKING, Any

import click

from core.errors import UsageError, WrongKey
from node.cli import opening, secrets_input

if TYPE_CHECKING:
    from node import api


@click.command()
@click.option("--withdraw", "wanted", metavar="ID", help="Take back what this machine has begun.")
@opening.json_option
def drafts(*, as_json: bool, wanted: str | None) -> None:
    """Show what waits for the signatures of several admins."""
    from node import api

    node = opening.node_here()
    if wanted is not None:
        node.delete(api.DRAFT.format(draft=wanted), api.Done)
        click.echo(f"taken back: {wanted}")
        return
    found = node.get(api.DRAFTS, api.Drafts)
    if as_json:
        opening.echo_json("drafts", found)
        return
    for one in found.drafts:
        click.echo(f"{_short(one)}  {_words(one)}")
        click.echo(f"          {_state(one)}")


@click.command()
@click.argument("draft")
@opening.phrase_options
@opening.yes_option
def cosign(draft: str, *, yes: bool, **phrase: Any) -> None:
    """Sign what another admin has begun; DRAFT is its id in portal drafts.

    With the last signature that is needed it is done, for everybody. It then counts from when it
    was begun: what the person it is about did since is judged as if it had been done at once. How
    much that is, is shown before you are asked. Go by ids: a name may be anything.
    """
    from node import api

    node = opening.node_here()
    found = _find(node.get(api.DRAFTS, api.Drafts).drafts, draft)
    words = _words(found)
    if found.is_signed:
        click.echo(f"signed already: {words} ({_state(found)})", err=True)
        return
    if not found.may_sign:
        hint = "those sign who were admins when it was begun, but not whom it is about"
        raise UsageError("your signature would not count for this", hint=hint)
    if not yes:
        if not secrets_input.on_terminal():
            raise UsageError(f"no terminal to ask whether to {words}", hint="--yes")
        click.echo(_state(found), err=True)
        click.confirm(f"Sign to {words}?", abort=True)
    signature = _signature(found, phrase) if found.needs_phrase else ""
    question = api.Cosign(draft=found.draft, signature=signature)
    tell(node.post(api.COSIGN, api.Asked, question), f"done: {words}")


def tell(asked: "api.Asked", done: str) -> None:
    """What came of an act: it was done, or others must sign it too."""
    draft = asked.draft
    if draft is None:
        click.echo(done)
        return
    count = len(draft.signed_by)
    click.echo(f"{draft.needed} admins must sign this, {count} of them did: {_words(draft)}")
    told = f"the others until {_time(draft.until_s)}: portal cosign {_short(draft)}"
    click.echo(told, err=True)


# --- parts ----------------------------------------------------------------------------------------


def _find(drafts: "list[api.Draft]", wanted: str) -> "api.Draft":
    from core import limits

    wanted = wanted.lower()
    found = [one for one in drafts if one.draft.startswith(wanted)]
    if len(found) != 1 or len(wanted) < limits.ID_PREFIX_CHARS_MIN:
        raise UsageError("there is not one draft of this name", hint="portal drafts")
    return found[0]


def _signature(draft: "api.Draft", phrase: dict[str, Any]) -> str:
    """What the typed phrase signs, of what was shown."""
    from core import process
    from core.ids import UserId
    from node.asked import Asked
    from node.cli.keys import typed_root
    from node.home import portal_home
    from node.identity import header

    process.forbid_core_dumps()
    asked = Asked.read_untrusted(draft)
    click.echo("this takes your recovery phrase", err=True)
    root, _ = typed_root(phrase)
    own: UserId = header(portal_home().absolute()).user
    if root.user_id() != own:
        raise WrongKey("this recovery phrase is not yours")
    return asked.signed(root.user_identity()).hex()


def _words(draft: "api.Draft") -> str:
    from node.asked import Asked

    return Asked.read_untrusted(draft).words()


def _state(draft: "api.Draft") -> str:
    from node.asked import named

    signed = ", ".join(named(one.id, one.name) for one in draft.signed_by) or "nobody"
    begun = f"begun on {named(draft.by.id, draft.by.name)}, {_time(draft.made_s)}"
    text = (
        f"{begun}; good until {_time(draft.until_s)};"
        f" {len(draft.signed_by)} of {draft.needed} signed ({signed}){_since(draft)}"
    )
    if draft.may_sign and not draft.is_signed:
        return f"{text}; to sign: portal cosign {_short(draft)}"
    return text


def _since(draft: "api.Draft") -> str:
    """What signing it may undo beside what it says."""
    if not draft.since:
        return ""
    among = f" (they let somebody in with {draft.admitted} of them)" if draft.admitted else ""
    count = "1 thing" if draft.since == 1 else f"{draft.since} things"
    return f"; {count} they did since then{among} may not count any more"


def _short(draft: "api.Draft") -> str:
    return draft.draft[:8]


def _time(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
