import json
import os
from types import SimpleNamespace

import pytest

from node import api
from node.control import Control
from tests.support.home import somebody
from tests.support.program import Machine, one_line


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path, monkeypatch)
    somebody(found.home)
    return found


def settings(machine):
    return (machine.home / "config.toml").read_text()


def test_nothing_is_offered_until_somebody_says_so(machine):
    assert machine.here("offer").stdout == "offered to others: nothing\n"
    assert not (machine.home / "config.toml").exists()


def test_an_offer_is_kept_beside_what_was_there(machine):
    machine.configure('# mine\n[node]\nlog_level = "debug"\n')
    done = machine.here("offer", "1MiB")
    assert done.stdout == "offered to others: 1.0 MiB\n"
    assert "no node runs here" in done.stderr
    assert settings(machine) == (
        '# mine\n[node]\nlog_level = "debug"\n\n[storage]\noffer = "1MiB"\n'
    )
    assert machine.here("offer").stdout == done.stdout
    machine.here("offer", " None")
    assert settings(machine).endswith("offer = 0\n")
    assert machine.here("offer").stdout == "offered to others: nothing\n"


def test_a_node_that_runs_is_told(machine, monkeypatch):
    told = []
    done = api.ConfigReloaded(changed=["offer_bytes"], waiting=[])
    monkeypatch.setattr(Control, "reload", lambda _: told.append(settings(machine)) or done)
    assert machine.here("offer", "1GB").stderr == ""
    assert told == ['[storage]\noffer = "1GB"\n']


def test_who_offers_more_than_there_is_is_told(machine, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=3, f_frsize=1 << 20))
    done = machine.here("offer", "3MiB")
    assert "has only" not in done.stderr
    done = machine.here("offer", "4MiB")
    assert done.stdout == "offered to others: 4.0 MiB\n"
    assert "portal: this disk has only 3.0 MiB free" in done.stderr
    shown = machine.here("offer", "--json")
    assert json.loads(shown.stdout) == {
        "v": 1,
        "message_type": "offer",
        "offer_bytes": 4 << 20,
        "free_bytes": 3 << 20,
    }


@pytest.mark.parametrize("size", ["", "much", "1XB", "2EiB", "99999PB"])
def test_wrong_sizes_change_nothing(machine, size):
    one_line(machine.here("offer", size, code=2))
    assert not (machine.home / "config.toml").exists()


def test_minus_one_is_an_option_nobody_has(machine):
    assert "No such option" in machine.here("offer", "-1", code=2).stderr


def test_a_file_that_cannot_be_edited_is_named(machine):
    machine.configure('storage.offer = "1TB"\n')
    one_line(machine.here("offer", "2TB", code=2), "config.toml", "cannot be edited", "by hand")
    assert settings(machine) == 'storage.offer = "1TB"\n'
    assert machine.here("offer").stdout == "offered to others: 931.3 GiB\n"


def test_before_there_are_keys_it_says_what_comes_first(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch)
    one_line(machine.here("offer", "1GB", code=10), "portal init")
    assert not machine.home.exists()
