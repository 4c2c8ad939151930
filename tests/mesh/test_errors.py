import pytest

from mesh.errors import LinkClosed, LinkError, NotTrusted, Unreachable


@pytest.mark.parametrize(
    ("kind", "again"),
    [(LinkError, True), (Unreachable, True), (LinkClosed, True), (NotTrusted, False)],
)
def test_what_is_not_trusted_is_not_tried_again(kind, again):
    error = kind(where="there")
    assert isinstance(error, LinkError)
    assert error.retryable is again
    assert str(error).startswith("there: ")
