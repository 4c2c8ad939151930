import json
import os

import pytest

from core.pieces import Kind
from portal.browse import lookup
from tests.support.home import Terminal
from tests.support.keeping import flip
from tests.support.program import Machine, messages, one_line
from tests.support.snapshots import damage_chunks_of
from tests.support.vaults import fixed


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "my docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(fixed("large", 700_000))
    (folder / "sub" / "other").write_bytes(fixed("other", 600_000))
    return folder


@pytest.fixture
def saved(machine, docs):
    """The id of a snapshot of all that."""
    return machine.back_up(docs)["snapshot"]


def pack_of(machine, path):
    """The file that holds the content of a file, or of its first cut."""
    vault = machine.vault()
    with vault.reader() as reader:
        node = lookup(reader, vault.head().live[-1], os.fsencode(path)[1:])
        data = node.content.data
        small = len(data) == 32
        tag = data if small else data[8:40]
        place = reader.place_untrusted(Kind.SMALL_FILE if small else Kind.CUT, tag)
    return vault.store.path / "packs" / place.pack.hex()


def damage_large(machine, docs):
    """Flip a bit in the content of the large file."""
    vault = machine.vault()
    with vault.reader() as reader:
        node = lookup(reader, vault.head().live[-1], bytes(docs / "large")[1:])
    damage_chunks_of(vault, Kind.CUT, node.content.data[8:40])


def checked(machine, *argv, code=0):
    """Findings, files and the summary."""
    lines = messages(machine.here("check", "--json", *argv, code=code).stdout)
    assert lines[-1]["message_type"] == "summary"
    assert lines[-1]["exit_code"] == code
    lost = [line["path"] for line in lines if line["message_type"] == "affected"]
    return [line for line in lines if line["message_type"] == "finding"], lost, lines[-1]


def names(machine, name="latest"):
    """The files in a snapshot."""
    lines = messages(machine.here("ls", "-R", "--json", name).stdout)
    return {line["path"].rpartition("/")[2] for line in lines if line["type"] == "file"}


# --- check ----------------------------------------------------------------------------------------


def test_check_of_what_is_whole(machine, docs, saved):
    done = machine.here("check")
    assert done.stdout == ""
    assert done.stderr.startswith("1 snapshot, ")
    assert done.stderr.endswith("\neverything is there\n")
    assert " of them read" not in done.stderr
    assert machine.here("check", "-q", "--data", "all", "--threads", "1").output == ""
    _, _, quick = checked(machine)
    _, _, full = checked(machine, "--data", "all")
    assert (quick["packs_read"], quick["bytes_read"]) == (0, 0)
    assert full["packs_read"] == full["packs"] == quick["packs"]
    assert full["bytes_read"] == full["pack_bytes"]
    assert " of them read" in machine.here("check", "--data", "all").stderr


def test_how_much_is_read(machine, docs, saved):
    for number in range(4):
        (docs / "small").write_bytes(fixed(f"{number}", 300_000))
        machine.here("backup", docs)
    packs = checked(machine)[2]["packs"]
    assert packs >= 4
    assert checked(machine, "--data", "50%")[2]["packs_read"] == -(-packs // 2)
    assert checked(machine, "--data", "0.1%")[2]["packs_read"] == 1
    parts = [checked(machine, "--data", f"{part}/3")[2]["packs_read"] for part in (1, 2, 3)]
    assert sum(parts) == packs
    for data in ("many", "101%", "0/3", "4/3", "5", "-1%", "1/0"):
        one_line(machine.here("check", "--data", data, code=2), "how much is to be read?")


def test_a_pack_that_is_gone(machine, docs, saved):
    pack = pack_of(machine, docs / "large")
    (docs / "sub" / "later").write_bytes(b"later")
    second = machine.back_up(docs)["snapshot"]  # its directories are in another pack
    pack.unlink()
    findings, lost, summary = checked(machine, code=6)
    assert {finding["grade"] for finding in findings} == {"note", "lost"}
    assert f"{docs}/large"[1:] in lost
    assert f"{docs}/sub/later"[1:] not in lost
    assert summary["affected"] == len(lost)
    done = machine.here("check", code=6)
    assert done.stdout == ""
    assert f"lost      {second[:8]}:{docs}/large\n" in done.stderr
    assert f"note      {pack}: a pack is gone\n" in done.stderr
    assert done.stderr.endswith("something is lost: portal repair keeps the rest\n")


def test_a_flipped_bit_is_found_by_reading(machine, docs, saved):
    damage_large(machine, docs)
    assert checked(machine)[0] == []
    findings, lost, _ = checked(machine, "--data", "all", code=6)
    assert lost == [f"{docs}/large"[1:]]
    assert any(pack_of(machine, docs / "large").name in finding["where"] for finding in findings)
    quiet = machine.here("check", "-q", "--data", "all", code=6)
    assert f"{docs}/large" in quiet.stderr


# --- repair ---------------------------------------------------------------------------------------


def test_a_damaged_delta_is_mended(machine, docs, saved):
    delta = min((machine.home / "vault" / "index").iterdir())
    flip(delta, 60)
    findings, lost, _ = checked(machine, code=5)
    assert ([finding["grade"] for finding in findings], lost) == (["mendable"], [])
    assert findings[0]["where"] == str(delta)
    assert machine.here("check", code=5).stderr.endswith("nothing is lost: portal repair\n")
    done = machine.here("repair")
    assert done.stdout == ""
    assert "1 damaged file set aside, in the vault's damaged/\n" in done.stderr
    assert done.stderr.endswith("now everything is there that snapshots need\n")
    assert checked(machine, "--data", "all")[2]["set_aside"] == 1
    again = machine.here("repair")
    assert again.stderr.endswith("everything is there\n")


def test_what_is_lost_comes_back_with_the_next_backup(machine, docs, saved):
    damage_large(machine, docs)
    done = messages(machine.here("repair", "--json", code=6).stdout)
    assert (done[-1]["message_type"], done[-1]["exit_code"]) == ("repaired", 6)
    assert (done[-1]["lost"], len(done[-1]["set_aside"])) == (1, 1)
    told = machine.here("repair", "--data", "1/1", "--threads", "1", code=6).stderr
    assert "1 piece lost; a backup stores those again" in told
    assert "--leave-out" in told.splitlines()[-1]
    machine.here("backup", docs)
    checked(machine, "--data", "all")
    machine.here("restore", f"{saved}:{docs}", "-t", docs.parent / "out", "--verify")


def test_snapshots_without_what_is_lost(machine, docs, saved):
    damage_large(machine, docs)
    refused = machine.here("repair", "--leave-out", code=2)
    assert "portal: --leave-out forgets snapshots (--yes does it without asking)" in refused.stderr
    assert [row["id"] for row in machine.snapshots()] == [saved]
    done = machine.here("repair", "--leave-out", "--yes")
    assert "1 snapshot made anew without what is lost\n" in done.stderr
    (row,) = machine.snapshots()
    assert row["id"] != saved
    assert row["errors"] == 1
    assert names(machine) == {"small", "other"}
    checked(machine, "--data", "all")


def test_a_pinned_snapshot_stays_and_so_does_its_damage(machine, docs, saved):
    machine.here("pin", saved)
    damage_large(machine, docs)
    done = machine.here("repair", "--leave-out", "--yes", code=6)
    assert done.stderr.splitlines()[-1].startswith("what is lost stays lost")
    assert saved in [row["id"] for row in machine.snapshots()]


@pytest.mark.slow
def test_leaving_out_asks_on_a_terminal(machine, docs, saved):
    damage_large(machine, docs)
    terminal = Terminal("node.cli.portal.portal", machine.home, "repair", "--leave-out")
    terminal.answer("[y/N]:", "n")
    assert terminal.close() == 130
    assert [row["id"] for row in machine.snapshots()] == [saved]


# --- stats ----------------------------------------------------------------------------------------


def test_stats_add_up(machine, docs, saved):
    (docs / "large").unlink()
    second = machine.back_up(docs)["snapshot"]
    found = json.loads(machine.here("stats", "--json").stdout)
    assert (found["v"], found["message_type"]) == (1, "stats")
    assert [one["id"] for one in found["snapshots"]] == [saved, second]
    assert [one["restore_bytes"] for one in found["snapshots"]] == [1_300_005, 600_005]
    assert found["restore_bytes"] == 1_900_010
    assert 700_000 < found["snapshots"][0]["unique_bytes"] < 710_000
    assert 1_300_005 < found["piece_bytes"] < 1_320_000
    packs = list((machine.home / "vault" / "packs").iterdir())
    assert found["pack_bytes"] == sum(pack.stat().st_size for pack in packs)
    assert found["live_bytes"] + found["unused_bytes"] <= found["pack_bytes"]
    assert [found[name] for name in ("forgotten", "missing", "trash_packs")] == [0, 0, 0]
    machine.here("forget", saved)
    machine.here("gc")
    after = json.loads(machine.here("stats", "--json").stdout)
    trashed = list((machine.home / "vault" / "trash").glob("*/*"))
    assert after["trash_bytes"] == sum(pack.stat().st_size for pack in trashed) > 0
    assert (after["forgotten"], after["restore_bytes"]) == (1, 600_005)


def test_stats_for_people(machine, docs, saved):
    machine.here("backup", docs, "--host", "desk")
    lines = machine.here("stats").stdout.splitlines()
    assert lines[0].startswith(f"{saved[:8]}     1.2 MiB, ")
    assert lines[2] == f"{'snapshots':<20}2"
    assert lines[3] == f"{'they hold':<20}2.5 MiB"
    one = machine.here("stats", "--host", "desk").stdout.splitlines()
    assert len(one) == len(lines) - 1
    assert one[1:] == lines[2:]
    machine.here("forget", saved)
    assert f"{'snapshots':<20}1, and 1 forgotten" in machine.here("stats").stdout
    pack_of(machine, docs / "large").unlink()
    assert "missing: portal check" in machine.here("stats").stderr


# --- copy -----------------------------------------------------------------------------------------


def copied(machine, *argv):
    (summary,) = messages(machine.here("copy", "--json", *argv).stdout)
    return summary


def test_copy(machine, docs, saved, tmp_path, monkeypatch):
    (docs / "small").write_bytes(b"new")
    second = machine.back_up(docs, "--tag", "late")["snapshot"]
    other = tmp_path / "other disk"
    one_line(machine.here("copy", "--to", other, code=10), "there is no vault")
    machine.here("init", "-r", other)
    first = copied(machine, saved[:8], "--to", other)
    assert (len(first["copied"]), first["known"]) == (1, [])
    assert first["piece_bytes"] > 1_300_000
    rest = copied(machine, "--to", other)
    assert (len(rest["copied"]), len(rest["known"])) == (1, 1)
    assert rest["piece_bytes"] < 10_000
    again = machine.here("copy", "--to", other)
    assert again.stderr == f"0 snapshots copied, 2 there already: 0 B, stored as 0 B, in {other}\n"
    assert machine.here("copy", "latest", "--tag", "late", "--to", other, "-q").output == ""
    rows = machine.snapshots("-r", other)
    assert [row["tags"] for row in rows] == [[], ["late"]]
    assert second not in [row["id"] for row in rows]  # it has no parent there
    machine.here("restore", f"latest:{docs}", "-t", tmp_path / "out", "--verify", "-r", other)
    assert (tmp_path / "out" / "large").read_bytes() == fixed("large", 700_000)
    monkeypatch.setenv("PORTAL_VAULT", str(other))
    machine.here("check", "--data", "all", "-q")


def test_copy_to_where_it_makes_no_sense(machine, docs, saved, tmp_path):
    same = machine.home / "vault"
    one_line(machine.here("copy", "--to", same, code=2), "the same vault")
    machine.here("init", "-r", tmp_path / "theirs", home=tmp_path / "somebody")
    told = one_line(machine.here("copy", "--to", tmp_path / "theirs", code=12))
    assert str(tmp_path / "theirs") in told
    assert "belongs to the device" in told
    one_line(machine.here("copy", code=2), "--to")
    machine.here("init", "-r", tmp_path / "mine")
    one_line(machine.here("copy", "0123", "--to", tmp_path / "mine", code=1), "no snapshot")
    part = f"latest:{docs}/sub"
    one_line(machine.here("copy", part, "--to", tmp_path / "mine", code=2), "taken whole")
    assert machine.snapshots("-r", tmp_path / "mine") == []


# --- rewrite --------------------------------------------------------------------------------------


def test_rewrite(machine, docs, saved):
    dry = machine.here("rewrite", "-e", "sub", "-e", "lar*", "-n")
    assert dry.stdout == ""
    assert dry.stderr.splitlines() == [
        f"{saved[:8]} would lose {docs}/large",
        f"{saved[:8]} would lose {docs}/sub/",
        f"{saved[:8]} would be made anew, 3 names left out",
    ]
    (line,) = messages(machine.here("rewrite", "-e", "sub", "-n", "--json").stdout)
    assert (line["old"], line["new"], line["dropped"]) == (saved, None, 2)
    assert [row["id"] for row in machine.snapshots()] == [saved]
    done = machine.here("rewrite", "-e", "sub", "-e", "lar*")
    files = {row["id"]: row["files"] for row in machine.snapshots()}
    assert files.pop(saved) == 3
    ((new, count),) = files.items()
    assert count == 1
    assert done.stderr == f"{saved[:8]} is now {new[:8]}, 3 names left out\n"
    assert names(machine, new) == {"small"}
    assert names(machine, saved) == {"small", "large", "other"}
    checked(machine, "--data", "all")


def test_rewrite_in_place_of_the_old_one(machine, docs, saved):
    (line,) = messages(machine.here("rewrite", "-e", "large", "--forget", "--json").stdout)
    assert (line["old"], line["changed"], line["dropped"]) == (saved, True, 1)
    assert [row["id"] for row in machine.snapshots()] == [line["new"]]
    again = machine.here("rewrite", "-e", "large", "--forget")
    assert again.stderr == f"{line['new'][:8]} stays as it is\n"
    machine.here("undelete", saved)
    machine.here("pin", saved)
    kept = machine.here("rewrite", saved, "-e", "small", "--forget")
    assert "is pinned, so it stays, too" in kept.stderr
    assert saved in [row["id"] for row in machine.snapshots()]


def test_a_source_and_what_leads_to_it_are_never_left_out(machine, docs, saved):
    for pattern in (docs.name, docs.parts[1], str(docs), f"{docs.parent}/"):
        assert machine.here("rewrite", saved, "-e", pattern).stderr.endswith(" stays as it is\n")
    (line,) = messages(machine.here("rewrite", saved, "-e", "*", "--json").stdout)
    assert line["dropped"] == 4
    assert machine.here("ls", f"{line['new']}:{docs}").output == ""


def test_another_host(machine, docs, saved):
    dry = machine.here("rewrite", "--new-host", "desk", "-n")
    assert dry.stderr == f"{saved[:8]} would be made anew, 0 names left out\n"
    machine.here("rewrite", "latest", "--new-host", "desk", "-q")
    hosts = {row["id"]: row["host"] for row in machine.snapshots()}
    assert len(hosts) == 2
    assert hosts.pop(saved) != "desk"
    assert list(hosts.values()) == ["desk"]
    stays = machine.here("rewrite", "--host", "desk", "--new-host", "desk", "-n")
    assert stays.stderr.endswith(" would stay as it is\n")


def test_a_rewrite_that_makes_no_sense(machine, docs, saved):
    wrong = [
        (["rewrite"], "nothing to change"),
        (["rewrite", "-e", "["], "never matches"),
        (["rewrite", f"latest:{docs}", "-e", "x"], "taken whole"),
    ]
    for argv, words in wrong:
        one_line(machine.here(*argv, code=2), words)
    assert [row["id"] for row in machine.snapshots()] == [saved]


# --- whose vault it is ----------------------------------------------------------------------------


def test_exit_codes_of_what_cannot_be_opened(machine, docs, tmp_path):
    every = [
        *(["check"], ["repair"], ["stats"], ["gc"], ["undelete"], ["forget", "--keep-last", "1"]),
        *(["copy", "--to", tmp_path / "x"], ["rewrite", "-e", "x"]),
    ]
    for argv in every:
        one_line(machine.here(*argv, code=10), "there is no vault")
    machine.here("init", "-r", tmp_path / "theirs", home=tmp_path / "somebody")
    machine.here("init")
    for argv in every:
        foreign = one_line(machine.here(*argv, "-r", tmp_path / "theirs", code=12))
        assert "belongs to the device" in foreign
    config = machine.home / "vault" / "config"
    data = bytearray(config.read_bytes())
    data[4] += 1
    config.write_bytes(data)
    for argv in every:
        one_line(machine.here(*argv, code=13), "version 2")
