import json
import os
import signal
import subprocess

import pytest

from core import limits
from node import vaults
from tests.support.keeping import assert_whole, flip
from tests.support.privileges import unprivileged
from tests.support.program import Machine, messages, one_line
from tests.support.vaults import fixed

PRINT_MUCH = "head -c 40000000 /dev/urandom; echo ready >&2; exec sleep 600"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a" * 1000)
    (folder / "b.tmp").write_bytes(b"b" * 10)
    (folder / "sub" / "c.txt").write_bytes(b"c" * 100)
    return folder


def paths(machine, *vault):
    """The files in the last snapshot."""
    lines = messages(machine.here("ls", "-R", "latest", "--json", *vault).stdout)
    return {line["path"] for line in lines if line["type"] == "file"}


def below(folder, *names):
    return {str(folder / name) for name in names}


# --- the first run, and the second ----------------------------------------------------------------


@pytest.mark.slow
def test_a_person_on_a_fresh_machine(machine, docs, tmp_path):
    first = machine.run("backup", docs)
    assert first.stdout == ""
    assert "made a vault in" in first.stderr
    assert "portal recovery-kit" in first.stderr
    directories = len(docs.parts)  # those above, itself, and one in it
    seen = f"3 files in {directories} directories: 3 new, 0 changed, 0 unmodified\n"
    assert seen in first.stderr
    (snapshot,) = machine.snapshots()
    assert f"snapshot {snapshot['short_id']} saved in {machine.home / 'vault'}" in first.stderr
    assert "portal restore" in first.stderr

    (docs / "new").write_bytes(b"n")
    second = machine.run("backup", docs)
    assert "made a vault" not in second.stderr
    assert f"4 files in {directories} directories: 1 new, " in second.stderr
    assert [s["parent"] for s in machine.snapshots()] == [None, snapshot["id"]]

    machine.run("restore", f"{snapshot['short_id']}:{docs}", "--target", tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "c.txt").read_bytes() == b"c" * 100
    assert not (tmp_path / "out" / "new").exists()


@pytest.mark.slow
def test_json_is_one_object_a_line_and_all_there_is(machine, docs):
    done = machine.run("backup", docs, "--json")
    assert done.stderr == ""
    vault, summary = messages(done.stdout)
    assert (vault["message_type"], vault["path"]) == ("vault", str(machine.home / "vault"))
    counts = ("files", "files_new", "files_changed", "files_unmodified", "errors", "dry_run")
    assert [summary[name] for name in counts] == [3, 3, 0, 0, 0, False]
    assert summary["content_bytes"] == 1110
    assert summary["durable"] == {"local": True, "peers": 0}
    assert summary["parent"] is None
    (again,) = messages(machine.run("backup", docs, "--json").stdout)
    assert (again["files"], again["files_new"], again["errors"]) == (3, 0, 0)
    assert again["parent"] == summary["snapshot"]
    assert [s["id"] for s in machine.snapshots()] == [summary["snapshot"], again["snapshot"]]


def test_quiet_says_nothing(machine, docs):
    machine.here("backup", docs)
    quiet = machine.here("backup", "-q", docs)
    assert quiet.output == ""
    assert len(machine.snapshots()) == 2


def test_a_dry_run_writes_nothing(machine, docs, tmp_path):
    one_line(machine.here("backup", "-n", docs, code=10), "there is no vault")
    assert not machine.home.exists()
    machine.here("backup", docs)
    before = contents(machine.home)
    (docs / "more").write_bytes(b"m" * 5000)
    shown = machine.here("backup", "-n", docs, "--json").stdout
    (summary,) = messages(shown)
    assert (summary["snapshot"], summary["files_new"], summary["dry_run"]) == (None, 1, True)
    assert summary["durable"]["local"] is False
    assert summary["new_bytes"] > 5000
    assert "nothing was written" in machine.here("backup", "-n", docs).stderr
    assert contents(machine.home) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_made_for_a_command_that_makes_no_sense(machine, docs, tmp_path):
    wrong = [
        (["backup"], "nothing to back up was named"),
        (["backup", tmp_path / "gone"], "does not exist"),
        (["backup", docs, "--tag", "a,b"], "without commas"),
        (["backup", docs, "--tag", "x" * 2000], "longer than"),
        (["backup", docs, "--host", "two\nlines"], "not printable"),
        (["backup", docs, "--exclude-larger-than", "much"], "is no size"),
        (["backup", docs, "--compression", "best"], "'best' is not one of"),
        (["backup", docs, "--stdin", "name"], "one stream"),
        (["backup", "--stdin", "a", "--command", "b"], "one stream"),
        (["backup", "--stdin", "../up"], "with .. in it"),
        (["backup", "--stdin", "/"], "an empty name"),
        (["backup", "--command", "name"], "what one program prints"),
        (["backup", "--threads", "0", docs], "--threads"),
        (["backup", "-P", "gone", docs], "no profile 'gone'"),
    ]
    for argv, words in wrong:
        one_line(machine.here(*argv, code=2), words)
    assert not machine.home.exists()


def test_too_many_tags_and_sources_are_refused_before_the_work(machine, docs, tmp_path):
    tags = [word for number in range(limits.SNAPSHOT_TAGS_MAX + 1) for word in ("--tag", number)]
    one_line(machine.here("backup", docs, *tags, code=2), "at most 64 tags")
    names = tmp_path / "names"
    names.write_text(f"{docs}\n" * (limits.SNAPSHOT_PATHS_MAX + 1))
    one_line(machine.here("backup", "--files-from", names, code=2), "1,025 sources", "1,024")
    assert not machine.home.exists()


# --- where the vault is ---------------------------------------------------------------------------


def test_a_vault_that_is_named_is_not_made_by_accident(machine, docs, tmp_path, monkeypatch):
    place = tmp_path / "a disk"
    told = one_line(machine.here("backup", docs, "-r", place, code=10), "there is no vault")
    assert f"portal init -r '{place}'" in told
    monkeypatch.setenv("PORTAL_VAULT", str(place))
    one_line(machine.here("backup", docs, code=10), "there is no vault")
    assert not place.exists()
    machine.here("init")
    machine.here("backup", docs)
    assert len(machine.snapshots()) == 1
    assert not (machine.home / "vault").exists()


def test_a_disk_that_is_not_plugged_in_is_not_a_fresh_machine(machine, docs):
    machine.here("backup", docs)
    vault = machine.home / "vault"
    vault.rename(machine.home / "elsewhere")
    one_line(machine.here("backup", docs, code=10), "is its disk plugged in?")
    assert not vault.exists()
    assert list(vaults.remembered(machine.home).values()) == [vault]


def test_the_vault_and_the_keys_are_never_in_a_backup(machine, docs, tmp_path):
    machine.here("backup", tmp_path)  # PORTAL_HOME is in it
    assert paths(machine) == below(docs, "a.txt", "b.tmp", "sub/c.txt")
    machine.here("init", "-r", docs / "vault")
    machine.here("backup", docs, "-r", docs / "vault")
    assert paths(machine, "-r", docs / "vault") == below(docs, "a.txt", "b.tmp", "sub/c.txt")


@pytest.mark.slow
def test_a_vault_of_a_strange_name(machine, docs, tmp_path):
    place = tmp_path / os.fsdecode(b"a b'\"$(x)\n\xff-\xc3\xa4")
    machine.run("init", "-r", place)
    made = machine.run("backup", docs, "-r", place, "--json")
    (summary,) = messages(made.stdout)
    assert "saved in" in machine.run("backup", docs, "-r", place).stderr
    assert summary["snapshot"] in machine.run("snapshots", "-r", place, "--json").stdout
    listed = json.loads(machine.run("vault", "list", "--json").stdout)
    assert [row["present"] for row in listed] == [True]
    assert machine.run("vault", "list").stdout.count("\n") == 1


# --- what is saved --------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_named_and_the_rest_saved(machine, docs, tmp_path):
    machine.here("backup", docs)  # what is imported now can be read now
    machine.here("ls", "latest", "--json")
    with unprivileged(tmp_path) as folder:
        mine, home = folder / "mine", folder / "home"
        mine.mkdir()
        for name in ("bad", "good"):
            (mine / name).write_bytes(b"x")
        (mine / "bad").chmod(0)
        done = machine.here("backup", mine, home=home, code=3)
        assert f"portal: {mine}/bad: Permission denied\n" in done.stderr
        assert "saved with 1 unreadable files (exit 3) in" in done.stderr
        told = messages(machine.here("backup", mine, "--json", home=home, code=3).stdout)
        listed = messages(machine.here("ls", "-R", "latest", "--json", home=home).stdout)
        rows = json.loads(machine.here("snapshots", "--json", home=home).stdout)
    assert [line["message_type"] for line in told] == ["error", "summary"]
    assert told[0]["path"].endswith("mine/bad")
    assert told[1]["errors"] == 1
    assert [line["path"] for line in listed if line["type"] == "file"] == [str(mine / "good")]
    assert [row["errors"] for row in rows] == [1, 1]


def test_what_is_excluded(machine, docs, tmp_path):
    def saved(*argv):
        machine.here("backup", docs, *argv)
        return {name.removeprefix(f"{docs}/") for name in paths(machine)}

    everything = {"a.txt", "b.tmp", "sub/c.txt"}
    assert saved() == everything
    assert saved("-e", "*.tmp") == everything - {"b.tmp"}
    assert saved("-e", "*.TMP") == everything
    assert saved("--iexclude", "*.TMP") == everything - {"b.tmp"}
    assert saved("--exclude-larger-than", "500") == everything - {"a.txt"}
    assert saved("-e", "sub") == everything - {"sub/c.txt"}
    patterns = tmp_path / "patterns"
    patterns.write_text("# a note\n*.txt\n!c.txt\n")
    assert saved("--exclude-file", patterns) == everything - {"a.txt"}
    (docs / "sub" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert saved("--exclude-caches") == {"a.txt", "b.tmp", "sub/CACHEDIR.TAG"}
    (docs / "sub" / "CACHEDIR.TAG").unlink()
    (docs / "sub" / ".nobackup").touch()
    kept = saved("--exclude-if-present", ".nobackup")
    assert kept & everything == {"a.txt", "b.tmp"}
    (docs / "sub" / ".nobackup").unlink()
    (docs / ".gitignore").write_text("*.tmp\n")
    assert saved("--gitignore") == {"a.txt", "sub/c.txt", ".gitignore"}
    one_line(machine.here("backup", docs, "--exclude-file", tmp_path / "gone", code=1), "gone")


@pytest.mark.slow
def test_names_from_a_file_or_a_pipe(machine, docs, tmp_path):
    names = tmp_path / "names"
    names.write_bytes(os.fsencode(docs / "a.txt") + b"\n\n" + os.fsencode(docs / "sub") + b"\n")
    wanted = below(docs, "a.txt", "sub/c.txt")
    machine.here("backup", "--files-from", names)
    assert paths(machine) == wanted
    odd = docs / "two\nlines"
    odd.write_bytes(b"odd")
    listed = b"\0".join(map(os.fsencode, (docs / "sub", odd))) + b"\0"
    names.write_bytes(listed)
    machine.here("backup", "--files-from", names, "-0", docs / "a.txt")
    assert paths(machine) == wanted | {str(odd)}
    done = machine.run("backup", "--files-from", "-", "-0", "--json", given=listed)
    assert messages(done.stdout)[-1]["files"] == 2
    one_line(machine.here("backup", "--files-from", names, code=2), "does not exist")
    one_line(machine.here("backup", "--files-from", tmp_path / "gone", code=1), "gone")
    (tmp_path / "empty").touch()
    one_line(machine.here("backup", "--files-from", tmp_path / "empty", code=2), "nothing to back")


def test_a_snapshot_only_if_something_changed(machine, docs, monkeypatch):
    monkeypatch.setattr(limits, "RECENT_NS", 0)  # what was written just now counts as settled
    first = machine.back_up(docs)
    same = machine.back_up(docs, "--skip-if-unchanged")
    assert (same["snapshot"], same["parent"]) == (None, first["snapshot"])
    assert "no snapshot was made" in machine.here("backup", docs, "--skip-if-unchanged").stderr
    assert len(machine.snapshots()) == 1
    (docs / "a.txt").write_bytes(b"other")
    assert machine.back_up(docs, "--skip-if-unchanged")["files_changed"] == 1
    assert len(machine.snapshots()) == 2


def test_labels_and_the_parent(machine, docs):
    first = machine.back_up(docs, "--tag", "daily", "--tag", "home", "--host", "desk")
    second = machine.back_up(docs)
    assert second["parent"] == first["snapshot"] or second["parent"] is None
    third = machine.back_up(docs, "--parent", first["snapshot"][:8], "--force")
    assert third["parent"] == first["snapshot"]
    rows = machine.snapshots()
    assert (rows[0]["host"], rows[0]["tags"]) == ("desk", ["daily", "home"])
    assert (rows[1]["host"] != "desk", rows[1]["tags"]) == (True, [])
    one_line(machine.here("backup", docs, "--parent", "nope", code=1), "names no snapshot")


# --- profiles and hooks ---------------------------------------------------------------------------


def test_a_profile_says_what_to_save_and_what_runs_around_it(machine, docs, tmp_path):
    log = tmp_path / "log"
    note = 'echo "$PORTAL_HOOK $PORTAL_PROFILE $PORTAL_EXIT_CODE $PORTAL_SOURCES"'
    hook = json.dumps([["sh", "-c", f"{note} >> {log}"]])
    machine.configure(
        f'[profile.default]\nsources = ["{docs}"]\nexclude = ["*.tmp"]\ntags = ["auto"]\n'
        "[profile.default.hooks]\n"
        + "".join(f"{moment} = {hook}\n" for moment in ("before", "after", "success", "failure"))
    )
    machine.here("backup")
    assert paths(machine) == below(docs, "a.txt", "sub/c.txt")
    assert machine.snapshots()[0]["tags"] == ["auto"]
    assert log.read_text().splitlines() == [
        f"before default  {docs}",
        f"success default 0 {docs}",
        f"after default 0 {docs}",
    ]
    log.unlink()
    machine.here("backup", docs / "sub", "--tag", "mine")  # what is typed replaces the profile's
    assert log.read_text().splitlines()[0] == f"before default  {docs / 'sub'}"
    assert machine.snapshots()[1]["tags"] == ["mine"]
    log.unlink()
    names = tmp_path / "names"
    names.write_text(f"{docs / 'sub'}\n")
    machine.here("backup", "--files-from", names)
    assert paths(machine) == below(docs, "sub/c.txt")


def test_a_hook_that_fails_before_prevents_the_backup(machine, docs):
    machine.here("init")
    machine.configure(f'[profile.db]\nsources = ["{docs}"]\nhooks = {{ before = [["false"]] }}\n')
    told = one_line(machine.here("backup", "-P", "db", code=1), "hook before (false)")
    assert "so nothing was done" in told
    assert machine.snapshots() == []


def test_a_failing_run_is_told_to_the_hooks(machine, tmp_path):
    machine.here("init")
    log = tmp_path / "log"
    note = 'echo "$PORTAL_HOOK $PORTAL_EXIT_CODE $PORTAL_ERROR"'
    hook = json.dumps([["sh", "-c", f"{note} >> {log}"]])
    hooks = f"hooks = {{ failure = {hook}, success = {hook} }}"
    machine.configure(f'[profile.db]\nstdin_command = ["false"]\n{hooks}\n')
    one_line(machine.here("backup", "-q", "-P", "db", code=1), "false: ended with exit code 1")
    assert log.read_text().startswith("failure 1 false: ended with exit code 1")
    machine.configure(f'[profile.db]\nstdin_command = ["echo", "x"]\n{hooks}\n')
    machine.here("backup", "-P", "db")
    assert log.read_text().splitlines()[1] == "success 0 "
    assert machine.snapshots()[0]["paths"] == ["/echo"]


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_in_order_and_the_next_run_goes_on(machine, tmp_path, number, code):
    big = tmp_path / "big"
    big.mkdir()
    for part in range(24):
        (big / f"{part:02}").write_bytes(fixed(f"part {part}", 8_000_000))
    with machine.started("backup", big) as process:
        assert b"made a vault" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert err.endswith(b"portal: interrupted\n")
    vault = machine.vault()
    assert vault.head().live == []
    assert not list((vault.store.path / "sessions").iterdir())
    assert not list(vault.store.path.rglob(".tmp-*"))
    assert machine.back_up(big)["files"] == 24
    assert len(assert_whole(machine.vault())) == 1


@pytest.mark.slow
def test_what_was_stored_before_a_kill_is_not_stored_again(machine):
    machine.here("init")
    packs = machine.home / "vault" / "packs"
    data = fixed("stream", 128_000_000)
    with machine.started("backup", "--stdin", "data", stdin=subprocess.PIPE) as process:
        process.stdin.write(data)  # what is not in flight now is in packs
        process.kill()
    before = {path.name for path in packs.iterdir() if not path.name.startswith(".")}
    assert len(before) * limits.PACK_SIZES_BYTES[-1] > len(data) - 1.3 * limits.PIPELINE_BYTES_MAX
    done = machine.run("backup", "--stdin", "data", "--json", given=data)
    stored = messages(done.stdout)[-1]["stored_bytes"]
    assert stored < len(data) - (len(before) - 1) * limits.PACK_SIZES_BYTES[-1]
    assert before < {path.name for path in packs.iterdir()}
    assert len(assert_whole(machine.vault())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_who_waits_for_a_pipe(machine, number):
    machine.here("init")
    with machine.started("backup", "--command", "data", "--", "sh", "-c", PRINT_MUCH) as process:
        assert process.stderr.readline() == b"ready\n"  # by now Portal waits for more, or will
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == 128 + number
    assert err.endswith(b"portal: interrupted\n")
    assert machine.snapshots() == []
    assert not list((machine.home / "vault" / "sessions").iterdir())


# --- whose vault it is ----------------------------------------------------------------------------


def test_exit_codes_say_whose_fault_it_is(machine, docs, tmp_path):
    other = tmp_path / "other"
    machine.here("init", "-r", tmp_path / "theirs", home=other)
    told = one_line(machine.here("backup", docs, "-r", tmp_path / "theirs", code=10), "no keys")
    assert "portal recover" in told
    machine.here("init")
    foreign = one_line(machine.here("backup", docs, "-r", tmp_path / "theirs", code=12))
    assert "belongs to the device" in foreign
    assert "portal vault adopt" in foreign
    newer = machine.home / "vault" / "config"
    data = bytearray(newer.read_bytes())
    data[4] += 1
    newer.write_bytes(data)
    one_line(machine.here("backup", docs, code=13), str(newer), "version 2")
    data[4] -= 1
    newer.write_bytes(data)
    flip(newer, len(data) - 1)
    one_line(machine.here("backup", docs, code=1), str(newer), "changed since")


def test_a_passphrase_is_all_that_opens_these_keys(machine, docs, tmp_path, monkeypatch):
    from tests.support.home import cheap_passphrases

    cheap_passphrases(monkeypatch)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    machine.here("init", "--passphrase", "--no-key-file", "--passphrase-file", right)
    one_line(machine.here("backup", docs, code=12), "nothing at hand opens this keystore")
    bad = machine.here("backup", docs, "--passphrase-file", wrong, code=12)
    assert "battery" not in one_line(bad)
    done = machine.here("backup", docs, "--passphrase-file", right)
    assert "horse" not in done.output
    monkeypatch.setenv("PORTAL_PASSPHRASE", "correct horse")
    assert len(machine.snapshots()) == 1


def test_a_first_backup_with_keys_but_no_vault_asks_for_what_opens_them(
    machine, docs, tmp_path, monkeypatch
):
    from tests.support.home import PASSPHRASE, cheap_passphrases, somebody

    cheap_passphrases(monkeypatch)
    somebody(machine.home, passphrase=True, device_key=False)
    (tmp_path / "secret").write_bytes(PASSPHRASE)
    machine.here("backup", docs, "--passphrase-file", tmp_path / "secret")
    assert len(list((machine.home / "vault" / "heads").iterdir())) == 1


def test_no_secret_in_any_output(machine, docs, monkeypatch):
    shown = ""
    for argv in (
        ["init"],
        ["backup", docs, "-v", "--json"],
        ["snapshots", "--json"],
        ["vault", "list"],
    ):
        shown += machine.here(*argv).output
    page = machine.here("recovery-kit").stdout
    from core.phrase import to_words
    from node import identity

    mine = identity.open(machine.home)
    entropy = mine.recovery_kit().entropy
    words = to_words(entropy).reveal().decode()
    assert words.split()[0] in page
    assert words[:20] not in shown
    for secret in (entropy.reveal(), mine.vault_master(mine.vaults[0]).reveal()):
        assert secret.hex() not in shown
    assert "pnk1-" not in shown


def test_a_program_that_is_wanted_as_a_stream_gets_no_passphrase(machine, monkeypatch):
    monkeypatch.setenv("PORTAL_PASSPHRASE", "correct horse")
    machine.here("backup", "--command", "env", "--", "env")
    assert b"correct horse" not in machine.here("dump", "latest").stdout_bytes
