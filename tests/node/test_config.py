from pathlib import Path

import pytest

from core import limits
from core.errors import UsageError
from node.config import (
    Config,
    NodeSettings,
    Settings,
    check_profile_name,
    expand_home,
    load,
    parse_address,
    resolve,
)
from node.hooks import Hooks
from portal.retention import ALL, Duration, Policy

HOME = Path("/home/bob")

EVERYTHING = """
vault = "~/vault"
compression = "zstd"

[profile.base]
exclude = ["*.tmp", "~/x"]
gitignore = true
keep = { daily = 7, weekly = 4 }
hooks = { before = [["sync"]], timeout = "10min" }

[profile.home]
inherit = "base"
vault = "/mnt/vault"
sources = ["~", "/srv"]
iexclude = ["!~/A"]
exclude_files = ["~/excludes"]
exclude_caches = true
exclude_if_present = [".nobackup:x"]
exclude_larger_than = "1GiB"
gitignore = false
one_file_system = true
tags = ["laptop", "daily run"]
schedule = "*-*-* 12:00"
stdin_command = ["pg_dump", "shop"]

[profile.home.keep]
last = "all"
daily = 14
within = "1m"
within_hourly = "2d"
tags = ["keep", "a, b"]

[profile.home.hooks]
after = [["notify", "done"], ["sync", ""]]
"""


@pytest.fixture
def read(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path, HOME)

    return write


def test_everything_there_is_to_say(read):
    found = resolve(read(EVERYTHING), profile="home")
    assert found == Settings(
        profile="home",
        vault=Path("/mnt/vault"),
        compression="zstd",
        sources=(HOME, Path("/srv")),
        exclude=("*.tmp", "/home/bob/x"),
        iexclude=("!/home/bob/A",),
        exclude_files=(Path("/home/bob/excludes"),),
        exclude_caches=True,
        exclude_if_present=(".nobackup:x",),
        exclude_larger_than=1 << 30,
        gitignore=False,
        one_file_system=True,
        tags=("laptop", "daily run"),
        keep=Policy(
            last=ALL,
            daily=14,
            weekly=4,
            within=Duration(months=1),
            within_hourly=Duration(days=2),
            tags=(frozenset({"keep"}), frozenset({"a", "b"})),
        ),
        hooks=Hooks(before=(("sync",),), after=(("notify", "done"), ("sync", "")), timeout_s=600),
        schedule="*-*-* 12:00",
        stdin_command=("pg_dump", "shop"),
        origin=found.origin,
    )


def test_where_each_setting_comes_from(read):
    origin = resolve(
        read(EVERYTHING),
        profile="home",
        options={"sources": (Path("/x"),), "exclude": (), "tags": None, "keep.weekly": 9},
        environment={"PORTAL_VAULT": "~/other", "PORTAL_COMPRESSION": ""},
        user_home=HOME,
    ).origin
    assert origin == {
        "profile": "profile home",
        "vault": "environment PORTAL_VAULT",
        "compression": "config.toml",
        "sources": "option",
        "exclude": "profile base",
        "iexclude": "profile home",
        "exclude_files": "profile home",
        "exclude_caches": "profile home",
        "exclude_if_present": "profile home",
        "exclude_larger_than": "profile home",
        "gitignore": "profile home",
        "one_file_system": "profile home",
        "tags": "profile home",
        "schedule": "profile home",
        "stdin_command": "profile home",
        "keep.last": "profile home",
        "keep.daily": "profile home",
        "keep.weekly": "option",
        "keep.within": "profile home",
        "keep.within_hourly": "profile home",
        "keep.tags": "profile home",
        "hooks.before": "profile base",
        "hooks.after": "profile home",
        "hooks.timeout_s": "profile base",
    }


@pytest.mark.parametrize("depth", range(5))
def test_the_nearer_place_decides(read, depth):
    text = ['vault = "/4"\n[profile.a]\n', '[profile.b]\nvault = "/3"\n[profile.a]\ninherit="b"\n']
    text = text[0] if depth == 4 else text[1] + ('vault = "/2"' if depth < 3 else "")
    found = resolve(
        read(text),
        profile="a",
        environment={"PORTAL_VAULT": "/1"} if depth < 2 else {},
        options={"vault": Path("/0")} if depth < 1 else {},
    )
    assert found.vault == Path(f"/{depth}")
    expected = ["option", "environment PORTAL_VAULT", "profile a", "profile b", "config.toml"]
    assert found.origin["vault"] == expected[depth]


def test_without_a_file_all_is_built_in(tmp_path):
    config = load(tmp_path / "none", HOME)
    assert config == Config(tmp_path / "none")
    found = resolve(config)
    assert found == Settings(origin=found.origin)
    assert set(found.origin.values()) == {"built-in"}
    assert found.keep.is_empty


def test_which_profile_counts(read):
    config = read("[profile.default]\ntags=['d']\n[profile.other]\ntags=['o']")
    assert resolve(config).tags == ("d",)
    assert resolve(config, environment={"PORTAL_PROFILE": "other"}).tags == ("o",)
    other = {"PORTAL_PROFILE": "other"}
    assert resolve(config, profile="default", environment=other).profile == "default"
    assert resolve(read("[profile.x]\ntags=['d']")).profile is None
    with pytest.raises(UsageError, match=r"there is no profile 'othr' \(did you mean other\?\)"):
        resolve(config, profile="othr")


def test_a_policy_of_the_command_line_stands_for_itself(read):
    found = resolve(read(EVERYTHING), profile="home", options={"keep": Policy(last=1)})
    assert found.keep == Policy(last=1)
    assert {n: o for n, o in found.origin.items() if n.startswith("keep")} == {"keep": "option"}


def test_an_empty_list_replaces_what_is_inherited(read):
    config = read("[profile.a]\nexclude=['x']\n[profile.b]\ninherit='a'\nexclude=[]")
    assert resolve(config, profile="b").exclude == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vualt = '/x'", r"unknown key 'vualt' \(did you mean vault\?\)"),
        ("[profile.a]\nexlude = []", r"unknown key 'exlude' in profile.a \(did you mean exclude\?"),
        ("[profile.a.keep]\ndayly = 1", r"'dayly' in profile.a.keep \(did you mean daily\?\)"),
        ("[profile.a.hooks]\nbefor = []", r"'befor' in profile.a.hooks \(did you mean before\?\)"),
        ("[profile.a]\nkeep.within_minutely = '1d'", "unknown key 'within_minutely'"),
        (
            "zzz = 1",
            r"unknown key 'zzz' \(there are vault, compression, profile, node, storage, mesh\)",
        ),
        ("vault = 1", "vault must be one line of text"),
        ("vault = 'here'", "vault must be a path that begins with / or ~/"),
        ("vault = ''", "vault must be one line"),
        ("compression = 'gzip'", "compression must be one of auto, none, lz4, zstd"),
        ("compression = ['zstd']", "compression must be one of"),
        ("profile = 1", "profile must be a table"),
        ("profile.a = 1", "profile.a must be a table"),
        ("[profile.a]\nkeep = 7", "profile.a.keep must be a table"),
        ("[profile.a]\nsources = '/x'", r"profile.a.sources must be a list in \[ \]"),
        ("[profile.a]\nsources = ['x']", "profile.a.sources must be a list, each of it a path"),
        ("[profile.a]\nexclude = [1]", "profile.a.exclude must be a list, each of it one line"),
        ("[profile.a]\ngitignore = 1", "profile.a.gitignore must be true or false"),
        ("[profile.a]\ngitignore = 'yes'", "profile.a.gitignore must be true or false"),
        ("[profile.a]\nexclude_larger_than = true", "exclude_larger_than must be a size"),
        ("[profile.a]\nexclude_larger_than = '5X'", "profile.a.exclude_larger_than: '5X' is no"),
        ("[profile.a]\nkeep.daily = true", "profile.a.keep.daily must be a number"),
        ("[profile.a]\nkeep.daily = -2", "profile.a.keep.daily must be a number"),
        ("[profile.a]\nkeep.within = '7x'", "profile.a.keep.within: '7x' is no duration"),
        ("[profile.a]\nkeep.tags = ['a,']", "profile.a.keep.tags must be"),
        ("[profile.a]\nhooks.before = ['sync']", "profile.a.hooks.before must be a list, each"),
        ("[profile.a]\nhooks.before = [[]]", "each of it a program and its arguments"),
        ("[profile.a]\nhooks.before = [['a', 1]]", "each of it a program and its arguments"),
        ("[profile.a]\nhooks.timeout = 10", "profile.a.hooks.timeout must be a time"),
        ("[profile.a]\nhooks.timeout = '10m'", "profile.a.hooks.timeout: '10m' is no time"),
        ("[profile.a]\ntags = ['a,b']", "each without a comma"),
        ('[profile.a]\nschedule = "a\\nb"', "profile.a.schedule must be one line of text"),
        ("[profile.a]\nstdin_command = 'x'", "profile.a.stdin_command must be a program"),
        ("[profile.a]\ninherit = ['b']", "profile.a.inherit must be the name of a profile"),
        ("[profile.a]\ninherit = 'b'", "no profile 'b', which a inherits"),
        ("[profile.a]\ninherit = 'a'", "in a circle: a -> a"),
        ("[profile.a]\ninherit='b'\n[profile.b]\ninherit='a'", "in a circle: a -> b -> a"),
        ("[profile.'../x']\n", "'../x' is no name for a profile"),
        ("vault = \n", "this is not TOML: .*line 1"),
        ("a = " + "[" * 5000, "nested too deeply|not TOML"),
    ],
)
def test_mistakes_are_named_with_the_file(read, tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as e:
        read(text)
    assert e.value.where == str(tmp_path / "config.toml")


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_bytes(b"vault = '\xff'")
    with pytest.raises(UsageError, match="not TOML"):
        load(path, HOME)
    monkeypatch.setattr(limits, "CONFIG_FILE_BYTES_MAX", 3)
    with pytest.raises(UsageError, match="larger than 3 bytes"):
        load(path, HOME)


def test_a_wrong_variable_is_named(tmp_path):
    with pytest.raises(UsageError, match="PORTAL_COMPRESSION: must be one of"):
        resolve(Config(tmp_path), environment={"PORTAL_COMPRESSION": "fast"})
    with pytest.raises(UsageError, match="PORTAL_VAULT: must be a path"):
        resolve(Config(tmp_path), environment={"PORTAL_VAULT": "relative"})


def test_the_home_is_written_out_at_the_start_only():
    assert expand_home("~", HOME) == "/home/bob"
    assert expand_home("~/a", HOME) == "/home/bob/a"
    assert expand_home("!~/a", HOME) == "!/home/bob/a"
    for same in ("a~", "~alice/a", "/~/a", "*.~"):
        assert expand_home(same, HOME) == same


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a.b", "x" * 65, "\u00e9", "a\n"])
def test_names_that_cannot_be_part_of_a_file_name_are_refused(name):
    with pytest.raises(UsageError, match="no name for a profile"):
        check_profile_name(name)


# --- [node] ---------------------------------------------------------------------------------------


def test_the_daemon_has_a_table_of_its_own(read):
    node = read('[node]\nlog_level = "debug"\nmetrics = 9464\ncontrol_socket = "~/s"\n').node
    assert node.log_level == "debug"
    assert str(node.metrics) == "127.0.0.1:9464"
    assert node.control_socket is not None
    assert node.control_socket.is_absolute()
    assert read("").node == NodeSettings()
    assert NodeSettings().metrics is None  # nothing listens unless it is asked for


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "[::]:27272"),
        ("listen = 4000", "[::]:4000"),
        ("listen = '4000'", "[::]:4000"),
        ("listen = ':4000'", "[::]:4000"),
        ("listen = '127.0.0.1:0'", "127.0.0.1:0"),
        ("listen = '[::1]:4000'", "[::1]:4000"),
        ("listen = '0.0.0.0:4000'", "0.0.0.0:4000"),
    ],
)
def test_where_peers_find_this_node(read, text, address):
    assert str(read(f"[node]\n{text}").node.listen) == address


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464, True),
        ("127.1.2.3:0", "127.1.2.3", 0, True),
        ("9464", "127.0.0.1", 9464, True),
        (":9464", "127.0.0.1", 9464, True),
        ("[::1]:9464", "::1", 9464, True),
        ("0.0.0.0:1", "0.0.0.0", 1, False),
        ("[::]:65535", "::", 65_535, False),
        ("192.168.1.5:80", "192.168.1.5", 80, False),
    ],
)
def test_addresses(text, host, port, loopback):
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "localhost:1", "1.2.3.4", "1.2.3:5", "::1:5", "[1.2.3.4]:5", "1.2.3.4:65536"),
        *("[::1]", "1.2.3.4:-1", "1.2.3.4:٣", "1.2.3.4:", "[::1:5"),
    ],
)
def test_no_addresses(text):
    with pytest.raises(UsageError, match="no address to listen on"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node = 5", "node must be a table"),
        ("[node]\nlog_levle = 'info'", r"'log_levle' in node \(did you mean log_level\?\)"),
        ("[node]\nlog_level = 'loud'", "node.log_level must be one of debug, info"),
        ("[node]\nmetrics = true", "node.metrics must be an address"),
        ("[node]\nmetrics = 'box:1'", "node.metrics: 'box:1' is no address"),
        ("[node]\nmetrics = 70000", "no address"),
        ("[node]\nlisten = true", "node.listen must be an address"),
        ("[storage]\noffers = 1", "unknown key 'offers' in storage .did you mean offer"),
        ("[storage]\noffer = true", "storage.offer must be a size"),
        ("[storage]\noffer = -1", "storage.offer must be a size"),
        ("[storage]\noffer = 'much'", "storage.offer: 'much' is no size"),
        ("[storage]\noffer = '2EiB'", "storage.offer must be a size that somebody may have"),
        ("storage = 1", "storage must be a table"),
        ("[node]\nlisten = 70000", "no address"),
        ("[node]\nlisten = 'box:1'", "node.listen: 'box:1' is no address"),
        ("[node]\ncontrol_socket = 'here'", "node.control_socket must be a path that begins"),
    ],
)
def test_mistakes_in_the_table_of_the_daemon(read, text, message):
    with pytest.raises(UsageError, match=message):
        read(text)


@pytest.mark.parametrize(("text", "size"), [("'500GB'", 500 * 10**9), ("0", 0), ("1024", 1_024)])
def test_what_is_offered_to_others(read, text, size):
    assert NodeSettings().offer_bytes == 0
    assert read(f"[storage]\noffer = {text}\n[node]\n").node.offer_bytes == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("3d", 259_200), ("365d", 31_536_000)]
)
def test_how_patient_this_node_is(read, text, seconds):
    assert NodeSettings().grace_s == 86_400
    found = read(f"[mesh]\ngrace = '{text}'\n")
    assert found.node.grace_s == seconds
    assert found.node_origin == {"mesh.grace": "config.toml"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grace = '23h'", "mesh.grace must be from 24h to 365d"),
        ("grace = '366d'", "mesh.grace must be from 24h to 365d"),
        ("grace = 86400", "mesh.grace must be a time"),
        ("grace = 'long'", "mesh.grace: 'long' is no time"),
        ("grase = '3d'", "unknown key 'grase' in mesh .did you mean grace"),
    ],
)
def test_mistakes_about_patience(read, text, message):
    with pytest.raises(UsageError, match=message):
        read(f"[mesh]\n{text}\n")
