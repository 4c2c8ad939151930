"""What a power failure would leave of a vault, at any moment of its history.

A `RecordingDisk` writes down every step. `Replay` plays the steps again in memory and knows what is
durable: of a file what was there at its last sync, of a directory the names that were there at its
last sync. Everything since may be there or not: a name alone without its content, a content torn,
half of a move between two directories. `lose_power` writes one such state into a fresh directory.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, unique
from pathlib import Path
from random import Random
from typing import NamedTuple

from core.crypto import Buffer
from tests.support.faults import StepDisk
from tests.support.mortal import Killed, MortalDisk


class Step(NamedTuple):
    """One thing that was done; for `said`, what somebody was told then."""

    name: str
    path: str = ""
    fd: int = -1
    data: bytes = b""
    new: str = ""
    what: object = None


@unique
class Loss(Enum):
    """What becomes of what was not durable."""

    ALL = "all of it is lost"
    NOTHING = "nothing is lost"
    CONTENT = "names are kept, their contents lost"
    ZEROS = "names are kept, their contents zeros"
    CHANCE = "as chance has it, torn too"


class RecordingDisk(StepDisk):
    """Does everything, and writes it down when it was done."""

    def __init__(self, base: Path, log: list[Step]) -> None:
        super().__init__()
        self.log = log
        self._base = base

    def say(self, what: object) -> None:
        """Write down what somebody was told at this moment."""
        self.log.append(Step("said", what=what))

    def make(self, path: Path) -> int:
        fd = super().make(path)
        self.log.append(Step("make", self._name(path), fd))
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        view = memoryview(data)
        self.log.append(Step("write", fd=fd, data=bytes(view[: len(view) // 2])))
        self.log.append(Step("write", fd=fd, data=bytes(view[len(view) // 2 :])))
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.log.append(Step("sync", fd=fd))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.log.append(Step("rename", self._name(old), new=self._name(new)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(Step("remove", self._name(path)))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.log.append(Step("make_directory", self._name(path)))

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self.log.append(Step("remove_directory", self._name(path)))

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.log.append(Step("sync_directory", self._name(path)))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()


@dataclass(eq=False, slots=True)
class _File:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(eq=False, slots=True)
class _Directory:
    now: "dict[str, _File | _Directory]" = field(default_factory=dict)
    durable: "dict[str, _File | _Directory]" = field(default_factory=dict)
    waiting: "list[dict[str, _File | _Directory | None]]" = field(default_factory=list)

    def change(self, names: "dict[str, _File | _Directory | None]") -> None:
        """Names that appear or, for None, vanish; at once, and some time later on the disk."""
        self.waiting.append(names)
        _apply(self.now, names)


class Replay:
    """The disk after some of the steps."""

    def __init__(self, log: list[Step]) -> None:
        self.said: list[object] = []
        self.done = 0
        self._log = log
        self._top = _Directory()
        self._open: dict[int, _File] = {}
        self._acts: dict[str, Callable[[Step], None]] = {
            "said": lambda step: self.said.append(step.what),
            "make": self._make,
            "write": lambda step: self._open[step.fd].data.extend(step.data),
            "sync": self._sync,
            "rename": self._rename,
            "remove": self._remove,
            "make_directory": self._make_directory,
            "remove_directory": self._remove,
            "sync_directory": self._sync_directory,
        }

    def forward(self) -> bool:
        """One more step; False at the end."""
        if self.done == len(self._log):
            return False
        step = self._log[self.done]
        self._acts[step.name](step)
        self.done += 1
        return True

    def lose_power(self, into: Path, loss: Loss, random: Random) -> None:
        """What is found when the power is back."""
        self._restore(self._top, into, loss, random)

    # --- steps ----------------------------------------------------------------------------------

    def _make(self, step: Step) -> None:
        holder, name = self._at(step.path)
        self._open[step.fd] = file = _File()
        holder.change({name: file})

    def _sync(self, step: Step) -> None:
        file = self._open[step.fd]
        file.durable = bytes(file.data)

    def _rename(self, step: Step) -> None:
        (source, old), (target, new) = self._at(step.path), self._at(step.new)
        what = source.now[old]
        if source is target:
            source.change({old: None, new: what})
        else:
            source.change({old: None})
            target.change({new: what})

    def _remove(self, step: Step) -> None:
        holder, name = self._at(step.path)
        holder.change({name: None})

    def _make_directory(self, step: Step) -> None:
        holder, name = self._at(step.path)
        if name not in holder.now:
            holder.change({name: _Directory()})

    def _sync_directory(self, step: Step) -> None:
        directory = self._directory(step.path)
        directory.durable = copy.copy(directory.now)
        directory.waiting.clear()

    def _at(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        return self._directory(above), name

    def _directory(self, path: str) -> _Directory:
        found = self._top
        for name in path.split("/") if path not in {"", "."} else ():
            below = found.now[name]
            assert isinstance(below, _Directory)
            found = below
        return found

    # --- afterwards -----------------------------------------------------------------------------

    def _restore(self, directory: _Directory, into: Path, loss: Loss, random: Random) -> None:
        names = copy.copy(directory.durable)
        for change in directory.waiting:
            kept = random.random() < 0.5 if loss is Loss.CHANCE else loss is not Loss.ALL
            if kept:
                _apply(names, change)
        for name, what in names.items():
            if isinstance(what, _Directory):
                (into / name).mkdir()
                self._restore(what, into / name, loss, random)
            else:
                (into / name).write_bytes(_content(what, loss, random))


def _apply(
    names: dict[str, _File | _Directory], change: dict[str, _File | _Directory | None]
) -> None:
    for name, what in change.items():
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what


def _content(file: _File, loss: Loss, random: Random) -> bytes:
    data = bytes(file.data)
    if data == file.durable or loss is Loss.NOTHING:
        return data
    torn = data[: random.randrange(len(data))]
    zeros = bytes(len(data))
    match loss:
        case Loss.ZEROS:
            return zeros
        case Loss.CHANCE:
            return random.choice([file.durable, torn, zeros, torn + zeros[len(torn) :], data])
        case _:
            return file.durable


class MortalRecordingDisk(MortalDisk, RecordingDisk):
    """The process dies ahead of one step; what it did before is written down."""

    def __init__(self, base: Path, log: list[Step], dies_at: int) -> None:
        RecordingDisk.__init__(self, base, log)
        self.is_dead = False
        self._left = dies_at

    def _step(self) -> bool:
        if self.is_dead:
            return False
        if not self._left:
            self.is_dead = True
            raise Killed
        self._left -= 1
        return True
