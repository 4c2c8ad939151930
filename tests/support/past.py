"""A vault with a history, and what its snapshots hold."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from core import limits
from portal.disk import Disk
from tests.support.readback import Contents, assert_clean, assert_reads, on_disk
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed, opened

SECOND_NS = 10**9
PACK_BYTES = limits.PACK_SIZES_BYTES[0]  # of the smallest
EAGER = {"DELTAS_MAX": 1, "HEADS_KEPT": 2}  # then what happens rarely happens in every run


@dataclass
class Past:
    """A vault in `place`; `made` says what its snapshots hold, by their times."""

    place: Path
    made: dict[int, Contents] = field(default_factory=dict)
    ids: list[bytes] = field(default_factory=list)

    @property
    def docs(self) -> Path:
        """What is backed up."""
        return self.place / "docs"

    def edit(self, number: int) -> int:
        """Change it; gives the time of the snapshot that is to hold this."""
        self.docs.mkdir(exist_ok=True)
        if number == 1:
            (self.docs / "long").write_bytes(fixed("long", 600_000))
            (self.docs / "old").write_bytes(fixed("old", 300_000))
        else:
            (self.docs / "old").unlink(missing_ok=True)
        (self.docs / f"file {number}").write_bytes(fixed(f"file {number}", 40_000 * number))
        (self.docs / "other").write_bytes(fixed(f"other {number}", 60_000))
        return self.now_ns(number)

    def now_ns(self, number: int) -> int:
        """The time of a snapshot that is to hold what is there now."""
        now_ns = NOW_NS + number * SECOND_NS
        self.made[now_ns] = on_disk(self.docs)
        return now_ns

    def back_up(self, number: int, disk: Disk | None = None) -> None:
        """One more snapshot, of something new."""
        now_ns = self.edit(number)
        self.ids.append(back_up(opened(self.place, disk=disk), self.docs, now_ns=now_ns).id)

    def copy(self, place: Path) -> Path:
        """The same vault elsewhere; what is backed up stays where it is."""
        place.mkdir()
        for name in ("vault", "cache"):
            if (self.place / name).exists():
                shutil.copytree(self.place / name, place / name)
        return place

    def live(self, place: Path) -> set[int]:
        """The times of the snapshots of a vault, after a look at everything they hold."""
        vault = opened(place)
        live = assert_reads(vault, self.made)
        assert_clean(vault)
        return {snapshot.record.time_ns for snapshot in live}


def a_past(place: Path, snapshots: int = 2) -> Past:
    """So many snapshots."""
    place.mkdir()
    past = Past(place)
    a_vault(place)
    for number in range(1, snapshots + 1):
        past.back_up(number)
    return past


def pack_bytes(place: Path) -> int:
    """What the packs of a vault take, but for its trash."""
    return sum(path.stat().st_size for path in (place / "vault" / "packs").iterdir())


def half_written(place: Path) -> list[Path]:
    """What dead processes left in a vault: files whose names begin with a dot, and sessions."""
    vault = place / "vault"
    dots = [path for path in vault.rglob(".*") if path.is_file()]
    return [*dots, *(vault / "sessions").iterdir()]
