import json

from click.testing import CliRunner

from core import VERSION, native
from node.cli.portal import portal


def test_help_says_what_it_is_for():
    result = CliRunner().invoke(portal, ["--help"])
    assert result.exit_code == 0
    assert "without trusting" in result.output
    assert CliRunner().invoke(portal, ["--version"]).output == f"portal {VERSION}\n"


def test_self_test(monkeypatch):
    from core import process

    monkeypatch.setattr(process, "forbid_core_dumps", lambda: None)  # would last for this process
    result = CliRunner().invoke(portal, ["self-test"])
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()[:6]] == ["ok"] * 6
    report = json.loads(CliRunner().invoke(portal, ["self-test", "--json"]).output)
    assert report["message_type"] == "self_test"
    assert report["kernel"] in native.NAMES
    assert len(report["passed"]) == 6
