"""One line changes, or nothing does."""

import stat
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from node.config_edit import with_setting, write_setting

FULL = """# my settings
vault = "/mnt/vault"   # the disk
[node]  # the daemon
log_level = "info"

[storage]   # for others
# as much as I can spare
  offer = "1TB"   # for now # really
"""


def test_only_the_value_changes():
    changed = with_setting(FULL, "storage", "offer", '"2TB"')
    assert changed == FULL.replace('"1TB"', '"2TB"')
    assert with_setting(changed, "storage", "offer", "0") == FULL.replace('"1TB"', "0")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[storage]\noffer = "2TB"\n'),
        ("a = 1", 'a = 1\n\n[storage]\noffer = "2TB"\n'),
        ("[storage]", '[storage]\noffer = "2TB"\n'),
        ("[storage]\n\n[node]\noffer = 1\n", '[storage]\noffer = "2TB"\n\n[node]\noffer = 1\n'),
        ("[storage]\r\noffer = 1\r\n", '[storage]\r\noffer = "2TB"\r\n'),
        ("a = 1\r\n", 'a = 1\r\n\r\n[storage]\r\noffer = "2TB"\r\n'),
        ("[storage]\noffer='1 # TB'#x\n", '[storage]\noffer="2TB"#x\n'),
        ("[storage]\noffers = 1\noffer = 2", '[storage]\noffers = 1\noffer = "2TB"'),
    ],
)
def test_where_it_is_missing_it_is_added(before, after):
    assert with_setting(before, "storage", "offer", '"2TB"') == after


@pytest.mark.parametrize(
    "text",
    [
        'storage = { offer = "1TB" }\n',
        'storage.offer = "1TB"\n',
        '["storage"]\noffer = "1TB"\n',
        '[storage]\n"offer" = "1TB"\n',
        'a = """\n[storage]\noffer = 1\n"""\n',
        '[storage]\na = """\noffer = 1\n"""\noffer = 3\n',
        '[storage]\noffer = """\n1TB"""\n',
    ],
)
def test_what_is_written_otherwise_is_left_alone(text):
    tomllib.loads(text)
    with pytest.raises(UsageError, match="cannot be edited") as raised:
        with_setting(text, "storage", "offer", '"2TB"')
    assert 'offer = "2TB" under [storage]' in raised.value.hint


LINES = st.sampled_from(
    [
        "[storage]",
        "[node]",
        "offer = 1",
        "# [storage]",
        "x = '''",
        "'''",
        "[[storage]]",
        "y = 2",
        "",
    ]
)


@given(st.lists(LINES).map("\n".join))
def test_the_outcome_means_what_was_wanted_or_there_is_none(text):
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    if not isinstance(before.get("storage", {}), dict):
        return
    try:
        after = tomllib.loads(with_setting(text, "storage", "offer", "7"))
    except UsageError:
        return
    before.setdefault("storage", {})["offer"] = 7
    assert after == before


def test_a_file_keeps_its_mode_and_its_place(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    write_setting(home, "storage", "offer", '"1TB"')
    file = home / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    real = tmp_path / "dotfiles.toml"
    file.rename(real)
    real.chmod(0o644)
    file.symlink_to(real)
    write_setting(home, "storage", "offer", '"2TB"')
    assert file.is_symlink()
    assert real.read_text() == '[storage]\noffer = "2TB"\n'
    assert stat.S_IMODE(real.stat().st_mode) == 0o644
    before = real.stat().st_ino
    write_setting(home, "storage", "offer", '"2TB"')
    assert real.stat().st_ino == before  # nothing to do


@pytest.mark.parametrize("text", ["zzz = 1\n", "[storage\n", "[storage]\noffer = []\n"])
def test_a_file_with_a_mistake_is_not_touched(tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        write_setting(tmp_path, "storage", "offer", '"1TB"')
    assert raised.value.where == str(file)
    assert file.read_text() == text
