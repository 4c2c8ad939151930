import json
import logging
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.errors import UsageError
from core.ids import NodeId
from core.secret import Secret
from node.log import (
    LEVELS,
    Form,
    Level,
    Limiter,
    Log,
    Sink,
    error_text,
    line,
    place,
    routed,
    usual_form,
)

NOW_S = 1_795_274_211.1234


class Kept:
    """A log whose lines are kept, at a time of our choice."""

    def __init__(self, **options):
        self.now_s = NOW_S
        self.lines = []
        self.sink = Sink(self.lines.append, now=lambda: self.now_s, **options)
        self.log = Log(self.sink, "mesh")


def test_a_line_for_people_for_the_journal_and_for_machines():
    facts = {"service": "control", "took_ms": 3, "again": True, "none": None}
    head = (NOW_S, Level.WARNING, "mesh", "service started", facts)
    rest = "mesh: service started service=control took_ms=3 again=true\n"
    assert line(Form.TEXT, *head) == f"2026-11-21T15:16:51.123Z warning {rest}"
    assert line(Form.JOURNAL, *head) == f"<4>{rest}"
    assert json.loads(line(Form.JSON, *head)) == {
        "v": 1,
        "at": "2026-11-21T15:16:51.123Z",
        "level": "warning",
        "part": "mesh",
        "event": "service started",
        "service": "control",
        "took_ms": 3,
        "again": True,
    }


def test_a_fact_never_takes_the_place_of_what_every_line_has():
    told = json.loads(line(Form.JSON, NOW_S, Level.INFO, "mesh", "x", {"at": 1, "level": "2"}))
    assert (told["level"], told["level_"], told["at_"]) == ("info", "2", 1)


@given(st.text(), st.sampled_from(Form))
def test_no_value_begins_another_line_or_moves_a_cursor(text, form):
    told = line(form, NOW_S, Level.INFO, "mesh", "peer said", {"text": text})
    assert told.endswith("\n")
    assert told[:-1].isprintable()
    assert len(told.splitlines()) == 1


@given(st.text(max_size=100))
def test_a_quoted_value_can_be_read_back(text):
    told = line(Form.JSON, NOW_S, Level.INFO, "mesh", "peer said", {"said": text})
    if "pn" not in text.lower():
        assert json.loads(told)["said"] == text


def test_only_values_of_known_kinds_are_shown():
    key = bytes(range(32))

    class Holder:
        def __repr__(self):
            return key.hex()

    kept = Kept()
    kept.log.info(
        "shown",
        raw=key,
        hidden=Secret(key),
        listed=[Secret(key), key, Holder()],
        mapped={"a": key, "token": "xyz", "key": key},
        holder=Holder(),
        node=NodeId(key),
        passphrase="correct horse",
        token="xyz",
        code=12345,
    )
    (told,) = kept.lines
    for leak in ("correct", "xyz", "12345", key.hex(), "\\x01", "000102"):
        assert leak not in told
    assert 'raw="<32 bytes>"' in told
    assert f"node={NodeId(key).short()}" in told
    assert 'listed="<Secret>,<32 bytes>,<Holder>"' in told
    assert 'mapped="a:<32 bytes>,token:<hidden>,key:<hidden>"' in told


@pytest.mark.parametrize("form", Form)
def test_texts_lose_what_gives_rights(form):
    invite = "pnj1-7gq3k-2m9xz-0aaaa-bcdef"
    told = line(form, NOW_S, Level.ERROR, "mesh", "x", {"error": UsageError(f"bad {invite}, see")})
    assert "7gq3k" not in told
    assert "pnj1-<hidden>" in told
    assert "see" in told
    kit = line(form, NOW_S, Level.ERROR, "mesh", "x", {"argv": ["portal", "recover", "PNK1-ABCDE"]})
    assert "ABCDE" not in kit


def test_long_values_are_cut():
    told = line(Form.TEXT, NOW_S, Level.INFO, "mesh", "x", {"text": "a" * 100_000})
    assert len(told) < limits.LOG_VALUE_CHARS_MAX + 100
    assert "(100000 characters)" in told


def test_what_matters_less_is_counted_and_not_written():
    kept = Kept(level=Level.WARNING)
    kept.log.info("small")
    kept.log.warning("large")
    assert len(kept.lines) == 1
    assert kept.sink.counts[Level.INFO] == kept.sink.counts[Level.WARNING] == 1
    kept.sink.level = LEVELS["debug"]
    kept.log.debug("tiny")
    assert "debug mesh: tiny" in kept.lines[-1]


def test_many_equal_lines_become_a_count():
    kept = Kept()
    for n in range(1_000):
        kept.log.warning("stranger refused", port=n)
    assert len(kept.lines) == limits.LOG_LINES_MAX
    kept.log.warning("something else")  # of its own kind: it comes through
    assert "something else" in kept.lines[-1]
    kept.now_s += 61
    kept.log.info("quiet again")
    assert f'what="mesh: stranger refused" count={1_000 - limits.LOG_LINES_MAX}' in kept.lines[-2]
    kept.log.warning("stranger refused")
    assert "stranger refused" in kept.lines[-1]


def test_what_was_held_back_is_told_at_the_end_at_the_latest():
    kept = Kept()
    for _ in range(limits.LOG_LINES_MAX + 7):
        kept.log.error("again")
    kept.sink.close()
    assert "count=7" in kept.lines[-1]


def test_debugging_lines_are_never_held_back():
    kept = Kept(level=Level.DEBUG)
    for _ in range(limits.LOG_LINES_MAX * 2):
        kept.log.debug("again")
    assert len(kept.lines) == limits.LOG_LINES_MAX * 2


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(-100, 100)), max_size=300))
def test_the_limiter_counts_everything_and_stays_small(events):
    limiter = Limiter()
    now, admitted, told = 0.0, 0, 0
    for kind, step in events:
        now += step
        is_admitted, held_back = limiter.admit(str(kind), now)
        admitted += is_admitted
        told += sum(count for _, count in held_back)
        assert len(limiter._windows) <= limits.LOG_KINDS_MAX
    told += sum(count for _, count in limiter.finish())
    assert admitted + told == len(events)


def test_the_limiter_forgets_the_oldest_kind_first():
    limiter = Limiter()
    for _ in range(limits.LOG_LINES_MAX + 1):
        limiter.admit("first", 0.0)
    for n in range(limits.LOG_KINDS_MAX - 1):
        assert limiter.admit(str(n), 1.0) == (True, [])
    assert limiter.admit("one more", 2.0) == (True, [("first", 1)])


def test_nobody_reading_is_no_failure():
    def broken(_text):
        raise BrokenPipeError

    Log(Sink(broken)).error("said to nobody")


def test_threads_may_write():
    kept = Kept(level=Level.DEBUG)
    threads = [
        threading.Thread(target=lambda: [kept.log.debug("x") for _ in range(200)]) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert kept.sink.counts[Level.DEBUG] == len(kept.lines) == 800


def test_libraries_are_heard_at_their_level():
    kept = Kept(level=Level.DEBUG)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with routed(kept.log):
        logging.getLogger("a_library").debug("the key is %s", "abc")
        logging.getLogger("a_library").info("connected to %s", "1.2.3.4")
        logging.getLogger("a_library").warning("bad packet %d", 7)
        logging.getLogger("a_library").error("wrong arguments %d %d", 1)  # noqa: PLE1206
        try:
            [].pop()
        except IndexError:
            logging.getLogger("h").exception("failed")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", ResourceWarning, stacklevel=1)
    assert (root.handlers, root.level) == before
    told = "".join(kept.lines)
    assert "abc" not in told
    assert 'debug library: said library=a_library text="connected to 1.2.3.4"' in told
    assert 'warning library: said library=a_library text="bad packet 7"' in told
    assert "error library: said library=a_library" in told
    assert 'text=failed error="IndexError: pop from empty list"' in told
    assert "library=py.warnings" in told


def test_a_library_that_repeats_itself_is_held_back_whatever_it_says():
    kept = Kept()
    with routed(kept.log):
        for n in range(500):
            logging.getLogger("a_library").warning("bad packet %d", n)
    assert len(kept.lines) == limits.LOG_LINES_MAX


def test_errors_in_one_line():
    assert error_text(UsageError("no", where="a", hint="b")) == "a: no (b)"
    assert error_text(FileNotFoundError(2, "No such file", "/x")) == "/x: No such file"
    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert error_text(ExceptionGroup("g", [ValueError("1"), TypeError()])) == (
        "ValueError: 1; TypeError"
    )


def test_a_fault_of_ours_says_where():
    with pytest.raises(ExceptionGroup) as raised:
        raise ExceptionGroup("g", [_fault()])
    assert place(raised.value).startswith("node/test_log.py:")
    assert place(UsageError("no")) is None


def _fault():
    try:
        {}["x"]
    except KeyError as e:
        return e


def test_the_journal_is_known_by_its_stream():
    assert usual_form({"JOURNAL_STREAM": "8:1234"}, (8, 1234)) is Form.JOURNAL
    assert usual_form({"JOURNAL_STREAM": "8:1234"}, (8, 1)) is Form.TEXT
    assert usual_form({}, None) is Form.TEXT
