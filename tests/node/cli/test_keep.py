import json
from datetime import UTC, datetime

import pytest

from core.pieces import Kind
from node.cli import secrets_input
from node.cli.keep import counted
from tests.support.home import Terminal
from tests.support.program import Machine, messages, one_line
from tests.support.vaults import fixed


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def three(machine, tmp_path):
    """Ids of three snapshots of the same directory, each with a file the next has not."""
    docs = tmp_path / "docs"
    docs.mkdir()
    found = []
    for number in range(3):
        (docs / f"f{number}").write_bytes(fixed(f"content {number}", 300_000))
        (docs / f"f{number - 1}").unlink(missing_ok=True)
        tag = ("--tag", "first") if not number else ()
        found.append(machine.back_up(docs, *tag)["snapshot"])
    return found


def live(machine):
    return [row["id"] for row in machine.snapshots()]


def verbs(text):
    """What is said of each snapshot: keep, forget or would forget, and why."""
    found = {}
    for line in text.splitlines():
        words = line[:12].strip()
        name, _, _, where, *why = line[13:].split()
        assert ":" in where
        found[name] = (words, " ".join(why))
    return found


def test_counted():
    assert [counted(n, "pack") for n in (0, 1, 2, 1000)] == [
        *("0 packs", "1 pack", "2 packs", "1,000 packs")
    ]


# --- forget ---------------------------------------------------------------------------------------


def test_rules_say_why_and_a_dry_run_only_says(machine, three):
    first, second, third = three
    dry = machine.here("forget", "--keep-last", "1", "--keep-tag", "first", "-n")
    assert verbs(dry.stdout) == {
        first[:8]: ("keep", "has the tag first"),
        second[:8]: ("would forget", ""),
        third[:8]: ("keep", "last"),
    }
    assert dry.stderr == "1 snapshot would be forgotten\n"
    assert live(machine) == three
    done = machine.here("forget", "--keep-last", "1", "--keep-tag", "first")
    assert verbs(done.stdout)[second[:8]] == ("forget", "")
    assert done.stderr.startswith("1 snapshot forgotten (portal gc ")
    assert "portal undelete" in done.stderr
    assert live(machine) == [first, third]
    again = machine.here("forget", "--keep-last", "1", "--keep-tag", "first")
    assert again.stderr == "every snapshot is kept\n"


@pytest.mark.parametrize("period", ["hourly", "daily", "weekly", "monthly", "yearly"])
def test_every_rule(machine, three, period):
    newest = three[2][:8]
    shown = verbs(machine.here("forget", "-n", f"--keep-{period}", "1").stdout)
    assert shown[newest] == ("keep", period)
    assert sum(verb == "keep" for verb, _ in shown.values()) == 1
    shown = verbs(machine.here("forget", "-n", f"--keep-within-{period}", "1y").stdout)
    assert shown[newest] == ("keep", f"{period} within 1y")
    shown = verbs(machine.here("forget", "-n", "--keep-within", "1d", "--quiet").stdout)
    assert shown == {}


def test_as_json(machine, three):
    rows = json.loads(machine.here("forget", "--keep-last", "2", "--json", "-n").stdout)
    assert {row["id"]: (row["keep"], row["why"]) for row in rows} == {
        three[0]: (False, []),
        three[1]: (True, ["last"]),
        three[2]: (True, ["last"]),
    }
    moment = datetime.fromisoformat(rows[0]["time"][:19]).replace(tzinfo=UTC)
    assert moment.isoformat()[:19] == rows[0]["time"][:19]
    (row,) = json.loads(machine.here("forget", three[0], "--json").stdout)
    assert (row["id"], row["keep"], row["why"]) == (three[0], False, [])
    assert live(machine) == three[1:]


def test_by_name(machine, three):
    done = machine.here("forget", three[0][:6], "latest")
    assert set(verbs(done.stdout)) == {three[0][:8], three[2][:8]}
    assert live(machine) == [three[1]]
    assert machine.here("forget", "latest", "-q").output == ""
    assert machine.here("forget", "--keep-last", "1").stderr == "no snapshots\n"


def test_names_obey_the_filters(machine, three, tmp_path):
    machine.back_up(tmp_path / "docs", "--host", "lap")
    machine.here("forget", "latest", "--tag", "first")
    assert three[0] not in live(machine)
    assert len(live(machine)) == 3
    shown = machine.here("forget", "--keep-last", "1", "--host", "lap", "-n")
    assert len(verbs(shown.stdout)) == 1


def test_what_makes_no_sense_forgets_nothing(machine, three, tmp_path):
    wrong = [
        (["forget"], 2, "nothing to forget by"),
        (["forget", "--keep-last", "0"], 2, "nothing to forget by"),
        (["forget", "latest", "--keep-last", "1"], 2, "not both"),
        (["forget", f"latest:{tmp_path}/docs"], 2, "a snapshot is taken whole"),
        (["forget", "latest", "0123"], 1, "no snapshot is called"),
        (["forget", "--keep-last", "x"], 2, "--keep-last"),
        (["forget", "--keep-within", "x"], 2, "is no duration"),
        (["forget", "--keep-tag", "nobody"], 2, "nothing would be left of all 3 snapshots"),
        (["forget", "--keep-last", "1", "--group-by", "size"], 2, "'size'"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here(*argv, code=code), words)
    assert live(machine) == three
    machine.here("forget", "--keep-tag", "nobody", "--allow-empty")
    assert live(machine) == []


def test_groups(machine, three, tmp_path):
    machine.back_up(tmp_path / "docs", "--host", "lap")
    by_host = verbs(machine.here("forget", "--keep-last", "1", "-n").stdout)
    assert sum(verb == "keep" for verb, _ in by_host.values()) == 2
    together = verbs(machine.here("forget", "--keep-last", "1", "--group-by", "", "-n").stdout)
    assert sum(verb == "keep" for verb, _ in together.values()) == 1
    by_tag = verbs(machine.here("forget", "--keep-last", "1", "--group-by", "tags", "-n").stdout)
    assert sum(verb == "keep" for verb, _ in by_tag.values()) == 2


def test_what_is_pinned_stays(machine, three):
    machine.here("pin", three[0])
    for argv in (["forget", three[0]], ["forget", "latest", three[0], "-n"]):
        one_line(machine.here(*argv, code=2), "is pinned", "portal tag --unpin")
    assert live(machine) == three
    shown = machine.here("forget", "--keep-last", "1")
    assert verbs(shown.stdout)[three[0][:8]] == ("keep", "pinned")
    assert live(machine) == [three[0], three[2]]


def test_rules_of_the_profile(machine, three):
    machine.configure(
        "[profile.default]\nkeep = { last = 2 }\n[profile.few]\nkeep = { last = 1 }\n"
    )
    shown = verbs(machine.here("forget", "-n").stdout)
    assert [shown[one[:8]][0] for one in three] == ["would forget", "keep", "keep"]
    machine.here("forget", "-P", "few")
    assert live(machine) == [three[2]]


# --- undelete -------------------------------------------------------------------------------------


def test_undelete(machine, three):
    nothing = machine.here("undelete")
    assert (nothing.stdout, nothing.stderr) == ("", "0 snapshots to be taken back\n")
    machine.here("forget", *three)
    listed = machine.here("undelete")
    assert [line[:8] for line in listed.stdout.splitlines()] == [one[:8] for one in three]
    assert listed.stderr == "3 snapshots forgotten, not yet purged\n"
    rows = json.loads(machine.here("undelete", "--json").stdout)
    assert [row["id"] for row in rows] == three
    assert all(row["forgotten_s"] for row in rows)
    back = machine.here("undelete", three[1][:6])
    assert (back.stdout[:8], back.stderr) == (three[1][:8], "1 snapshot back\n")
    assert live(machine) == [three[1]]
    assert machine.here("undelete", "--all").stderr == "2 snapshots back\n"
    assert live(machine) == three
    assert machine.here("undelete", "--all").stderr == "0 snapshots back\n"


def test_undelete_of_what_is_not_there(machine, three):
    machine.here("forget", three[0])
    wrong = [
        ([three[0], "--all"], 2, "not both"),
        (["012"], 1, "not enough of an id"),
        ([""], 1, "not enough of an id"),
        (["0123"], 1, "what portal gc purged is gone"),
        ([three[1]], 1, "was not forgotten"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here("undelete", *argv, code=code), words)
    assert live(machine) == three[1:]


# --- gc -------------------------------------------------------------------------------------------


def trash(machine):
    return len(list((machine.home / "vault" / "trash").glob("*/*")))


def collected(machine, *argv):
    (summary,) = messages(machine.here("gc", "--json", *argv).stdout)
    assert summary["message_type"] == "summary"
    return summary


def test_gc_looks_first_then_moves_to_the_trash(machine, three):
    assert machine.here("gc").stderr == "nothing to collect\n"
    machine.here("forget", three[0])
    before = machine.here("gc", "-n")
    assert "would go to the trash: 1.0 MiB" in before.stderr
    assert "will be free after 20" in before.stderr
    assert trash(machine) == 0
    plan = collected(machine, "-n")
    assert (plan["dry_run"], plan["purged_bytes"]) == (True, 0)
    done = collected(machine)
    assert done["trashed_bytes"] == plan["trashed_bytes"] > 0
    assert sum(one["bytes"] for one in done["later"]) == done["trashed_bytes"]
    assert (done["dropped"], trash(machine) > 0) == ([], True)
    machine.here("check", "--data", "all", "-q")
    assert machine.here("undelete", three[0]).stderr == "1 snapshot back\n"
    machine.here("cat", f"{three[0]}:{machine.snapshots()[0]['paths'][0]}/f0")
    assert machine.here("gc", "-q").output == ""


def test_gc_now_is_for_good(machine, three):
    machine.here("forget", three[0])
    machine.here("gc", "-q")
    one_line(machine.here("gc", "--now", code=2), "cannot be taken back", "--yes")
    dry = machine.here("gc", "--now", "-n")
    assert f"would be gone for good: {three[0][:8]}" in dry.stderr
    assert len(json.loads(machine.here("undelete", "--json").stdout)) == 1
    done = collected(machine, "--now", "--yes")
    assert done["dropped"] == [three[0]]
    assert done["purged_bytes"] > 0
    assert trash(machine) == 0
    gone = one_line(machine.here("undelete", three[0], code=1))
    assert f"no forgotten snapshot is called {three[0]}" in gone
    assert "gone" in gone
    assert live(machine) == three[1:]
    machine.here("check", "--data", "all", "-q")


def test_how_much_may_stay_unused(machine, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(20):
        (docs / f"f{number}").write_bytes(fixed(f"small {number}", 40_000))
    first = machine.back_up(docs)["snapshot"]
    (docs / "f0").unlink()
    machine.back_up(docs)
    machine.here("forget", first)
    kept = machine.here("gc", "--max-unused", "50", "-v", code=2)
    one_line(kept, "-v")
    kept = collected(machine, "--max-unused", "50")
    assert (kept["repacked_bytes"], kept["unused_bytes"] > 40_000) == (0, True)
    assert "unused, but not worth packing again: " in machine.here("gc", "--max-unused", 50).stderr
    assert collected(machine, "--max-unused", "0")["repacked_bytes"] > 0
    one_line(machine.here("gc", "--max-unused", "101", code=2), "--max-unused")


def test_gc_touches_nothing_in_doubt(machine, three, tmp_path):
    vault = machine.vault()
    with vault.reader() as reader:
        place = reader.place_untrusted(Kind.DIRECTORY, vault.head().live[2].record.root.data)
    path = vault.store.path / "packs" / place.pack.hex()
    hidden = path.rename(tmp_path / "hidden")
    machine.here("forget", three[0])
    packs = set(vault.store.pack_names())
    told = one_line(machine.here("gc", code=1), "nothing was touched", "portal check")
    assert "portal repair" in told
    assert set(vault.store.pack_names()) == packs
    hidden.rename(path)
    machine.here("gc", "-q")


def test_most_of_a_vault_goes_only_when_asked(machine, three):
    vault = machine.vault()
    vault.change(lambda head: head.with_snapshots(head.snapshots[2:]))
    one_line(machine.here("gc", code=1), "which no forgotten snapshot explains", "--allow-large")
    assert "would be refused: " in machine.here("gc", "-n").stderr
    assert trash(machine) == 0
    machine.here("gc", "--allow-large")
    assert trash(machine) > 0
    assert live(machine) == three[2:]


def test_where_nothing_would_go_nothing_is_asked(machine, three, monkeypatch):
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    assert machine.here("gc", "--now").stderr == "nothing to collect\n"
    machine.here("forget", three[0])
    asked = machine.here("gc", "--now", code=130)  # and nobody answers
    assert "purge this at once?" in asked.stderr


@pytest.mark.slow
def test_on_a_terminal_the_question_shows_what_would_go(machine, three):
    machine.here("forget", three[0])
    terminal = Terminal("node.cli.portal.portal", machine.home, "gc", "--now")
    terminal.answer("[y/N]:", "n")
    assert terminal.close() == 130
    assert f"gone for good: {three[0][:8]}" in terminal.screen
    assert trash(machine) == 0
    terminal = Terminal("node.cli.portal.portal", machine.home, "gc", "--now")
    terminal.answer("[y/N]:", "y")
    assert terminal.close() == 0
    assert json.loads(machine.here("undelete", "--json").stdout) == []
