"""What every test may lean on: reproducible examples, and the official vectors."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "portal",
    deadline=None,  # no test asserts a time
    derandomize=True,  # a red run is red again
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("portal")

# A shell that runs us in the background has us, and all we start, ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def official() -> Callable[[str], Any]:
    """Read an official vector file from the folder named by PORTAL_VECTORS."""

    def read(name: str) -> Any:
        folder = os.environ.get("PORTAL_VECTORS")
        if not folder:
            pytest.skip("PORTAL_VECTORS is not set: the official vectors are not at hand")
        # Set but unreadable is an error, not a skip: a typing mistake must not hide the vectors.
        return json.loads(Path(folder, name).read_text(encoding="utf-8"))

    return read


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Read one of our own frozen vector files."""

    def read(name: str) -> Any:
        return json.loads((VECTORS / name).read_text(encoding="utf-8"))

    return read
