import pytest

from core.errors import IntegrityError, PortalError
from portal import errors


def all_errors():
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and one.__module__ == errors.__name__
    ]


@pytest.mark.parametrize("cls", all_errors())
def test_the_docstring_is_the_message_when_no_better_one_is_given(cls):
    message = str(cls())
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    assert str(cls("is not here", hint="look").at("there")) == "there: is not here (look)"


def test_exit_codes_are_the_published_ones():
    codes = {cls.__name__: cls.exit_code for cls in all_errors() if cls.exit_code != 1}
    assert codes == {"NoVault": 10, "NotOurs": 12}


def test_what_is_worth_trying_again_says_so():
    assert [cls.__name__ for cls in all_errors() if cls.retryable] == ["Moved"]


def test_all_of_them_are_told_in_one_line_and_what_is_missing_is_damage():
    assert len(all_errors()) == 5
    assert all(issubclass(cls, PortalError) for cls in all_errors())
    assert issubclass(errors.Missing, IntegrityError)  # a walk goes on behind it
    assert not issubclass(errors.NoSnapshot, IntegrityError)
