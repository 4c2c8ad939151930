import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from core import keystore, process
from core.slots import KeyFileProvider
from node.cli import run
from node.cli.warp import warp
from tests.support.identity import keystore_contents
from tests.support.strange_trees import strange_tree
from tests.support.tars import CUT, block
from tests.support.trees import differences

NAMES = ["a file", "folder/b.txt", "folder/c.txt", "folder/deep/d"]


@pytest.fixture(autouse=True)
def process_stays_as_it_is(monkeypatch):
    for name in ("forbid_core_dumps", "prepare_for_bulk"):
        monkeypatch.setattr(process, name, lambda: None)  # they would last for all other tests


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000 * number)
    return root


def archive(*argv, code=0, text=None):
    """One command as `warp` runs it, with its exit code."""
    before, sys.argv = sys.argv, ["warp", "archive", *map(str, argv)]
    runner = CliRunner()
    try:
        result = runner.invoke(_Program(), [], input=text)
    finally:
        sys.argv = before
    assert result.exit_code == code, result.output
    return result


class _Program:
    """`warp` with its exit codes, in the shape the test runner wants."""

    name = "warp"

    def main(self, **_):
        run.run(warp, "warp")


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_create_list_cat_verify_extract(tree, tmp_path):
    made = archive("create", tree, "-o", tmp_path / "a.warp")
    assert "6 entries" not in made.stdout  # what people read goes to stderr
    assert "archive" in made.stderr
    listed = archive("list", tmp_path / "a.warp").stdout.splitlines()
    assert [name for name in listed if not name.endswith(("tree", "folder", "deep"))] == [
        f"tree/{name}" for name in NAMES
    ]
    assert archive("cat", tmp_path / "a.warp", "tree/folder/c.txt").stdout_bytes == (
        b"folder/c.txt" * 2000
    )
    assert "is whole" in archive("verify", tmp_path / "a.warp").stderr
    assert "1 of 2 chunks" in archive("verify", tmp_path / "a.warp", "--sample", "1%").stderr
    archive("extract", tmp_path / "a.warp", "-o", tmp_path / "out", "--verify")
    assert contents(tmp_path / "out" / "tree") == contents(tree)


def test_json(tree, tmp_path):
    made = archive("create", tree, "-o", tmp_path / "a.warp", "--json").stdout.splitlines()
    summary = json.loads(made[-1])
    assert (summary["message_type"], summary["v"], summary["entries"]) == ("summary", 1, 7)
    listed = json.loads(archive("list", tmp_path / "a.warp", "--json").stdout)
    assert {row["path"]: row["size"] for row in listed}["tree/folder/c.txt"] == 24_000
    assert "rw" in archive("list", "-l", tmp_path / "a.warp").stdout
    checked = json.loads(archive("verify", tmp_path / "a.warp", "--json").stdout)
    assert checked["chunks"] == checked["of"] == 2


def test_patterns(tree, tmp_path):
    archive("create", tree, "-o", tmp_path / "a.warp")
    archive("extract", tmp_path / "a.warp", "tree/folder/*.txt", "-o", tmp_path / "some")
    assert set(contents(tmp_path / "some")) == {"tree/folder/b.txt", "tree/folder/c.txt"}
    done = archive("extract", tmp_path / "a.warp", "nothing", "-o", tmp_path / "none", code=2)
    assert "nothing in the archive matches" in done.stderr
    archive("create", tree, "-o", tmp_path / "b.warp", "-e", "*.txt")
    assert "b.txt" not in archive("list", tmp_path / "b.warp").stdout


def test_files_that_are_there_are_not_touched_unless_asked(tree, tmp_path):
    archive("create", tree, "-o", tmp_path / "a.warp")
    out = tmp_path / "out"
    archive("extract", tmp_path / "a.warp", "-o", out)
    mine = out / "tree" / "a file"
    mine.write_bytes(b"mine")
    refused = archive("extract", tmp_path / "a.warp", "-o", out, code=3)
    assert "tree/a file" in refused.stderr
    assert mine.read_bytes() == b"mine"
    archive("extract", tmp_path / "a.warp", "-o", out, "--overwrite", "replace")
    assert mine.read_bytes() == b""


def test_passphrase(tree, tmp_path, monkeypatch):
    from core import slots
    from core.archive import keys
    from tests.support.identity import CHEAP

    monkeypatch.setattr(keys.PassphraseOpener.__init__, "__defaults__", (CHEAP,))
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    locked = tmp_path / "a.warp"
    archive("create", tree, "-o", locked, "--encrypt", "--passphrase-file", secret)
    assert b"folder" not in locked.read_bytes()
    assert archive("list", locked, code=2).stderr.count("\n") == 1  # no terminal to ask on
    secret.write_text("wrong\n")
    wrong = archive("list", locked, "--passphrase-file", secret, code=12)
    assert str(locked) in wrong.stderr
    secret.write_text("correct horse")
    assert "folder" in archive("list", locked, "--passphrase-file", secret).stdout
    assert slots.ARGON2_DEFAULT.memory_kib == 256 * 1024


def test_key_file_and_vault(tree, tmp_path, monkeypatch):
    key = tmp_path / "key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    archive("create", tree, "-o", tmp_path / "a.warp", "--key-file", key)
    assert "--key-file" in archive("list", tmp_path / "a.warp", code=12).stderr
    assert "folder" in archive("list", tmp_path / "a.warp", "--key-file", key).stdout

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PORTAL_HOME", str(home))
    missing = archive("create", tree, "-o", tmp_path / "v.warp", "--recipient", "vault", code=1)
    assert "no vault" in missing.stderr
    provider = KeyFileProvider(home / "device.key")
    provider.create()
    held = keystore_contents()
    one = {key: value for key, value in held.vaults.items() if key[0] == bytes([1]) * 16}
    stored = keystore.Contents(held.device, held.cert, one, {})
    keystore.save(home / "keystore", keystore.Keystore.create(stored, [provider]))
    archive("create", tree, "-o", tmp_path / "v.warp", "--recipient", "vault")
    assert "folder" in archive("list", tmp_path / "v.warp").stdout


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["create", "missing", "-o", "x.warp"], 2, "does not exist"),
        (["create", "tree", "-o", "there"], 2, "exists already"),
        (["create", "tree", "-o", "x.warp", "--gpu", "1"], 2, "no GPU path"),
        (["create", "tree", "-o", "x", "--key-file", "a", "--recipient", "vault"], 2, "one lock"),
        (["list", "missing"], 1, "No such file"),
        (["list", "there"], 1, "not a warp archive"),
        (["list", "empty"], 1, "too short"),
        (["verify", "there", "--sample", "lots"], 1, "not a warp archive"),
    ],
)
def test_wrong_usage_is_one_line(tree, tmp_path, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_bytes(b"something else" * 100)
    (tmp_path / "empty").write_bytes(b"")
    done = archive(*argv, code=code)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_damage_is_named_and_the_rest_restored(tree, tmp_path):
    (tree / "large").write_bytes(os.urandom(3 << 20))
    path = tmp_path / "a.warp"
    archive("create", tree, "-o", path, "--compression", "none")
    data = bytearray(path.read_bytes())
    at = data.index((tree / "large").read_bytes()[:64])
    data[at] ^= 1
    path.write_bytes(data)
    assert "tag" in archive("verify", path, code=1).stderr
    damaged = archive("extract", path, "-o", tmp_path / "out", code=3)
    assert "tree/large" in damaged.stderr
    whole = contents(tree)
    del whole["large"]
    assert contents(tmp_path / "out" / "tree") == whole


def test_an_interrupted_creation_is_kept_and_resumed(tree, tmp_path, monkeypatch):
    from core.archive.writer import ArchiveWriter

    (tree / "large").write_bytes(os.urandom(20 << 20))
    path = tmp_path / "a.warp"
    write, done = ArchiveWriter.write, []

    def failing(self, number, frame, stored, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return write(self, number, frame, stored, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ArchiveWriter, "write", failing)
        stopped = archive("create", tree, "-o", path, code=130)
    assert "--resume" in stopped.stderr
    assert not path.exists()
    kept = (tmp_path / "a.warp.partial").read_bytes()
    assert "--resume" in archive("create", tree, "-o", path, code=2).stderr
    assert (tmp_path / "a.warp.partial").read_bytes() == kept  # hours of work are not begun anew
    archive("create", tree, "-o", path, "--resume")
    assert not (tmp_path / "a.warp.partial").exists()
    archive("extract", path, "-o", tmp_path / "out")
    assert contents(tmp_path / "out" / "tree") == contents(tree)


# --- tar on stdin -----------------------------------------------------------------------------

PROGRAM = [sys.executable, "-m", "node.cli.warp", "archive"]


def tarred(data, *argv):
    """One command in a process of its own, fed with these bytes."""
    return subprocess.run([*PROGRAM, *map(str, argv)], input=data, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_what_tar_writes_comes_back_as_it_was(tmp_path, form):
    strange_tree(tmp_path / "tree")
    tar = ["tar", "c", "-S", f"--format={form}", "-C", str(tmp_path), "tree"]
    if form == "posix":
        tar[2:2] = ["--xattrs", "--xattrs-include=*"]
    data = subprocess.run(tar, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    made = tarred(data.stdout, "create", "-", "-o", tmp_path / "a.warp")
    assert made.returncode == 0, made.stderr
    out = tmp_path / "out"
    archive("extract", tmp_path / "a.warp", "-o", out)
    found = differences(tmp_path / "tree", out / "tree", top=False)
    # Tar has no sockets, and writes a fifo of two names as two.
    lost = [line for line in found if "socket" not in line and "fifo" not in line]
    if form == "gnu":  # which has no attributes and no parts of seconds
        lost = [line for line in lost if not any(w in line for w in ("xattr", "time", "mode"))]
    assert not lost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "data", "code", "words"),
    [
        (["create", "-"], b"no tar at all" * 99, 1, "not a tar stream"),
        (["create", "-"], b"", 1, "not a tar stream"),
        (["create", "-"], block(b"/etc/x") + CUT, 1, "absolute"),
        (["create", "-"], block(b"../x") + CUT, 1, ".."),
        (["create", "-"], block(b"x", size=9), 1, "cut short"),
        (["create", "-", "tree"], CUT, 2, "stdin"),
        (["create", "-", "-x"], CUT, 2, "stdin"),
    ],
)
def test_a_stream_that_is_no_good_is_one_line_and_leaves_nothing(tmp_path, argv, data, code, words):
    done = tarred(data, *argv, "-o", tmp_path / "x.warp")
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1)
    assert words.encode() in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_who_writes_the_stream_may_write_it_to_its_end(tmp_path):
    """Tar fills its last record with zeros; a pipe closed before would kill it."""
    warp = [*PROGRAM, "create", "-", "-o", str(tmp_path / "a.warp")]
    with subprocess.Popen(warp, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        child.stdin.write(block(b"f") + CUT + bytes(8 << 20))  # BrokenPipeError, if it were so
        child.stdin.close()
        assert child.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_wait_for_a_stream(tmp_path, number, code):
    child = subprocess.Popen(
        [*PROGRAM, "create", "-", "-o", str(tmp_path / "a.warp")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        child.stdin.write(block(b"f", size=99 << 20) + os.urandom(2 << 20))  # most of it was read
        child.stdin.flush()
        child.send_signal(number)
        assert child.wait(20) == code
        assert b"Traceback" not in child.stderr.read()
    assert not (tmp_path / "a.warp").exists()


# --- interrupts -----------------------------------------------------------------------------------


def interrupted(where, number, *argv):
    """A command in a process of its own that gets a signal when `where` is called a third time."""
    module, _, name = where.partition(":")
    code = f"""
import os, sys
from {module} import {name.partition(".")[0]} as owner
calls, real = [], owner.{name.partition(".")[2]}
def call(*args, **options):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), {int(number)})
    return real(*args, **options)
owner.{name.partition(".")[2]} = call
sys.argv = ["warp", "archive", *{[str(arg) for arg in argv]!r}]
from node.cli.warp import main
main()
"""
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, check=False, capture_output=True, timeout=60)


@pytest.fixture
def large(tree):
    (tree / "large").write_bytes(os.urandom(64 << 20))
    return tree


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "where",
    ["core.tree.content:OpenFile.read_into", "core.archive.writer:ArchiveWriter.write"],
)
def test_a_creation_that_gets_a_signal_ends_in_order(large, tmp_path, where, number, code):
    path = tmp_path / "a.warp"
    stopped = interrupted(where, number, "create", large, "-o", path)
    assert stopped.returncode == code, stopped.stderr
    assert b"interrupted" in stopped.stderr
    assert b"Traceback" not in stopped.stderr
    assert not path.exists()
    left = {p.name for p in tmp_path.iterdir()}
    assert left in ({"tree"}, {"tree", "a.warp.partial", "a.warp.journal"})
    archive("create", large, "-o", path, "--resume")
    archive("extract", path, "-o", tmp_path / "out")
    assert contents(tmp_path / "out" / "tree") == contents(large)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    ["core.archive.reader:ArchiveReader.chunk_untrusted", "core.tree.writer:FileWriter.write_at"],
)
def test_an_extraction_that_gets_a_signal_leaves_nothing_half_made(large, tmp_path, where):
    path = tmp_path / "a.warp"
    archive("create", large, "-o", path)
    stopped = interrupted(where, signal.SIGINT, "extract", path, "-o", tmp_path / "out")
    assert stopped.returncode == 130, stopped.stderr
    assert b"Traceback" not in stopped.stderr
    whole = contents(large)
    found = contents(tmp_path / "out" / "tree")
    assert "large" not in found
    assert found.items() <= whole.items()
    assert not list((tmp_path / "out").rglob(".portal-*"))
