import json
import os
import tomllib

import pytest

from tests.support.program import Machine, one_line

CONFIG = """
vault = "/mnt/disk"

[profile.base]
exclude = ["*.tmp", "~/x"]
keep = { daily = 7, within = "2m", tags = ["a,b"], last = "all" }
hooks = { before = [["dump", "--all it's"]], timeout = "10min" }

[profile.home]
inherit = "base"
sources = ["~", "/srv/ä"]
gitignore = true
exclude_larger_than = "1GiB"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    return Machine(tmp_path, monkeypatch)


def shown(machine, *argv):
    return json.loads(machine.here("config", "show", "--json", *argv).stdout)


def test_the_path_of_the_file_even_if_it_is_not_there(machine, tmp_path):
    assert machine.here("config", "path").stdout == f"{machine.home / 'config.toml'}\n"
    odd = tmp_path / os.fsdecode(b"\xff \n")
    assert machine.here("config", "path", home=odd).stdout_bytes == (
        os.fsencode(odd) + b"/config.toml\n"
    )
    assert not machine.home.exists()


def test_without_a_file_everything_is_built_in(machine):
    report = shown(machine)
    assert (report["v"], report["message_type"], report["profile"]) == (1, "config", None)
    assert report["settings"]["vault"] == str(machine.home / "vault")
    assert report["settings"]["compression"] == "auto"
    assert report["settings"]["exclude_larger_than"] is None
    assert set(report["origin"].values()) == {"built-in"}
    assert set(report["origin"]) == set(report["settings"])


def test_each_setting_says_where_it_comes_from(machine, monkeypatch):
    machine.configure(CONFIG)
    monkeypatch.setenv("PORTAL_COMPRESSION", "lz4")
    report = shown(machine, "-P", "home", "-r", "/elsewhere")
    settings, origin = report["settings"], report["origin"]
    assert report["profile"] == "home"
    assert {name: (settings[name], origin[name]) for name in settings if "." in name} == {
        "keep.last": ("all", "profile base"),
        "keep.daily": (7, "profile base"),
        "keep.within": ("2m", "profile base"),
        "keep.tags": (["a,b"], "profile base"),
        "hooks.before": ([["dump", "--all it's"]], "profile base"),
        "hooks.timeout": ("600s", "profile base"),
    }
    assert (settings["sources"], origin["sources"]) == (["/home/ann", "/srv/ä"], "profile home")
    assert (settings["exclude"], origin["exclude"]) == (["*.tmp", "/home/ann/x"], "profile base")
    assert (settings["vault"], origin["vault"]) == ("/elsewhere", "option")
    assert (settings["compression"], origin["compression"]) == (
        "lz4",
        "environment PORTAL_COMPRESSION",
    )
    assert (settings["exclude_larger_than"], settings["gitignore"]) == (1 << 30, True)
    assert shown(machine)["origin"]["vault"] == "config.toml"


def test_the_text_is_a_profile(machine):
    machine.configure(CONFIG)
    text = machine.here("config", "show", "-P", "home").stdout
    assert text.startswith("# profile home\n")
    plain = tomllib.loads(text)
    assert plain["keep"]["daily"] == 7
    top = {name: plain.pop(name) for name in ("vault", "compression")}
    assert top == {"vault": "/mnt/disk", "compression": "auto"}
    lines = [line for line in text.splitlines() if not line.startswith(tuple(top))]
    machine.configure('vault = "/mnt/disk"\n[profile.home]\n' + "\n".join(lines))
    assert machine.here("config", "show", "-P", "home").stdout == text
    told = machine.here("config", "show", "-P", "home", "--origin").stdout
    assert tomllib.loads(told) == tomllib.loads(text)
    assert "  # profile home\n" in told
    assert "  # built-in\n" in told


def test_a_mistake_in_the_file_is_named(machine):
    machine.configure("[profile.home]\nsource = []\n")
    told = one_line(machine.here("config", "show", code=2), "unknown key 'source'")
    assert "did you mean sources?" in told
    machine.configure("")
    one_line(machine.here("config", "show", "-P", "gone", code=2), "no profile 'gone'")


def test_what_the_node_is_told_is_shown_in_its_own_tables(machine):
    machine.configure('[mesh]\ngrace = "3d"\n[node]\nmetrics = 9464\n')
    of_node = shown(machine)["node"]
    assert of_node["mesh.grace"] == {"value": "72h", "origin": "config.toml"}
    assert of_node["storage.offer"] == {"value": 0, "origin": "built-in"}
    assert of_node["node.control_socket"] == {"value": None, "origin": "built-in"}
    text = machine.here("config", "show", "--origin").stdout
    (line,) = (line for line in text.splitlines() if line.startswith("grace"))
    assert line.split("#") == [line.split("#")[0], " config.toml"]
    found = tomllib.loads(text)
    assert found["mesh"] == {"grace": "72h"}
    assert found["node"]["metrics"] == "127.0.0.1:9464"
    assert found["node"]["listen"] == "[::]:27272"
    before = shown(machine)["node"]
    tables = text[text.index("[node]") :]
    machine.configure(tables)  # what is shown can be written there
    assert {n: one["value"] for n, one in shown(machine)["node"].items()} == {
        n: one["value"] for n, one in before.items()
    }
