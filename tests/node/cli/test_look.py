import io
import json
import os
import tarfile
import zipfile

import pytest

from core.pieces import Kind
from tests.support.home import Terminal
from tests.support.program import Machine, messages, one_line
from tests.support.snapshots import damage_chunks_of

ODD = os.fsdecode(b"odd \xff:\nname")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "my docs"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"first\n")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "sub dir" / "c: d.txt").write_bytes(b"colon\n")
    (folder / ODD).write_bytes(b"odd\n")
    (folder / "link").symlink_to("a.txt")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return folder


@pytest.fixture
def two(machine, docs):
    """The docs in one snapshot, and changed in another."""
    first = machine.back_up(docs)["snapshot"]
    (docs / "a.txt").write_bytes(b"second!\n")
    (docs / "link").unlink()
    (docs / "new").write_bytes(b"n")
    (docs / "big.bin").chmod(0o600)
    return first, machine.back_up(docs, "--host", "desk", "--tag", "late")["snapshot"]


def relative(docs, text):
    return [line.removeprefix(f"{docs}/") for line in text.splitlines()]


# --- ls -------------------------------------------------------------------------------------------


def test_ls(machine, docs, two):
    shown = relative(docs, machine.here("ls").stdout)
    assert shown == ["a.txt", "big.bin", "new", "odd \\xff:\\nname", "sub dir/"]
    assert relative(docs, machine.here("ls", "latest~1").stdout)[2] == "link"
    inside = machine.here("ls", f"latest:{docs}/sub dir")
    assert relative(docs, inside.stdout) == ["sub dir/c: d.txt"]
    assert relative(docs, machine.here("ls", f"latest:{docs}/a.txt").stdout) == ["a.txt"]
    assert relative(docs, machine.here("ls", f"latest:{docs}/{ODD}").stdout) == [shown[3]]
    below = relative(docs, machine.here("ls", "-R", f"latest:{docs}").stdout)
    assert below == [*shown, "sub dir/c: d.txt"]
    everything = machine.here("ls", "-R").stdout.splitlines()
    assert everything[0] == f"/{docs.parts[1]}/"
    assert everything[-1] == f"{docs}/sub dir/c: d.txt"
    assert inside.stderr == ""


def test_ls_with_patterns_that_count_from_the_path(machine, docs, two):
    def found(*argv):
        return relative(docs, machine.here("ls", *argv).stdout)

    assert found(f"latest:{docs}", "a*") == ["a.txt"]
    assert found(f"latest:{docs}", "sub dir") == ["sub dir/", "sub dir/c: d.txt"]
    assert found(f"latest:{docs}", "*.txt") == ["a.txt", "sub dir/c: d.txt"]
    assert found(f"latest:{docs}", f"{docs}/new") == ["new"]
    assert found("latest", f"{docs}/n?w", "*.bin") == ["big.bin", "new"]
    one_line(machine.here("ls", f"latest:{docs}", "nothing", code=2), "nothing in the snapshot")
    wild = docs / "[x]*"
    wild.mkdir()
    (wild / "ab").touch()
    machine.here("backup", docs)
    assert found(f"latest:{wild}", "a?") == ["[x]*/ab"]


def test_ls_in_full_and_as_json(machine, docs, two):
    lines = relative(docs, machine.here("ls", "-l", "latest~1").stdout)
    assert lines[1].startswith("-rw-")
    assert lines[1].endswith(f"10240 2023-11-14 22:13:20 {docs}/big.bin")
    assert lines[2].startswith("lrwxrwxrwx")
    assert lines[2].endswith("/link -> a.txt")
    assert lines[4].startswith("d")
    rows = messages(machine.here("ls", "--json", "latest~1").stdout)
    assert {row["message_type"] for row in rows} == {"node"}
    assert [row["type"] for row in rows] == ["file", "file", "symlink", "file", "dir"]
    assert rows[1]["size"] == 10_240
    assert rows[1]["mtime"] == "2023-11-14T22:13:20.000000000Z"
    assert rows[2]["target"] == "a.txt"
    assert bytes.fromhex(rows[3]["path_hex"]) == os.fsencode(docs / ODD)[1:]
    assert "path_hex" not in rows[1]


def test_ls_of_the_snapshot_that_is_meant(machine, docs, two):
    first, second = two
    for name in (first[:8], "latest~1"):
        assert f"{docs}/link" in machine.here("ls", name).stdout
    for options in (["--host", "desk"], ["--tag", "late"], ["--path", docs]):
        assert f"{docs}/new" in machine.here("ls", "latest", *options).stdout
    wrong = [
        (["0123"], 1, "no snapshot is called 0123"),
        (["latest", "--host", "x"], 1, "there is no such snapshot"),
        (["latest~9"], 1, "only 2"),
        (["@2000-01-01"], 1, "no snapshot is as old"),
        (["@yesterday"], 2, "a date is"),
        ([f"latest:{docs}/gone"], 1, f"{docs}/gone is not in the snapshot"),
        ([f"latest:{docs}/new/x"], 1, "is no directory"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here("ls", *argv, code=code), words)
    assert second[:8] in one_line(machine.here("ls", f"latest:{docs}/gone", code=1))


def test_what_cannot_be_read_is_named_and_the_rest_listed(machine, docs):
    machine.back_up(docs)
    vault = machine.vault()
    with vault.reader() as reader:
        from portal.browse import lookup

        node = lookup(reader, vault.head().live[0], bytes(docs / "sub dir")[1:])
    damage_chunks_of(vault, Kind.DIRECTORY, node.content.data)
    done = machine.here("ls", "-R", code=3)
    assert done.stderr.startswith("portal: /")


# --- find -----------------------------------------------------------------------------------------


def finds(machine, *argv):
    """What was found, by snapshot."""
    lines = messages(machine.here("find", "--json", *argv).stdout)
    assert all(line["message_type"] == "matches" for line in lines)
    return {
        line["snapshot"]: [row["path"].rpartition("/")[2] for row in line["matches"]]
        for line in lines
    }


def test_find(machine, docs, two):
    first, second = two
    assert finds(machine, "a.*") == {first: ["a.txt"], second: ["a.txt"]}
    assert finds(machine, "new", "link") == {first: ["link"], second: ["new"]}
    assert finds(machine, "-s", first[:8], "*.txt") == {first: ["a.txt", "c: d.txt"]}
    assert finds(machine, "-s", f"latest:{docs}/sub dir", "*.txt") == {second: ["c: d.txt"]}
    assert finds(machine, f"{docs}/sub*/*") == {first: ["c: d.txt"], second: ["c: d.txt"]}
    assert finds(machine, "A.TXT") == {}
    assert finds(machine, "--ignore-case", "A.TXT", "--host", "desk") == {second: ["a.txt"]}
    assert finds(machine, "*.txt", "--tag", "late", "--path", docs) == {
        second: ["a.txt", "c: d.txt"]
    }


def test_find_by_time_and_size(machine, docs, two):
    first, second = two
    assert finds(machine, "*.txt", "--newer", "7d") == {second: ["a.txt"]}
    assert finds(machine, "a.txt", "--older", "2023-11-15") == {first: ["a.txt"]}
    assert finds(machine, "a.txt", "--older", "2023-11-14T22:13:19") == {}
    assert finds(machine, "a.txt", "--older", "9000y") == {}
    assert finds(machine, "*", "--larger-than", "10KiB", "-s", first) == {first: ["big.bin"]}
    assert finds(machine, "*.txt", "--smaller-than", "6", "-s", "latest") == {second: ["c: d.txt"]}
    wrong = [("--newer", "lately", "is no time"), ("--larger-than", "much", "is no size")]
    for option, value, words in wrong:
        one_line(machine.here("find", "*", option, value, code=2), words)
    one_line(machine.here("find", code=2), "PATTERNS")


def test_find_for_people(machine, docs, two):
    first, _ = two
    lines = machine.here("find", "link").stdout.splitlines()
    assert lines[0].startswith(f"{first[:8]} of 20")
    assert lines[1:] == [f"  {docs}/link"]
    assert "-> a.txt" in machine.here("find", "-l", "link").stdout
    nothing = machine.here("find", "nowhere")
    assert (nothing.stdout, nothing.stderr) == ("", "nothing found\n")


# --- diff -----------------------------------------------------------------------------------------


def differences(docs, text):
    lines = [line.split("  ", 1) for line in text.splitlines()]
    return {path.removeprefix(f"{docs}/"): letter for letter, path in lines}


def test_diff_of_two_snapshots(machine, docs, two):
    first, second = two
    done = machine.here("diff", first, second)
    assert differences(docs, done.stdout) == {"a.txt": "M", "link": "-", "new": "+"}
    assert done.stderr.startswith("1 new, 1 gone, 1 changed, 0 of another type, 2 of another mode")
    assert "--metadata names them" in done.stderr
    full = machine.here("diff", first, second, "--metadata")
    assert differences(docs, full.stdout)["big.bin"] == "U"
    assert "--metadata" not in full.stderr
    below = machine.here("diff", f"{first}:{docs}/sub dir", "latest")
    assert (below.stdout, "0 new, 0 gone" in below.stderr) == ("", True)
    back = machine.here("diff", "latest", "latest~1")
    assert differences(docs, back.stdout)["new"] == "-"


def test_diff_as_json(machine, docs, two):
    lines = messages(machine.here("diff", "latest~1", "latest", "--json").stdout)
    assert [line["message_type"] for line in lines] == [*["change"] * 3, "statistics"]
    assert [line["modifier"] for line in lines[:-1]] == ["M", "-", "+"]
    total = lines[-1]
    assert [total[name] for name in ("added", "removed", "content", "metadata")] == [1, 1, 1, 2]
    assert (total["added_bytes"], total["removed_bytes"]) == (9, 6)
    (docs / ODD).write_bytes(b"other")
    (line, _) = messages(machine.here("diff", f"latest:{docs}/{ODD}", "--json").stdout)
    assert bytes.fromhex(line["path_hex"]) == os.fsencode(docs / ODD)[1:]


def test_diff_with_the_disk(machine, docs, two, tmp_path):
    assert machine.here("diff", "latest").stdout == ""
    assert differences(docs, machine.here("diff", "latest~1").stdout)["new"] == "+"
    other = tmp_path / "other"
    docs.rename(other)
    (other / "a.txt").unlink()
    done = machine.here("diff", f"latest:{docs}", "--with", other)
    assert differences(docs, done.stdout) == {"a.txt": "-"}
    big = other / "big.bin"
    big.write_bytes(bytes(10_240))
    os.utime(big, (1_700_000_000, 1_700_000_000))
    assert "big.bin" not in machine.here("diff", f"latest:{docs}", "--with", other).stdout
    read = machine.here("diff", f"latest:{docs}", "--with", other, "--content")
    assert differences(docs, read.stdout) == {"a.txt": "-", "big.bin": "M"}
    told = one_line(machine.here("diff", f"latest:{docs}", code=2), "does not exist on the disk")
    assert str(docs) in told


def test_diff_of_what_cannot_be_compared(machine, docs, two):
    first, second = two
    wrong = [
        ([first, second, "--with", docs], 2, "not both"),
        ([first, f"{second}:{docs}"], 2, "the same path"),
        ([first, "0123"], 1, "no snapshot"),
        ([f"{first}:/gone"], 1, "/gone is not in the snapshot"),
        ([], 2, "OLD"),
    ]
    for argv, code, words in wrong:
        one_line(machine.here("diff", *argv, code=code), words)


# --- cat ------------------------------------------------------------------------------------------


def test_cat(machine, docs, two):
    def printed(*names):
        return machine.here("cat", *names).stdout_bytes

    assert printed(f"latest:{docs}/a.txt") == b"second!\n"
    assert printed(f"latest~1:{docs}/a.txt", f"latest:{docs}/sub dir/c: d.txt") == b"first\ncolon\n"
    assert printed(f"latest:{docs}/{ODD}") == b"odd\n"
    assert printed(f"@2099-01-01T10:00:{docs}/big.bin") == bytes(range(256)) * 40


def test_cat_prints_nothing_if_any_of_it_is_no_file(machine, docs, two):
    good = f"latest:{docs}/a.txt"
    wrong = [
        ("latest", 2, "names no file"),
        ("latest:", 2, "names no file"),
        ("@2099-01-01T10:00", 2, "names no file"),
        (f"latest:{docs}", 2, "is a directory, no file"),
        (f"latest~1:{docs}/link", 2, "is a link, no file"),
        (f"latest:{docs}/gone", 1, "is not in the snapshot"),
    ]
    for name, code, words in wrong:
        one_line(machine.here("cat", good, name, code=code), words)


@pytest.mark.slow
def test_a_full_disk_and_a_reader_that_goes_away(machine, docs, two):
    from subprocess import PIPE, run

    from tests.support.home import REPOSITORY
    from tests.support.program import PORTAL

    with open("/dev/full", "wb") as full:  # noqa: PTH123 - not a path of ours
        done = run(
            [*PORTAL, "cat", f"latest:{docs}/big.bin"],
            stdout=full,
            stderr=PIPE,
            cwd=REPOSITORY,
            check=False,
        )
    assert done.returncode == 14
    assert done.stderr == b"portal: No space left on device\n"
    with machine.started("dump", "latest") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- dump -----------------------------------------------------------------------------------------


def tar_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name: tar.extractfile(member).read() if member.isreg() else None
            for member in tar.getmembers()
        }


def test_dump_as_tar(machine, docs, two):
    assert tar_of(machine.here("dump", f"latest~1:{docs}").stdout_bytes) == {
        "a.txt": b"first\n",
        "big.bin": bytes(range(256)) * 40,
        "link": None,
        ODD: b"odd\n",
        "sub dir": None,
        "sub dir/c: d.txt": b"colon\n",
    }
    some = machine.here("dump", f"latest:{docs}", "*.txt", "-e", "a*", "-o", "-").stdout_bytes
    assert list(tar_of(some)) == ["sub dir/c: d.txt"]
    whole = tar_of(machine.here("dump", "--archive", "tar").stdout_bytes)
    assert whole[f"{docs}/new"[1:]] == b"n"


def test_dump_into_a_file(machine, docs, two, tmp_path):
    place = tmp_path / "out.zip"
    done = machine.here("dump", f"latest:{docs}", "-o", place, "-e", "odd*")
    assert done.output == ""
    with zipfile.ZipFile(place) as archive:
        assert archive.read("sub dir/c: d.txt") == b"colon\n"
        assert sorted(archive.namelist()) == [
            *("a.txt", "big.bin", "new", "sub dir/", "sub dir/c: d.txt")
        ]
    before = place.read_bytes()
    one_line(machine.here("dump", "-o", place, code=2), "exists already")
    assert place.read_bytes() == before
    machine.here("dump", f"latest:{docs}", "-o", tmp_path / "t", "--archive", "zip", "-e", "odd*")
    assert zipfile.is_zipfile(tmp_path / "t")
    one_line(machine.here("dump", "latest", "gone", "-o", tmp_path / "n", code=2), "nothing in")
    one_line(machine.here("dump", "latest:/gone", "-o", tmp_path / "n", code=1), "/gone is not")
    assert not list(tmp_path.glob("n*"))
    assert not list(tmp_path.glob("*.partial"))


def test_an_interrupted_dump_leaves_nothing(machine, docs, two, tmp_path, monkeypatch):
    def interrupted(_reader, _snapshot, _under, write, *_):
        write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("portal.dump.dump_tar", interrupted)
    one_line(machine.here("dump", "-o", tmp_path / "out.tar", code=130), "interrupted")
    assert not list(tmp_path.glob("out*"))


def test_dump_of_what_is_damaged_names_it(machine, docs, tmp_path):
    machine.back_up(docs)
    vault = machine.vault()
    with vault.reader() as reader:
        from portal.browse import lookup

        node = lookup(reader, vault.head().live[0], bytes(docs / "a.txt")[1:])
    damage_chunks_of(vault, Kind.SMALL_FILE, node.content.data)
    done = machine.here("dump", f"latest:{docs}", "-o", tmp_path / "out.tar", code=3)
    assert f"portal: {docs}/a.txt: " in done.stderr
    assert "link" in tar_of((tmp_path / "out.tar").read_bytes())


@pytest.mark.slow
def test_nothing_is_dumped_onto_a_terminal(machine, docs, two):
    terminal = Terminal("node.cli.portal.portal", machine.home, "dump")
    assert terminal.close() == 2
    assert terminal.screen == "portal: not onto a terminal (-o FILE, or a pipe)\n"


def test_without_a_vault_there_is_nothing_to_look_at(machine, docs):
    for argv in (["ls"], ["find", "x"], ["diff", "latest"], ["cat", "latest:/x"], ["dump"]):
        one_line(machine.here(*argv, code=10), "there is no vault", "portal init")
    machine.here("init")
    for argv in (["ls"], ["diff", "latest"], ["cat", "latest:/x"], ["dump"]):
        one_line(machine.here(*argv, code=1), "there is no snapshot yet")
    assert json.loads(machine.here("snapshots", "--json").stdout) == []
