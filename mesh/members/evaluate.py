"""Which operations count: the same answer for the same operations, in whatever order they came.

The rules ask two questions of every operation, whether it certainly and whether it possibly
counts (mesh/members/rights.py). At first nothing is certain and everything possible. Going through
the total order again and again settles what can be settled, each operation once; as both answers
only ever move towards each other, the order of settling cannot matter.

What is then still in doubt are removals that exclude each other, and what hangs on them. Of each
such knot the removals with most behind them are tried as if its others were void. Those that stand
win; if they still exclude each other it is a tie: all of them suspend whom they are about.

What a removal has behind it: the admins that signed it and whose role does not itself hang on what
is in doubt. Otherwise somebody who was removed could write, as if long ago, a branch of the mesh
in which it appoints a hundred admins, and outvote the mesh with them. Then the founder's phrase.

Without removals a knot is void as a whole. Such an operation may count only if it does not: by
whoever is in dispute with another over one voucher, and makes the other the weightier one.
"""

from collections.abc import Iterable

from mesh.members.bodies import (
    Admit,
    Approve,
    CloseInvite,
    Kind,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.facts import REMOVALS, Facts
from mesh.members.knots import first_knots
from mesh.members.opset import OpSet
from mesh.members.rights import Rights
from mesh.members.rules import Rules, Void

# Types whose arrival can change nothing about operations that came before, by themselves. Removals
# neither, where nobody has leaned on what they take away.
_PLAIN = {
    Kind.INVITE,
    Kind.ADMIT,
    Kind.ADD_DEVICE,
    Kind.POLICY,
    Kind.EPOCH,
    Kind.COMMITTEE,
    Kind.DEDUP_EPOCH,
    Kind.CHECKPOINT,
}


class _Watched(bytearray):
    """A table that notes what was looked up."""

    read: set[int]

    def __getitem__(self, i: int) -> int:  # type: ignore[override]
        self.read.add(i)
        return super().__getitem__(i)

    def find(self, *_where: object) -> int:
        """No short cuts: places in the table differ from replica to replica."""
        return 0


class Evaluation:
    """The verdicts over the operations of one set; `add` after each that the set has taken."""

    def __init__(self, ops: OpSet) -> None:
        self.set = ops
        self.facts = Facts(ops)
        self.tied: set[int] = set()
        self.weighed: set[int] = set()  # decided by what was behind them
        self.unsettled: set[int] = set()  # void, as they hang on themselves
        self.full_runs = 0  # how often everything was judged anew
        self._certain = bytearray()
        self._possible = bytearray()
        certain, possible = self._certain, self._possible
        self.rights = Rights(self.facts, certain, possible, self.tied, cautious=True)
        self._hopes = Rights(self.facts, possible, certain, self.tied, cautious=False)
        self.rights.other, self._hopes.other = self._hopes, self.rights
        self.rules = Rules(self.rights)
        self._lenient = Rules(self._hopes)
        self._run()

    def counts(self, i: int) -> bool:
        """Whether an operation counts."""
        return bool(self._certain[i])

    def why_void(self, i: int) -> Void | None:
        """Why an operation does not count; None if it does."""
        if self._certain[i]:
            return None
        return self.rules.why_void(i) or Void.UNSETTLED

    def add(self, new: Iterable[int]) -> bool:
        """Judge what the set has taken, and again what that may change.

        True if no verdict of before can have changed.
        """
        again = False
        for i in new:
            self.facts.add(i)
            if again or not self._is_plain(i):
                again = True
                continue
            self._certain.append(0)
            self._possible.append(1)
            counts = self.rules.why_void(i) is None
            self._certain[i] = self._possible[i] = counts
        if again:
            self._run()
        return not again

    def _is_plain(self, i: int) -> bool:
        """Whether an operation can be judged by itself: nothing earlier hangs on it."""
        op, facts = self.set.ops[i], self.facts
        if facts.cuts or self.set.forks:
            return False
        match op.body:
            case Admit(join=join) if len(facts.admits[join.invite]) > 1:
                return False
            case Approve():
                named = facts.refers.get(i)
                return named is None or not self.rights.rivals(named)
            case CloseInvite(voucher=voucher):
                return not facts.admits.get(voucher)
            case RevokeUser() | RevokeDevice() | SuspendDevice():
                return self._is_quiet(op.body)
        is_known = op.kind in Kind.__members__.values()
        return not is_known or (op.kind in _PLAIN and not facts.rebinds(i))

    def _is_quiet(self, body: RevokeUser | RevokeDevice | SuspendDevice) -> bool:
        """Whether no operation asks for the rights of whom a removal is about.

        They wrote nothing and cosigned nothing; nobody told the mesh of another device of theirs.
        A suspension that is lifted is lifted for who knows that: nothing earlier does.
        """
        facts = self.facts
        user = body.user
        nodes = facts.devices.get(user, [])
        return user not in facts.cosigners and not any(
            facts.written.get(node) or len(nodes) > 1 or len(facts.bindings[node]) > 1
            for node in nodes
        )

    # --- settling ---------------------------------------------------------------------------------

    def _run(self) -> None:
        self.full_runs += 1
        size = len(self.set)
        self._certain[:] = bytes(size)
        self._possible[:] = b"\1" * size
        self.tied.clear()
        self.weighed.clear()
        self.unsettled.clear()
        in_doubt = self._settle([i for _, _, i in self.set.order])
        while in_doubt:
            in_doubt = self._settle(self._resolve(in_doubt))

    def _settle(self, in_doubt: list[int]) -> list[int]:
        """Settle what can be settled; the rest is in doubt."""
        while True:
            rest = []
            for i in in_doubt:
                if self.rules.why_void(i) is None:
                    self._certain[i] = 1
                elif self._lenient.why_void(i) is not None:
                    self._possible[i] = 0
                else:
                    rest.append(i)
            if not rest or len(rest) == len(in_doubt):
                return rest
            in_doubt = rest

    def _resolve(self, in_doubt: list[int]) -> list[int]:
        """Decide the knots that hang on nothing else in doubt; what is in doubt after that."""
        decided: set[int] = set()
        for knot in first_knots(self._leans_on(in_doubt)):
            members = [i for i in in_doubt if i in knot]
            removals = [i for i in members if self.set.ops[i].kind in REMOVALS]
            if removals:
                decided |= self._decide(members, removals)
                continue
            for i in members:  # nobody gains by what nobody can settle
                self._possible[i] = 0
            self.unsettled |= knot
            decided |= knot
        return [i for i in in_doubt if i not in decided]

    def _decide(self, knot: list[int], removals: list[int]) -> set[int]:
        """Decide at least one of the removals of a knot, and say which."""
        behind = {i: self._behind(i) for i in self._stand_alone(knot, removals)}
        most = max(behind.values(), default=None)
        strongest = {i for i in behind if behind[i] == most}
        won, lost = self._try(knot, strongest, removals)
        if not won and lost != strongest:
            won = strongest - lost
            self.tied |= won
        decided = won or lost or set(removals)
        self.weighed |= decided
        for i in decided:
            self._certain[i] = self._possible[i] = i in won
        return decided

    def _stand_alone(self, knot: list[int], removals: list[int]) -> list[int]:
        """The removals that had the right signers if none of the knot, nor they, took effect.

        Nobody removes somebody with a right that comes from removing them.
        """
        before = bytes(self._certain), bytes(self._possible)
        for removal in removals:
            self._possible[removal] = 0
        among = set(removals)
        self._settle([other for other in knot if other not in among])
        found = [removal for removal in removals if self.rules.why_void(removal) is None]
        self._certain[:], self._possible[:] = before
        return found

    def _leans_on(self, in_doubt: list[int]) -> dict[int, set[int]]:
        """Which of them the rules look at for each of them."""
        certain, possible = _Watched(self._certain), _Watched(self._possible)
        careful = Rights(self.facts, certain, possible, self.tied, cautious=True)
        hopeful = Rights(self.facts, possible, certain, self.tied, cautious=False)
        careful.other, hopeful.other = hopeful, careful
        rules = Rules(careful), Rules(hopeful)
        open_ones = set(in_doubt)
        found = {}
        for i in in_doubt:
            certain.read, possible.read = set(), set()
            for each in rules:
                each.why_void(i)
            found[i] = (certain.read | possible.read) & open_ones - {i}
        return found

    def _try(
        self, knot: list[int], strongest: set[int], removals: list[int]
    ) -> tuple[set[int], set[int]]:
        """Which of the strongest stand, and which fall, if the others of the knot are void."""
        before = bytes(self._certain), bytes(self._possible)
        weaker = set(removals) - strongest
        for i in weaker:
            self._possible[i] = 0
        self._settle([i for i in knot if i not in weaker])
        won = {i for i in strongest if self._certain[i]}
        lost = {i for i in strongest if not self._possible[i]}
        self._certain[:], self._possible[:] = before
        return won, lost

    def _behind(self, i: int) -> tuple[int, bool]:
        signers = {
            user
            for user in self._lenient.signers.admins(i)
            if any(
                self._certain[g] and self.facts.knows(i, g)
                for g in self.facts.grants[user, UserRole.ADMIN]
            )
        }
        founder = self.facts.founder
        return len(signers), self.rules.signers.by_phrase(i, founder)
