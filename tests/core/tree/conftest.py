import pytest

from core.native import open_kernel
from core.tree import listing
from tests.support import privileges
from tests.support.trees import Reports


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def unprivileged(tmp_path):
    with privileges.unprivileged(tmp_path) as folder:
        yield folder


@pytest.fixture
def python_kernel(monkeypatch):
    """The file system calls are those of `os`, so that a test may stand in for one of them."""
    monkeypatch.setattr(listing, "kernel", lambda: open_kernel("python"))
