from pathlib import Path

from node.home import portal_home


def test_portal_home_moves_everything(monkeypatch, tmp_path):
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path))
    assert portal_home() == tmp_path


def test_without_it_the_habits_of_the_system_decide(monkeypatch, tmp_path):
    monkeypatch.delenv("PORTAL_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert portal_home() == tmp_path / "portal"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert portal_home() == Path.home() / ".local" / "share" / "portal"
