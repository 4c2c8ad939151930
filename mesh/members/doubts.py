"""Cuts and equivocation: what falls though its author had the right to write it, and what stays.

    cut             a removal may name the last operation of its subject that counts
    equivocation    of an author that has given a number twice, nothing counts from there on

What lies behind either is in question, and falls. But admissions that others have built on stay,
or one compromised device would take everybody with it who came by it: they are listed for review.
"""

from bisect import bisect

from core.ids import NodeId, UserId
from mesh.members.bodies import Kind
from mesh.members.rights import Rights


class Doubts:
    """One of the two answers (mesh/members/rights.py) about what is in question."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self._facts = rights.facts
        self._set = rights.facts.set
        self._asked: object = None
        self._found: list[tuple[UserId, list[int]]] = []

    def voided(self, i: int, user: UserId) -> bool:
        """Whether an operation is in question and falls.

        An admission that others have built on stays, and is listed for review.
        """
        return self.in_question(i, user) and not self.acknowledged(i, user)

    def in_question(self, i: int, user: UserId) -> bool:
        """Whether an operation lies behind a cut, or behind the first one said twice."""
        return self._forked(i) or bool(self.cuts_against(i, user, i))

    def _forked(self, i: int) -> bool:
        op = self._set.ops[i]
        first = self._facts.forked_at(op.author)
        return first is not None and op.seq >= first

    def cuts_against(self, i: int, user: UserId, authored: int | None) -> list[int]:
        """Removals with a cut that an operation lies behind."""
        facts = self._facts
        removals = list(facts.user_removals.get(user, ()))
        if authored is not None:
            removals += facts.device_removals.get(self._set.ops[i].author, ())
        return [
            removal
            for removal in removals
            if (cut := facts.cuts.get(removal)) is not None
            and facts.knows(removal, i)
            and not self._set.upto(cut) >> i & 1
            and self._rights.takes[removal]
        ]

    def acknowledged(self, i: int, user: UserId) -> bool:
        """Whether somebody independent has built on an admission before it came into question.

        With it stays the invite it went by. It takes the standing of who wrote, not that what they
        wrote took effect: that may itself hang on the admission, and they have seen it either way.
        """
        facts, ops = self._facts, self._set.ops
        built_on = 1 << i
        if ops[i].kind == Kind.INVITE:
            admits = facts.admits.get(facts.invite(i).voucher, ())
            built_on = sum(1 << a for a in admits if facts.terms.get(a) == i)
        elif ops[i].kind != Kind.ADMIT:
            return False
        cuts = self.cuts_against(i, user, i)
        forked, key = ops[i].author if self._forked(i) else None, facts.key(i)
        shaky: int | None = None
        for by, after in self._strangers(user, forked, tuple(cuts)):
            if shaky is not None and not self._may_be_here(by, shaky):
                continue
            for other in after[bisect(after, key, key=facts.key) :]:  # what knows it, follows
                if (self._set.past[other] | 1 << other) & built_on:
                    shaky = self._shaky(user) if shaky is None else shaky
                    if not self._may_be_here(by, shaky):
                        break
                    if self._stands(other, by, shaky):
                        return True
        return False

    def _may_be_here(self, user: UserId, without: int) -> bool:
        return any(not without >> a & 1 for a in self._facts.admissions.get(user, ()))

    def _strangers(
        self, user: UserId, forked: NodeId | None, cuts: tuple[int, ...]
    ) -> list[tuple[UserId, list[int]]]:
        """What others wrote that knows all the cuts and no contradiction: hangs on no verdict."""
        facts, asked = self._facts, (user, forked, cuts, len(self._set))
        if self._asked != asked:
            self._asked, self._found = asked, []
            for node, written in sorted(facts.written.items()):
                by = facts.user_of(node)
                if by is None or by == user:
                    continue
                fit = [
                    other
                    for other in written
                    if all(facts.knows(removal, other) for removal in cuts)
                    and not (
                        forked is not None
                        and facts.saw_fork(forked, self._set.past[other] | 1 << other)
                    )
                ]
                if fit:
                    self._found.append((by, fit))
        return self._found

    def _stands(self, i: int, user: UserId, without: int) -> bool:
        """Whether the author of an operation could act for its user, also without some others.

        What it wrote behind a cut or a contradiction of its own does not speak for anybody.
        """
        past = self._set.past[i] & ~without
        return (
            not self.in_question(i, user)
            and self._rights.member(user, past, i)
            and self._rights.device(self._set.ops[i].author, user, past, i)
        )

    def _shaky(self, on: UserId) -> int:
        """The admissions, as bits, that hang on what is in question of a user.

        Each in its turn by those before it: who was let in, or invited, by a hand that was itself
        let in so. Whoever has another admission does not hang on these.
        """
        facts, past = self._facts, self._set.past
        found = 0
        for admission in facts.entries:
            for step in (admission, facts.terms.get(admission, admission)):
                by = facts.author_user(step)
                if by == on:
                    hangs = self.in_question(step, on)
                elif hangs := bool(past[step] & found):
                    less = past[step] & ~found
                    hangs = by is None or not self._rights.member(by, less, step)
                if hangs:
                    found |= 1 << admission
                    break
        return found
