import json

from core.errors import PortalError
from core.tree.entry import AlreadyThere, Incomplete, Skipped
from node.cli.faults import Faults
from node.cli.progress import Status

HINT = "choose what to do with such files: --overwrite"


def faults(*, as_json=False, verbose=False, quiet=False):
    return Faults(Status(as_json=as_json, quiet=quiet), verbose=verbose)


def test_every_error_is_a_line_and_counts(capsys):
    some = faults(quiet=True)
    assert some.exit_code == 0
    some.report(b"home/a", PermissionError(13, "Permission denied"))
    some.report(b"/home/b", PortalError("is damaged", where="elsewhere"))
    assert some.errors == 2
    assert some.exit_code == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "portal: /home/a: Permission denied\nportal: /home/b: is damaged\n"


def test_what_to_do_is_said_once(capsys):
    some = faults()
    for path in (b"a", b"b"):
        some.report(path, AlreadyThere("is there", hint=HINT))
    some.report(b"c", PortalError("is odd", hint="look at it"))
    assert capsys.readouterr().err.splitlines() == [
        f"portal: /a: is there ({HINT})",
        "portal: /b: is there",
        "portal: /c: is odd (look at it)",
    ]


def test_a_thousand_hints_are_not_kept(capsys):
    some = faults()
    for number in range(1000):
        some.report(b"a", PortalError("is odd", hint=f"hint {number}"))
    assert capsys.readouterr().err.count("hint") == 8
    assert some.errors == 1000


def test_notes_are_for_those_who_want_them(capsys):
    for verbose in (False, True):
        some = faults(verbose=verbose)
        some.report(b"a", Incomplete("its owner stays"))
        some.report(b"b", Skipped("is a socket"))
        assert (some.errors, some.exit_code) == (0, 0)
    assert capsys.readouterr().err.splitlines() == [
        "portal: /a: its owner stays",
        "portal: /b: is a socket",
    ]


def test_json(capsys):
    some = faults(as_json=True)
    some.report(b"home/\xff\n", OSError(5, "Input/output error"))
    some.report(b"b", Incomplete("its owner stays"))
    out, err = capsys.readouterr()
    assert err == ""
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "v": 1,
        "message_type": "error",
        "path": "home/\\xff\\n",
        "what": "Input/output error",
    }
    assert (second["message_type"], second["path"]) == ("warning", "b")


def test_a_name_does_not_reach_the_terminal_as_it_is(capsys):
    faults().report(b"\x1b[2J\n", OSError(5, "Input/output error"))
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("\n") == 1
