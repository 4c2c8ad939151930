import copy
import json
import logging
import pickle
import traceback

import pytest

from core.errors import PortalError
from core.secret import Secret

VALUE = b"correct horse battery"


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda s: f"{s:>40}", ascii])
def test_no_way_of_printing_shows_it(show):
    assert "horse" not in show(Secret(VALUE))
    assert "secret" in show(Secret(VALUE))


def test_it_is_not_logged_or_shown_in_a_container_or_a_traceback(caplog):
    secret = Secret(VALUE)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("key %s in %s", secret, [secret])
    assert "horse" not in caplog.text
    assert "horse" not in "".join(traceback.format_exception(ValueError(secret)))


def test_it_cannot_be_pickled_turned_to_json_hashed_or_compared():
    secret = Secret(VALUE)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        {secret}  # noqa: B018 - building the set is the test
    with pytest.raises(TypeError):
        secret == secret  # noqa: B015, PLR0124 - comparing is the test
    with pytest.raises(TypeError):
        bytes(secret)


def test_copies_are_the_secret_itself():
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_a_wrong_size_is_refused_without_showing_the_value():
    with pytest.raises(PortalError) as caught:
        Secret(VALUE, 32)
    assert "horse" not in str(caught.value)
    assert Secret(bytes(32), 32).reveal() == bytes(32)
