import contextlib
import os
import random
import shutil
import subprocess

import pytest

from core import limits
from core.errors import UsageError
from core.tree.patterns import Patterns, anywhere, fold, lines

GIT = shutil.which("git")
ROUNDS = 100

# (pattern, path with a slash at its end for a directory, verdict)
TABLE = [
    (b"a", b"a", True),
    (b"a", b"x/y/a", True),
    (b"a", b"ab", None),
    (b"*.tmp", b"x/y.tmp", True),
    (b"*.tmp", b"y.tmp/", True),
    (b"*.tmp", b"x.tmp.gz", None),
    (b"/a", b"a", True),
    (b"/a", b"x/a", None),
    (b"a/b", b"a/b", True),
    (b"a/b", b"x/a/b", None),
    (b"**/a/b", b"x/y/a/b", True),
    (b"**/a/b", b"a/b", True),
    (b"a/**", b"a/x/y", True),
    (b"a/**", b"a/", None),
    (b"a/**/b", b"a/b", True),
    (b"a/**/b", b"a/x/y/b", True),
    (b"a/**/b", b"a/xb", None),
    (b"a/*/b", b"a/x/b", True),
    (b"a/*/b", b"a/x/y/b", None),
    (b"a/*", b"a/x", True),
    (b"a/*", b"a/x/y", None),
    (b"a**b", b"axxb", True),
    (b"a/x**b", b"a/xyb", True),
    (b"/x**/b", b"xb", True),
    (b"/x**/b", b"xy/z/b", True),
    (b"/x**/b", b"y/b", None),
    (b"a/x**", b"a/xy/z", True),
    (b"b***/**//", b"b/", True),
    (b"a?c", b"abc", True),
    (b"a?c", b"ac", None),
    (b"[a-c]x", b"bx", True),
    (b"[!a-c]x", b"bx", None),
    (b"[^a-c]x", b"dx", True),
    (b"[]]", b"]", True),
    (b"[]-]", b"-", True),
    (b"[[:digit:]]", b"7", True),
    (b"[[:digit:]]", b"d", None),
    (b"[\\]]", b"]", True),
    (b"d/", b"d", None),
    (b"d/", b"x/d/", True),
    (b"\\!a", b"!a", True),
    (b"\\#a", b"#a", True),
    (b"\\*", b"*", True),
    (b"\\*", b"a", None),
    (b"a\\ ", b"a ", True),
    (b"?", b"\xff", True),
    (b"\xc3\xa9*", b"\xc3\xa9t\xc3\xa9", True),
]
NEVER = [b"[", b"[a", b"a\\", b"/", b"!", b"[[:nonsense:]]", b"a\0b", b"[a\\", b"[[:digit:"]


def ask(patterns, path):
    return patterns.verdict(path.rstrip(b"/"), is_directory=path.endswith(b"/"))


@pytest.mark.parametrize(("pattern", "path", "verdict"), TABLE)
def test_what_a_pattern_means(pattern, path, verdict):
    assert ask(Patterns([pattern]), path) is verdict


def test_the_last_pattern_that_matches_decides():
    patterns = Patterns([b"*.log", b"!keep.log", b"/old/*.log", b"!/old/7.log"])
    assert ask(patterns, b"x/a.log") is True
    assert ask(patterns, b"x/keep.log") is False
    assert ask(patterns, b"old/keep.log") is True
    assert ask(patterns, b"old/7.log") is False
    assert ask(patterns, b"old/readme") is None


def test_a_directory_that_is_kept_may_be_a_file_that_is_not():
    patterns = Patterns([b"x", b"!x/"])
    assert ask(patterns, b"x") is True
    assert ask(patterns, b"x/") is False


def test_a_file_of_patterns_has_comments_and_blanks():
    content = b"\xef\xbb\xbfa\r\n\n# no\n b \nc\\ \n\\#d\ne\t\n   \nf\\  \nlast"
    assert lines(content) == [b"a", b" b", b"c\\ ", b"\\#d", b"e\t", b"f\\ ", b"last"]


@pytest.mark.parametrize("pattern", NEVER)
def test_a_pattern_that_can_never_match_is_refused_by_name(pattern):
    with pytest.raises(UsageError) as e:
        Patterns([b"fine", pattern])
    assert "never matches" in str(e.value)
    assert pattern.decode("ascii").replace("\\", "").replace("\0", "\\x00") in str(e.value).replace(
        "\\\\", ""
    ).replace("\\ ", " ")


def test_a_pattern_too_long_to_take_is_refused():
    Patterns([b"a" * limits.PATTERN_BYTES_MAX])
    with pytest.raises(UsageError, match="more than"):
        Patterns([b"a" * (limits.PATTERN_BYTES_MAX + 1)])


def test_in_a_file_it_matches_nothing_and_the_others_count():
    patterns = Patterns.of_file(b"\n".join([*NEVER, b"a"]))
    assert ask(patterns, b"a") is True
    assert ask(patterns, b"[") is None


def test_a_pattern_of_the_command_line_begins_at_any_depth():
    assert anywhere(b"a/b") == b"**/a/b"
    assert anywhere(b"!a/b/") == b"!**/a/b/"
    for same in (b"a", b"a/", b"/a/b", b"**/a", b"!a"):
        assert anywhere(same) == same


def test_case_may_be_ignored_beyond_ascii():
    patterns = Patterns([b"*.JPG", "É*/x".encode(), b"[A-C]1"], ignore_case=True)
    assert ask(patterns, b"a/b.jPg") is True
    assert ask(patterns, "éT/X".encode()) is True
    assert ask(patterns, b"b1") is True
    assert ask(patterns, b"d1") is None
    assert fold(b"\xffA\xc3\x89") == b"\xffa\xc3\xa9"


def test_directories_with_the_same_patterns_share_one_answer():
    patterns = Patterns([b"*.o", b"/src/*/build", b"/x/y"])
    assert patterns.below(b"a") is patterns.below(b"b/c")
    assert patterns.below(b"src/1") is patterns.below(b"src/2")
    assert patterns.below(b"src/1") is not patterns.below(b"a")
    assert not Patterns([b"/x/y"]).below(b"").has_rules
    assert Patterns([b"/x/y"]).below(b"x").has_rules


def test_what_is_remembered_has_a_bound(monkeypatch):
    monkeypatch.setattr(limits, "PATTERN_SETS_CACHED_MAX", 4)
    patterns = Patterns([b"/d%d/x" % i for i in range(20)])
    for i in range(20):
        assert ask(patterns, b"d%d/x" % i) is True
        assert len(patterns._made) <= 4


def test_no_pattern_runs_away():
    # A matcher that tries every way to share these out would take longer than anyone waits.
    name = b"a" * 255
    assert ask(Patterns([b"*a" * 60 + b"b"]), name) is None
    deep = b"/".join([b"a"] * 400)
    assert ask(Patterns([b"**/a/" * 40 + b"b"]), deep + b"/c") is None
    assert ask(Patterns([b"**/a/" * 40 + b"x/" + b"c"]), deep + b"/c") is None
    assert ask(Patterns([b"x" + b"**/a/" * 40 + b"*/x/c"]), deep + b"/c") is None
    assert ask(Patterns([b"[a-z]*" * 40 + b"/x/y"]), name + b"/z/y") is None


def random_patterns(rng):
    atoms = [b"a", b"b", b"ab", b"*", b"**", b"?", b"/", b"/", b"[ab]", b"[!a]", b"\\a", b"**/"]
    atoms += [b"/**", b"\\*", b"[a-b]", b"\\/", b"[b/]", b"[[:alpha:]]", b".", b"[", b"\\", b" "]
    weights = [6] * 14 + [1] * (len(atoms) - 14)
    made = []
    for _ in range(rng.randint(1, 5)):
        body = b"".join(rng.choices(atoms, weights, k=rng.randint(1, 6)))
        sign = rng.choice([b"", b"", b"", b"!"])
        made.append(sign + body + rng.choice([b"", b"", b"", b"/"]))
    return made


def random_tree(rng, root):
    """Paths as git gives them out, directories with a slash at their end."""
    for _ in range(250):
        names = [
            "".join(rng.choices("ab*", [6, 6, 1], k=rng.randint(1, 3)))
            for _ in range(rng.randint(1, 5))
        ]
        with contextlib.suppress(NotADirectoryError, FileExistsError):
            path = root.joinpath(*names)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if rng.random() < 0.3 else path.touch()
    below = [p for p in root.rglob("*") if ".git" not in p.parts]
    return sorted(os.fsencode(p.relative_to(root)) + b"/" * p.is_dir() for p in below)


def ours(patterns, path):
    """As a scan meets it: what is below a directory that is left out is never asked about."""
    names = path.rstrip(b"/").split(b"/")
    for depth in range(1, len(names)):
        if patterns.verdict(b"/".join(names[:depth]), is_directory=True):
            return True
    return bool(ask(patterns, path))


def git_ignores(folder, content, paths):
    (folder / ".git" / "info" / "exclude").write_bytes(content)
    done = subprocess.run(
        [GIT, "check-ignore", "--no-index", "-z", "--stdin", "-v", "-n"],
        input=b"\0".join(path.rstrip(b"/") for path in paths) + b"\0",
        cwd=folder,
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    assert done.returncode in {0, 1}, done.stderr
    fields = done.stdout.split(b"\0")[:-1]
    rows = [fields[i : i + 4] for i in range(0, len(fields), 4)]
    return [bool(row[2]) and not row[2].startswith(b"!") for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(GIT is None, reason="git is not here to be compared with")
def test_git_agrees(tmp_path):
    subprocess.run([GIT, "init", "-q", tmp_path], check=True)
    rng = random.Random(20260801)
    paths = random_tree(rng, tmp_path)
    matched = 0
    for _ in range(ROUNDS):
        content = b"\n".join(random_patterns(rng)) + b"\n"
        patterns = Patterns.of_file(content)
        for path, answer in zip(paths, git_ignores(tmp_path, content, paths), strict=True):
            matched += answer
            assert ours(patterns, path) == answer, (content, path)
    assert matched > ROUNDS  # the comparison is about something
