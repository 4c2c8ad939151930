"""Running restores and collecting everything they say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from core.tree.entry import Skipped
from portal.browse import EVERYTHING, Selection
from portal.head import Snapshot
from portal.restore import Options, Restore
from portal.standing import Deed
from portal.vault import Vault
from portal.writing import Progress
from tests.support.trees import Reports


@dataclass
class Ran:
    """What one restore came to."""

    reports: Reports = field(default_factory=Reports)
    said: list[tuple[str, bytes]] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)

    def say(self, deed: Deed, path: bytes) -> None:
        """Remember it."""
        self.said.append((deed.value, path))

    @property
    def lines(self) -> list[str]:
        """What was reported."""
        return self.reports.lines

    def deeds(self) -> dict[bytes, str]:
        """What was done about each name."""
        return {path: deed for deed, path in self.said}


def restore(
    vault: Vault,
    snapshot: Snapshot,
    to: Path,
    *,
    under: bytes = b"",
    select: Selection = EVERYTHING,
    **options: Any,
) -> Ran:
    """Restore, and hear what happens."""
    ran = Ran()
    with vault.reader() as reader:
        run = Restore(reader, to, ran.reports, Options(say=ran.say, **options))
        trio.run(run.run, snapshot, under, select)
    ran.progress = run.progress
    faults = [error for _, error in ran.reports.all if not isinstance(error, Skipped)]
    assert ran.progress.errors == len(faults)
    return ran
