"""The operations of one mesh: their union, whatever the order they come in.

An operation is taken once everything it hangs on is there; until then it is parked. What is taken
has a place in a chain of its author, and a past: the set of operations it was written in
knowledge of, as bits of one number, the bit of an operation being the order of its coming here.
Only that order differs between two replicas; nothing that is decided may depend on it.

Bounds against flooding: strangers are not parked or taken, an author has a bounded number of
operations, unless somebody else has built on one beyond it: then the replicas that refused it
would be cut off, so it is taken after all.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from core import codec, hashing, limits
from core.errors import FormatError, LimitExceeded
from core.ids import MeshId, NodeId
from core.labels import Label
from mesh.members import bodies
from mesh.members.bodies import Kind
from mesh.members.operation import Operation

Tip = tuple[NodeId, int, bytes]  # the end of a chain: author, seq, id


class OpSet:
    """A replica's operations; `add` takes what `Operation.open_untrusted` has opened."""

    def __init__(self, genesis: Operation) -> None:
        assert genesis.kind == Kind.GENESIS
        self.mesh: MeshId = genesis.mesh
        self.ops: list[Operation] = []
        self.index: dict[bytes, int] = {}
        self.known: list[int] = []  # everything below an operation, its author's own included
        self.past: list[int] = []  # what counts as known to it; the same unless it is cosigned
        self.order: list[tuple[int, bytes, int]] = []  # lamport, id, index: the one total order
        self.children: list[int] = []  # how many operations hang on each
        self.forks: dict[NodeId, dict[int, list[int]]] = {}  # what authors said twice, by seq
        self._at: dict[tuple[NodeId, int], list[int]] = {}
        self._tips: dict[bytes, Tip] = {}
        self._heads: set[int] = set()
        self._counts: dict[NodeId, int] = {}
        self._introduced: dict[NodeId, list[int]] = {}
        self._parked: OrderedDict[bytes, Operation] = OrderedDict()
        self._waiting: dict[bytes, set[bytes]] = {}  # missing id -> parked ids
        self._take(genesis)

    def __len__(self) -> int:
        return len(self.ops)

    def __contains__(self, op_id: bytes) -> bool:
        return op_id in self.index

    def upto(self, i: int) -> int:
        """An operation and all that is known below it."""
        return self.known[i] | 1 << i

    # --- adding -----------------------------------------------------------------------------------

    def add_untrusted(self, op: Operation) -> list[int]:
        """Take an operation, and what was parked for want of it; the indexes of what is new.

        FormatError where its place in the chains is not what it says: that is known to all.
        """
        if op.id in self.index or op.id in self._parked:
            return []
        if op.mesh != self.mesh:
            raise FormatError("an operation of another mesh")
        if self._missing(op):
            below = self._parked_below(op)
            if below is None or self._has_written_all(op):
                self._park(op)
                return []
            # Parked for their author's bound: now that another has built on them, they are needed.
            taken = [i for one in below for i in self._take_parked(one)]
            return taken if self._missing(op) else [*taken, *self._take_all(op)]
        self._check_place_untrusted(op)
        if self._has_written_all(op):
            self._keep(op)
            raise LimitExceeded("this device has written all the operations it may")
        return self._take_all(op)

    def _has_written_all(self, op: Operation) -> bool:
        return self._counts.get(op.author, 0) >= limits.OPERATIONS_PER_AUTHOR_MAX

    def _take_all(self, op: Operation) -> list[int]:
        self._check_place_untrusted(op)
        return [self._take(op), *self._take_waiting(op.id)]

    def _missing(self, op: Operation) -> set[bytes]:
        return {before for before in op.before if before not in self.index}

    def _check_place_untrusted(self, op: Operation) -> None:
        below = [self.index[before] for before in op.before]
        if op.lamport != 1 + max(self.ops[i].lamport for i in below):
            raise FormatError("an operation is not at the height it says")
        if op.prev:
            prev = self.ops[self.index[op.prev]]
            if (prev.author, prev.seq + 1) != (op.author, op.seq):
                raise FormatError("an operation does not follow the one before it")
        known = self.known_below(op)
        if not any(known >> i & 1 for i in self.introduced(op.author)):
            raise FormatError("an operation by a stranger")
        if len(self.ops) >= limits.OPERATIONS_MAX:
            raise LimitExceeded("the mesh has all the operations it may")

    def known_below(self, op: Operation) -> int:
        """All that an operation hangs on, which is here."""
        return self._below(op.before)

    def introduced(self, node: NodeId) -> list[int]:
        """The operations that bring a device, whatever they are worth."""
        return self._introduced.get(node, [])

    def _below(self, ids: Iterable[bytes]) -> int:
        known = 0
        for op_id in ids:
            known |= self.upto(self.index[op_id])
        return known

    def _take(self, op: Operation) -> int:
        i = len(self.ops)
        known = self._below(op.before)
        self.ops.append(op)
        self.index[op.id] = i
        self.known.append(known)
        # Cosigners vouch for the parents, not for what their author learned before it published.
        self.past.append(self._below(op.parents) if op.cosigns else known)
        self.children.append(0)
        insort(self.order, (op.lamport, op.id, i))
        for before in op.before:
            below = self.index[before]
            self.children[below] += 1
            self._heads.discard(below)
        self._heads.add(i)
        self._link(op, i)
        self._counts[op.author] = self._counts.get(op.author, 0) + 1
        cert = bodies.cert_of(op.body)
        if cert is not None:
            self._introduced.setdefault(cert.node, []).append(i)
        return i

    def _link(self, op: Operation, i: int) -> None:
        self._tips.pop(op.prev, None)
        self._tips[op.id] = (op.author, op.seq, op.id)
        same = self._at.setdefault((op.author, op.seq), [])
        same.append(i)
        if len(same) > 1:
            self.forks.setdefault(op.author, {})[op.seq] = same

    def _take_waiting(self, op_id: bytes) -> list[int]:
        """Take what was parked for want of this, and what was parked for want of that."""
        taken = []
        ready = [op_id]
        while ready:
            for waiting in sorted(self._waiting.pop(ready.pop(), ())):
                op = self._parked.get(waiting)
                if op is None or self._missing(op) or self._has_written_all(op):
                    continue
                taken += self._take_parked(op)
                ready.append(op.id)
        return taken

    def _take_parked(self, op: Operation) -> list[int]:
        self._parked.pop(op.id, None)
        try:
            self._check_place_untrusted(op)
        except FormatError:  # it lied about its place; who sent it is long gone
            return []
        return [self._take(op)]

    def _park(self, op: Operation) -> None:
        self._keep(op)
        for before in self._missing(op):
            self._waiting.setdefault(before, set()).add(op.id)
        if len(self._waiting) > 4 * limits.OPERATIONS_PARKED_MAX:
            self._waiting = {}
            for other in self._parked.values():
                for before in self._missing(other):
                    self._waiting.setdefault(before, set()).add(other.id)

    def _keep(self, op: Operation) -> None:
        self._parked[op.id] = op
        if len(self._parked) > limits.OPERATIONS_PARKED_MAX:
            self._parked.popitem(last=False)

    def _parked_below(self, op: Operation) -> list[Operation] | None:
        """The parked operations one hangs on, in order; None if any is not here at all."""
        found: dict[bytes, Operation] = {}
        unseen = [op]
        while unseen:
            for before in self._missing(unseen.pop()):
                if before in found:
                    continue
                below = self._parked.get(before)
                if below is None:
                    return None
                found[before] = below
                unseen.append(below)
        return sorted(found.values(), key=lambda one: (one.lamport, one.id))

    def give_back_last(self) -> None:
        """Undo the newest `add`: an operation of our own that would be void."""
        op = self.ops.pop()
        i = len(self.ops)
        for before in op.before:
            below = self.index[before]
            self.children[below] -= 1
            if not self.children[below]:
                self._heads.add(below)
        self._heads.discard(i)
        del self.index[op.id], self._tips[op.id]
        self.known.pop()
        self.past.pop()
        self.children.pop()
        self.order.remove((op.lamport, op.id, i))
        self._at[op.author, op.seq].remove(i)
        self._counts[op.author] -= 1
        if op.prev:
            prev = self.ops[self.index[op.prev]]
            self._tips[prev.id] = (prev.author, prev.seq, prev.id)
        for introduced in self._introduced.values():
            if introduced and introduced[-1] == i:
                introduced.pop()

    # --- what others ask --------------------------------------------------------------------------

    @property
    def heads(self) -> list[Operation]:
        """Operations nothing hangs on, the highest first."""
        found = [self.ops[i] for i in self._heads]
        return sorted(found, key=lambda op: (-op.lamport, op.id))

    def last_of(self, author: NodeId) -> Operation | None:
        """The newest operation of an author: of several branches the longest."""
        tips = [tip for tip in self._tips.values() if tip[0] == author]
        if not tips:
            return None
        return self.ops[self.index[max(tips, key=lambda tip: (tip[1], tip[2]))[2]]]

    def vector(self) -> list[Tip]:
        """The ends of all chains: one for each author, more for one that forked."""
        return sorted(self._tips.values())

    def vector_hash(self) -> bytes:
        """Equal at two replicas exactly if they hold the same operations."""
        return hashing.digest(Label.MEMBER_VECTOR, codec.encode(self.vector()))

    def missing_from(self, vector: Sequence[Tip]) -> list[Operation]:
        """What a replica with these tips lacks, each operation after those it hangs on.

        A chain whose end is not known here is taken for one that goes on from ours. Where it
        turned aside instead, hashes still differ afterwards: see `missing_from_ids`.
        """
        has = 0
        told: dict[NodeId, list[int]] = {}
        for author, seq, op_id in vector:
            if (i := self.index.get(op_id)) is not None:
                has |= self.upto(i)
            else:
                told.setdefault(author, []).append(seq)
        ahead = {author: seqs[0] for author, seqs in told.items() if len(seqs) == 1}
        for author, seq, op_id in self.vector():
            if author not in self.forks and seq <= ahead.get(author, -1):
                has |= self.upto(self.index[op_id])
        return [op for i, op in enumerate(self.ops) if not has >> i & 1]

    def missing_from_ids(self, short_ids: Mapping[bytes, object] | set[bytes]) -> list[Operation]:
        """The same, for a replica that has named every operation it holds."""
        size = SHORT_ID_BYTES
        return [op for op in self.ops if op.id[:size] not in short_ids]

    @property
    def wanted(self) -> list[bytes]:
        """What parked operations wait for and is not parked itself."""
        return sorted(
            before
            for before, waiting in self._waiting.items()
            if before not in self._parked and any(op_id in self._parked for op_id in waiting)
        )


SHORT_ID_BYTES = 7  # so that all of them fit one frame
