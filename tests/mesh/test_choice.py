import random

from mesh.choice import DWELL_SECONDS, SAMPLES_IN_A_ROW, Choice


class ByNumber:
    """Things are letters; each has a class and a value, and more by a fifth is better."""

    def __init__(self, values, ranks=None):
        self.values = values
        self.ranks = ranks or {}

    def rank(self, one):
        return self.ranks.get(one, 0)

    def order(self, one):
        return (one,)

    def is_better(self, one, than):
        return self.values[one] >= 1.2 * self.values[than]

    def takes_over(self, one, current):
        return self.is_better(one, current)


def test_the_first_choice_is_the_best_and_the_first_in_order_when_equal():
    assert Choice(ByNumber({"a": 1.0, "b": 1.1})).settle("ba", 0.0) == "a"
    assert Choice(ByNumber({"a": 1.0, "b": 1.3, "c": 1.4})).settle("abc", 0.0) == "b"
    assert Choice(ByNumber({})).settle("", 0.0) is None


def test_another_takes_over_after_three_samples_in_a_row_and_not_before_the_dwell():
    judge = ByNumber({"a": 1.0, "b": 1.0})
    choice = Choice(judge)
    choice.settle("ab", 100.0)
    judge.values["b"] = 2.0
    for n in range(10):
        choice.sampled("b", "ab", 100.0 + n)
    assert choice.held == "a"
    choice.sampled("b", "ab", 100.0 + DWELL_SECONDS)
    assert (choice.held, choice.switches) == ("b", 1)


def test_samples_in_a_row_are_in_a_row():
    judge = ByNumber({"a": 1.0, "b": 1.0})
    choice = Choice(judge, dwell_s=0.0)
    choice.settle("ab", 0.0)
    for value in (2.0, 2.0, 1.1, 2.0, 2.0):
        judge.values["b"] = value
        choice.sampled("b", "ab", 1.0)
        assert choice.held == "a"
    assert SAMPLES_IN_A_ROW == 3
    choice.sampled("b", "ab", 1.0)
    assert choice.held == "b"


def test_a_higher_class_is_taken_at_once_and_a_lower_one_never_by_measure():
    judge = ByNumber({"a": 1.0, "b": 1.0, "c": 99.0}, {"a": 1, "b": 0, "c": 2})
    choice = Choice(judge)
    assert choice.settle("a", 0.0) == "a"
    assert choice.settle("abc", 0.1) == "b"
    for n in range(100):
        choice.sampled("abc", "abc", n * 10.0)
    assert choice.held == "b"


def test_what_is_unusable_is_left_at_once_and_kept_while_there_is_nothing_else():
    choice = Choice(ByNumber({"a": 1.0, "b": 1.0}))
    assert choice.settle("a", 0.0) == "a"
    assert choice.settle("", 0.1) == "a"
    choice.sampled("a", "", 0.2)
    assert choice.settle("b", 0.3) == "b"


def test_what_is_dropped_is_not_held_and_its_samples_do_not_count():
    judge = ByNumber({"a": 1.0, "b": 9.0})
    choice = Choice(judge, dwell_s=0.0)
    choice.settle("a", 0.0)
    choice.sampled("b", "ab", 0.0)
    choice.sampled("b", "ab", 0.0)
    choice.drop("b")
    choice.sampled("b", "ab", 0.0)
    assert choice.held == "a"
    choice.drop("a")
    assert choice.held is None
    assert choice.settle("b", 0.0) == "b"
    assert choice.switches == 0


def test_of_two_that_are_ready_the_best_is_taken():
    judge = ByNumber({"a": 1.0, "b": 1.0, "c": 1.0})
    choice = Choice(judge)
    choice.settle("abc", 0.0)
    judge.values.update(b=1.3, c=2.0)
    for n in range(4):
        choice.sampled("bc", "abc", 20.0 + 5 * n)
    assert choice.held == "c"


def test_noise_makes_no_one_take_turns():
    judge, rng = ByNumber({"a": 1.0, "b": 1.0}), random.Random(1)
    choice = Choice(judge)
    for n in range(20_000):
        judge.values = {one: rng.uniform(0.95, 1.05) for one in "ab"}
        choice.sampled("ab", "ab", float(n))
    assert choice.switches == 0
