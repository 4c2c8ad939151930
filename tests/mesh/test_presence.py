import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.ids import NodeId
from mesh.presence import Presence, Standing, Turned

A, B, C = (NodeId(bytes([n] * 32)) for n in range(1, 4))
STEP = limits.PRESENCE_STEP_SECONDS
HOUR, DAY = 3_600, 86_400
NOW_MS = 1_800_000_000_000


def a_presence(*nodes, now=0.0, **how):
    presence = Presence(now, **how)
    presence.members_are(nodes or [A, B, C])
    presence.watches(now, does=True)
    return presence


def pass_time(presence, seconds, now=0.0):
    """Step by step, as a node that runs; what time it is then."""
    until = now + seconds
    while now < until:
        now = min(now + STEP, until)
        presence.advance(now)
    return now


def absent_for(presence, node, seconds, now):
    presence.gone(node, now)
    now = pass_time(presence, seconds, now)
    presence.back(node, now)
    return now


def test_who_is_gone_is_away_and_after_a_day_lost_and_then_back():
    presence = a_presence()
    assert presence.standing(A) == Standing.PRESENT
    presence.gone(A, 0.0)
    assert presence.standing(A) == Standing.AWAY
    now = pass_time(presence, DAY)
    assert presence.standing(A) == Standing.AWAY
    now = pass_time(presence, 1, now)
    assert presence.standing(A) == Standing.LOST
    assert presence.standing(B) == Standing.PRESENT
    presence.back(A, now)
    assert presence.standing(A) == Standing.PRESENT
    assert presence.turned() == [
        Turned(A, Standing.AWAY), Turned(A, Standing.LOST), Turned(A, Standing.PRESENT)
    ]  # fmt: skip
    assert presence.turned() == []


def test_a_machine_that_sleeps_every_night_is_never_lost():
    presence, now = a_presence(), 0.0
    for _ in range(100):
        now = absent_for(presence, A, 16 * HOUR, now)
        now = pass_time(presence, 8 * HOUR, now)
    assert Standing.LOST not in {standing for _, standing in presence.turned()}


def test_who_was_away_for_long_before_may_be_as_long_again_but_not_without_end():
    presence = a_presence()
    now = absent_for(presence, A, 3 * DAY, 0.0)
    assert presence.grace_s(A) == 3 * DAY
    now = absent_for(presence, A, 2.9 * DAY, now)
    assert [one.standing for one in presence.turned()].count(Standing.LOST) == 1
    absent_for(presence, A, 60 * DAY, now)
    assert presence.grace_s(A) == limits.GRACE_SECONDS_MAX
    assert presence.grace_s(B) == limits.GRACE_SECONDS_MIN


def test_old_habits_are_forgotten_and_short_absences_are_none():
    presence = a_presence()
    now = absent_for(presence, A, 3 * DAY, 0.0)
    for _ in range(limits.ABSENCES_KEPT + 5):
        now = absent_for(presence, A, limits.ABSENCE_SECONDS_MIN - 1, now)
    assert presence.grace_s(A) == 3 * DAY
    for _ in range(limits.ABSENCES_KEPT):
        now = absent_for(presence, A, limits.ABSENCE_SECONDS_MIN, now)
    assert presence.grace_s(A) == limits.GRACE_SECONDS_MIN


def test_the_owner_may_ask_for_more_patience_but_not_for_less():
    assert a_presence(grace_s=10 * DAY).grace_s(A) == 10 * DAY
    assert a_presence(grace_s=HOUR).grace_s(A) == limits.GRACE_SECONDS_MIN


def test_only_the_time_counts_in_which_it_would_have_been_seen():
    presence = a_presence()
    presence.gone(A, 0.0)
    now = pass_time(presence, HOUR)
    presence.watches(now, does=False)
    now = pass_time(presence, 10 * DAY, now)
    assert presence.absent_s(A) == HOUR
    presence.watches(now, does=True)
    pass_time(presence, HOUR, now)
    assert presence.absent_s(A) == 2 * HOUR


def test_time_in_which_we_stood_still_ourselves_does_not_count():
    presence = a_presence()
    presence.gone(A, 0.0)
    presence.advance(30 * DAY)
    presence.advance(30 * DAY - 5)
    presence.advance(30 * DAY - 5 + limits.ABSENCE_STEP_SECONDS_MAX)
    assert presence.absent_s(A) == limits.ABSENCE_STEP_SECONDS_MAX
    assert presence.standing(A) == Standing.AWAY


def test_an_absence_goes_on_after_a_restart_without_the_time_between():
    presence = a_presence()
    presence.saw(A, NOW_MS)
    presence.gone(A, 0.0)
    pass_time(presence, 20 * HOUR)
    data = presence.dump()
    again = a_presence(now=1_000_000.0)
    again.load_untrusted(data)
    assert again.standing(A) == Standing.AWAY
    assert again.last_seen_ms(A) == NOW_MS
    assert again.turned() == []
    again.gone(A, 1_000_020.0)
    now = pass_time(again, 4 * HOUR, 1_000_020.0)
    assert again.standing(A) == Standing.AWAY
    now = pass_time(again, STEP, now)
    assert again.turned() == [Turned(A, Standing.LOST)]
    again.back(A, now)
    assert again.grace_s(A) == 24 * HOUR + STEP


def test_who_was_away_when_we_ended_and_is_there_when_we_start_was_not_away_longer():
    presence = a_presence()
    presence.gone(A, 0.0)
    pass_time(presence, 2 * HOUR)
    again = a_presence()
    again.load_untrusted(presence.dump())
    again.back(A, 5.0)
    assert again.standing(A) == Standing.PRESENT
    assert again.turned() == [Turned(A, Standing.PRESENT)]
    assert list(again._lives[A].absences) == [2 * HOUR]


def test_who_is_no_member_is_lost_and_forgotten():
    presence = a_presence()
    absent_for(presence, B, 3 * DAY, 0.0)
    presence.turned()
    presence.gone(B, 3 * DAY)
    presence.members_are([A])
    assert presence.standing(B) == presence.standing(C) == Standing.LOST
    assert presence.turned()[-2:] == [Turned(B, Standing.LOST), Turned(C, Standing.LOST)]
    assert not presence.is_counting
    assert presence.last_seen_ms(B) is None
    presence.saw(B, 1)
    presence.gone(B, 3 * DAY)
    presence.back(B, 3 * DAY)
    presence.members_are([A, B])
    assert presence.standing(B) == Standing.PRESENT
    assert presence.grace_s(B) == limits.GRACE_SECONDS_MIN


def test_the_file_has_one_form():
    presence = a_presence()
    presence.saw(B, NOW_MS)
    absent_for(presence, B, 700, 0.0)
    presence.gone(A, 700.0)
    pass_time(presence, 30.4, 700.0)
    data = presence.dump()
    assert codec.decode_untrusted(data) == (1, ((A, 0, 30, ()), (B, NOW_MS, 0, (700,))))
    again = a_presence()
    again.load_untrusted(data)
    assert again.dump() == data


def test_what_the_file_says_of_strangers_is_passed_over():
    presence = a_presence(A)
    presence.load_untrusted(codec.encode([1, [(C, 1, 1, ())]]))
    assert presence.dump() == codec.encode([1, []])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ([2, []], NewerFormat),
        ([0, []], FormatError),
        ([1], FormatError),
        ([1, b""], FormatError),
        ([1, [A]], FormatError),
        ([1, [(A, 1, 1)]], FormatError),
        ([1, [(A[1:], 1, 1, ())]], FormatError),
        ([1, [(A, -1, 1, ())]], FormatError),
        ([1, [(A, 1, 2**32, ())]], FormatError),
        ([1, [(A, 1, 1, (None,))]], FormatError),
        ([1, [(A, 1, 1, (1,) * (limits.ABSENCES_KEPT + 1))]], LimitExceeded),
        ([1, [()] * (limits.PRESENCE_ROWS_MAX + 1)], LimitExceeded),
    ],
)
def test_a_file_that_is_none_is_refused_whole(row, error):
    presence = a_presence()
    with pytest.raises(error):
        presence.load_untrusted(codec.encode(row))
    assert presence.dump() == codec.encode([1, []])


ROWS = st.tuples(
    st.sampled_from([A, B, C]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**32 - 1), max_size=limits.ABSENCES_KEPT).map(tuple),
)


@given(st.lists(ROWS, unique_by=lambda row: row[0]))
def test_whatever_a_file_held_is_written_again(rows):
    presence = a_presence()
    presence.load_untrusted(codec.encode([1, rows]))
    kept = sorted(row for row in rows if any(row[1:]))
    assert codec.decode_untrusted(presence.dump()) == (1, tuple(kept))
    for node in (A, B, C):
        assert limits.GRACE_SECONDS_MIN <= presence.grace_s(node) <= limits.GRACE_SECONDS_MAX


@given(st.binary(max_size=200) | st.lists(st.tuples(st.integers(), st.binary())).map(repr))
def test_other_bytes_are_a_format_error(data):
    with pytest.raises(FormatError):
        a_presence().load_untrusted(data if isinstance(data, bytes) else data.encode())


def test_the_largest_file_there_may_be_can_be_read(monkeypatch):
    most = (2**32 - 1,) * limits.ABSENCES_KEPT
    row = (A, 2**63 - 1, 2**32 - 1, most)
    one = len(codec.encode([row])) - 1
    assert one * limits.PRESENCE_ROWS_MAX + 10 <= limits.PRESENCE_FILE_BYTES_MAX


def test_the_owner_may_be_more_patient_at_any_time_but_never_less_than_a_day():
    presence = a_presence()
    presence.watches(0, does=True)
    presence.gone(A, 0)
    now = 0
    while now < 2 * DAY:
        now += 60
        presence.advance(now)
    assert presence.standing(A) == Standing.LOST
    presence.turned()
    presence.allow(3 * DAY)
    assert presence.turned() == [Turned(A, Standing.AWAY)]
    assert presence.grace_s(A) == 3 * DAY
    presence.allow(60)
    assert presence.turned() == [Turned(A, Standing.LOST)]
    assert presence.grace_s(A) == DAY
