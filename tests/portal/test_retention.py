import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from core.errors import UsageError
from portal.retention import (
    ALL,
    Duration,
    Policy,
    Snap,
    check_group_by,
    groups,
    plan,
    refuse_to_lose_a_group,
)

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = 1_000_000_000
NOW = "2026-08-01 12:00"
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def ns(text, zone=UTC):
    """The moment an ISO text names; `+1` at its end is the second time a clock shows it."""
    at = datetime.fromisoformat(text.removesuffix("+1")).replace(tzinfo=zone)
    at = at.replace(fold=text.endswith("+1"))
    return (
        (at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    )


def snaps(*times, zone=UTC):
    return [Snap(text, ns(text, zone)) for text in times]


def kept(snapshots, policy, *, now=NOW, zone=UTC):
    decisions = plan(snapshots, policy, ns(now, zone), zone=zone)
    assert sorted(d.snap for d in decisions) == sorted(snapshots)
    assert all(d.keep == bool(d.reasons) for d in decisions)
    return {d.snap.id: d.reasons for d in decisions if d.keep}


def test_the_newest_of_each_day_is_kept_and_the_oldest_of_all():
    times = ["2026-07-28 10:00", "2026-07-30 09:00", "2026-07-30 18:00", "2026-07-31 08:00"]
    assert kept(snaps(*times), Policy(daily=2)) == {
        "2026-07-31 08:00": ["daily"],
        "2026-07-30 18:00": ["daily"],
    }
    assert kept(snaps(*times), Policy(daily=9)) == {
        "2026-07-31 08:00": ["daily"],
        "2026-07-30 18:00": ["daily"],
        "2026-07-28 10:00": ["daily"],
    }
    assert kept(snaps(*times, "2026-07-28 09:00"), Policy(daily=9))["2026-07-28 09:00"] == [
        "oldest of daily"
    ]
    assert "2026-07-28 09:00" not in kept(snaps(*times, "2026-07-28 09:00"), Policy(daily=3))


def test_rules_add_up_and_every_reason_is_told():
    times = ["2026-07-31 08:00", "2026-07-30 08:00", "2026-06-30 08:00", "2025-06-30 08:00"]
    assert kept(snaps(*times), Policy(last=1, daily=2, monthly=2, yearly=ALL)) == {
        "2026-07-31 08:00": ["last", "daily", "monthly", "yearly"],
        "2026-07-30 08:00": ["daily"],
        "2026-06-30 08:00": ["monthly"],
        "2025-06-30 08:00": ["yearly"],
    }


@pytest.mark.parametrize(
    ("period", "one", "other"),
    [
        # Weeks are ISO weeks: they begin on Monday and may belong to the year before or after.
        ("weekly", ["2025-12-29 00:00", "2026-01-04 23:59"], "2026-01-05 00:00"),
        ("weekly", ["2027-01-03 10:00", "2026-12-28 10:00"], "2027-01-04 10:00"),
        ("weekly", ["2024-12-30 10:00", "2025-01-05 10:00"], "2024-12-29 10:00"),
        ("monthly", ["2026-02-01 00:00", "2026-02-28 23:59"], "2026-03-01 00:00"),
        ("yearly", ["2025-01-01 00:00", "2025-12-31 23:59"], "2026-01-01 00:00"),
        ("hourly", ["2026-02-01 10:00", "2026-02-01 10:59"], "2026-02-01 11:00"),
        ("daily", ["2026-02-01 00:00", "2026-02-01 23:59"], "2026-02-02 00:00"),
    ],
)
def test_where_a_period_begins_and_ends(period, one, other):
    far = "2001-01-01 00:00"  # so that the oldest is none of these
    policy = Policy(**{period: ALL})
    assert set(kept(snaps(*one, far), policy, now="2030-01-01")) == {max(one), far}
    assert set(kept(snaps(*one, other, far), policy, now="2030-01-01")) == {max(one), other, far}


def test_days_are_those_of_the_zone_that_is_given():
    late = snaps("2026-07-30 23:30", "2026-07-30 21:30", "2001-01-01")  # 01:30 and 23:30 in Berlin
    assert len(kept(late, Policy(daily=ALL))) == 2
    assert len(kept(late, Policy(daily=ALL), zone=BERLIN)) == 3


def test_the_hour_that_comes_twice_is_two_hours_of_one_day():
    twice = ["2025-10-26 02:10", "2025-10-26 02:50", "2025-10-26 02:10+1", "2025-10-26 03:10"]
    assert ns(twice[2], BERLIN) - ns(twice[0], BERLIN) == 3600 * SECOND
    autumn = snaps("2001-01-01", *twice, zone=BERLIN)
    assert set(kept(autumn, Policy(hourly=ALL), zone=BERLIN)) == {"2001-01-01", *twice[1:]}
    assert set(kept(autumn, Policy(daily=ALL), zone=BERLIN)) == {"2001-01-01", twice[3]}


def test_a_day_with_23_hours_is_a_day():
    spring = snaps("2001-01-01", "2026-03-29 00:30", "2026-03-29 03:10", "2026-03-30", zone=BERLIN)
    assert set(kept(spring, Policy(daily=ALL), zone=BERLIN)) == {
        "2001-01-01",
        "2026-03-29 03:10",
        "2026-03-30",
    }
    # A day before 2:30 on Monday is 2:30 on Sunday, which no clock showed. It is not refused, and
    # the earlier of the two readings keeps more.
    missing = snaps("2026-03-30 02:30", "2026-03-29 03:31", "2026-03-29 01:29", zone=BERLIN)
    assert set(kept(missing, Policy(within=Duration(days=1)), zone=BERLIN)) == {
        "2026-03-30 02:30",
        "2026-03-29 03:31",
    }


def test_within_is_measured_from_the_newest_snapshot():
    times = ["2020-03-31 12:00", "2020-03-24 12:01", "2020-03-24 12:00", "2020-01-01 00:00"]
    assert set(kept(snaps(*times), Policy(within=Duration(days=7)))) == set(times[:2])
    assert kept(snaps(*times), Policy(within=Duration(days=7)))[times[1]] == ["within 7d"]


def test_within_per_period():
    days = [f"2026-07-{day:02} {hour:02}:00" for day in range(20, 32) for hour in (6, 18)]
    found = kept(snaps(*days), Policy(within_daily=Duration(days=3)))
    assert found == {f"2026-07-{day} 18:00": ["daily within 3d"] for day in (29, 30, 31)}


@pytest.mark.parametrize(
    ("newest", "span", "limit"),
    [
        ("2026-03-31 10:00", "1m", "2026-02-28 10:00"),  # there is no 31st of February
        ("2024-02-29 10:00", "1y", "2023-02-28 10:00"),
        ("2026-01-15 10:00", "2m", "2025-11-15 10:00"),
        ("2026-08-01 10:00", "1y6m3d2h", "2025-01-29 08:00"),
        ("2026-08-01 10:00", "36h", "2026-07-30 22:00"),
        ("2026-08-01 10:00", "12m", "2025-08-01 10:00"),
    ],
)
def test_durations_follow_the_calendar(newest, span, limit):
    assert Duration.parse(span).before(ns(newest) + 7, UTC) == ns(limit) + 7


def test_a_duration_longer_than_the_calendar_keeps_everything():
    for span in ("9999y", "999999m", "999999d", "999999h"):
        assert (
            len(kept(snaps("1970-01-01", "2026-01-01"), Policy(within=Duration.parse(span)))) == 2
        )
    assert Duration(years=9999).before(0, UTC) is None


@pytest.mark.parametrize("text", ["7d", "1y6m3d2h", "2m", "100h", "1y2h"])
def test_a_duration_is_told_as_it_is_given(text):
    assert str(Duration.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "3d1y", "7d ", "7x", "1.5d", "0d", "1234567d", "7D", "\u0667d"]
)
def test_what_is_no_duration_is_refused(text):
    if text == "\u0667d":
        assert Duration.parse(text) == Duration(days=7)  # a digit is a digit
        return
    with pytest.raises(UsageError, match="no duration"):
        Duration.parse(text)


def test_tags_keep_whatever_carries_all_of_one_set():
    tagged = [
        Snap("a", 1, ("x",)),
        Snap("b", 2, ("x", "y")),
        Snap("c", 3, ("z",)),
        Snap("d", 4),
    ]
    policy = Policy(tags=(frozenset({"x", "y"}), frozenset({"z"})))
    assert kept(tagged, policy) == {"b": ["has the tags x, y"], "c": ["has the tag z"]}


def test_what_is_pinned_is_kept_whatever_the_policy_says():
    snapshots = [Snap("a", 1, pinned=True), Snap("b", 2), Snap("c", 3)]
    assert kept(snapshots, Policy(last=1)) == {"a": ["pinned"], "c": ["last"]}
    assert kept(snapshots, Policy(last=1, yearly=1))["a"] == ["pinned"]


def test_groups_are_counted_for_themselves():
    snapshots = [
        Snap(f"{host}{path.decode()}{tag}{time}", time, (tag,), (path,), host)
        for host in "ab"
        for path in (b"/x", b"/y")
        for tag in "st"
        for time in (1, 2)
    ]

    def count(*fields):
        decisions = plan(snapshots, Policy(last=1), ns(NOW), zone=UTC, group_by=fields)
        return sum(decision.keep for decision in decisions)

    assert [count(), count("host"), count("host", "paths")] == [1, 2, 4]
    assert count("tags", "paths", "host") == 8
    assert len(kept(snapshots, Policy(last=1))) == 4


def test_the_order_of_paths_and_tags_makes_no_other_group():
    same = [Snap("a", 1, ("s", "t"), (b"/x", b"/y")), Snap("b", 2, ("t", "s"), (b"/y", b"/x"))]
    assert len(groups(same, ("paths", "tags"))) == 1
    assert check_group_by(["tags", "host", "tags"]) == ("host", "tags")
    with pytest.raises(UsageError, match="colour"):
        check_group_by(["colour"])


def test_an_empty_policy_keeps_everything():
    assert Policy().is_empty
    assert not Policy(tags=(frozenset({"x"}),)).is_empty
    assert not Policy(within_yearly=Duration(hours=1)).is_empty
    assert set(kept(snaps("2020-01-01", "2021-01-01"), Policy())) == {"2020-01-01", "2021-01-01"}
    assert plan([], Policy(last=1), 0, zone=UTC) == []


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_number_or_all(name):
    with pytest.raises(UsageError, match=name):
        Policy(**{name: -2})


def test_a_keep_tag_without_a_tag_is_refused():
    with pytest.raises(UsageError, match="needs a tag"):
        Policy(tags=(frozenset(),))


def test_losing_a_whole_group_is_refused():
    snapshots = [Snap("a", 1, ("x",), host="h1"), Snap("b", 2, host="h2"), Snap("c", 3, host="h2")]
    policy = Policy(tags=(frozenset({"x"}),))
    decisions = plan(snapshots, policy, 9, zone=UTC)
    with pytest.raises(UsageError, match="all 2 snapshots of h2, the newest being c"):
        refuse_to_lose_a_group(decisions)
    refuse_to_lose_a_group(decisions, allow_empty=True)
    refuse_to_lose_a_group(decisions, group_by=())  # as one group, `a` is left of it
    refuse_to_lose_a_group(plan(snapshots, Policy(last=1), 9, zone=UTC))


def test_snapshots_from_the_future_push_nothing_out():
    real = snaps("2026-08-01 08:00", "2026-07-31 08:00", "2026-07-30 08:00", "2026-07-29 08:00")
    planted = snaps(*(f"20{year}-01-01" for year in range(30, 60)))
    for policy in (
        Policy(last=3),
        Policy(daily=2),
        Policy(yearly=1),
        Policy(hourly=3),
        Policy(within=Duration(days=1)),
        Policy(within_daily=Duration(days=2), weekly=1),
    ):
        without = kept(real, policy)
        assert without
        found = kept(real + planted, policy)
        assert set(without) <= set(found)
        assert {k: v for k, v in found.items() if k in without} == without


def test_a_snapshot_from_the_future_counts_as_of_now():
    future = snaps("2031-05-05")
    assert kept(future, Policy(daily=1)) == {"2031-05-05": ["daily"]}
    # Of today, it is the newest; yesterday's is kept for itself.
    found = kept(future + snaps("2026-07-31 10:00", "2026-07-30 10:00"), Policy(daily=2))
    assert set(found) == {"2031-05-05", "2026-07-31 10:00", "2026-07-30 10:00"}


def oracle(snapshots, policy, zone):
    """The rules once more, told the other way round: rule by rule over all snapshots."""
    periods = {
        "hourly": "%Y-%m-%d %H %z",
        "daily": "%Y-%m-%d",
        "weekly": "%G %V",
        "monthly": "%Y-%m",
        "yearly": "%Y",
    }
    ordered = sorted(snapshots, key=lambda s: (s.time_ns, s.id))

    def period(snap, name):
        return datetime.fromtimestamp(snap.time_ns // SECOND, zone).strftime(periods[name])

    def newest_of_each(among, name):
        newest = {}
        for snap in among:
            newest[period(snap, name)] = snap
        return list(newest.values())

    keep = {s.id for s in ordered[::-1][: max(policy.last, 0)]}
    keep |= {s.id for s in ordered if s.pinned or policy.last == ALL}
    for name in periods:
        count = getattr(policy, name)
        found = newest_of_each(ordered, name)
        keep |= {s.id for s in (found if count == ALL else found[::-1][:count])}
        if count == ALL or count > len(found):
            keep.add(ordered[0].id)
        span = getattr(policy, f"within_{name}")
        if span:
            inside = [s for s in ordered if s.time_ns > span.before(ordered[-1].time_ns, zone)]
            keep |= {s.id for s in newest_of_each(inside, name)}
            keep |= {ordered[0].id} if inside[0] is ordered[0] else set()
    if policy.within:
        limit = policy.within.before(ordered[-1].time_ns, zone)
        keep |= {s.id for s in ordered if s.time_ns > limit}
    return keep


@pytest.mark.parametrize("seed", range(150))
def test_a_slow_and_plain_reading_of_the_rules_agrees(seed):
    rng = random.Random(seed)
    zone = rng.choice([UTC, BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu")])
    step = rng.choice([1800, 7200, 86_400, 604_800, 2_600_000]) * SECOND
    time = ns("2025-10-20")
    snapshots = []
    for number in range(rng.randint(1, 60)):
        time += rng.randrange(step)
        snapshots.append(Snap(f"{number:02}", time, pinned=rng.random() < 0.05))
    chosen = rng.sample(COUNTS, rng.randint(1, 3))
    policy = Policy(
        **{name: rng.choice([ALL, 1, 2, 3, 7, 50]) for name in chosen},
        within=rng.choice([Duration(), Duration(days=3), Duration(hours=5, months=1)]),
        within_hourly=rng.choice([Duration(), Duration(days=1)]),
        within_weekly=rng.choice([Duration(), Duration(), Duration(months=2)]),
    )
    shuffled = rng.sample(snapshots, len(snapshots))
    decisions = plan(shuffled, policy, time + step, zone=zone)
    assert [d.snap.id for d in decisions] == sorted((s.id for s in snapshots), reverse=True)
    assert {d.snap.id for d in decisions if d.keep} == oracle(snapshots, policy, zone)
