import pytest

from core import errors


def all_errors(cls=errors.PortalError):
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:  # other rooms have theirs, with tests of their own
            yield from all_errors(child)


def test_one_line_names_the_place_the_fault_and_the_next_step():
    error = errors.FormatError("is cut short", hint="restore it from a copy").at("keystore")
    assert str(error) == "keystore: is cut short (restore it from a copy)"
    assert str(error.at("elsewhere")).startswith("keystore: ")  # who knew first, knew best


@pytest.mark.parametrize("cls", list(all_errors()))
def test_the_docstring_is_the_message_when_no_better_one_is_given(cls):
    message = str(cls())
    assert message
    assert "\n" not in message
    assert not message.endswith(".")


def test_exit_codes_are_the_published_ones():
    codes = {cls.__name__: cls.exit_code for cls in all_errors() if cls.exit_code != 1}
    assert codes == {"UsageError": 2, "NotEnoughShards": 6, "WrongKey": 12, "NewerFormat": 13}


def test_a_message_remains_when_docstrings_are_stripped(monkeypatch):
    monkeypatch.setattr(errors.FormatError, "__doc__", None)
    assert str(errors.FormatError(where="file")) == "file: "
