import json

import pytest

from node.cli import progress
from node.cli.progress import Status, size_text, time_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_500_000_000, "1.4 GiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_sizes(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_times(seconds, text):
    assert time_text(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_json_lines_come_once_a_second_with_what_is_left(clock, capsys):
    status = Status(as_json=True)
    for clock[0] in (100.5, 101.5, 101.6, 103.0):
        status.update(int(clock[0] - 100) * 1000, 10_000, 7)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["bytes"] for line in lines] == [1000, 3000]
    assert all(line["message_type"] == "status" and line["v"] == 1 for line in lines)
    assert lines[1]["seconds_left"] == 7


def test_a_terminal_gets_one_line_with_rate_and_eta_that_goes_away(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    status = Status(as_json=False)
    clock[0] = 102.0
    status.update(2 << 20, 8 << 20, 3, "some/file")
    shown = capsys.readouterr().err
    assert shown.startswith("\r[0:02] 25.0%  3 files 2.0 MiB, 1.0 MiB/s ETA 0:06  some/file")
    clock[0] = 102.05
    status.update(3 << 20, 8 << 20, 4)
    assert capsys.readouterr().err == ""
    status.say("done")
    assert capsys.readouterr().err.endswith("\rdone\n")


def test_pipes_and_quiet_runs_get_no_status(clock, capsys):
    for status in (Status(as_json=False), Status(as_json=True, quiet=True)):
        clock[0] += 10
        status.update(1, 2, 3)
    assert capsys.readouterr() == ("", "")


def test_it_is_due_only_when_something_would_be_said(clock, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    status = Status(as_json=False)
    assert not status.is_due
    clock[0] = 102.0
    assert status.is_due
    assert not Status(as_json=False, quiet=True).is_due
    status.update(1, 2, 3)
    assert not status.is_due


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 min 0 s"), (65, "1 min 5 s"), (3_700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_spans_are_told_in_two_words(monkeypatch, seconds, text):
    monkeypatch.setattr(progress.time, "time", lambda: 1_000_000.0)
    assert progress.since_text(1_000_000.0 - seconds) == text
