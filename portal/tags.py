"""What the owner says of snapshots: tags, and whether they are pinned."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from core import codec, limits
from core.errors import FormatError, UsageError
from portal.head import Head, Snapshot
from portal.vault import Vault


def retag(
    vault: Vault,
    ids: Collection[bytes],
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    exactly: Sequence[str] | None = None,
    pinned: bool | None = None,
) -> Head:
    """Change tags and pins of snapshots; all of them or none."""
    for tag in (*add, *(exactly or ())):
        check_tag(tag)

    def changed(snapshot: Snapshot) -> Snapshot:
        if snapshot.id not in ids:
            return snapshot
        kept = [tag for tag in snapshot.tags if tag not in remove]
        tags = list(dict.fromkeys([*kept, *add] if exactly is None else exactly))
        if len(tags) > limits.SNAPSHOT_TAGS_MAX:
            raise UsageError(f"a snapshot has at most {limits.SNAPSHOT_TAGS_MAX} tags")
        pin = snapshot.pinned if pinned is None else pinned
        return replace(snapshot, tags=tuple(tags), pinned=pin)

    return vault.change(lambda head: head.with_snapshots([changed(s) for s in head.snapshots]))


def check_tag(tag: str) -> None:
    """Pass if this can be a tag: a word or two that can be read, without a comma."""
    try:
        codec.as_text(tag, limits.SNAPSHOT_TEXT_BYTES_MAX, "a tag")
    except FormatError as e:
        raise UsageError(e.what, where=repr(tag)) from None
    if not tag.strip() or "," in tag:
        raise UsageError("a tag is a word without commas", where=repr(tag))
