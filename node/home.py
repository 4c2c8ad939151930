"""Where this user's Portal keeps its own files; the only reader of PORTAL_HOME."""

import os
from pathlib import Path


def portal_home() -> Path:
    """PORTAL_HOME, else the place the system's habits give it."""
    chosen = os.environ.get("PORTAL_HOME")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "portal"
