import inspect
import subprocess
import sys

import msgspec
import pytest

from node import api
from tests.support.home import REPOSITORY


def models():
    found = [one for _, one in inspect.getmembers(api, inspect.isclass)]
    return [one for one in found if issubclass(one, msgspec.Struct)]


@pytest.mark.parametrize("model", models(), ids=lambda one: one.__name__)
def test_every_model_says_what_it_is_and_is_of_one_of_two_kinds(model):
    assert issubclass(model, api.Answer | api.Question)
    assert model.__doc__
    assert model.__struct_config__.frozen
    assert model.__struct_config__.forbid_unknown_fields == issubclass(model, api.Question)


def test_an_answer_of_a_newer_node_can_be_read():
    health = msgspec.json.decode(b'{"ok":true,"complaints":[],"new":1}', type=api.Health)
    assert health == api.Health(ok=True, complaints=[])


def test_an_event_carries_its_data_as_it_is():
    text = b'{"seq":7,"at_s":1.5,"kind":"peer.seen","data":{"peer":"ann"}}'
    event = msgspec.json.decode(text, type=api.Event)
    assert event.facts() == {"peer": "ann"}
    assert msgspec.json.encode(event) == text


def test_a_screen_can_have_the_models_without_waking_the_node():
    code = "import sys, node.api; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"trio", "starlette", "h11", "prometheus_client", "cryptography", "nacl"}
