"""Which snapshots to keep: a rule of calendar and counts, decided without touching anything.

The rules are restic's. Of each hour, day, week (ISO), month and year the newest snapshot counts, so
many of each are kept, and the oldest of all as long as a count is not used up. What lies within a
duration is measured from the newest snapshot, not from now: who is away for a year loses nothing.

Two things differ. Snapshots from the future (a clock was wrong, or somebody lies) never take the
place of others. And the hour that a clock shows twice in autumn is two hours.
"""

import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple, Self

from core.errors import UsageError

ALL = -1  # a count without an end
GROUP_FIELDS = ("host", "paths", "tags")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 1_000_000_000
_DURATION = re.compile(r"(?=.)(?:(\d{1,6})y)?(?:(\d{1,6})m)?(?:(\d{1,6})d)?(?:(\d{1,6})h)?")


class Snap(NamedTuple):
    """What retention wants to know about a snapshot."""

    id: str
    time_ns: int
    tags: tuple[str, ...] = ()
    paths: tuple[bytes, ...] = ()
    host: str = ""
    pinned: bool = False


class Decision(NamedTuple):
    """Keep a snapshot, and why; or not, and then there are no reasons."""

    snap: Snap
    keep: bool
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of the calendar: a month is as long as the month it falls into."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`7d`, `1y6m3d2h`: years, months, days, hours, in this order."""
        found = _DURATION.fullmatch(text)
        made = cls(*(int(part or 0) for part in found.groups())) if found else cls()
        if not made:
            raise UsageError(f"{text!r} is no duration", hint="for example 7d, 2m or 1y6m3d2h")
        return made

    def __bool__(self) -> bool:
        return bool(self.years or self.months or self.days or self.hours)

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{count}{unit}" for count, unit in parts if count)

    def before(self, time_ns: int, zone: tzinfo) -> int | None:
        """The time this long before; nothing if the calendar does not go back so far.

        On the clock of `zone`, but for the hours. The day that a month lacks is its last one.
        """
        seconds, rest_ns = divmod(time_ns, _SECOND_NS)
        local = _local(seconds, zone)
        months = local.year * 12 + local.month - 1 - self.years * 12 - self.months
        year, month = months // 12, months % 12 + 1
        try:
            day = min(local.day, monthrange(year, month)[1])
            earlier = local.replace(year=year, month=month, day=day) - timedelta(days=self.days)
            since_epoch = earlier - _EPOCH
        except (ValueError, OverflowError):
            return None
        whole = since_epoch // timedelta(seconds=1) - self.hours * 3600
        return whole * _SECOND_NS + rest_ns


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep. Counts: 0 none, -1 all."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration = field(default_factory=Duration)
    within_hourly: Duration = field(default_factory=Duration)
    within_daily: Duration = field(default_factory=Duration)
    within_weekly: Duration = field(default_factory=Duration)
    within_monthly: Duration = field(default_factory=Duration)
    within_yearly: Duration = field(default_factory=Duration)
    tags: tuple[frozenset[str], ...] = ()  # keep what carries all tags of one of these

    def __post_init__(self) -> None:
        for name in ("last", *_PERIODS):
            if getattr(self, name) < ALL:
                raise UsageError(f"keep-{name} is a number, or -1 for all of them")
        if not all(self.tags):
            raise UsageError("keep-tag needs a tag")  # else it would mean every snapshot, or none

    @property
    def is_empty(self) -> bool:
        """Whether it names no rule at all."""
        return not any(getattr(self, name) for name in self.__dataclass_fields__)


class _Bucket:
    """One rule: it keeps the newest snapshot of each of its periods, a number of times."""

    def __init__(
        self, reason: str, period: Callable[[datetime, int], object], count: int, since_ns: int
    ) -> None:
        self._reason = reason
        self._period = period
        self._left = count
        self._since_ns = since_ns  # what is not later does not count
        self._current: object = None

    def keeps(self, time: datetime, time_ns: int, number: int, *, is_oldest: bool) -> str:
        """The reason to keep this snapshot, if there is one."""
        if self._left == 0 or time_ns <= self._since_ns:
            return ""
        period = self._period(time, number)
        is_new = period != self._current
        if not is_new and not is_oldest:
            return ""
        self._current = period
        self._left -= self._left > 0
        return self._reason if is_new else f"oldest of {self._reason}"


# What makes two snapshots fall into one period. An hour that comes twice has two folds.
_PERIODS: dict[str, Callable[[datetime, int], object]] = {
    "hourly": lambda t, _: (t.year, t.month, t.day, t.hour, t.fold),
    "daily": lambda t, _: (t.year, t.month, t.day),
    "weekly": lambda t, _: t.isocalendar()[:2],
    "monthly": lambda t, _: (t.year, t.month),
    "yearly": lambda t, _: t.year,
}
_ALWAYS_NS = -(1 << 80)  # before any time


def plan(
    snapshots: Sequence[Snap],
    policy: Policy,
    now_ns: int,
    *,
    zone: tzinfo,
    group_by: Iterable[str] = ("host", "paths"),
) -> list[Decision]:
    """What becomes of each snapshot, group by group, the newest first.

    An empty policy keeps everything: nobody who says nothing wants nothing.
    """
    decisions = []
    for group in groups(snapshots, group_by).values():
        reasons = _reasons(group, policy, now_ns, zone)
        decisions += [
            Decision(snap, bool(why), why) for snap, why in zip(group, reasons, strict=True)
        ]
    return decisions


def groups(
    snapshots: Iterable[Snap], group_by: Iterable[str] = ("host", "paths")
) -> dict[tuple[object, ...], list[Snap]]:
    """Snapshots by what they have in common, each group's newest first; neither order matters."""
    fields = check_group_by(group_by)
    found: dict[tuple[object, ...], list[Snap]] = {}
    for snap in snapshots:
        key = tuple(
            snap.host if name == "host" else tuple(sorted(set(getattr(snap, name))))
            for name in fields
        )
        found.setdefault(key, []).append(snap)
    for group in found.values():
        group.sort(key=lambda snap: (snap.time_ns, snap.id), reverse=True)
    return dict(sorted(found.items()))


def check_group_by(names: Iterable[str]) -> tuple[str, ...]:
    """The fields to group by, once each and in a fixed order; none of them is one group."""
    asked = set(names)
    unknown = sorted(asked - set(GROUP_FIELDS))
    if unknown:
        hint = "host, paths and tags are there, or nothing for one group"
        raise UsageError(f"snapshots have no {unknown[0]!r} to group by", hint=hint)
    return tuple(name for name in GROUP_FIELDS if name in asked)


def refuse_to_lose_a_group(
    decisions: Iterable[Decision],
    *,
    group_by: Iterable[str] = ("host", "paths"),
    allow_empty: bool = False,
) -> None:
    """Pass if something of every group is kept, or if that is what is wanted."""
    if allow_empty:
        return
    decided = list(decisions)
    kept = {id(decision.snap) for decision in decided if decision.keep}
    for group in groups((decision.snap for decision in decided), group_by).values():
        if not any(id(snap) in kept for snap in group):
            raise UsageError(
                f"nothing would be left of {_told(group)}",
                hint="keep something, or say --allow-empty",
            )


def _told(group: Sequence[Snap]) -> str:
    """A group as a person knows it: how many, from where, the last of them."""
    count = "the only snapshot" if len(group) == 1 else f"all {len(group)} snapshots"
    host = f" of {group[0].host}" if group[0].host else ""
    return f"{count}{host}, the newest being {group[0].id}"


def _reasons(group: Sequence[Snap], policy: Policy, now_ns: int, zone: tzinfo) -> list[list[str]]:
    """Why to keep each of these, the newest first.

    Those that claim to be of the future count as of now. So that they push nothing out, the
    others are judged without them first; nothing that was kept then is given up.
    """
    if policy.is_empty:
        return [["no rule says otherwise"] for _ in group]
    clamped = [snap if snap.time_ns <= now_ns else snap._replace(time_ns=now_ns) for snap in group]
    reasons = _judged(clamped, policy, zone)
    future = sum(snap.time_ns > now_ns for snap in group)
    if future:
        for why, without in zip(
            reasons[future:], _judged(group[future:], policy, zone), strict=True
        ):
            why += [reason for reason in without if reason not in why]
    for snap, why in zip(group, reasons, strict=True):
        if snap.pinned:
            why.insert(0, "pinned")
    return reasons


def _judged(group: Sequence[Snap], policy: Policy, zone: tzinfo) -> list[list[str]]:
    if not group:
        return []
    buckets = _buckets(policy, group[0].time_ns, zone)
    reasons = []
    for number, snap in enumerate(group):
        local = _local(snap.time_ns // _SECOND_NS, zone)
        is_oldest = number == len(group) - 1
        why = [
            f"has {'the tag' if len(tags) == 1 else 'the tags'} {', '.join(sorted(tags))}"
            for tags in policy.tags
            if tags <= set(snap.tags)
        ]
        why += [
            reason
            for bucket in buckets
            if (reason := bucket.keeps(local, snap.time_ns, number, is_oldest=is_oldest))
        ]
        reasons.append(why)
    return reasons


def _buckets(policy: Policy, newest_ns: int, zone: tzinfo) -> list[_Bucket]:
    """The rules of a policy, as yet unused."""

    def each(_time: datetime, number: int) -> object:
        return number

    def since(duration: Duration) -> int:
        found = duration.before(newest_ns, zone)
        return _ALWAYS_NS if found is None else found

    made = []
    if policy.within:
        made.append(_Bucket(f"within {policy.within}", each, ALL, since(policy.within)))
    made.append(_Bucket("last", each, policy.last, _ALWAYS_NS))
    for name, period in _PERIODS.items():
        made.append(_Bucket(name, period, getattr(policy, name), _ALWAYS_NS))
    for name, period in _PERIODS.items():
        span: Duration = getattr(policy, f"within_{name}")
        if span:
            made.append(_Bucket(f"{name} within {span}", period, ALL, since(span)))
    return made


def _local(seconds: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
