import os

import pytest

from core.pieces import Kind
from node.cli import secrets_input
from tests.support.home import Terminal
from tests.support.privileges import unprivileged
from tests.support.program import Machine, messages, one_line
from tests.support.snapshots import damage_chunks_of

ODD = os.fsdecode(b"odd \xff:\nname")
THEN = (1_700_000_000, 1_700_000_000)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "my docs"
    fill(folder)
    return folder


def fill(folder):
    (folder / "sub dir").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"first\n")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 4000)
    (folder / "sub dir" / "c: d.txt").write_bytes(b"colon\n")
    (folder / ODD).write_bytes(b"odd\n")
    (folder / "link").symlink_to("a.txt")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, THEN, follow_symlinks=False)


@pytest.fixture
def saved(machine, docs):
    """The docs in a snapshot; then somebody worked on them."""
    machine.here("backup", docs)
    (docs / "a.txt").write_bytes(b"second!\n")
    (docs / "sub dir" / "c: d.txt").unlink()
    (docs / "new").write_bytes(b"n")


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


WHOLE = {
    "a.txt": b"first\n",
    "big.bin": bytes(range(256)) * 4000,
    "sub dir/c: d.txt": b"colon\n",
    ODD: b"odd\n",
}


def done_in(text):
    """What a run said about each name."""
    lines = (line.partition(" ") for line in text.splitlines())
    return {rest.strip().rpartition("/")[2]: word for word, _, rest in lines if "/" in rest}


# --- into a directory -----------------------------------------------------------------------------


def test_everything_into_a_new_directory(machine, docs, saved, tmp_path):
    out = tmp_path / "out"
    done = machine.here("restore", "--target", out, "--verify")
    assert done.stdout == ""
    restored, read, to = done.stderr.splitlines()
    assert restored.startswith("restored 4 files, 1000.0 KiB, in ")
    assert read == "read again and compared: 4 files"
    assert to == f"to {out}"
    inner = out / docs.relative_to("/")
    assert contents(inner) == WHOLE
    assert (inner / "link").readlink().name == "a.txt"
    assert (inner / "a.txt").stat().st_mtime == THEN[0]


def test_a_path_and_patterns_that_count_from_it(machine, docs, saved, tmp_path):
    def restored(name, *argv):
        machine.here("restore", name, "-t", tmp_path / "out", "--overwrite", "always", *argv)
        found = contents(tmp_path / "out")
        for path in found:
            (tmp_path / "out" / path).unlink()
        return set(found)

    assert restored(f"latest:{docs}") == set(WHOLE)
    assert restored(f"latest:{docs}/{ODD}") == {ODD}
    assert restored(f"latest:{docs}/sub dir") == {"c: d.txt"}
    assert restored(f"latest:{docs}", "a*") == {"a.txt"}
    assert restored(f"latest:{docs}", "sub dir", "-i", "big.*") == {"sub dir/c: d.txt", "big.bin"}
    assert restored(f"latest:{docs}", "*.txt", "-e", "a.txt") == {"sub dir/c: d.txt"}
    assert restored(f"latest:{docs}", f"{docs}/b*") == {"big.bin"}


def test_what_matches_nothing_is_a_mistake(machine, docs, saved, tmp_path):
    out = tmp_path / "out"
    wrong = [
        (["restore", f"latest:{docs}", "gone", "-t", out], 2, "nothing in the snapshot matches"),
        (["restore", "latest", "a.txt", "-t", out, "-n"], 2, "nothing in the snapshot matches"),
        (["restore", "latest:/gone", "-t", out], 1, "/gone is not in the snapshot"),
        (["restore", "0123", "-t", out], 1, "no snapshot is called"),
        (["restore", "latest", "--host", "x", "-t", out], 1, "no such snapshot"),
        (["restore"], 2, "where to?"),
        (["restore", "-t", out, "--in-place"], 2, "where to?"),
        (["restore", "-t", out, "--overwrite", "maybe"], 2, "--overwrite"),
        (["restore", "-t", out, "--owners", "yours"], 2, "--owners"),
        (["restore", "-t", out, "--delete"], 2, "--yes"),
        (["restore", "--in-place", "--delete", "--yes"], 2, "everywhere"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here(*argv, code=code), words)
    assert not out.exists()
    assert (docs / "new").exists()


def test_what_is_there_is_dealt_with_as_was_said(machine, docs, saved, tmp_path):
    out = tmp_path / "out"
    there = out / "a.txt"

    def restored(*argv, code=0, then=None):
        out.mkdir(exist_ok=True)
        there.write_bytes(b"third?\n")
        if then:
            os.utime(there, (then, then))
        machine.here("restore", f"latest:{docs}", "-t", out, *argv, code=code)
        return there.read_bytes()

    assert restored(code=3) == b"third?\n"
    assert contents(out) == WHOLE | {"a.txt": b"third?\n"}  # the rest was restored
    assert restored("--overwrite", "never") == b"third?\n"
    assert restored("--overwrite", "always") == b"first\n"
    assert restored("--overwrite", "if-changed") == b"first\n"
    assert restored("--overwrite", "if-newer") == b"third?\n"
    assert restored("--overwrite", "if-newer", then=THEN[0] - 1) == b"first\n"
    assert contents(out) == WHOLE


def test_the_hint_is_given_once(machine, docs, saved, tmp_path):
    machine.here("restore", f"latest:{docs}", "-t", tmp_path / "out")
    refused = machine.here("restore", f"latest:{docs}", "-t", tmp_path / "out", code=3)
    assert f"portal: {docs}/a.txt: Something of this name is there already (" in refused.stderr
    assert refused.stderr.count("--overwrite") == 1
    assert refused.stderr.endswith("but 5 things could not be restored (exit 3)\n")


def test_contents_are_compared_on_request(machine, docs, saved, tmp_path):
    out = tmp_path / "out"
    machine.here("restore", f"latest:{docs}", "-t", out)
    (out / "a.txt").write_bytes(b"FIRST\n")
    os.utime(out / "a.txt", THEN)
    asked = ["restore", f"latest:{docs}", "-t", out, "--overwrite", "if-changed"]
    assert "5 were there already" in machine.here(*asked).stderr
    assert (out / "a.txt").read_bytes() == b"FIRST\n"
    machine.here(*asked, "--content")
    assert (out / "a.txt").read_bytes() == b"first\n"


def test_holes_threads_and_owners(machine, tmp_path):
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(4 << 20) + b"end")
    machine.here("backup", zeros)
    owners = ["mine", "numbers", "names"] if os.geteuid() == 0 else ["mine"]
    for number, owner in enumerate(owners):
        out = tmp_path / f"out{number}"
        sparse = ["--sparse"] if number == 0 else []
        machine.here(
            *("restore", f"latest:{zeros}", "-t", out, "--owners", owner, "--threads", 1, *sparse)
        )
        assert (out / "zeros").read_bytes() == zeros.read_bytes()
        if sparse:
            assert (out / "zeros").stat().st_blocks * 512 < 1 << 20


# --- in place -------------------------------------------------------------------------------------


def test_in_place_with_a_look_first(machine, docs, saved):
    before = contents(docs)
    dry = machine.here("restore", f"latest:{docs}", "--in-place", "-n")
    assert contents(docs) == before
    assert done_in(dry.stderr)["a.txt"] == "replaced"
    assert done_in(dry.stderr)["c: d.txt"] == "restored"
    assert done_in(dry.stderr)["big.bin"] == "kept"
    assert "would restore 2 files, 12 B, 3 were there already" in dry.stderr
    assert dry.stderr.endswith(f"to {docs}\n")
    done = machine.here("restore", f"latest:{docs}", "--in-place", "-v")
    assert done_in(done.stderr)["a.txt"] == "replaced"
    assert contents(docs) == WHOLE | {"new": b"n"}
    again = machine.here("restore", f"latest:{docs}", "--in-place", "--verify")
    assert "restored 0 files, 0 B, 5 were there already" in again.stderr
    assert "compared: 4 files" in again.stderr


def test_one_file_in_place(machine, docs, saved):
    machine.here("restore", f"latest:{docs}/a.txt", "--in-place", "-q")
    machine.here("restore", "latest", f"{docs}/sub dir", "--in-place")
    assert contents(docs) == WHOLE | {"new": b"n"}


def test_what_came_since_is_removed_on_request(machine, docs, saved):
    asked = ["restore", f"latest:{docs}", "--in-place", "--delete"]
    dry = machine.here(*asked, "-n")
    assert done_in(dry.stderr)["new"] == "removed"
    assert "1 would be removed" in dry.stderr
    one_line(machine.here(*asked, code=2), "--delete takes files away", "--yes")
    assert (docs / "new").exists()
    done = machine.here(*asked, "--yes")
    assert "1 removed" in done.stderr
    assert contents(docs) == WHOLE


def test_only_what_is_selected_is_removed(machine, docs, saved):
    (docs / "sub dir" / "later").touch()
    asked = ["restore", f"latest:{docs}", "--in-place", "--delete", "--yes"]
    machine.here(*asked, "sub dir")
    assert contents(docs) == WHOLE | {"a.txt": b"second!\n", "new": b"n"}
    machine.here(*asked, "-e", "new")
    assert contents(docs) == WHOLE | {"new": b"n"}


def test_vault_and_keys_stay_where_they_are(machine, docs, tmp_path):
    machine.here("backup", tmp_path)
    mark = machine.home / "keystore"
    before = mark.read_bytes()
    (docs / "later").touch()
    (tmp_path / "beside").touch()
    asked = ["restore", f"latest:{tmp_path}", "--in-place", "--delete", "--yes", "-qv"]
    told = machine.here(*asked).stderr
    assert f"portal: {machine.home}: holds backups or keys and stays\n" in told
    assert not (tmp_path / "beside").exists()
    assert not (docs / "later").exists()
    assert mark.read_bytes() == before
    assert contents(docs) == WHOLE
    assert len(machine.snapshots()) == 1


def test_where_nothing_would_go_nothing_is_asked(machine, docs, saved, monkeypatch):
    monkeypatch.setattr(secrets_input, "on_terminal", lambda: True)
    asked = ["restore", f"latest:{docs}", "--in-place", "--delete"]
    assert "remove this from" in machine.here(*asked, code=130).stderr  # and nobody answers
    assert (docs / "a.txt").read_bytes() == b"second!\n"
    (docs / "new").unlink()
    assert "restored 2 files" in machine.here(*asked).stderr


@pytest.mark.slow
def test_on_a_terminal_the_question_shows_what_would_go(machine, docs, saved):
    asked = ["restore", f"latest:{docs}", "--in-place", "--delete"]
    terminal = Terminal("node.cli.portal.portal", machine.home, *asked)
    terminal.answer("[y/N]:", "n")
    assert terminal.close() == 130
    assert f"would be removed: {docs}/new\nremove this from {docs}? [y/N]:" in terminal.screen
    assert (docs / "new").exists()
    terminal = Terminal("node.cli.portal.portal", machine.home, *asked)
    terminal.answer("[y/N]:", "y")
    assert terminal.close() == 0
    assert contents(docs) == WHOLE


# --- what goes wrong ------------------------------------------------------------------------------


def test_json(machine, docs, saved, tmp_path):
    out = tmp_path / "out"
    done = machine.here("restore", f"latest:{docs}", "-t", out, "--json", "-v", "--verify")
    assert done.stderr == ""
    lines = messages(done.stdout)
    assert {line["message_type"] for line in lines} <= {"verbose_status", "status", "summary"}
    assert {line["action"] for line in lines[:-1] if "action" in line} == {"restored"}
    last = lines[-1]
    assert [last[key] for key in ("files", "kept", "removed", "verified", "errors")] == [
        *(4, 0, 0, 4, 0)
    ]
    assert last["content_bytes"] == sum(map(len, WHOLE.values()))
    lines = messages(machine.here("restore", "-t", out, "--json", "-n").stdout)
    assert lines[-1]["dry_run"] is True
    again = machine.here("restore", f"latest:{docs}", "-t", out, "--json", code=3)
    lines = messages(again.stdout)
    assert [line["message_type"] for line in lines] == [*["error"] * 5, "summary"]
    assert lines[-1]["errors"] == 5


def test_quiet(machine, docs, saved, tmp_path):
    assert machine.here("restore", "-t", tmp_path / "out", "-q").output == ""


def test_damage_is_named_and_the_rest_restored(machine, docs, saved, tmp_path):
    vault = machine.vault()
    with vault.reader() as reader:
        from portal.browse import lookup

        node = lookup(reader, vault.head().live[0], bytes(docs / "big.bin")[1:])
    damage_chunks_of(vault, Kind.CUT, node.content.data[8:40])
    done = machine.here("restore", f"latest:{docs}", "-t", tmp_path / "out", "--verify", code=3)
    assert f"portal: {docs}/big.bin: " in done.stderr
    whole = dict(WHOLE)
    del whole["big.bin"]
    assert contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_without_the_rights_of_root(machine, tmp_path):
    with unprivileged(tmp_path) as folder:
        mine, home, out = folder / "mine", folder / "home", folder / "out"
        fill(mine)
        machine.here("backup", mine, home=home)
        machine.here("restore", f"latest:{mine}", "-t", out, "--verify", home=home)
        assert contents(out) == WHOLE
        shut = folder / "shut"
        shut.mkdir(0o500)
        one_line(machine.here("restore", "-t", shut / "x", home=home, code=1), "Permission denied")
        (out / "sub dir" / "c: d.txt").unlink()
        (out / "sub dir" / "c: d.txt").mkdir()
        asked = ["restore", f"latest:{mine}", "-t", out, "--overwrite", "if-changed"]
        done = machine.here(*asked, home=home, code=3)
        assert f"portal: {mine}/sub dir/c: d.txt: a directory is in the way\n" in done.stderr
        assert "but 1 thing could not be restored" in done.stderr
