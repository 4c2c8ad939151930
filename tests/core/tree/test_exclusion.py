import os
import random
import shutil
import subprocess

import pytest

from core import limits
from core.errors import UsageError
from core.tree.exclusion import (
    CACHE_TAG_NAME,
    CACHE_TAG_SIGNATURE,
    DirectoryRules,
    Exclusion,
    Marker,
    Options,
)

GIT = shutil.which("git")


def unexpected(name):
    raise AssertionError(f"{name!r} is none of its business")


def begin(exclusion, directory, files=None) -> DirectoryRules:
    """Begin a directory that holds these files; nothing else of it can be read."""
    files = files or {}
    return exclusion.begin(directory, sorted(files), lambda name: files[name])


def left_out(rules, *names):
    return {
        name for name in names if rules.excludes(name.rstrip(b"/"), name.endswith(b"/"), len(name))
    }


def test_without_rules_nothing_is_asked_or_read():
    rules = Exclusion(Options()).begin(b"/home", [b"a", b".gitignore", CACHE_TAG_NAME], unexpected)
    assert rules.is_trivial
    assert not rules.excludes(b"a", False, 1 << 40)
    assert rules.fingerprint == b""
    assert rules.unread == ()


def test_patterns_of_the_command_line_see_absolute_paths():
    options = Options(exclude=(b"*.tmp", b"/home/*/.cache", b"**/node_modules", b"build/out"))
    exclusion = Exclusion(options)
    asked = (b"a.tmp", b".cache/", b"node_modules/", b"out/", b"other")
    assert left_out(begin(exclusion, b"/home/bob"), *asked) == {
        b"a.tmp",
        b".cache/",
        b"node_modules/",
    }
    assert left_out(begin(exclusion, b"/srv/x/build"), *asked) == {
        b"a.tmp",
        b"node_modules/",
        b"out/",
    }
    assert left_out(begin(exclusion, b"/"), *asked) == {b"a.tmp", b"node_modules/"}


def test_where_no_pattern_can_match_nothing_needs_to_be_asked():
    exclusion = Exclusion(Options(exclude=(b"/home/*/.cache",)))
    assert begin(exclusion, b"/srv").is_trivial
    assert begin(exclusion, b"/home").is_trivial
    assert not begin(exclusion, b"/home/bob").is_trivial


def test_case_is_ignored_by_iexclude_only():
    exclusion = Exclusion(Options(exclude=(b"*.bak",), iexclude=(b"*.TMP", b"/Home/Bob/x")))
    rules = begin(exclusion, b"/home/bob")
    assert left_out(rules, b"a.tmp", b"a.BAK", b"a.bak", b"X") == {b"a.tmp", b"a.bak", b"X"}


def test_a_pattern_that_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="never matches"):
        Exclusion(Options(exclude=(b"[a",)))
    with pytest.raises(UsageError, match="never matches"):
        Exclusion(Options(iexclude=(b"[a",)))


def test_a_named_directory_is_never_left_out_itself():
    exclusion = Exclusion(Options(exclude=(b"/home/bob", b"*.d")))
    assert left_out(begin(exclusion, b"/home/bob"), b"a", b"b/") == set()
    assert left_out(begin(exclusion, b"/x.d"), b"a", b"b/") == set()


def test_portalignore_always_counts_and_gitignore_when_asked():
    files = {b".portalignore": b"*.iso\n/top\n", b".gitignore": b"*.o\n"}
    asked = (b"a.iso", b"top", b"a.o", b"b")
    assert left_out(begin(Exclusion(Options()), b"/p", files), *asked) == {b"a.iso", b"top"}
    both = begin(Exclusion(Options(gitignore=True)), b"/p", files)
    assert left_out(both, *asked) == {b"a.iso", b"top", b"a.o"}


def test_files_of_patterns_are_inherited_and_the_deeper_one_decides():
    exclusion = Exclusion(Options(gitignore=True))
    begin(exclusion, b"/p", {b".gitignore": b"*.o\n/a/only\n*.log\n"})
    begin(exclusion, b"/p/a", {b"x": b""})
    deep = begin(exclusion, b"/p/a/b", {b".gitignore": b"!keep.o\n"})
    assert left_out(deep, b"x.o", b"keep.o", b"only", b"y.log") == {b"x.o", b"y.log"}
    assert left_out(begin(exclusion, b"/p/a"), b"only", b"keep.o") == {b"only", b"keep.o"}
    assert begin(exclusion, b"/q").is_trivial  # beside it, nothing of this counts


def test_portalignore_decides_before_gitignore_and_the_command_line_before_both():
    options = Options(exclude=(b"*.iso", b"!wanted"), gitignore=True)
    exclusion = Exclusion(options)
    begin(exclusion, b"/p", {b".portalignore": b"!.env\n!a.iso\nwanted\n"})
    rules = begin(exclusion, b"/p/sub", {b".gitignore": b".env\nlocal\n"})
    assert left_out(rules, b".env", b"local", b"a.iso", b"wanted") == {b"local", b"a.iso"}


def test_another_repository_has_rules_of_its_own():
    exclusion = Exclusion(Options(gitignore=True))
    begin(exclusion, b"/p", {b".gitignore": b"*.o\n", b".portalignore": b"*.iso\n"})
    inner = begin(exclusion, b"/p/inner", {b".git": b""})
    assert left_out(inner, b"a.o", b"a.iso") == {b"a.iso"}
    assert left_out(begin(exclusion, b"/p/inner/src"), b"a.o", b"a.iso") == {b"a.iso"}
    assert left_out(begin(exclusion, b"/p/other"), b"a.o", b"a.iso") == {b"a.o", b"a.iso"}


def test_a_directory_that_is_begun_again_is_read_again():
    exclusion = Exclusion(Options())
    begin(exclusion, b"/p", {b".portalignore": b"a\n"})
    assert not begin(exclusion, b"/p/x").is_trivial
    begin(exclusion, b"/p", {})
    assert begin(exclusion, b"/p/x").is_trivial


def test_rules_in_the_root_of_the_system_count_below_it():
    exclusion = Exclusion(Options())
    begin(exclusion, b"/", {b".portalignore": b"/etc/secret\n*.x\n"})
    assert left_out(begin(exclusion, b"/etc"), b"secret", b"a.x", b"y") == {b"secret", b"a.x"}


def test_rules_that_cannot_be_read_leave_nothing_out_and_are_named(monkeypatch):
    monkeypatch.setattr(limits, "IGNORE_FILE_BYTES_MAX", 100)
    exclusion = Exclusion(Options(gitignore=True, caches=True))
    too_long = b"a\n" * (limits.IGNORE_FILE_BYTES_MAX // 2) + b"b"
    files = {b".gitignore": None, b".portalignore": too_long, CACHE_TAG_NAME: None}
    rules = begin(exclusion, b"/p", files)
    assert rules.is_trivial
    assert set(rules.unread) == set(files)
    rules = begin(exclusion, b"/p", {b".portalignore": too_long[:-1]})
    assert left_out(rules, b"a") == {b"a"}
    assert rules.unread == ()


def test_of_a_cache_only_the_tag_is_kept():
    tag = {CACHE_TAG_NAME: CACHE_TAG_SIGNATURE + b"\n# more", b"x": b""}
    assert len(CACHE_TAG_SIGNATURE) == 43
    rules = begin(Exclusion(Options(caches=True)), b"/c", tag)
    assert left_out(rules, CACHE_TAG_NAME, b"x", b"d/") == {b"x", b"d/"}
    assert begin(Exclusion(Options()), b"/c", tag).is_trivial
    for wrong in (CACHE_TAG_SIGNATURE[:-1], b"", b"x" + CACHE_TAG_SIGNATURE):
        assert begin(Exclusion(Options(caches=True)), b"/c", {CACHE_TAG_NAME: wrong}).is_trivial


def test_of_a_marked_directory_only_the_marker_is_kept():
    exclusion = Exclusion(Options(if_present=(Marker(b".nobackup"), Marker(b"mark", b"yes"))))
    rules = exclusion.begin(b"/d", [b".nobackup", b"x"], unexpected)  # it need not be a file
    assert left_out(rules, b".nobackup", b"x") == {b"x"}
    assert left_out(begin(exclusion, b"/d", {b"mark": b"yes!"}), b"mark", b"x") == {b"x"}
    assert begin(exclusion, b"/d", {b"mark": b"no"}).is_trivial
    assert begin(exclusion, b"/d", {b"mark": b"ye"}).is_trivial


def test_a_marker_is_a_name_and_perhaps_how_its_file_begins():
    assert Marker.parse(b".nobackup") == Marker(b".nobackup", b"")
    assert Marker.parse(b"TAG:a:b") == Marker(b"TAG", b"a:b")
    for wrong in (b"", b":x", b"a/b", b"..", b"a\0"):
        with pytest.raises(UsageError):
            Marker.parse(wrong)


def test_large_files_are_left_out_and_directories_have_no_size():
    exclusion = Exclusion(Options(larger_than=100))
    rules = begin(exclusion, b"/d")
    assert not rules.is_trivial
    assert rules.excludes(b"f", False, 101)
    assert not rules.excludes(b"f", False, 100)
    assert not rules.excludes(b"d", True, 4096)
    assert Exclusion(Options(larger_than=0)).begin(b"/d", [], unexpected).excludes(b"f", False, 1)
    with pytest.raises(UsageError):
        Exclusion(Options(larger_than=-1))


def test_every_option_shows_in_the_fingerprint():
    variants = [
        Options(),
        Options(exclude=(b"a",)),
        Options(iexclude=(b"a",)),
        Options(exclude=(b"a", b"b")),
        Options(exclude=(b"ab",)),
        Options(caches=True),
        Options(if_present=(Marker(b"a"),)),
        Options(if_present=(Marker(b"a", b"b"),)),
        Options(larger_than=0),
        Options(larger_than=1),
        Options(gitignore=True),
    ]
    assert len({Exclusion(options).fingerprint for options in variants}) == len(variants)
    assert Exclusion(Options(exclude=(b"a",))).fingerprint == Exclusion(variants[1]).fingerprint


def test_rules_found_on_the_way_show_in_the_fingerprint_of_all_below():
    def fingerprints(content):
        exclusion = Exclusion(Options(gitignore=True))
        top = begin(exclusion, b"/p", {b".gitignore": content}).fingerprint
        return top, begin(exclusion, b"/p/a").fingerprint

    first, second = fingerprints(b"*.o\n"), fingerprints(b"*.a\n")
    assert first[0] == first[1] != second[1]
    assert fingerprints(b"*.o\n") == first


def test_a_marker_that_could_not_be_read_before_shows_in_the_fingerprint():
    exclusion = Exclusion(Options(caches=True))
    unread = begin(exclusion, b"/c", {CACHE_TAG_NAME: None}).fingerprint
    assert (
        unread == b"" != begin(exclusion, b"/c", {CACHE_TAG_NAME: CACHE_TAG_SIGNATURE}).fingerprint
    )


def scan(root, exclusion):
    """The files that a backup of `root` would keep."""
    kept = set()
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        found = {os.fsencode(path.name): path for path in directory.iterdir()}
        rules = exclusion.begin(
            os.fsencode(directory),
            sorted(found),
            lambda name, found=found: found[name].read_bytes(),
        )
        for name, path in found.items():
            if name == b".git" or rules.excludes(name, path.is_dir(), 0):
                continue
            if path.is_dir():
                waiting.append(path)
            else:
                kept.add(os.fsencode(path.relative_to(root)))
    return kept


@pytest.mark.slow
@pytest.mark.skipif(GIT is None, reason="git is not here to be compared with")
@pytest.mark.parametrize("seed", range(12))
def test_git_agrees_about_nested_files(seed, tmp_path):
    rng = random.Random(seed)
    subprocess.run([GIT, "init", "-q", tmp_path], check=True)
    for _ in range(60):
        folder = tmp_path.joinpath(*rng.choices("abc", k=rng.randint(0, 3)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / rng.choice(["f", "g", "h.o", "k.o", "a.d"])).touch()
        if rng.random() < 0.3:
            rules = ["*.o", "!h.o", "/a", "b/", "f", "!f", "a/**/g", "c/*", "!c/f", "**/b/g"]
            text = "\n".join(rng.sample(rules, rng.randint(1, 3)))
            (folder / ".gitignore").write_text(text)
    listed = subprocess.run(
        [GIT, "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    kept = scan(tmp_path, Exclusion(Options(gitignore=True)))
    assert kept == set(listed.stdout.split(b"\0")[:-1])
