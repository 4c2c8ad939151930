import pytest

from core.tree.matching import everything, matching


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        ((), "a.txt d d/b.txt d/e/c.jpg dd"),
        ((b"d",), "d d/b.txt d/e/c.jpg"),
        ((b"/d/",), "d d/b.txt d/e/c.jpg"),
        ((b"d/e",), "d/e/c.jpg"),
        ((b"a.txt", b"dd"), "a.txt dd"),
        ((b"*.txt",), "a.txt d/b.txt"),
        ((b"d?",), "dd"),
        ((b"?",), "d d/b.txt d/e/c.jpg"),
        ((b"[a]*",), "a.txt"),
        ((b"D",), ""),
        ((b"",), ""),
    ],
)
def test_patterns(patterns, taken):
    paths = [b"a.txt", b"d", b"d/b.txt", b"d/e/c.jpg", b"dd"]
    assert {p for p in paths if matching(patterns)(p)} == set(taken.encode().split())


def test_patterns_of_odd_names():
    assert matching((b"\xff[1]",))(b"\xff[1]")
    assert matching((b"\xff*",))(b"\xff\n\xfe/x")
    assert matching((b"x[1]",))(b"x[1]/below")
    assert not matching((b"x[1]",))(b"x2")


def test_no_pattern_means_everything():
    assert matching(()) is everything
    assert everything(b"whatever")
