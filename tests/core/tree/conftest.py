import pytest

from tests.support import privileges
from tests.support.trees import Reports


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def unprivileged(tmp_path):
    with privileges.unprivileged(tmp_path) as folder:
        yield folder
