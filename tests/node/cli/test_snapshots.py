import re

import pytest

from portal.forget import forget
from tests.support.program import Machine, one_line

NOW_S = 1_900_000_000


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def three(machine, tmp_path):
    """Ids of three snapshots: docs of desk, docs and more of desk, docs of lap."""
    docs, more = tmp_path / "docs", tmp_path / "more"
    for number, folder in enumerate((docs, more)):
        folder.mkdir()
        (folder / "a").write_bytes(b"x" * (1000 + number))
    made = [
        machine.back_up(docs, "--host", "desk", "--tag", "one"),
        machine.back_up(docs, more, "--host", "desk", "--tag", "one", "--tag", "two"),
        machine.back_up(docs, "--host", "lap"),
    ]
    return [summary["snapshot"] for summary in made]


def ids(machine, *argv):
    return [row["id"] for row in machine.snapshots(*argv)]


def test_a_vault_without_snapshots_says_what_to_do(machine):
    one_line(machine.here("snapshots", code=10), "there is no vault", "portal init")
    machine.here("init")
    empty = machine.here("snapshots")
    assert (empty.stdout, empty.stderr) == ("", "no snapshots yet: portal backup DIR\n")
    assert machine.snapshots() == []


def test_the_table(machine, three, tmp_path):
    shown = machine.here("snapshots")
    head, *rows = shown.stdout.splitlines()
    assert head.split() == ["id", "time", "host", "tags", "size", "files", "paths"]
    assert [row.split()[0] for row in rows] == [one[:8] for one in three]
    for row in rows:
        assert re.match(r"[0-9a-f]{8}  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", row)
    assert rows[1].split()[3:] == [
        *("desk", "one,two", "2.0", "KiB", "2"),
        *(str(tmp_path / "docs"), str(tmp_path / "more")),
    ]
    assert len({row.index(str(tmp_path)) for row in rows}) == 1  # they stand in columns
    assert shown.stderr == "3 snapshots\n"
    assert machine.here("snapshots", "--latest", "1").stderr == "1 snapshot\n"


def test_json(machine, three, tmp_path):
    row = machine.snapshots()[1]
    assert row["id"] == three[1]
    assert row["parent"] == three[0]
    assert (row["files"], row["content_bytes"], row["errors"]) == (2, 2001, 0)
    assert (row["host"], row["tags"], row["pinned"]) == ("desk", ["one", "two"], False)
    assert row["paths"] == [str(tmp_path / "docs"), str(tmp_path / "more")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", row["time"])
    assert row["forgotten_s"] is None


def test_filters(machine, three, tmp_path):
    first, second, third = three
    assert ids(machine, "--host", "desk") == [first, second]
    assert ids(machine, "--host", "desk", "--host", "lap") == three
    assert ids(machine, "--tag", "one") == [first, second]
    assert ids(machine, "--tag", "one", "--tag", "two") == [second]
    assert ids(machine, "--path", tmp_path / "more") == [second]
    assert ids(machine, "--latest", 2) == [second, third]
    assert ids(machine, "--host", "nobody") == []
    assert machine.here("snapshots", "--host", "nobody").stderr == "no snapshots\n"
    one_line(machine.here("snapshots", "--latest", "0", code=2), "--latest")


def test_forgotten_ones_are_shown_on_request(machine, three):
    vault = machine.vault()
    forget(vault, [bytes.fromhex(three[0])], NOW_S)
    assert ids(machine) == three[1:]
    assert ids(machine, "--all") == three
    assert machine.snapshots("--all")[0]["forgotten_s"] == NOW_S
    lines = machine.here("snapshots", "--all").stdout.splitlines()
    assert [line.endswith("  (forgotten)") for line in lines[1:]] == [True, False, False]


def test_what_is_in_a_name_does_not_reach_the_terminal(machine, tmp_path):
    odd = tmp_path / "evil\x1b[2J\nname"
    odd.mkdir()
    machine.back_up(odd)
    shown = machine.here("snapshots").stdout
    assert "\x1b" not in shown
    assert shown.count("\n") == 2
    assert machine.snapshots()[0]["paths"] == [str(odd)]


# --- tags and pins --------------------------------------------------------------------------------


def tags(machine):
    return [row["tags"] for row in machine.snapshots()]


def test_tags_are_added_removed_and_set(machine, three):
    done = machine.here("tag", three[0][:6], "latest", "--add", "new")
    assert (done.stdout, done.stderr) == ("", "2 snapshots changed\n")
    assert tags(machine) == [["one", "new"], ["one", "two"], ["new"]]
    machine.here("tag", "latest~1", "--remove", "one", "--add", "kept")
    assert tags(machine)[1] == ["two", "kept"]
    machine.here("tag", "latest", "--set", "a", "--set", "b c")
    assert tags(machine)[2] == ["a", "b c"]
    assert ids(machine) == three  # a snapshot keeps its name, whatever is said of it


def test_pins(machine, three):
    machine.here("pin", three[0][:8])
    machine.here("tag", "latest", "--pin")
    assert [row["pinned"] for row in machine.snapshots()] == [True, False, True]
    assert "one,pinned" in machine.here("snapshots").stdout
    machine.here("pin", "--off", three[0][:8])
    machine.here("tag", "latest", "--unpin")
    assert not any(row["pinned"] for row in machine.snapshots())
    assert tags(machine)[0] == ["one"]


def test_wrong_tags_change_nothing(machine, three):
    before = machine.snapshots()
    wrong = [
        (["tag", "latest"], 2, "nothing to change"),
        (["tag", "latest", "--set", "a", "--add", "b"], 2, "--set says all of it"),
        (["tag", "latest", "--add", "a,b"], 2, "without commas"),
        (["tag", "latest", "--add", " "], 2, "without commas"),
        (["tag", "latest", "0123", "--add", "a"], 1, "no snapshot is called"),
        (["tag", "--add", "a"], 2, "SNAPSHOT"),
        (["pin", "nope"], 1, "names no snapshot"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here(*argv, code=code), words)
    assert machine.snapshots() == before
