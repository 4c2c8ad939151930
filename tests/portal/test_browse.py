from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest

from core import limits
from core.errors import FormatError, IntegrityError, UsageError
from core.pieces import Kind
from core.tree.matching import matching
from portal.browse import Filter, Scope, Selection, children, lookup, select_snapshot, walk
from portal.errors import NoSnapshot
from portal.manifest import Content, Form, encode_part
from tests.support.snapshots import a_shelf, by_hand, damage_chunks_of, directory_row, file_row
from tests.support.trees import Reports
from tests.support.vaults import a_vault, paths_of

HOUR_NS = 3_600 * 10**9
START = datetime(2026, 8, 1, 10, 0, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
TREE = {
    b"home": {b"ann": {b"docs": {b"a.txt": b"aa", b"b": {b"c.txt": b"ccc"}}, b"x": b"x"}},
    b"home.txt": b"h",
}


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def several(vault):
    return [
        by_hand(vault, TREE, time_ns=START_NS),
        by_hand(vault, TREE, time_ns=START_NS + HOUR_NS, host="other", tags=("work", "big")),
        by_hand(vault, TREE, time_ns=START_NS + 2 * HOUR_NS, paths=(b"/home", b"/etc")),
    ]


def chosen(vault, text, only=None, zone=UTC):
    snapshot, path = select_snapshot(vault.head(), text, zone, only or Filter())
    return snapshot.id, path


def test_a_snapshot_is_called_by_its_id_or_by_its_age(vault):
    one, two, three = several(vault)
    assert chosen(vault, one.id.hex()) == (one.id, b"")
    assert chosen(vault, two.id.hex()[:12].upper() + ":/home/ann/") == (two.id, b"home/ann")
    assert chosen(vault, "latest") == (three.id, b"")
    assert chosen(vault, "latest~2:home") == (one.id, b"home")
    with pytest.raises(NoSnapshot, match="there are only 3"):
        chosen(vault, "latest~3")


def test_a_date_means_the_newest_then_or_before(vault):
    one, two, three = several(vault)
    assert chosen(vault, "@2026-08-01T11:00") == (two.id, b"")
    assert chosen(vault, "@2026-08-01T10:59:59:home") == (one.id, b"home")
    assert chosen(vault, "@2026-08-01") == (three.id, b"")  # to the end of that day
    assert chosen(vault, "@2027-01-01:a:b") == (three.id, b"a:b")
    east = timezone(timedelta(hours=2))
    assert chosen(vault, "@2026-08-01T13:00", zone=east) == (two.id, b"")
    with pytest.raises(NoSnapshot, match="as old as"):
        chosen(vault, "@2026-07-31")
    for bad in ["@2026-13-01", "@yesterday", "@2026-08-01T1", "@2026-08-01x"]:
        with pytest.raises(UsageError):
            chosen(vault, bad)


def test_filters_say_which_ones_latest_speaks_of(vault):
    one, two, three = several(vault)
    assert chosen(vault, "latest", Filter(hosts=("other",))) == (two.id, b"")
    assert chosen(vault, "latest", Filter(tags=("big", "work"))) == (two.id, b"")
    assert chosen(vault, "latest", Filter(paths=(b"/home",))) == (three.id, b"")
    assert chosen(vault, "latest~1", Filter(hosts=("host",))) == (one.id, b"")
    with pytest.raises(NoSnapshot, match="no such snapshot"):
        chosen(vault, "latest", Filter(tags=("big", "small")))


def test_what_names_nothing_or_too_much_is_refused_with_what_to_do(vault):
    with pytest.raises(NoSnapshot, match=r"no snapshot yet.*portal backup"):
        chosen(vault, "latest")
    made = [by_hand(vault, TREE, time_ns=START_NS + n) for n in range(3)]
    for bad in ["abc", "", "nonsense", "latest~x", "12345678"]:
        with pytest.raises(NoSnapshot):
            chosen(vault, bad)
    with pytest.raises(FormatError):
        chosen(vault, "latest:../etc")
    forged = made[0].id[:2] + made[1].id[2:]
    head = vault.head()
    other = type(made[0])(forged, made[1].record)
    both = head.with_snapshots([made[0], other])
    with pytest.raises(NoSnapshot, match="2 snapshots begin with") as caught:
        select_snapshot(both, forged.hex()[:4], UTC)
    assert made[0].id.hex()[:8] in str(caught.value)
    assert forged.hex()[:8] in str(caught.value)
    gone = head.with_snapshots([type(s)(s.id, s.record, forgotten_s=5) for s in head.snapshots])
    with pytest.raises(NoSnapshot, match=r"forgotten.*portal undelete"):
        select_snapshot(gone, made[0].id.hex(), UTC)


def test_a_walk_goes_depth_first_in_the_order_of_names(vault):
    snapshot = by_hand(vault, TREE)
    with vault.reader() as reader:
        assert paths_of(walk(reader, snapshot)) == [
            b"home",
            b"home/ann",
            b"home/ann/docs",
            b"home/ann/docs/a.txt",
            b"home/ann/docs/b",
            b"home/ann/docs/b/c.txt",
            b"home/ann/x",
            b"home.txt",
        ]
        assert paths_of(walk(reader, snapshot, under=b"home/ann/docs/b")) == [
            b"home/ann/docs/b/c.txt"
        ]
        assert paths_of(walk(reader, snapshot, under=b"home.txt")) == [b"home.txt"]


def test_directories_in_which_nothing_can_match_are_not_opened(vault, monkeypatch):
    snapshot = by_hand(vault, TREE)
    opened = []
    with vault.reader() as reader:
        real = reader.part_tags_untrusted
        monkeypatch.setattr(reader, "part_tags_untrusted", lambda c: (opened.append(c), real(c))[1])
        select = Selection([b"/home/ann/docs/a.txt"])
        assert paths_of(walk(reader, snapshot, select=select)) == [b"home/ann/docs/a.txt"]
        assert len(opened) == 4  # not docs/b
        opened.clear()
        select = Selection(exclude=[b"home/ann"])
        assert paths_of(walk(reader, snapshot, select=select)) == [b"home", b"home.txt"]
        assert len(opened) == 2


def test_a_selection_means_what_archives_mean_and_never_cuts_off_what_it_takes():
    rng = Random(5)
    names = [b"a", b"b", b"ab", b"a.b", b"[x]"]
    pieces = [*names, b"*", b"?", b"a*", b"*b", b"[ab]", b"**"]
    for _ in range(3_000):
        patterns = [
            b"/".join(rng.choice(pieces) for _ in range(rng.randint(1, 3)))
            for _ in range(rng.randint(1, 2))
        ]
        path = b"/".join(rng.choice(names) for _ in range(rng.randint(1, 4)))
        include, exclude = patterns[:1], patterns[1:]
        select = Selection(include, exclude)
        wanted = matching(tuple(include))(path)
        wanted = wanted and not (exclude and matching(tuple(exclude))(path))
        assert select.takes(path) == wanted
        if wanted:
            above = path
            while above := above.rpartition(b"/")[0]:
                assert select.may_hold(above), (patterns, path)
            below = Selection([b"top/" + p for p in include], [b"top/" + p for p in exclude])
            assert below.below(b"top").takes(path)


def test_a_name_is_looked_up_directory_by_directory(vault):
    snapshot = by_hand(vault, TREE)
    with vault.reader() as reader:
        assert lookup(reader, snapshot, b"").entry.is_directory
        assert lookup(reader, snapshot, b"home/ann/x").entry.size == 1
        with pytest.raises(NoSnapshot, match=r"/home/ann has nothing.*portal ls \w+:/home/ann"):
            lookup(reader, snapshot, b"home/ann/nothing/here")
        with pytest.raises(NoSnapshot, match="/home/ann/x is no directory"):
            lookup(reader, snapshot, b"home/ann/x/y")
        with pytest.raises(FormatError):
            lookup(reader, snapshot, b"home/../etc")


def test_a_damaged_directory_takes_away_what_is_below_it_and_nothing_else(vault):
    with a_shelf(vault) as shelf:
        bad = shelf.put(Kind.DIRECTORY, b"this is no directory")
        good = shelf.tree({b"in": b"1"})
        part = good.data
        rows = [
            directory_row(b"bad", Content(Form.PARTS, bad)),
            directory_row(b"food", good),
            directory_row(b"gone", Content(Form.PARTS, bytes(32))),
            directory_row(b"half", Content(Form.PARTS, bytes(32) + part)),
            directory_row(b"twice", Content(Form.PARTS, part + part)),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    reports = Reports()
    with vault.reader() as reader:
        found = paths_of(walk(reader, snapshot, report=reports))
        assert found == [
            b"bad", b"food", b"food/in", b"gone", b"half", b"half/in", b"twice", b"twice/in",
        ]  # fmt: skip
        assert [path for path, _ in reports.all] == [b"bad", b"gone", b"half", b"twice"]
        assert "not in order" in reports.lines[3]
        with pytest.raises((FormatError, IntegrityError)):
            list(walk(reader, snapshot))


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0", b"n" * 1_021])
def test_a_name_that_leads_elsewhere_is_no_name(vault, name):
    with a_shelf(vault) as shelf:
        rows = sorted([shelf.file(b"ok", b"1"), (name, *shelf.file(b"x", b"2")[1:])])
        snapshot = shelf.commit(shelf.directory(rows))
    reports = Reports()
    with vault.reader() as reader:
        assert paths_of(walk(reader, snapshot, report=reports)) in ([b"ok"], [])
    assert len(reports.all) == 1


@pytest.mark.slow
def test_depth_has_an_end(vault):
    with a_shelf(vault) as shelf:
        content = shelf.tree({b"f": b"1"})
        for _ in range(limits.PATH_DEPTH_MAX):
            content = shelf.directory([directory_row(b"d", content)])
        snapshot = shelf.commit(content)
    reports = Reports()
    with vault.reader() as reader:
        assert len(paths_of(walk(reader, snapshot, report=reports))) == limits.PATH_DEPTH_MAX
    assert "names" in reports.lines[0]


def test_a_long_directory_is_read_piece_by_piece(vault):
    with a_shelf(vault) as shelf:
        empty = Content(Form.NOTHING, b"")
        one, second = (
            shelf.put(Kind.DIRECTORY, encode_part([file_row(b"%d" % n, empty, 0)]))
            for n in range(2)
        )
        content = Content(Form.PARTS, one + second)
        shelf.commit(shelf.directory([directory_row(b"d", content)]))
    damage_chunks_of(vault, Kind.DIRECTORY, second)
    with vault.reader() as reader:
        nodes = children(reader, content, b"d")
        assert next(nodes).entry.path == b"d/0"  # the damage behind it was not met yet


def test_the_scope_of_a_snapshot_is_its_sources_and_what_is_below(vault):
    snapshot = by_hand(vault, {}, paths=(b"/home/ann", b"/etc"))
    scope = Scope(snapshot.record)
    assert [scope.covers(p) for p in (b"", b"home", b"home/ann", b"home/anna", b"etc/x")] == [
        False, False, True, False, True,
    ]  # fmt: skip
    assert Scope(snapshot.record, under=b"home").covers(b"ann/x")
    assert not Scope(snapshot.record, under=b"home").covers(b"")
    assert Scope(by_hand(vault, {}).record).covers(b"")
