"""Putting pieces into a vault (portal/SPEC.md, Sessions).

    begin -> known -> deliver (a pack at a time) -> commit

A session sees the packs there were when it began, and says so by a lock that the kernel releases
when the process dies; nothing it may refer to is purged meanwhile. Packs it has delivered stay if
it dies: they say themselves what they hold, and the next session uses them.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Self

import trio

from core import limits
from core.errors import FormatError, IntegrityError
from core.pack import Pack, PackKeys
from core.pieces import Kind
from portal.errors import Moved
from portal.head import Head
from portal.index import Index, PackFacts, open_delta_untrusted, read_pack_facts, seal_delta
from portal.vault import Vault, live_set_root


class Session:
    """One writer of a vault; one thread at a time, but for `deliver`."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.pack_keys = PackKeys(vault.keys.dedup, vault.keys.pack)
        self.stored_bytes = 0
        self._index = Index(vault.store, vault.keys, vault.cache)
        self._expected: set[bytes] = set()  # keys of pieces that are on their way
        self._reused: set[bytes] = set()  # packs that others wrote and we rely on
        self._fresh: list[PackFacts] = []  # packs no delta speaks of yet
        self._fresh_bytes = 0
        self._wrote_packs = False
        self._lock = Lock()  # the index is asked by the thread that reads, and grows by deliveries
        self.read, self._mark = vault.begin()
        try:
            packs = vault.store.pack_names()
            self._index.refresh(packs)
            self._is_whole = self._index.listed <= packs and not self._index.damaged
            self._is_whole &= self._are_all_there(packs)
            for name in sorted(self._index.unlisted - self._damaged_packs()):
                self._list(read_pack_facts(vault.store, self.pack_keys, name))
        except BaseException:
            self.end()
            raise

    def _are_all_there(self, packs: set[bytes]) -> bool:
        """Whether these are the packs the head was written with; those of dead runs may be more."""
        root = self.read.head.live_set_root
        return root in {live_set_root(packs - self._index.unlisted), live_set_root(packs)}

    def end(self) -> None:
        """Done; what was delivered and not committed waits for the next session."""
        self._index.close()
        self._mark.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.end()

    # --- pieces ---------------------------------------------------------------------------------

    def known(self, kind: Kind, tag: bytes) -> bool:
        """Whether the vault has this piece or will have it; if not, the caller brings it now."""
        key = self._index.key(kind, tag)
        with self._lock:
            if key in self._expected:
                return True
            place = self._index.find_key(key)
            if place is None:
                self._expected.add(key)
                return False
            self._reused.add(place.pack)
            return True

    def holds(self, kind: Kind, tag: bytes) -> bool:
        """Whether the vault has this piece; asking promises nothing."""
        with self._lock:
            return self._index.find(kind, tag) is not None

    @property
    def is_whole(self) -> bool:
        """Whether every pack the index speaks of is there: if not, trust no earlier snapshot."""
        return self._is_whole

    async def deliver(self, pack: Pack) -> None:
        """Store a pack; its content is durable when this returns."""
        facts = PackFacts(pack.name, pack.salt, len(pack.data), pack.index.data)
        await trio.to_thread.run_sync(self._deliver, facts, pack)

    def _deliver(self, facts: PackFacts, pack: Pack) -> None:
        self.vault.store.put_pack(facts.name, pack.data)
        self.stored_bytes += facts.pack_bytes
        self._wrote_packs = True
        with self._lock:
            self._expected.difference_update(self._index.add(facts.name, pack.index))
            self._list(facts)
            full = self._fresh_bytes >= limits.DELTA_BYTES_TARGET
            if full or self._index.pending_count >= limits.TABLE_ROWS_PENDING_MAX:
                self.flush()

    def _list(self, facts: PackFacts) -> None:
        self._fresh.append(facts)
        self._fresh_bytes += len(facts.index)

    def flush(self) -> None:
        """Write the delta of what was delivered so far, and put it into the cache."""
        names = list[str]()
        if self._fresh:
            self.vault.store.sync_packs()  # a delta never speaks of a pack that may still vanish
        while self._fresh:
            # Very many at once where deltas were lost: each is kept short enough to be read again.
            count, size = 0, 0
            while count < len(self._fresh) and size < limits.DELTA_BYTES_TARGET:
                size += len(self._fresh[count].index)
                count += 1
            sealed = seal_delta(self.vault.keys, self._fresh[:count])
            names.append(self.vault.store.put_delta(sealed))
            del self._fresh[:count]
        self._fresh_bytes = 0
        self._index.save(names)

    # --- the end --------------------------------------------------------------------------------

    def commit(self, edit: Callable[[Head], Head]) -> Head:
        """Make it count: when this returns, the new head and all it names are durable."""
        store = self.vault.store
        self.flush()
        with store.commit_lock():
            now = self.vault.read_head().head
            taken_back = self._take_back(now)
            packs = store.pack_names()
            gone = self._reused - packs
            if self._is_whole:
                gone |= self._index.listed - packs  # rows of the parent rely on them
            if gone:
                raise Moved(
                    f"{len(gone)} packs vanished from the vault while it was written to",
                    where=str(store.path),
                    hint="run it again: what they held is stored anew",
                )
            if not self._wrote_packs:  # else `flush` did: what we rely on may be of a run that died
                store.sync_packs()
            is_same_set = self._is_whole and not (
                taken_back or self._wrote_packs or self._index.unlisted
            )
            changed = None if is_same_set else packs
            head = self.vault.change_locked(edit, packs=changed)
            self._merge_deltas()
        return head

    def _take_back(self, now: Head) -> bool:
        """Undo what a collector has moved since we began: we may have relied on any of it."""
        began = self.read.head.trash_gen
        if now.trash_gen == began:
            return False
        trashed = self.vault.store.trashed()
        later = [name for name, pack in trashed.items() if pack.generation > began]
        self.vault.store.take_back(later)
        return bool(later)

    def _merge_deltas(self) -> None:
        """Make one of many small deltas, so that their number stays small.

        What they say of packs that are gone stays, too: the next session is to know of the loss.
        The head is written: what goes wrong here is for the next one to see, and for `check`.
        """
        store = self.vault.store
        sizes = {name: store.delta_bytes(name) for name in store.delta_names()}
        small = [name for name in sizes if sizes[name] < limits.DELTA_BYTES_TARGET // 2]
        if len(small) <= limits.DELTAS_MAX:
            return
        unique, merged, size = dict[bytes, PackFacts](), list[str](), 0
        for name in sorted(small, key=sizes.__getitem__):
            size += sizes[name]
            if size > limits.DELTA_BYTES_TARGET:
                break
            try:
                facts = open_delta_untrusted(store.read_delta(name), self.vault.keys)
            except (FormatError, IntegrityError, OSError):
                continue
            unique |= {pack.name: pack for pack in facts}
            merged.append(name)
        if len(merged) > 1:
            with suppress(OSError):
                store.put_delta(seal_delta(self.vault.keys, unique.values()))
                store.remove_deltas(merged)

    def _damaged_packs(self) -> set[bytes]:
        return {bytes.fromhex(name) for name in self._index.damaged if len(name) == 64}
