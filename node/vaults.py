"""Which vaults this machine has used, and where they lie: PORTAL_HOME/vaults/<id>, a path in each.

Only a list for people, and the memory that a place once held a vault: where it is missing now (a
disk that is not plugged in), no new one is made by accident.
"""

import os
from pathlib import Path

from core import limits
from core.errors import FormatError
from core.files import read_bounded, write_private
from core.ids import VaultId

_FOLDER = "vaults"


def remember(home: Path, vault: VaultId, path: Path) -> None:
    """A vault was made, found or moved here."""
    file = home / _FOLDER / vault.hex()
    data = os.fsencode(path.absolute())
    if file.exists() and read_bounded(file, limits.PATH_BYTES_MAX) == data:
        return
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(file, data)


def remembered(home: Path) -> dict[VaultId, Path]:
    """All of them."""
    found = {}
    folder = home / _FOLDER
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            vault = VaultId.read_untrusted(bytes.fromhex(file.name))
            found[vault] = Path(os.fsdecode(read_bounded(file, limits.PATH_BYTES_MAX)))
        except (ValueError, FormatError, OSError):
            continue  # something else that lies there
    return found
